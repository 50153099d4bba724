//! `GET /plugins` and `POST /plugin/{plugin}/{command}` (`spec/api.md` 4.3, 5.1).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use shared::id::JobId;
use shared::log::push_json_text;
use shared::time::Millis;
use shared::wire::gateway;
use shared::wire::gateway::Reply;
use shared::wire::refusal::{Refusal, RefusalKind};

use super::answer::{Failure, json};
use super::{body, jobs, prefer};
use crate::executor::command;
use crate::front::{Context, Front};
use crate::routes;

const PLUGIN: Failure = Failure::new(StatusCode::BAD_REQUEST, "plugin not found");
const COMMAND: Failure = Failure::new(StatusCode::BAD_REQUEST, "command not supported by plugin");
const TOO_MANY: Failure = Failure::again("too many concurrent synchronous requests");
const FAILED: &str = "failed to enqueue job";

/// Every plugin that was found, for any valid token.
pub(crate) async fn list(Extension(context): Extension<Context>) -> Result<Response, Failure> {
    let (config, _) = context.any()?;
    Ok(json(StatusCode::OK, config.plugins_body.clone()))
}

/// Runs one job. The answer is 202 after the executor's commit; with `Prefer: wait` it is 200 and
/// the finished job, when it finishes in that time.
pub(crate) async fn invoke(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let (config, scopes) = context.allow(routes::INVOKE)?;
    let Ok(Path((plugin, command_name))) = path else { return Err(PLUGIN) };
    let plugin = config.usable(&plugin).ok_or(PLUGIN)?;
    let command = command(plugin, &command_name).ok_or(COMMAND)?;
    let may_write = scopes.allow(routes::INVOKE_WRITE);
    if command.writes && !may_write {
        return Err(Failure::SCOPE);
    }
    let wait = prefer::wait(request.headers()).map_or(Duration::ZERO, Duration::from_secs).min(config.max_wait);
    let bytes = body::read(request.into_body(), config.max_body, context.body_deadline).await?;
    let trigger = gateway::Request::Trigger {
        plugin: plugin.name.clone(),
        command: command.name.clone(),
        payload: body::payload(&bytes)?.map(str::to_owned),
        may_write,
        wait: Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    };
    drop(bytes);
    match front.ask(&trigger, wait).await? {
        Reply::Accepted { job_id } => {
            Ok(json(StatusCode::ACCEPTED, accepted(&job_id, plugin.name.as_str(), command.name.as_str())))
        }
        Reply::Finished(job) if !wait.is_zero() => {
            let mut response = json(StatusCode::OK, jobs::body(&job, scopes.allow(routes::JOB_RESULT)));
            let applied =
                HeaderValue::from_str(&format!("wait={}", wait.as_secs())).expect("digits are a header value");
            response.headers_mut().insert(prefer::APPLIED, applied);
            Ok(response)
        }
        Reply::Refused(refusal) => Err(refused(&front, &refusal)),
        _ => Err(front.distrust()),
    }
}

/// The catalogue of this front may be older than the executor's, so its refusals are the same.
pub(super) fn refused(front: &Front, refusal: &Refusal) -> Failure {
    match refusal.kind {
        RefusalKind::PluginUnknown => PLUGIN,
        RefusalKind::CommandUnknown => COMMAND,
        RefusalKind::WriteScope => Failure::SCOPE,
        RefusalKind::PayloadNotObject => Failure::PAYLOAD,
        RefusalKind::Invalid => Failure::BODY,
        RefusalKind::TooLarge => Failure::TOO_LARGE,
        RefusalKind::TooManyWaiting => TOO_MANY,
        _ => front.refused(FAILED, refusal),
    }
}

/// The answer to what became a job.
pub(super) fn accepted(job_id: &JobId, plugin: &str, command: &str) -> String {
    let mut out = String::with_capacity(128);
    out.push_str("{\"job_id\":");
    push_json_text(&mut out, job_id.as_str());
    out.push_str(",\"status\":\"queued\",\"plugin\":");
    push_json_text(&mut out, plugin);
    out.push_str(",\"command\":");
    push_json_text(&mut out, command);
    out.push('}');
    out
}
