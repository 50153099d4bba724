//! What is said of a run: log lines, and the row of its telemetry.

use shared::log::{self as lines, Level};
use shared::time::Timestamp;
use shared::wire::gateway::JobStatus;
use shared::wire::spawner::Exit;

use super::claim::Run;
use super::finish::Attempt;
use crate::logging::{enabled, log};
use crate::plugin::protocol::Response;
use crate::plugin::supervise::Ended;
use crate::queue::ready::Queued;
use crate::store::write::{SpawnStatus, StopwatchRow};

pub(super) fn stopwatch(entry: &Run, attempt: &Attempt, completed_at: Timestamp) -> StopwatchRow {
    StopwatchRow {
        plugin: entry.job.plugin.to_string(),
        pipeline: entry.context.as_ref().map(|context| context.pipeline.clone()),
        step_id: entry.context.as_ref().map(|context| context.step.clone()),
        pipeline_instance_id: entry.context.as_ref().and_then(|context| context.instance.clone()),
        enter_wall_ns: entry.started_at.unix_nanos(),
        exit_wall_ns: completed_at.unix_nanos(),
        dur_ns: i64::try_from(entry.started.elapsed().as_nanos()).unwrap_or(i64::MAX),
        runtime_pre_ns: 0,
        runtime_post_ns: 0,
        status: match attempt.status {
            JobStatus::Succeeded => SpawnStatus::Ok,
            JobStatus::TimedOut => SpawnStatus::Timeout,
            _ => SpawnStatus::Err,
        },
        subs_json: attempt.subs.clone().unwrap_or_else(|| "[]".to_owned()),
    }
}

/// Keeps the first `max` sub-spans (`spec/plugins.md` 11).
pub(super) fn cap_subs(job: &Queued, subs: &str, max: usize) -> String {
    let list: Vec<&serde_json::value::RawValue> = serde_json::from_str(subs).unwrap_or_default();
    if list.len() <= max {
        return subs.to_owned();
    }
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let fields = [
        ("job_id", job.job_id.as_str().into()),
        ("received", lines::Value::Number(count(list.len()))),
        ("cap", lines::Value::Number(count(max))),
        ("dropped", lines::Value::Number(count(list.len() - max))),
    ];
    log(Level::Warn, "stopwatch sub-spans dropped", &fields);
    serde_json::to_string(&list[..max]).unwrap_or_else(|_| "[]".to_owned())
}

pub(super) fn tell_of_output(job: &Queued, ended: &Ended, response: Option<&Response<'_>>) {
    let ids = [("job_id", job.job_id.as_str().into()), ("plugin", job.plugin.as_str().into())];
    if ended.stderr_cut {
        log(Level::Warn, "plugin stderr truncated", &ids);
    }
    if ended.leftovers > 0 {
        log(
            Level::Warn,
            "plugin left processes behind; they were killed",
            &[ids[0], ids[1], ("count", ended.leftovers.into())],
        );
    }
    match ended.exit {
        Exit::Code(code) if code != 0 => {
            let fields = [ids[0], ids[1], ("exit_code", i64::from(code).into())];
            log(Level::Warn, "plugin exited with non-zero status", &fields);
        }
        Exit::Signal(signal) if !ended.timed_out => {
            let fields = [ids[0], ids[1], ("signal", i64::from(signal).into())];
            log(Level::Warn, "plugin exited with non-zero status", &fields);
        }
        _ => {}
    }
    let Some(response) = response else { return };
    for name in &response.dropped {
        log(
            Level::Warn,
            "wrongly typed member left out of the response",
            &[ids[0], ids[1], ("member", (*name).into())],
        );
    }
    if enabled(Level::Info) {
        for entry in &response.logs {
            let said = [("plugin_level", (&*entry.level).into()), ("message", (&*entry.message).into())];
            log(Level::Info, "plugin log", &[ids[0], ids[1], said[0], said[1]]);
        }
    }
}

pub(super) fn log_end(entry: &Run, status: JobStatus, error: Option<&str>) {
    let duration = i64::try_from(entry.started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let mut fields = vec![
        ("job_id", entry.job.job_id.as_str().into()),
        ("plugin", entry.job.plugin.as_str().into()),
        ("status", status.as_str().into()),
        ("attempt", entry.job.attempt.into()),
        ("duration_ms", duration.into()),
    ];
    fields.extend(error.map(|error| ("error", error.into())));
    log(Level::Info, "job completed", &fields);
}
