//! Between instants and what a wall clock shows, with jiff's zones. Nothing here reads the host.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use shared::time::Timestamp;

/// Every one of our times is one of jiff's.
pub(super) fn to_jiff(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(at.unix_nanos())).expect("64 bits of nanoseconds end in 2262")
}

/// `None` beyond 2262.
pub(super) fn from_jiff(at: jiff::Timestamp) -> Option<Timestamp> {
    i64::try_from(at.as_nanosecond()).ok().map(Timestamp::from_unix_nanos)
}

/// What the wall clock shows.
pub(super) fn civil(zone: &TimeZone, at: Timestamp) -> DateTime {
    zone.to_datetime(to_jiff(at))
}

/// The instant at which a clock of this offset shows `civil`.
pub(super) fn at_civil(offset: Offset, civil: DateTime) -> Option<Timestamp> {
    offset.to_timestamp(civil).ok().and_then(from_jiff)
}

/// The first change of the clock after `at`.
pub(super) fn next_transition(zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    zone.following(to_jiff(at)).next().and_then(|transition| from_jiff(transition.timestamp()))
}

/// When the gap that holds `civil` ends; `after` is the offset from then on.
pub(super) fn gap_end(zone: &TimeZone, civil: DateTime, after: Offset) -> Option<Timestamp> {
    let before_it = to_jiff(at_civil(after, civil)?);
    let mut transitions = zone.following(before_it).take(4);
    transitions.find(|transition| transition.offset() == after).and_then(|transition| from_jiff(transition.timestamp()))
}
