//! What serves: the agent is reached first, then the parts are started, then the dispatcher runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Duration;

use shared::log::{Level, chain};
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::gateway::{FrontConfig, Posture, Token};
use shared::wire::launch::Started;
use shared::wire::vault::{TokenDigest, VaultState};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::boot::Ready;
use super::taken::{FrontSocket, Sockets};
use super::{Refused, StartError, refuse};
use crate::config::{Config, TokenSource};
use crate::dispatch::{Dispatcher, Ending, Event, Parts};
use crate::ipc::Role;
use crate::ipc::listen::{self, Service};
use crate::logging::{self, log, now};
use crate::plugin::catalog::Catalog;
use crate::plugin::privsep::Mode;
use crate::plugin::supervise::Supervisor;
use crate::store::writer::Writer;
use crate::vault::{self, Address, Introduction, Needs};

/// The sockets, and everybody who came in by them.
struct Doors {
    tasks: JoinSet<()>,
    closing: CancellationToken,
}

impl Doors {
    /// Sends what was answered, within a limit: a peer that does not read holds nothing up.
    async fn close(mut self) {
        const LIMIT: Duration = Duration::from_secs(1);
        self.closing.cancel();
        let _ = tokio::time::timeout(LIMIT, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

impl Ready {
    /// Starts the runtime and serves until the end.
    pub(super) fn serve(self, sockets: Sockets, line: Option<OwnedFd>) -> Result<u8, Refused> {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let built = match built {
            Ok(built) => built,
            Err(error) => return Err((refuse(error), line)),
        };
        built.block_on(self.serve_in_runtime(sockets, line))
    }

    async fn serve_in_runtime(mut self, sockets: Sockets, line: Option<OwnedFd>) -> Result<u8, Refused> {
        let lock = match self.lock.try_clone() {
            Ok(lock) => lock,
            Err(error) => return Err((refuse(error), line)),
        };
        let spawner = self.spawner.take_process();
        let (events, incoming) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let mut doors = Doors { tasks: JoinSet::new(), closing: CancellationToken::new() };
        let parts = match self.assemble(sockets, &events, &mut tasks, &mut doors).await {
            Ok(parts) => parts,
            Err(error) => return Err((error, line)),
        };
        let dispatcher = match Dispatcher::new(parts) {
            Ok(dispatcher) => dispatcher,
            Err(error) => return Err((refuse(chain(&error)), line)),
        };
        if let Err(error) = watch_signals(&events, &mut tasks) {
            return Err((refuse(error), line));
        }
        if let Some(line) = &line {
            let ready = codec::encode(&Started::Ready);
            let _ = fds::send(line.as_fd(), &ready, &[]);
        } else {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        }
        if let Some(line) = line {
            watch_line(line, &events, &mut tasks);
        }
        log(Level::Info, "executor ready", &[]);
        logging::flush();
        // A task like the others: each wake-up of the runtime's own future is a system call.
        let mut dispatching = JoinSet::new();
        dispatching.spawn(dispatcher.run(incoming));
        let (ending, writer) = match dispatching.join_next().await.expect("it was just put there") {
            Ok(ended) => ended,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        doors.close().await;
        // With its task the spawner's line is closed, and the spawner ends.
        tasks.shutdown().await;
        if let Some(spawner) = spawner {
            outlive(spawner).await;
        }
        if let Err(error) = writer.stop() {
            log(Level::Warn, "database close", &[("error", (&chain(&error)).into())]);
        }
        drop(lock);
        match ending {
            Ending::Stopped => {
                log(Level::Info, "ductile stopped", &[]);
                logging::flush();
                Ok(0)
            }
            Ending::Failed(text) => {
                log(Level::Error, "executor ends", &[("error", (&text).into())]);
                logging::flush();
                Ok(1)
            }
        }
    }

    /// The agent first (it decides what there is of a vault), then every part that serves.
    async fn assemble(
        self,
        sockets: Sockets,
        events: &mpsc::UnboundedSender<Event>,
        tasks: &mut JoinSet<()>,
        doors: &mut Doors,
    ) -> Result<Parts, StartError> {
        let Self { loaded, registry, spawner, mode, writer_connection, store, snapshot, recovered, .. } = self;
        let config = &loaded.config;
        let catalog = Catalog::new(config, &registry, &loaded.environment, mode == Mode::Enforcing);
        let token_refs = config.api.tokens.iter().filter_map(|token| match &token.source {
            TokenSource::SecretRef(name) => Some(name.clone()),
            TokenSource::Literal(_) => None,
        });
        let needs = Needs { token_refs: token_refs.collect(), plugins: catalog.prepared() };
        let (agent, introduction) = reach_agent(&sockets.vault, &needs).await?;
        let posture = posture(config, &introduction)?;
        let front = front_config(config, &catalog, &introduction, posture)?;
        if introduction.status.vault == VaultState::Open {
            log(Level::Info, "vault secret delivery enabled (compose-time attestation on)", &[]);
        }

        let sender = events.clone();
        let supervisor = Supervisor::start(spawner, tasks, move |event| {
            let _ = sender.send(Event::Run(event));
        });
        let sender = events.clone();
        let writer = Writer::start(writer_connection, move |outcomes| {
            let _ = sender.send(Event::Written(outcomes));
        });
        let (calls, waiting) = mpsc::unbounded_channel();
        tasks.spawn(vault::serve(agent, sockets.vault, needs, waiting, events.clone()));
        let instance = config.state_path.display().to_string();
        let closing = doors.closing.clone();
        let service =
            |role| Service { role, instance: instance.clone(), events: events.clone(), closing: closing.clone() };
        let admin = tokio_listener(sockets.admin).map_err(refuse)?;
        doors.tasks.spawn(listen::serve_listener(service(Role::Admin), admin));
        match sockets.front {
            FrontSocket::Line(line) => {
                let line = line.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(line));
                doors.tasks.spawn(listen::serve_line(service(Role::Front), line.map_err(refuse)?));
            }
            FrontSocket::Listener(listener) => {
                let listener = tokio_listener(listener).map_err(refuse)?;
                doors.tasks.spawn(listen::serve_listener(service(Role::Front), listener));
            }
        }
        Ok(Parts {
            catalog,
            front,
            max_workers: if posture == Posture::ManagementOnly { 0 } else { config.service.max_workers },
            service_name: config.service.name.clone(),
            dedupe_ttl: config.service.dedupe_ttl,
            graph: config.pipelines.clone(),
            snapshot,
            reader: store.reader().map_err(|error| refuse(chain(&error)))?,
            writer: writer.map_err(refuse)?,
            supervisor: supervisor.map_err(refuse)?,
            vault: calls,
            principals: introduction.principals,
            started_at: now(),
            retention: config.service.retention,
            tick_interval: config.service.tick_interval,
            recovered,
            entries: config.plugins.values().flat_map(|plugin| plugin.schedules.iter().cloned()).collect(),
        })
    }
}

/// Waits until the spawner is gone, within a limit: nothing of the service is to be left when it has
/// ended.
async fn outlive(mut spawner: Child) {
    const LIMIT: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(1);
    let gone = async {
        while matches!(spawner.try_wait(), Ok(None)) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let _ = tokio::time::timeout(LIMIT, gone).await;
}

fn tokio_listener(listener: UnixListener) -> io::Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Waits until the agent has answered (`spec/operations.md` 16.3): what there is of a vault is
/// what it says, never what the executor infers. A launcher's line is tried once.
async fn reach_agent(address: &Address, needs: &Needs) -> Result<(vault::Line, Introduction), StartError> {
    const PAUSE: Duration = Duration::from_millis(50);
    const TELL_EVERY: u32 = 100;
    let mut tries: u32 = 0;
    loop {
        let opened = match vault::Line::open(address).await {
            Ok(mut line) => line.introduce(needs).await.map(|introduction| (line, introduction)),
            Err(error) => Err(error),
        };
        match opened {
            Ok(reached) => return Ok(reached),
            Err(error) if matches!(address, Address::Line(_)) => return Err(refuse(chain(&error))),
            Err(error) => {
                if tries.is_multiple_of(TELL_EVERY) {
                    log(Level::Warn, "waiting for the vault agent", &[("error", (&chain(&error)).into())]);
                    logging::flush();
                }
            }
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// `spec/vault.md` 11.2.
fn posture(config: &Config, introduction: &Introduction) -> Result<Posture, StartError> {
    match (config.api.enabled, config.api.tokens.is_empty(), introduction.status.vault) {
        (false, _, _) => Ok(Posture::Closed),
        (true, false, _) => Ok(Posture::Gateway),
        (true, true, VaultState::Open) => {
            let text = "booting in vault-operable / ductile-closed posture: no API token is configured; \
                        mint one with 'ductile vault set', name it under api.auth.tokens, and start again";
            log(Level::Warn, text, &[("posture", "management-only".into())]);
            log(
                Level::Warn,
                "management posture: scheduler and dispatcher gated — nothing runs until a token is configured",
                &[],
            );
            Ok(Posture::ManagementOnly)
        }
        (true, true, VaultState::Absent) => Err(refuse(
            "api.auth.tokens must be configured when API is enabled (or genesis a vault to bootstrap one: ductile vault init)",
        )),
    }
}

fn front_config(
    config: &Config,
    catalog: &Catalog,
    introduction: &Introduction,
    posture: Posture,
) -> Result<FrontConfig, StartError> {
    let mut resolved = introduction.tokens.iter();
    let mut tokens = Vec::new();
    for (index, token) in config.api.tokens.iter().enumerate() {
        let digest = match &token.source {
            TokenSource::Literal(text) => *blake3::keyed_hash(&introduction.token_key, text.as_bytes()).as_bytes(),
            TokenSource::SecretRef(name) => match resolved.next() {
                Some(TokenDigest::Digest(digest)) => *digest,
                Some(TokenDigest::Empty) => {
                    let text = format!("api.auth.tokens[{index}]: secret_ref {name:?} resolved to an empty value");
                    return Err(refuse(format!("api tokens: {text}")));
                }
                Some(TokenDigest::Missing) | None => {
                    let text = format!("api.auth.tokens[{index}]: secret_ref {name:?} not found in the vault");
                    return Err(refuse(format!("api tokens: {text}")));
                }
            },
        };
        tokens.push(Token { digest, scopes: token.scopes.clone(), is_admin: false });
    }
    tokens.extend(introduction.admin_token.map(|digest| Token { digest, scopes: Vec::new(), is_admin: true }));
    Ok(FrontConfig {
        listen: config.api.listen.clone().filter(|_| config.api.enabled),
        posture,
        max_body: config.api.max_body_size,
        max_waiting: config.api.max_concurrent_sync,
        max_wait: config.api.max_sync_timeout,
        allowed_origins: config.api.allowed_origins.clone(),
        token_key: introduction.token_key,
        tokens,
        plugins: catalog.shown().to_vec(),
        log_level: config.service.log_level.to_string().to_lowercase(),
    })
}

fn watch_signals(events: &mpsc::UnboundedSender<Event>, tasks: &mut JoinSet<()>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for (kind, name) in [(SignalKind::terminate(), "terminated"), (SignalKind::interrupt(), "interrupt")] {
        let (mut signals, events) = (signal(kind)?, events.clone());
        tasks.spawn(async move {
            while signals.recv().await.is_some() && events.send(Event::Stop { signal: name, has_grace: true }).is_ok() {
            }
        });
    }
    let mut hangups = signal(SignalKind::hangup())?;
    tasks.spawn(async move {
        while hangups.recv().await.is_some() {
            log(
                Level::Warn,
                "config reload failed",
                &[("error", "this version takes a new configuration at its start only".into())],
            );
        }
    });
    Ok(())
}

/// The launcher's end of the line closes when the launcher is gone.
fn watch_line(line: OwnedFd, events: &mpsc::UnboundedSender<Event>, tasks: &mut JoinSet<()>) {
    let events = events.clone();
    tasks.spawn(async move {
        let line = UnixStream::from(line);
        let line = line.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(line));
        if let Ok(line) = line {
            // Nothing more is ever sent on it: readable means closed.
            let _ = line.readable().await;
            let _ = events.send(Event::Stop { signal: "launcher gone", has_grace: false });
        }
    });
}
