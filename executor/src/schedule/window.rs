//! Times of day and days of the week that an entry keeps to.

use std::fmt;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use shared::time::Timestamp;

use super::zone::{at_civil, civil, from_jiff};

/// A part of each day, in whole minutes; past midnight where the end is before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    start: Time,
    /// No longer in it.
    end: Time,
}

impl Window {
    /// Reads `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// `WindowError`.
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let (start, end) = text.trim().split_once('-').ok_or(WindowError::Form)?;
        let (start, end) = (time_of_day(start.trim())?, time_of_day(end.trim())?);
        if start == end { Err(WindowError::Empty) } else { Ok(Self { start, end }) }
    }

    pub fn allows(self, at: DateTime) -> bool {
        let time = at.time();
        if self.start < self.end {
            self.start <= time && time < self.end
        } else {
            self.start <= time || time < self.end
        }
    }
}

fn time_of_day(text: &str) -> Result<Time, WindowError> {
    let (hour, minute) = text.split_once(':').ok_or(WindowError::Time)?;
    let number = |digits: &str, most: usize| {
        let is_number = (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse::<i8>().ok()).flatten()
    };
    let (Some(hour), Some(minute)) = (number(hour, 2), number(minute, 2).filter(|_| minute.len() == 2)) else {
        return Err(WindowError::Time);
    };
    Time::new(hour, minute, 0, 0).map_err(|_| WindowError::Time)
}

/// Why a text is no window, in the chapter's words (`spec/config.md` 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowError {
    Form,
    Time,
    Empty,
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected HH:MM-HH:MM",
            Self::Time => "expected HH:MM",
            Self::Empty => "start and end cannot be equal",
        })
    }
}

impl std::error::Error for WindowError {}

/// Days that are left out; none unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weekdays {
    /// A bit for each, Sunday's the lowest.
    left_out: u8,
}

impl Weekdays {
    /// Leaves out one more day: its name, the name's first letters, or 0 to 7, Sunday being both.
    ///
    /// # Errors
    /// `WeekdayError`.
    pub fn leave_out(&mut self, text: &str) -> Result<(), WeekdayError> {
        self.left_out |= 1 << day_number(text)?;
        Ok(())
    }

    pub fn is_empty(self) -> bool {
        self.left_out == 0
    }

    pub fn allows(self, at: DateTime) -> bool {
        self.left_out & bit(at.weekday()) == 0
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_sunday_zero_offset()
}

fn day_number(text: &str) -> Result<u8, WeekdayError> {
    let lower = text.trim().to_lowercase();
    let looks_numeric = lower.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if looks_numeric {
        let number = lower.parse::<i64>().map_err(|_| WeekdayError::NoInteger)?;
        return match u8::try_from(number) {
            Ok(number) if number <= 7 => Ok(number % 7),
            _ => Err(WeekdayError::OutOfRange(number)),
        };
    }
    Ok(match lower.as_str() {
        "sun" | "sunday" => 0,
        "mon" | "monday" => 1,
        "tue" | "tues" | "tuesday" => 2,
        "wed" | "wednesday" => 3,
        "thu" | "thurs" | "thursday" => 4,
        "fri" | "friday" => 5,
        "sat" | "saturday" => 6,
        _ => return Err(WeekdayError::Unknown),
    })
}

/// Why a text is no day of the week; who reads it names the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeekdayError {
    Unknown,
    OutOfRange(i64),
    NoInteger,
}

impl fmt::Display for WeekdayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown weekday"),
            Self::OutOfRange(number) => write!(f, "weekday number {number} out of range [0,6] or 7 for sunday"),
            Self::NoInteger => f.write_str("weekday number must be an integer"),
        }
    }
}

impl std::error::Error for WeekdayError {}

/// Three weeks and a day: the one allowed day may be one that a zone leaves out.
const HORIZON_DAYS: u32 = 22;

