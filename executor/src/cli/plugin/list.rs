//! `ductile plugin list`: what lies below the plugin roots, whether or not an executor runs.

use serde::Serialize;
use shared::exit;

use crate::cli::args::Args;
use crate::cli::instance;
use crate::cli::output::{self, Failure, Outcome};
use crate::plugin::registry::{self, Entry};

/// As `GET /plugins` answers.
#[derive(Serialize)]
struct Plugins<'a> {
    plugins: Vec<Plugin<'a>>,
}

#[derive(Serialize)]
struct Plugin<'a> {
    name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    commands: Vec<&'a str>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let loaded = instance::required(args)?;
    let registry = discover(&loaded.config)?;
    let plugins: Vec<_> = registry.iter().map(shown).collect();
    if args.wants_json() {
        output::json(&Plugins { plugins });
        return Ok(exit::OK);
    }
    let width = plugins.iter().map(|plugin| plugin.name.chars().count()).max().unwrap_or(0).max(4);
    output::line(&format!("{:width$}  {:8}  COMMANDS", "NAME", "VERSION"));
    for Plugin { name, version, description, commands } in plugins {
        output::line(&format!("{name:width$}  {version:8}  {}", commands.join(", ")));
        if !description.is_empty() {
            output::line(&format!("  {description}"));
        }
    }
    Ok(exit::OK)
}

fn shown(entry: &Entry) -> Plugin<'_> {
    Plugin {
        name: entry.name.as_str(),
        version: &entry.manifest.version,
        description: &entry.manifest.description,
        commands: entry.manifest.commands.iter().map(|command| command.name.as_str()).collect(),
    }
}

/// Discovery with its warnings on stderr.
///
/// # Errors
/// A root that is missing, or an alias that can not be.
pub(in crate::cli) fn discover(config: &crate::config::Config) -> Result<registry::Registry, Failure> {
    let mut notes = Vec::new();
    let found = registry::discover(&config.plugin_roots, config.service.allow_symlinks, &mut notes)
        .map_err(|error| Failure::because("Plugin discovery error", &error));
    let aliased = found.and_then(|mut registry| {
        registry.alias(config, &mut notes).map_err(|error| Failure::because("Plugin discovery error", &error))?;
        Ok(registry)
    });
    for note in notes.iter().filter(|note| note.level >= shared::log::Level::Warn) {
        let fields: String = note.fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        output::notice(&format!("WARN: {}{fields}", note.msg));
    }
    aliased
}
