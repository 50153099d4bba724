//! How configured paths become absolute ones (`spec/config.md` 1.3), and which file the
//! configuration is (1.2). Only what is written and the config directory decide, never the working
//! directory, save for a path given on the command line.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::environment::Environment;

/// The root file of the configuration and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Absolute.
    pub path: PathBuf,
    pub source: Source,
}

impl Located {
    /// The directory that holds the root file.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// How the configuration was found; prints as the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Explicit,
    Environment,
    Discovered,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "explicit",
            Self::Environment => "env:DUCTILE_CONFIG_DIR",
            Self::Discovered => "auto-discovered",
        })
    }
}

/// Why there is no configuration to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocateError {
    NotFound(PathBuf),
    NoRootFile(PathBuf),
    NoneDiscovered,
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(path) => {
                write!(f, "config file not found: {}\nHint: Check the path or run with --config flag", path.display())
            }
            Self::NoRootFile(path) => {
                write!(f, "directory provided but config.yaml not found: {}", path.display())
            }
            Self::NoneDiscovered => {
                f.write_str("no config found (checked: $DUCTILE_CONFIG_DIR, ~/.config/ductile, /etc/ductile)")
            }
        }
    }
}

impl std::error::Error for LocateError {}

/// Finds the root file: the path given, else the first place that exists.
pub(super) fn locate(
    explicit: Option<&Path>,
    environment: &Environment,
    system_dir: &Path,
) -> Result<Located, LocateError> {
    if let Some(path) = explicit {
        return Ok(Located { path: root_file(&absolute(path))?, source: Source::Explicit });
    }
    let from_environment =
        environment.filled("DUCTILE_CONFIG_DIR").map(|dir| (absolute(dir.as_ref()), Source::Environment));
    let of_user =
        environment.filled("HOME").map(|home| (absolute(home.as_ref()).join(".config/ductile"), Source::Discovered));
    let of_system = Some((system_dir.to_path_buf(), Source::Discovered));
    for (path, source) in [from_environment, of_user, of_system].into_iter().flatten() {
        if path.exists() {
            return Ok(Located { path: root_file(&path)?, source });
        }
    }
    Err(LocateError::NoneDiscovered)
}

fn root_file(path: &Path) -> Result<PathBuf, LocateError> {
    if !path.exists() {
        return Err(LocateError::NotFound(path.to_path_buf()));
    }
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join("config.yaml");
    if file.exists() { Ok(file) } else { Err(LocateError::NoRootFile(file)) }
}

/// The path against the working directory, without `.` and `..`.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let joined = if path.is_absolute() {
        path.to_path_buf()
    } else {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")).join(path)
    };
    clean(&joined)
}

