//! What happens between clone and exec, in order (`spec/plugins.md` 9.3). It runs in the spawner's
//! memory: nothing is allocated, no lock is taken, every call is a raw one. umask 0077 and
//! `RLIMIT_CORE=1` are the spawner's own since its start, and inherited. Descriptors are numbers
//! here: they are the child's own copies, while the spawner closes its own right after the clone.

use std::ffi::CString;
use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use shared::wire::spawner::Step;

use crate::sys::{self, Record, Strings};

/// The steps in their order; a failed one is told by its place here.
pub(crate) const STEPS: [Step; 14] = [
    Step::Group,
    Step::Cgroup,
    Step::Streams,
    Step::Descriptors,
    Step::Signals,
    Step::Limits,
    Step::Gid,
    Step::Uid,
    Step::Capabilities,
    Step::ParentDeath,
    Step::NoNewPrivs,
    Step::Landlock,
    Step::Directory,
    Step::Exec,
];

/// Everything that the child needs, made by its parent.
pub(crate) struct Plan {
    /// stdin, stdout and stderr.
    pub streams: [RawFd; 3],
    /// uid and gid to become.
    pub ids: Option<(u32, u32)>,
    /// `no_new_privs` besides what the spawner has, and a Landlock domain.
    pub confined: bool,
    pub landlock: Option<RawFd>,
    pub cwd: Option<CString>,
    pub program: Program,
    pub argv: Strings,
    pub envp: Strings,
}

/// What is exec'ed.
pub(crate) enum Program {
    /// The descriptor whose bytes the agent hashed.
    File(RawFd),
    /// A `#!` script: its interpreter opens it by path.
    Script(CString),
}

/// Becomes the plugin; leaves the step that failed, and returns, when it can not.
pub(crate) fn become_plugin(plan: &Plan, record: &Record) {
    let mut step = 0;
    let Err(errno) = steps(plan, &mut step);
    record.fail(step, errno);
}

/// `step` counts what succeeded, so it is the place of what failed.
fn steps(plan: &Plan, step: &mut u32) -> Result<std::convert::Infallible, Errno> {
    let mut done = |result: Result<(), Errno>| result.map(|()| *step += 1);
    done(rustix::process::setpgid(None, None))?;
    done(Ok(()))?; // No cgroup of its own: see `reap`.
    done(sys::place_streams(plan.streams))?;
    done(sys::close_on_exec_from_3())?;
    done(signals())?;
    done(Ok(()))?; // Limits are inherited.
    let (uid, gid) = plan.ids.map_or((None, None), |(uid, gid)| (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))));
    done(gid.map_or(Ok(()), |gid| rustix::thread::set_thread_res_gid(gid, gid, gid)))?;
    done(uid.map_or(Ok(()), |uid| rustix::thread::set_thread_res_uid(uid, uid, uid)))?;
    done(no_capabilities())?;
    done(rustix::process::set_parent_process_death_signal(Some(Signal::KILL)))?;
    done(if plan.confined { rustix::thread::set_no_new_privs(true) } else { Ok(()) })?;
    done(match plan.landlock {
        Some(ruleset) if plan.confined => sys::enter_landlock(ruleset),
        _ => Ok(()),
    })?;
    done(plan.cwd.as_deref().map_or(Ok(()), rustix::process::chdir))?;
    Err(match &plan.program {
        Program::File(file) => sys::exec_file(*file, &plan.argv, &plan.envp),
        Program::Script(path) => sys::exec_path(path, &plan.argv, &plan.envp),
    })
}

/// The spawner gave every other signal its default at its start; SIGPIPE it ignores itself.
fn signals() -> Result<(), Errno> {
    sys::default_signal(libc::SIGPIPE.unsigned_abs() as usize)?;
    sys::unblock_signals()
}

fn no_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
