//! `ductile job` (`spec/cli.md` 6, 14): one job run once more, or ended, by the running executor.

mod cancel;
mod retry;

use shared::id::JobId;
use shared::wire::refusal::{Refusal, RefusalKind};

use super::args::{Args, Flag, Shape};
use super::output::Failure;
use super::{Action, Help, Noun, executor, payload};

const JSON: Flag = Flag::switch("json", "Answer as JSON");

pub(super) static NOUN: Noun = Noun {
    name: "job",
    actions: &[
        Action {
            name: "retry",
            usage: retry::USAGE,
            about: "Run a finished job once more, as a new one",
            shape: Shape { flags: &[payload::JSON, payload::FILE, JSON], positionals: 1 },
            run: retry::run,
        },
        Action {
            name: "cancel",
            usage: cancel::USAGE,
            about: "End a queued or running job",
            shape: Shape { flags: &[JSON], positionals: 1 },
            run: cancel::run,
        },
    ],
    help: Help::List { flags: false },
    absent: &[],
    footer: "",
};

/// The one job that is meant.
///
/// # Errors
/// The usage without exactly one; a text that is no id is the id of no job.
fn id(args: &Args, action: &str, usage: &str) -> Result<JobId, Failure> {
    let positionals = args.positionals()?;
    let [text] = positionals[..] else { return Err(Failure::new(format!("Usage: ductile job {action} {usage}"))) };
    JobId::parse(text).map_err(|_| unknown())
}

fn unknown() -> Failure {
    Failure::new("Error: job not found")
}

/// The executor's refusals in the words of the API.
fn refused(refusal: &Refusal) -> Failure {
    match refusal.kind {
        RefusalKind::JobUnknown => unknown(),
        RefusalKind::JobNotFinished => Failure::new("Error: job is not finished"),
        RefusalKind::JobFinished => Failure::new("Error: job is already finished"),
        _ => executor::refused(refusal),
    }
}
