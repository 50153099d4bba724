//! `ductile plugin run`: one job through the running executor, over `executor-admin.sock`.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use shared::exit;
use shared::id::{CommandName, PluginName};
use shared::time::Millis;
use shared::wire::gateway::{Job, JobStatus, Reply, Request};

use crate::cli::args::Args;
use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{executor, payload};

pub(super) const USAGE: &str = "<name> [--command C] [--payload JSON | --payload-file FILE] [--wait DURATION] [--json]";

/// As `POST /plugin/{plugin}/{command}` answers.
#[derive(Serialize)]
struct Queued<'a> {
    job_id: &'a str,
    status: &'a str,
    plugin: &'a str,
    command: &'a str,
}

/// As `GET /job/{id}` answers.
#[derive(Serialize)]
struct Finished<'a> {
    job_id: &'a str,
    status: &'a str,
    plugin: &'a str,
    command: &'a str,
    attempt: u32,
    result: Option<&'a RawValue>,
    last_error: Option<&'a str>,
    started_at: Option<&'a str>,
    completed_at: Option<&'a str>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let positionals = args.positionals()?;
    let [name] = positionals[..] else { return Err(Failure::new(format!("Usage: ductile plugin run {USAGE}"))) };
    let payload = payload::given(args)?;
    let wait = match args.text("wait")? {
        Some(text) => {
            duration(text).ok_or_else(|| Failure::new(format!("Error: invalid --wait {text:?}: expected 30s or 5m")))?
        }
        None => Duration::ZERO,
    };
    let command = args.text("command")?.unwrap_or("poll");
    let request = Request::Trigger {
        plugin: PluginName::parse(name).map_err(|_| Failure::new("Error: plugin not found"))?,
        command: CommandName::parse(command).map_err(|_| Failure::new("Error: command not supported by plugin"))?,
        payload,
        may_write: true,
        wait: Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    };
    match executor::ask(args, request, wait)? {
        Reply::Accepted { job_id } => {
            if args.wants_json() {
                output::json(&Queued { job_id: job_id.as_str(), status: "queued", plugin: name, command });
            } else {
                output::line(&format!("Queued job {job_id} ({name} {command})"));
            }
            if wait.is_zero() {
                return Ok(exit::OK);
            }
            output::notice(&format!("Not finished after {wait:?}; the job goes on."));
            Ok(exit::WARNINGS)
        }
        Reply::Finished(job) => Ok(show(&job, args.wants_json())),
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}

fn show(job: &Job, as_json: bool) -> i32 {
    let is_well = matches!(job.status, JobStatus::Succeeded | JobStatus::Skipped);
    let result = job.result.as_deref();
    if as_json {
        output::json(&Finished {
            job_id: job.job_id.as_str(),
            status: job.status.as_str(),
            plugin: &job.plugin,
            command: &job.command,
            attempt: job.attempt,
            result: result.and_then(|text| serde_json::from_str(text).ok()),
            last_error: job.last_error.as_deref(),
            started_at: job.started_at.as_deref(),
            completed_at: job.completed_at.as_deref(),
        });
    } else {
        let status = job.status.as_str();
        output::line(&format!("Job {} ({} {}): {status}", job.job_id, job.plugin, job.command));
        if let Some(text) = result {
            output::line(text.trim_end());
        }
        if let Some(text) = job.last_error.as_deref().filter(|_| !is_well) {
            output::notice(&format!("Error: {text}"));
        }
    }
    if is_well { exit::OK } else { exit::FAILURE }
}

/// A number of seconds, or one with `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text:?}");
        };
        check("30", Some(30_000));
        check("250ms", Some(250));
        check("5m", Some(300_000));
        check("1h", Some(3_600_000));
        check("", None);
        check("s", None);
        check("-5s", None);
        check("5d", None);
        check("18446744073709551615h", None);
    }
}
