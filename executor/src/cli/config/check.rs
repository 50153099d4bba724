//! `ductile config check`: the code that the executor runs at its start, and what is worth a look
//! besides. Needs no running executor, and opens neither vault nor database.

use shared::exit;

use crate::cli::args::Args;
use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{instance, plugin};
use crate::config::{self, Environment, doctor};

pub(super) const USAGE: &str =
    "[--config PATH | --config-dir DIR] [--format human|json] [--json] [--fail-on-warnings | --strict]";

pub(super) fn run(args: &Args) -> Outcome {
    let as_json = match args.text("format")? {
        None | Some("human") => args.wants_json(),
        Some("json") => true,
        Some(other) => return Err(Failure::new(format!("Flag error: --format is human or json, not {other:?}"))),
    };
    if args.switch("strict") {
        output::notice("Note: --strict is deprecated; use --fail-on-warnings");
    }
    let environment = Environment::of_process();
    let located = config::locate(instance::explicit(args)?, &environment)
        .map_err(|error| Failure::because("Failed to discover config", &error))?;
    let loaded = config::load(&located, &environment).map_err(|error| Failure::because("Config load error", &error))?;
    let registry = plugin::discover(&loaded.config)?;
    let report = doctor::check(&loaded, &registry);
    if as_json {
        output::json(&report);
    } else {
        output::result(&report.render());
    }
    let fails_on_warnings = args.switch("fail-on-warnings") || args.switch("strict");
    Ok(match (report.valid, report.warnings.is_empty()) {
        (false, _) => exit::FAILURE,
        (true, false) if fails_on_warnings => exit::WARNINGS,
        (true, _) => exit::OK,
    })
}
