//! The slots of an entry: the times at which it was meant to start, before any jitter.

use shared::time::{Millis, Timestamp};

use super::cron::Cron;
use super::entry::{Entry, Timing};
use super::ran::Ran;
use super::record::Record;

/// Slots that passed are counted up to these; more are one row that says as many.
pub(super) const COUNTED: u32 = 10_000;

/// A slot and when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) at: Timestamp,
    /// With its jitter.
    pub(super) start: Timestamp,
}

/// Slots in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u32,
}

/// The slot that is next, or due, by the record; `jitter` in 0..=1 is for a slot whose start is not
/// drawn yet, and a slot that ran is not taken again. A next start that the timing can not have is
/// that of another timing under the same id, and does not hold.
pub(super) fn pending(entry: &Entry, record: &Record, now: Timestamp, jitter: f64, ran: &Ran) -> Option<Slot> {
    match &entry.timing {
        Timing::Every { interval, jitter: most } => Some(pending_every(record, now, *interval, *most, jitter, ran)),
        Timing::Cron(cron) => {
            let is_first = record.last_slot_at.is_none_or(|last| last > now);
            let from = match record.next_run_at {
                Some(next) if next <= now && is_slot(entry, next, next) => just_before(next),
                // The very first look: the minute that is may match.
                None if is_first => just_before(minute(now)),
                _ => now,
            };
            first_new(cron, from, ran).map(|at| Slot { at, start: at })
        }
        Timing::At(at) => {
            // Armed again when it was past: the time of the arming.
            let rearmed = record.next_run_at.filter(|next| next > at && *next <= now);
            let at = rearmed.unwrap_or(*at);
            Some(Slot { at, start: at })
        }
        Timing::After(delay) => {
            let latest = now.plus(*delay);
            let at = record.next_run_at.map_or(latest, |next| next.min(latest));
            Some(Slot { at, start: at })
        }
    }
}

/// The slot after this one, seen from `now`: the first after both that did not run; `None` where
/// there is none before 2262.
pub(super) fn following(entry: &Entry, slot: Timestamp, now: Timestamp, jitter: f64, ran: &Ran) -> Option<Slot> {
    match &entry.timing {
        Timing::Every { interval, jitter: most } => {
            let mut at = grid_floor(slot, *interval, now.max(slot)).plus(*interval);
            while ran.contains(at) {
                at = at.plus(*interval);
            }
            let is_later = at > now.max(slot) && at.unix_nanos() < i64::MAX;
            is_later.then(|| Slot { at, start: at.plus(drawn(*interval, *most, jitter)) })
        }
        Timing::Cron(cron) => first_new(cron, now.max(slot), ran).map(|at| Slot { at, start: at }),
        Timing::At(_) | Timing::After(_) => None,
    }
}

/// The last slot that is not after `now` and did not run, from `slot` on.
pub(super) fn latest(entry: &Entry, slot: Timestamp, now: Timestamp, ran: &Ran) -> Timestamp {
    let latest = |until: Timestamp| match &entry.timing {
        Timing::Every { interval, .. } => grid_floor(slot, *interval, until.max(slot)),
        Timing::Cron(cron) => cron.latest_between(slot, until).unwrap_or(slot),
        Timing::At(_) | Timing::After(_) => slot,
    };
    let mut at = latest(now);
    while at > slot && ran.contains(at) {
        at = latest(just_before(at));
    }
    at
}

/// The first slot of the expression after `from` that did not run.
fn first_new(cron: &Cron, from: Timestamp, ran: &Ran) -> Option<Timestamp> {
    let mut at = cron.next_after(from);
    while let Some(known) = at.filter(|at| ran.contains(*at)) {
        at = cron.next_after(known);
    }
    at
}

/// Whether `at` is a slot where `point` is one.
fn is_slot(entry: &Entry, point: Timestamp, at: Timestamp) -> bool {
    match &entry.timing {
        Timing::Every { interval, .. } => grid_floor(point, *interval, at) == at,
        Timing::Cron(cron) => cron.next_after(just_before(at)) == Some(at),
        Timing::At(_) | Timing::After(_) => at == point,
    }
}

