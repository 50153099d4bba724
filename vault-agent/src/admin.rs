//! The management verbs of `vault-admin.sock`, each behind the admin token (`spec/vault.md` 4, 10.2).

use std::os::fd::OwnedFd;

use shared::secret::Secret;
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Attestation, Reply};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::attest::{AttestError, Attestor, Files};
use crate::document::{Document, Pattern, Value};
use crate::journal::Fact;
use crate::line::Line;
use crate::rules::SecretChange;

/// Whose doing a management verb is, in the journal.
const ACTOR: &str = "core-admin-token";

/// Compares the presented token; always the same work, whatever is resident. A failure is
/// journalled.
///
/// # Errors
/// No vault, or not its token.
pub(crate) fn authenticate(agent: &Agent, line: &Line, presented: &Secret) -> Result<(), Refusal> {
    let holds = agent.read(|document| {
        let resident = document.admin_token().map(Value::expose).unwrap_or_default();
        // Digests have one length: the comparison tells nothing of the resident token's.
        let digest = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let same = digest(presented.expose()).ct_eq(&digest(resident.as_bytes()));
        bool::from(same) & !presented.is_empty() & !resident.is_empty()
    })?;
    if holds {
        return Ok(());
    }
    agent.auth_failed(&line.actor());
    line.tell("request refused", "invalid vault admin token");
    Err(Refusal::new(RefusalKind::AdminToken, "invalid vault admin token"))
}

/// `spec/vault.md` 4.4.
///
/// # Errors
/// As the rules and the vault say.
pub(crate) fn register_principal(agent: &Agent, name: &str, kind: &str) -> Result<Reply, Refusal> {
    let fact = Fact { op: "register", principal: name, actor: ACTOR, ..Fact::default() };
    let detail = |(): &()| format!("kind={kind}");
    agent.change(&fact, |document| document.register_principal(name, kind), detail)?;
    agent.tell_principals();
    Ok(Reply::Done)
}

/// `spec/vault.md` 4.5.
///
/// # Errors
/// As the rules and the vault say.
pub(crate) fn revoke_principal(agent: &Agent, name: &str) -> Result<Reply, Refusal> {
    let fact = Fact { op: "revoke_principal", principal: name, actor: ACTOR, ..Fact::default() };
    agent.change(&fact, |document| document.revoke_principal(name), |()| String::new())?;
    agent.tell_principals();
    Ok(Reply::Done)
}

/// `spec/vault.md` 4.1.
///
/// # Errors
/// As the rules and the vault say.
pub(crate) fn set_secret(agent: &Agent, change: &SecretChange<'_>) -> Result<Reply, Refusal> {
    let fact = Fact { op: "set", secret: change.name, actor: ACTOR, ..Fact::default() };
    let time = seconds();
    agent.change(&fact, |document| document.set_secret(change, &time), set_detail)?;
    Ok(Reply::Done)
}

/// What the journal says of a `set`.
pub(crate) fn set_detail(pattern: &Pattern) -> String {
    format!("pattern={}", pattern.as_str())
}

/// The clock's reading in whole seconds, as the document keeps times.
pub(crate) fn seconds() -> String {
    format!("{}Z", &crate::log::now().to_string()[..19])
}

/// A value is delivered as a JSON text, so it must be one.
///
/// # Errors
/// Bytes that are not UTF-8.
pub(crate) fn to_value(bytes: &[u8]) -> Result<Value, Refusal> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::new(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(Refusal::new(RefusalKind::Invalid, "vault: secret value is not valid UTF-8")),
    }
}

/// `spec/vault.md` 5.2.
///
/// # Errors
/// There is no vault.
pub(crate) fn list(agent: &Agent) -> Result<Reply, Refusal> {
    let listing = |document: &Document| Reply::Listing {
        secrets: document.secret_entries(),
        principals: document.principal_entries(),
        issues: document.issues(),
    };
    agent.read(listing)
}

/// For `plugin lock`: what the two descriptors hold, and the binding over it.
///
/// # Errors
/// Other descriptors than two, or files that are not hashed.
pub(crate) fn fingerprint(attestor: &Attestor, asked: &Attestation, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
    let files = two_files(fds)?;
    let found = attestor.fingerprint(asked, &files, false).map_err(|error| file_refusal(&asked.plugin, &error))?;
    Ok(Reply::Fingerprint {
        manifest_hash: found.manifest_hash,
        entrypoint_hash: found.entrypoint_hash,
        binding_mac: found.binding_mac,
    })
}

/// Manifest and entrypoint, in the order of the protocol.
///
/// # Errors
/// Another number of descriptors.
pub(crate) fn two_files(fds: Vec<OwnedFd>) -> Result<Files<OwnedFd, OwnedFd>, Refusal> {
    match <[OwnedFd; 2]>::try_from(fds) {
        Ok([manifest, entrypoint]) => Ok(Files { manifest, entrypoint }),
        Err(_) => Err(Refusal::new(RefusalKind::Invalid, "two descriptors are needed: manifest and entrypoint")),
    }
}

/// A file that is not hashed, as the peer hears it.
pub(crate) fn file_refusal(plugin: &shared::id::PluginName, error: &AttestError) -> Refusal {
    let kind = match error {
        AttestError::Unsafe { .. } => RefusalKind::UnsafePath,
        _ => RefusalKind::FingerprintMismatch,
    };
    Refusal::new(kind, format!("plugin {:?}: {}", plugin.as_str(), shared::log::chain(error)))
}
