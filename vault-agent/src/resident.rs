//! The resident agent: opens the vault, says that it is ready, serves until it is stopped. Under
//! systemd by activated sockets, under the launcher by descriptors over its line.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use interprocess::os::unix::uds_local_socket::Stream;
use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use sd_notify::NotifyState;
use shared::exit;
use shared::log::Level;
use shared::wire::codec;
use shared::wire::frame::LINE_MAX;
use shared::wire::launch::{Start, Started};

use crate::agent::Agent;
use crate::args::Args;
use crate::failure::Failure;
use crate::harden;
use crate::identity::Identity;
use crate::journal;
use crate::line::Line;
use crate::listen::{self, Door};
use crate::log::{now, say};
use crate::permit::Role;
use crate::settings::places;
use crate::vault::{Lock, Vault, VaultError};

/// Between two journal lines about deliveries.
const DELIVERIES_EVERY: Duration = Duration::from_secs(10);

/// Serves until it is stopped; the exit code.
pub(crate) fn run(args: &Args) -> i32 {
    crate::log::to_stdout();
    if args.has("line") { launched(args) } else { service(args) }
}

/// Under systemd: sockets by `LISTEN_FDS`, readiness and watchdog by `NOTIFY_SOCKET`.
fn service(args: &Args) -> i32 {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let doors = listen::activated(ListenFd::from_env(), &names).map_err(Failure::from);
    let started = doors.and_then(|doors| Ok((open(args, None)?, doors)));
    let (opened, doors) = match started {
        Ok(started) => started,
        Err(failure) => {
            say(Level::Error, &failure.text, &[]);
            return if failure.passing { exit::FAILURE } else { exit::REFUSED };
        }
    };
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        say(Level::Error, "service manager not told", &[("error", (&error.to_string()).into())]);
        return exit::FAILURE;
    }
    serve(&opened.agent, &doors, None)
}

/// Under the launcher: stdin is its line.
fn launched(args: &Args) -> i32 {
    // A terminal's interrupt goes to the launcher alone, which ends this program last.
    let _ = rustix::process::setsid();
    let line = std::io::stdin();
    match launch(&line, args) {
        Ok(None) => exit::OK,
        Ok(Some((opened, door))) => match send(&line, &Started::Ready) {
            Ok(()) => serve(&opened.agent, &[door], Some(line.as_fd())),
            Err(_) => exit::OK,
        },
        Err(failure) => {
            say(Level::Error, &failure.text, &[]);
            // Nobody is left to tell when the line is gone.
            let _ = send(&line, &Started::Failed { text: failure.text });
            exit::FAILURE
        }
    }
}

fn launch(line: &impl AsFd, args: &Args) -> Result<Option<(Opened, Door)>, Failure> {
    let Some((start, fds)) = receive_start(line)? else { return Ok(None) };
    let (Start::Agent { instance }, Ok([executor, spawner, admin])) = (start, <[OwnedFd; 3]>::try_from(fds)) else {
        return Err(Failure::new("the first message on the line does not start an agent"));
    };
    let door = Door::admin(UnixListener::from(admin))?;
    let opened = open(args, Some(instance))?;
    for (fd, role) in [(executor, Role::Executor), (spawner, Role::Spawner)] {
        let peer = Line::new(Stream::from(fd), role)?;
        listen::start(&opened.agent, peer, &Arc::default());
    }
    Ok(Some((opened, door)))
}

/// The launcher's first packet; `None` when it is gone.
///
/// # Errors
/// The kernel's answer, or a packet that is no `Start`.
pub(crate) fn receive_start(line: &impl AsFd) -> io::Result<Option<(Start, Vec<OwnedFd>)>> {
    shared::harden::close_on_exec(line.as_fd())?;
    let mut packet = vec![0; LINE_MAX];
    let mut fds = Vec::new();
    let length = shared::wire::fds::receive(line.as_fd(), &mut packet, &mut fds)?;
    if length == 0 {
        return Ok(None);
    }
    let start = codec::decode::<Start, LINE_MAX>(&packet[..length]);
    Ok(Some((start.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?, fds)))
}

