//! `ductile job cancel`: the end of a queued or running job. The ledger has it at once; the process
//! is killed after.

use std::time::Duration;

use serde::Serialize;
use shared::exit;
use shared::wire::gateway::{JobStatus, Reply, Request};

use crate::cli::args::Args;
use crate::cli::executor;
use crate::cli::output::{self, Outcome};

pub(super) const USAGE: &str = "<job_id> [--json]";

#[derive(Serialize)]
struct Cancelled<'a> {
    job_id: &'a str,
    status: &'a str,
}

pub(super) fn run(args: &Args) -> Outcome {
    let job_id = super::id(args, "cancel", USAGE)?;
    match executor::ask(args, Request::CancelJob { job_id }, Duration::ZERO)? {
        Reply::Cancelled { job_id } => {
            if args.wants_json() {
                output::json(&Cancelled { job_id: job_id.as_str(), status: JobStatus::Dead.as_str() });
            } else {
                output::line(&format!("Cancelled job {job_id}"));
            }
            Ok(exit::OK)
        }
        Reply::Refused(refusal) => Err(super::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}
