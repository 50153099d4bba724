//! What a plugin's process is given of its surroundings: account, environment, directory
//! (`spec/plugins.md` 9.1, 9.2). The environment is built from nothing: a short list of names, and
//! the names that the operator passes on.

use std::path::PathBuf;

use shared::id::{AccountName, PluginName};
use shared::wire::frame::LINE_MAX;

use super::check::Problems;
use super::environment::Environment;
use super::model::{Account, Config};
use crate::yaml::quoted;

const INHERITED: [&str; 19] = [
    "PATH",
    "HOME",
    "TZ",
    "LANG",
    "LANGUAGE",
    "TMPDIR",
    "LC_ALL",
    "LC_CTYPE",
    "LC_NUMERIC",
    "LC_TIME",
    "LC_COLLATE",
    "LC_MONETARY",
    "LC_MESSAGES",
    "LC_PAPER",
    "LC_NAME",
    "LC_ADDRESS",
    "LC_TELEPHONE",
    "LC_MEASUREMENT",
    "LC_IDENTIFICATION",
];

/// The search path of every dropped child, whatever the daemon's is.
const DROPPED_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The most that a child's environment may take of the spawner's message; the rest of it (three
/// paths of at most 4 KiB, names, numbers) has to fit as well.
pub(super) const ENVIRONMENT_MAX: usize = LINE_MAX - 16 * 1024;

impl Config {
    /// The account that a plugin runs as: its own, else `default`; none where no accounts are
    /// configured, or `service.unconfined` is.
    pub fn account_of(&self, plugin: &PluginName) -> Option<(&AccountName, &Account)> {
        if self.service.unconfined {
            return None;
        }
        match self.plugins.get(plugin).and_then(|plugin| plugin.run_as.as_ref()) {
            Some(name) => self.accounts.get_key_value(name),
            None => self.accounts.iter().find(|(name, _)| name.as_str() == "default"),
        }
    }

    /// The whole environment of a plugin's process, `NAME=value` each, no name twice.
    pub fn environment_for(&self, plugin: &PluginName, environment: &Environment) -> Vec<String> {
        let account = self.account_of(plugin).map(|(_, account)| account);
        let mut set: Vec<(&str, &str)> = Vec::new();
        let own_dir;
        if let Some(account) = account {
            own_dir = account.own_dir().to_string_lossy().into_owned();
            set.push(("PATH", DROPPED_PATH));
            set.push(("HOME", &own_dir));
            if account.home.is_none() {
                set.push(("XDG_CACHE_HOME", &own_dir));
            }
        }
        let own = self.plugins.get(plugin).map(|plugin| plugin.env_passthrough.as_slice()).unwrap_or_default();
        let passed_on = self.service.plugin_env_passthrough.iter().chain(own).map(String::as_str);
        for name in INHERITED.into_iter().chain(passed_on) {
            if let Some(value) = environment.get(name).filter(|_| !set.iter().any(|(known, _)| *known == name)) {
                set.push((name, value));
            }
        }
        set.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Where a plugin's process starts: its account's directory; `None` is the daemon's own.
    pub fn cwd_for(&self, plugin: &PluginName) -> Option<PathBuf> {
        self.account_of(plugin).map(|(_, account)| account.own_dir())
    }
}

impl Account {
    /// The directory that is the account's home.
    fn own_dir(&self) -> PathBuf {
        self.home.clone().or_else(|| self.state_dir.clone()).unwrap_or_else(|| PathBuf::from("/"))
    }
}

/// Refuses an environment that does not fit the spawner's message.
pub(super) fn check_sizes(config: &Config, environment: &Environment, problems: &mut Problems) {
    for (name, _) in config.plugins.iter().filter(|(_, plugin)| plugin.enabled) {
        // A length of up to nine bytes stands before each entry.
        let size: usize = config.environment_for(name, environment).iter().map(|entry| entry.len() + 9).sum();
        if size > ENVIRONMENT_MAX {
            let name = quoted(name.as_str());
            problems.push(format!(
                "environment for plugin {name} is {size} bytes, more than the spawner takes ({ENVIRONMENT_MAX})"
            ));
        }
    }
}
