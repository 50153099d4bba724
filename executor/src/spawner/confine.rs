//! What the spawner gives up itself, and what it makes once for its children: its identity and
//! capabilities at the start, its filter when the accounts are known, the Landlock ruleset.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::accounts::Accounts;
use crate::sys;

/// What a spawner that drops its children keeps.
fn kept() -> CapabilitySet {
    CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL
}

/// Default dispositions for all signals but SIGPIPE, which is answered by an error instead;
/// children inherit them. The spawner itself hears none.
pub(crate) fn default_signals() {
    let ignored = libc::SIGPIPE.unsigned_abs() as usize;
    for signal in (1..=64).filter(|signal| *signal != ignored) {
        // KILL and STOP have no disposition to set.
        let _ = sys::default_signal(signal);
    }
    // A stop is the executor's affair: the spawner ends when its line does, after its runs.
    let _ = sys::block_signals();
}

/// Moves to the spawner's own user where there is one, with no supplementary group and no more than
/// the three capabilities; there and elsewhere ambient and inheritable sets are emptied.
///
/// # Errors
/// The step that the kernel refused; the spawner must not go on.
pub(crate) fn settle(move_to: Option<(u32, u32)>) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let mut keep = rustix::thread::capabilities(None)?.permitted;
    if let Some((uid, gid)) = move_to {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        keep &= kept();
        set(keep | CapabilitySet::SETPCAP)?;
        empty_bounding_set()?;
        rustix::thread::set_no_new_privs(true)?;
    }
    set(keep)?;
    // A change of ids makes a process dumpable as the system's setting has it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn set(capabilities: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn empty_bounding_set() -> io::Result<()> {
    for bit in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether children can be dropped to other ids, and then still be ended.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn can_drop() -> io::Result<bool> {
    let effective = rustix::thread::capabilities(None)?.effective;
    Ok(effective.contains(kept()))
}

/// Shuts the filter: ids change to those of the accounts only, groups and user namespaces not at
/// all. Children inherit it; it can not be widened.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn shut_filter(accounts: &Accounts, executor_uid: u32) -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    let own_uid = rustix::process::getuid().as_raw();
    let own_gid = rustix::process::getgid().as_raw();
    let uids: Vec<u32> = accounts.iter().map(|account| account.uid).chain([own_uid]).collect();
    let gids: Vec<u32> = accounts.iter().map(|account| account.gid).chain([own_gid]).collect();
    let fsuids: Vec<u32> = uids.iter().copied().chain([executor_uid]).collect();
    let mut refused: Rules = [
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setgroups,
        libc::SYS_setns,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    refused.insert(libc::SYS_setresuid, (0..3).map(|argument| none_of(argument, &uids)).collect());
    refused.insert(libc::SYS_setresgid, (0..3).map(|argument| none_of(argument, &gids)).collect());
    refused.insert(libc::SYS_setfsuid, vec![none_of(0, &fsuids)]);
    refused.insert(libc::SYS_setfsgid, vec![none_of(0, &gids)]);
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let new_user = || vec![rule(vec![condition(0, SeccompCmpOp::MaskedEq(flag), flag)])];
    refused.insert(libc::SYS_unshare, new_user());
    refused.insert(libc::SYS_clone, new_user());
    apply(refused, libc::EPERM)?;
    // A filter can not see the flags of clone3: without it the C library falls back to clone.
    apply(Rules::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Matches when the argument is none of these ids.
fn none_of(argument: u8, ids: &[u32]) -> SeccompRule {
    rule(ids.iter().map(|id| condition(argument, SeccompCmpOp::Ne, u64::from(*id))).collect())
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).expect("no call has so many arguments")
}

fn rule(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("there is at least one condition")
}

fn apply(rules: Rules, answer: i32) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let action = SeccompAction::Errno(answer.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(|error| error.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

/// A ruleset whose domain leaves files as they are and shuts memory, environment, descriptors and
/// ptrace of everything outside, and signals where the kernel knows that; `None` where it knows no
/// Landlock of this form.
pub(crate) fn landlock_ruleset() -> Option<OwnedFd> {
    let refer = AccessFs::Refer;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(refer)
        .ok()?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::Signal)
        .ok()?
        .create()
        .ok()?
        .add_rule(PathBeneath::new(PathFd::new("/").ok()?, refer))
        .ok()?;
    ruleset.into()
}
