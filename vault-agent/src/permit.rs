//! The table role × request. What is not in it is logged, and the connection is closed.

use shared::wire::vault::Request;

/// Who a peer is: the socket it came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    Executor,
    Spawner,
    /// Whoever holds the key and runs this program.
    OneShot,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Executor => "executor",
            Self::Spawner => "spawner",
            Self::OneShot => "one-shot",
        }
    }
}

/// The request's name for the log, and who may make it.
pub(crate) fn permit(request: &Request) -> (&'static str, &'static [Role]) {
    use Role::{Admin, Executor, OneShot, Spawner};
    match request {
        Request::Status => ("status", &[Executor, OneShot]),
        Request::Prepare { .. } => ("prepare", &[Executor]),
        Request::Commit => ("commit", &[Executor]),
        Request::Discard => ("discard", &[Executor]),
        Request::Deliver(_) => ("deliver", &[Spawner]),
        Request::Attest(_) => ("attest", &[Executor]),
        Request::Scrub { .. } => ("scrub", &[Executor]),
        Request::CloseDelivery { .. } => ("close_delivery", &[Executor]),
        Request::TokenExposed => ("token_exposed", &[Executor]),
        Request::RegisterPrincipal { .. } => ("register_principal", &[Admin]),
        Request::RevokePrincipal { .. } => ("revoke_principal", &[Admin]),
        Request::SetSecret { .. } => ("set_secret", &[Admin]),
        Request::List { .. } => ("list", &[Admin]),
        Request::Fingerprint { .. } => ("fingerprint", &[Admin, OneShot]),
    }
}