/// Removes `.`, `..` and doubled separators by text alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// `text` with a leading `~` or `~/` expanded; `~user` stays as it is.
pub(super) fn expand_home(text: &str, environment: &Environment) -> PathBuf {
    match (text.strip_prefix('~'), environment.filled("HOME")) {
        (Some(""), Some(home)) => PathBuf::from(home),
        (Some(rest), Some(home)) if rest.starts_with('/') => Path::new(home).join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// A configured path: `~` expanded, relative ones against `dir`.
pub(super) fn resolve(text: &str, dir: &Path, environment: &Environment) -> PathBuf {
    clean(&dir.join(expand_home(text, environment)))
}

/// `state.path`. The seed's layout has `data/` beside `config/`: when the config directory is
/// called `config`, holds no such directory itself, and its parent does, the parent's is meant. The
/// second value is the line to log then.
pub(super) fn resolve_state(text: &str, dir: &Path, environment: &Environment) -> (PathBuf, Option<String>) {
    let inside = resolve(text, dir, environment);
    let relative = expand_home(text, environment);
    let (Some(name), Some(beside)) = (dir.file_name(), dir.parent()) else { return (inside, None) };
    if relative.is_absolute() || name != "config" {
        return (inside, None);
    }
    let outside = clean(&beside.join(&relative));
    let holds = |path: &Path| path.parent().is_some_and(Path::is_dir);
    if holds(&inside) || !holds(&outside) {
        return (inside, None);
    }
    let note = format!("state.path {text} resolved beside the config directory: {}", outside.display());
    (outside, Some(note))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::scratch::Scratch;

    #[test]
    fn the_path_given_wins_and_a_directory_means_its_root_file() {
        let scratch = Scratch::new();
        let file = scratch.file("c/config.yaml", "");
        let environment = Environment::of([("DUCTILE_CONFIG_DIR", "/nowhere")]);
        let none = Path::new("/nonexistent");
        for given in [file.clone(), scratch.path("c"), scratch.path("c/../c/./config.yaml")] {
            let located = locate(Some(&given), &environment, none).expect("found");
            assert_eq!(located, Located { path: file.clone(), source: Source::Explicit });
        }
        assert_eq!(
            locate(Some(&scratch.path("x")), &environment, none).expect_err("missing").to_string(),
            format!(
                "config file not found: {}\nHint: Check the path or run with --config flag",
                scratch.path("x").display()
            )
        );
        fs::create_dir(scratch.path("empty")).expect("made");
        assert_eq!(
            locate(Some(&scratch.path("empty")), &environment, none).expect_err("empty").to_string(),
            format!("directory provided but config.yaml not found: {}", scratch.path("empty/config.yaml").display())
        );
    }

    #[test]
    fn discovery_takes_the_first_place_that_exists() {
        let scratch = Scratch::new();
        let system = scratch.path("etc");
        let home = scratch.path("home");
        let env_dir = scratch.path("env");
        let environment = Environment::of([
            ("DUCTILE_CONFIG_DIR", env_dir.to_str().expect("UTF-8")),
            ("HOME", home.to_str().expect("UTF-8")),
        ]);
        assert_eq!(
            locate(None, &environment, &system).expect_err("none").to_string(),
            "no config found (checked: $DUCTILE_CONFIG_DIR, ~/.config/ductile, /etc/ductile)"
        );
        let check = |path: PathBuf, source: Source, name: &str| {
            let located = locate(None, &environment, &system).expect("found");
            assert_eq!((located.path, located.source.to_string()), (path, name.to_owned()));
            assert_eq!(located.source, source);
        };
        check(scratch.file("etc/config.yaml", ""), Source::Discovered, "auto-discovered");
        check(scratch.file("home/.config/ductile/config.yaml", ""), Source::Discovered, "auto-discovered");
        check(scratch.file("env/config.yaml", ""), Source::Environment, "env:DUCTILE_CONFIG_DIR");
    }

    #[test]
    fn home_is_expanded_only_alone() {
        let environment = Environment::of([("HOME", "/home/op")]);
        let check = |text: &str, path: &str| assert_eq!(resolve(text, Path::new("/c"), &environment), Path::new(path));
        check("~", "/home/op");
        check("~/x", "/home/op/x");
        check("~other/x", "/c/~other/x");
        check("a/../b/./c", "/c/b/c");
        check("/abs", "/abs");
        assert_eq!(resolve("~/x", Path::new("/c"), &Environment::default()), Path::new("/c/~/x"));
    }

    #[test]
    fn the_seeds_layout_has_its_state_beside_the_config_directory() {
        let scratch = Scratch::new();
        let environment = Environment::default();
        let dir = scratch.path("local/config");
        fs::create_dir_all(&dir).expect("made");
        let check = |text: &str, expected: PathBuf, noted: bool| {
            let (path, note) = resolve_state(text, &dir, &environment);
            assert_eq!((path, note.is_some()), (expected, noted));
        };
        check("./data/ductile.db", dir.join("data/ductile.db"), false);
        fs::create_dir(scratch.path("local/data")).expect("made");
        check("./data/ductile.db", scratch.path("local/data/ductile.db"), true);
        check("/abs/data/x.db", PathBuf::from("/abs/data/x.db"), false);
        fs::create_dir(dir.join("data")).expect("made");
        check("./data/ductile.db", dir.join("data/ductile.db"), false);
    }
}
