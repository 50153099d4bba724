//! What passed while nothing ran, at the start and after a step of the clock forward
//! (`spec/queue-and-scheduler.md` 7.7, 7.9): for `every` entries that ask for it.
//! Windows, breaker, overlap and pause do not matter here.

use shared::time::Timestamp;

use super::entry::{CatchUp, Entry, Timing};
use super::next::{Fire, Situation, Step};
use super::record::Record;
use super::slots;

/// Jobs that one start makes for an entry.
const MOST: usize = 100;
/// Why a slot was not run.
pub const DOWN: &str = "executor_was_down";

/// The step before the first look; nothing to store where nothing is asked for or missed. A slot
/// whose start is drawn and lies ahead is not missed.
pub fn catch_up(entry: &Entry, record: Option<Record>, situation: &Situation) -> Step {
    let Situation { now, jitter, ran, .. } = situation;
    let was = record.clone();
    let mut step = Step::new(record.unwrap_or_else(|| Record::new(entry.command.as_str())));
    if !matches!(entry.timing, Timing::Every { .. }) {
        return step;
    }
    let base = step.record.last_fired_at.or(step.record.last_success_at);
    let (Some(base), true) = (base, entry.catch_up != CatchUp::Skip) else { return step };
    // The grid goes on from the last slot that has a row.
    let last = step.record.last_slot_at.unwrap_or(base);
    let pending = slots::pending(entry, &step.record, *now, *jitter, ran).filter(|slot| slot.start > *now);
    let end = pending.map_or(slots::just_after(*now), |pending| pending.at.min(slots::just_after(*now)));
    let most = if entry.catch_up == CatchUp::RunOnce { 1 } else { MOST };
    let mut next = slots::following(entry, last, last, 0.0, ran).map(|slot| slot.at);
    while let Some(slot_at) = next.filter(|slot_at| *slot_at < end && step.fires.len() < most) {
        step.fires.push(Fire { slot_at, key: catch_up_key(entry, slot_at), is_catch_up: true });
        step.record.last_slot_at = Some(slot_at);
        next = slots::following(entry, slot_at, slot_at, 0.0, ran).map(|slot| slot.at);
    }
    let Some(fired) = step.fires.last().map(|fire| fire.slot_at) else { return step };
    step.record.last_fired_at = Some(if entry.catch_up == CatchUp::RunOnce { *now } else { fired });
    if let Some(first) = next {
        step.missed(entry, first, end, situation);
    }
    let told = step.record.last_slot_at.unwrap_or(fired);
    let pending = pending.filter(|pending| pending.at > told);
    let next = pending.or_else(|| slots::following(entry, told, *now, *jitter, ran));
    step.record.next_run_at = next.map(|slot| slot.start);
    step.settled(was.as_ref())
}

/// `<plugin>:<command>:<id>:catchup:<slot, RFC 3339 in seconds>`.
fn catch_up_key(entry: &Entry, slot_at: Timestamp) -> String {
    let text = slot_at.to_string();
    format!("{}:catchup:{}Z", entry.key(), text.get(..19).unwrap_or(&text))
}
