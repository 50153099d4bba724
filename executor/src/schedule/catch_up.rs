//! What passed while nothing ran, at the start and after a step of the clock forward
//! (`spec/queue-and-scheduler.md` 7.7, 7.9): for `every` entries that ask for it. Windows, breaker, overlap and pause do not matter here.

use shared::time::{Millis, Timestamp};

use super::entry::{CatchUp, Entry, Timing};
use super::next::{Fire, Step};
use super::record::Record;
use super::slots;

/// Jobs that one start makes for an entry.
const MOST: u64 = 100;
/// Why a slot was not run.
pub const DOWN: &str = "executor_was_down";

/// The step before the first look; nothing to store where nothing is asked for or missed. `reason`:
/// why those that become no job were missed.
pub fn catch_up(entry: &Entry, record: Option<Record>, now: Timestamp, jitter: f64, reason: &'static str) -> Step {
    let was = record.clone();
    let mut step = Step::new(record.unwrap_or_else(|| Record::new(entry.command.as_str())));
    let Timing::Every { interval, .. } = entry.timing else { return step };
    let base = step.record.last_fired_at.or(step.record.last_success_at);
    let (Some(base), true) = (base, entry.catch_up != CatchUp::Skip) else { return step };
    // The grid goes on from the last slot that has a row.
    let last = step.record.last_slot_at.unwrap_or(base);
    let first = last.plus(interval);
    if now < first {
        return step;
    }
    let missed = now.millis_since(first).0 / interval.0.max(1) + 1;
    let runs = if entry.catch_up == CatchUp::RunOnce { 1 } else { missed.min(MOST) };
    let slot = |number: u64| last.plus(Millis(interval.0.saturating_mul(number)));
    for number in 1..=runs {
        let slot_at = slot(number);
        step.fires.push(Fire { slot_at, key: catch_up_key(entry, slot_at), is_catch_up: true });
    }
    step.record.last_slot_at = Some(slot(runs));
    step.missed(entry, slot(runs + 1), slot(missed + 1), reason);
    step.record.last_fired_at = Some(if entry.catch_up == CatchUp::RunOnce { now } else { slot(runs) });
    if step.record.next_run_at.is_none_or(|next| next <= now) {
        step.record.next_run_at = slots::following(entry, slot(missed), now, jitter).map(|slot| slot.start);
    }
    step.settled(was.as_ref())
}

/// `<plugin>:<command>:<id>:catchup:<slot, RFC 3339 in seconds>`.
fn catch_up_key(entry: &Entry, slot_at: Timestamp) -> String {
    let text = slot_at.to_string();
    format!("{}:catchup:{}Z", entry.key(), text.get(..19).unwrap_or(&text))
}
