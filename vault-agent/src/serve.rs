//! One connection from `hello` to its end: read a frame, look into the table, answer, wipe.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use shared::log::{Level, chain};
use shared::wire::fds::Inbox;
use shared::wire::frame::{AGENT_MAX, Envelope, FrameError, HELLO_MAX};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Reply, Request};

use crate::agent::{Agent, lock};
use crate::journal::Fact;
use crate::line::Line;
use crate::log::say;
use crate::permit::{Role, permit};
use crate::rules::SecretChange;
use crate::{admin, deliver, prepare, scrub};

/// Why a connection is closed from this side.
#[derive(Debug)]
enum Closing {
    Frame(FrameError),
    Hello(Refusal),
    NotPermitted(&'static str),
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => f.write_str(&chain(error)),
            Self::Hello(refusal) => refusal.fmt(f),
            Self::NotPermitted(request) => write!(f, "request {request} is not permitted"),
        }
    }
}

impl From<FrameError> for Closing {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Serves a peer until it goes, or until it asks for something it may not have.
pub(crate) fn serve(agent: &Agent, line: &Arc<Line>) {
    if let Err(closing) = converse(agent, line) {
        line.tell("connection closed", &closing.to_string());
    }
    line.close();
    gone(agent, line);
}

/// The executor and the spawner have one connection each: this one takes the other's place.
pub(crate) fn take_place(agent: &Agent, line: &Arc<Line>) {
    let Some(old) = agent.place(line.role).and_then(|place| lock(place).replace(Arc::clone(line))) else { return };
    old.close();
    if line.role == Role::Executor {
        lock(&agent.open).clear();
    }
    let detail = format!("old pid={} new pid={}", old.pid, line.pid);
    let fact =
        Fact { op: "connection_replaced", actor: line.role.name(), outcome: "ok", detail: &detail, ..Fact::default() };
    // Whether or not it is journalled, the new connection is the one of the right uid.
    let _ = agent.record(&fact);
}

/// What goes with a connection, unless another has taken its place already.
fn gone(agent: &Agent, line: &Arc<Line>) {
    let Some(place) = agent.place(line.role) else { return };
    let mut place = lock(place);
    if place.as_ref().is_some_and(|held| Arc::ptr_eq(held, line)) {
        *place = None;
        if line.role == Role::Executor {
            lock(&agent.open).clear();
        }
    }
    drop(place);
    agent.flush_deliveries();
}

fn converse(agent: &Agent, line: &Line) -> Result<(), Closing> {
    let mut inbox = Inbox::default();
    let instance = (line.role == Role::Admin).then(|| agent.instance.clone());
    let ours = Hello::ours(instance);
    // The spawner greets when the first secret is asked of it.
    let patient = line.role != Role::Admin;
    let Some((hello, _)) = receive::<Hello, HELLO_MAX>(&mut inbox, line, patient)? else { return Ok(()) };
    if let Err(refusal) = ours.check(&hello) {
        line.send(&HelloReply::Refused(refusal.clone()), &[])?;
        return Err(Closing::Hello(refusal));
    }
    line.send(&HelloReply::Welcome(ours), &[])?;
    while let Some((envelope, fds)) = receive::<Envelope<Request>, AGENT_MAX>(&mut inbox, line, patient)? {
        let (name, roles) = permit(&envelope.body);
        if !roles.contains(&line.role) {
            return Err(Closing::NotPermitted(name));
        }
        let (body, descriptor) = match answer(agent, line, envelope.body, fds) {
            Ok(Some(answer)) => answer,
            Ok(None) => continue,
            Err(refusal) => (Reply::Refused(refusal), None),
        };
        let reply = Envelope { call: envelope.call, body };
        match line.send(&reply, descriptor.as_slice()) {
            Err(FrameError::TooLong { length, limit }) => {
                let text = format!("answer of {length} bytes is over the limit of {limit}");
                let body = Reply::Refused(Refusal::new(RefusalKind::TooLarge, text));
                line.send(&Envelope { call: envelope.call, body }, &[])?;
            }
            sent => sent?,
        }
    }
    Ok(())
}

/// The next frame; a patient peer may be silent between two of them for as long as it likes.
fn receive<T: DeserializeOwned, const LIMIT: usize>(
    inbox: &mut Inbox,
    line: &Line,
    patient: bool,
) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
    loop {
        match inbox.wait::<T, LIMIT>(line.as_fd()) {
            Err(FrameError::Io(error))
                if patient
                    && inbox.is_empty()
                    && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => return other,
        }
    }
}

type Answer = (Reply, Option<OwnedFd>);

/// What to send back; `None` for a request that has no answer.
fn answer(agent: &Agent, line: &Line, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Answer>, Refusal> {
    let authenticate = |token| admin::authenticate(agent, line, token);
    let reply = match request {
        Request::Status => Reply::Status(agent.status()),
        Request::Prepare { token_refs, plugins } => prepare::prepare(agent, &token_refs, plugins),
        Request::Commit => {
            lock(&agent.plan).commit();
            Reply::Done
        }
        Request::Discard => {
            lock(&agent.plan).discard();
            Reply::Done
        }
        Request::Deliver(delivery) => Reply::Delivered { secret_names_count: deliver::deliver(agent, &delivery, fds)? },
        Request::Attest(asked) => Reply::Attested(deliver::attest(agent, &asked, fds)?),
        Request::Scrub { delivery_id, text } => return scrub::scrub(agent, delivery_id, text, fds).map(Some),
        Request::CloseDelivery { delivery_id } => {
            lock(&agent.open).remove(&delivery_id);
            return Ok(None);
        }
        Request::TokenExposed => token_exposed(agent)?,
        Request::RegisterPrincipal { token, name, kind } => {
            authenticate(&token)?;
            admin::register_principal(agent, &name, &kind)?
        }
        Request::RevokePrincipal { token, name } => {
            authenticate(&token)?;
            admin::revoke_principal(agent, &name)?
        }
        Request::SetSecret { token, name, value, pattern, principals, scope } => {
            authenticate(&token)?;
            let value = admin::to_value(value.expose())?;
            let change = SecretChange {
                name: &name,
                value: &value,
                pattern: pattern.as_deref(),
                principals: principals.as_deref(),
                scope: scope.as_deref(),
            };
            admin::set_secret(agent, &change)?
        }
        Request::List { token } => {
            authenticate(&token)?;
            admin::list(agent)?
        }
        Request::Fingerprint { token, attestation } => {
            authenticate(&token)?;
            let attestor = agent.attestor().expect("the token was that of an open vault");
            admin::fingerprint(attestor, &attestation, fds)?
        }
    };
    Ok(Some((reply, None)))
}

fn token_exposed(agent: &Agent) -> Result<Reply, Refusal> {
    let fact = Fact {
        op: "auth_failure",
        secret: crate::document::ADMIN_TOKEN,
        actor: "api",
        outcome: "security_alert",
        detail: "exposed, rotate",
        ..Fact::default()
    };
    say(
        Level::Error,
        "SECURITY: the vault admin token was presented over HTTP; rotate it",
        &[("event", "vault.token_exposed".into())],
    );
    match agent.record(&fact) {
        Ok(()) => Ok(Reply::Done),
        Err(_) => Err(Refusal::new(RefusalKind::Storage, "vault: the audit journal could not be written")),
    }
}

#[cfg(test)]
mod tests;
