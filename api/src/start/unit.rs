//! The unit set: sockets from systemd, an executor at a path, each of which may come and go. The
//! listener is never lost: while the executor is away its callers are told so.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use shared::exit;
use shared::log::{Level, chain};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::{Stop, code, fail, runtime, serve_until_stopped};
use crate::executor::{Config, DEADLINE, LineError, Session};
use crate::front::{Door, Front};
use crate::listen::{ListenError, check_held};
use crate::routes;

/// The pause before the next attempt to connect, its growth's end, and the least there is even
/// when requests ask for the executor.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

pub(super) fn run(executor: PathBuf) -> ExitCode {
    let front = Arc::new(Front::new());
    let refuse = |text: String| {
        front.log.flush();
        fail(exit::REFUSED, &format!("ductile-api: {text}\n"))
    };
    let sockets = match Sockets::take() {
        Ok(sockets) => sockets,
        Err(text) => return refuse(text),
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(live(Arc::clone(&front), sockets, executor)),
        Err(error) => fail(exit::FAILURE, &format!("ductile-api: runtime: {error}\n")),
    }
}

/// What systemd handed over.
struct Sockets {
    api: std::net::TcpListener,
    held: SocketAddr,
    webhooks: Option<std::net::TcpListener>,
}

impl Sockets {
    fn take() -> Result<Self, String> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let (mut api, mut webhooks) = (None, None);
        let names: Vec<&str> = if given.len() == 0 { Vec::new() } else { names.split(':').collect() };
        if names.len() != given.len() {
            return Err(format!("{} sockets came with {} names (LISTEN_FDNAMES)", given.len(), names.len()));
        }
        for (index, name) in names.into_iter().enumerate() {
            let place = match name {
                "api" => &mut api,
                "webhooks" => &mut webhooks,
                _ => {
                    return Err(format!("socket of the unknown name {name:?}: FileDescriptorName= is api or webhooks"));
                }
            };
            let listener = given
                .take_tcp_listener(index)
                .and_then(|listener| listener.ok_or_else(|| std::io::Error::other("taken before")))
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|error| format!("socket {name}: {error}"))?;
            if rustix::net::sockopt::socket_acceptconn(&listener) != Ok(true) {
                return Err(format!("socket {name} does not listen"));
            }
            if place.replace(listener).is_some() {
                return Err(format!("two sockets have the name {name}"));
            }
        }
        let api = api.ok_or("no socket of the name api was handed over: start ductile-api.socket, or use --line")?;
        let held = api.local_addr().map_err(|error| format!("socket api: {error}"))?;
        Ok(Self { api, held, webhooks })
    }
}

async fn live(front: Arc<Front>, sockets: Sockets, executor: PathBuf) -> ExitCode {
    let mut doors = Vec::new();
    let listeners = [
        Some((sockets.api, routes::api(Arc::clone(&front)))),
        sockets.webhooks.map(|listener| (listener, routes::webhooks())),
    ];
    for (listener, router) in listeners.into_iter().flatten() {
        match TcpListener::from_std(listener) {
            Ok(listener) => doors.push((listener, Door::new(Arc::clone(&front), router))),
            Err(error) => return fail(exit::FAILURE, &format!("ductile-api: activated socket: {error}\n")),
        }
    }
    front.log.write(Level::Info, "api listening", &[("address", (&sockets.held.to_string()).into())]);
    let driver = keep(Arc::clone(&front), executor, sockets.held);
    let stop = serve_until_stopped(Arc::clone(&front), doors, driver, std::future::pending()).await;
    front.log.flush();
    code(stop.code())
}

/// Keeps a connection to the executor for as long as the program runs; ends only when the
/// configuration can not be served on the socket that systemd holds.
async fn keep(front: Arc<Front>, path: PathBuf, held: SocketAddr) -> Stop {
    let mut pause = SHORTEST;
    let mut said = String::new();
    loop {
        let problem = match connect(&path).await {
            Ok((session, told)) => {
                let config = Config::new(told);
                match check_held(held, config.address()).await {
                    Ok(()) => {
                        front.install(config);
                        front.log.write(Level::Info, "executor connected", &[]);
                        said.clear();
                        let reloading = Arc::clone(&front);
                        let end = front.executor.drive(session, move |told| reloading.install(Config::new(told))).await;
                        pause = SHORTEST;
                        chain(&end)
                    }
                    Err(error @ ListenError::Resolve { .. }) => chain(&error),
                    Err(error) => return Stop::Refused(chain(&error)),
                }
            }
            Err(error) => chain(&error),
        };
        // One line for an executor that stays away, not one for each attempt.
        if said != problem {
            front.log.write(Level::Warn, "executor away", &[("error", (&problem).into())]);
            said = problem;
        }
        sleep(SHORTEST).await;
        let _ = timeout(pause, front.executor.wanted()).await;
        pause = (pause * 2).min(LONGEST);
    }
}

async fn connect(path: &Path) -> Result<(Session, shared::wire::gateway::FrontConfig), LineError> {
    let stream = timeout(DEADLINE, UnixStream::connect(path)).await.map_err(|_| LineError::Deadline)?;
    Session::open(stream.map_err(LineError::Io)?).await
}