/// The first instant, from `from` on, at which window and days allow; `None` where none does within
/// three weeks. Only a midnight, the window's start and a change of the clock can begin such a time.
pub fn next_allowed(window: Option<Window>, not_on: Weekdays, zone: &TimeZone, from: Timestamp) -> Option<Timestamp> {
    let allows = |at: Timestamp| {
        let civil = civil(zone, at);
        not_on.allows(civil) && window.is_none_or(|window| window.allows(civil))
    };
    if allows(from) {
        return Some(from);
    }
    let mut date = civil(zone, from).date();
    for _ in 0..HORIZON_DAYS {
        let next_date = date.tomorrow().ok()?;
        let mut candidates = changes_between(zone, date, next_date);
        for time in [Some(Time::midnight()), window.map(|window| window.start)].into_iter().flatten() {
            candidates.extend(instants(zone, date.to_datetime(time)));
        }
        candidates.sort_unstable();
        if let Some(found) = candidates.into_iter().find(|at| *at > from && allows(*at)) {
            return Some(found);
        }
        date = next_date;
    }
    None
}

/// All instants at which the wall clock shows `civil`.
fn instants(zone: &TimeZone, civil: DateTime) -> impl Iterator<Item = Timestamp> {
    let (first, second) = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => (Some(offset), None),
        AmbiguousOffset::Fold { before, after } => (Some(before), Some(after)),
        AmbiguousOffset::Gap { .. } => (None, None),
    };
    [first, second].into_iter().flatten().filter_map(move |offset| at_civil(offset, civil))
}

