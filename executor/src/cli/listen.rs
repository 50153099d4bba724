//! The launcher's two listeners, for the CLI alone (`spec/operations.md` 16.1): bound in the
//! directory of `state.path`, mode 0600, handed over, and taken away at the end.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path of a socket that every part of Ductile takes, in bytes.
pub(super) const PATH_MAX: usize = 104;

/// Why a socket could not be bound.
#[derive(Debug)]
pub(super) enum ListenError {
    PathTooLong { path: PathBuf },
    Answers { path: PathBuf },
    NoSocket { path: PathBuf },
    Look { path: PathBuf, error: io::Error },
    Remove { path: PathBuf, error: io::Error },
    Bind { path: PathBuf, error: io::Error },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathTooLong { path } => write!(
                f,
                "socket path {} has {} bytes, more than {PATH_MAX}: configure a shorter state.path",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Answers { path } => write!(f, "somebody answers on {}: another instance is running", path.display()),
            Self::NoSocket { path } => {
                write!(f, "{} exists and is not a socket: refusing to remove it", path.display())
            }
            Self::Look { path, .. } => write!(f, "look at {}", path.display()),
            Self::Remove { path, .. } => write!(f, "remove stale socket {}", path.display()),
            Self::Bind { path, .. } => write!(f, "bind {}", path.display()),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Look { error, .. } | Self::Remove { error, .. } | Self::Bind { error, .. } => Some(error),
            Self::PathTooLong { .. } | Self::Answers { .. } | Self::NoSocket { .. } => None,
        }
    }
}

/// A bound path; removed when this is dropped, if it still is the same socket.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Bound {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if same {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds `path`, in the place of a socket that nobody answers on any more.
///
/// # Errors
/// As `ListenError`; what lies at the path is left as it is, unless it was such a socket.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, Bound), ListenError> {
    let owned = || path.to_owned();
    if path.as_os_str().as_bytes().len() > PATH_MAX {
        return Err(ListenError::PathTooLong { path: owned() });
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ListenError::Look { path: owned(), error }),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NoSocket { path: owned() }),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::Answers { path: owned() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| ListenError::Remove { path: owned(), error })?;
            }
            Err(error) => return Err(ListenError::Look { path: owned(), error }),
        },
    }
    // The umask of every Ductile program is 0077, so the socket is never wider than its owner.
    let bind_error = |error| ListenError::Bind { path: owned(), error };
    let listener = UnixListener::bind(path).map_err(bind_error)?;
    let found = std::fs::symlink_metadata(path).map_err(bind_error)?;
    let bound = Bound { path: owned(), identity: (found.dev(), found.ino()) };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(bind_error)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::scratch::Scratch;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let scratch = Scratch::new("listen-stale");
        let path = scratch.join("a.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let (listener, bound) = bind(&path).expect("the stale one gives way");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert!(matches!(bind(&path), Err(ListenError::Answers { .. })));
        drop((listener, bound));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_or_no_longer_ours_is_left_alone() {
        let scratch = Scratch::new("listen-other");
        let path = scratch.join("b.sock");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(bind(&path), Err(ListenError::NoSocket { .. })));
        std::fs::remove_file(&path).expect("removed");
        let (_listener, bound) = bind(&path).expect("free");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "another's").expect("written");
        drop(bound);
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "another's");
    }

    #[test]
    fn a_long_path_is_refused_with_what_to_configure() {
        let error = bind(&Path::new("/tmp").join("x".repeat(PATH_MAX))).expect_err("too long");
        assert!(error.to_string().ends_with("more than 104: configure a shorter state.path"), "{error}");
    }
}
