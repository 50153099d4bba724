//! Where vault, key and checksums lie: by flags, or by a configuration of which only `secrets:` is
//! read (`spec/vault.md` 16.2).

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files;
use crate::identity::Candidate;
use crate::yaml::{self, YamlError};

/// The longest root file of a configuration.
const CONFIG_MAX: u64 = 16 * 1024 * 1024;

/// The files of one vault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) vault: PathBuf,
    /// In the order of resolution.
    pub(crate) keys: Vec<Candidate>,
    pub(crate) checksums: Option<PathBuf>,
}

/// What the command line says of them.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) config: Option<PathBuf>,
    pub(crate) vault: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) checksums: Option<PathBuf>,
}

/// Why the places are not known.
#[derive(Debug)]
pub(crate) enum SettingsError {
    Nothing,
    ConfigMissing { path: PathBuf },
    NoRootFile { path: PathBuf },
    Read { path: PathBuf, source: io::Error },
    Parse { path: PathBuf, source: YamlError },
    Encrypted { path: PathBuf },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("--config, or --vault with --key, is required"),
            Self::ConfigMissing { path } => {
                write!(f, "config file not found: {}\nHint: Check the path or run with --config flag", path.display())
            }
            Self::NoRootFile { path } => {
                write!(f, "directory provided but config.yaml not found: {}", path.display())
            }
            Self::Read { path, .. } => write!(f, "read config {path:?}"),
            Self::Parse { path, .. } => write!(f, "parse config {path:?}"),
            Self::Encrypted { path } => {
                write!(f, "config {path:?} is age-encrypted; name the vault with --vault, --key and --checksums")
            }
        }
    }
}

impl std::error::Error for SettingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    secrets: Option<Secrets>,
}

#[derive(Default, Deserialize)]
struct Secrets {
    #[serde(default)]
    age_key_file: Option<String>,
    #[serde(default)]
    vault_file: Option<String>,
}

/// Finds the places; `env` is the process environment.
///
/// # Errors
/// Neither a configuration nor a vault is named, or the configuration can not be read.
pub(crate) fn places(named: Named, env: &dyn Fn(&str) -> Option<String>) -> Result<Places, SettingsError> {
    let (dir, secrets) = match &named.config {
        Some(config) => {
            let (dir, secrets) = read_config(config)?;
            (Some(dir), secrets)
        }
        None => (None, Secrets::default()),
    };
    let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let written = |text: &Option<String>| {
        let text = interpolate(text.as_deref().unwrap_or_default(), env);
        let dir = dir.as_deref().unwrap_or(Path::new("/"));
        (!text.is_empty()).then(|| dir.join(expand_home(&text, home.as_deref())))
    };
    let vault = named.vault.or_else(|| written(&secrets.vault_file));
    let vault = vault.or_else(|| dir.as_ref().map(|dir| dir.join("vault.age"))).ok_or(SettingsError::Nothing)?;
    let mut keys = Vec::new();
    let mut add = |path: PathBuf, source, explicit, credential| {
        keys.push(Candidate { path, source, explicit, credential });
    };
    if let Some(key) = named.key {
        add(key, "--key", true, false);
    } else {
        if let Some(path) = env("DUCTILE_AGE_KEY_FILE").filter(|path| !path.is_empty()) {
            add(PathBuf::from(path), "DUCTILE_AGE_KEY_FILE", true, false);
        }
        if let Some(credentials) = env("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()) {
            add(Path::new(&credentials).join("age.key"), "$CREDENTIALS_DIRECTORY/age.key", false, true);
        }
        if let Some(path) = written(&secrets.age_key_file) {
            add(path, "secrets.age_key_file", true, false);
        }
        if let Some(dir) = &dir {
            add(dir.join("age.key"), "age.key beside the configuration", false, false);
        }
        if let Some(home) = &home {
            add(home.join(".config/ductile/age.key"), "~/.config/ductile/age.key", false, false);
        }
    }
    let checksums = named.checksums.or_else(|| dir.map(|dir| dir.join(".checksums")));
    Ok(Places { vault: absolute(&vault)?, keys, checksums })
}

