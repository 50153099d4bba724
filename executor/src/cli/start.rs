//! `ductile system start` (`spec/cli.md` 4.1, `spec/operations.md` 16.1): the launcher. It makes
//! the lines between agent, executor and front, starts the three at once, keeps no end of a pair,
//! and watches them until one dies or a signal comes. It parses nothing that comes from outside
//! but the configuration.

mod supervise;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use shared::log::Level;
use shared::wire::launch::Start;

use super::args::Args;
use super::launch::{self, LaunchError, Program, Programs};
use super::listen::{self, Bound};
use super::output::{self, Failure, Outcome};
use super::{client, instance, privileges};
use crate::config::Config;

const RUNTIME: &str = "Failed to start runtime";

pub(super) fn run(args: &Args) -> Outcome {
    let config = instance::for_start(args)?.config;
    let accept_older = args.switch("accept-older");
    let state_dir = config.state_path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(state_dir)
        .map_err(|error| Failure::because(&format!("{RUNTIME}: create {}", state_dir.display()), &error))?;
    let lock = lock(&config.pid_path())?;
    let programs = Programs::beside_own().map_err(|error| Failure::because(RUNTIME, &error))?;
    confine(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(RUNTIME, &error))?;
    let listeners = Listeners::bind(state_dir)?;
    runtime.block_on(async move {
        // Before any child, so that a stop that comes while they start finds its handler.
        let signals = supervise::Signals::taken().map_err(|error| Failure::because(RUNTIME, &error))?;
        // The executor takes it next; the sockets keep a second launcher away meanwhile.
        drop(lock);
        let parts = start_parts(&programs, &config, &listeners, accept_older)?;
        // The agent and the executor have them now: this process could answer nobody. Nor does it
        // need the configuration any more.
        let _bound = listeners.handed_over();
        drop(config);
        supervise::run(parts, signals).await
    })
}

/// Holds the PID lock, so that a second instance is refused before anything is started.
fn lock(path: &Path) -> Result<File, Failure> {
    let refused =
        |text: String| Failure::new(format!("Failed to acquire PID lock (another instance may be running): {text}"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| refused(format!("open {}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let holder = io::read_to_string(&file).unwrap_or_default();
            let holder = holder.trim();
            let by = if holder.is_empty() { String::new() } else { format!(" by process {holder}") };
            Err(refused(format!("{} is locked{by}", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(refused(format!("lock {}: {error}", path.display()))),
    }
}

/// Gives up what root without `accounts:` must not hold, and says what this form does not protect.
fn confine(config: &Config) -> Result<(), Failure> {
    let user = rustix::process::geteuid();
    if user.is_root() && config.accounts.is_empty() {
        privileges::give_up().map_err(|error| Failure::because(&format!("{RUNTIME}: give capabilities up"), &error))?;
    }
    if !user.is_root() || config.accounts.is_empty() {
        output::record(
            Level::Warn,
            "nothing here is protected from a plugin of this uid: it can read key, vault and database",
            &[("uid", user.as_raw().into())],
        );
    }
    Ok(())
}

/// Both admin listeners, until they are handed over.
struct Listeners {
    executor: OwnedFd,
    agent: OwnedFd,
    bound: [Bound; 2],
}

impl Listeners {
    fn bind(state_dir: &Path) -> Result<Self, Failure> {
        let bind = |name| listen::bind(&state_dir.join(name)).map_err(|error| Failure::because(RUNTIME, &error));
        let (executor, executor_bound) = bind(client::EXECUTOR_ADMIN)?;
        let (agent, agent_bound) = bind(client::VAULT_ADMIN)?;
        Ok(Self { executor: executor.into(), agent: agent.into(), bound: [executor_bound, agent_bound] })
    }

    fn handed_over(self) -> [Bound; 2] {
        self.bound
    }
}

/// Starts all three at once; each waits on its line for what it needs of the others. Every end of
/// every pair is closed here when this returns.
fn start_parts(
    programs: &Programs,
    config: &Config,
    listeners: &Listeners,
    accept_older: bool,
) -> Result<Vec<supervise::Part>, Failure> {
    let failed = |error: LaunchError| Failure::because(RUNTIME, &error);
    let (executor_to_front, front_to_executor) = launch::pair().map_err(failed)?;
    let (agent_to_executor, executor_to_agent) = launch::pair().map_err(failed)?;
    let (agent_to_spawner, spawner_to_agent) = launch::pair().map_err(failed)?;
    let state = instance::state_identity(config);
    let vault = instance::vault_identity(config);
    let mut with_config = vec![OsStr::new("--config"), config.path.as_os_str()];
    let executor_arguments = with_config.clone();
    if accept_older {
        with_config.push(OsStr::new("--accept-older"));
    }
    // A part that fails to start ends those before it, which `Parts` kills when it is dropped.
    let mut parts = Vec::with_capacity(3);
    let mut part = |program, arguments: &[&OsStr], start: &Start, descriptors: &[&OwnedFd]| {
        let (child, line) = programs.start(program, arguments)?;
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let sent = launch::send_start(program, line.as_fd(), start, &descriptors);
        let part = supervise::Part::new(program, child, line);
        parts.push(part.map_err(|error| LaunchError::Wait { program: program.name(), error })?);
        // One that ended before it read its line says why by its own means.
        match sent {
            Err(LaunchError::Send { ref error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    };
    part(
        Program::Agent,
        &with_config,
        &Start::Agent { instance: vault },
        &[&agent_to_executor, &agent_to_spawner, &listeners.agent],
    )
    .and_then(|()| {
        part(
            Program::Executor,
            &executor_arguments,
            &Start::Executor { instance: state.clone() },
            &[&executor_to_front, &listeners.executor, &executor_to_agent, &spawner_to_agent],
        )
    })
    .and_then(|()| part(Program::Front, &[], &Start::Front { instance: state.clone() }, &[&front_to_executor]))
    .map_err(failed)?;
    Ok(parts)
}
