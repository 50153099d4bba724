//! What a plugin with secrets printed passes the agent before it is judged, stored or logged; and
//! what the dispatcher hears of the agent otherwise.

use std::os::fd::OwnedFd;
use std::time::Instant;

use shared::log::Level;
use shared::wire::vault::{Reply, Request};

use super::Dispatcher;
use crate::logging::log;
use crate::plugin::supervise::{Ended, STDERR_MAX, STDOUT_MAX};
use crate::vault::{self, Call, VaultEvent};

/// A scrub that the agent has not answered.
pub(super) struct Open {
    run: u64,
    stream: Stream,
    pub(super) until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// What a replacement can grow a text to: the shortest value has 8 bytes, the longest mark
/// `[secret:NAME]` has 137.
const GROWTH: usize = 18;

impl Dispatcher {
    /// Judges a run at once when it had no secrets, else when the agent has scrubbed its output.
    pub(super) fn scrub(&mut self, ended: Box<Ended>) {
        let run = ended.run;
        if ended.secret_names_count == 0 || (ended.stdout.is_empty() && ended.stderr.is_empty()) {
            return self.finished(run, *ended);
        }
        let Some(entry) = self.runs.get_mut(&run) else { return };
        entry.ended = Some(ended);
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.ask_scrub(run, stream);
        }
        self.judge_when_scrubbed(run);
    }

    fn ask_scrub(&mut self, run: u64, stream: Stream) {
        let Some(ended) = self.runs.get(&run).and_then(|entry| entry.ended.as_ref()) else { return };
        let text = match stream {
            Stream::Stdout => &ended.stdout,
            Stream::Stderr => &ended.stderr,
        };
        if text.is_empty() {
            return;
        }
        match vault::scrub_text(text) {
            Ok((text, fds)) if self.vault_is_up => {
                let call = self.ask_vault(Request::Scrub { delivery_id: run, text }, fds);
                self.scrubs.insert(call, Open { run, stream, until: Instant::now() + vault::DEADLINE });
            }
            _ => self.withhold(run, stream),
        }
    }

    /// Sends a request to the agent; the number that its reply will carry.
    pub(super) fn ask_vault(&mut self, request: Request, fds: Vec<OwnedFd>) -> u64 {
        // Calls of the introduction count from 1 on each line; these begin above them.
        self.vault_calls += 1;
        let call = (1 << 32) + self.vault_calls;
        let _ = self.vault.send(Call { call, request, fds });
        call
    }

    pub(super) fn vault_event(&mut self, event: VaultEvent) {
        match event {
            VaultEvent::Reply { call: 0, reply: Reply::PrincipalsChanged { principals }, .. } => {
                self.principals = principals.into_iter().collect();
            }
            VaultEvent::Reply { call, reply, fds } => {
                if let Some(open) = self.scrubs.remove(&call) {
                    self.scrubbed(&open, reply, fds);
                }
            }
            VaultEvent::Up(introduction) => {
                log(Level::Info, "vault agent is back", &[]);
                self.vault_is_up = true;
                self.principals = introduction.principals.into_iter().collect();
            }
            VaultEvent::Down { text } => {
                log(Level::Warn, "vault agent is away", &[("error", (&text).into())]);
                self.vault_is_up = false;
                let lost: Vec<Open> = self.scrubs.drain().map(|(_, open)| open).collect();
                for open in lost {
                    self.withhold(open.run, open.stream);
                    self.judge_when_scrubbed(open.run);
                }
            }
        }
    }

    fn scrubbed(&mut self, open: &Open, reply: Reply, fds: Vec<OwnedFd>) {
        let limit = GROWTH
            * match open.stream {
                Stream::Stdout => STDOUT_MAX,
                Stream::Stderr => STDERR_MAX,
            };
        let text = match reply {
            Reply::Scrubbed { text, hits } => {
                for hit in &hits {
                    let fields = [("secret", (&hit.name).into()), ("count", hit.count.into())];
                    log(Level::Warn, "a plugin printed a secret; it was replaced", &fields);
                }
                vault::scrubbed_text(text, fds, limit).ok()
            }
            _ => None,
        };
        match (text, self.runs.get_mut(&open.run).and_then(|entry| entry.ended.as_mut())) {
            (Some(text), Some(ended)) => match open.stream {
                Stream::Stdout => ended.stdout = text,
                Stream::Stderr => ended.stderr = text,
            },
            _ => self.withhold(open.run, open.stream),
        }
        self.judge_when_scrubbed(open.run);
    }

    /// Replaces a text that could not be scrubbed; it is never stored raw.
    fn withhold(&mut self, run: u64, stream: Stream) {
        let Some(entry) = self.runs.get_mut(&run) else { return };
        let Some(ended) = &mut entry.ended else { return };
        match stream {
            Stream::Stdout => {
                ended.stdout = Vec::new();
                entry.stdout_withheld = true;
            }
            Stream::Stderr => ended.stderr = crate::plugin::outcome::WITHHELD.as_bytes().to_vec(),
        }
    }

    /// Answers that did not come in time.
    pub(super) fn end_scrubs(&mut self, at: Instant) {
        let late: Vec<u64> = self.scrubs.iter().filter(|(_, open)| open.until <= at).map(|(call, _)| *call).collect();
        for call in late {
            if let Some(open) = self.scrubs.remove(&call) {
                self.withhold(open.run, open.stream);
                self.judge_when_scrubbed(open.run);
            }
        }
    }

    fn judge_when_scrubbed(&mut self, run: u64) {
        if self.scrubs.values().any(|open| open.run == run) {
            return;
        }
        if let Some(ended) = self.runs.get_mut(&run).and_then(|entry| entry.ended.take()) {
            self.finished(run, *ended);
        }
    }
}
