//! Load and reload in two steps: what a configuration needs is worked out at `prepare` and is in
//! force after `commit`. Token values leave as keyed digests and in no other form.

use shared::id::PluginName;
use shared::log::Level;
use shared::wire::vault::{PreparedPlugin, Reply, TokenDigest};

use crate::agent::{Agent, lock};
use crate::compose::gateway_visible;
use crate::document::{Document, Value};
use crate::log::say;
use crate::random;

/// The plugins of the configuration in force, and of the one to come.
#[derive(Default)]
pub(crate) struct Plan {
    prepared: Option<Vec<PreparedPlugin>>,
    committed: Option<Vec<PreparedPlugin>>,
}

/// What the shared-account rule says of a plugin (`spec/vault.md` 12).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Alone,
    /// The account's name, and the other plugin.
    With(String, PluginName),
    /// No configuration is in force, so nobody knows.
    Unknown,
}

impl Plan {
    /// The prepared configuration is in force. Without one the last stays.
    pub(crate) fn commit(&mut self) {
        self.committed = self.prepared.take().or_else(|| self.committed.take());
    }

    pub(crate) fn discard(&mut self) {
        self.prepared = None;
    }

    /// Whether another enabled plugin runs as this uid.
    pub(crate) fn sharing(&self, plugin: &PluginName, uid: u32) -> Sharing {
        let Some(plugins) = &self.committed else { return Sharing::Unknown };
        if plugins.iter().any(|known| known.plugin == *plugin && known.shared_account) {
            return Sharing::Alone;
        }
        let others = plugins.iter().filter(|other| other.plugin != *plugin);
        for other in others {
            match &other.account {
                Some((name, theirs)) if *theirs == uid => return Sharing::With(name.clone(), other.plugin.clone()),
                _ => {}
            }
        }
        Sharing::Alone
    }
}

/// Answers `Prepare`.
pub(crate) fn prepare(agent: &Agent, token_refs: &[String], plugins: Vec<PreparedPlugin>) -> Reply {
    let token_key: [u8; 32] = random::bytes();
    let digest = |value: &Value| *blake3::keyed_hash(&token_key, value.expose().as_bytes()).as_bytes();
    let resolved = agent.read(|document| {
        warn_of_unregistered(document);
        let token = |name: &String| match gateway_visible(document, name) {
            None => TokenDigest::Missing,
            Some(value) if value.is_empty() => TokenDigest::Empty,
            Some(value) => TokenDigest::Digest(digest(value)),
        };
        (token_refs.iter().map(token).collect(), document.admin_token().map(&digest))
    });
    let (tokens, admin_token) = resolved.unwrap_or_else(|_absent| (vec![TokenDigest::Missing; token_refs.len()], None));
    lock(&agent.plan).prepared = Some(plugins);
    Reply::Prepared { principals: agent.snapshot().principals(), token_key, tokens, admin_token }
}

/// A secret granted to nobody who is registered stays visible to the gateway, and that is told.
fn warn_of_unregistered(document: &Document) {
    for (name, record) in &document.secrets {
        for principal in &record.authorized_principals {
            if !document.principals.contains_key(principal) && gateway_visible(document, name).is_some() {
                let fields = [("secret", name.into()), ("principal", principal.into())];
                say(Level::Warn, "secret granted to an unregistered principal is visible to the gateway", &fields);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, account: Option<(&str, u32)>, shared_account: bool) -> PreparedPlugin {
        PreparedPlugin {
            plugin: PluginName::parse(name).expect("valid"),
            principal: name.to_owned(),
            account: account.map(|(name, uid)| (name.to_owned(), uid)),
            shared_account,
        }
    }

    #[test]
    fn sharing_is_judged_by_uid_over_the_committed_plugins() {
        let name = |name: &str| PluginName::parse(name).expect("valid");
        let plugins = vec![
            plugin("a", Some(("workers", 1001)), false),
            plugin("b", Some(("workers-too", 1001)), true),
            plugin("c", Some(("own", 1002)), false),
            plugin("d", None, false),
        ];
        let mut plan = Plan { prepared: Some(plugins), committed: None };
        assert_eq!(plan.sharing(&name("a"), 1001), Sharing::Unknown, "prepared is not in force");
        plan.commit();
        assert_eq!(plan.sharing(&name("a"), 1001), Sharing::With("workers-too".to_owned(), name("b")));
        assert_eq!(plan.sharing(&name("b"), 1001), Sharing::Alone, "shared_account: true");
        assert_eq!(plan.sharing(&name("c"), 1002), Sharing::Alone);
        assert_eq!(plan.sharing(&name("unknown"), 1002), Sharing::With("own".to_owned(), name("c")));
        plan.prepared = Some(Vec::new());
        plan.discard();
        plan.commit();
        assert_eq!(plan.sharing(&name("c"), 1001), Sharing::With("workers".to_owned(), name("a")), "the last stays");
    }
}
