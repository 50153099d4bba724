//! Starts Ductile's other programs: the only file of the CLI that starts a process. They lie
//! beside `ductile`'s own resolved path and nowhere else, and each refuses a launcher of another
//! version (`--launcher-version`).

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};
use shared::wire::launch::Start;
use shared::wire::{codec, fds};

/// A program of ours that the CLI starts; the spawner is started by the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Agent,
    Executor,
    Front,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "ductile-vault-agent",
            Self::Executor => "ductile-executor",
            Self::Front => "ductile-api",
        }
    }
}

/// Why a program did not start.
#[derive(Debug)]
pub(super) enum LaunchError {
    OwnPath(io::Error),
    Missing { program: &'static str, folder: PathBuf },
    Line(io::Error),
    Spawn { program: &'static str, error: io::Error },
    Send { program: &'static str, error: io::Error },
    Owner { path: PathBuf, error: io::Error },
    Wait { program: &'static str, error: io::Error },
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnPath(_) => f.write_str("the path of ductile itself"),
            Self::Missing { program, folder } => {
                write!(f, "{program} is not beside ductile in {}: install all five programs together", folder.display())
            }
            Self::Line(_) => f.write_str("socket pair"),
            Self::Spawn { program, .. } => write!(f, "start {program}"),
            Self::Send { program, .. } => write!(f, "send {program} its descriptors"),
            Self::Owner { path, .. } => write!(f, "owner of {}", path.display()),
            Self::Wait { program, .. } => write!(f, "wait for {program}"),
        }
    }
}

impl std::error::Error for LaunchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::OwnPath(error)
            | Self::Line(error)
            | Self::Spawn { error, .. }
            | Self::Send { error, .. }
            | Self::Owner { error, .. }
            | Self::Wait { error, .. } => Some(error),
            Self::Missing { .. } => None,
        }
    }
}

/// The folder of all five programs.
#[derive(Debug, Clone)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Found beside the resolved path of the running program.
    ///
    /// # Errors
    /// `OwnPath` when the kernel does not tell it.
    pub(super) fn beside_own() -> Result<Self, LaunchError> {
        let own = std::env::current_exe().map_err(LaunchError::OwnPath)?;
        Ok(Self(own.parent().unwrap_or(Path::new("/")).to_owned()))
    }

    /// A command for a program, which gets nothing of the vault's admin token.
    #[expect(clippy::disallowed_methods, reason = "one of the two places where Ductile starts processes")]
    fn command(&self, program: Program, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(self.0.join(program.name()));
        command.args(arguments).env_remove(super::vault::TOKEN_VARIABLE);
        command
    }

    fn spawned(&self, program: Program, command: &mut Command) -> Result<Child, LaunchError> {
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LaunchError::Missing { program: program.name(), folder: self.0.clone() },
            _ => LaunchError::Spawn { program: program.name(), error },
        })
    }

    /// Starts a program with a line of its own as its stdin. It is the leader of a process group,
    /// so that a Ctrl+C reaches the launcher alone, which stops the parts in their order.
    ///
    /// # Errors
    /// As `LaunchError`; nothing is left running then.
    pub(super) fn start(&self, program: Program, arguments: &[&OsStr]) -> Result<(Child, OwnedFd), LaunchError> {
        let (ours, theirs) = line()?;
        let mut command = self.command(program, arguments);
        command.arg("--line").arg("--launcher-version").arg(shared::VERSION);
        let child = self.spawned(program, command.stdin(Stdio::from(theirs)).process_group(0))?;
        Ok((child, ours))
    }

    /// Runs one verb of the vault agent with this process's own streams, and waits for its end.
    ///
    /// # Errors
    /// As `LaunchError`.
    pub(super) fn run_agent(&self, user: Option<User>, arguments: &[&OsStr]) -> Result<i32, LaunchError> {
        let mut child = as_user(user, || self.spawned(Program::Agent, &mut self.command(Program::Agent, arguments)))?;
        let status = child.wait().map_err(|error| LaunchError::Wait { program: Program::Agent.name(), error })?;
        Ok(exit_code(status))
    }

    /// Starts the vault agent's one-shot form that answers on a line.
    ///
    /// # Errors
    /// As `LaunchError`.
    pub(super) fn start_one_shot(
        &self,
        user: Option<User>,
        arguments: &[&OsStr],
    ) -> Result<(Child, OwnedFd), LaunchError> {
        let (child, line) = as_user(user, || self.start(Program::Agent, arguments))?;
        send_start(Program::Agent, line.as_fd(), &Start::OneShot, &[])?;
        Ok((child, line))
    }
}

