//! A load that goes on while things are killed, and remembers what was promised.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that trigger jobs without pause until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Ids of the jobs that were answered with 202.
    pub accepted: Vec<String>,
    /// Connections that the kernel refused.
    pub refused: usize,
    /// Requests that ended without an answer, or with a 5xx: allowed while something is down.
    pub failed: usize,
    /// Any other answer, with its status line.
    pub strange: Vec<String>,
}

impl Load {
    /// Starts as many threads as there are targets, each `PLUGIN/COMMAND`.
    pub fn start(address: SocketAddr, token: &str, targets: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let threads = targets
            .iter()
            .map(|target| {
                let request = format!(
                    "POST /plugin/{target} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let outcome = once(address, &request);
                        note(&mut seen.lock().expect("no thread of the load panics"), outcome);
                    }
                })
            })
            .collect();
        Self { stop, seen, threads }
    }

    /// What was seen so far.
    ///
    /// # Panics
    /// Never: no thread of the load panics.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no thread of the load panics").clone()
    }

    /// Stops the threads; what they saw.
    ///
    /// # Panics
    /// Never: no thread of the load panics.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no thread of the load panics");
        }
        self.seen.lock().expect("no thread of the load panics").clone()
    }
}

enum Outcome {
    Accepted(String),
    Refused,
    Failed,
    Strange(String),
}

fn note(seen: &mut Seen, outcome: Outcome) {
    match outcome {
        Outcome::Accepted(id) => seen.accepted.push(id),
        Outcome::Refused => seen.refused += 1,
        Outcome::Failed => seen.failed += 1,
        Outcome::Strange(line) => seen.strange.push(line),
    }
}

fn once(address: SocketAddr, request: &str) -> Outcome {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Outcome::Refused,
        Err(_) => return Outcome::Failed,
    };
    let patience = Some(Duration::from_secs(15));
    if stream.set_read_timeout(patience).is_err() || stream.write_all(request.as_bytes()).is_err() {
        return Outcome::Failed;
    }
    let mut answer = String::new();
    // What came before an error is looked at all the same: a 202 that was read is a promise.
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let id = answer.split("\"job_id\":\"").nth(1).and_then(|rest| rest.split('"').next());
    match (status, id) {
        ("202", Some(id)) => Outcome::Accepted(id.to_owned()),
        ("", _) => Outcome::Failed,
        (status, _) if status.starts_with('5') => Outcome::Failed,
        _ => Outcome::Strange(answer.lines().next().unwrap_or_default().to_owned()),
    }
}