/// The changes of the clock around a day.
fn changes_between(zone: &TimeZone, date: Date, next_date: Date) -> Vec<Timestamp> {
    let instant = |date: Date| zone.to_ambiguous_timestamp(date.to_datetime(Time::midnight())).compatible().ok();
    let (Some(begin), Some(end)) = (instant(date), instant(next_date)) else { return Vec::new() };
    let day = jiff::SignedDuration::from_hours(24);
    let begin = begin.checked_sub(day).unwrap_or(begin);
    let end = end.checked_add(day).unwrap_or(end);
    zone.following(begin)
        .map(|transition| transition.timestamp())
        .take_while(|at| *at <= end)
        .take(8)
        .filter_map(from_jiff)
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    fn window(text: &str) -> Window {
        Window::parse(text).expect("a window")
    }

    #[test]
    fn windows_are_read() {
        let check = |text: &str, error: &str| {
            assert_eq!(Window::parse(text).map_err(|error| error.to_string()), Err(error.to_owned()), "{text:?}");
        };
        for text in ["", "8am", "09:00", "09:00–17:00", "\0"] {
            check(text, "expected HH:MM-HH:MM");
        }
        for text in ["8am-10pm", "24:00-01:00", "09:60-10:00", "9:0-10:00", "-", "09:00-17:00-18:00", "+9:00-10:00"] {
            check(text, "expected HH:MM");
        }
        check("٠٩:00-10:00", "expected HH:MM");
        check(&format!("{}:00-10:00", "9".repeat(10_000)), "expected HH:MM");
        check("09:00-9:00", "start and end cannot be equal");
        assert_eq!(window(" 9:00 - 17:00 "), window("09:00-17:00"));
    }

    #[test]
    fn the_end_is_outside_and_midnight_may_be_inside() {
        let check = |text: &str, time: (i8, i8, i8), allowed: bool| {
            let at = date(2026, 3, 4).at(time.0, time.1, time.2, 0);
            assert_eq!(window(text).allows(at), allowed, "{text} {at}");
        };
        check("09:00-17:00", (8, 59, 59), false);
        check("09:00-17:00", (9, 0, 0), true);
        check("09:00-17:00", (16, 59, 59), true);
        check("09:00-17:00", (17, 0, 0), false);
        check("22:00-02:00", (23, 0, 0), true);
        check("22:00-02:00", (0, 0, 0), true);
        check("22:00-02:00", (1, 59, 59), true);
        check("22:00-02:00", (2, 0, 0), false);
        check("22:00-00:00", (0, 0, 0), false);
        check("00:00-00:01", (0, 0, 30), true);
    }

    #[test]
    fn days_have_names_and_numbers() {
        let day = |text: &str| day_number(text).map_err(|error| error.to_string());
        for (text, number) in
            [("Saturday", 6), (" 0", 0), ("7", 0), ("SUN", 0), ("tues", 2), ("thurs", 4), ("thu", 4), ("3", 3)]
        {
            assert_eq!(day(text), Ok(number), "{text}");
        }
        for (text, error) in [
            ("funday", "unknown weekday"),
            ("", "unknown weekday"),
            ("m\0n", "unknown weekday"),
            ("8", "weekday number 8 out of range [0,6] or 7 for sunday"),
            ("-1", "weekday number -1 out of range [0,6] or 7 for sunday"),
            ("1.5", "weekday number must be an integer"),
            ("99999999999999999999", "weekday number must be an integer"),
        ] {
            assert_eq!(day(text), Err(error.to_owned()), "{text}");
        }
    }

    /// From `from`, with these limits, in this zone.
    fn check(limits: (&str, &[&str]), zone: &str, from: &str, expected: Option<&str>) {
        let zone = TimeZoneDatabase::bundled().get(zone).expect("a zone");
        let mut not_on = Weekdays::default();
        for day in limits.1 {
            not_on.leave_out(day).expect("a day");
        }
        let at = |text: &str| Timestamp::parse(text).expect("a time");
        let window = (!limits.0.is_empty()).then(|| window(limits.0));
        assert_eq!(next_allowed(window, not_on, &zone, at(from)), expected.map(at), "{limits:?} from {from}");
    }

    #[test]
    fn the_next_allowed_time_is_found() {
        let now = "2026-03-04T12:00:00.5Z"; // A Wednesday.
        check(("", &[]), "UTC", now, Some(now));
        check(("09:00-17:00", &[]), "UTC", now, Some(now));
        check(("13:00-14:00", &[]), "UTC", now, Some("2026-03-04T13:00:00Z"));
        check(("09:00-12:00", &[]), "UTC", now, Some("2026-03-05T09:00:00Z"));
        check(("22:00-02:00", &["wed"]), "UTC", now, Some("2026-03-05T00:00:00Z"));
        check(("", &["wed", "thu", "fri", "6"]), "UTC", now, Some("2026-03-08T00:00:00Z"));
        check(("", &["0", "1", "2", "3", "4", "5", "6"]), "UTC", now, None);
    }

    #[test]
    fn clocks_that_change_are_followed() {
        // Berlin, 29 March: from 02:00 to 03:00. The window of 02:30 is entered at the gap's end.
        check(("02:30-04:00", &[]), "Europe/Berlin", "2026-03-29T00:00:00Z", Some("2026-03-29T01:00:00Z"));
        check(("02:10-02:50", &[]), "Europe/Berlin", "2026-03-29T00:00:00Z", Some("2026-03-30T00:10:00Z"));
        // 25 October: 02:00 to 03:00 comes twice, and so does the window.
        check(("02:10-02:50", &[]), "Europe/Berlin", "2026-10-25T00:50:00Z", Some("2026-10-25T01:10:00Z"));
        check(("02:10-02:50", &[]), "Europe/Berlin", "2026-10-25T01:00:00Z", Some("2026-10-25T01:10:00Z"));
        check(("02:10-02:50", &[]), "Europe/Berlin", "2026-10-25T01:50:00Z", Some("2026-10-26T01:10:00Z"));
        // Apia had no 30 December 2011, a Friday; Fridays only means a week later.
        let all_but_friday = ["sat", "sun", "mon", "tue", "wed", "thu"];
        check(("", &all_but_friday), "Pacific/Apia", "2011-12-29T12:00:00Z", Some("2012-01-05T10:00:00Z"));
        // Lord Howe, 30 minutes: 02:00 to 02:30 is left out on 4 October 2026.
        check(("02:15-05:00", &[]), "Australia/Lord_Howe", "2026-10-03T15:00:00Z", Some("2026-10-03T15:30:00Z"));
        // Sao Paulo, 2018-11-04, had no midnight.
        check(("", &["sat"]), "America/Sao_Paulo", "2018-11-03T12:00:00Z", Some("2018-11-04T03:00:00Z"));
    }
}
