//! The rules of the document: who may change what, and with which words it is refused
//! (`spec/vault.md` 1.4, 4). Pure: a refused change leaves the document as it was.

use std::fmt;

use shared::id::{PrincipalName, SecretName};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Issue, PrincipalEntry, SecretEntry};

use crate::compose;
use crate::document::{
    ADMIN_TOKEN, CORE, Document, Kind, Pattern, PrincipalRecord, Scope, SecretRecord, Status, Value,
};

/// The longest value.
pub(crate) const VALUE_MAX: usize = 48 * 1024;

/// Why a change or a reading is refused. The texts are interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocumentError {
    InvalidName(String),
    InvalidKind(String),
    InvalidPattern(String),
    InvalidScope(String),
    PrincipalExists(String),
    PrincipalUnknown(String),
    GrantUnknown { secret: String, principal: String },
    SecretRevoked(String),
    Reserved(String),
    ValueImmutable(String),
    ValueEmpty(String),
    Unminted(String),
    ValueTooLong(String),
    ComposedTooLong(String),
    Nonce,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(name) => write!(f, "vault: invalid name {}", Quoted(name)),
            Self::InvalidKind(kind) => write!(f, "vault: invalid principal kind {}", Quoted(kind)),
            Self::InvalidPattern(pattern) => write!(f, "vault: invalid secret pattern {}", Quoted(pattern)),
            Self::InvalidScope(scope) => write!(f, "vault: invalid secret scope {}", Quoted(scope)),
            Self::PrincipalExists(name) => write!(f, "vault: principal already registered: {name:?}"),
            Self::PrincipalUnknown(name) => write!(f, "vault: unknown principal {}", Quoted(name)),
            Self::GrantUnknown { secret, principal } => {
                write!(f, "vault: unknown principal {} granted by secret {secret:?}", Quoted(principal))
            }
            Self::SecretRevoked(name) => write!(f, "vault: secret is revoked: {name:?}"),
            Self::Reserved(name) => {
                write!(f, "vault: reserved entity cannot be mutated via the data plane: {name:?}")
            }
            Self::ValueImmutable(name) => write!(f, "vault: secret value is immutable via set; use roll: {name:?}"),
            Self::ValueEmpty(name) => write!(f, "vault: active secret value must not be empty: {name:?}"),
            Self::Unminted(name) => {
                write!(f, "vault: active secret value must not be empty: {name:?} has none yet; roll it first")
            }
            Self::ValueTooLong(name) => write!(f, "vault: secret value is over {VALUE_MAX} bytes: {name:?}"),
            Self::ComposedTooLong(principal) => {
                write!(f, "vault: secrets of principal {principal:?} are over {} bytes together", compose::PREFIX_MAX)
            }
            Self::Nonce => f.write_str("vault: principal \"core\" holds no usable nonce"),
        }
    }
}

impl std::error::Error for DocumentError {}

impl DocumentError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::InvalidName(_) => RefusalKind::InvalidName,
            Self::InvalidKind(_) => RefusalKind::InvalidPrincipalKind,
            Self::InvalidPattern(_) => RefusalKind::InvalidPattern,
            Self::InvalidScope(_) => RefusalKind::InvalidScope,
            Self::PrincipalExists(_) => RefusalKind::PrincipalExists,
            Self::PrincipalUnknown(_) | Self::GrantUnknown { .. } => RefusalKind::PrincipalUnknown,
            Self::SecretRevoked(_) => RefusalKind::SecretRevoked,
            Self::Reserved(_) => RefusalKind::Reserved,
            Self::ValueImmutable(_) => RefusalKind::ValueImmutable,
            Self::ValueEmpty(_) | Self::Unminted(_) => RefusalKind::ValueEmpty,
            Self::ValueTooLong(_) | Self::ComposedTooLong(_) => RefusalKind::ValueTooLarge,
            Self::Nonce => RefusalKind::Internal,
        }
    }
}

impl From<&DocumentError> for Refusal {
    fn from(error: &DocumentError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// An unchecked text, quoted and cut: it may be anything.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut: String = self.0.chars().take(shared::id::MAX_LENGTH).collect();
        write!(f, "{cut:?}")
    }
}

/// What `set` is asked for; `None` leaves what is there.
pub(crate) struct SecretChange<'a> {
    pub(crate) name: &'a str,
    /// Empty leaves the value.
    pub(crate) value: &'a Value,
    pub(crate) pattern: Option<&'a str>,
    pub(crate) principals: Option<&'a [String]>,
    pub(crate) scope: Option<&'a str>,
}

