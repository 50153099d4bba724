//! The slots of an entry that became jobs, as far as a look can come upon them again: the clock goes
//! back, or the timing is written anew.

use shared::time::Timestamp;

use super::entry::{Entry, Timing};
use super::record::Record;

/// In order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran(Vec<Timestamp>);

impl Ran {
    /// No look at an entry with this record comes upon a slot before this time.
    pub fn floor(entry: &Entry, record: Option<&Record>, now: Timestamp) -> Timestamp {
        let known = record.map(|record| [record.next_run_at, record.last_slot_at]);
        let earliest = known.into_iter().flatten().flatten().fold(now, Timestamp::min);
        // A start is in its slot; a longer interval may find it in one that ran.
        match &entry.timing {
            Timing::Every { interval, .. } => earliest.minus(*interval),
            Timing::Cron(_) | Timing::At(_) | Timing::After(_) => earliest,
        }
    }

    pub fn add(&mut self, slot: Timestamp) {
        if let Err(place) = self.0.binary_search(&slot) {
            self.0.insert(place, slot);
        }
    }

    pub fn forget_before(&mut self, floor: Timestamp) {
        self.0.drain(..self.0.partition_point(|slot| *slot < floor));
    }

    pub(super) fn contains(&self, slot: Timestamp) -> bool {
        self.0.binary_search(&slot).is_ok()
    }

    /// Those from `first` on that come before `end`.
    pub(super) fn within(&self, first: Timestamp, end: Timestamp) -> &[Timestamp] {
        let begin = self.0.partition_point(|slot| *slot < first);
        let until = self.0.partition_point(|slot| *slot < end);
        self.0.get(begin..until).unwrap_or_default()
    }
}

impl FromIterator<Timestamp> for Ran {
    fn from_iter<I: IntoIterator<Item = Timestamp>>(slots: I) -> Self {
        let mut slots: Vec<Timestamp> = slots.into_iter().collect();
        slots.sort_unstable();
        slots.dedup();
        Self(slots)
    }
}
