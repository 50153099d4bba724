//! The listening sockets it was given: which role each stands for, who may connect, and a bounded
//! number of threads (`spec/operations.md` 16.2, 16.3). It opens none itself.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interprocess::local_socket::traits::Listener as _;
use interprocess::os::unix::uds_local_socket::{Listener, Stream};
use listenfd::ListenFd;
use shared::log::Level;

use crate::agent::Agent;
use crate::line::Line;
use crate::log::say;
use crate::permit::Role;
use crate::serve;

/// Connections on the admin socket at a time.
const ADMIN_MAX: usize = 8;
/// The one connection of the executor or the spawner, the one it replaces, and one to spare.
const INNER_MAX: usize = 3;
/// Enough for encryption and YAML; small, since the memory may be locked.
const STACK: usize = 512 * 1024;

/// One listening socket.
pub(crate) struct Door {
    pub(crate) listener: Listener,
    role: Role,
    rule: Rule,
    busy: Arc<AtomicUsize>,
}

/// Which users may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The owner of the socket's path.
    Owner(u32),
    /// Root and our own user.
    Operators(u32),
    /// The path's mode has group write, so the mode is the check.
    Mode,
}

/// Why the sockets are not those that the unit set gives.
#[derive(Debug)]
pub(crate) enum ListenError {
    UnknownName { name: String },
    MissingName { name: &'static str },
    TakenTwice { name: &'static str },
    NotListening { name: &'static str, source: io::Error },
    NoPath { name: &'static str },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName { name } => write!(f, "LISTEN_FDNAMES has the unknown name {name:?}"),
            Self::MissingName { name } => write!(f, "LISTEN_FDNAMES lacks the socket {name:?}"),
            Self::TakenTwice { name } => write!(f, "LISTEN_FDNAMES has the socket {name:?} twice"),
            Self::NotListening { name, .. } => write!(f, "socket {name:?} is no listening unix stream"),
            Self::NoPath { name } => write!(f, "socket {name:?} has no path whose owner could be the check"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotListening { source, .. } => Some(source),
            _ => None,
        }
    }
}

const NAMES: [(&str, Role); 3] =
    [("vault-admin", Role::Admin), ("vault-executor", Role::Executor), ("vault-spawner", Role::Spawner)];

/// Takes the three sockets of the unit set by their names in `LISTEN_FDNAMES`.
///
/// # Errors
/// A name that is unknown, missing or doubled, or a descriptor that is no listener.
pub(crate) fn activated(mut given: ListenFd, names: &str) -> Result<Vec<Door>, ListenError> {
    let mut listeners: [Option<UnixListener>; NAMES.len()] = [None, None, None];
    for (index, name) in names.split(':').filter(|name| !name.is_empty()).enumerate() {
        let place = NAMES.iter().position(|(known, _)| *known == name);
        let place = place.ok_or_else(|| ListenError::UnknownName { name: name.to_owned() })?;
        let name = NAMES[place].0;
        if listeners[place].is_some() {
            return Err(ListenError::TakenTwice { name });
        }
        listeners[place] =
            given.take_unix_listener(index).map_err(|source| ListenError::NotListening { name, source })?;
    }
    let mut doors = Vec::new();
    for ((name, role), listener) in NAMES.into_iter().zip(listeners) {
        doors.push(Door::new(name, role, listener.ok_or(ListenError::MissingName { name })?)?);
    }
    Ok(doors)
}

impl Door {
    fn new(name: &'static str, role: Role, listener: UnixListener) -> Result<Self, ListenError> {
        let address = listener.local_addr().map_err(|source| ListenError::NotListening { name, source })?;
        let meta = address.as_pathname().ok_or(ListenError::NoPath { name })?.metadata();
        let meta = meta.map_err(|source| ListenError::NotListening { name, source })?;
        let rule = match role {
            Role::Admin if meta.mode() & 0o020 != 0 => Rule::Mode,
            Role::Admin => Rule::Operators(rustix::process::geteuid().as_raw()),
            _ => Rule::Owner(meta.uid()),
        };
        listener.set_nonblocking(true).map_err(|source| ListenError::NotListening { name, source })?;
        Ok(Self { listener: listener.into(), role, rule, busy: Arc::default() })
    }

    /// The admin listener of the launcher form.
    ///
    /// # Errors
    /// The descriptor is no listener with a path.
    pub(crate) fn admin(listener: UnixListener) -> Result<Self, ListenError> {
        Self::new(NAMES[0].0, Role::Admin, listener)
    }

    /// Accepts who is waiting, and gives each a thread of its own.
    pub(crate) fn accept(&self, agent: &Arc<Agent>) {
        loop {
            match self.listener.accept() {
                Ok(stream) => self.admit(agent, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    say(
                        Level::Error,
                        "accept failed",
                        &[("role", self.role.name().into()), ("error", (&error.to_string()).into())],
                    );
                    return;
                }
            }
        }
    }

    fn admit(&self, agent: &Arc<Agent>, stream: Stream) {
        let line = match Line::new(stream, self.role) {
            Ok(line) => line,
            Err(error) => return say(Level::Error, "connection lost", &[("error", (&error.to_string()).into())]),
        };
        if !self.rule.admits(line.uid) {
            return line.tell("connection refused", "not a user of this socket");
        }
        let limit = if self.role == Role::Admin { ADMIN_MAX } else { INNER_MAX };
        if self.busy.load(Ordering::Relaxed) >= limit {
            return line.tell("connection refused", "too many connections");
        }
        start(agent, line, &self.busy);
    }
}

impl Rule {
    fn admits(self, uid: u32) -> bool {
        match self {
            Self::Owner(owner) => uid == owner,
            Self::Operators(own) => uid == 0 || uid == own,
            Self::Mode => true,
        }
    }
}

/// Serves a connection on a thread of its own; `busy` counts it while it lives.
pub(crate) fn start(agent: &Arc<Agent>, line: Line, busy: &Arc<AtomicUsize>) {
    let (agent, line, counted) = (Arc::clone(agent), Arc::new(line), Arc::clone(busy));
    serve::take_place(&agent, &line);
    counted.fetch_add(1, Ordering::Relaxed);
    let role = line.role.name();
    let spawned = std::thread::Builder::new().name(role.to_owned()).stack_size(STACK).spawn(move || {
        serve::serve(&agent, &line);
        counted.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = spawned {
        busy.fetch_sub(1, Ordering::Relaxed);
        say(
            Level::Error,
            "no thread for a connection",
            &[("role", role.into()), ("error", (&error.to_string()).into())],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_of_a_door() {
        let check = |rule: Rule, uid: u32, admitted: bool| assert_eq!(rule.admits(uid), admitted, "{rule:?} {uid}");
        check(Rule::Owner(990), 990, true);
        check(Rule::Owner(990), 0, false);
        check(Rule::Operators(980), 0, true);
        check(Rule::Operators(980), 980, true);
        check(Rule::Operators(980), 1000, false);
        check(Rule::Mode, 1000, true);
    }

    #[test]
    fn names_decide_and_none_may_be_unknown_or_missing() {
        let error = |names: &str| match activated(ListenFd::empty(), names) {
            Ok(_) => panic!("started"),
            Err(error) => error.to_string(),
        };
        assert_eq!(error("vault-admin:webhooks"), "LISTEN_FDNAMES has the unknown name \"webhooks\"");
        assert_eq!(error(""), "LISTEN_FDNAMES lacks the socket \"vault-admin\"");
        // A name without its descriptor is as good as missing.
        assert_eq!(
            error("vault-spawner:vault-executor:vault-admin"),
            "LISTEN_FDNAMES lacks the socket \"vault-admin\""
        );
    }

    #[test]
    fn the_owner_of_the_path_is_the_rule_and_group_write_opens_admin() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::scratch::Scratch::new();
        let own = rustix::process::geteuid().as_raw();
        let door = |mode: u32, name: &'static str, role: Role| {
            let path = dir.path(format!("{name}-{mode:o}.sock"));
            let listener = UnixListener::bind(&path).expect("bind");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            Door::new(name, role, listener).expect("a door").rule
        };
        assert_eq!(door(0o600, "executor", Role::Executor), Rule::Owner(own));
        assert_eq!(door(0o600, "admin", Role::Admin), Rule::Operators(own));
        assert_eq!(door(0o660, "admin", Role::Admin), Rule::Mode);
        assert_eq!(door(0o660, "spawner", Role::Spawner), Rule::Owner(own));
    }
}
