//! The slots of an entry: the times at which it was meant to start, before any jitter.

use shared::time::{Millis, Timestamp};

use super::entry::{Entry, Timing};
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
/// drawn yet, and a slot of `ran` is not taken again.
pub(super) fn pending(entry: &Entry, record: &Record, now: Timestamp, jitter: f64, ran: &[Timestamp]) -> Option<Slot> {
    match &entry.timing {
        Timing::Every { interval, jitter: most } => Some(pending_every(record, now, *interval, *most, jitter)),
        Timing::Cron(cron) => {
            let mut newer = cron.next_after(now);
            while let Some(at) = newer.filter(|at| ran.binary_search(at).is_ok()) {
                newer = cron.next_after(at);
            }
            let minute = Timestamp::from_unix_nanos(now.unix_nanos() - now.unix_nanos().rem_euclid(60_000_000_000) - 1);
            let at = match record.next_run_at {
                // One that comes first: the expression was changed, or the clock went back.
                Some(next) if next > now => Some(newer.map_or(next, |newer| newer.min(next))),
                Some(next) => Some(next),
                // The very first look: the minute that is may match.
                None if record.last_slot_at.is_none() => cron.next_after(minute).filter(|at| *at <= now).or(newer),
                None => newer,
            };
            at.map(|at| Slot { at, start: at })
        }
        Timing::At(at) => {
            let has_run = record.last_fired_at.is_some();
            let at = if has_run { record.next_run_at.unwrap_or(*at) } else { *at };
            Some(Slot { at, start: at })
        }
        Timing::After(delay) => {
            let latest = now.plus(*delay);
            let at = record.next_run_at.map_or(latest, |next| next.min(latest));
            Some(Slot { at, start: at })
        }
    }
}

/// The slot after this one, seen from `now`: the first after both.
pub(super) fn following(entry: &Entry, slot: Timestamp, now: Timestamp, jitter: f64) -> Option<Slot> {
    match &entry.timing {
        Timing::Every { interval, jitter: most } => {
            let at = grid_floor(slot, *interval, now.max(slot)).plus(*interval);
            Some(Slot { at, start: at.plus(drawn(*interval, *most, jitter)) })
        }
        Timing::Cron(cron) => cron.next_after(now.max(slot)).map(|at| Slot { at, start: at }),
        Timing::At(_) | Timing::After(_) => None,
    }
}

/// The last slot that is not after `now`, from `slot` on.
pub(super) fn latest(entry: &Entry, slot: Timestamp, now: Timestamp) -> Timestamp {
    match &entry.timing {
        Timing::Every { interval, .. } => grid_floor(slot, *interval, now.max(slot)),
        Timing::Cron(cron) => cron.latest_between(slot, now).unwrap_or(slot),
        Timing::At(_) | Timing::After(_) => slot,
    }
}

/// The slots from `first` on that come before `end`.
pub(super) fn between(entry: &Entry, first: Timestamp, end: Timestamp) -> Option<Run> {
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
                    let before = Timestamp::from_unix_nanos(end.unix_nanos().saturating_sub(1));
                    run.last = cron.latest_between(run.last, before).unwrap_or(run.last);
                    break;
                }
                run = Run { first, last: next, count: run.count + 1 };
            }
            Some(run)
        }
        Timing::At(_) | Timing::After(_) => None,
    }
}

fn pending_every(record: &Record, now: Timestamp, interval: Millis, most: Millis, jitter: f64) -> Slot {
    let anew = Slot { at: now, start: now };
    let Some(start) = record.next_run_at else {
        // Never fired, or its command was changed.
        let Some(last) = record.last_slot_at.or(record.last_fired_at).filter(|last| *last <= now) else { return anew };
        let at = grid_floor(last, interval, now).plus(interval);
        return Slot { at, start: at.plus(drawn(interval, most, jitter)) };
    };
    // Further ahead than any slot can be: the clock went back, or the interval is shorter now.
    if start > now.plus(interval).plus(most.min(interval)) {
        return anew;
    }
    let grid = record.last_slot_at.or(record.last_fired_at).unwrap_or(start);
    Slot { at: grid_floor(grid, interval, start), start }
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
