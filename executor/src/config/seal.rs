//! `.checksums` (`spec/config.md` 8.1, `spec/vault.md` 13.2): the hashes of the configuration's files
//! and the fingerprints of its plugins. Two halves with two makers: `config lock` makes the first
//! and carries the second over, `plugin lock` the other way round. Hashes here are unkeyed; what is
//! keyed, only the vault agent can make.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use crate::yaml::{self, YamlError};

/// The manifest's name in its directory.
pub const FILE: &str = ".checksums";
const VERSION: i64 = 2;
/// Sealed whenever they lie in the directory, included or not.
const CONVENTIONAL: [&str; 6] =
    ["config.yaml", "webhooks.yaml", "routes.yaml", "relay-instances.yaml", "relay-ingress.yaml", "tokens.yaml"];

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    version: i64,
    /// UTC, whole seconds.
    generated_at: String,
    /// Absolute path to lower-case hex of BLAKE3-256 over the file's bytes.
    #[serde(default)]
    pub hashes: BTreeMap<String, String>,
    /// Sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugin_fingerprints: Vec<Fingerprint>,
}

/// What `plugin lock` recorded of one plugin or alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub name: String,
    #[serde(default)]
    pub enabled: bool,
    /// Base plugin of an alias, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uses: String,
    #[serde(default)]
    pub manifest_path: String,
    #[serde(default)]
    pub manifest_resolved_path: String,
    #[serde(default)]
    pub manifest_hash: String,
    #[serde(default)]
    pub entrypoint_path: String,
    #[serde(default)]
    pub entrypoint_resolved_path: String,
    #[serde(default)]
    pub entrypoint_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_mac: Option<String>,
}

/// Why a manifest could not be read or written.
#[derive(Debug)]
pub enum SealError {
    Missing(PathBuf),
    Read(PathBuf, io::Error),
    Parse(YamlError),
    Version(i64),
    Hash(PathBuf, io::Error),
    Write(PathBuf, io::Error),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => {
                write!(f, "checksums file not found (run 'ductile config lock'): {}", path.display())
            }
            Self::Read(path, _) => write!(f, "failed to read checksums: {}", path.display()),
            Self::Parse(_) => f.write_str("failed to parse checksums"),
            Self::Version(version) => write!(f, "unsupported checksums version: {version}"),
            Self::Hash(path, _) => write!(f, "failed to hash {}", path.display()),
            Self::Write(path, _) => write!(f, "failed to write {}", path.display()),
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) | Self::Hash(_, error) | Self::Write(_, error) => Some(error),
            Self::Parse(error) => Some(error),
            Self::Missing(_) | Self::Version(_) => None,
        }
    }
}

impl Seal {
    /// Reads the manifest of a directory.
    ///
    /// # Errors
    /// Missing, unreadable, no manifest, or of another version.
    pub fn read(dir: &Path) -> Result<Self, SealError> {
        let path = dir.join(FILE);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SealError::Missing(path.clone()),
            _ => SealError::Read(path.clone(), error),
        })?;
        let seal: Self = yaml::decode(&text, FILE).map_err(SealError::Parse)?;
        if seal.version == VERSION { Ok(seal) } else { Err(SealError::Version(seal.version)) }
    }

    /// A manifest over `files`, which carries over what `before` recorded of `plugins`.
    ///
    /// # Errors
    /// A file that can not be read.
    pub fn over(
        files: &[PathBuf],
        before: Option<Self>,
        plugins: &[String],
        now: Timestamp,
    ) -> Result<Self, SealError> {
        let mut hashes = BTreeMap::new();
        for file in files {
            let bytes = fs::read(file).map_err(|error| SealError::Hash(file.clone(), error))?;
            hashes.insert(file.display().to_string(), blake3::hash(&bytes).to_hex().to_string());
        }
        let mut plugin_fingerprints = before.map(|seal| seal.plugin_fingerprints).unwrap_or_default();
        plugin_fingerprints.retain(|fingerprint| plugins.contains(&fingerprint.name));
        Ok(Self { version: VERSION, generated_at: seconds(now), hashes, plugin_fingerprints })
    }

    /// Records one plugin anew; the others stay.
    pub fn record(&mut self, fingerprint: Fingerprint) {
        self.plugin_fingerprints.retain(|known| known.name != fingerprint.name);
        self.plugin_fingerprints.push(fingerprint);
        self.plugin_fingerprints.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Puts the manifest in the place of the one in `dir`: atomic, on disk, with owner and mode of
    /// the one before, else the directory's owner and 0600, or 0640 where its group can read.
    ///
    /// # Errors
    /// `Write`; the manifest before is untouched then.
    pub fn write(&self, dir: &Path) -> Result<(), SealError> {
        let path = dir.join(FILE);
        let text = yaml::encode(self).map_err(SealError::Parse)?;
        replace(&path, dir, text.as_bytes()).map_err(|error| SealError::Write(path, error))
    }
}