fn absolute(path: &Path) -> Result<PathBuf, SettingsError> {
    std::path::absolute(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

/// The directory of the root file, and its `secrets:`.
fn read_config(named: &Path) -> Result<(PathBuf, Secrets), SettingsError> {
    let mut path = absolute(named)?;
    if path.is_dir() {
        path.push("config.yaml");
        if !path.exists() {
            return Err(SettingsError::NoRootFile { path });
        }
    }
    let text = match File::open(&path).and_then(|file| files::read_text(&file, CONFIG_MAX)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SettingsError::ConfigMissing { path }),
        Err(source) => return Err(SettingsError::Read { path, source }),
    };
    if files::is_sealed(text.as_bytes()) {
        return Err(SettingsError::Encrypted { path });
    }
    match yaml::parse::<Config>(&text) {
        Ok(config) => Ok((path.parent().unwrap_or(Path::new("/")).to_owned(), config.secrets.unwrap_or_default())),
        Err(source) => Err(SettingsError::Parse { path, source }),
    }
}

/// `${NAME}` of a set variable; all else stays as it stands.
fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_variable(name));
        match name.and_then(|name| Some((name, env(name)?))) {
            Some((name, value)) => {
                out.push_str(&value);
                rest = &after[name.len() + 1..];
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_variable(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(word) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// `~` and `~/…`; `~user` stays literal.
fn expand_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/op".to_owned()),
            "STATE" => Some("/var/lib/x".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn found(config: &str) -> (Places, Scratch) {
        let dir = Scratch::new();
        dir.file("config.yaml", config, 0o600);
        let named = Named { config: Some(dir.path("")), ..Named::default() };
        (places(named, &env).expect("found"), dir)
    }

    #[test]
    fn defaults_lie_beside_the_configuration() {
        for config in ["", "service: {name: x}\n", "secrets:\n", "secrets: {vault_file: \"${EMPTY}\"}\n"] {
            let (places, dir) = found(config);
            assert_eq!(places.vault, dir.path("vault.age"), "{config}");
            assert_eq!(places.checksums, Some(dir.path(".checksums")));
            let keys: Vec<_> = places.keys.iter().map(|key| (key.path.clone(), key.explicit)).collect();
            let expected = [(dir.path("age.key"), false), (PathBuf::from("/home/op/.config/ductile/age.key"), false)];
            assert_eq!(keys, expected);
        }
    }

    #[test]
    fn written_paths_are_interpolated_and_relative_to_the_configuration() {
        let config = "secrets:\n  age_key_file: ~/keys/age.key\n  vault_file: \"${STATE}/${UNSET}/$X/v.age\"\n";
        let (places, _dir) = found(config);
        assert_eq!(places.vault, Path::new("/var/lib/x/${UNSET}/$X/v.age"));
        let first = &places.keys[0];
        assert_eq!((first.path.as_path(), first.explicit), (Path::new("/home/op/keys/age.key"), true));
        let (places, dir) = found("secrets: {vault_file: sub/v.age, age_key_file: ~other}\n");
        assert_eq!((places.vault, &places.keys[0].path), (dir.path("sub/v.age"), &dir.path("~other")));
    }

    #[test]
    fn the_environment_goes_before_the_configuration_and_flags_before_both() {
        let env = |name: &str| match name {
            "DUCTILE_AGE_KEY_FILE" => Some("/env/key".to_owned()),
            "CREDENTIALS_DIRECTORY" => Some("/run/credentials/x".to_owned()),
            _ => None,
        };
        let named = Named { vault: Some("/v.age".into()), ..Named::default() };
        let places = super::places(named, &env).expect("found");
        let keys: Vec<_> = places.keys.iter().map(|key| (key.path.to_str(), key.explicit, key.credential)).collect();
        assert_eq!(keys, [(Some("/env/key"), true, false), (Some("/run/credentials/x/age.key"), false, true)]);
        assert_eq!(places.checksums, None);
        let named =
            Named { vault: Some("/v".into()), key: Some("/k".into()), checksums: Some("/c".into()), config: None };
        let places = super::places(named, &env).expect("found");
        assert_eq!((places.keys.len(), places.keys[0].source, places.checksums), (1, "--key", Some("/c".into())));
    }

    #[test]
    fn a_configuration_that_can_not_be_read_is_refused_by_name() {
        let dir = Scratch::new();
        let error = |path: PathBuf| {
            let named = Named { config: Some(path), ..Named::default() };
            shared::log::chain(&places(named, &env).expect_err("refused"))
        };
        assert!(error(dir.path("none.yaml")).starts_with("config file not found: "));
        assert!(error(dir.path("")).starts_with("directory provided but config.yaml not found: "));
        let bad = error(dir.file("bad.yaml", "secrets: {vault_file: [hunter2]}\n", 0o600));
        assert!(bad.contains("bad.yaml") && bad.contains("line 1") && !bad.contains("hunter2"), "{bad}");
        assert!(error(dir.file("sealed.yaml", "age-encryption.org/v1\n", 0o600)).contains("age-encrypted"));
        assert!(matches!(places(Named::default(), &env), Err(SettingsError::Nothing)));
    }
}
