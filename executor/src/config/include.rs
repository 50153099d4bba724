//! From the root file to the merged whole: reads the files, follows `include:` depth first, loads
//! env files on the way, and keeps count of everything that is wrong (`spec/config.md` 2, 3).

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::environment::{Environment, Template};
use super::paths::{clean, expand_home};
use super::raw;
use super::section::{Field, Findings, FromNode as _, IgnoredKey, Slot};
use crate::yaml::{MAX_TEXT, Node, quoted};

/// The most files that one configuration may have.
const MAX_FILES: usize = 1000;

/// All files of a configuration, merged but not checked.
pub(super) struct Sources {
    pub(super) raw: raw::Config,
    /// Absolute; the root first, then in the order they were read.
    pub(super) files: Vec<PathBuf>,
    /// What `environment_vars.include` names, absolute.
    pub(super) env_files: Vec<PathBuf>,
    pub(super) environment: Environment,
    pub(super) ignored: Vec<IgnoredKey>,
}

/// Reads the root and all that it includes.
///
/// # Errors
/// Everything that is wrong, one text each, in the order met.
pub(super) fn read(root: &Path, environment: &Environment) -> Result<Sources, Vec<String>> {
    let mut walk = Walk {
        sources: Sources {
            raw: raw::Config::default(),
            files: Vec::new(),
            env_files: Vec::new(),
            environment: environment.clone(),
            ignored: Vec::new(),
        },
        visited: HashSet::new(),
        problems: Vec::new(),
    };
    walk.visited.insert(identity(root));
    let read_failed = format!("failed to read config file {}", root.display());
    walk.file(root, &read_failed, &format!("failed to parse config file {}", root.display()));
    let Walk { mut sources, problems, .. } = walk;
    if !problems.is_empty() {
        return Err(problems);
    }
    sources.ignored.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(sources)
}

struct Walk {
    sources: Sources,
    visited: HashSet<PathBuf>,
    problems: Vec<String>,
}

impl Walk {
    /// One file and, right after it was merged, its own includes. The two texts begin the
    /// complaints about it.
    fn file(&mut self, path: &Path, read_failed: &str, parse_failed: &str) {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => return self.problems.push(format!("{read_failed}: {error}")),
        };
        if is_age(&text) {
            return self.problems.push(sealed(path));
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let template = match Template::parse(&text, &name) {
            Ok(template) => template,
            Err(error) => return self.problems.push(format!("{parse_failed}: {error}")),
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        for (index, entry) in texts_at(&template.resolve(&self.sources.environment), &["environment_vars", "include"]) {
            self.env_file(index, &entry, dir);
        }
        let node = template.resolve(&self.sources.environment);
        let findings = Findings::of(path);
        let read = raw::Config::read(&Slot::of_file(&node, &findings)).unwrap_or_default();
        let (problems, ignored) = findings.into_parts();
        self.problems.extend(problems);
        self.sources.ignored.extend(ignored);
        let includes = read.include.clone();
        let merged = std::mem::take(&mut self.sources.raw).merge(read);
        self.sources.raw = merged;
        self.sources.files.push(path.to_path_buf());
        for (index, entry) in includes.iter().enumerate() {
            self.include(index, entry, dir);
        }
    }

    fn include(&mut self, index: usize, entry: &str, base: &Path) {
        let path = clean(&base.join(entry));
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.problems.push(format!(
                    "include[{index}]: file not found: {}\nReferenced from: {}\nHint: Check the path is correct and the file exists",
                    path.display(),
                    base.display()
                ));
            }
            Err(error) => return self.problems.push(inaccessible(index, &path, &error)),
        };
        let files = if metadata.is_dir() {
            match yaml_files(&path) {
                Ok(files) => files,
                Err(error) => return self.problems.push(inaccessible(index, &path, &error)),
            }
        } else {
            vec![path]
        };
        for file in files {
            if !self.visited.insert(identity(&file)) {
                self.problems.push(format!("include[{index}]: circular dependency detected: {}", file.display()));
            } else if self.visited.len() > MAX_FILES {
                return self.problems.push(format!("include[{index}]: more than {MAX_FILES} configuration files"));
            } else {
                let begin = format!("include[{index}] ({entry}): failed to");
                self.file(&file, &format!("{begin} read file"), &format!("{begin} parse YAML"));
            }
        }
    }

    fn env_file(&mut self, index: usize, entry: &str, dir: &Path) {
        let path = clean(&dir.join(expand_home(entry, &self.sources.environment)));
        let begin = format!("environment_vars.include[{index}]");
        match read_text(&path) {
            Ok(text) if is_age(&text) => self.problems.push(sealed(&path)),
            Ok(text) => match std::str::from_utf8(&text) {
                Ok(text) => {
                    if let Err(line) = self.sources.environment.add_file(text) {
                        self.problems.push(format!("invalid env line {line} in {}", path.display()));
                    }
                    self.sources.env_files.push(path);
                }
                Err(_) => self.problems.push(format!("{begin}: not UTF-8: {}", path.display())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.problems.push(format!("{begin}: file not found: {}", path.display()));
            }
            Err(error) => {
                self.problems.push(format!("{begin}: failed to read file {}: {error}", path.display()));
            }
        }
    }
}

fn inaccessible(index: usize, path: &Path, error: &io::Error) -> String {
    format!("include[{index}]: failed to access file {}: {error}", path.display())
}

fn sealed(path: &Path) -> String {
    format!(
        "decrypt {}: the file is age-encrypted, which only the vault agent can open",
        quoted(&path.to_string_lossy())
    )
}

/// Both armours of age are told by their first line.
fn is_age(text: &[u8]) -> bool {
    let start = text.trim_ascii_start();
    start.starts_with(b"age-encryption.org/v1") || start.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// A regular file's bytes, one more than may be parsed at most. Anything else could block or
/// never end.
fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_TEXT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The `*.yaml` files of a directory by name, its sub-directories left alone.
fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What tells one file from another, whatever path leads to it.
fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The texts of a list below a path of keys, before the file as a whole is read.
fn texts_at(node: &Node, keys: &[&str]) -> Vec<(usize, String)> {
    let found = keys.iter().try_fold(node, |node, key| node.get(key));
    let findings = Findings::of(Path::new(""));
    let mut texts: Vec<String> = Vec::new();
    if let Some(list) = found {
        texts.read_into(&Slot::of_file(list, &findings));
    }
    texts.into_iter().enumerate().collect()
}
