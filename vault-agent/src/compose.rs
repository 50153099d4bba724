//! What each principal receives, worked out once for each state of the document: a delivery only
//! looks it up. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use shared::log::push_json_text;
use zeroize::Zeroizing;

use crate::document::{ADMIN_TOKEN, Document, Kind, Scope, SecretRecord, Status, Value};
use crate::needles::Needles;

/// The longest start of a request: an empty default pipe of 64 KiB always takes it whole.
pub(crate) const PREFIX_MAX: usize = 60 * 1024;

/// The document as deliveries see it.
#[derive(Default)]
pub(crate) struct Snapshot {
    grantees: HashMap<String, Arc<Grantee>>,
}

/// One registered principal.
pub(crate) struct Grantee {
    pub(crate) active: bool,
    /// The whole start of its plugin's request.
    pub(crate) prefix: Zeroizing<Vec<u8>>,
    /// What it receives, by name.
    pub(crate) secrets: Vec<(String, Value)>,
    /// What it was granted and does not receive, with the reason, in name order.
    pub(crate) withheld: Vec<(String, &'static str)>,
    needles: OnceLock<Needles>,
}

impl Snapshot {
    pub(crate) fn of(document: &Document) -> Self {
        let mut granted: BTreeMap<&str, Vec<(&String, &SecretRecord)>> = BTreeMap::new();
        for (name, record) in &document.secrets {
            for principal in &record.authorized_principals {
                granted.entry(principal).or_default().push((name, record));
            }
        }
        let grantee = |name: &String| {
            let active = document.principals[name].status == Status::Active;
            let secrets = granted.remove(name.as_str()).unwrap_or_default();
            (name.clone(), Arc::new(Grantee::of(active, &secrets)))
        };
        Self { grantees: document.principals.keys().map(grantee).collect() }
    }

    pub(crate) fn principal(&self, name: &str) -> Option<&Arc<Grantee>> {
        self.grantees.get(name)
    }

    /// Names of all registered principals, sorted.
    pub(crate) fn principals(&self) -> Vec<String> {
        let mut names: Vec<String> = self.grantees.keys().cloned().collect();
        names.sort();
        names
    }
}

impl Grantee {
    fn of(active: bool, granted: &[(&String, &SecretRecord)]) -> Self {
        let mut secrets: Vec<(String, Value)> = Vec::new();
        let mut withheld = Vec::new();
        for (name, record) in granted {
            match withholding(name, record) {
                Some(reason) => withheld.push(((*name).clone(), reason)),
                None if secrets.last().is_some_and(|(last, _)| last == *name) => {}
                None => secrets.push(((*name).clone(), record.value.clone())),
            }
        }
        let prefix = Zeroizing::new(prefix(secrets.iter().map(|(name, value)| (name.as_str(), value))).into_bytes());
        Self { active, prefix, secrets, withheld, needles: OnceLock::new() }
    }

    /// What to look for in output; built at the first scrub.
    pub(crate) fn needles(&self) -> &Needles {
        self.needles.get_or_init(|| Needles::of(&self.secrets))
    }
}

/// Why a granted secret is not delivered.
fn withholding(name: &str, record: &SecretRecord) -> Option<&'static str> {
    if name == ADMIN_TOKEN {
        Some("principal_not_authorized")
    } else if record.status != Status::Active {
        Some("secret_revoked")
    } else if record.value.is_empty() {
        Some("secret_unminted")
    } else {
        None
    }
}

/// `{"secrets":{…},`, or `{` alone when there is none.
fn prefix<'a>(secrets: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let mut out = String::from("{");
    for (name, value) in secrets {
        out.push_str(if out.len() == 1 { "\"secrets\":{" } else { "," });
        push_json_text(&mut out, name);
        out.push(':');
        push_json_text(&mut out, value.expose());
    }
    if out.len() > 1 {
        out.push_str("},");
    }
    out
}

/// Bytes that `principal` would receive.
pub(crate) fn composed_length(document: &Document, principal: &str) -> usize {
    let granted = document.secrets.iter().filter(|(name, record)| {
        withholding(name, record).is_none() && record.authorized_principals.iter().any(|name| name == principal)
    });
    Zeroizing::new(prefix(granted.map(|(name, record)| (name.as_str(), &record.value)))).len()
}

