//! The grammar of spans and sizes as configuration writes them (`spec/config.md` 6, 6.5.1, 6.9).

use std::fmt;

use shared::time::Millis;

use crate::yaml::quoted;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// A span as written: whole nanoseconds, possibly negative, so that a rule can refuse what it
/// must. Prints as Go prints a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(i64);

impl Span {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * NANOS_PER_MILLI)
    }

    pub const fn from_secs(seconds: i64) -> Self {
        Self::from_millis(seconds * 1000)
    }

    pub const fn from_hours(hours: i64) -> Self {
        Self::from_secs(hours * 3600)
    }

    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whole milliseconds, rounded up so that a positive span never becomes none; nothing for a
    /// negative one.
    pub fn millis(self) -> Millis {
        Millis(u64::try_from(self.0).unwrap_or(0).div_ceil(1_000_000))
    }

    /// Reads Go's grammar with the units `d` and `w` besides; a bare `0` needs no unit.
    ///
    /// # Errors
    /// `UnitError`, naming what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let invalid = || UnitError::Span(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            if number.is_empty() {
                return Err(invalid());
            }
            if unit.is_empty() {
                return Err(UnitError::MissingUnit(text.to_owned()));
            }
            let nanos = unit_nanos(unit).ok_or_else(|| UnitError::UnknownUnit(unit.to_owned(), text.to_owned()))?;
            total = total.saturating_add(scaled(number, nanos).ok_or_else(invalid)?);
            rest = after;
        }
        let nanos = i64::try_from(total).map_err(|_| invalid())?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let small = |f: &mut fmt::Formatter<'_>, scale: u64, digits: usize, unit: &str| {
            let fraction = format!("{:0digits$}", nanos % scale);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() || digits == 0 { "" } else { "." };
            write!(f, "{}{dot}{}{unit}", nanos / scale, if digits == 0 { "" } else { fraction })
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => small(f, 1, 0, "ns"),
            1_000..1_000_000 => small(f, 1_000, 3, "µs"),
            1_000_000..1_000_000_000 => small(f, 1_000_000, 6, "ms"),
            _ => {
                let seconds = nanos / 1_000_000_000;
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                let fraction = format!("{:09}", nanos % 1_000_000_000);
                let fraction = fraction.trim_end_matches('0');
                let dot = if fraction.is_empty() { "" } else { "." };
                write!(f, "{}{dot}{fraction}s", seconds % 60)
            }
        }
    }
}

/// A size in bytes: `<n>`, `<n>KB`, `<n>MB`, `<n>GB`, by powers of 1024, in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// # Errors
    /// `UnitError`, naming the text.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let invalid = || UnitError::Size(text.to_owned());
        let trimmed = text.trim();
        let digits_end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        let factor: u64 = match unit.trim_start().to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "KB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return Err(invalid()),
        };
        digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor)).map(Self).ok_or_else(invalid)
    }
}

/// A text that is no span or size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitError {
    Span(String),
    MissingUnit(String),
    UnknownUnit(String, String),
    Size(String),
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(text) => write!(f, "invalid duration {}", quoted(text)),
            Self::MissingUnit(text) => write!(f, "missing unit in duration {}", quoted(text)),
            Self::UnknownUnit(unit, text) => write!(f, "unknown unit {} in duration {}", quoted(unit), quoted(text)),
            Self::Size(text) => write!(f, "invalid size {} (expected <n>, <n>KB, <n>MB or <n>GB)", quoted(text)),
        }
    }
}

impl std::error::Error for UnitError {}

fn unit_nanos(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => NANOS_PER_MILLI,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 24 * 3_600_000_000_000,
        "w" => 7 * 24 * 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (digits with at most one point) times `nanos`, cut to whole nanoseconds.
fn scaled(number: &str, nanos: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let nanos = i128::from(nanos);
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(nanos)? };
    let mut scale: i128 = 10;
    for digit in fraction.bytes().take(18) {
        total += i128::from(digit - b'0') * nanos / scale;
        scale *= 10;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_print_as_go_does() {
        let check = |text: &str, printed: &str| {
            assert_eq!(Span::parse(text).map(|span| span.to_string()), Ok(printed.to_owned()), "{text}");
        };
        check("0", "0s");
        check("60s", "1m0s");
        check("1h30m", "1h30m0s");
        check("500ms", "500ms");
        check("1.5s", "1.5s");
        check("-2h", "-2h0m0s");
        check("+5m", "5m0s");
        check("30d", "720h0m0s");
        check("1w", "168h0m0s");
        check("0.5d", "12h0m0s");
        check("2w1d", "360h0m0s");
        check("100us", "100µs");
        check("1µs500ns", "1.5µs");
        check("7ns", "7ns");
        check("100ms", "100ms");
        check("1.25ms", "1.25ms");
        check(".5s", "500ms");
    }

    #[test]
    fn what_is_no_span_says_why() {
        let check = |text: &str, error: &str| {
            assert_eq!(Span::parse(text).map_err(|error| error.to_string()), Err(error.to_owned()), "{text}");
        };
        check("", "invalid duration \"\"");
        check("-", "invalid duration \"-\"");
        check("abc", "invalid duration \"abc\"");
        check("60", "missing unit in duration \"60\"");
        check("1h30", "missing unit in duration \"1h30\"");
        check("1y", "unknown unit \"y\" in duration \"1y\"");
        check("1 h", "unknown unit \" h\" in duration \"1 h\"");
        check("1..5s", "invalid duration \"1..5s\"");
        check(".s", "invalid duration \".s\"");
        check("99999999999999999999w", "invalid duration \"99999999999999999999w\"");
        check(&"9".repeat(60), &format!("missing unit in duration \"{}\"", "9".repeat(60)));
    }

    #[test]
    fn spans_round_up_to_milliseconds() {
        assert_eq!(Span::parse("1ns").map(Span::millis), Ok(Millis(1)));
        assert_eq!(Span::parse("1.5s").map(Span::millis), Ok(Millis(1500)));
        assert_eq!(Span::parse("-1s").map(Span::millis), Ok(Millis(0)));
    }

    #[test]
    fn sizes_count_by_1024() {
        let check = |text: &str, bytes: u64| assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("1024", 1024);
        check("1KB", 1024);
        check("2 mb", 2 * 1024 * 1024);
        check("3GB", 3 * 1024 * 1024 * 1024);
        for bad in ["", "MB", "1.5MB", "1TB", "-1", "99999999999999999999", "18446744073709551615KB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }
}
