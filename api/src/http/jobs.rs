//! `GET /job/{job_id}` (`spec/api.md` 6.1), and the shape of a job wherever one is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use shared::id::JobId;
use shared::log::push_json_text;
use shared::wire::gateway::{Job, Reply, Request};
use shared::wire::refusal::RefusalKind;

use super::answer::{Failure, json};
use crate::front::{Context, Front};
use crate::routes;

const NOT_FOUND: Failure = Failure::new(StatusCode::NOT_FOUND, "job not found");
const FAILED: &str = "failed to retrieve job";

/// One job; its result only for those who may see results.
pub(crate) async fn show(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let (_, scopes) = context.allow(routes::JOB)?;
    let job_id = path.ok().and_then(|Path(text)| JobId::parse(&text).ok()).ok_or(NOT_FOUND)?;
    match front.ask(&Request::GetJob { job_id }, Duration::ZERO).await? {
        Reply::Job(job) => Ok(json(StatusCode::OK, body(&job, scopes.allow(routes::JOB_RESULT)))),
        Reply::Refused(refusal) if refusal.kind == RefusalKind::JobUnknown => Err(NOT_FOUND),
        Reply::Refused(refusal) => Err(front.refused(FAILED, &refusal)),
        _ => Err(front.distrust()),
    }
}

/// A job as it is answered. Its result is valid JSON and goes out as it was stored.
pub(crate) fn body(job: &Job, with_result: bool) -> String {
    let result = job.result.as_deref().filter(|_| with_result);
    let mut out = String::with_capacity(256 + result.map_or(0, str::len));
    let mut push = |name: &str, text: &str| {
        out.push_str(name);
        push_json_text(&mut out, text);
    };
    push("{\"job_id\":", job.job_id.as_str());
    push(",\"status\":", job.status.as_str());
    push(",\"plugin\":", &job.plugin);
    push(",\"command\":", &job.command);
    if let Some(result) = result {
        out.push_str(",\"result\":");
        out.push_str(result);
    }
    for (name, time) in [(",\"started_at\":", &job.started_at), (",\"completed_at\":", &job.completed_at)] {
        if let Some(time) = time {
            out.push_str(name);
            push_json_text(&mut out, time);
        }
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use shared::wire::gateway::JobStatus;

    use super::*;

    #[test]
    fn a_job_shows_its_result_only_when_asked_to() {
        let mut job = Job {
            job_id: JobId::parse("0198-a").expect("an id"),
            status: JobStatus::TimedOut,
            plugin: "two \"words\"".to_owned(),
            command: "poll".to_owned(),
            attempt: 1,
            result: Some("{\"n\":1e400}".to_owned()),
            last_error: Some("never shown here".to_owned()),
            started_at: Some("2026-01-01T00:00:00.000000001Z".to_owned()),
            completed_at: None,
        };
        let start =
            "{\"job_id\":\"0198-a\",\"status\":\"timed_out\",\"plugin\":\"two \\\"words\\\"\",\"command\":\"poll\"";
        let end = ",\"started_at\":\"2026-01-01T00:00:00.000000001Z\"}";
        assert_eq!(body(&job, true), format!("{start},\"result\":{{\"n\":1e400}}{end}"));
        assert_eq!(body(&job, false), format!("{start}{end}"));
        job.started_at = None;
        job.result = None;
        assert_eq!(body(&job, true), format!("{start}}}"));
    }
}
