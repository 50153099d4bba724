//! One look at an entry: is its slot due, does something stand in its way, and what follows
//! (`spec/queue-and-scheduler.md` 7.3, 7.4, 7.8). A slot that is blocked stays due until the next
//! one replaces it; every slot is run once or leaves an occurrence that says why not.

use shared::time::Timestamp;

use super::entry::{Entry, IfRunning, Timing};
use super::ran::Ran;
use super::record::{Occurrence, Outcome, Record, Status};
use super::slots::{self, Slot};
use super::window;
use super::zone::civil;
use crate::queue::breaker::{Breaker, Gate, Transition};

/// What the look is made in.
#[derive(Debug, Clone)]
pub struct Situation {
    pub now: Timestamp,
    /// Jobs of this entry that are queued or running.
    pub outstanding: u32,
    pub gate: Gate,
    /// The plugin is enabled and has the command.
    pub is_supported: bool,
    /// Drawn by the caller, in 0..=1.
    pub jitter: f64,
    /// What ran is not run again.
    pub ran: Ran,
    /// Why slots that passed since the last look were not run.
    pub missed: &'static str,
}

/// What it came to.
#[derive(Debug, Clone)]
pub struct Step {
    pub record: Record,
    /// Slots that were not run.
    pub occurrences: Vec<Occurrence>,
    /// Slots that become jobs.
    pub fires: Vec<Fire>,
    /// Newly blocked, for this reason.
    pub skipped: Option<&'static str>,
    /// The jobs of the entry end before the new one is admitted.
    pub cancel_outstanding: bool,
    /// The breaker's new state: the job is its probe.
    pub probe: Option<(Breaker, Transition)>,
    /// There is something to store.
    pub is_changed: bool,
    /// When to look again by time alone.
    pub wake_at: Option<Timestamp>,
    /// To be looked at as well when a job ends or a breaker changes.
    pub is_blocked: bool,
}

/// A slot that becomes a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    pub slot_at: Timestamp,
    pub key: String,
    /// Its key is checked for duplicates.
    pub is_catch_up: bool,
}

/// Why a slot can not run now.
struct Block {
    reason: &'static str,
    /// When time alone takes it away.
    until: Option<Timestamp>,
}

/// Looks at an entry; `record` is `None` when it was never seen.
pub fn step(entry: &Entry, record: Option<Record>, situation: &Situation) -> Step {
    let now = situation.now;
    let was = record.clone();
    let mut step = Step::new(taken_up(entry, record, situation));
    if step.record.status == Status::Exhausted {
        return step.settled(was.as_ref());
    }
    let Some(pending) = slots::pending(entry, &step.record, now, situation.jitter, &situation.ran) else {
        step.record.next_run_at = None;
        return step.settled(was.as_ref());
    };
    step.record.next_run_at = Some(pending.start);
    if pending.start > now {
        step.wake_at = Some(pending.start);
        return step.settled(was.as_ref());
    }
    let Some(slot) = step.reach(entry, pending, situation) else { return step.settled(was.as_ref()) };
    match blocked(entry, &step.record, situation) {
        Some(block) => step.block(entry, slot, &block, situation),
        None => step.fire(entry, slot, situation),
    }
    step.settled(was.as_ref())
}

/// The record as the configuration makes it (7.3, items 1 to 7).
fn taken_up(entry: &Entry, record: Option<Record>, situation: &Situation) -> Record {
    let is_supported = situation.is_supported;
    let command = entry.command.as_str();
    let mut record = record.unwrap_or_else(|| Record::new(command));
    if record.command != command {
        command.clone_into(&mut record.command);
        record.last_success_job_id = None;
        record.last_success_at = None;
        record.next_run_at = None;
    }
    // One that ran would be exhausted, and arming it again clears this: another mode ran.
    let is_after = matches!(entry.timing, Timing::After(_)) && record.status != Status::Exhausted;
    if is_after && record.last_fired_at.take().is_some() {
        record.next_run_at = None;
    }
    match record.status {
        Status::Active | Status::PausedInvalid if !is_supported => {
            record.status = Status::PausedInvalid;
            record.reason = Some(NOT_SUPPORTED.to_owned());
        }
        Status::PausedInvalid => {
            record.status = Status::Active;
            record.reason = None;
        }
        _ => {}
    }
    record
}

const NOT_SUPPORTED: &str = "command_not_supported";
const EXHAUSTED: &str = "one_shot_exhausted";

