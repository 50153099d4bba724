//! Which instance a command means: its configuration, and from that its sockets, vault and key.

use std::path::{Path, PathBuf};

use super::args::Args;
use super::client;
use super::output::{self, Failure};
use crate::config::{self, Config, Environment, LoadError, Loaded, LocateError};

/// What `--config` or `--config-dir` name.
///
/// # Errors
/// `use only one of --config or --config-dir`.
pub(super) fn explicit(args: &Args) -> Result<Option<&Path>, Failure> {
    match (args.path("config"), args.path("config-dir")) {
        (Some(_), Some(_)) => Err(Failure::new("use only one of --config or --config-dir")),
        (file, folder) => Ok(file.or(folder)),
    }
}

/// Loads the configuration for `system start`.
///
/// # Errors
/// The texts of `spec/cli.md` 4.1.
pub(super) fn for_start(args: &Args) -> Result<Loaded, Failure> {
    let environment = Environment::of_process();
    let located = match config::locate(explicit(args)?, &environment) {
        Ok(located) => located,
        Err(error @ LoadError::Locate(LocateError::NoneDiscovered)) => {
            let hint = "Hint: create ~/.config/ductile/config.yaml or use --config";
            return Err(Failure::new(format!("no config found: {}\n{hint}", shared::log::chain(&error))));
        }
        Err(error) => return Err(Failure::because(FAILED, &error)),
    };
    config::load(&located, &environment).map_err(|error| Failure::because(FAILED, &error))
}

const FAILED: &str = "Failed to load config";

/// Loads the configuration for a command that can not do without.
///
/// # Errors
/// `Failed to load config: …`.
pub(super) fn required(args: &Args) -> Result<Loaded, Failure> {
    let environment = Environment::of_process();
    config::locate(explicit(args)?, &environment)
        .and_then(|located| config::load(&located, &environment))
        .map_err(|error| Failure::because(FAILED, &error))
}

/// Loads the configuration for a client, which can do without: `None` when there is none, or when
/// the one that was found by itself does not load (told on stderr).
///
/// # Errors
/// `Failed to load config: …` for one that was named.
pub(super) fn optional(args: &Args) -> Result<Option<Loaded>, Failure> {
    if explicit(args)?.is_some() {
        return required(args).map(Some);
    }
    let environment = Environment::of_process();
    match config::locate(None, &environment).and_then(|located| config::load(&located, &environment)) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(LoadError::Locate(LocateError::NoneDiscovered)) => Ok(None),
        Err(error) => {
            output::notice(&format!("note: configuration not loaded: {}", shared::log::chain(&error)));
            Ok(None)
        }
    }
}

/// Where one of the instance's sockets may be.
pub(super) fn places(socket: &str, loaded: Option<&Loaded>) -> Vec<PathBuf> {
    let state_dir = loaded.and_then(|loaded| loaded.config.state_path.parent());
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    client::places(socket, state_dir, runtime_dir.as_deref())
}

/// The instance as both ends of `executor-admin.sock` name it.
pub(super) fn state_identity(config: &Config) -> String {
    config.state_path.display().to_string()
}

/// The instance as both ends of `vault-admin.sock` name it: the vault's path with every symlink in
/// its folder resolved, also where no vault is yet.
pub(super) fn vault_identity(config: &Config) -> String {
    let path = &config.secrets.vault_file;
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let resolved = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
    resolved.as_deref().unwrap_or(path).display().to_string()
}

/// A vault and the key that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyed {
    pub(super) vault: PathBuf,
    pub(super) key: PathBuf,
}

/// The vault and its key as the agent resolves them (`spec/config.md` 9.2).
///
/// # Errors
/// The text of `spec/vault.md` 5.1 when no key is there. One that was named is not looked for: the
/// agent says what is wrong with it.
pub(super) fn key(config: &Config) -> Result<Keyed, &'static str> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let existing = |path: Option<PathBuf>| path.filter(|path| path.exists());
    let key = variable("DUCTILE_AGE_KEY_FILE")
        .or_else(|| existing(variable("CREDENTIALS_DIRECTORY").map(|folder| folder.join("age.key"))))
        .or_else(|| config.secrets.age_key_file.clone())
        .or_else(|| existing(Some(config.dir.join("age.key"))))
        .or_else(|| existing(variable("HOME").map(|home| home.join(".config/ductile/age.key"))))
        .ok_or("no age key file resolved (set secrets.age_key_file or DUCTILE_AGE_KEY_FILE)")?;
    Ok(Keyed { vault: config.secrets.vault_file.clone(), key })
}
