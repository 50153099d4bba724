//! Whether a plugin is what was locked: keyed digests of the two files it was handed, and the
//! binding of those to name, principal and account (`spec/vault.md` 13). Digests go to nobody but
//! `plugin lock`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use shared::id::PluginName;
use shared::log::Level;
use shared::wire::vault::Attestation;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::agent::lock;
use crate::checksums::{Checksums, ChecksumsError, Recorded};
use crate::log::say;
use crate::random::hex;
use crate::stamp::Stamp;

/// The longest file that is hashed.
const FILE_MAX: i64 = 64 * 1024 * 1024;
/// Digests kept; with more plugins than this the cache begins anew.
const CACHE_MAX: usize = 4096;
const BINDING_CONTEXT: &str = "ductile plugin binding v1";

/// The nonce and everything that is keyed from it.
pub(crate) struct Attestor {
    nonce: Zeroizing<[u8; 32]>,
    binding_key: Zeroizing<[u8; 32]>,
    checksums: Checksums,
    digests: Mutex<HashMap<Stamp, String>>,
    /// Plugins without a binding that the log has already named.
    warned: Mutex<HashSet<String>>,
}

/// The two files of a plugin, as descriptors.
pub(crate) struct Files<M, E> {
    pub(crate) manifest: M,
    pub(crate) entrypoint: E,
}

/// What was recorded, what is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Match,
    /// With the text of the refusal; no digest is in it.
    Mismatch(String),
    Unrecorded(String),
}

/// Digests and binding of a plugin, lower-case hex.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) manifest_hash: String,
    pub(crate) entrypoint_hash: String,
    pub(crate) binding_mac: String,
}

/// A file that is not hashed.
#[derive(Debug)]
pub(crate) enum AttestError {
    NotRegular {
        which: &'static str,
    },
    TooLong {
        which: &'static str,
    },
    NotExecutable,
    /// While enforcing, somebody else than root could change it.
    Unsafe {
        which: &'static str,
    },
    Read {
        which: &'static str,
        source: Errno,
    },
    Changing {
        which: &'static str,
    },
}

impl fmt::Display for AttestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular { which } => write!(f, "{which} is not a regular file"),
            Self::TooLong { which } => write!(f, "{which} is over {FILE_MAX} bytes"),
            Self::NotExecutable => f.write_str("entrypoint is not executable"),
            Self::Unsafe { which } => write!(f, "{which} must be owned by root and writable by nobody else"),
            Self::Read { which, .. } => write!(f, "cannot read {which}"),
            Self::Changing { which } => write!(f, "{which} changed while it was read"),
        }
    }
}

