//! Text to values: the only file that names serde_yaml. `parse` gives a tree that knows its lines
//! and the spelling of every scalar, which configuration and manifests are read from; `decode`
//! gives any `Deserialize`. Both are bounded in size, depth and number of values, whatever the text;
//! neither ever opens a file.

mod node;
mod tree;

use std::fmt;

use serde::de::DeserializeOwned;

pub use node::{Entry, Kind, Node, NotJson, Scalar, Value, quoted};

/// The longest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 4 * 1024 * 1024;
/// The most values that one text may stand for once its aliases are followed.
const MAX_VALUES: usize = 500_000;
/// The deepest flow nesting handed to the parser, whose own cost grows with its square; what is
/// nested deeper than 128 it refuses itself.
const MAX_OPEN_BRACKETS: usize = 1000;

/// A text that is not the YAML it should be. Prints as `<file>: <what and where>`; the values of
/// the text are never part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    file: String,
    line: Option<usize>,
    message: String,
}

impl YamlError {
    fn new(file: &str, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message: message.into() }
    }

    fn from_library(file: &str, error: &serde_yaml::Error) -> Self {
        let line = error.location().map(|location| location.line());
        let text = error.to_string();
        // The library quotes the offending value, which may be a credential.
        if text.contains("invalid value: ") || text.contains("invalid type: string") {
            let at = line.map(|line| format!(" at line {line}")).unwrap_or_default();
            return Self::new(file, line, format!("a value is not of the type it should be{at}"));
        }
        Self::new(file, line, text)
    }

    /// Where the text goes wrong, counted from 1, where that is known.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.message)
    }
}

impl std::error::Error for YamlError {}

/// Decodes one document; `file` only names it in complaints.
///
/// # Errors
/// `YamlError`, naming file and position.
pub fn decode<T: DeserializeOwned>(text: &[u8], file: &str) -> Result<T, YamlError> {
    let text = checked(text, file)?;
    serde_yaml::from_str(text).map_err(|error| YamlError::from_library(file, &error))
}

/// A value as a document, in block form.
///
/// # Errors
/// A value that YAML has no form for.
pub fn encode<T: serde::Serialize>(value: &T) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|error| YamlError::new("document", None, error.to_string()))
}

/// Reads one document as a tree. Nothing is interpolated, merge keys (`<<`) are resolved, a key
/// given twice is refused, and an empty text is `null`.
///
/// # Errors
/// `YamlError`, naming file and position.
pub fn parse(text: &[u8], file: &str) -> Result<Node, YamlError> {
    let text = checked(text, file)?;
    tree::build(text, MAX_VALUES).map_err(|error| YamlError::from_library(file, &error))
}

/// The text as UTF-8 without its byte order mark, when it is fit for the parser.
fn checked<'t>(text: &'t [u8], file: &str) -> Result<&'t str, YamlError> {
    if text.len() > MAX_TEXT {
        return Err(YamlError::new(file, None, format!("{} bytes, more than the {MAX_TEXT} allowed", text.len())));
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        let line = 1 + text[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        YamlError::new(file, Some(line), format!("not UTF-8 at line {line}"))
    })?;
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN_BRACKETS {
            return Err(YamlError::new(file, None, "nested too deeply"));
        }
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

#[cfg(test)]
mod tests;
