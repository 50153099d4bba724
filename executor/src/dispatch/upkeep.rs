//! What comes round by itself: the tick of the hub, and retention, which takes old rows in bounded
//! batches, one after the other, now and then (`spec/queue-and-scheduler.md` 7.1, 9, 14.17, 14.20).

use std::time::{Duration, Instant};

use shared::log::Level;
use shared::time::{Millis, Timestamp};

use super::Dispatcher;
use super::written::Pending;
use crate::config::Retention;
use crate::logging::{log, now};
use crate::store::write::{Prune, Pruned, Urgency, Write};

/// After the start, and between two rounds.
const FIRST: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(600);
/// Rows of one batch, and the pause after a full one.
const BATCH: u32 = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// Where the round over the tables stands.
pub(super) struct Upkeep {
    tables: Vec<(Pruned, Millis)>,
    /// The table that is next; beyond the last, the round is over.
    place: usize,
    /// Rows that this round has taken from the table.
    rows: u64,
    /// `None` while a batch is with the writer.
    next: Option<Instant>,
    /// `service.tick_interval`, and when `scheduler.tick` is published next.
    tick_every: Duration,
    tick: Instant,
}

impl Upkeep {
    /// Tables whose retention is 0 are left alone.
    pub(super) fn new(retention: &Retention, tick_every: Millis) -> Self {
        let tables = [
            (Pruned::JobLog, retention.job_log),
            (Pruned::JobQueue, retention.job_queue),
            (Pruned::JobTransitions, retention.job_transitions),
            (Pruned::JobAttempts, retention.job_attempts),
            (Pruned::BreakerTransitions, retention.breaker_transitions),
            (Pruned::ScheduleOccurrences, retention.schedule_occurrences),
            (Pruned::EventContext, kept_contexts(retention)),
            (Pruned::PluginFacts, retention.plugin_facts),
            (Pruned::ConfigSnapshots, retention.config_snapshots),
            (Pruned::Stopwatch, retention.stopwatch),
        ];
        let tables = tables.into_iter().filter(|(_, kept)| kept.0 > 0).collect();
        let (tick_every, tick) = (tick_every.as_duration(), Instant::now());
        Self { tables, place: 0, rows: 0, next: Some(tick + FIRST), tick_every, tick }
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.tick
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next
    }
}

/// A context is named by its jobs and their log: one that is younger than those are kept for would
/// be looked at in vain, each round again.
fn kept_contexts(retention: &Retention) -> Millis {
    let kept = [retention.event_context, retention.job_queue, retention.job_log];
    if kept.contains(&Millis(0)) { Millis(0) } else { kept.into_iter().fold(Millis(0), Millis::max) }
}

impl Dispatcher {
    /// Tells those who watch that the scheduler lives.
    pub(super) fn publish_tick(&mut self, at: Instant, time: Timestamp) {
        if self.upkeep.tick <= at {
            self.upkeep.tick = at + self.upkeep.tick_every;
            let text = time.to_string();
            self.hub.publish("scheduler.tick", &[("at", (&text).into())]);
        }
    }

    /// Hands the next batch to the writer when it is time.
    pub(super) fn prune(&mut self, at: Instant) {
        if self.rests() || self.upkeep.next.is_none_or(|next| next > at) {
            return;
        }
        let Some((table, kept)) = self.upkeep.tables.get(self.upkeep.place).copied() else {
            self.upkeep.place = 0;
            self.upkeep.next = Some(at + EVERY);
            return;
        };
        self.upkeep.next = None;
        let ticket = self.number();
        self.pending.insert(ticket, Pending::Prune { table });
        let prune = Prune { table, before: now().minus(kept), limit: BATCH };
        self.writer.submit(ticket, Write::Prune(prune), Urgency::Lazy);
    }

    pub(super) fn pruned(&mut self, table: Pruned, rows: u32) {
        let upkeep = &mut self.upkeep;
        upkeep.rows += u64::from(rows);
        if rows >= BATCH {
            upkeep.next = Some(Instant::now() + PAUSE);
            return;
        }
        if upkeep.rows > 0 {
            let rows = i64::try_from(upkeep.rows).unwrap_or(i64::MAX);
            log(Level::Info, "old rows removed", &[("table", table.name().into()), ("rows", rows.into())]);
        }
        upkeep.rows = 0;
        upkeep.place += 1;
        upkeep.next = Some(Instant::now());
    }
}
