//! The one-shot form behind `plugin lock`: a parent's line, one packet a message, and only
//! fingerprints to be had. The vault is only read, so no lock is taken.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use shared::wire::codec;
use shared::wire::frame::{Envelope, LINE_MAX};
use shared::wire::launch::{Start, Started};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Reply, Request, Status, VaultState};

use crate::admin;
use crate::args::Args;
use crate::attest::Attestor;
use crate::document::Document;
use crate::failure::Failure;
use crate::permit::{Role, permit};
use crate::resident::{receive_start, send};
use crate::sealed::Sealed;
use crate::verbs::resolve;

/// Serves stdin until it ends.
///
/// # Errors
/// Told on the line as `Failed` too, where there is one.
pub(crate) fn serve(args: &Args) -> Result<(), Failure> {
    if !args.has("line") {
        return Err(Failure::new("--line is required"));
    }
    let line = io::stdin();
    match receive_start(&line)? {
        None => return Ok(()),
        Some((Start::OneShot, fds)) if fds.is_empty() => {}
        Some(_) => return Err(Failure::new("the first message on the line does not start a one-shot agent")),
    }
    let (attestor, status) = match open(args) {
        Ok(opened) => opened,
        Err(failure) => {
            // The parent has the text in any case: by the line or by stderr.
            let _ = send(&line, &Started::Failed { text: failure.text.clone() });
            return Err(failure);
        }
    };
    send(&line, &Started::Ready)?;
    let mut packet = vec![0; LINE_MAX];
    loop {
        let mut fds = Vec::new();
        let length = shared::wire::fds::receive(line.as_fd(), &mut packet, &mut fds)?;
        if length == 0 {
            return Ok(());
        }
        let envelope = codec::decode::<Envelope<Request>, LINE_MAX>(&packet[..length])?;
        let (name, roles) = permit(&envelope.body);
        if !roles.contains(&Role::OneShot) {
            return Err(Failure::new(format!("request {name} is not permitted")));
        }
        let body = answer(&attestor, &status, envelope.body, fds).unwrap_or_else(Reply::Refused);
        let reply = codec::encode(&Envelope { call: envelope.call, body });
        shared::wire::fds::send(line.as_fd(), &reply, &[])?;
    }
}

fn open(args: &Args) -> Result<(Attestor, Status), Failure> {
    let (places, identity) = resolve(args)?;
    let key_source = identity.source.to_owned();
    let loaded = Sealed::new(places.vault.clone(), identity).load()?;
    let missing =
        || io::Error::other(format!("vault {:?} does not exist (run 'ductile vault init' first)", places.vault));
    let document: Document = loaded.ok_or_else(missing)?;
    let status = Status {
        vault: VaultState::Open,
        generation: document.generation,
        memory_locked: false,
        key_source,
        recovery_recipients: document.recovery_recipients.clone(),
        principals: document.principal_names(),
    };
    Ok((Attestor::new(document.nonce()?, places.checksums), status))
}

fn answer(attestor: &Attestor, status: &Status, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
    match request {
        Request::Status => Ok(Reply::Status(status.clone())),
        Request::Fingerprint { attestation, .. } => admin::fingerprint(attestor, &attestation, fds),
        _ => Err(Refusal::new(RefusalKind::Invalid, "not a request of this line")),
    }
}
