//! A delivery: policy, attestation, and the one write into the pipe, before the child exists
//! (`spec/vault.md` 12, 17.3). Never blocks on the pipe, keeps no descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use shared::log::Level;
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Attestation, AttestationOutcome, Delivery};

use crate::admin::{file_refusal, two_files};
use crate::agent::{Agent, OPEN_MAX, lock};
use crate::attest::{Files, Verdict};
use crate::compose::Grantee;
use crate::journal::Fact;
use crate::log::say;
use crate::prepare::Sharing;

const PAGE: usize = 4096;
/// The start of a request that gets no secret.
const EMPTY: &[u8] = b"{";

/// Answers `Deliver`: how many secrets were written. A refusal is journalled and logged here.
///
/// # Errors
/// Whatever is wrong; nothing, or a pipe that must be discarded, was written then.
pub(crate) fn deliver(agent: &Agent, delivery: &Delivery, fds: Vec<OwnedFd>) -> Result<u32, Refusal> {
    let outcome = attempt(agent, delivery, fds);
    if let Err(refusal) = &outcome {
        tell(agent, delivery, refusal);
    }
    outcome
}

fn attempt(agent: &Agent, delivery: &Delivery, fds: Vec<OwnedFd>) -> Result<u32, Refusal> {
    let Ok([pipe, manifest, entrypoint]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Refusal::new(RefusalKind::Invalid, "three descriptors are needed: pipe, manifest and entrypoint"));
    };
    let asked = &delivery.attestation;
    let account = asked.account.map(|(uid, _)| uid);
    let snapshot = agent.snapshot();
    let Some(grantee) = snapshot.principal(&asked.principal) else {
        if asked.requires_vault {
            let text = "vault: plugin requires vault secrets but its principal is unknown/unregistered";
            return Err(Refusal::new(RefusalKind::VaultRequired, text));
        }
        write_start(&pipe, account, EMPTY)?;
        return Ok(0);
    };
    if !grantee.active {
        let text = format!("vault: principal is not active: {:?}", asked.principal);
        return Err(Refusal::new(RefusalKind::PrincipalInactive, text));
    }
    attest_or_refuse(agent, asked, &Files { manifest, entrypoint })?;
    let count = u32::try_from(grantee.secrets.len()).unwrap_or(u32::MAX);
    if let (Some(uid), true) = (account, count > 0) {
        match lock(&agent.plan).sharing(&asked.plugin, uid) {
            Sharing::Alone => {}
            Sharing::With(account, other) => {
                let text = format!("vault: plugin shares account {account} with {other}");
                return Err(Refusal::new(RefusalKind::SharedAccount, text));
            }
            Sharing::Unknown => {
                let text = "vault: no configuration is committed, so nobody knows who shares the account";
                return Err(Refusal::new(RefusalKind::Unavailable, text));
            }
        }
    }
    warn_of_withheld(asked, grantee);
    if count == 0 {
        write_start(&pipe, account, EMPTY)?;
        return Ok(0);
    }
    keep(agent, delivery.delivery_id, grantee)?;
    if let Err(refusal) = write_start(&pipe, account, &grantee.prefix) {
        lock(&agent.open).remove(&delivery.delivery_id);
        return Err(refusal);
    }
    agent.count_delivery(&asked.principal, &delivery.job_id);
    Ok(count)
}

/// Answers `Attest`.
///
/// # Errors
/// No vault, or files that are not hashed.
pub(crate) fn attest(agent: &Agent, asked: &Attestation, fds: Vec<OwnedFd>) -> Result<AttestationOutcome, Refusal> {
    let files = two_files(fds)?;
    let attestor = agent.attestor().ok_or_else(|| Refusal::new(RefusalKind::VaultAbsent, "vault not available"))?;
    let verdict = attestor.examine(asked, &files).map_err(|error| file_refusal(&asked.plugin, &error))?;
    Ok(match verdict {
        Verdict::Match => AttestationOutcome::Match,
        Verdict::Mismatch(text) => {
            say(Level::Warn, &text, &[("plugin", asked.plugin.as_str().into())]);
            AttestationOutcome::Mismatch
        }
        Verdict::Unrecorded(_) => AttestationOutcome::Unrecorded,
    })
}

