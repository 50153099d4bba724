//! The next starts of an entry, as far as time alone decides (`ductile system scheduler --next`).

use shared::time::Timestamp;

use super::entry::Entry;
use super::ran::Ran;
use super::record::{Record, Status};
use super::{slots, window};

/// Slots that are looked at for one preview: an entry may be kept from running for good.
const LOOKED_AT: usize = 10_000;

/// The next `count` starts after `now`: the first as it is recorded, the others without jitter. A
/// slot outside the window or on a day that is left out starts when it is allowed, if that is before
/// the next slot.
pub fn preview(entry: &Entry, record: Option<&Record>, now: Timestamp, count: usize, ran: &Ran) -> Vec<Timestamp> {
    let mut starts = Vec::with_capacity(count);
    if record.is_some_and(|record| record.status != Status::Active) {
        return starts;
    }
    let unseen = Record::new(entry.command.as_str());
    let record = record.unwrap_or(&unseen);
    let mut next = slots::pending(entry, record, now, 0.0, ran);
    for _ in 0..LOOKED_AT {
        let Some(slot) = next.filter(|_| starts.len() < count) else { break };
        let from = slot.start.max(now);
        let after = slots::following(entry, slot.at, from, 0.0, ran);
        let allowed = window::next_allowed(entry.only_between, entry.not_on, &entry.constraint_zone, from);
        starts.extend(allowed.filter(|at| after.is_none_or(|after| *at < after.at)));
        next = after;
    }
    starts
}