fn line() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| LaunchError::Line(error.into()))
}

/// A stream pair for two of the parts.
///
/// # Errors
/// `Line`.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| LaunchError::Line(error.into()))
}

/// Tells a started program its role and hands it its descriptors.
///
/// # Errors
/// `Send`, when it is gone already.
pub(super) fn send_start(
    program: Program,
    line: BorrowedFd<'_>,
    start: &Start,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), LaunchError> {
    fds::send(line, &codec::encode(start), descriptors)
        .map(drop)
        .map_err(|error| LaunchError::Send { program: program.name(), error })
}

/// What a shell would say of this end.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(shared::exit::FAILURE)
}

/// Who a one-shot agent is when root starts it (`spec/operations.md` 16.2), so that nothing beside
/// vault or key is ever root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    uid: Uid,
    gid: Gid,
    /// Its one supplementary group, that of the configuration's directory.
    group: Option<Gid>,
}

impl User {
    /// The owner of the directory that `file` is or will be in; `None` unless root asks, since
    /// nobody else could become another.
    ///
    /// # Errors
    /// `Owner`, when no ancestor of it can be looked at.
    pub(super) fn owning(file: &Path, config_dir: Option<&Path>) -> Result<Option<Self>, LaunchError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let owner_error = |path: &Path| {
            let path = path.to_owned();
            move |error| LaunchError::Owner { path, error }
        };
        let absolute = std::path::absolute(file).map_err(owner_error(file))?;
        let mut folder = absolute.parent().unwrap_or(Path::new("/"));
        let metadata = loop {
            match (std::fs::metadata(folder), folder.parent()) {
                (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => folder = parent,
                (found, _) => break found.map_err(owner_error(folder))?,
            }
        };
        let group = match config_dir {
            Some(folder) => Some(Gid::from_raw(std::fs::metadata(folder).map_err(owner_error(folder))?.gid())),
            None => None,
        };
        Ok(Some(Self { uid: Uid::from_raw(metadata.uid()), gid: Gid::from_raw(metadata.gid()), group }))
    }
}

/// Calls `start` as another user: on a thread of its own, since credentials are a thread's, and
/// what it starts has those of the thread. The rest of this process stays who it is.
fn as_user<T: Send>(
    user: Option<User>,
    start: impl FnOnce() -> Result<T, LaunchError> + Send,
) -> Result<T, LaunchError> {
    let Some(user) = user else { return start() };
    let become_user = || -> io::Result<()> {
        rustix::thread::set_thread_groups(user.group.as_slice())?;
        rustix::thread::set_thread_res_gid(user.gid, user.gid, user.gid)?;
        rustix::thread::set_thread_res_uid(user.uid, user.uid, user.uid)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            become_user().map_err(|error| LaunchError::Spawn { program: Program::Agent.name(), error })?;
            start()
        });
        started.join().expect("a panic ends the whole process")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_folder() {
        let folder = PathBuf::from("/nonexistent/folder");
        let error = Programs(folder).start(Program::Front, &[]).expect_err("nothing is there");
        assert_eq!(
            error.to_string(),
            "ductile-api is not beside ductile in /nonexistent/folder: install all five programs together"
        );
    }

    #[test]
    fn only_root_becomes_the_owner_of_the_nearest_folder() {
        let user = User::owning(Path::new("/proc/self/none/such/file"), Some(Path::new("/"))).expect("looked at");
        if rustix::process::geteuid().is_root() {
            assert_eq!(user.expect("root").group, Some(Gid::from_raw(0)));
        } else {
            assert_eq!(user, None);
        }
    }
}