impl std::error::Error for AttestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Attestor {
    pub(crate) fn new(nonce: Zeroizing<[u8; 32]>, checksums: Option<PathBuf>) -> Self {
        let binding_key = Zeroizing::new(blake3::derive_key(BINDING_CONTEXT, nonce.as_slice()));
        Self {
            nonce,
            binding_key,
            checksums: Checksums::new(checksums),
            digests: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    /// Compares the files with what was locked. An account in the question means that the caller
    /// enforces: then only root may be able to change the files, and the binding must be there.
    ///
    /// # Errors
    /// A file that may not be hashed.
    pub(crate) fn examine<M: AsFd, E: AsFd>(
        &self,
        asked: &Attestation,
        files: &Files<M, E>,
    ) -> Result<Verdict, AttestError> {
        let enforcing = asked.account.is_some();
        let plugin = asked.plugin.as_str();
        let recorded = match self.checksums.read() {
            Ok(recorded) => recorded,
            Err(error @ (ChecksumsError::Unknown | ChecksumsError::Missing { .. })) => {
                return Ok(Verdict::Unrecorded(format!("plugin {plugin:?}: {error}")));
            }
            Err(error) => return Ok(Verdict::Mismatch(format!("plugin {plugin:?}: {}", shared::log::chain(&error)))),
        };
        let Some(recorded) = recorded.get(plugin) else {
            return Ok(Verdict::Unrecorded(format!(
                "plugin {plugin:?} is configured but missing from .checksums plugin_fingerprints; run 'ductile plugin lock {plugin}' to authorize it"
            )));
        };
        let found = self.fingerprint(asked, files, enforcing)?;
        Ok(self.compare(&asked.plugin, recorded, &found, enforcing))
    }

    fn compare(&self, plugin: &PluginName, recorded: &Recorded, found: &Fingerprint, enforcing: bool) -> Verdict {
        let same = |a: &str, b: &str| bool::from(a.as_bytes().ct_eq(b.as_bytes()));
        let hint = format!("run 'ductile plugin lock {plugin}' after reviewing the change");
        let name = plugin.as_str();
        let mismatch = |what: &str| Verdict::Mismatch(format!("plugin {name:?}: {what}; {hint}"));
        if !same(&recorded.manifest_hash, &found.manifest_hash) {
            return mismatch("manifest hash mismatch");
        }
        if !same(&recorded.entrypoint_hash, &found.entrypoint_hash) {
            return mismatch("entrypoint hash mismatch");
        }
        match &recorded.binding_mac {
            Some(mac) if same(mac, &found.binding_mac) => Verdict::Match,
            Some(_) => mismatch("its principal, account, uses or requires_vault is not what was locked"),
            None if enforcing => {
                Verdict::Mismatch(format!("plugin {name:?} has no binding; run 'ductile plugin lock --all'"))
            }
            None => {
                if lock(&self.warned).insert(name.to_owned()) {
                    let msg = "plugin has no binding; run 'ductile plugin lock --all'";
                    say(Level::Warn, msg, &[("plugin", name.into())]);
                }
                Verdict::Match
            }
        }
    }

    /// Digests and binding of what the descriptors hold.
    ///
    /// # Errors
    /// A file that may not be hashed.
    pub(crate) fn fingerprint<M: AsFd, E: AsFd>(
        &self,
        asked: &Attestation,
        files: &Files<M, E>,
        enforcing: bool,
    ) -> Result<Fingerprint, AttestError> {
        let manifest_hash = self.digest(&files.manifest, "manifest", enforcing)?;
        let entrypoint_hash = self.digest(&files.entrypoint, "entrypoint", enforcing)?;
        let binding_mac = binding(&self.binding_key, asked, &manifest_hash, &entrypoint_hash);
        Ok(Fingerprint { manifest_hash, entrypoint_hash, binding_mac })
    }

    fn digest(&self, file: &impl AsFd, which: &'static str, enforcing: bool) -> Result<String, AttestError> {
        let stat = || rustix::fs::fstat(file).map_err(|source| AttestError::Read { which, source });
        let before = stat()?;
        check(&before, which, enforcing)?;
        let stamp = Stamp::of(&before);
        if let Some(digest) = lock(&self.digests).get(&stamp) {
            return Ok(digest.clone());
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce);
        let mut chunk = vec![0; 64 * 1024];
        let mut offset = 0;
        loop {
            match rustix::io::pread(file, &mut chunk, offset) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&chunk[..n]);
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(source) => return Err(AttestError::Read { which, source }),
            }
            if offset > FILE_MAX.unsigned_abs() {
                return Err(AttestError::TooLong { which });
            }
        }
        if Stamp::of(&stat()?) != stamp {
            return Err(AttestError::Changing { which });
        }
        let digest = hex(hasher.finalize().as_bytes());
        if stamp.settled(crate::log::now()) {
            let mut digests = lock(&self.digests);
            if digests.len() >= CACHE_MAX {
                digests.clear();
            }
            digests.insert(stamp, digest.clone());
        }
        Ok(digest)
    }
}

fn check(stat: &Stat, which: &'static str, enforcing: bool) -> Result<(), AttestError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        Err(AttestError::NotRegular { which })
    } else if stat.st_size > FILE_MAX {
        Err(AttestError::TooLong { which })
    } else if which == "entrypoint" && stat.st_mode & 0o111 == 0 {
        Err(AttestError::NotExecutable)
    } else if enforcing && (stat.st_uid != 0 || stat.st_mode & 0o022 != 0) {
        Err(AttestError::Unsafe { which })
    } else {
        Ok(())
    }
}

/// The MAC of `spec/vault.md` 13.2: each field preceded by its length, in this order.
fn binding(key: &[u8; 32], asked: &Attestation, manifest_hash: &str, entrypoint_hash: &str) -> String {
    let account = asked.account.map(|(uid, gid)| format!("{uid}:{gid}")).unwrap_or_default();
    let tree = "";
    let mut hasher = blake3::Hasher::new_keyed(key);
    for field in [
        asked.plugin.as_str().as_bytes(),
        asked.uses.as_bytes(),
        asked.principal.as_bytes(),
        &[u8::from(asked.requires_vault)],
        account.as_bytes(),
        manifest_hash.as_bytes(),
        entrypoint_hash.as_bytes(),
        tree.as_bytes(),
    ] {
        let length = u32::try_from(field.len()).expect("a frame bounds every field");
        hasher.update(&length.to_le_bytes()).update(field);
    }
    hex(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
