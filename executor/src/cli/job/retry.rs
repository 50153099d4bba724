//! `ductile job retry`: a finished job once more, as a new one that names the old.

use std::time::Duration;

use serde::Serialize;
use shared::exit;
use shared::wire::gateway::{JobStatus, Reply, Request};

use crate::cli::args::Args;
use crate::cli::output::{self, Outcome};
use crate::cli::{executor, payload};

pub(super) const USAGE: &str = "<job_id> [--payload JSON | --payload-file FILE] [--json]";

#[derive(Serialize)]
struct Queued<'a> {
    job_id: &'a str,
    status: &'a str,
    parent_job_id: &'a str,
}

pub(super) fn run(args: &Args) -> Outcome {
    let old = super::id(args, "retry", USAGE)?;
    let payload = payload::given(args)?;
    let request = Request::RetryJob { job_id: old.clone(), payload, may_write: true, may_read: true };
    match executor::ask(args, request, Duration::ZERO)? {
        Reply::Accepted { job_id } => {
            if args.wants_json() {
                let status = JobStatus::Queued.as_str();
                output::json(&Queued { job_id: job_id.as_str(), status, parent_job_id: old.as_str() });
            } else {
                output::line(&format!("Queued job {job_id} (retry of {old})"));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) => Err(super::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}
