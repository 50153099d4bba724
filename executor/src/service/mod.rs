//! The executor's service: its arguments, how it refuses its start, and the exit code that follows.
//! `taken` has the sockets that it was handed, `boot` the steps of its start, `runtime` what serves.

mod boot;
mod runtime;
mod taken;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use shared::exit;
use shared::log::Level;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::launch::{self, Started};

use crate::logging::{self, log};
use crate::sockets;

const USAGE: &str = "Usage: ductile-executor --config PATH [--spawner-user NAME] [--runtime-dir DIR]\n\
    \n\
    Started by its unit or by `ductile system start`; not by hand.\n";

/// Why the executor does not start; printed as it stands.
#[derive(Debug)]
enum StartError {
    Usage(String),
    Version(String),
    Harden(String),
    Sockets(String),
    Spawner(String),
    Locate(String),
    Config(String),
    Lock(String),
    Runtime(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}\n\n{USAGE}"),
            Self::Version(text) | Self::Locate(text) => f.write_str(text),
            Self::Harden(text) => write!(f, "Failed to harden: {text}"),
            Self::Sockets(text) => write!(f, "Failed to take sockets: {text}"),
            Self::Spawner(text) => write!(f, "Failed to start spawner: {text}"),
            Self::Config(text) => write!(f, "Failed to load config: {text}"),
            Self::Lock(text) => write!(f, "Failed to acquire PID lock (another instance may be running): {text}"),
            Self::Runtime(text) => write!(f, "Failed to start runtime: {text}"),
        }
    }
}

fn refuse(error: impl fmt::Display) -> StartError {
    StartError::Runtime(error.to_string())
}

/// What was asked for on the command line.
struct Arguments {
    config: Option<PathBuf>,
    line: bool,
    spawner_user: Option<String>,
    runtime_dir: PathBuf,
}

/// The whole program.
pub fn main() -> ExitCode {
    let refused = match run() {
        Ok(code) => return ExitCode::from(code),
        Err((error, line)) => {
            let text = error.to_string();
            let _ = writeln!(io::stderr(), "{text}");
            log(Level::Error, "start refused", &[("error", (&text).into())]);
            let in_unit = line.is_none() && !matches!(error, StartError::Usage(_) | StartError::Version(_));
            if let Some(line) = line {
                let _ = fds::send(line.as_fd(), &codec::encode(&Started::Failed { text }), &[]);
            }
            if in_unit { exit::REFUSED } else { exit::FAILURE }
        }
    };
    logging::flush();
    ExitCode::from(u8::try_from(refused).unwrap_or(1))
}

type Refused = (StartError, Option<OwnedFd>);

fn run() -> Result<u8, Refused> {
    // Step 0: nothing is read from outside before this.
    shared::harden::first_statements().map_err(|error| (StartError::Harden(error.to_string()), None))?;
    let Some(arguments) = arguments().map_err(|error| (error, None))? else { return Ok(0) };
    let line = arguments.line.then(|| io::stdin().as_fd().try_clone_to_owned()).transpose();
    let line = line.map_err(|error| (StartError::Sockets(error.to_string()), None))?;
    let sockets = match taken::take_sockets(&arguments, line.as_ref()) {
        Ok(sockets) => sockets,
        Err(error) => return Err((error, line)),
    };
    match boot::boot(&arguments, &sockets) {
        Ok(service) => service.serve(sockets, line),
        Err(error) => {
            // They stay open until the process has said why it ends: a front that saw its line close
            // before that would be taken for the cause.
            std::mem::forget(sockets);
            Err((error, line))
        }
    }
}

fn arguments() -> Result<Option<Arguments>, StartError> {
    let mut parsed = Arguments { config: None, line: false, spawner_user: None, runtime_dir: sockets::runtime_dir() };
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            inline.clone().or_else(|| given.next()).ok_or_else(|| StartError::Usage(format!("{flag} needs a value")))
        };
        match flag.as_str() {
            "--config" => parsed.config = Some(PathBuf::from(value()?)),
            "--line" => parsed.line = true,
            "--spawner-user" => parsed.spawner_user = Some(value()?),
            "--runtime-dir" => parsed.runtime_dir = PathBuf::from(value()?),
            "--launcher-version" => {
                launch::check_launcher("ductile-executor", &value()?).map_err(StartError::Version)?;
            }
            "--version" | "version" => {
                let _ = writeln!(io::stdout(), "ductile-executor {}", shared::VERSION);
                return Ok(None);
            }
            "--help" | "-h" | "help" => {
                let _ = write!(io::stdout(), "{USAGE}");
                return Ok(None);
            }
            other => return Err(StartError::Usage(format!("unknown argument {other:?}"))),
        }
    }
    Ok(Some(parsed))
}
