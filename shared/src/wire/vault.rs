//! Executor, spawner and CLI to the vault agent: `vault-executor.sock`, `vault-spawner.sock`,
//! `vault-admin.sock`, and the line of a one-shot agent. The caller sends `hello` first; each frame
//! is an `Envelope`, at most `AGENT_MAX` bytes. Descriptors travel with the frame's first byte.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::id::{JobId, PluginName};
use crate::secret::Secret;

/// The longest text that travels inside a frame; a longer one is a sealed memfd.
pub const INLINE_MAX: usize = 64 * 1024;

/// What may be asked of the agent; `docs/ipc.md` has the table of roles. Any request can be
/// answered by `Reply::Refused`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Executor. Answer: `Status`.
    Status,
    /// Executor, at load and reload: what the new configuration needs. Answer: `Prepared`, and
    /// nothing is in force before `Commit`.
    Prepare {
        /// Secrets that `api.auth.tokens[].secret_ref` name, in order.
        token_refs: Vec<String>,
        plugins: Vec<PreparedPlugin>,
    },
    /// Executor: the prepared configuration is in force. Answer: `Done`.
    Commit,
    /// Executor: the prepared configuration is dropped. Answer: `Done`.
    Discard,
    /// Spawner: write the start of a request into an empty pipe (`spec/vault.md` 17.3).
    /// Descriptors: stdin's write end, manifest, entrypoint. Answer: `Delivered`.
    Deliver(Delivery),
    /// Executor: do these bytes match what was locked? Descriptors: manifest, entrypoint.
    /// Answer: `Attested`.
    Attest(Attestation),
    /// Executor: take every delivered value out of a text (`spec/vault.md` 17.5). `text` is `None`
    /// when a descriptor, a sealed memfd, holds it. Answer: `Scrubbed`.
    Scrub { delivery_id: u64, text: Option<Vec<u8>> },
    /// Executor: the completion is committed; the values are forgotten. No answer.
    CloseDelivery { delivery_id: u64 },
    /// Executor: the front saw the admin token over HTTP; journalled. Answer: `Done`.
    TokenExposed,
    /// Admin: `spec/vault.md` 4.4. Answer: `Done`.
    RegisterPrincipal {
        #[serde(with = "secret_bytes")]
        token: Secret,
        name: String,
        kind: String,
    },
    /// Admin: `spec/vault.md` 4.5. Answer: `Done`.
    RevokePrincipal {
        #[serde(with = "secret_bytes")]
        token: Secret,
        name: String,
    },
    /// Admin: `spec/vault.md` 4.1. Answer: `Done`.
    SetSecret {
        #[serde(with = "secret_bytes")]
        token: Secret,
        name: String,
        #[serde(with = "secret_bytes")]
        value: Secret,
        pattern: Option<String>,
        /// `None` leaves the grants, an empty list clears them.
        principals: Option<Vec<String>>,
        scope: Option<String>,
    },
    /// Admin: `spec/vault.md` 5.2. Answer: `Listing`.
    List {
        #[serde(with = "secret_bytes")]
        token: Secret,
    },
    /// Admin with the token, or the line of a one-shot agent (which has the key, and ignores the
    /// token): fingerprint a plugin for `plugin lock`. Descriptors: manifest, entrypoint.
    /// Answer: `Fingerprint`.
    Fingerprint {
        #[serde(with = "secret_bytes")]
        token: Secret,
        attestation: Attestation,
    },
}

/// What the agent answers. Call 0 marks a notice that answers nothing.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Refused(Refusal),
    Done,
    Status(Status),
    Prepared {
        /// Names of registered principals.
        principals: Vec<String>,
        /// Key of the digests, fresh for this load.
        token_key: [u8; 32],
        /// In the order of `token_refs`.
        tokens: Vec<TokenDigest>,
        /// The admin token's, so that the front can recognise it and refuse it.
        admin_token: Option<[u8; 32]>,
    },
    Delivered {
        /// Number of secrets that were written; 0 when the pipe holds `{` alone.
        secret_names_count: u32,
    },
    Attested(AttestationOutcome),
    /// `text` is `None` when a descriptor, a sealed memfd, holds it.
    Scrubbed {
        text: Option<Vec<u8>>,
        hits: Vec<Hit>,
    },
    Listing {
        secrets: Vec<SecretEntry>,
        principals: Vec<PrincipalEntry>,
        issues: Vec<Issue>,
    },
    Fingerprint {
        /// Lower-case hex.
        manifest_hash: String,
        entrypoint_hash: String,
        binding_mac: String,
    },
    /// Notice to the executor: principals were registered, revoked or purged; these are registered.
    PrincipalsChanged {
        principals: Vec<String>,
    },
}

/// A plugin as `Prepare` names it, for the shared-account rule (`spec/vault.md` 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedPlugin {
    pub plugin: PluginName,
    pub principal: String,
    /// Name and uid of its account; `None` where it runs undropped.
    pub account: Option<(String, u32)>,
    pub shared_account: bool,
}

/// The identity that secrets are asked for, as `binding_mac` covers it (`spec/vault.md` 13.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    pub plugin: PluginName,
    /// Base plugin of an alias, else empty.
    pub uses: String,
    pub principal: String,
    pub requires_vault: bool,
    /// uid and gid of the account; `None` where the plugin runs undropped.
    pub account: Option<(u32, u32)>,
}

/// One delivery, made before its child exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The executor's number for the run; never reused within its connection.
    pub delivery_id: u64,
    pub job_id: JobId,
    pub attestation: Attestation,
}

/// Whether files are those that were locked; never a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttestationOutcome {
    Match,
    Mismatch,
    Unrecorded,
}

/// What the agent's `Status` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub vault: VaultState,
    pub generation: u64,
    pub memory_locked: bool,
    /// Where the key came from, in words; empty without one.
    pub key_source: String,
    pub recovery_recipients: Vec<String>,
    pub principals: Vec<String>,
}

/// Whether there is a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultState {
    Absent,
    Open,
}

/// What became of one `token_ref`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenDigest {
    Digest([u8; 32]),
    Missing,
    Empty,
}

/// How often a secret's value stood in a scrubbed text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    pub name: String,
    pub count: u32,
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEntry {
    pub name: String,
    pub status: String,
    pub pattern: String,
    pub scope: String,
    pub roll_count: u64,
    pub principals: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalEntry {
    pub name: String,
    pub kind: String,
    pub status: String,
}

/// A finding of the integrity check (`spec/vault.md` 1.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    pub kind: String,
    pub target: String,
    pub detail: String,
}

/// The only place where a secret becomes bytes of a message.
mod secret_bytes {
    use serde::de::{Deserializer, Visitor};
    use serde::ser::Serializer;

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Secret;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Secret, E> {
                Ok(Secret::new(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Secret, E> {
                Ok(Secret::new(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
