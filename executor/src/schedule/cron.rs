//! A five-field expression in its zone. croner reads it and searches the civil calendar; which
//! instant a civil minute is, where clocks change, is decided here and nowhere else
//! (`spec/queue-and-scheduler.md` 7.5).

use std::fmt;
use std::sync::Arc;

use croner::errors::CronError as Croner;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::{DateTime, date};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use shared::time::Timestamp;

use super::zone::{at_civil, civil, gap_end, next_transition, to_jiff};

/// Every value of every field, written out, is shorter.
const MAX_LENGTH: usize = 512;
/// A repeated range of a whole day has fewer minutes.
const MAX_REPEATED: usize = 1500;
/// More changes of the clock than any zone has until the end of the calendar.
const MAX_SEGMENTS: usize = 4000;

/// An expression that occurs.
#[derive(Clone)]
pub struct Cron {
    pattern: Arc<croner::Cron>,
    zone: TimeZone,
    is_fixed: bool,
}

impl Cron {
    /// Reads minute, hour, day of month, month and day of week: numbers, names, lists, ranges,
    /// steps, and croner's `L`, `W`, `#` and `@daily` besides. Either day field is enough where
    /// both are restricted, or both where the second begins with `+`.
    ///
    /// # Errors
    /// `CronError`; an expression that no day of the calendar fulfils is one of them.
    pub fn parse(expression: &str, zone: TimeZone) -> Result<Self, CronError> {
        if expression.len() > MAX_LENGTH {
            return Err(CronError::TooLong);
        }
        if !expression.is_ascii() {
            return Err(CronError::Character);
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let pattern = parser.parse(expression).map_err(|error| match error {
            Croner::IllegalCharacters(_) => CronError::Character,
            Croner::ComponentError(text) => CronError::Value(text),
            _ => CronError::Fields,
        })?;
        let fields = &pattern.pattern;
        if [&fields.minutes, &fields.hours, &fields.months].iter().any(|field| field.values().is_empty()) {
            return Err(CronError::Never);
        }
        // The calendar repeats within what croner searches, so that one look is proof.
        pattern.find_next_occurrence(&date(2000, 1, 1).at(0, 0, 0, 0), true).map_err(|_| CronError::Never)?;
        let is_fixed = !pattern.as_str().split_whitespace().take(2).any(is_wildcard);
        Ok(Self { pattern: Arc::new(pattern), zone, is_fixed })
    }

    /// Whether each civil minute of it is one run, also where the clock skips or repeats it.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The first instant after `after`; `None` when there is none before 2262.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.is_fixed { self.next_fixed(after) } else { self.next_matching(after) }
    }

    /// The last instant that is after `floor` and not after `now`, found by halving.
    pub fn latest_between(&self, floor: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let mut latest = self.next_after(floor).filter(|slot| *slot <= now)?;
        let mut above = now;
        loop {
            let (low, high) = (latest.unix_nanos(), above.unix_nanos());
            if high.saturating_sub(low) <= 1 {
                return Some(if self.next_after(latest) == Some(above) { above } else { latest });
            }
            let middle = Timestamp::from_unix_nanos(low.midpoint(high));
            match self.next_after(middle).filter(|slot| *slot <= above) {
                Some(slot) => latest = slot,
                None => above = middle,
            }
        }
    }

    /// Civil minutes in their order are instants in their order: a skipped one is the gap's end, a
    /// repeated one its first pass.
    fn next_fixed(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = civil(&self.zone, after);
        // In the second pass of a repeated range the rest of the range has been.
        for _ in 0..MAX_REPEATED {
            let found = self.search(from, false)?;
            let instant = match self.zone.to_ambiguous_timestamp(found).offset() {
                AmbiguousOffset::Unambiguous { offset } => at_civil(offset, found)?,
                AmbiguousOffset::Fold { before, .. } => at_civil(before, found)?,
                AmbiguousOffset::Gap { after, .. } => gap_end(&self.zone, found, after)?,
            };
            if instant > after {
                return Some(instant);
            }
            from = found;
        }
        None
    }

    /// Walks from one change of the clock to the next; between two of them civil time runs evenly.
    fn next_matching(&self, after: Timestamp) -> Option<Timestamp> {
        let mut start = after;
        for segment in 0..MAX_SEGMENTS {
            let offset = self.zone.to_offset(to_jiff(start));
            let end = next_transition(&self.zone, start);
            let found = self.search(offset.to_datetime(to_jiff(start)), segment > 0)?;
            let instant = instant_in(offset, found, start);
            if let Some(instant) = instant.filter(|instant| end.is_none_or(|end| *instant < end)) {
                return Some(instant);
            }
            start = end?;
        }
        None
    }

    fn search(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        // croner compares whole seconds; a fraction would make it answer with a time that has been.
        let (whole, inclusive) = match from.subsec_nanosecond() {
            0 => (from, inclusive),
            _ => (from.with().subsec_nanosecond(0).build().ok()?, false),
        };
        self.pattern.find_next_occurrence(&whole, inclusive).ok()
    }
}

fn instant_in(offset: Offset, found: DateTime, not_before: Timestamp) -> Option<Timestamp> {
    at_civil(offset, found).filter(|instant| *instant >= not_before)
}

/// `*`, also as a part, and `/5`, which is read as `*/5`.
fn is_wildcard(field: &str) -> bool {
    field.contains('*') || field.split(',').any(|item| item.starts_with('/'))
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({} in {:?})", self.pattern.as_str(), self.zone)
    }
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CronError {
    TooLong,
    Fields,
    Character,
    /// With croner's words.
    Value(String),
    Never,
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {MAX_LENGTH} bytes"),
            Self::Fields => f.write_str("expected five fields: minute hour day-of-month month day-of-week"),
            Self::Character => f.write_str("a character that no field can have"),
            Self::Value(text) => f.write_str(&text.trim_end_matches('.').to_ascii_lowercase()),
            Self::Never => f.write_str("never occurs"),
        }
    }
}

impl std::error::Error for CronError {}

#[cfg(test)]
mod tests;
