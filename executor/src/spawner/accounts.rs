//! `configure`: the accounts that children may run as, checked once.

use std::collections::BTreeSet;

use shared::id::AccountName;
use shared::wire::spawner::Account;

/// Checked accounts; the spawner drops to no other ids.
pub(crate) struct Accounts(Vec<Account>);

impl Accounts {
    /// # Errors
    /// Says which account can not be one: an id of 0, the spawner's or the executor's, or a uid or
    /// name that stands twice.
    pub(crate) fn check(accounts: Vec<Account>, own: (u32, u32), executor_uid: u32) -> Result<Self, String> {
        let mut uids = BTreeSet::new();
        let mut names = BTreeSet::new();
        for account in &accounts {
            let Account { name, uid, gid, .. } = account;
            if *uid == 0 || *gid == 0 {
                return Err(format!("accounts.{name}: uid and gid 0 are never dropped to"));
            }
            if *uid == own.0 || *gid == own.1 || *uid == executor_uid {
                return Err(format!("accounts.{name}: uid {uid} gid {gid} belongs to Ductile itself"));
            }
            if !uids.insert(*uid) || !names.insert(name) {
                return Err(format!("accounts.{name}: its uid {uid} or its name stands twice"));
            }
        }
        Ok(Self(accounts))
    }

    pub(crate) fn get(&self, name: &AccountName) -> Option<&Account> {
        self.0.iter().find(|account| account.name == *name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, uid: u32, gid: u32) -> Account {
        Account { name: AccountName::parse(name).expect("valid"), uid, gid, credentialed: false }
    }

    #[test]
    fn ids_of_root_of_ours_and_twice_the_same_are_refused() {
        let check = |accounts: Vec<Account>| Accounts::check(accounts, (900, 900), 901).is_ok();
        assert!(check(vec![account("default", 1001, 1001), account("sandbox", 1002, 1001)]));
        assert!(!check(vec![account("default", 0, 1001)]));
        assert!(!check(vec![account("default", 1001, 0)]));
        assert!(!check(vec![account("default", 900, 1001)]));
        assert!(!check(vec![account("default", 1001, 900)]));
        assert!(!check(vec![account("default", 901, 1001)]));
        assert!(!check(vec![account("a", 1001, 1001), account("b", 1001, 1002)]));
        assert!(!check(vec![account("a", 1001, 1001), account("a", 1002, 1002)]));
    }
}
