//! The only file that names serde_yaml. Its errors carry a place and never a text: the parser's own
//! words can quote the value that it did not like.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// YAML that does not fit, by its place alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct YamlError {
    place: Option<(usize, usize)>,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "malformed YAML at line {line} column {column}"),
            None => f.write_str("malformed YAML"),
        }
    }
}

impl std::error::Error for YamlError {}

impl From<serde_yaml::Error> for YamlError {
    fn from(error: serde_yaml::Error) -> Self {
        Self { place: error.location().map(|place| (place.line(), place.column())) }
    }
}

/// Reads one document; unknown keys are ignored, an empty text is `T`'s default.
///
/// # Errors
/// `YamlError` with the place.
pub(crate) fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, YamlError> {
    Ok(serde_yaml::from_str::<Option<T>>(text)?.unwrap_or_default())
}

/// Writes one document, wiped when dropped.
pub(crate) fn print<T: Serialize>(document: &T) -> Zeroizing<String> {
    Zeroizing::new(serde_yaml::to_string(document).expect("our own documents have only text keys, text and numbers"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_complaint_shows_the_place_and_nothing_of_the_text() {
        let error = parse::<BTreeMap<String, u32>>("a: 1\nb: hunter2-secret\n").expect_err("no number");
        assert_eq!(error.to_string(), "malformed YAML at line 2 column 4");
        assert!(parse::<BTreeMap<String, u32>>("a: [").is_err());
    }

    #[test]
    fn an_empty_text_is_the_default() {
        assert_eq!(parse::<BTreeMap<String, u32>>("# nothing\n").expect("empty").len(), 0);
    }
}
