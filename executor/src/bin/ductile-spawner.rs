//! `ductile-spawner`: makes, confines, ends and reaps the plugins' processes for the executor, which
//! starts it once and can not exec itself. It parses nothing but its own frames.

#[path = "../spawner/accounts.rs"]
mod accounts;
#[path = "../spawner/child.rs"]
mod child;
#[path = "../spawner/confine.rs"]
mod confine;
#[path = "../spawner/deliver.rs"]
mod deliver;
#[path = "../spawner/reap.rs"]
mod reap;
#[path = "../spawner/serve.rs"]
mod serve;
#[path = "../spawner/sys.rs"]
mod sys;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::SystemTime;

use shared::log::{Level, line};
use shared::time::Timestamp;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::hello::PROTOCOL;
use shared::wire::spawner::{Reply, Request};

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--version" || word == "version") {
        let _ = writeln!(io::stdout(), "ductile-spawner {}", shared::VERSION);
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let time = Timestamp::from_system_time(SystemTime::now());
            let _ = io::stdout().write_all(line(time, Level::Error, "spawner", &text, &[]).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    shared::harden::first_statements().map_err(|error| format!("harden: {error}"))?;
    confine::default_signals();
    // The plugins' session, with no terminal that they could reach; each has a group of its own in it.
    // A session for each plugin would be a scheduling group for each too, which costs 6 % of the rate.
    rustix::process::setsid().map_err(|error| format!("new session: {error}"))?;
    let executor = io::stdin().as_fd().try_clone_to_owned().map_err(|error| format!("stdin: {error}"))?;
    let credentials = rustix::net::sockopt::socket_peercred(&executor)
        .map_err(|error| format!("stdin is not the executor's line ({error}); ductile-executor starts this program"))?;
    let (move_to, agent) = hello(&executor)?;
    confine::settle(move_to).map_err(|error| format!("move to the spawner's user: {error}"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("sub-reaper: {error}"))?;
    let reply = Reply::Hello { protocol: PROTOCOL, version: shared::VERSION.to_owned() };
    fds::send(executor.as_fd(), &codec::encode(&reply), &[]).map_err(|error| format!("hello: {error}"))?;
    let mut spawner =
        serve::Spawner::new(executor, credentials.uid.as_raw(), agent).map_err(|error| error.to_string())?;
    spawner.serve().map_err(|error| error.to_string())
}

type Greeting = (Option<(u32, u32)>, deliver::Agent);

/// The executor's first message; one of another version is refused by name.
fn hello(executor: &OwnedFd) -> Result<Greeting, String> {
    let mut buffer = vec![0; LINE_MAX];
    let mut descriptors = Vec::new();
    let taken =
        fds::receive(executor.as_fd(), &mut buffer, &mut descriptors).map_err(|error| format!("hello: {error}"))?;
    match codec::decode::<Request, LINE_MAX>(&buffer[..taken]).map_err(|error| format!("hello: {error}"))? {
        Request::Hello { protocol, version, move_to, agent } => {
            if protocol != PROTOCOL || version != shared::VERSION {
                return Err(format!(
                    "the executor is version {version} (protocol {protocol}), this is version {} (protocol {PROTOCOL})",
                    shared::VERSION
                ));
            }
            Ok((move_to, deliver::Agent::new(agent, descriptors.pop())))
        }
        _ => Err("the executor's first message is no hello".to_owned()),
    }
}
