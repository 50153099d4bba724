//! `ductile system scheduler` (`spec/cli.md` 4.7, 14): what the scheduler has under way, what it
//! will start, and an entry made active again.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use shared::exit;
use shared::id::PluginName;
use shared::wire::gateway::{ActivePoll, ActivePolls, Reply, Request};
use shared::wire::refusal::RefusalKind;

use super::preview;
use crate::cli::args::Args;
use crate::cli::executor;
use crate::cli::output::{self, Failure, Outcome};

pub(super) const USAGE: &str = "[--json] [--next N [--tz ZONE] | --rearm PLUGIN:ID]";

pub(super) fn run(args: &Args) -> Outcome {
    match (args.count("next")?, args.text("tz")?, args.text("rearm")?) {
        (None, None, None) => active(args),
        (Some(count), zone, None) => preview::run(args, count, zone),
        (None, None, Some(entry)) => rearm(args, entry),
        (Some(_), _, Some(_)) => Err(Failure::new("Error: use only one of --next or --rearm")),
        (None, Some(_), _) => Err(Failure::new("Error: --tz is for --next")),
    }
}

fn active(args: &Args) -> Outcome {
    match executor::ask(args, Request::ActivePolls, Duration::ZERO)? {
        Reply::ActivePolls(polls) => {
            if args.wants_json() {
                output::json(&Shown::from(&polls));
            } else {
                output::result(&text(&polls));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}

fn text(polls: &ActivePolls) -> String {
    let mut out = format!("Scheduler: {}\nActive polls: {}\n", polls.service_name, polls.polls.len());
    if polls.polls.is_empty() {
        out.push_str("(none)\n");
    }
    for ActivePoll { job_id, plugin, dedupe_key, status, attempt, created_at, started_at } in &polls.polls {
        let (status, started) = (status.as_str(), started_at.as_deref().unwrap_or("-"));
        let dedupe = dedupe_key.as_deref().unwrap_or("-");
        let _ = writeln!(
            out,
            "- plugin={plugin} status={status} attempt={attempt} created={created_at} started={started} job={job_id} \
             dedupe={dedupe}"
        );
    }
    out
}

/// `PLUGIN:ID`; an id may hold a colon, a plugin's name can not.
fn rearm(args: &Args, entry: &str) -> Outcome {
    let unknown = || Failure::new(format!("Unknown schedule entry: {entry}"));
    let (plugin, id) = entry.split_once(':').ok_or_else(|| Failure::new("Error: --rearm takes PLUGIN:ID"))?;
    let plugin = PluginName::parse(plugin).map_err(|_| unknown())?;
    match executor::ask(args, Request::Rearm { plugin, schedule_id: id.to_owned() }, Duration::ZERO)? {
        Reply::Done => {
            if args.wants_json() {
                let (plugin, schedule_id) = entry.split_once(':').unwrap_or_default();
                output::json(&Rearmed { plugin, schedule_id, status: "active" });
            } else {
                output::line(&format!("Re-armed {entry}."));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) if refusal.kind == RefusalKind::ScheduleUnknown => Err(unknown()),
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}

#[derive(Serialize)]
struct Rearmed<'a> {
    plugin: &'a str,
    schedule_id: &'a str,
    status: &'a str,
}

#[derive(Serialize)]
struct Shown<'a> {
    service_name: &'a str,
    count: usize,
    active_polls: Vec<ShownPoll<'a>>,
}

#[derive(Serialize)]
struct ShownPoll<'a> {
    job_id: &'a str,
    plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedupe_key: Option<&'a str>,
    status: &'a str,
    attempt: u32,
    created_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<&'a str>,
}

impl<'a> From<&'a ActivePolls> for Shown<'a> {
    fn from(polls: &'a ActivePolls) -> Self {
        Self {
            service_name: &polls.service_name,
            count: polls.polls.len(),
            active_polls: polls.polls.iter().map(ShownPoll::from).collect(),
        }
    }
}

impl<'a> From<&'a ActivePoll> for ShownPoll<'a> {
    fn from(poll: &'a ActivePoll) -> Self {
        Self {
            job_id: poll.job_id.as_str(),
            plugin: &poll.plugin,
            dedupe_key: poll.dedupe_key.as_deref(),
            status: poll.status.as_str(),
            attempt: poll.attempt,
            created_at: &poll.created_at,
            started_at: poll.started_at.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::id::JobId;
    use shared::wire::gateway::JobStatus;

    use super::*;

    #[test]
    fn polls_are_shown_as_the_chapter_has_it() {
        let poll = |id: &str, status: JobStatus, key: Option<&str>, started: Option<&str>| ActivePoll {
            job_id: JobId::parse(id).expect("an id"),
            plugin: "echo".to_owned(),
            dedupe_key: key.map(str::to_owned),
            status,
            attempt: 1,
            created_at: "c".to_owned(),
            started_at: started.map(str::to_owned),
        };
        let none = ActivePolls { service_name: "ductile".to_owned(), polls: Vec::new() };
        assert_eq!(text(&none), "Scheduler: ductile\nActive polls: 0\n(none)\n");
        let two = ActivePolls {
            polls: vec![
                poll("a", JobStatus::Running, Some("echo:poll:default"), Some("s")),
                poll("b", JobStatus::Queued, None, None),
            ],
            ..none
        };
        assert_eq!(
            text(&two),
            "Scheduler: ductile\nActive polls: 2\n\
             - plugin=echo status=running attempt=1 created=c started=s job=a dedupe=echo:poll:default\n\
             - plugin=echo status=queued attempt=1 created=c started=- job=b dedupe=-\n"
        );
        assert_eq!(
            serde_json::to_string(&Shown::from(&two)).expect("no odd keys"),
            "{\"service_name\":\"ductile\",\"count\":2,\"active_polls\":[{\"job_id\":\"a\",\"plugin\":\"echo\",\
             \"dedupe_key\":\"echo:poll:default\",\"status\":\"running\",\"attempt\":1,\"created_at\":\"c\",\
             \"started_at\":\"s\"},{\"job_id\":\"b\",\"plugin\":\"echo\",\"status\":\"queued\",\"attempt\":1,\
             \"created_at\":\"c\"}]}"
        );
    }
}
