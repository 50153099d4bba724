//! `ductile system reset` (`spec/cli.md` 4.4): closes a circuit breaker.

use std::time::Duration;

use shared::exit;
use shared::wire::gateway::{Reply, Request};
use shared::wire::refusal::RefusalKind;

use super::breaker::{self, Named};
use crate::cli::args::Args;
use crate::cli::executor;
use crate::cli::output::{self, Outcome};

pub(super) const USAGE: &str = "<plugin> [--command COMMAND]";

pub(super) fn run(args: &Args) -> Outcome {
    let Named { plugin, command } = breaker::named(args, "reset", USAGE)?;
    let request = Request::ResetBreaker { plugin: plugin.clone(), command: command.clone() };
    match executor::ask(args, request, Duration::ZERO)? {
        Reply::Done => {
            output::line(&format!("Reset circuit breaker for {plugin} ({command})"));
            Ok(exit::OK)
        }
        Reply::Refused(refusal) if refusal.kind == RefusalKind::PluginUnknown => Err(breaker::unknown(plugin.as_str())),
        Reply::Refused(refusal) => Err(executor::refused(&refusal)),
        _ => Err(executor::confused()),
    }
}