fn blocked(entry: &Entry, record: &Record, situation: &Situation) -> Option<Block> {
    let block = |reason| Some(Block { reason, until: None });
    match record.status {
        Status::PausedManual => return block("schedule_paused_manual"),
        Status::PausedInvalid => return block(NOT_SUPPORTED),
        Status::Active | Status::Exhausted => {}
    }
    let wall = civil(&entry.constraint_zone, situation.now);
    let reason = if !entry.not_on.allows(wall) {
        Some("outside_day_constraint")
    } else if entry.only_between.is_some_and(|window| !window.allows(wall)) {
        Some("outside_time_window")
    } else {
        None
    };
    if let Some(reason) = reason {
        let until = window::next_allowed(entry.only_between, entry.not_on, &entry.constraint_zone, situation.now);
        return Some(Block { reason, until });
    }
    if let Gate::Shut { until } = situation.gate {
        return Some(Block { reason: "circuit_open", until });
    }
    match entry.if_running {
        IfRunning::Skip if situation.outstanding > 0 => block("already_running"),
        IfRunning::Queue if situation.outstanding >= entry.max_outstanding => block("outstanding_limit"),
        _ => None,
    }
}

impl Step {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            occurrences: Vec::new(),
            fires: Vec::new(),
            skipped: None,
            cancel_outstanding: false,
            probe: None,
            is_changed: false,
            wake_at: None,
            is_blocked: false,
        }
    }

    pub(super) fn settled(mut self, was: Option<&Record>) -> Self {
        self.is_changed = was != Some(&self.record) || !self.occurrences.is_empty() || !self.fires.is_empty();
        self
    }

    /// From the slot that is due to the last one that has come; those between were missed. `None`
    /// while the jitter of that one has not passed.
    fn reach(&mut self, entry: &Entry, pending: Slot, situation: &Situation) -> Option<Timestamp> {
        let ran = &situation.ran;
        let latest = slots::latest(entry, pending.at, situation.now, ran);
        if latest <= pending.at {
            return Some(pending.at);
        }
        // The pending one has a row already when it was blocked.
        let first = if self.record.last_slot_at == Some(pending.at) {
            slots::following(entry, pending.at, pending.at, 0.0, ran).map_or(latest, |slot| slot.at)
        } else {
            pending.at
        };
        self.missed(entry, first, latest, situation);
        let start = match &entry.timing {
            Timing::Every { interval, jitter } => latest.plus(slots::drawn(*interval, *jitter, situation.jitter)),
            _ => latest,
        };
        self.record.next_run_at = Some(start);
        if start > situation.now {
            self.wake_at = Some(start);
            return None;
        }
        Some(latest)
    }

    /// Rows for the slots from `first` on that come before `end`, but for those that ran.
    pub(super) fn missed(&mut self, entry: &Entry, first: Timestamp, end: Timestamp, situation: &Situation) {
        for run in slots::not_run(entry, first, end, &situation.ran) {
            let outcome = Outcome::Missed { reason: situation.missed };
            self.occurrences.push(Occurrence { slot_at: run.first, until_at: run.last, slots: run.count, outcome });
            self.record.last_slot_at = Some(run.last);
        }
    }

    fn block(&mut self, entry: &Entry, slot: Timestamp, block: &Block, situation: &Situation) {
        if self.record.last_slot_at != Some(slot) {
            let outcome = Outcome::Skipped { reason: block.reason };
            self.occurrences.push(Occurrence { slot_at: slot, until_at: slot, slots: 1, outcome });
            self.record.last_slot_at = Some(slot);
            self.skipped = Some(block.reason);
        }
        let next = slots::following(entry, slot, situation.now, 0.0, &situation.ran).map(|slot| slot.at);
        self.wake_at = [block.until.filter(|until| *until > situation.now), next].into_iter().flatten().min();
        self.is_blocked = true;
    }

    fn fire(&mut self, entry: &Entry, slot: Timestamp, situation: &Situation) {
        self.fires.push(Fire { slot_at: slot, key: entry.key(), is_catch_up: false });
        self.cancel_outstanding = entry.if_running == IfRunning::Cancel && situation.outstanding > 0;
        if let Gate::Probe(breaker, transition) = &situation.gate {
            self.probe = Some((breaker.clone(), transition.clone()));
        }
        self.record.last_fired_at = Some(situation.now);
        self.record.last_slot_at = Some(slot);
        match slots::following(entry, slot, situation.now, situation.jitter, &situation.ran) {
            Some(next) => self.record.next_run_at = Some(next.start),
            None if matches!(entry.timing, Timing::At(_) | Timing::After(_)) => {
                self.record.status = Status::Exhausted;
                self.record.reason = Some(EXHAUSTED.to_owned());
                self.record.next_run_at = None;
            }
            None => self.record.next_run_at = None,
        }
        self.wake_at = self.record.next_run_at;
    }
}

/// An exhausted or invalid entry from its beginning: what is over runs now.
pub fn rearm(entry: &Entry, record: Record, now: Timestamp) -> Record {
    let next_run_at = match &entry.timing {
        Timing::At(at) => Some(now.max(*at)),
        Timing::After(delay) => Some(now.plus(*delay)),
        Timing::Every { .. } | Timing::Cron(_) => None,
    };
    let last_fired_at = record.last_fired_at.filter(|_| !matches!(entry.timing, Timing::After(_)));
    Record { status: Status::Active, reason: None, last_fired_at, next_run_at, ..record }
}
