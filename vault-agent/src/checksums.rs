//! The recorded fingerprints: `.checksums` as `plugin lock` wrote it. Read afresh for each
//! question; parsed again only when the file has changed.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;

use crate::files;
use crate::stamp::Stamp;
use crate::yaml::{self, YamlError};

/// The longest `.checksums`.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// What `plugin lock` recorded of one plugin, as far as the agent looks at it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Recorded {
    name: String,
    #[serde(default)]
    pub(crate) manifest_hash: String,
    #[serde(default)]
    pub(crate) entrypoint_hash: String,
    #[serde(default)]
    pub(crate) binding_mac: Option<String>,
}

#[derive(Default, Deserialize)]
struct Manifest {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    plugin_fingerprints: Option<Vec<Recorded>>,
}

/// All of them, by plugin.
pub(crate) type Fingerprints = HashMap<String, Recorded>;

/// Why there are no fingerprints to compare with.
#[derive(Debug)]
pub(crate) enum ChecksumsError {
    Unknown,
    Missing { path: PathBuf },
    Read { path: PathBuf, source: io::Error },
    Parse { path: PathBuf, source: YamlError },
    Version { version: i64 },
    Twice { plugin: String },
}

impl fmt::Display for ChecksumsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the agent was told of no checksums file (--config or --checksums)"),
            Self::Missing { path } => {
                write!(f, "checksums file not found (run 'ductile config lock'): {}", path.display())
            }
            Self::Read { path, .. } => write!(f, "failed to read checksums: {}", path.display()),
            Self::Parse { path, .. } => write!(f, "failed to parse checksums: {}", path.display()),
            Self::Version { version } => write!(f, "unsupported checksums version: {version}"),
            Self::Twice { plugin } => write!(f, "failed to parse checksums: plugin {plugin:?} is recorded twice"),
        }
    }
}

impl std::error::Error for ChecksumsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The file and what it held when it was last parsed.
pub(crate) struct Checksums {
    path: Option<PathBuf>,
    parsed: Mutex<Option<(Stamp, Arc<Fingerprints>)>>,
}

impl Checksums {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path, parsed: Mutex::new(None) }
    }

    /// What the file holds now.
    ///
    /// # Errors
    /// Anything but a whole manifest of version 2.
    pub(crate) fn read(&self) -> Result<Arc<Fingerprints>, ChecksumsError> {
        let path = self.path.as_deref().ok_or(ChecksumsError::Unknown)?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ChecksumsError::Missing { path: path.to_owned() },
            _ => ChecksumsError::Read { path: path.to_owned(), source: error },
        };
        let mut parsed = crate::agent::lock(&self.parsed);
        let named = rustix::fs::stat(path).map_err(|error| failed(error.into()))?;
        if let Some((stamp, fingerprints)) = &*parsed
            && *stamp == Stamp::of(&named)
        {
            return Ok(Arc::clone(fingerprints));
        }
        let file = File::open(path).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let fingerprints = Arc::new(parse(&files::read_text(&file, FILE_MAX).map_err(failed)?, path)?);
        let stamp = Stamp::of(&stat);
        *parsed = stamp.settled(crate::log::now()).then(|| (stamp, Arc::clone(&fingerprints)));
        Ok(fingerprints)
    }
}

fn parse(text: &str, path: &Path) -> Result<Fingerprints, ChecksumsError> {
    let manifest: Manifest =
        yaml::parse(text).map_err(|source| ChecksumsError::Parse { path: path.to_owned(), source })?;
    if manifest.version != 2 {
        return Err(ChecksumsError::Version { version: manifest.version });
    }
    let mut fingerprints = Fingerprints::new();
    for entry in manifest.plugin_fingerprints.unwrap_or_default() {
        let name = entry.name.clone();
        if fingerprints.insert(name.clone(), entry).is_some() {
            return Err(ChecksumsError::Twice { plugin: name });
        }
    }
    Ok(fingerprints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const GOOD: &str = "version: 2\ngenerated_at: \"x\"\nhashes:\n    /a: b\nplugin_fingerprints:\n    - name: fabric\n      enabled: true\n      manifest_hash: aa\n      entrypoint_hash: bb\n";

    fn error(text: &str) -> String {
        shared::log::chain(&parse(text, Path::new("/c/.checksums")).expect_err("refused"))
    }

    #[test]
    fn entries_are_found_by_name_with_or_without_a_binding() {
        let found = parse(&format!("{GOOD}    - name: b\n      binding_mac: cc\n"), Path::new("/c")).expect("good");
        assert_eq!((found["fabric"].manifest_hash.as_str(), found["fabric"].binding_mac.as_deref()), ("aa", None));
        assert_eq!(found["b"].binding_mac.as_deref(), Some("cc"));
        assert!(parse("version: 2\n", Path::new("/c")).expect("no fingerprint").is_empty());
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert_eq!(error(""), "unsupported checksums version: 0");
        assert_eq!(error("version: 3"), "unsupported checksums version: 3");
        assert!(error("version: [").starts_with("failed to parse checksums: /c/.checksums: malformed YAML at line"));
        assert!(error("- a\n").starts_with("failed to parse checksums"));
        let twice = format!("{GOOD}    - name: fabric\n      manifest_hash: cc\n");
        assert_eq!(error(&twice), "failed to parse checksums: plugin \"fabric\" is recorded twice");
        let bomb =
            "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nversion: *c\n";
        assert!(error(bomb).starts_with("failed to parse checksums"));
    }

    #[test]
    fn a_change_is_seen_at_once() {
        let dir = Scratch::new();
        let checksums = Checksums::new(Some(dir.path(".checksums")));
        assert!(matches!(checksums.read(), Err(ChecksumsError::Missing { .. })));
        for hash in ["aa", "cc", "dd"] {
            dir.file(".checksums", &GOOD.replace("aa", hash), 0o600);
            assert_eq!(checksums.read().expect("good")["fabric"].manifest_hash, hash);
        }
        std::fs::write(dir.path(".checksums"), GOOD.replace("aa", "ee")).expect("in place");
        assert_eq!(checksums.read().expect("good")["fabric"].manifest_hash, "ee");
        assert!(matches!(Checksums::new(None).read(), Err(ChecksumsError::Unknown)));
        std::fs::write(dir.path(".checksums"), b"\xff").expect("in place");
        assert!(matches!(checksums.read(), Err(ChecksumsError::Read { .. })));
    }
}
