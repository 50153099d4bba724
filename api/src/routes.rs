//! Every route, its method and the scopes of which a caller needs one (`spec/api.md` 3.3).
//! Whatever is not here is answered 404, or 405 under another method.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::front::Front;
use crate::http::{answer, events, health, jobs, plugins, schedules, vault};

/// `POST /plugin/{plugin}/{command}`; its body, as that of a retry, is bounded by
/// `api.max_body_size`. No other route reads one.
pub(crate) const INVOKE: &[&str] = &["plugin:invoke:ro", "plugin:rw"];
/// The same for a command of type `write`.
pub(crate) const INVOKE_WRITE: &[&str] = &["plugin:rw"];
/// `GET /job/{job_id}`.
pub(crate) const JOB: &[&str] = &["jobs:status:ro", "jobs:rw"];
/// `POST /job/{job_id}/retry`, which besides takes INVOKE or INVOKE_WRITE as the job's command does,
/// and `POST /job/{job_id}/cancel`.
pub(crate) const JOB_CHANGE: &[&str] = &["jobs:rw"];
/// `GET /scheduler/jobs`.
pub(crate) const SCHEDULES: &[&str] = &["jobs:status:ro", "jobs:rw"];
/// `GET /events`; its token may stand in the query.
pub(crate) const EVENTS: &[&str] = &["events:ro", "events:rw"];
/// What lets a job's `result` be seen.
pub(crate) const JOB_RESULT: &[&str] = &["jobs:result:ro", "jobs:rw", "jobs:ro"];

/// The API's routes.
pub(crate) fn api(front: Arc<Front>) -> Router {
    Router::new()
        .route("/healthz", get(health::show)) // no token
        .route("/plugins", get(plugins::list)) // any token
        .route("/plugin/{plugin}/{command}", post(plugins::invoke)) // INVOKE, INVOKE_WRITE
        .route("/job/{job_id}", get(jobs::show)) // JOB
        .route("/job/{job_id}/retry", post(jobs::retry)) // JOB_CHANGE and INVOKE or INVOKE_WRITE
        .route("/job/{job_id}/cancel", post(jobs::cancel)) // JOB_CHANGE
        .route("/scheduler/jobs", get(schedules::list)) // SCHEDULES
        .route(events::PATH, get(events::stream)) // EVENTS
        .route("/vault/{*rest}", post(vault::refuse)) // never
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::method_not_allowed)
        .with_state(front)
}

/// The webhook listener's routes: without endpoints it answers 404 to everything.
pub(crate) fn webhooks() -> Router {
    Router::new().fallback(answer::endpoint_not_found)
}
