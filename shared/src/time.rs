//! Points in time and spans of it. `now` is always an argument: nothing here reads a clock.

use std::fmt;

use serde::{Deserialize, Serialize};

const NANOS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A point in time, UTC, nanoseconds since 1970. Prints as RFC 3339 with nine fractional digits,
/// the one form that is ever written to the database (`spec/queue-and-scheduler.md` 14.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The clock's reading, given by whoever may read it; times outside 1678 to 2262 are cut.
    pub fn from_system_time(time: std::time::SystemTime) -> Self {
        let nanos = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Self(nanos)
    }

    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    #[must_use]
    pub fn plus(self, span: Millis) -> Self {
        let nanos = i64::try_from(span.0).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self(self.0.saturating_add(nanos))
    }

    #[must_use]
    pub fn minus(self, span: Millis) -> Self {
        let nanos = i64::try_from(span.0).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self(self.0.saturating_sub(nanos))
    }

    /// Milliseconds from `earlier` to this; 0 when the clock went back.
    pub fn millis_since(self, earlier: Self) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0) / 1_000_000).unwrap_or(0))
    }

    /// Reads RFC 3339 with or without a fraction, with `Z` or an offset: older rows and the
    /// reference trim their fractions.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || bytes[4] != b'-' || bytes[7] != b'-' || bytes[13] != b':' || bytes[16] != b':' {
            return None;
        }
        if !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = text.get(from..to)?;
            if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut rest = text.get(19..)?;
        let mut nanos: i64 = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            let mut scale = 100_000_000;
            for b in fraction.bytes().take(digits.min(9)) {
                nanos += i64::from(b - b'0') * scale;
                scale /= 10;
            }
            rest = &fraction[digits..];
        }
        let offset_seconds = match rest.as_bytes() {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
                let two = |a: u8, b: u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
                let seconds = two(*h1, *h2) * 3600 + two(*m1, *m2) * 60;
                if *sign == b'-' { -seconds } else { seconds }
            }
            _ => return None,
        };
        let seconds =
            days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset_seconds;
        let total = i128::from(seconds) * NANOS_PER_SECOND + i128::from(nanos);
        i64::try_from(total).ok().map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000_000);
        let nanos = self.0.rem_euclid(1_000_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )
    }
}

/// A span in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    /// As Go prints a duration, which is how durations stand in the chapters' texts: `1m0s`,
    /// `1.5s`, `500ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0;
        if millis == 0 {
            return f.write_str("0s");
        }
        if millis < 1000 {
            return write!(f, "{millis}ms");
        }
        let (seconds, fraction) = (millis / 1000, millis % 1000);
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}", seconds % 60)?;
        if fraction > 0 {
            let digits = format!("{fraction:03}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years that
/// begin in March, so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of `days_from_civil`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_nine_digits_and_read_back() {
        let check = |nanos: i64, text: &str| {
            assert_eq!(Timestamp::from_unix_nanos(nanos).to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp::from_unix_nanos(nanos)));
        };
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(1_780_650_000_123_456_789, "2026-06-05T09:00:00.123456789Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(-1, "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn older_forms_are_read() {
        let at = Timestamp::parse("2026-06-05T09:00:00Z").expect("valid");
        assert_eq!(Timestamp::parse("2026-06-05T11:00:00+02:00"), Some(at));
        assert_eq!(Timestamp::parse("2026-06-05T09:00:00.1Z"), Some(at.plus(Millis(100))));
        for bad in [
            "",
            "2026-06-05",
            "2026-13-05T09:00:00Z",
            "2026-02-29T09:00:00Z",
            "2026-06-05T09:00:00",
            "2026-06-05T09:00:00.Z",
            "2026-06-05T25:00:00Z",
            "2026-06-05T09:00:00+2:00",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for days in -100_000..100_000 {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn spans_print_as_go_does() {
        let check = |millis: u64, text: &str| assert_eq!(Millis(millis).to_string(), text);
        check(0, "0s");
        check(500, "500ms");
        check(1500, "1.5s");
        check(60_000, "1m0s");
        check(86_400_000, "24h0m0s");
        check(3_661_010, "1h1m1.01s");
    }

    #[test]
    fn a_clock_that_went_back_gives_no_negative_span() {
        let (early, late) = (Timestamp::from_unix_nanos(0), Timestamp::from_unix_nanos(5_000_000));
        assert_eq!(late.millis_since(early), Millis(5));
        assert_eq!(early.millis_since(late), Millis(0));
    }
}
