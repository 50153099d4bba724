//! The rules of `accounts:`: which identities a plugin may be dropped to. Never root, never a user
//! that Ductile itself runs as, never one twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use shared::id::AccountName;

use super::check::Problems;
use super::model::Account;
use super::raw;
use crate::yaml::quoted;

/// The users that Ductile's services run as.
const SERVICE_USERS: [&str; 4] = ["ductile-api", "ductile", "ductile-spawner", "ductile-vault"];
const HIGHEST_ID: i64 = 2_147_483_647;

/// A service's user as this machine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceUser {
    name: String,
    uid: u32,
    gid: u32,
}

/// Those service users that exist here; none on a machine without the package.
pub(super) fn service_users() -> Vec<ServiceUser> {
    fs::read("/etc/passwd").map(|text| users_in(&String::from_utf8_lossy(&text))).unwrap_or_default()
}

fn users_in(passwd: &str) -> Vec<ServiceUser> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        SERVICE_USERS.contains(&name).then(|| ServiceUser { name: name.to_owned(), uid, gid })
    };
    passwd.lines().filter_map(user).collect()
}

pub(super) fn check(
    written: BTreeMap<String, raw::Account>,
    service_users: &[ServiceUser],
    problems: &mut Problems,
) -> BTreeMap<AccountName, Account> {
    let mut accounts = BTreeMap::new();
    let mut uids: BTreeMap<u32, String> = BTreeMap::new();
    for (name, account) in written {
        let parsed = match AccountName::parse(&name) {
            Ok(parsed) => parsed,
            Err(error) => {
                problems.push(format!("accounts: {}: {error}", quoted(&name)));
                continue;
            }
        };
        let uid = id(&name, "uid", account.uid, problems);
        let gid = id(&name, "gid", account.gid, problems);
        for user in service_users {
            if uid == Some(user.uid) {
                problems.push(format!("accounts.{name}: uid {} belongs to the service user {}", user.uid, user.name));
            }
            if gid == Some(user.gid) {
                problems.push(format!("accounts.{name}: gid {} belongs to the service user {}", user.gid, user.name));
            }
        }
        let home = account.home.filter(|home| !home.is_empty());
        let state_dir = account.state_dir.filter(|dir| !dir.is_empty());
        if state_dir.is_none() && home.is_none() {
            problems.push(format!("accounts.{name}: state_dir must be an absolute path (got \"\")"));
        }
        let state_dir = state_dir.and_then(|dir| absolute(&name, "state_dir", &dir, problems));
        let home = home.and_then(|home| absolute(&name, "home", &home, problems));
        if name == "default" && home.is_some() {
            problems.push(
                "accounts.default: the shared fallback tier must not be credentialed (remove home and give it a state_dir)".into(),
            );
        }
        let (Some(uid), Some(gid)) = (uid, gid) else { continue };
        if let Some(first) = uids.insert(uid, name.clone()) {
            problems.push(format!("accounts.{first} and accounts.{name} share uid {uid}; each account needs its own"));
        }
        accounts.insert(parsed, Account { uid, gid, state_dir, home });
    }
    accounts
}

fn id(name: &str, kind: &str, written: Option<i64>, problems: &mut Problems) -> Option<u32> {
    let got = written.unwrap_or(0);
    if (1..=HIGHEST_ID).contains(&got) {
        return u32::try_from(got).ok();
    }
    problems.push(format!("accounts.{name}: {kind} must be a positive {kind} within range (got {got})"));
    None
}

/// An absolute path other than `/`, which as a home would be nobody's own.
fn absolute(name: &str, kind: &str, written: &str, problems: &mut Problems) -> Option<PathBuf> {
    if written.starts_with('/') && !written.trim_end_matches('/').is_empty() {
        return Some(PathBuf::from(written));
    }
    problems.push(format!("accounts.{name}: {kind} must be an absolute path (got {})", quoted(written)));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: i64, gid: i64, state_dir: &str, home: &str) -> raw::Account {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        raw::Account { uid: Some(uid), gid: Some(gid), state_dir: text(state_dir), home: text(home) }
    }

    fn complaints(accounts: Vec<(&str, raw::Account)>) -> Vec<String> {
        let users = users_in("root:x:0:0::/root:/bin/sh\nductile:x:990:991::/:/bin/false\nbroken\nductile-api:x:y:z\n");
        let mut problems = Problems::new();
        check(accounts.into_iter().map(|(name, account)| (name.to_owned(), account)).collect(), &users, &mut problems);
        problems
    }

    #[test]
    fn each_rule_has_its_text() {
        let check = |name: &str, written: raw::Account, expected: &[&str]| {
            assert_eq!(complaints(vec![(name, written)]), expected);
        };
        check("a", account(1, 1, "/s", ""), &[]);
        check("a", account(1, 1, "", "/home/op"), &[]);
        check("a", account(0, 5, "/s", ""), &["accounts.a: uid must be a positive uid within range (got 0)"]);
        check(
            "a",
            account(5, 2_147_483_648, "/s", ""),
            &["accounts.a: gid must be a positive gid within range (got 2147483648)"],
        );
        check("a", account(5, -1, "/s", ""), &["accounts.a: gid must be a positive gid within range (got -1)"]);
        check("a", account(5, 5, "", ""), &["accounts.a: state_dir must be an absolute path (got \"\")"]);
        check("a", account(5, 5, "s", "/h"), &["accounts.a: state_dir must be an absolute path (got \"s\")"]);
        check("a", account(5, 5, "", "/"), &["accounts.a: home must be an absolute path (got \"/\")"]);
        check(
            "default",
            account(5, 5, "", "/h"),
            &[
                "accounts.default: the shared fallback tier must not be credentialed (remove home and give it a state_dir)",
            ],
        );
        check("a", account(990, 5, "/s", ""), &["accounts.a: uid 990 belongs to the service user ductile"]);
        check("a", account(5, 991, "/s", ""), &["accounts.a: gid 991 belongs to the service user ductile"]);
        check("a/b", account(5, 5, "/s", ""), &["accounts: \"a/b\": not a valid account"]);
    }

    #[test]
    fn no_two_accounts_share_a_uid() {
        assert_eq!(
            complaints(vec![("b", account(5, 5, "/b", "")), ("a", account(5, 6, "/a", ""))]),
            ["accounts.a and accounts.b share uid 5; each account needs its own"]
        );
    }
}
