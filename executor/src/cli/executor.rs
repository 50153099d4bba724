//! One question to the running executor, over `executor-admin.sock`.

use std::time::Duration;

use shared::wire::frame::EXECUTOR_MAX;
use shared::wire::gateway::{Reply, Request};
use shared::wire::refusal::Refusal;

use super::args::Args;
use super::client::{self, ClientError};
use super::instance;
use super::output::Failure;

/// What a command says when nobody answers; the rest of its line says where it looked.
const HINT: &str = "This command asks the running executor: start it with 'ductile system start' or its service, \
                    or name its instance with --config";

/// Asks the instance that the arguments name; the answer may take `wait` longer than usual. A
/// refusal is an answer.
///
/// # Errors
/// `Error: …` when no answer came, with what to do where nobody is there to give one.
pub(super) fn ask(args: &Args, request: Request, wait: Duration) -> Result<Reply, Failure> {
    let loaded = instance::optional(args)?;
    let places = instance::places(client::EXECUTOR_ADMIN, loaded.as_ref());
    let identity = loaded.map(|loaded| instance::state_identity(&loaded.config));
    client::Client::<EXECUTOR_MAX>::connect(&places, identity)
        .and_then(|mut client| client.ask(request, &[], wait))
        .map_err(|error| {
            let mut failure = Failure::because("Error", &error);
            if matches!(error, ClientError::NotRunning { .. }) {
                failure.text = format!("{}\n{HINT}", failure.text);
            }
            failure
        })
}

/// A refusal that the command has no text of its own for.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    Failure::new(format!("Error: {}", refusal.message))
}

/// An answer that belongs to another question.
pub(super) fn confused() -> Failure {
    Failure::new("Error: the executor answered something else")
}
