//! `GET /scheduler/jobs` (`spec/api.md` 6.5): the schedule entries, each with its next start as
//! projected by time, window and days.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use shared::log::push_json_text;
use shared::wire::gateway::{Reply, Request, Schedule};

use super::answer::{Failure, json};
use crate::front::{Context, Front};
use crate::routes;

const FAILED: &str = "failed to retrieve schedules";

pub(crate) async fn list(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
) -> Result<Response, Failure> {
    context.allow(routes::SCHEDULES)?;
    match front.ask(&Request::Schedules { count: 1 }, Duration::ZERO).await? {
        Reply::Schedules(schedules) => Ok(json(StatusCode::OK, body(&schedules))),
        Reply::Refused(refusal) => Err(front.refused(FAILED, &refusal)),
        _ => Err(front.distrust()),
    }
}

fn body(schedules: &[Schedule]) -> String {
    let mut out = String::from("{\"jobs\":[");
    for (at, schedule) in schedules.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_schedule(&mut out, schedule);
    }
    out.push_str("]}");
    out
}

fn push_schedule(out: &mut String, schedule: &Schedule) {
    let status = shown_status(&schedule.status);
    let mut push = |name: &str, text: &str| {
        out.push_str(name);
        push_json_text(out, text);
    };
    push("{\"plugin\":", &schedule.plugin);
    push(",\"schedule_id\":", &schedule.schedule_id);
    push(",\"command\":", &schedule.command);
    push(",\"mode\":", &schedule.mode);
    push(",\"status\":", status);
    if let Some(reason) = &schedule.reason {
        push(",\"reason\":", reason);
    }
    if let Some(timezone) = &schedule.timezone {
        push(",\"timezone\":", timezone);
    }
    // What does not run has no next start, whatever was recorded before.
    if let Some(next) = schedule.next.first().filter(|_| status == SCHEDULED) {
        push(",\"next_run_at\":", &next.to_string());
    }
    out.push('}');
}

const SCHEDULED: &str = "scheduled";

/// The chapter has two words; the other two are ours.
fn shown_status(status: &str) -> &str {
    match status {
        "active" => SCHEDULED,
        "paused_invalid" => "invalid",
        "paused_manual" => "paused",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use shared::time::Timestamp;

    use super::*;

    #[test]
    fn entries_are_shown_with_what_they_have() {
        let schedule = |status: &str, reason: Option<&str>, next: &[i64]| Schedule {
            plugin: "echo".to_owned(),
            schedule_id: "a\"b".to_owned(),
            command: "poll".to_owned(),
            mode: "cron".to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            timezone: reason.map(|_| "Europe/Berlin".to_owned()),
            next: next.iter().map(|&nanos| Timestamp::from_unix_nanos(nanos)).collect(),
        };
        let start =
            "{\"plugin\":\"echo\",\"schedule_id\":\"a\\\"b\",\"command\":\"poll\",\"mode\":\"cron\",\"status\":";
        let check = |schedule: Schedule, end: &str| {
            assert_eq!(body(&[schedule]), format!("{{\"jobs\":[{start}{end}}}]}}"));
        };
        assert_eq!(body(&[]), "{\"jobs\":[]}");
        check(schedule("active", None, &[1, 2]), "\"scheduled\",\"next_run_at\":\"1970-01-01T00:00:00.000000001Z\"");
        check(schedule("active", None, &[]), "\"scheduled\"");
        check(
            schedule("paused_invalid", Some("bad"), &[1]),
            "\"invalid\",\"reason\":\"bad\",\"timezone\":\"Europe/Berlin\"",
        );
        check(schedule("paused_manual", None, &[1]), "\"paused\"");
        check(schedule("exhausted", None, &[]), "\"exhausted\"");
        let two = body(&[schedule("exhausted", None, &[]), schedule("exhausted", None, &[])]);
        assert_eq!(two.matches("},{").count(), 1);
    }
}