/// The slots from `first` on that come before `end` and did not run, in as few pieces as there are.
pub(super) fn not_run(entry: &Entry, first: Timestamp, end: Timestamp, ran: &Ran) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut from = first;
    for slot in ran.within(first, end) {
        if *slot >= from && is_slot(entry, from, *slot) {
            runs.extend(between(entry, from, *slot));
            let Some(next) = following(entry, *slot, *slot, 0.0, ran) else { return runs };
            from = next.at;
        }
    }
    runs.extend(between(entry, from, end));
    runs
}

/// The slots from `first` on that come before `end`.
fn between(entry: &Entry, first: Timestamp, end: Timestamp) -> Option<Run> {
    if first >= end {
        return None;
    }
    match &entry.timing {
        Timing::Every { interval, .. } => {
            let span = u64::try_from(end.unix_nanos().saturating_sub(first.unix_nanos())).unwrap_or(0);
            let count = span.div_ceil(nanos(*interval));
            let last = first.plus(Millis(interval.0.saturating_mul(count.saturating_sub(1))));
            Some(Run { first, last, count: u32::try_from(count).unwrap_or(u32::MAX) })
        }
        Timing::Cron(cron) => {
            let mut run = Run { first, last: first, count: 1 };
            while let Some(next) = cron.next_after(run.last).filter(|next| *next < end) {
                if run.count == COUNTED {
                    run.last = cron.latest_between(run.last, just_before(end)).unwrap_or(run.last);
                    break;
                }
                run = Run { first, last: next, count: run.count + 1 };
            }
            Some(run)
        }
        Timing::At(_) | Timing::After(_) => None,
    }
}

fn pending_every(record: &Record, now: Timestamp, interval: Millis, most: Millis, jitter: f64, ran: &Ran) -> Slot {
    // From `at`, or from the first slot after it that did not run.
    let from = |at: Timestamp, start: Option<Timestamp>| {
        let mut new = at;
        while ran.contains(new) {
            new = new.plus(interval);
        }
        let start = start.filter(|_| new == at);
        Slot { at: new, start: start.unwrap_or_else(|| new.plus(drawn(interval, most, jitter))) }
    };
    let anew = || from(now, Some(now));
    // The grid goes on from there, also where the clock went back behind it.
    let Some(grid) = record.last_slot_at.or(record.last_fired_at) else { return anew() };
    let Some(start) = record.next_run_at else {
        // Its command was changed.
        return if grid <= now { from(grid_floor(grid, interval, now).plus(interval), None) } else { anew() };
    };
    // Further ahead than any slot can be: the clock went back, or the interval is shorter now.
    if start > now.plus(interval).plus(most.min(interval)) {
        return anew();
    }
    let at = grid_floor(grid, interval, start);
    // What it has a row for is over, unless it waits for what blocks it: the interval is longer now.
    if start > now && record.last_slot_at.is_some_and(|last| at <= last && last <= now) {
        return from(at.plus(interval), None);
    }
    from(at, Some(start))
}

/// The last point at or before `at` of the grid through `point`.
fn grid_floor(point: Timestamp, interval: Millis, at: Timestamp) -> Timestamp {
    let step = i64::try_from(nanos(interval)).unwrap_or(i64::MAX);
    let past = i128::from(at.unix_nanos()) - i128::from(point.unix_nanos());
    let back = past.rem_euclid(i128::from(step));
    let floor = i128::from(at.unix_nanos()) - back;
    Timestamp::from_unix_nanos(i64::try_from(floor).unwrap_or(i64::MIN))
}

/// Never so much that a look that comes a little late finds the next slot.
pub(super) fn drawn(interval: Millis, most: Millis, jitter: f64) -> Millis {
    let most = most.0.min(interval.0 / 10 * 9);
    let share = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let spread = std::time::Duration::from_millis(most.min(u64::MAX / 4_000_000)).mul_f64(share);
    Millis(u64::try_from(spread.as_millis()).unwrap_or(0))
}

/// At least one, so that nothing divides by it in vain.
fn nanos(interval: Millis) -> u64 {
    interval.0.max(1).saturating_mul(1_000_000).min(u64::try_from(i64::MAX).unwrap_or(u64::MAX))
}

/// When the minute of `at` began.
fn minute(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_nanos(at.unix_nanos() - at.unix_nanos().rem_euclid(60_000_000_000))
}

fn just_before(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_nanos(at.unix_nanos().saturating_sub(1))
}

pub(super) fn just_after(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_nanos(at.unix_nanos().saturating_add(1))
}
