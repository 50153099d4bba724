//! The boot gate of privilege separation (`spec/operations.md` 11.2): whether plugins are dropped
//! to their accounts, run as they are, or nothing starts. Pure.

use std::fmt;

/// What the gate is decided by.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// CAP_SETUID and CAP_SETGID, before the executor gave them up to its spawner.
    pub can_drop: bool,
    /// CAP_KILL, or a delegated cgroup.
    pub can_kill: bool,
    pub has_accounts: bool,
    pub has_default: bool,
    /// `service.unconfined`.
    pub unconfined: bool,
}

/// How plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforcing,
    Unconfined,
}

/// Why nothing starts; the texts are interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    UnconfinedWithCapability,
    NoAccounts,
    NoDefault,
    NoKill,
    NoCapability,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("privsep boot gate: ")?;
        f.write_str(match self {
            Self::UnconfinedWithCapability => {
                "service.unconfined is set but the uid-drop capability is held; run without the capability"
            }
            Self::NoAccounts => "gateway holds the uid-drop capability but no accounts are configured",
            Self::NoDefault => "gateway holds the uid-drop capability but accounts has no 'default'",
            Self::NoKill => "dropped plugins could not be killed: CAP_KILL or Delegate=yes is needed",
            Self::NoCapability => {
                "accounts are configured but the uid-drop capability is not held; \
                 start the unit set, or set service.unconfined"
            }
        })
    }
}

impl std::error::Error for Gate {}

/// The decision.
///
/// # Errors
/// The refusal that the table asks for.
pub fn decide(situation: Situation) -> Result<Mode, Gate> {
    let Situation { can_drop, can_kill, has_accounts, has_default, unconfined } = situation;
    match (can_drop, has_accounts) {
        (true, _) if unconfined => Err(Gate::UnconfinedWithCapability),
        (true, false) => Err(Gate::NoAccounts),
        (true, true) if !has_default => Err(Gate::NoDefault),
        (true, true) if !can_kill => Err(Gate::NoKill),
        (true, true) => Ok(Mode::Enforcing),
        (false, true) if !unconfined => Err(Gate::NoCapability),
        (false, _) => Ok(Mode::Unconfined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_chapter() {
        let whole =
            Situation { can_drop: true, can_kill: true, has_accounts: true, has_default: true, unconfined: false };
        let check = |situation, expected| assert_eq!(decide(situation), expected, "{situation:?}");
        check(whole, Ok(Mode::Enforcing));
        check(Situation { unconfined: true, ..whole }, Err(Gate::UnconfinedWithCapability));
        check(Situation { has_accounts: false, has_default: false, ..whole }, Err(Gate::NoAccounts));
        check(Situation { has_default: false, ..whole }, Err(Gate::NoDefault));
        check(Situation { can_kill: false, ..whole }, Err(Gate::NoKill));
        let without = Situation { can_drop: false, ..whole };
        check(without, Err(Gate::NoCapability));
        check(Situation { unconfined: true, ..without }, Ok(Mode::Unconfined));
        check(Situation { has_accounts: false, has_default: false, ..without }, Ok(Mode::Unconfined));
    }
}
