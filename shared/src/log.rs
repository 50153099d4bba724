//! One JSON line a log record (`spec/operations.md` 15): `time`, `level`, `component`, `msg`, then
//! the record's own fields. Services print it on stdout, one-shot forms and the CLI on stderr.
//! Nothing here decides what may be logged: no secret, payload or body is ever handed over.

use std::error::Error;
use std::fmt::{self, Write as _};

use crate::time::Timestamp;

/// Severity, printed in upper case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// The names of `service.log_level`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        })
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Text(&'a str),
    /// JSON text, taken over as it stands.
    Json(&'a str),
    Number(i64),
    Flag(bool),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(i64::from(number))
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// One record as a line with its newline.
pub fn line(time: Timestamp, level: Level, component: &str, msg: &str, fields: &[(&str, Value<'_>)]) -> String {
    let mut out = String::with_capacity(256);
    push_line(&mut out, time, level, component, msg, fields);
    out
}

/// Appends one record as a line with its newline.
pub fn push_line(
    out: &mut String,
    time: Timestamp,
    level: Level,
    component: &str,
    msg: &str,
    fields: &[(&str, Value<'_>)],
) {
    let _ = write!(out, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"component\":");
    push_json_text(out, component);
    out.push_str(",\"msg\":");
    push_json_text(out, msg);
    for (name, value) in fields {
        out.push(',');
        push_member(out, name, *value);
    }
    out.push_str("}\n");
}

/// The fields as a JSON object on one line.
pub fn object(fields: &[(&str, Value<'_>)]) -> String {
    let mut out = String::with_capacity(192);
    for (index, (name, value)) in fields.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        push_member(&mut out, name, *value);
    }
    out.push_str(if fields.is_empty() { "{}" } else { "}" });
    out
}

fn push_member(out: &mut String, name: &str, value: Value<'_>) {
    push_json_text(out, name);
    out.push(':');
    match value {
        Value::Text(text) => push_json_text(out, text),
        Value::Json(text) => out.push_str(text),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Flag(flag) => out.push_str(if flag { "true" } else { "false" }),
    }
}

/// An error and its sources, outermost first, joined by `: `. Called once, at the top.
pub fn chain(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let _ = write!(out, ": {source}");
        next = source.source();
    }
    out
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_json_text(out: &mut String, text: &str) {
    out.push('"');
    // What needs no escape, which is nearly everything, is taken over in one piece.
    if !text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_the_text() {
        let text = line(
            Timestamp::from_unix_nanos(0),
            Level::Warn,
            "agent",
            "two\nlines \"quoted\" \u{1}",
            &[("count", Value::Number(-3)), ("ok", true.into()), ("path", "/a\\b".into())],
        );
        assert_eq!(
            text,
            "{\"time\":\"1970-01-01T00:00:00.000000000Z\",\"level\":\"WARN\",\"component\":\"agent\",\"msg\":\"two\\nlines \\\"quoted\\\" \\u0001\",\"count\":-3,\"ok\":true,\"path\":\"/a\\\\b\"}\n"
        );
    }

    #[test]
    fn a_chain_names_every_source_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("read key")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Outer(std::io::Error::other("no such file"))), "read key: no such file");
    }
}
