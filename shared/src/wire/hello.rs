//! The first message of both ends on every line.
//!
//! Its layout never changes, so that programs of two versions can still refuse each other by name.

use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, RefusalKind};

/// Number of the protocols of this program; one for all lines, raised with any change to any.
pub const PROTOCOL: u32 = 2;

/// Sent by the connecting end first, then by the accepting end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub version: String,
    /// State path on the executor's two sockets, resolved vault path on the agent's admin socket,
    /// nothing on the inner lines; compared only where both ends know one.
    pub instance: Option<String>,
}

/// The accepting end's answer to a `Hello`; after `Refused` it closes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    Welcome(Hello),
    Refused(Refusal),
}

impl Hello {
    /// Of this program, for `instance` where the caller knows one.
    pub fn ours(instance: Option<String>) -> Self {
        Self { protocol: PROTOCOL, version: crate::VERSION.to_owned(), instance }
    }

    /// Compares this end's hello with the peer's.
    ///
    /// # Errors
    /// A refusal that names both sides of what differs.
    pub fn check(&self, peer: &Self) -> Result<(), Refusal> {
        if self.protocol != peer.protocol || self.version != peer.version {
            let text = format!(
                "peer is version {} (protocol {}), this is version {} (protocol {})",
                peer.version, peer.protocol, self.version, self.protocol
            );
            return Err(Refusal::new(RefusalKind::VersionMismatch, text));
        }
        match (&self.instance, &peer.instance) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(Refusal::new(
                RefusalKind::InstanceMismatch,
                format!("peer asks for the instance of {theirs}, this is the instance of {ours}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_peers_are_refused_by_name() {
        let ours = Hello::ours(Some("/a/ductile.db".to_owned()));
        assert!(ours.check(&Hello::ours(None)).is_ok());
        assert!(ours.check(&ours).is_ok());
        let other = Hello { version: "9.9.9".to_owned(), ..ours.clone() };
        let refusal = ours.check(&other).expect_err("another version");
        assert!(refusal.message.contains("9.9.9") && refusal.message.contains(crate::VERSION));
        let elsewhere = Hello::ours(Some("/b/ductile.db".to_owned()));
        let refusal = ours.check(&elsewhere).expect_err("another instance");
        assert!(refusal.message.contains("/a/ductile.db") && refusal.message.contains("/b/ductile.db"));
    }
}
