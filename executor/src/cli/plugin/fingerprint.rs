//! Who hashes for `plugin lock`: the one-shot agent where the key can be read, else the running
//! agent, which asks for the admin token. The CLI opens the files, and never sees the nonce.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use shared::secret::Secret;
use shared::wire::frame::{Envelope, LINE_MAX};
use shared::wire::launch::Started;
use shared::wire::refusal::Refusal;
use shared::wire::vault::{Attestation, Reply, Request};
use shared::wire::{codec, fds};

use crate::cli::client::ClientError;
use crate::cli::instance::Keyed;
use crate::cli::launch::{LaunchError, Programs, User};
use crate::cli::vault::AgentClient;

/// How long one answer may take: two files of up to 64 MiB, read from a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the agent computed for one plugin, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) manifest_hash: String,
    pub(super) entrypoint_hash: String,
    pub(super) binding_mac: String,
}

/// Why a plugin was not fingerprinted.
#[derive(Debug)]
pub(super) enum FingerprintError {
    Open {
        path: PathBuf,
        error: io::Error,
    },
    Launch(LaunchError),
    /// The agent's own text.
    Failed(String),
    Line(io::Error),
    NoAnswer,
    Refused(Refusal),
    Client(ClientError),
}

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "open {}", path.display()),
            Self::Launch(error) => error.fmt(f),
            Self::Failed(text) => f.write_str(text),
            Self::Line(_) => f.write_str("line to the vault agent"),
            Self::NoAnswer => f.write_str("the vault agent ended without an answer"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Client(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FingerprintError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { error, .. } | Self::Line(error) => Some(error),
            Self::Launch(error) => error.source(),
            Self::Client(error) => error.source(),
            Self::Failed(_) | Self::NoAnswer | Self::Refused(_) => None,
        }
    }
}

/// An agent that hashes.
pub(super) enum Hasher {
    OneShot { agent: Child, line: OwnedFd, call: u64 },
    Running { client: AgentClient, token: Secret },
}

impl Hasher {
    /// Starts the one-shot agent and waits until it has opened the vault.
    ///
    /// # Errors
    /// As `FingerprintError`; the agent is gone then.
    pub(super) fn one_shot(keyed: &Keyed, config_dir: &Path) -> Result<Self, FingerprintError> {
        let arguments = [
            OsStr::new("fingerprint"),
            OsStr::new("--vault"),
            keyed.vault.as_os_str(),
            OsStr::new("--key"),
            keyed.key.as_os_str(),
        ];
        let user = User::owning(&keyed.vault, Some(config_dir)).map_err(FingerprintError::Launch)?;
        let (agent, line) = Programs::beside_own()
            .and_then(|programs| programs.start_one_shot(user, &arguments))
            .map_err(FingerprintError::Launch)?;
        let hasher = Self::OneShot { agent, line, call: 0 };
        let Self::OneShot { line, .. } = &hasher else { unreachable!("made one line above") };
        set_socket_timeout(line, Timeout::Recv, Some(PATIENCE))
            .map_err(|error| FingerprintError::Line(error.into()))?;
        match receive::<Started>(line.as_fd())? {
            Started::Ready => Ok(hasher),
            Started::Failed { text } => Err(FingerprintError::Failed(text)),
        }
    }

    /// Opens both files of a plugin, read-only, and has them hashed.
    ///
    /// # Errors
    /// As `FingerprintError`.
    pub(super) fn fingerprint(
        &mut self,
        attestation: Attestation,
        manifest: &Path,
        entrypoint: &Path,
    ) -> Result<Fingerprint, FingerprintError> {
        let open =
            |path: &Path| File::open(path).map_err(|error| FingerprintError::Open { path: path.to_owned(), error });
        let (manifest, entrypoint) = (open(manifest)?, open(entrypoint)?);
        let descriptors = [manifest.as_fd(), entrypoint.as_fd()];
        let reply = match self {
            Self::OneShot { line, call, .. } => {
                *call += 1;
                // The key is enough: the one-shot agent ignores the token.
                let body = Request::Fingerprint { token: Secret::new(Vec::new()), attestation };
                fds::send(line.as_fd(), &codec::encode(&Envelope { call: *call, body }), &descriptors)
                    .map_err(FingerprintError::Line)?;
                let reply = receive::<Envelope<Reply>>(line.as_fd())?;
                if reply.call != *call {
                    return Err(FingerprintError::NoAnswer);
                }
                reply.body
            }
            Self::Running { client, token } => {
                let request = Request::Fingerprint { token: Secret::new(token.expose().to_vec()), attestation };
                client.ask(request, &descriptors, PATIENCE).map_err(FingerprintError::Client)?
            }
        };
        match reply {
            Reply::Fingerprint { manifest_hash, entrypoint_hash, binding_mac } => {
                Ok(Fingerprint { manifest_hash, entrypoint_hash, binding_mac })
            }
            Reply::Refused(refusal) => Err(FingerprintError::Refused(refusal)),
            _ => Err(FingerprintError::NoAnswer),
        }
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        if let Self::OneShot { agent, .. } = self {
            // It has nothing to save: the vault is only read.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// One packet of the agent's.
fn receive<T: serde::de::DeserializeOwned>(line: BorrowedFd<'_>) -> Result<T, FingerprintError> {
    let mut packet = vec![0; LINE_MAX];
    let length = fds::receive(line, &mut packet, &mut Vec::new()).map_err(FingerprintError::Line)?;
    if length == 0 {
        return Err(FingerprintError::NoAnswer);
    }
    codec::decode::<T, LINE_MAX>(&packet[..length]).map_err(|error| FingerprintError::Line(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

    use super::*;

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let answer = |packet: Option<&[u8]>| {
            let (ours, theirs) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                    .expect("pair");
            if let Some(packet) = packet {
                rustix::net::send(&theirs, packet, SendFlags::empty()).expect("sent");
            }
            drop(theirs);
            receive::<Started>(ours.as_fd())
        };
        assert!(matches!(answer(None), Err(FingerprintError::NoAnswer)));
        assert!(matches!(answer(Some(&[0])), Ok(Started::Ready)));
        assert!(matches!(answer(Some(&[9])), Err(FingerprintError::Line(_))));
        assert!(matches!(answer(Some(&[0, 0])), Err(FingerprintError::Line(_))));
        assert!(matches!(answer(Some(&[1, 200, b'x'])), Err(FingerprintError::Line(_))));
    }
}