/// Whether the gateway may use a secret (`spec/vault.md` 14.2); a value it may not even have yet.
pub(crate) fn gateway_visible<'a>(document: &'a Document, name: &str) -> Option<&'a Value> {
    let record = document.secrets.get(name)?;
    if name == ADMIN_TOKEN || record.status != Status::Active {
        return None;
    }
    let for_plugin = |name: &String| document.principals.get(name).is_some_and(|grantee| grantee.kind == Kind::Plugin);
    let visible = match &record.scope {
        Some(Scope::Gateway) => true,
        Some(Scope::Plugin) => false,
        _ => record.authorized_principals.is_empty() || !record.authorized_principals.iter().all(for_plugin),
    };
    visible.then_some(&record.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::new(Zeroizing::new(text.to_owned()))
    }

    fn vault() -> Document {
        let mut document = Document::genesis(value("n"), value("t"), "");
        document.register_principal("alpha", "plugin").expect("new");
        document.register_principal("other", "consumer").expect("new");
        document
    }

    fn put(document: &mut Document, name: &str, text: &str, status: Status, grants: &[&str]) {
        let grants = grants.iter().map(|&name| name.to_owned()).collect();
        let record =
            SecretRecord { value: value(text), status, authorized_principals: grants, ..SecretRecord::default() };
        document.secrets.insert(name.to_owned(), record);
    }

    #[test]
    fn a_principal_receives_what_it_was_granted_and_nothing_else() {
        let mut document = vault();
        put(&mut document, "b", "two \"2\"\n", Status::Active, &["alpha", "alpha"]);
        put(&mut document, "a", "one", Status::Active, &["alpha"]);
        put(&mut document, "gone", "", Status::Revoked, &["alpha"]);
        put(&mut document, "unminted", "", Status::Active, &["alpha"]);
        put(&mut document, "others", "three", Status::Active, &["other"]);
        document.secrets.get_mut(ADMIN_TOKEN).expect("there").authorized_principals = vec!["alpha".to_owned()];
        let snapshot = Snapshot::of(&document);
        let alpha = snapshot.principal("alpha").expect("registered");
        assert_eq!(&alpha.prefix[..], br#"{"secrets":{"a":"one","b":"two \"2\"\n"},"#);
        assert_eq!(alpha.prefix.len(), composed_length(&document, "alpha"));
        let withheld: Vec<_> = alpha.withheld.iter().map(|(name, reason)| (name.as_str(), *reason)).collect();
        assert_eq!(
            withheld,
            [
                ("core-admin-token", "principal_not_authorized"),
                ("gone", "secret_revoked"),
                ("unminted", "secret_unminted")
            ]
        );
        assert_eq!(&snapshot.principal("core").expect("registered").prefix[..], b"{");
        assert!(snapshot.principal("nobody").is_none());
        assert_eq!(snapshot.principals(), ["alpha", "core", "other"]);
    }

    #[test]
    fn the_gateway_sees_what_is_not_for_plugins_alone() {
        let mut document = vault();
        let mut check = |grants: &[&str], scope: Option<Scope>, visible: bool| {
            put(&mut document, "s", "v", Status::Active, grants);
            document.secrets.get_mut("s").expect("there").scope = scope.clone();
            assert_eq!(gateway_visible(&document, "s").is_some(), visible, "{grants:?} {scope:?}");
        };
        check(&[], None, true);
        check(&["alpha"], None, false);
        check(&["alpha", "other"], None, true);
        check(&["alpha", "nobody"], None, true);
        check(&["core"], None, true);
        check(&["alpha"], Some(Scope::Gateway), true);
        check(&[], Some(Scope::Plugin), false);
        put(&mut document, "s", "", Status::Revoked, &[]);
        assert!(gateway_visible(&document, "s").is_none());
        assert!(gateway_visible(&document, ADMIN_TOKEN).is_none());
        assert!(gateway_visible(&document, "absent").is_none());
    }
}
