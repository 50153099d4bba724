//! The configuration: found, read from its files, merged, checked, and given out as one `Config`
//! whose every value is what it should be. `ductile config check` and the executor's start run
//! exactly this code. It reads files and nothing else: no vault, no database, no socket; and
//! nothing here prints a token or a plugin's options.

mod environment;
mod paths;
pub mod units;

mod include;
mod raw;
mod schedules;
mod section;

mod accounts;
mod check;
mod pipelines;
mod plugins;

mod child;
mod model;

pub mod doctor;
pub mod seal;

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

pub use environment::Environment;
pub use model::*;
pub use paths::{LocateError, Located, Source};
pub use section::{IgnoredKey, Kept, KeptNode};

/// The configuration and what loading it brought to light.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// By file and line.
    pub ignored: Vec<IgnoredKey>,
    /// Worth a warning in the log, and no reason to refuse.
    pub warnings: Vec<String>,
    /// Every file that was read, absolute; the root first.
    pub files: Vec<PathBuf>,
    /// What `environment_vars.include` names, absolute.
    pub env_files: Vec<PathBuf>,
    /// The variables given to `load`, with those of the env files beneath them.
    pub environment: Environment,
    pub source: Source,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    Locate(LocateError),
    /// Files that can not be read, parsed or understood.
    Files(Vec<String>),
    /// Values that may not be, by their rules.
    Invalid(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locate(error) => error.fmt(f),
            Self::Files(problems) => f.write_str(&problems.join("\n")),
            Self::Invalid(problems) => {
                for (index, problem) in problems.iter().enumerate() {
                    let newline = if index > 0 { "\n" } else { "" };
                    write!(f, "{newline}invalid configuration: {problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Finds the root file: the path given (a file, or a directory that holds `config.yaml`), else the
/// first that exists of `$DUCTILE_CONFIG_DIR`, `~/.config/ductile`, `/etc/ductile`.
///
/// # Errors
/// `LoadError::Locate`.
pub fn locate(explicit: Option<&Path>, environment: &Environment) -> Result<Located, LoadError> {
    paths::locate(explicit, environment, Path::new("/etc/ductile")).map_err(LoadError::Locate)
}

/// Reads, merges and checks the configuration.
///
/// # Errors
/// `LoadError`, with everything that is wrong: first what keeps the files from being read, and
/// only when there is nothing of that, every rule that a value breaks.
pub fn load(located: &Located, environment: &Environment) -> Result<Loaded, LoadError> {
    let sources = include::read(&located.path, environment).map_err(LoadError::Files)?;
    let service_users = accounts::service_users();
    let (config, warnings) =
        check::check(sources.raw, located, &sources.environment, &service_users).map_err(LoadError::Invalid)?;
    Ok(Loaded {
        config,
        ignored: sources.ignored,
        warnings,
        files: sources.files,
        env_files: sources.env_files,
        environment: sources.environment,
        source: located.source,
    })
}

/// What a seal of the configuration covers, found without checking any value.
#[derive(Debug)]
pub struct Survey {
    /// Every file that was read, absolute; the root first.
    pub files: Vec<PathBuf>,
    /// The keys of `plugins:`.
    pub plugins: Vec<String>,
}

/// Reads the files alone, for a lock, which does not validate.
///
/// # Errors
/// `LoadError::Files`.
pub fn survey(located: &Located, environment: &Environment) -> Result<Survey, LoadError> {
    let sources = include::read(&located.path, environment).map_err(LoadError::Files)?;
    Ok(Survey { files: sources.files, plugins: sources.raw.plugins.into_keys().collect() })
}
