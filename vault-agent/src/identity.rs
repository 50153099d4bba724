//! The age identity: where it comes from, whether its file may be used, its recipients. The key is
//! wiped when dropped and never printed.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use age::x25519;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::files;

/// The longest key file.
const KEY_MAX: u64 = 1024 * 1024;

/// A place where the key may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    /// The place in words, for `status`.
    pub(crate) source: &'static str,
    /// Named by somebody: a missing file is an error then, and nothing else is tried.
    pub(crate) explicit: bool,
    /// A credential of the service manager, which owns the file and grants the read by ACL.
    pub(crate) credential: bool,
}

/// The loaded key.
pub(crate) struct Identity {
    keys: Vec<x25519::Identity>,
    pub(crate) source: &'static str,
}

/// Why there is no usable key.
#[derive(Debug)]
pub(crate) enum IdentityError {
    Open { path: PathBuf, source: io::Error },
    Symlink { path: PathBuf },
    NotRegular { path: PathBuf },
    Permissions { path: PathBuf, mode: u32 },
    Owner { path: PathBuf, owner: u32, uid: u32 },
    Read { path: PathBuf, source: io::Error },
    NotX25519 { path: PathBuf, line: usize },
    Empty { path: PathBuf },
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "open age key file {path:?}"),
            Self::Symlink { path } => write!(f, "age key file {path:?} is a symbolic link; name the file itself"),
            Self::NotRegular { path } => write!(f, "age key file {path:?} is not a regular file"),
            Self::Permissions { path, mode } => write!(
                f,
                "age key file {path:?} has insecure permissions {mode:04o}: must not be readable by group or others (chmod 600 {})",
                path.display()
            ),
            Self::Owner { path, owner, uid } => {
                write!(f, "age key file {path:?} belongs to uid {owner}, not to uid {uid} that runs this program")
            }
            Self::Read { path, .. } => write!(f, "read age key file {path:?}"),
            Self::NotX25519 { path, line } => {
                write!(f, "age key file {path:?} line {line} is not an X25519 identity: cannot derive a recipient")
            }
            Self::Empty { path } => write!(f, "age key file {path:?} holds no identity"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Identity {
    /// The first candidate that is there; `None` when no one named a key and no default exists.
    ///
    /// # Errors
    /// An explicit key that is missing, or any key that may not be used.
    pub(crate) fn find(candidates: &[Candidate]) -> Result<Option<Self>, IdentityError> {
        for candidate in candidates {
            match Self::load(candidate) {
                Err(IdentityError::Open { source, .. })
                    if !candidate.explicit && source.kind() == io::ErrorKind::NotFound => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    /// Opens, checks what was opened, reads (`spec/vault.md` 16.3).
    fn load(candidate: &Candidate) -> Result<Self, IdentityError> {
        let path = candidate.path.clone();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(IdentityError::Symlink { path }),
            Err(error) => return Err(IdentityError::Open { path, source: error.into() }),
        };
        let meta = match file.metadata() {
            Ok(meta) => meta,
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        let mode = meta.mode() & 0o7777;
        let forbidden = if candidate.credential { 0o007 } else { 0o077 };
        let uid = rustix::process::geteuid().as_raw();
        if !meta.is_file() {
            return Err(IdentityError::NotRegular { path });
        } else if mode & forbidden != 0 {
            return Err(IdentityError::Permissions { path, mode });
        } else if meta.uid() != uid && !candidate.credential {
            return Err(IdentityError::Owner { path, owner: meta.uid(), uid });
        }
        match files::read_text(&file, KEY_MAX) {
            Ok(text) => Ok(Self { keys: parse(&text, &path)?, source: candidate.source }),
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// All keys, for decryption.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| key as &dyn age::Identity)
    }

    /// The public half of every key.
    pub(crate) fn recipients(&self) -> Vec<x25519::Recipient> {
        self.keys.iter().map(x25519::Identity::to_public).collect()
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<x25519::Identity>, IdentityError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = x25519::Identity::from_str(line);
        keys.push(key.map_err(|_| IdentityError::NotX25519 { path: path.to_owned(), line: index + 1 })?);
    }
    if keys.is_empty() { Err(IdentityError::Empty { path: path.to_owned() }) } else { Ok(keys) }
}

#[cfg(test)]
pub(crate) fn for_tests() -> Identity {
    Identity { keys: vec![x25519::Identity::generate()], source: "test" }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use age::secrecy::ExposeSecret as _;

    use super::*;
    use crate::scratch::Scratch;

    fn key_text() -> String {
        let key = x25519::Identity::generate();
        format!("# created by a test\n# public key: {}\n{}\n", key.to_public(), key.to_string().expose_secret())
    }

    fn candidate(path: &Path) -> Candidate {
        Candidate { path: path.to_owned(), source: "--key", explicit: true, credential: false }
    }

    #[track_caller]
    fn refused(candidate: &Candidate) -> String {
        let Err(error) = Identity::find(std::slice::from_ref(candidate)) else { panic!("taken") };
        error.to_string()
    }

    #[test]
    fn a_private_key_of_our_own_loads() {
        let dir = Scratch::new();
        let path = dir.file("age.key", &format!("{}{}", key_text(), key_text()), 0o600);
        let identity = Identity::find(&[candidate(&path)]).expect("usable").expect("there");
        assert_eq!((identity.recipients().len(), identity.source), (2, "--key"));
    }

    #[test]
    fn loose_modes_and_links_are_refused() {
        let dir = Scratch::new();
        let path = dir.file("age.key", &key_text(), 0o600);
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            let expected = format!(
                "age key file {path:?} has insecure permissions 0{mode:o}: must not be readable by group or others (chmod 600 {})",
                path.display()
            );
            assert_eq!(refused(&candidate(&path)), expected);
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o440)).expect("chmod");
        let credential = Candidate { credential: true, ..candidate(&path) };
        assert!(Identity::find(&[credential]).expect("group bits of an ACL").is_some());
        std::os::unix::fs::symlink(&path, dir.path("link")).expect("link");
        assert!(refused(&candidate(&dir.path("link"))).contains("symbolic link"));
        assert!(refused(&candidate(&dir.path("."))).contains("not a regular file"));
    }

    #[test]
    fn only_a_default_may_be_absent() {
        let dir = Scratch::new();
        let absent = Candidate { explicit: false, ..candidate(&dir.path("none")) };
        assert!(Identity::find(std::slice::from_ref(&absent)).expect("encryption off").is_none());
        assert!(refused(&Candidate { explicit: true, ..absent.clone() }).contains("none"));
        let bad = dir.file("bad", "AGE-SECRET-KEY-1NONSENSE\n", 0o600);
        let (absent, bad) = (absent, Candidate { explicit: false, ..candidate(&bad) });
        assert!(Identity::find(&[absent, bad]).is_err(), "present but bad is an error");
    }

    #[test]
    fn what_is_no_identity_is_named_by_its_line_alone() {
        let dir = Scratch::new();
        for bad in ["", "# only a comment\n", "AGE-PLUGIN-YUBIKEY-1QQQ", "ssh-ed25519 AAAA", "age1xyz", "\u{0}\u{1}"] {
            let path = dir.file("bad", bad, 0o600);
            let text = refused(&candidate(&path));
            assert!(bad.is_empty() || !text.contains(bad), "{text}");
        }
    }
}
