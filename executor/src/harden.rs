//! What the executor gives up after it has started its spawner: every capability, and by two
//! stacked filters the right to exec, to trace, to change its ids and to make a user namespace.
//! Applied before the first thread starts, so that it holds for all of them.

use std::collections::BTreeMap;
use std::fmt;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// A step that the kernel refused; the executor must not go on.
#[derive(Debug)]
pub enum HardenError {
    Capabilities(std::io::Error),
    NoNewPrivs(std::io::Error),
    Filter(String),
}

impl fmt::Display for HardenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(_) => f.write_str("give up capabilities"),
            Self::NoNewPrivs(_) => f.write_str("set no_new_privs"),
            Self::Filter(why) => write!(f, "install the system-call filter: {why}"),
        }
    }
}

impl std::error::Error for HardenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Capabilities(error) | Self::NoNewPrivs(error) => Some(error),
            Self::Filter(_) => None,
        }
    }
}

/// Gives all of it up, for good.
///
/// # Errors
/// As `HardenError`.
pub fn give_up() -> Result<(), HardenError> {
    let refused = |error: Errno| HardenError::Capabilities(error.into());
    rustix::thread::clear_ambient_capability_set().map_err(refused)?;
    if rustix::thread::capabilities(None).map_err(refused)?.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set().map_err(refused)?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(refused)?;
    rustix::thread::set_no_new_privs(true).map_err(|error| HardenError::NoNewPrivs(error.into()))?;
    for (rules, answer) in [(denied(), libc::EPERM), (unknown(), libc::ENOSYS)] {
        apply(rules, answer).map_err(HardenError::Filter)?;
    }
    Ok(())
}

/// Without it no exec of a program with file capabilities could bring one back.
fn empty_bounding_set() -> Result<(), Errno> {
    for bit in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is answered `EPERM`.
fn denied() -> Rules {
    let mut rules = Rules::new();
    let mut always = |calls: &[libc::c_long]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    always(&[libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv]);
    always(&[libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd, libc::SYS_setuid, libc::SYS_setgid]);
    always(&[libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid]);
    always(&[libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_setns]);
    let new_user = || {
        let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
            .expect("argument 0 exists");
        vec![SeccompRule::new(vec![condition]).expect("one condition")]
    };
    rules.insert(libc::SYS_unshare, new_user());
    rules.insert(libc::SYS_clone, new_user());
    rules
}

/// What is answered `ENOSYS`: a filter can not see the flags of `clone3`, and threads fall back to
/// `clone`.
fn unknown() -> Rules {
    Rules::from([(libc::SYS_clone3, Vec::new())])
}

fn apply(rules: Rules, answer: i32) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let action = SeccompAction::Errno(answer.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(|error| error.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}
