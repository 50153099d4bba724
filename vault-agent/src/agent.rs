//! What the threads of one agent share: the vault behind its mutex, the snapshot that deliveries
//! read without it, the open deliveries, and the executor's connection.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use shared::id::JobId;
use shared::log::{Level, chain};
use shared::time::{Millis, Timestamp};
use shared::wire::frame::Envelope;
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Reply, Status, VaultState};

use crate::attest::Attestor;
use crate::compose::{Grantee, Snapshot};
use crate::document::Document;
use crate::journal::{Fact, JournalError};
use crate::line::Line;
use crate::log::{now, say};
use crate::permit::Role;
use crate::prepare::Plan;
use crate::rules::DocumentError;
use crate::vault::{Vault, VaultError};

/// Deliveries whose values are kept for scrubbing.
pub(crate) const OPEN_MAX: usize = 1024;
/// Between two journal lines about failed authentications.
const AUTH_FAILURES_EVERY: Millis = Millis::from_secs(10);

/// A mutex is never poisoned here: a panic ends the process.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic ends the process")
}

/// One running agent.
pub(crate) struct Agent {
    /// Resolved path of the vault, which peers on the admin socket may name.
    pub(crate) instance: String,
    memory_locked: bool,
    opened: Option<Opened>,
    snapshot: Mutex<Arc<Snapshot>>,
    pub(crate) plan: Mutex<Plan>,
    /// Values of deliveries that are not closed; they go with the executor's connection.
    pub(crate) open: Mutex<HashMap<u64, Arc<Grantee>>>,
    counts: Mutex<BTreeMap<String, Count>>,
    auth_failures: Mutex<AuthFailures>,
    executor: Mutex<Option<Arc<Line>>>,
    spawner: Mutex<Option<Arc<Line>>>,
}

struct Opened {
    vault: Mutex<Vault>,
    attestor: Attestor,
    key_source: &'static str,
}

/// Deliveries of one principal since the last journal line about them.
struct Count {
    count: u64,
    first: JobId,
    last: JobId,
}

#[derive(Default)]
struct AuthFailures {
    told: Option<Timestamp>,
    untold: u32,
}

