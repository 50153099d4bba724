//! The walk below the plugin roots and the checks that a candidate must pass (`spec/plugins.md` 3.2,
//! 3.3). Unreadable directories and bad candidates are notes; links to directories are not followed.

use std::fmt;
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::log::Level;

use super::{Entry, Note, Registry};
use crate::plugin::manifest::{self, MAX_MANIFEST, ManifestError};

/// Directories that hold no plugins of their own.
const PRUNED: [&str; 2] = [".git", "node_modules"];
/// How deep below a root plugins are looked for.
const MAX_DEPTH: usize = 64;
/// What makes a directory without a manifest look like a plugin that lost its own.
const LIKELY_ENTRYPOINTS: [&str; 8] =
    ["run.py", "run.sh", "run.js", "run.ts", "main.py", "main.go", "index.js", "index.ts"];

/// Why the roots can not be searched.
#[derive(Debug)]
pub enum DiscoveryError {
    NoRoot,
    Missing(PathBuf),
    NotDirectory(PathBuf),
    Symlink { path: PathBuf, resolved: PathBuf },
    Scan { root: PathBuf, source: io::Error },
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoot => f.write_str("at least one plugin root is required"),
            Self::Missing(root) => write!(f, "plugin root does not exist: {}", root.display()),
            Self::NotDirectory(root) => write!(f, "plugin root is not a directory: {}", root.display()),
            Self::Symlink { path, resolved } => f.write_str(&symlink_text("plugin_root", path, resolved)),
            Self::Scan { root, .. } => write!(f, "failed to scan plugin root {}", root.display()),
        }
    }
}

impl std::error::Error for DiscoveryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Scan { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Finds every plugin below the roots, in their order; the first of a name stays.
///
/// # Errors
/// `DiscoveryError`, when there is no root or one can not be searched.
pub fn discover(roots: &[PathBuf], allow_symlinks: bool, notes: &mut Vec<Note>) -> Result<Registry, DiscoveryError> {
    if roots.is_empty() {
        return Err(DiscoveryError::NoRoot);
    }
    let mut search = Search { registry: Registry::default(), allow_symlinks, notes };
    for root in roots {
        search.root(root)?;
    }
    Ok(search.registry)
}

struct Search<'n> {
    registry: Registry,
    allow_symlinks: bool,
    notes: &'n mut Vec<Note>,
}

