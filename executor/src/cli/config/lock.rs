//! `ductile config lock`: hashes of the configuration's files into `.checksums`. It validates
//! nothing, needs no vault, and never hashes a plugin.

use std::path::Path;
use std::time::SystemTime;

use shared::exit;
use shared::time::Timestamp;

use crate::cli::args::Args;
use crate::cli::instance;
use crate::cli::output::{self, Failure, Outcome};
use crate::config::seal::{self, Seal, SealError};
use crate::config::{self, Environment};

pub(super) const USAGE: &str = "[--config PATH | --config-dir DIR] [-v | --verbose] [--dry-run]";

pub(super) fn run(args: &Args) -> Outcome {
    let environment = Environment::of_process();
    let located = config::locate(instance::explicit(args)?, &environment)
        .map_err(|error| Failure::because("Failed to discover config", &error))?;
    let dir = located.path.parent().unwrap_or(Path::new("/"));
    let shown = dir.display();
    let survey = config::survey(&located, &environment)
        .map_err(|error| Failure::because(&format!("Failed to discover config files in {shown}"), &error))?;
    let failed = |error: &SealError| Failure::because(&format!("Failed to lock config in {shown}"), error);
    let before = match Seal::read(dir) {
        Ok(seal) => Some(seal),
        Err(SealError::Missing(_)) => None,
        Err(error) => return Err(failed(&error)),
    };
    let files = seal::files(&survey.files, dir);
    let now = Timestamp::from_system_time(SystemTime::now());
    let fresh = Seal::over(&files, before.clone(), &survey.plugins, now).map_err(|error| failed(&error))?;
    let dry = args.switch("dry-run");
    if !dry {
        fresh.write(dir).map_err(|error| failed(&error))?;
    }
    if args.switch("verbose") || args.switch("v") {
        tell(dir, &files, before.as_ref(), &fresh, dry);
    }
    output::line(if dry {
        "Dry run completed for 1 directory/ies (no files written):"
    } else {
        "Successfully locked configuration in 1 directory/ies:"
    });
    output::line(&format!("  - {shown}"));
    Ok(exit::OK)
}

fn tell(dir: &Path, files: &[std::path::PathBuf], before: Option<&Seal>, fresh: &Seal, dry: bool) {
    output::line(&format!("Processing directory (v2 manifest): {}", dir.display()));
    for file in files {
        let tier = if seal::is_high_security(file) { "high-security" } else { "operational" };
        output::line(&format!("  DISCOVER [{tier}] {}", file.display()));
    }
    for known in before.map(|seal| seal.plugin_fingerprints.as_slice()).unwrap_or_default() {
        let name = &known.name;
        output::line(&if fresh.plugin_fingerprints.contains(known) {
            format!("  PRESERVE [plugin] {name} manifest={} entrypoint={}", known.manifest_path, known.entrypoint_path)
        } else {
            format!("  PRUNE [plugin] {name} (no longer configured)")
        });
    }
    let path = dir.join(seal::FILE);
    output::line(&if dry {
        format!("  DRY-RUN .checksums: {} (not written)", path.display())
    } else {
        format!("  WROTE .checksums: {}", path.display())
    });
}
