//! `ductile system breaker` (`spec/cli.md` 4.5): the state of a circuit breaker and how it came to
//! it.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use shared::exit;
use shared::id::{CommandName, PluginName};
use shared::wire::gateway::{Breaker, BreakerTransition, Reply, Request};
use shared::wire::refusal::RefusalKind;

use crate::cli::args::Args;
use crate::cli::executor;
use crate::cli::output::{self, Failure, Outcome};

pub(super) const USAGE: &str = "<plugin> [--command COMMAND] [--limit N] [--json]";

const LIMIT: u32 = 20;

/// Which breaker is meant.
pub(super) struct Named {
    pub(super) plugin: PluginName,
    pub(super) command: CommandName,
}

/// # Errors
/// The usage without exactly one plugin; a text that is no name is the name of no plugin.
pub(super) fn named(args: &Args, action: &str, usage: &str) -> Result<Named, Failure> {
    let positionals = args.positionals()?;
    let [plugin] = positionals[..] else { return Err(Failure::new(format!("Usage: ductile system {action} {usage}"))) };
    let command = args.text("command")?.unwrap_or("poll");
    Ok(Named {
        plugin: PluginName::parse(plugin).map_err(|_| unknown(plugin))?,
        command: CommandName::parse(command).map_err(|_| Failure::new(format!("Unknown command: {command}")))?,
    })
}

pub(super) fn unknown(plugin: &str) -> Failure {
    Failure::new(format!("Unknown plugin: {plugin}"))
}

pub(super) fn run(args: &Args) -> Outcome {
    let Named { plugin, command } = named(args, "breaker", USAGE)?;
    let limit = args.count("limit")?.unwrap_or(LIMIT);
    match executor::ask(args, Request::Breaker { plugin: plugin.clone(), command, limit }, Duration::ZERO)? {
        Reply::Breaker(breaker) => {
            if args.wants_json() {
                output::json(&Shown::from(&breaker));
            } else {
                output::result(&text(&breaker));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) if refusal.kind == RefusalKind::PluginUnknown => Err(unknown(plugin.as_str())),
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}

fn text(breaker: &Breaker) -> String {
    let mut out = format!("Circuit breaker for {} ({})\n", breaker.plugin, breaker.command);
    match &breaker.state {
        Some(state) => {
            let _ = writeln!(out, "State: {state} (failure_count={})", breaker.failure_count);
        }
        None => out.push_str("State: no current row\n"),
    }
    for (name, value) in [
        ("Opened at", &breaker.opened_at),
        ("Last failure", &breaker.last_failure_at),
        ("Last job", &breaker.last_job_id),
    ] {
        if let Some(value) = value {
            let _ = writeln!(out, "{name}: {value}");
        }
    }
    out.push_str("Transitions:\n");
    for BreakerTransition { from_state, to_state, failure_count, reason, job_id, created_at, .. } in
        &breaker.transitions
    {
        let from = from_state.as_deref().unwrap_or("<none>");
        let _ = write!(out, "- {created_at} {from} -> {to_state} reason={reason} failure_count={failure_count}");
        if let Some(job_id) = job_id {
            let _ = write!(out, " job={job_id}");
        }
        out.push('\n');
    }
    if breaker.transitions.is_empty() {
        out.push_str("- none\n");
    }
    out
}

#[derive(Serialize)]
struct Shown<'a> {
    plugin: &'a str,
    command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    failure_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_job_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<&'a str>,
    transitions: Vec<ShownTransition<'a>>,
}

#[derive(Serialize)]
struct ShownTransition<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_state: Option<&'a str>,
    to_state: &'a str,
    failure_count: u32,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<&'a str>,
    created_at: &'a str,
}

impl<'a> From<&'a Breaker> for Shown<'a> {
    fn from(breaker: &'a Breaker) -> Self {
        Self {
            plugin: &breaker.plugin,
            command: &breaker.command,
            state: breaker.state.as_deref(),
            failure_count: breaker.failure_count,
            opened_at: breaker.opened_at.as_deref(),
            last_failure_at: breaker.last_failure_at.as_deref(),
            last_job_id: breaker.last_job_id.as_deref(),
            updated_at: breaker.updated_at.as_deref(),
            transitions: breaker.transitions.iter().map(ShownTransition::from).collect(),
        }
    }
}

impl<'a> From<&'a BreakerTransition> for ShownTransition<'a> {
    fn from(transition: &'a BreakerTransition) -> Self {
        Self {
            id: &transition.id,
            from_state: transition.from_state.as_deref(),
            to_state: &transition.to_state,
            failure_count: transition.failure_count,
            reason: &transition.reason,
            job_id: transition.job_id.as_deref(),
            created_at: &transition.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker {
            plugin: "echo".to_owned(),
            command: "poll".to_owned(),
            state: Some("open".to_owned()),
            failure_count: 3,
            opened_at: Some("t3".to_owned()),
            last_failure_at: Some("t3".to_owned()),
            last_job_id: Some("j3".to_owned()),
            updated_at: Some("t4".to_owned()),
            transitions: vec![
                BreakerTransition {
                    id: "2".to_owned(),
                    from_state: Some("closed".to_owned()),
                    to_state: "open".to_owned(),
                    failure_count: 3,
                    reason: "failure_threshold".to_owned(),
                    job_id: Some("j3".to_owned()),
                    created_at: "t3".to_owned(),
                },
                BreakerTransition {
                    id: "1".to_owned(),
                    from_state: None,
                    to_state: "closed".to_owned(),
                    failure_count: 0,
                    reason: "manual_reset".to_owned(),
                    job_id: None,
                    created_at: "t1".to_owned(),
                },
            ],
        }
    }

    fn none() -> Breaker {
        let nothing = Breaker { state: None, failure_count: 0, opened_at: None, ..breaker() };
        Breaker { last_failure_at: None, last_job_id: None, updated_at: None, transitions: Vec::new(), ..nothing }
    }

    #[test]
    fn the_text_is_that_of_the_chapter() {
        assert_eq!(
            text(&breaker()),
            "Circuit breaker for echo (poll)\nState: open (failure_count=3)\nOpened at: t3\nLast failure: t3\n\
             Last job: j3\nTransitions:\n- t3 closed -> open reason=failure_threshold failure_count=3 job=j3\n\
             - t1 <none> -> closed reason=manual_reset failure_count=0\n"
        );
        assert_eq!(text(&none()), "Circuit breaker for echo (poll)\nState: no current row\nTransitions:\n- none\n");
    }

    #[test]
    fn the_json_leaves_out_what_is_not_there() {
        let json = |breaker: &Breaker| serde_json::to_string(&Shown::from(breaker)).expect("no odd keys");
        assert_eq!(json(&none()), "{\"plugin\":\"echo\",\"command\":\"poll\",\"failure_count\":0,\"transitions\":[]}");
        assert_eq!(
            json(&breaker()),
            "{\"plugin\":\"echo\",\"command\":\"poll\",\"state\":\"open\",\"failure_count\":3,\"opened_at\":\"t3\",\
             \"last_failure_at\":\"t3\",\"last_job_id\":\"j3\",\"updated_at\":\"t4\",\"transitions\":[\
             {\"id\":\"2\",\"from_state\":\"closed\",\"to_state\":\"open\",\"failure_count\":3,\
             \"reason\":\"failure_threshold\",\"job_id\":\"j3\",\"created_at\":\"t3\"},\
             {\"id\":\"1\",\"to_state\":\"closed\",\"failure_count\":0,\"reason\":\"manual_reset\",\"created_at\":\"t1\"}]}"
        );
    }
}