impl Agent {
    /// An agent of this vault, or of none.
    ///
    /// # Errors
    /// The vault holds no nonce.
    pub(crate) fn new(
        instance: String,
        memory_locked: bool,
        vault: Option<Vault>,
        checksums: Option<PathBuf>,
    ) -> Result<Self, DocumentError> {
        let snapshot = vault.as_ref().map(|vault| Snapshot::of(vault.document())).unwrap_or_default();
        let opened = match vault {
            None => None,
            Some(vault) => Some(Opened {
                attestor: Attestor::new(vault.document().nonce()?, checksums),
                key_source: vault.key_source(),
                vault: Mutex::new(vault),
            }),
        };
        Ok(Self {
            instance,
            memory_locked,
            opened,
            snapshot: Mutex::new(Arc::new(snapshot)),
            plan: Mutex::default(),
            open: Mutex::default(),
            counts: Mutex::default(),
            auth_failures: Mutex::default(),
            executor: Mutex::default(),
            spawner: Mutex::default(),
        })
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.snapshot))
    }

    /// The one connection of a role that has only one.
    pub(crate) fn place(&self, role: Role) -> Option<&Mutex<Option<Arc<Line>>>> {
        match role {
            Role::Executor => Some(&self.executor),
            Role::Spawner => Some(&self.spawner),
            Role::Admin | Role::OneShot => None,
        }
    }

    pub(crate) fn attestor(&self) -> Option<&Attestor> {
        self.opened.as_ref().map(|opened| &opened.attestor)
    }

    /// The document, while nobody changes it.
    ///
    /// # Errors
    /// There is no vault.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Document) -> R) -> Result<R, Refusal> {
        let opened = self.opened.as_ref().ok_or_else(absent)?;
        Ok(look(lock(&opened.vault).document()))
    }

    pub(crate) fn status(&self) -> Status {
        let principals = self.snapshot().principals();
        let seen = self.read(|document| (document.generation, document.recovery_recipients.clone()));
        let vault = if seen.is_ok() { VaultState::Open } else { VaultState::Absent };
        let (generation, recovery_recipients) = seen.unwrap_or_default();
        let key_source = self.opened.as_ref().map(|opened| opened.key_source).unwrap_or_default().to_owned();
        Status { vault, generation, memory_locked: self.memory_locked, key_source, recovery_recipients, principals }
    }

    /// Changes the vault; whatever comes of it, deliveries see what is in force afterwards.
    ///
    /// # Errors
    /// There is no vault, or the change is refused.
    pub(crate) fn change<R>(
        &self,
        fact: &Fact<'_>,
        work: impl FnOnce(&mut Document) -> Result<R, DocumentError>,
        detail: impl FnOnce(&R) -> String,
    ) -> Result<R, Refusal> {
        let opened = self.opened.as_ref().ok_or_else(absent)?;
        let mut vault = lock(&opened.vault);
        let outcome = vault.change(fact, now(), work, detail);
        *lock(&self.snapshot) = Arc::new(Snapshot::of(vault.document()));
        drop(vault);
        outcome.map_err(|error| {
            if !matches!(error, VaultError::Document(_)) {
                say(Level::Error, "vault change failed", &[("op", fact.op.into()), ("error", (&chain(&error)).into())]);
            }
            Refusal::from(&error)
        })
    }

    /// Journals something that changes nothing; without a vault there is no journal.
    ///
    /// # Errors
    /// Of the journal; the log has it already.
    pub(crate) fn record(&self, fact: &Fact<'_>) -> Result<(), JournalError> {
        let Some(opened) = &self.opened else { return Ok(()) };
        lock(&opened.vault).append(fact, now()).inspect_err(|error| {
            say(Level::Error, "audit journal failed", &[("op", fact.op.into()), ("error", (&chain(error)).into())]);
        })
    }

    /// Counts a delivery that held secrets.
    pub(crate) fn count_delivery(&self, principal: &str, job: &JobId) {
        let mut counts = lock(&self.counts);
        match counts.get_mut(principal) {
            Some(count) => {
                count.count += 1;
                count.last = job.clone();
            }
            None => {
                counts.insert(principal.to_owned(), Count { count: 1, first: job.clone(), last: job.clone() });
            }
        }
    }

    /// Journals the deliveries since the last time; what the journal does not take stays counted.
    pub(crate) fn flush_deliveries(&self) {
        let counts = std::mem::take(&mut *lock(&self.counts));
        for (principal, count) in counts {
            let detail = format!("count={} first={} last={}", count.count, count.first, count.last);
            let fact = Fact {
                op: "deliveries",
                principal: &principal,
                actor: "core",
                outcome: "ok",
                detail: &detail,
                ..Fact::default()
            };
            if self.record(&fact).is_err() {
                let mut counts = lock(&self.counts);
                let newer = counts.remove(&principal);
                let (more, last) = newer.map_or((0, count.last), |newer| (newer.count, newer.last));
                counts.insert(principal, Count { count: count.count + more, first: count.first, last });
            }
        }
    }

    /// A failed authentication: journalled at once, then at most every ten seconds with a count.
    pub(crate) fn auth_failed(&self, actor: &str) {
        let mut failures = lock(&self.auth_failures);
        failures.untold = failures.untold.saturating_add(1);
        let time = now();
        if failures.told.is_some_and(|told| time.millis_since(told) < AUTH_FAILURES_EVERY && time >= told) {
            return;
        }
        let detail = format!("count={}", failures.untold);
        let fact = Fact { op: "auth_failure", actor, outcome: "denied", detail: &detail, ..Fact::default() };
        if self.record(&fact).is_ok() {
            *failures = AuthFailures { told: Some(time), untold: 0 };
        }
    }

    /// Tells the executor who is registered now. A connection that does not take it is closed: the
    /// executor asks anew after it has come back.
    pub(crate) fn tell_principals(&self) {
        let Some(line) = lock(&self.executor).clone() else { return };
        let body = Reply::PrincipalsChanged { principals: self.snapshot().principals() };
        if line.send(&Envelope { call: 0, body }, &[]).is_err() {
            line.close();
        }
    }
}

fn absent() -> Refusal {
    Refusal::new(RefusalKind::VaultAbsent, "vault not available")
}
