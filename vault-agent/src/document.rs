//! The vault's document: its types and what can be read from it. Pure: no file, no clock, no key.
//! The field names are the reference's, so that its `vault.age` opens here and ours opens there.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::rules::DocumentError;

/// The reserved principal, which holds the nonce.
pub(crate) const CORE: &str = "core";
/// The reserved secret, which is the management credential.
pub(crate) const ADMIN_TOKEN: &str = "core-admin-token";

/// A secret's value: wiped when dropped, printed as a placeholder.
#[derive(Clone, Default)]
pub(crate) struct Value(Zeroizing<String>);

impl Value {
    pub(crate) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The value itself. Whoever calls this answers for every copy that it makes.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(..)")
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(nullable::<String, D>(deserializer)?)))
    }
}

/// A closed set of words in the document; any other word is kept as it stands and is one of the
/// integrity check's findings.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) enum $name { $($variant,)+ Other(String) }

        impl $name {
            /// The variant of a known word.
            pub(crate) fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }

            pub(crate) fn as_str(&self) -> &str {
                match self { $(Self::$variant => $word,)+ Self::Other(word) => word }
            }
        }

        impl Default for $name {
            fn default() -> Self { Self::Other(String::new()) }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                Ok(Self::parse(&word).unwrap_or(Self::Other(word)))
            }
        }
    };
}

words!(
    /// Of secrets and principals alike.
    Status { Active = "active", Revoked = "revoked" }
);
words!(
    /// Who makes a secret's value.
    Pattern { Manual = "manual", Auto = "auto" }
);
words!(
    /// What a principal is.
    Kind { Plugin = "plugin", Consumer = "consumer", Gateway = "gateway" }
);
words!(
    /// Who may see a secret besides its grantees; absent = the rule of `spec/vault.md` 14.2.
    Scope { Plugin = "plugin", Gateway = "gateway" }
);

/// The whole vault in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Document {
    #[serde(default = "first_version")]
    pub(crate) version: u32,
    /// Number of this save.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) generation: u64,
    /// The last journal line before this save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal_head: Option<JournalHead>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) recovery_recipients: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) secrets: BTreeMap<String, SecretRecord>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) principals: BTreeMap<String, PrincipalRecord>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            version: first_version(),
            generation: 0,
            journal_head: None,
            recovery_recipients: Vec::new(),
            secrets: BTreeMap::new(),
            principals: BTreeMap::new(),
        }
    }
}

/// A line of the audit journal, by number and MAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalHead {
    pub(crate) seq: u64,
    pub(crate) mac: String,
}

/// A secret. Times are RFC 3339 in whole seconds, kept as they stand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SecretRecord {
    #[serde(default)]
    pub(crate) value: Value,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) authorized_principals: Vec<String>,
    #[serde(default)]
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) pattern: Pattern,
    #[serde(default)]
    pub(crate) roll_count: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) created_at: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) updated_at: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) revoked_at: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Scope>,
}

/// A principal; only `core` has a nonce.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PrincipalRecord {
    #[serde(default)]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) status: Status,
    #[serde(default, skip_serializing_if = "Value::is_empty")]
    pub(crate) nonce: Value,
}