/// Answers the launcher.
///
/// # Errors
/// It is gone.
pub(crate) fn send(line: &impl AsFd, answer: &Started) -> io::Result<()> {
    shared::wire::fds::send(line.as_fd(), &codec::encode(answer), &[]).map(|_| ())
}

/// An agent, and its vault's lock, where a vault is or could be written.
struct Opened {
    agent: Arc<Agent>,
    _lock: Option<Lock>,
}

fn open(args: &Args, instance: Option<String>) -> Result<Opened, Failure> {
    let places = places(args.named(), &|name| std::env::var(name).ok())?;
    let memory_locked = harden::lock_memory();
    let lock = match Lock::take(&places.vault) {
        Ok(lock) => Some(lock),
        // Without a vault there is nothing to write, and perhaps no place to write it.
        Err(VaultError::Lock { .. }) if !places.vault.try_exists().unwrap_or(true) => None,
        // A lock that is held is free again soon.
        Err(error @ VaultError::Held { .. }) => return Err(Failure { passing: true, ..error.into() }),
        Err(error) => return Err(error.into()),
    };
    let identity = Identity::find(&places.keys)?;
    let vault = Vault::open(&places.vault, identity, args.has("accept-older"), now())?;
    let path = places.vault.display().to_string();
    match &vault {
        Some(vault) => {
            let generation = i64::try_from(vault.document().generation).unwrap_or(i64::MAX);
            say(Level::Info, "vault open", &[("path", (&path).into()), ("generation", generation.into())]);
        }
        None if journal::path_of(&places.vault).exists() => {
            say(
                Level::Error,
                "no vault, but the journal of one: was it moved or deleted?",
                &[("path", (&path).into())],
            );
        }
        None => say(Level::Info, "no vault", &[("path", (&path).into())]),
    }
    let instance = instance.unwrap_or(path);
    let agent = Agent::new(instance, memory_locked, vault, places.checksums)?;
    Ok(Opened { agent: Arc::new(agent), _lock: lock })
}

/// Accepts and keeps time until the line ends. SIGTERM's default action ends the program at any
/// point: every reply was durable before it was sent, and counts of deliveries are journalled as
/// soon as the executor or the spawner is gone, which a service manager stops before the agent.
fn serve(agent: &Arc<Agent>, doors: &[Door], line: Option<BorrowedFd<'_>>) -> i32 {
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let tick = watchdog.map_or(DELIVERIES_EVERY, |watchdog| watchdog.min(DELIVERIES_EVERY));
    let mut flushed = std::time::Instant::now();
    loop {
        let mut watched: Vec<PollFd<'_>> =
            doors.iter().map(|door| PollFd::new(&door.listener, PollFlags::IN)).collect();
        watched.extend(line.as_ref().map(|line| PollFd::new(line, PollFlags::IN)));
        let wait = Timespec::try_from(tick).expect("a tick is a few seconds");
        match rustix::event::poll(&mut watched, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                say(Level::Error, "poll failed", &[("error", (&error.to_string()).into())]);
                return exit::FAILURE;
            }
        }
        let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        if let (Some(line), Some(true)) = (line, ready.get(doors.len()))
            && ended(line)
        {
            agent.flush_deliveries();
            say(Level::Info, "stopped", &[]);
            return exit::OK;
        }
        for (door, _) in doors.iter().zip(&ready).filter(|(_, ready)| **ready) {
            door.accept(agent);
        }
        if flushed.elapsed() >= DELIVERIES_EVERY {
            agent.flush_deliveries();
            flushed = std::time::Instant::now();
        }
        if watchdog.is_some() && sd_notify::notify(&[NotifyState::Watchdog]).is_err() {
            say(Level::Warn, "watchdog not told", &[]);
        }
    }
}

/// Whether the launcher is gone; what it says besides has no meaning.
fn ended(line: BorrowedFd<'_>) -> bool {
    let mut packet = [0; 64];
    match shared::wire::fds::receive(line, &mut packet, &mut Vec::new()) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::WouldBlock),
    }
}
