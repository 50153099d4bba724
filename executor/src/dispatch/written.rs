//! What the writer answers, in the order of its commits, and what is done while it can not write.

use std::time::{Duration, Instant};

use shared::id::PluginName;
use shared::log::{self as lines, Level};
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::admit::{Admission, NOT_ENQUEUED};
use super::breakers::Counted;
use super::finish::Done;
use super::jobs::Cancelling;
use super::schedule::Looked;
use crate::ipc::Answer;
use crate::logging::{log, now};
use crate::store::write::{Applied, BreakerChange, Outcome, Pruned, Urgency, Write};
use crate::store::{StoreError, StoreErrorKind};

/// Pauses between two tries of a database that can not be written.
const WRITE_AGAIN_FIRST: Duration = Duration::from_millis(50);
const WRITE_AGAIN_MAX: Duration = Duration::from_secs(1);

/// An operation that the writer has not answered.
pub(super) enum Pending {
    Admission(Box<Admission>),
    Claim {
        run: u64,
    },
    Completion(Box<Done>),
    Cancel(Box<Cancelling>),
    /// A look at a schedule entry.
    Look(Box<Looked>),
    Reset {
        counted: Box<Counted>,
        answer: Answer,
    },
    /// A breaker that counted what no completion brought.
    Counted {
        change: Box<BreakerChange>,
    },
    Prune {
        table: Pruned,
    },
    /// What waits in this lane may be due earlier than was thought.
    Reanchor {
        plugin: PluginName,
    },
    /// Nothing follows.
    Note,
}

impl Dispatcher {
    /// The writer's answers, in the order of its commits.
    pub(super) fn written(&mut self, outcomes: Vec<Outcome>) {
        for Outcome { ticket, result, returned } in outcomes {
            let applied = match result {
                Ok(applied) => {
                    self.writer_works();
                    applied
                }
                Err(error) => {
                    self.not_written(ticket, &error, returned);
                    continue;
                }
            };
            match (self.pending.remove(&ticket), applied) {
                (Some(Pending::Admission(admission)), Applied::Admitted) => self.admitted(*admission),
                (Some(Pending::Admission(admission)), Applied::Duplicate(found)) => {
                    self.duplicate(&found, *admission);
                }
                (Some(Pending::Admission(admission)), _) => {
                    self.not_admitted(*admission, RefusalKind::Internal, NOT_ENQUEUED);
                }
                (Some(Pending::Claim { run }), applied) => self.claimed(run, applied == Applied::Claimed),
                (Some(Pending::Completion(done)), Applied::StateRefused { text }) => {
                    self.state_refused(*done, text, returned);
                }
                (Some(Pending::Completion(done)), Applied::Stale) => self.dropped(*done, returned),
                (Some(Pending::Completion(done)), Applied::Completed(routed)) => self.completed(*done, &routed),
                (Some(Pending::Completion(done)), _) => self.not_completed(*done),
                (Some(Pending::Cancel(cancelling)), applied) => self.cancelled(*cancelling, &applied),
                (Some(Pending::Look(looked)), Applied::Scheduled { cancelled, duplicates }) => {
                    self.looked(*looked, &cancelled, &duplicates);
                }
                (Some(Pending::Look(looked)), _) => self.look_refused(*looked),
                (Some(Pending::Reset { counted, answer }), _) => self.breaker_reset(&counted.change, answer),
                (Some(Pending::Counted { change }), _) => self.publish_breaker(&change),
                (Some(Pending::Prune { table }), applied) => {
                    self.pruned(table, if let Applied::Pruned { rows } = applied { rows } else { 0 });
                }
                (Some(Pending::Reanchor { plugin }), _) => self.backlog.due_at(&plugin, now()),
                (Some(Pending::Note) | None, _) => {}
            }
        }
    }

    /// Whatever could not be written goes out before anything that comes after this.
    fn writer_works(&mut self) {
        if self.writer_failing.take().is_some() {
            log(Level::Info, "database is written again", &[]);
        }
    }

    /// An admission is refused to its caller; everything else is kept and written before anything
    /// new is claimed (design, decision 27). An operation that can never be stored is dropped.
    fn not_written(&mut self, ticket: u64, error: &StoreError, write: Option<Write>) {
        let refused = error.kind() == StoreErrorKind::Refused;
        if refused {
            log(Level::Error, "operation can not be stored", &[("error", (&lines::chain(error)).into())]);
        } else {
            self.writer_fails(error);
        }
        match self.pending.remove(&ticket) {
            Some(Pending::Admission(admission)) => self.not_admitted(*admission, kind_of(error), NOT_ENQUEUED),
            Some(Pending::Cancel(cancelling)) => self.not_cancelled(*cancelling, kind_of(error)),
            Some(Pending::Claim { run }) if refused => self.claimed(run, false),
            Some(Pending::Look(looked)) if refused => self.look_refused(*looked),
            Some(Pending::Reset { counted, answer }) => self.breaker_not_reset(*counted, answer, kind_of(error)),
            // The table is left for the next round.
            Some(Pending::Prune { table }) => self.pruned(table, 0),
            Some(Pending::Note | Pending::Counted { .. } | Pending::Reanchor { .. }) if refused => {}
            Some(Pending::Completion(done)) if refused => self.not_completed(*done),
            Some(pending) => {
                self.pending.insert(ticket, pending);
                self.unwritten.extend(write.map(|write| (ticket, write)));
            }
            None => {}
        }
    }

    fn writer_fails(&mut self, error: &StoreError) {
        if self.writer_failing.is_none() {
            let text = "database write failed; nothing new is claimed until it works";
            log(Level::Error, text, &[("error", (&lines::chain(error)).into())]);
            let until = Instant::now() + WRITE_AGAIN_FIRST;
            self.writer_failing = Some(Failing { until, pause: WRITE_AGAIN_FIRST });
        }
    }

    /// Hands over again what could not be written, in its order; without any, a probe.
    pub(super) fn write_again(&mut self, at: Instant) {
        let Some(failing) = &mut self.writer_failing else { return };
        if failing.until > at {
            return;
        }
        failing.pause = (failing.pause * 2).min(WRITE_AGAIN_MAX);
        failing.until = at + failing.pause;
        // What the writer still holds comes back first and goes behind what has failed.
        if self.pending.len() > self.unwritten.len() {
            return;
        }
        if self.unwritten.is_empty() {
            let ticket = self.number();
            self.pending.insert(ticket, Pending::Note);
            self.unwritten.push((ticket, Write::Probe));
        }
        self.writer.resume();
        for (ticket, write) in self.unwritten.drain(..) {
            self.writer.submit(ticket, write, Urgency::Now);
        }
    }
}

/// What a caller hears of it.
fn kind_of(error: &StoreError) -> RefusalKind {
    if error.kind() == StoreErrorKind::Refused { RefusalKind::Internal } else { RefusalKind::Storage }
}

/// The writer fails: when it is tried again, and how long the pause before was.
pub(super) struct Failing {
    pub(super) until: Instant,
    pause: Duration,
}
