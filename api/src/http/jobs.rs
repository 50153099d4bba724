//! One job: shown, run once more, ended (`spec/api.md` 6.1), and the shape of a job wherever one is
//! answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::Response;
use shared::id::JobId;
use shared::log::push_json_text;
use shared::wire::gateway::{Job, JobStatus, Reply, Request};
use shared::wire::refusal::RefusalKind;

use super::answer::{Failure, json};
use super::{body as http_body, plugins};
use crate::executor::command;
use crate::front::{Context, Front};
use crate::routes;

const NOT_FOUND: Failure = Failure::new(StatusCode::NOT_FOUND, "job not found");
const NOT_FINISHED: Failure = Failure::new(StatusCode::CONFLICT, "job is not finished");
const FINISHED: Failure = Failure::new(StatusCode::CONFLICT, "job is already finished");
const FAILED: &str = "failed to retrieve job";
const NOT_CANCELLED: &str = "failed to cancel job";

type JobPath = Result<Path<String>, PathRejection>;

/// One job; its result only for those who may see results.
pub(crate) async fn show(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    path: JobPath,
) -> Result<Response, Failure> {
    let (_, scopes) = context.allow(routes::JOB)?;
    let job = get(&front, id(path)?).await?;
    Ok(json(StatusCode::OK, body(&job, scopes.allow(routes::JOB_RESULT))))
}

/// A finished job once more, as a new one: answered like a trigger.
pub(crate) async fn retry(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    path: JobPath,
    request: HttpRequest,
) -> Result<Response, Failure> {
    let (config, scopes) = context.allow(routes::JOB_CHANGE)?;
    let job_id = id(path)?;
    // The new job is of the old one's plugin and command, which the answer names.
    let old = get(&front, job_id.clone()).await?;
    // As of a trigger: the scope before the body. The executor decides; its catalogue may be newer.
    let may_write = scopes.allow(routes::INVOKE_WRITE);
    let may_read = scopes.allow(routes::INVOKE);
    let command = config.usable(&old.plugin).and_then(|plugin| command(plugin, &old.command));
    if !may_read || command.is_some_and(|command| command.writes && !may_write) {
        return Err(Failure::SCOPE);
    }
    let bytes = http_body::read(request.into_body(), config.max_body, context.body_deadline).await?;
    let retry =
        Request::RetryJob { job_id, payload: http_body::payload(&bytes)?.map(str::to_owned), may_write, may_read };
    match front.ask(&retry, Duration::ZERO).await? {
        Reply::Accepted { job_id } => {
            Ok(json(StatusCode::ACCEPTED, plugins::accepted(&job_id, &old.plugin, &old.command)))
        }
        Reply::Refused(refusal) => match refusal.kind {
            RefusalKind::JobUnknown => Err(NOT_FOUND),
            RefusalKind::JobNotFinished => Err(NOT_FINISHED),
            RefusalKind::Duplicate => Ok(duplicate(&refusal.message)),
            _ => Err(plugins::refused(&front, &refusal)),
        },
        _ => Err(front.distrust()),
    }
}

/// The end of a queued or running job. The answer is that of the ledger; the kill follows.
pub(crate) async fn cancel(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    path: JobPath,
) -> Result<Response, Failure> {
    context.allow(routes::JOB_CHANGE)?;
    match front.ask(&Request::CancelJob { job_id: id(path)? }, Duration::ZERO).await? {
        Reply::Cancelled { job_id } => {
            // An id holds nothing that JSON would escape.
            let body = format!("{{\"job_id\":\"{job_id}\",\"status\":\"{}\"}}", JobStatus::Dead.as_str());
            Ok(json(StatusCode::OK, body))
        }
        Reply::Refused(refusal) => Err(match refusal.kind {
            RefusalKind::JobUnknown => NOT_FOUND,
            RefusalKind::JobFinished => FINISHED,
            _ => front.refused(NOT_CANCELLED, &refusal),
        }),
        _ => Err(front.distrust()),
    }
}

/// A text that is no id is the id of no job.
fn id(path: JobPath) -> Result<JobId, Failure> {
    path.ok().and_then(|Path(text)| JobId::parse(&text).ok()).ok_or(NOT_FOUND)
}

async fn get(front: &Front, job_id: JobId) -> Result<Job, Failure> {
    match front.ask(&Request::GetJob { job_id }, Duration::ZERO).await? {
        Reply::Job(job) => Ok(job),
        Reply::Refused(refusal) if refusal.kind == RefusalKind::JobUnknown => Err(NOT_FOUND),
        Reply::Refused(refusal) => Err(front.refused(FAILED, &refusal)),
        _ => Err(front.distrust()),
    }
}

/// 409 with the executor's own text, which names the key and the job that stands for it.
fn duplicate(text: &str) -> Response {
    let mut out = String::from("{\"error\":");
    push_json_text(&mut out, text);
    out.push('}');
    json(StatusCode::CONFLICT, out)
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