impl Document {
    /// Creates a secret, or changes all of it but its value (`spec/vault.md` 4.1); its pattern.
    ///
    /// # Errors
    /// In the chapter's order; nothing changes then.
    pub(crate) fn set_secret(&mut self, change: &SecretChange<'_>, now: &str) -> Result<Pattern, DocumentError> {
        let name = change.name;
        if SecretName::parse(name).is_err() {
            return Err(DocumentError::InvalidName(name.to_owned()));
        }
        if name == ADMIN_TOKEN {
            return Err(DocumentError::Reserved(name.to_owned()));
        }
        let parsed = |word: &str| Pattern::parse(word).ok_or_else(|| DocumentError::InvalidPattern(word.to_owned()));
        let pattern = change.pattern.map(parsed).transpose()?;
        let parsed = |word: &str| Scope::parse(word).ok_or_else(|| DocumentError::InvalidScope(word.to_owned()));
        let scope = change.scope.map(parsed).transpose()?;
        for principal in change.principals.unwrap_or_default() {
            if !self.principals.contains_key(principal) {
                let (secret, principal) = (name.to_owned(), principal.clone());
                return Err(DocumentError::GrantUnknown { secret, principal });
            }
        }
        let known = self.secrets.get(name);
        let fresh = || SecretRecord {
            status: Status::Active,
            pattern: Pattern::Manual,
            created_at: now.to_owned(),
            ..SecretRecord::default()
        };
        let mut record = known.cloned().unwrap_or_else(fresh);
        if record.status == Status::Revoked {
            return Err(DocumentError::SecretRevoked(name.to_owned()));
        }
        if !change.value.is_empty() && known.is_some_and(|known| known.value != *change.value) {
            return Err(DocumentError::ValueImmutable(name.to_owned()));
        }
        if change.value.expose().len() > VALUE_MAX {
            return Err(DocumentError::ValueTooLong(name.to_owned()));
        }
        if known.is_none() {
            record.value = change.value.clone();
        }
        let was_auto = known.is_some_and(|known| known.pattern == Pattern::Auto);
        record.pattern = pattern.unwrap_or(record.pattern);
        if record.pattern != Pattern::Auto && record.value.is_empty() {
            let refusal = if was_auto { DocumentError::Unminted } else { DocumentError::ValueEmpty };
            return Err(refusal(name.to_owned()));
        }
        if let Some(principals) = change.principals {
            record.authorized_principals = principals.to_vec();
            record.authorized_principals.sort();
            record.authorized_principals.dedup();
        }
        record.scope = scope.or(record.scope);
        record.updated_at = now.to_owned();
        let pattern = record.pattern.clone();
        let before = self.secrets.insert(name.to_owned(), record);
        let grantees = &self.secrets[name].authorized_principals;
        if let Some(long) =
            grantees.iter().find(|principal| compose::composed_length(self, principal) > compose::PREFIX_MAX)
        {
            let refusal = DocumentError::ComposedTooLong(long.clone());
            match before {
                Some(before) => self.secrets.insert(name.to_owned(), before),
                None => self.secrets.remove(name),
            };
            return Err(refusal);
        }
        Ok(pattern)
    }

    /// Registers a principal (`spec/vault.md` 4.4).
    ///
    /// # Errors
    /// Reserved, bad name, bad kind, or known already, also when it is revoked.
    pub(crate) fn register_principal(&mut self, name: &str, kind: &str) -> Result<(), DocumentError> {
        if name == CORE {
            return Err(DocumentError::Reserved(name.to_owned()));
        }
        if PrincipalName::parse(name).is_err() {
            return Err(DocumentError::InvalidName(name.to_owned()));
        }
        let kind = Kind::parse(kind).ok_or_else(|| DocumentError::InvalidKind(kind.to_owned()))?;
        if self.principals.contains_key(name) {
            return Err(DocumentError::PrincipalExists(name.to_owned()));
        }
        let record = PrincipalRecord { kind, status: Status::Active, nonce: Value::default() };
        self.principals.insert(name.to_owned(), record);
        Ok(())
    }

    /// Revokes a principal; its grants stay (`spec/vault.md` 4.5).
    ///
    /// # Errors
    /// Reserved or unknown; a second revoke succeeds.
    pub(crate) fn revoke_principal(&mut self, name: &str) -> Result<(), DocumentError> {
        if name == CORE {
            return Err(DocumentError::Reserved(name.to_owned()));
        }
        let known = self.principals.get_mut(name);
        known.ok_or_else(|| DocumentError::PrincipalUnknown(name.to_owned()))?.status = Status::Revoked;
        Ok(())
    }

    /// The integrity check, sorted; empty = healthy (`spec/vault.md` 1.5).
    pub(crate) fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        let mut add = |kind: &str, target: &str, detail: String| {
            issues.push(Issue { kind: kind.to_owned(), target: target.to_owned(), detail });
        };
        for (name, record) in &self.principals {
            if let Kind::Other(word) = &record.kind {
                add("principal", name, format!("invalid kind {}", Quoted(word)));
            }
            if let Status::Other(word) = &record.status {
                add("principal", name, format!("invalid status {}", Quoted(word)));
            }
        }
        for (name, record) in &self.secrets {
            if let Pattern::Other(word) = &record.pattern {
                add("secret", name, format!("invalid pattern {}", Quoted(word)));
            }
            if let Status::Other(word) = &record.status {
                add("secret", name, format!("invalid status {}", Quoted(word)));
            }
            for grantee in record.authorized_principals.iter().filter(|name| !self.principals.contains_key(*name)) {
                add("secret", name, format!("granted to unregistered principal {}", Quoted(grantee)));
            }
        }
        issues.sort_by(|a, b| (&a.kind, &a.target, &a.detail).cmp(&(&b.kind, &b.target, &b.detail)));
        issues
    }

    /// All secrets without their values, in name order.
    pub(crate) fn secret_entries(&self) -> Vec<SecretEntry> {
        let entry = |(name, record): (&String, &SecretRecord)| SecretEntry {
            name: name.clone(),
            status: record.status.as_str().to_owned(),
            pattern: record.pattern.as_str().to_owned(),
            scope: record.scope.as_ref().map(Scope::as_str).unwrap_or_default().to_owned(),
            roll_count: record.roll_count,
            principals: record.authorized_principals.clone(),
            created_at: record.created_at.clone(),
            updated_at: record.updated_at.clone(),
        };
        self.secrets.iter().map(entry).collect()
    }

    /// All principals, in name order.
    pub(crate) fn principal_entries(&self) -> Vec<PrincipalEntry> {
        let entry = |(name, record): (&String, &PrincipalRecord)| PrincipalEntry {
            name: name.clone(),
            kind: record.kind.as_str().to_owned(),
            status: record.status.as_str().to_owned(),
        };
        self.principals.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests;
