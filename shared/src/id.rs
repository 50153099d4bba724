//! Names and ids, parsed once at the edge. Each has a private field, so a value of the type is a
//! checked one wherever it is met.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest id or name that any process takes, in bytes.
pub const MAX_LENGTH: usize = 128;

/// A text that is not an id or name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    kind: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid {}", self.kind)
    }
}

impl std::error::Error for InvalidId {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text; nothing is trimmed or changed.
            ///
            /// # Errors
            /// `InvalidId`, naming the kind and not the text.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if text.len() <= MAX_LENGTH && $valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { kind: $kind })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($kind, "-{}"), self.0)
            }
        }
    };
}

text_id!(
    /// A job: UUIDv7 for our own, any plain token for rows of the reference (design, decision 33).
    JobId, "job", is_token
);
text_id!(
    /// An event; derived from its job's id and its index.
    EventId, "event", is_token
);
text_id!(
    /// A plugin or alias, as in the manifest and under `plugins:`. The reference checks no
    /// characters; what would break a path, a log line or a URL is refused here.
    PluginName, "plugin", is_label
);
text_id!(
    /// A command of a plugin (`spec/plugins.md` 2.2).
    CommandName, "command", is_command
);
text_id!(
    /// A secret of the vault (`spec/vault.md` 1.2).
    SecretName, "secret", is_secret_name
);
text_id!(
    /// An identity that secrets are granted to (`spec/vault.md` 1.2).
    PrincipalName, "principal", is_principal_name
);
text_id!(
    /// A key of `accounts:` (`spec/plugins.md` 9.2).
    AccountName, "account", is_label
);

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'#'))
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.chars().any(|c| c.is_control() || c == '/')
}

fn is_command(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(char::is_alphabetic) && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

fn is_lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_secret_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_lower_alphanumeric(*first)
        && is_lower_alphanumeric(*last)
        && bytes.iter().all(|b| is_lower_alphanumeric(*b) || matches!(b, b'_' | b'-'))
}

fn is_principal_name(text: &str) -> bool {
    text.split('-').all(|part| !part.is_empty() && part.bytes().all(is_lower_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_follow_the_chapter() {
        let check = |text: &str, valid: bool| assert_eq!(SecretName::parse(text).is_ok(), valid, "{text:?}");
        check("withings_api", true);
        check("a", true);
        check("core-api-token", true);
        check("", false);
        check("_a", false);
        check("a-", false);
        check("A", false);
        check("a b", false);
        check(&"a".repeat(MAX_LENGTH), true);
        check(&"a".repeat(MAX_LENGTH + 1), false);
    }

    #[test]
    fn principal_names_are_kebab_case() {
        let check = |text: &str, valid: bool| assert_eq!(PrincipalName::parse(text).is_ok(), valid, "{text:?}");
        check("withings", true);
        check("file-handler-2", true);
        check("file_handler", false);
        check("-a", false);
        check("a--b", false);
        check("", false);
    }

    #[test]
    fn plugin_names_refuse_what_breaks_a_path_or_a_line() {
        let check = |text: &str, valid: bool| assert_eq!(PluginName::parse(text).is_ok(), valid, "{text:?}");
        check("jina-reader", true);
        check("file_handler", true);
        check("two words", true);
        check("a/b", false);
        check("a\nb", false);
        check(" a", false);
    }

    #[test]
    fn commands_begin_with_a_letter() {
        let check = |text: &str, valid: bool| assert_eq!(CommandName::parse(text).is_ok(), valid, "{text:?}");
        check("poll", true);
        check("prüfe-2", true);
        check("2poll", false);
        check("bad command!", false);
        check("", false);
    }

    #[test]
    fn ids_print_with_their_kind_only_for_debugging() {
        let job = JobId::parse("0198-a").expect("valid");
        assert_eq!(job.to_string(), "0198-a");
        assert_eq!(format!("{job:?}"), "job-0198-a");
    }
}
