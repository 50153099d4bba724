//! The tree that YAML is read into. It remembers lines and spelling; it never prints its values,
//! which may be credentials.

use std::fmt::{self, Write as _};

/// One value and the line it stands on (of its first key or item, for lists and mappings).
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order written; no key twice.
    Map(Vec<Entry>),
}

/// One key of a mapping with its own line.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub node: Node,
}

/// A scalar as it was spelled.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar {
    pub kind: Kind,
    pub text: String,
    /// Written without quotes on one line, so that its text decides its type.
    pub plain: bool,
    /// Part of the text came from a variable.
    pub from_environment: bool,
}

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Integer,
    Float,
    Text,
}

impl Kind {
    /// The type that a plain scalar of this text has, by the rules of the parser.
    pub fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Self::Bool,
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
            | ".NAN" => return Self::Float,
            _ => {}
        }
        if integer_digits(text).is_some() {
            return Self::Integer;
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let leading_zeros = unsigned.len() > 1 && unsigned.starts_with('0') && all_digits(unsigned);
        let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        if numeric && !leading_zeros && unsigned.parse::<f64>().is_ok_and(f64::is_finite) {
            return Self::Float;
        }
        Self::Text
    }
}

impl Scalar {
    pub fn new(kind: Kind, text: String, plain: bool) -> Self {
        Self { kind, text, plain, from_environment: false }
    }

    /// The value of a boolean, also in the older words that the reference takes where one is due.
    pub fn as_bool(&self) -> Option<bool> {
        if !self.plain {
            return None;
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// The value of a whole number that fits.
    pub fn as_integer(&self) -> Option<i64> {
        if self.kind != Kind::Integer {
            return None;
        }
        let (negative, radix, digits) = integer_digits(&self.text)?;
        let value = i64::from_str_radix(digits, radix).ok()?;
        Some(if negative { -value } else { value })
    }
}

impl Node {
    /// The value of `key`, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The entries of a mapping; nothing for any other value.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.kind == Kind::Null)
    }

    /// The kind of value, in words for a complaint.
    pub fn describe(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => "nothing",
                Kind::Bool => "true or false",
                Kind::Integer => "a whole number",
                Kind::Float => "a number with a fraction",
                Kind::Text => "text",
            },
        }
    }

    /// Calls `change` for every scalar, and for every key with its text.
    pub fn for_each_scalar(&mut self, change: &mut dyn FnMut(&mut Scalar)) {
        match &mut self.value {
            Value::Scalar(scalar) => change(scalar),
            Value::List(items) => items.iter_mut().for_each(|item| item.for_each_scalar(change)),
            Value::Map(entries) => {
                for entry in entries {
                    let mut key = Scalar::new(Kind::Text, std::mem::take(&mut entry.key), false);
                    change(&mut key);
                    entry.key = key.text;
                    entry.node.for_each_scalar(change);
                }
            }
        }
    }

    /// The value as JSON. Numbers keep their digits; keys stay in their order.
    ///
    /// # Errors
    /// `NotJson` for the floating point values that JSON lacks.
    pub fn to_json(&self) -> Result<String, NotJson> {
        let mut out = String::new();
        self.push_json(&mut out)?;
        Ok(out)
    }

    fn push_json(&self, out: &mut String) -> Result<(), NotJson> {
        match &self.value {
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => out.push_str("null"),
                Kind::Bool => out.push_str(if scalar.as_bool() == Some(true) { "true" } else { "false" }),
                Kind::Integer => push_integer(out, &scalar.text),
                Kind::Float => push_float(out, &scalar.text).ok_or(NotJson { line: self.line })?,
                Kind::Text => shared::log::push_json_text(out, &scalar.text),
            },
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.push_json(out)?;
                }
                out.push(']');
            }
            Value::Map(entries) => {
                out.push('{');
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    shared::log::push_json_text(out, &entry.key);
                    out.push(':');
                    entry.node.push_json(out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }

    /// The last line that is known to belong to this value.
    pub(super) fn last_line(&self) -> usize {
        match &self.value {
            Value::Scalar(_) => self.line,
            Value::List(items) => items.last().map_or(self.line, Self::last_line),
            Value::Map(entries) => entries.last().map_or(self.line, |entry| entry.node.last_line().max(entry.line)),
        }
    }

    /// Resolves merge keys, innermost first: own keys win, then the mappings in their order.
    pub(super) fn merge_keys(&mut self) -> Result<(), String> {
        match &mut self.value {
            Value::Scalar(_) => {}
            Value::List(items) => {
                for item in items {
                    item.merge_keys()?;
                }
            }
            Value::Map(entries) => {
                for entry in entries.iter_mut() {
                    entry.node.merge_keys()?;
                }
                if let Some(at) = entries.iter().position(|entry| entry.key == "<<") {
                    let merge = entries.remove(at);
                    let not_maps =
                        || format!("line {}: map merge requires map or sequence of maps as the value", merge.line);
                    let sources = match merge.node.value {
                        Value::Map(entries) => vec![entries],
                        Value::List(items) => items
                            .into_iter()
                            .map(|item| match item.value {
                                Value::Map(entries) => Ok(entries),
                                Value::Scalar(_) | Value::List(_) => Err(not_maps()),
                            })
                            .collect::<Result<_, _>>()?,
                        Value::Scalar(_) => return Err(not_maps()),
                    };
                    let mut known: std::collections::HashSet<String> =
                        entries.iter().map(|entry| entry.key.clone()).collect();
                    for entry in sources.into_iter().flatten() {
                        if known.insert(entry.key.clone()) {
                            entries.push(entry);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} at line {})", self.describe(), self.line)
    }
}

/// A value that JSON has no form for (`.inf`, `.nan`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson {
    pub line: usize,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a number that JSON can carry")
    }
}

impl std::error::Error for NotJson {}

/// A text in double quotes, escaped as the chapters' `%q`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Sign, base and digits of a whole number of at most 128 bits.
fn integer_digits(text: &str) -> Option<(bool, u32, &str)> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            let valid = !digits.starts_with(['+', '-']) && u128::from_str_radix(digits, radix).is_ok();
            return valid.then_some((negative, radix, digits));
        }
    }
    let leading_zeros = unsigned.len() > 1 && unsigned.starts_with('0');
    let valid = all_digits(unsigned) && !leading_zeros && unsigned.parse::<u128>().is_ok();
    valid.then_some((negative, 10, unsigned))
}

fn push_integer(out: &mut String, text: &str) {
    let Some((negative, radix, digits)) = integer_digits(text) else {
        out.push('0');
        return;
    };
    if negative {
        out.push('-');
    }
    if radix == 10 {
        out.push_str(digits);
    } else {
        let value = u128::from_str_radix(digits, radix).expect("checked by integer_digits");
        let _ = write!(out, "{value}");
    }
}

/// A finite number in JSON's grammar, digit for digit; what YAML allows beyond it is filled up.
fn push_float(out: &mut String, text: &str) -> Option<()> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    if !whole.bytes().chain(fraction.unwrap_or_default().bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    if negative {
        out.push('-');
    }
    let significant = whole.trim_start_matches('0');
    out.push_str(if significant.is_empty() { "0" } else { significant });
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(if fraction.is_empty() { "0" } else { fraction });
    }
    if let Some(exponent) = exponent {
        out.push_str(exponent);
    }
    Some(())
}
