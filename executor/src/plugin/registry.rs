//! Which plugins there are: found below the configured roots, trusted or passed over with a reason,
//! and registered again under each alias (`spec/plugins.md` 3). A bad plugin never stops the start;
//! a missing root does. Nothing is executed here.

mod discover;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use shared::id::PluginName;
use shared::log::Level;

use super::manifest::Manifest;
use crate::config::Config;
use crate::schedule::entry::Entry as Schedule;
use crate::yaml::quoted;

pub use discover::{DiscoveryError, discover};

/// Every plugin by name, aliases included.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<PluginName, Entry>,
}

/// One plugin or alias.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: PluginName,
    /// The base, for an alias.
    pub uses: Option<PluginName>,
    pub manifest: Arc<Manifest>,
    /// Absolute and resolved.
    pub manifest_path: PathBuf,
    /// Absolute and resolved.
    pub entrypoint_path: PathBuf,
    /// Absolute and resolved.
    pub dir: PathBuf,
}

/// Something for the log: the caller owns the logger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub msg: &'static str,
    pub fields: Vec<(&'static str, String)>,
}

impl Note {
    fn new(level: Level, msg: &'static str, fields: &[(&'static str, &dyn fmt::Display)]) -> Self {
        Self { level, msg, fields: fields.iter().map(|(name, value)| (*name, value.to_string())).collect() }
    }
}

/// Aliases that can not be; all of them, in name order. Logged as `plugin aliasing failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasError {
    pub problems: Vec<String>,
}

impl fmt::Display for AliasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for AliasError {}

/// Enabled stanzas that can not run; all of them, in name order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableError {
    pub problems: Vec<String>,
}

impl fmt::Display for UnusableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for UnusableError {}

impl Registry {
    pub fn get(&self, name: &PluginName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Registers a plugin; the first of a name stays, and `false` says that there was one.
    fn add(&mut self, entry: Entry) -> bool {
        if self.entries.contains_key(&entry.name) {
            return false;
        }
        self.entries.insert(entry.name.clone(), entry);
        true
    }

    /// Registers every alias of the configuration over the code of its base.
    ///
    /// # Errors
    /// `AliasError`; then nothing is registered. A disabled stanza whose base is unknown is a note.
    pub fn alias(&mut self, config: &Config, notes: &mut Vec<Note>) -> Result<(), AliasError> {
        let mut problems = Vec::new();
        let mut aliases = Vec::new();
        for (name, plugin) in &config.plugins {
            let Some(uses) = &plugin.uses else { continue };
            match self.base_of(name, config) {
                Ok(base) => {
                    let base = self.entries[base].clone();
                    aliases.push(Entry { name: name.clone(), uses: Some(uses.clone()), ..base });
                }
                Err(BadAlias::Unknown(_)) if !plugin.enabled => notes.push(Note::new(
                    Level::Warn,
                    "alias of an unknown plugin is disabled",
                    &[("plugin", name), ("uses", uses)],
                )),
                Err(bad) => {
                    // One cycle is met once for each of its members.
                    let text = bad.to_string();
                    if !problems.contains(&text) {
                        problems.push(text);
                    }
                }
            }
        }
        if !problems.is_empty() {
            return Err(AliasError { problems });
        }
        for entry in aliases {
            let uses: &dyn fmt::Display = entry.uses.as_ref().expect("an alias names its base");
            notes.push(Note::new(Level::Info, "plugin alias registered", &[("plugin", &entry.name), ("uses", uses)]));
            self.entries.insert(entry.name.clone(), entry);
        }
        Ok(())
    }

    /// The discovered plugin at the end of a chain of aliases that begins with `name`.
    pub(crate) fn base_of<'c>(&self, name: &'c PluginName, config: &'c Config) -> Result<&'c PluginName, BadAlias> {
        let uses_of = |name: &PluginName| config.plugins.get(name).and_then(|plugin| plugin.uses.as_ref());
        let discovered = |name: &PluginName| self.entries.get(name).is_some_and(|entry| entry.uses.is_none());
        let mut met = BTreeSet::from([name]);
        let mut current = name;
        while let Some(next) = uses_of(current) {
            if next == current {
                return Err(BadAlias::Itself(current.clone()));
            }
            if discovered(current) {
                return Err(BadAlias::Discovered(current.clone()));
            }
            if !met.insert(next) {
                let members =
                    std::iter::successors(Some(next), |member| uses_of(member).filter(|after| *after != next));
                return Err(BadAlias::Circular(members.min().unwrap_or(next).clone()));
            }
            current = next;
        }
        if discovered(current) { Ok(current) } else { Err(BadAlias::Unknown(current.clone())) }
    }

    /// Holds every enabled stanza to being runnable, whatever the gates: it is discovered, and has
    /// the options that its manifest requires.
    ///
    /// # Errors
    /// `UnusableError`.
    pub fn check_usable(&self, config: &Config) -> Result<(), UnusableError> {
        let mut problems = Vec::new();
        for (name, plugin) in config.plugins.iter().filter(|(_, plugin)| plugin.enabled) {
            match self.get(name) {
                None => problems.push(format!("plugin {} is configured but not discoverable", quoted(name.as_str()))),
                Some(entry) => {
                    problems.extend(plugin.schedules.iter().filter_map(|schedule| self.unsupported(name, schedule)));
                    problems.extend(entry.missing_keys(&plugin.config_keys).map(|key| {
                        let base = quoted(entry.manifest.name.as_str());
                        format!("plugin {base} requires config key {}", quoted(key))
                    }))
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(UnusableError { problems }) }
    }

    /// The complaint about an entry whose command a discovered plugin does not have.
    pub(crate) fn unsupported(&self, name: &PluginName, schedule: &Schedule) -> Option<String> {
        let (entry, command) = (self.get(name)?, schedule.command.as_str());
        entry.manifest.command(command).is_none().then(|| {
            let (name, id, command) = (quoted(name.as_str()), quoted(&schedule.id), quoted(command));
            format!("plugin {name} schedule {id} references unsupported command {command}")
        })
    }
}

impl Entry {
    /// The options that the manifest requires and `present` lacks.
    pub(crate) fn missing_keys(&self, present: &[String]) -> impl Iterator<Item = &str> {
        self.manifest.config_keys.required.iter().map(String::as_str).filter(|key| !present.iter().any(|p| p == key))
    }
}

/// Why an alias leads to no plugin; prints as `config check` and the start say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadAlias {
    Itself(PluginName),
    /// A discovered plugin has the alias's name.
    Discovered(PluginName),
    /// Names the first of the cycle by name.
    Circular(PluginName),
    Unknown(PluginName),
}

impl fmt::Display for BadAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(name) => {
                write!(f, "plugin {}: uses must reference a different base plugin", quoted(name.as_str()))
            }
            Self::Discovered(name) => {
                write!(f, "plugin {}: uses can not rename a plugin that was discovered", quoted(name.as_str()))
            }
            Self::Circular(name) => {
                write!(f, "circular uses dependency detected involving plugin {}", quoted(name.as_str()))
            }
            Self::Unknown(name) => {
                write!(f, "plugin {} in config but not found in configured plugin roots", quoted(name.as_str()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
