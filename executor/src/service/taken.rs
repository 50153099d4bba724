//! The sockets that the executor was handed, by the service manager or by the launcher. All are
//! taken before anything is started, and none is opened here.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::launch::Start;
use shared::wire::spawner::AgentLine;

use super::{Arguments, StartError};
use crate::plugin::spawn::SpawnerLine;
use crate::sockets;
use crate::vault::Address;

/// The sockets that were handed over.
pub(super) struct Sockets {
    pub(super) front: FrontSocket,
    pub(super) admin: UnixListener,
    pub(super) vault: Address,
    pub(super) spawner_line: AgentLine,
    pub(super) spawner_fd: Option<OwnedFd>,
}

pub(super) enum FrontSocket {
    Line(UnixStream),
    Listener(UnixListener),
}

pub(super) fn take_sockets(arguments: &Arguments, line: Option<&OwnedFd>) -> Result<Sockets, StartError> {
    match line {
        Some(line) => sockets_of_line(line),
        None => sockets_of_manager(&arguments.runtime_dir),
    }
    .map_err(StartError::Sockets)
}

/// The launcher's `Start`, with the four descriptors that `wire/launch.rs` names.
fn sockets_of_line(line: &OwnedFd) -> Result<Sockets, String> {
    let mut buffer = vec![0; LINE_MAX];
    let mut descriptors = Vec::new();
    let taken = fds::receive(line.as_fd(), &mut buffer, &mut descriptors).map_err(|error| error.to_string())?;
    let start = codec::decode::<Start, LINE_MAX>(&buffer[..taken]).map_err(|error| error.to_string())?;
    let (Start::Executor { .. }, Ok([front, admin, vault, spawner])) = (start, <[OwnedFd; 4]>::try_from(descriptors))
    else {
        return Err("the launcher sent no start of an executor with its four descriptors".to_owned());
    };
    Ok(Sockets {
        front: FrontSocket::Line(front.into()),
        admin: admin.into(),
        vault: Address::Line(vault.into()),
        spawner_line: AgentLine::Descriptor,
        spawner_fd: Some(spawner),
    })
}

/// The sockets of the unit set, by name; all are taken before anything is exec'ed.
fn sockets_of_manager(runtime_dir: &Path) -> Result<Sockets, String> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = listenfd::ListenFd::from_env();
    let (mut executor, mut admin) = (None, None);
    for (index, name) in names.split(':').filter(|name| !name.is_empty()).enumerate() {
        let place = match name {
            "executor" => &mut executor,
            "executor-admin" => &mut admin,
            other => return Err(format!("a socket named {other:?} is none of the executor's")),
        };
        let listener = given.take_unix_listener(index).map_err(|error| format!("socket {name}: {error}"))?;
        let listener = listener.ok_or_else(|| format!("socket {name} was not handed over"))?;
        shared::harden::close_on_exec(listener.as_fd()).map_err(|error| format!("socket {name}: {error}"))?;
        *place = Some(listener);
    }
    let missing =
        |name: &str| format!("no socket named {name:?} was handed over; start the unit set, or `ductile system start`");
    Ok(Sockets {
        front: FrontSocket::Listener(executor.ok_or_else(|| missing("executor"))?),
        admin: admin.ok_or_else(|| missing("executor-admin"))?,
        vault: Address::Path(runtime_dir.join(sockets::VAULT_EXECUTOR)),
        spawner_line: AgentLine::Path(runtime_dir.join(sockets::VAULT_SPAWNER).to_string_lossy().into_owned()),
        spawner_fd: None,
    })
}

pub(super) fn start_spawner(arguments: &Arguments, sockets: &Sockets) -> Result<SpawnerLine, StartError> {
    let fail = |text: String| StartError::Spawner(text);
    let beside = std::env::current_exe().map_err(|error| fail(error.to_string()))?.with_file_name("ductile-spawner");
    let move_to = match &arguments.spawner_user {
        Some(name) => Some(sockets::user(name).map_err(fail)?),
        None => None,
    };
    let agent_fd = sockets.spawner_fd.as_ref().map(AsFd::as_fd);
    SpawnerLine::start(&beside, move_to, sockets.spawner_line.clone(), agent_fd)
        .map_err(|error| fail(error.to_string()))
}