fn replace(path: &Path, dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let (owner, mode) = match fs::metadata(path) {
        Ok(before) => (before.clone(), before.mode() & 0o777),
        // In the split the agent reads it by its group, and the directory says so (0750).
        Err(_) => {
            let dir = fs::metadata(dir)?;
            let mode = if dir.mode() & 0o040 == 0 { 0o600 } else { 0o640 };
            (dir, mode)
        }
    };
    let fresh = dir.join(format!("{FILE}.tmp-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
            std::os::unix::fs::fchown(file.as_fd(), Some(owner.uid()), Some(owner.gid()))?;
        }
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the write has failed already, and says why.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// The files that a seal of this configuration covers: what was read, and what has a conventional
/// name in its directory.
pub fn files(read: &[PathBuf], dir: &Path) -> Vec<PathBuf> {
    let mut files: BTreeSet<PathBuf> = read.iter().cloned().collect();
    files.extend(CONVENTIONAL.iter().map(|name| dir.join(name)).filter(|path| path.is_file()));
    if let Ok(scopes) = fs::read_dir(dir.join("scopes")) {
        let scopes = scopes.flatten().map(|entry| entry.path());
        files.extend(scopes.filter(|path| path.extension().is_some_and(|ext| ext == "json") && path.is_file()));
    }
    files.into_iter().collect()
}

/// Whether a file's change is an error even where others warn (`spec/config.md` 1.1).
pub fn is_high_security(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    name == "tokens.yaml" || name == "webhooks.yaml" || file.parent().is_some_and(|dir| dir.ends_with("scopes"))
}

/// The code that commits a preview of `plugin lock --all`: any change of a byte makes another.
pub fn confirm_code(fingerprints: &[Fingerprint]) -> String {
    let mut hasher = blake3::Hasher::new();
    for fingerprint in fingerprints {
        for text in [&fingerprint.name, &fingerprint.uses, &fingerprint.manifest_hash, &fingerprint.entrypoint_hash] {
            hasher.update(text.as_bytes());
            hasher.update(&[0]);
        }
        hasher.update(&[u8::from(fingerprint.enabled)]);
    }
    hasher.finalize().to_hex()[..5].to_owned()
}

fn seconds(now: Timestamp) -> String {
    let text = now.to_string();
    format!("{}Z", &text[..19])
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    fn fingerprint(name: &str) -> Fingerprint {
        Fingerprint {
            name: name.to_owned(),
            enabled: true,
            uses: String::new(),
            manifest_path: format!("/p/{name}/manifest.yaml"),
            manifest_resolved_path: format!("/p/{name}/manifest.yaml"),
            manifest_hash: "aa".to_owned(),
            entrypoint_path: format!("/p/{name}/run"),
            entrypoint_resolved_path: format!("/p/{name}/run"),
            entrypoint_hash: "bb".to_owned(),
            binding_mac: Some("cc".to_owned()),
        }
    }

    const NOW: Timestamp = Timestamp::from_unix_nanos(1_780_650_000_123_456_789);

    #[test]
    fn a_seal_is_read_back_as_it_was_written_and_carries_fingerprints_over() {
        let scratch = Scratch::new();
        let dir = &scratch.path("");
        fs::write(dir.join("config.yaml"), "service: {}\n").expect("write");
        let files = files(&[dir.join("config.yaml")], dir);
        let mut seal = Seal::over(&files, None, &[], NOW).expect("sealed");
        seal.record(fingerprint("b"));
        seal.record(fingerprint("a"));
        seal.record(Fingerprint { manifest_hash: "dd".to_owned(), ..fingerprint("b") });
        seal.write(dir).expect("written");
        let mode = || fs::metadata(dir.join(FILE)).expect("there").mode() & 0o777;
        let expected = if fs::metadata(dir).expect("there").mode() & 0o040 == 0 { 0o600 } else { 0o640 };
        assert_eq!(mode(), expected);
        let read = Seal::read(dir).expect("read");
        assert_eq!(read, seal);
        assert_eq!(read.generated_at, "2026-06-05T09:00:00Z");
        let again = Seal::over(&files, Some(read), &["b".to_owned()], NOW).expect("sealed");
        assert_eq!(again.plugin_fingerprints.len(), 1);
        assert_eq!(again.plugin_fingerprints[0].manifest_hash, "dd");
        assert_eq!(fs::read_dir(dir).expect("dir").count(), 2, "no temporary file is left");
    }

    #[test]
    fn what_is_no_manifest_is_refused_by_its_kind() {
        let scratch = Scratch::new();
        let dir = &scratch.path("");
        let text = |error: SealError| shared::log::chain(&error);
        assert!(
            text(Seal::read(dir).expect_err("none"))
                .starts_with("checksums file not found (run 'ductile config lock')")
        );
        for (content, expected) in [
            ("version: 1\ngenerated_at: x\n", "unsupported checksums version: 1"),
            ("[", "failed to parse checksums"),
            ("version: 2\ngenerated_at: [\n", "failed to parse checksums"),
            ("\0", "failed to parse checksums"),
        ] {
            fs::write(dir.join(FILE), content).expect("write");
            assert!(text(Seal::read(dir).expect_err(content)).starts_with(expected), "{content:?}");
        }
    }

    #[test]
    fn the_code_changes_with_every_part() {
        let base = confirm_code(&[fingerprint("a")]);
        assert_eq!(base.len(), 5);
        for other in [
            fingerprint("b"),
            Fingerprint { enabled: false, ..fingerprint("a") },
            Fingerprint { uses: "x".to_owned(), ..fingerprint("a") },
            Fingerprint { manifest_hash: "ab".to_owned(), ..fingerprint("a") },
            Fingerprint { entrypoint_hash: "bc".to_owned(), ..fingerprint("a") },
        ] {
            assert_ne!(confirm_code(&[other]), base);
        }
    }
}