impl Search<'_> {
    fn root(&mut self, root: &Path) -> Result<(), DiscoveryError> {
        let resolved = match fs::canonicalize(root) {
            Ok(resolved) => resolved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DiscoveryError::Missing(root.to_path_buf()));
            }
            Err(source) => return Err(DiscoveryError::Scan { root: root.to_path_buf(), source }),
        };
        if !resolved.is_dir() {
            return Err(DiscoveryError::NotDirectory(root.to_path_buf()));
        }
        if self.allow_link("plugin_root", root, &resolved).is_err() {
            return Err(DiscoveryError::Symlink { path: root.to_path_buf(), resolved });
        }
        let children = sorted(&resolved).map_err(|source| DiscoveryError::Scan { root: root.to_path_buf(), source })?;
        self.entries(&resolved, &resolved, children, 0);
        self.warn_of_lost_manifests(&resolved);
        Ok(())
    }

    /// The entries of one directory in lexical order, its sub-directories in their place.
    fn entries(&mut self, root: &Path, dir: &Path, entries: Vec<DirEntry>, depth: usize) {
        for entry in entries {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                let pruned = PRUNED.iter().any(|name| entry.file_name() == *name);
                if pruned || depth >= MAX_DEPTH {
                    continue;
                }
                match sorted(&path) {
                    Ok(entries) => self.entries(root, &path, entries, depth + 1),
                    Err(error) => self.notes.push(Note::new(
                        Level::Warn,
                        "plugin directory can not be searched",
                        &[("root", &root.display()), ("path", &path.display()), ("error", &error)],
                    )),
                }
            } else if kind.is_file() && entry.file_name() == "manifest.yaml" {
                self.candidate(root, dir, &path);
            }
        }
    }

    fn candidate(&mut self, root: &Path, dir: &Path, manifest_path: &Path) {
        let entry = match self.load(root, dir, manifest_path) {
            Ok(entry) => entry,
            Err(error) => {
                let fields: [(_, &dyn fmt::Display); 3] =
                    [("root", &root.display()), ("path", &dir.display()), ("error", &error)];
                return self.notes.push(Note::new(Level::Warn, "failed to load plugin", &fields));
            }
        };
        if let Some(kept) = self.registry.get(&entry.name) {
            let fields: [(_, &dyn fmt::Display); 3] =
                [("plugin", &entry.name), ("ignored_path", &dir.display()), ("kept_path", &kept.dir.display())];
            let note = Note::new(Level::Warn, "duplicate plugin ignored (keeping first discovered)", &fields);
            return self.notes.push(note);
        }
        let fields: [(_, &dyn fmt::Display); 4] = [
            ("plugin", &entry.name),
            ("path", &dir.display()),
            ("version", &entry.manifest.version),
            ("protocol", &manifest::Manifest::PROTOCOL),
        ];
        self.notes.push(Note::new(Level::Info, "loaded plugin", &fields));
        self.registry.add(entry);
    }

    /// `root` is resolved, `dir` lies below it without a link in between.
    fn load(&mut self, root: &Path, dir: &Path, manifest_path: &Path) -> Result<Entry, Rejection> {
        let text = read_manifest(manifest_path).map_err(Rejection::Read)?;
        let manifest = manifest::parse(&text).map_err(Rejection::Manifest)?;
        let entrypoint = dir.join(&manifest.entrypoint);
        let resolved = fs::canonicalize(&entrypoint).map_err(Rejection::Entrypoint)?;
        self.allow_link("plugin_entrypoint", &entrypoint, &resolved).map_err(Rejection::Trust)?;
        let trust = |text: String| Err(Rejection::Trust(text));
        if !resolved.starts_with(root) {
            return trust(format!("entrypoint {} is not under any configured plugin root", resolved.display()));
        }
        if !resolved.starts_with(dir) {
            let (entrypoint, dir) = (resolved.display(), dir.display());
            return trust(format!("entrypoint {entrypoint} is not under plugin directory {dir}"));
        }
        let metadata = fs::metadata(&resolved).map_err(Rejection::Entrypoint)?;
        if !metadata.is_file() || mode(&metadata) & 0o111 == 0 {
            return trust(format!("entrypoint is not executable: {}", resolved.display()));
        }
        for (what, path) in [("manifest", manifest_path), ("entrypoint", resolved.as_path())] {
            if fs::metadata(path).is_ok_and(|metadata| mode(&metadata) & 0o002 != 0) {
                return trust(format!("{what} is world-writable: {}", path.display()));
            }
        }
        // What lies between the entrypoint and the root could be exchanged as well as the file.
        for ancestor in resolved.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(root)) {
            if fs::metadata(ancestor).is_ok_and(|metadata| mode(&metadata) & 0o002 != 0) {
                return trust(format!("plugin directory is world-writable: {}", ancestor.display()));
            }
        }
        Ok(Entry {
            name: manifest.name.clone(),
            uses: None,
            manifest: Arc::new(manifest),
            manifest_path: manifest_path.to_path_buf(),
            entrypoint_path: resolved,
            dir: dir.to_path_buf(),
        })
    }

    /// A path that is not its resolved self is a link, wherever in it.
    fn allow_link(&mut self, kind: &'static str, path: &Path, resolved: &Path) -> Result<(), String> {
        // `./run.sh` is no link; only its spelling differs.
        if path.components().eq(resolved.components()) {
            return Ok(());
        }
        if !self.allow_symlinks {
            return Err(symlink_text(kind, path, resolved));
        }
        let fields: [(_, &dyn fmt::Display); 3] =
            [("kind", &kind), ("path", &path.display()), ("resolved", &resolved.display())];
        self.notes.push(Note::new(Level::Warn, "symlink detected", &fields));
        Ok(())
    }

    fn warn_of_lost_manifests(&mut self, root: &Path) {
        for entry in sorted(root).unwrap_or_default() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir
                && !path.join("manifest.yaml").exists()
                && LIKELY_ENTRYPOINTS.iter().any(|name| path.join(name).exists())
            {
                self.notes.push(Note::new(
                    Level::Warn,
                    "plugin directory missing manifest.yaml — directory will be ignored",
                    &[("path", &path.display()), ("hint", &"add a manifest.yaml that declares the plugin")],
                ));
            }
        }
    }
}

/// Why a candidate is passed over.
#[derive(Debug)]
enum Rejection {
    Read(io::Error),
    Manifest(ManifestError),
    Entrypoint(io::Error),
    Trust(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "failed to read manifest: {error}"),
            Self::Manifest(error) => error.fmt(f),
            Self::Entrypoint(error) => {
                write!(f, "trust validation failed: failed to resolve entrypoint symlink: {error}")
            }
            Self::Trust(text) => write!(f, "trust validation failed: {text}"),
        }
    }
}

fn symlink_text(kind: &str, path: &Path, resolved: &Path) -> String {
    let (path, resolved) = (path.display(), resolved.display());
    format!("symlink detected for {kind} ({path} -> {resolved}); set service.allow_symlinks=true to allow")
}

fn sorted(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn read_manifest(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode()
}