fn first_version() -> u32 {
    1
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A key that is there without a value means the same as one that is not.
fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    /// A new vault: `core` with its nonce, and the admin token.
    pub(crate) fn genesis(nonce: Value, token: Value, now: &str) -> Self {
        let mut document = Self::default();
        let core = PrincipalRecord { kind: Kind::Gateway, status: Status::Active, nonce };
        document.principals.insert(CORE.to_owned(), core);
        let admin = SecretRecord {
            value: token,
            status: Status::Active,
            pattern: Pattern::Auto,
            created_at: now.to_owned(),
            updated_at: now.to_owned(),
            ..SecretRecord::default()
        };
        document.secrets.insert(ADMIN_TOKEN.to_owned(), admin);
        document
    }

    /// The key of every fingerprint; there is no unkeyed fallback.
    ///
    /// # Errors
    /// `Nonce` when it is missing or not 32 bytes.
    pub(crate) fn nonce(&self) -> Result<Zeroizing<[u8; 32]>, DocumentError> {
        let text = self.principals.get(CORE).map(|core| core.nonce.expose()).unwrap_or_default();
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| DocumentError::Nonce)?);
        let nonce: [u8; 32] = bytes.as_slice().try_into().map_err(|_| DocumentError::Nonce)?;
        Ok(Zeroizing::new(nonce))
    }

    /// The management credential, while it is in force.
    pub(crate) fn admin_token(&self) -> Option<&Value> {
        let record = self.secrets.get(ADMIN_TOKEN)?;
        (record.status == Status::Active && !record.value.is_empty()).then_some(&record.value)
    }

    /// Names of all registered principals, revoked ones too: they are still known.
    pub(crate) fn principal_names(&self) -> Vec<String> {
        self.principals.keys().cloned().collect()
    }

    /// The document's text without what every save renews; equal texts need no save.
    pub(crate) fn canonical(&self) -> Zeroizing<String> {
        crate::yaml::print(&Self { generation: 0, journal_head: None, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the reference writes it: none of our fields, null maps, block scalars, quoted numbers.
    const REFERENCE: &str = "\
secrets:
    core-admin-token:
        value: dG9rZW4
        authorized_principals: []
        status: active
        pattern: auto
        roll_count: 0
        created_at: \"2026-06-05T09:00:00Z\"
        updated_at: 2026-06-05T09:00:00Z
    pem:
        value: |-
            line one
            line two: \"x\"
        authorized_principals:
            - withings
        status: active
        pattern: manual
        roll_count: 3
        description: free text
    number:
        value: \"0123\"
        authorized_principals:
        status: odd
        pattern: manual
        roll_count: 0
principals:
    core:
        kind: gateway
        status: active
        nonce: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8
    withings:
        kind: plugin
        status: active
";

    #[test]
    fn the_references_document_opens() {
        let document: Document = crate::yaml::parse(REFERENCE).expect("the reference's own form");
        assert_eq!((document.version, document.generation, document.journal_head.is_none()), (1, 0, true));
        assert_eq!(document.secrets["pem"].value.expose(), "line one\nline two: \"x\"");
        assert_eq!(document.secrets["number"].value.expose(), "0123");
        assert_eq!(document.secrets["number"].status, Status::Other("odd".to_owned()));
        assert_eq!(document.secrets["pem"].roll_count, 3);
        assert_eq!(document.nonce().expect("32 bytes")[31], 31);
        assert_eq!(document.admin_token().expect("active").expose(), "dG9rZW4");
    }

    #[test]
    fn what_we_write_reads_back_and_omits_what_is_empty() {
        let document: Document = crate::yaml::parse(REFERENCE).expect("parses");
        let text = crate::yaml::print(&document);
        for absent in ["generation", "journal_head", "recovery_recipients", "scope", "revoked_at", "~", "null"] {
            assert!(!text.contains(absent), "{absent} in {}", text.as_str());
        }
        let again: Document = crate::yaml::parse(&text).expect("our own form");
        assert_eq!(*again.canonical(), *document.canonical());
        assert_eq!(again.secrets["number"].value.expose(), "0123");
    }

    #[test]
    fn values_never_print() {
        let document: Document = crate::yaml::parse(REFERENCE).expect("parses");
        assert!(!format!("{document:?}").contains("line one"));
    }

    #[test]
    fn a_nonce_is_32_bytes_or_an_error() {
        let mut document: Document = crate::yaml::parse(REFERENCE).expect("parses");
        for bad in ["", "AAEC", "not base64 !", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8A"] {
            document.principals.get_mut(CORE).expect("core").nonce = Value::new(Zeroizing::new(bad.to_owned()));
            assert_eq!(document.nonce().expect_err(bad), DocumentError::Nonce);
        }
        document.principals.remove(CORE);
        assert_eq!(document.nonce().expect_err("no core"), DocumentError::Nonce);
    }

    #[test]
    fn hostile_documents_are_errors() {
        for text in ["secrets: 3", "- a", "secrets: {a: {value: [1]}}", "principals: {a: b}", "\u{0}", "a: &a [*a, *a]"]
        {
            assert!(crate::yaml::parse::<Document>(text).is_err() || text.starts_with("a:"), "{text:?}");
        }
    }
}