fn attest_or_refuse(agent: &Agent, asked: &Attestation, files: &Files<OwnedFd, OwnedFd>) -> Result<(), Refusal> {
    let attestor = agent.attestor().expect("a principal is registered in a vault that is open");
    match attestor.examine(asked, files).map_err(|error| file_refusal(&asked.plugin, &error))? {
        Verdict::Match => Ok(()),
        Verdict::Mismatch(text) | Verdict::Unrecorded(text) => {
            Err(Refusal::new(RefusalKind::FingerprintMismatch, text))
        }
    }
}

fn keep(agent: &Agent, delivery_id: u64, grantee: &Arc<Grantee>) -> Result<(), Refusal> {
    let mut open = lock(&agent.open);
    if open.len() >= OPEN_MAX && !open.contains_key(&delivery_id) {
        let text = format!("vault: {OPEN_MAX} deliveries are open");
        return Err(Refusal::new(RefusalKind::TooManyDeliveries, text));
    }
    open.insert(delivery_id, Arc::clone(grantee));
    Ok(())
}

/// Checks the pipe and writes into it, once and whole.
fn write_start(pipe: &OwnedFd, account: Option<u32>, start: &[u8]) -> Result<(), Refusal> {
    check_pipe(pipe, account, start.len()).map_err(|what| Refusal::new(RefusalKind::Pipe, format!("stdin {what}")))?;
    let written = rustix::io::retry_on_intr(|| rustix::io::write(pipe, start));
    match written {
        Ok(n) if n == start.len() => Ok(()),
        Ok(_) => Err(Refusal::new(RefusalKind::Pipe, "stdin took only a part of the request's start")),
        Err(error) => Err(Refusal::new(RefusalKind::Pipe, format!("stdin did not take the request's start: {error}"))),
    }
}

fn check_pipe(pipe: &impl AsFd, account: Option<u32>, length: usize) -> Result<(), String> {
    let failed = |error: rustix::io::Errno| format!("can not be examined: {error}");
    let stat = rustix::fs::fstat(pipe).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err("is not a pipe".to_owned());
    }
    if account.is_some_and(|uid| uid != stat.st_uid) {
        return Err("does not belong to the plugin's account".to_owned());
    }
    let flags = rustix::fs::fcntl_getfl(pipe).map_err(failed)?;
    if flags & OFlags::RWMODE != OFlags::WRONLY {
        return Err("is not the write end of a pipe".to_owned());
    }
    if !flags.contains(OFlags::NONBLOCK) {
        return Err("is not set to O_NONBLOCK".to_owned());
    }
    if rustix::io::ioctl_fionread(pipe).map_err(failed)? != 0 {
        return Err("is not empty".to_owned());
    }
    let capacity = rustix::pipe::fcntl_getpipe_size(pipe).map_err(failed)?;
    if capacity < length.next_multiple_of(PAGE) {
        return Err(format!("holds {capacity} bytes, too few for the request's start"));
    }
    Ok(())
}

fn warn_of_withheld(asked: &Attestation, grantee: &Grantee) {
    for (secret, reason) in &grantee.withheld {
        let fields =
            [("plugin", asked.plugin.as_str().into()), ("secret", secret.into()), ("reason", (*reason).into())];
        say(Level::Warn, "secret withheld from plugin", &fields);
    }
}

/// A refused delivery in journal and log: a mismatch is a security event, the rest is quiet.
fn tell(agent: &Agent, delivery: &Delivery, refusal: &Refusal) {
    let plugin = delivery.attestation.plugin.as_str();
    let mut fields = vec![("plugin", plugin.into()), ("job_id", delivery.job_id.as_str().into())];
    let (op, outcome) = match refusal.kind {
        RefusalKind::FingerprintMismatch | RefusalKind::UnsafePath => {
            fields.push(("event", "plugin.fingerprint_mismatch".into()));
            say(Level::Error, &format!("SECURITY: {}", refusal.message), &fields);
            ("fingerprint_mismatch", "security_alert")
        }
        RefusalKind::VaultRequired | RefusalKind::PrincipalInactive | RefusalKind::SharedAccount => {
            say(Level::Warn, &refusal.message, &fields);
            ("compose_denial", "denied")
        }
        _ => return say(Level::Warn, &refusal.message, &fields),
    };
    let fact = Fact { op, principal: plugin, actor: "core", outcome, detail: &refusal.message, ..Fact::default() };
    // The delivery is refused whether or not the journal takes the line; the log has both.
    let _ = agent.record(&fact);
}

#[cfg(test)]
mod tests;
