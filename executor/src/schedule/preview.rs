//! The next starts of an entry, as far as time, window and days decide
//! (`ductile system scheduler --next`, `GET /scheduler/jobs`).

use shared::time::Timestamp;

use super::entry::Entry;
use super::ran::Ran;
use super::record::{Record, Status};
use super::slots::{self, Slot};
use super::window;

/// Why an entry that could run shows no start.
pub const NOTHING_AHEAD: &str = "no_start_ahead";

/// The next `count` starts after `now`: the first as it is drawn, the others without jitter. A slot
/// outside the window or on a day that is left out starts when it is allowed, if that is before the
/// next slot. Few where none comes before 2262, or window and days allow none.
pub fn preview(entry: &Entry, record: Option<&Record>, now: Timestamp, count: usize, ran: &Ran) -> Vec<Timestamp> {
    let mut starts = Vec::with_capacity(count);
    if record.is_some_and(|record| record.status != Status::Active) {
        return starts;
    }
    let unseen = Record::new(entry.command.as_str());
    let mut next = slots::pending(entry, record.unwrap_or(&unseen), now, 0.0, ran);
    while let Some(slot) = next.filter(|_| starts.len() < count) {
        let from = slot.start.max(now);
        let allowed = window::next_allowed(entry.only_between, entry.not_on, &entry.constraint_zone, from);
        let Some(allowed) = allowed else { break };
        next = match slots::following(entry, slot.at, from, 0.0, ran) {
            // Replaced before it is allowed, as are all until the one that waits at that time.
            Some(after) if after.at <= allowed => {
                let at = slots::latest(entry, after.at, allowed, ran);
                Some(Slot { at, start: at })
            }
            after => {
                starts.push(allowed);
                after
            }
        };
    }
    starts
}
