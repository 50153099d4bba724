//! From the first statement to the last: which form was asked for, what runs in it, why it ends.

mod line;
mod unit;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use shared::exit;
use shared::log::Level;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::front::{Door, Front};
use crate::serve;

/// How long requests that had begun may take once the front stops.
const GRACE: Duration = Duration::from_secs(10);
/// How long the start waits for the executor before it serves without.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);
const EXECUTOR: &str = "/run/ductile/executor.sock";
const USAGE: &str = "usage: ductile-api [--executor PATH]   (a service with activated sockets)\n       ductile-api --line              (a child of the launcher)\n       ductile-api --version\n";

/// Hardens the process, then runs the form that the arguments ask for.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    if let Err(error) = shared::harden::first_statements() {
        return fail(exit::FAILURE, &format!("ductile-api: harden: {error}\n"));
    }
    match parse(arguments) {
        Some(Ok(Form::Line)) => line::run(),
        Some(Ok(Form::Unit { executor })) => unit::run(executor),
        Some(Ok(Form::Version)) => {
            let _ = writeln!(std::io::stdout(), "ductile-api {}", shared::VERSION);
            code(exit::OK)
        }
        Some(Err(refused)) => fail(exit::FAILURE, &format!("{refused}\n")),
        None => fail(exit::FAILURE, USAGE),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Line,
    Unit { executor: PathBuf },
    Version,
}

/// `None` for arguments that are none of ours.
fn parse(arguments: impl Iterator<Item = OsString>) -> Option<Result<Form, String>> {
    let words: Vec<String> = arguments.map(|word| word.into_string().ok()).collect::<Option<_>>()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        [] => Ok(Form::Unit { executor: EXECUTOR.into() }),
        ["--executor", path] => Ok(Form::Unit { executor: path.into() }),
        ["--line"] => Ok(Form::Line),
        ["--line", "--launcher-version", launcher] => {
            shared::wire::launch::check_launcher("ductile-api", launcher).map(|()| Form::Line)
        }
        ["--version"] => Ok(Form::Version),
        _ => return None,
    })
}

fn fail(status: i32, text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    code(status)
}

fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

/// Why the front stops.
enum Stop {
    /// SIGTERM, SIGINT, or the launcher is gone.
    Asked(&'static str),
    /// Something that the front can not do without is gone.
    Failed(String),
    /// What systemd holds and what is configured do not go together.
    Refused(String),
}

impl Stop {
    fn code(&self) -> i32 {
        match self {
            Self::Asked(_) => exit::OK,
            Self::Failed(_) => exit::FAILURE,
            Self::Refused(_) => exit::REFUSED,
        }
    }

    fn log(&self, front: &Front) {
        let (level, msg, reason) = match self {
            Self::Asked(by) => (Level::Info, "stopping", *by),
            Self::Failed(error) => (Level::Error, "stopping", error.as_str()),
            Self::Refused(error) => (Level::Error, "start refused", error.as_str()),
        };
        front.log.write(level, msg, &[("reason", reason.into())]);
    }
}

/// A runtime of one thread: the front waits far more than it works (performance, rule 6).
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Serves `doors` while `driver` drives the line to the executor and `parent` lives; stops in good
/// order when either ends or a signal says so.
async fn serve_until_stopped(
    front: Arc<Front>,
    doors: Vec<(TcpListener, Door)>,
    driver: impl Future<Output = Stop> + Send + 'static,
    parent: impl Future<Output = Stop>,
) -> Stop {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return Stop::Failed(format!("signal handlers: {error}")),
    };
    let (stop, stopping) = watch::channel(false);
    let mut background = JoinSet::new();
    background.spawn(driver);
    // Callers wait in the listener's queue meanwhile: a front that starts beside a serving executor
    // answers nobody with 503. One whose executor is away serves all the same, after a while.
    let _ = tokio::time::timeout(FIRST_CONNECTION, front.executor.up()).await;
    let mut servers = JoinSet::new();
    for (listener, door) in doors {
        servers.spawn(serve::serve(listener, door, stopping.clone()));
    }
    for endless in [Endless::Log, Endless::Exposures, Endless::Watchdog] {
        let front = Arc::clone(&front);
        background.spawn(async move { match endless.run(&front).await {} });
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let end = tokio::select! {
        Some(Ok(end)) = background.join_next() => end,
        end = parent => end,
        end = signals.stop() => end,
    };
    end.log(&front);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    front.stopping.cancel();
    stop.send_replace(true);
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        front.log.write(Level::Warn, "requests were still under way at the end of the grace", &[]);
    }
    end
}

/// What runs beside the servers until the program ends.
enum Endless {
    Log,
    Exposures,
    Watchdog,
}

impl Endless {
    async fn run(self, front: &Front) -> Infallible {
        match self {
            Self::Log => front.log.drive().await,
            Self::Exposures => front.report_exposures().await,
            Self::Watchdog => watchdog().await,
        }
    }
}

/// Tells systemd that the one thread still turns, where it wants to know.
async fn watchdog() -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut tick = tokio::time::interval(limit / 2);
    loop {
        tick.tick().await;
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// The front has nothing to read again: a reload comes from the executor.
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) -> Stop {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Stop::Asked("SIGTERM"),
                _ = self.interrupt.recv() => return Stop::Asked("SIGINT"),
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_the_form_or_are_refused() {
        let check = |arguments: &[&str], expected: Option<Form>| {
            let expected = expected.map(Ok);
            assert_eq!(parse(arguments.iter().map(OsString::from)), expected, "{arguments:?}");
        };
        check(&[], Some(Form::Unit { executor: EXECUTOR.into() }));
        check(&["--executor", "/tmp/x"], Some(Form::Unit { executor: "/tmp/x".into() }));
        check(&["--line"], Some(Form::Line));
        check(&["--line", "--launcher-version", shared::VERSION], Some(Form::Line));
        check(&["--version"], Some(Form::Version));
        check(&["--executor"], None);
        check(&["--line", "--executor", "/tmp/x"], None);
        check(&["--config", "x"], None);
        check(&["line"], None);
        let other = parse(["--line", "--launcher-version", "9.9.9"].iter().map(OsString::from));
        assert!(matches!(other, Some(Err(text)) if text.contains("9.9.9")));
    }
}
