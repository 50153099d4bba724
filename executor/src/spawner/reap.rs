//! How runs end: deadline, TERM, KILL, the reaping of the leader and of everything that it left
//! behind. What leaves its group becomes a child of the spawner (it is a sub-reaper) as soon as its
//! own parent ends, and is found among the spawner's children.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use shared::time::Millis;
use shared::wire::spawner::Exit;

/// From TERM at the deadline to KILL.
const TERM_GRACE: Millis = Millis::from_secs(5);

/// A running leader and how far its ending has come.
pub(crate) struct Leader {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// When the next signal is due.
    due: Option<Instant>,
    stage: Stage,
    timed_out: bool,
}

enum Stage {
    Running,
    Terminated,
    Killed,
}

impl Leader {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd, deadline: Instant) -> Self {
        Self { pid, pidfd, due: Some(deadline), stage: Stage::Running, timed_out: false }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// Sends the signal that is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            match self.stage {
                // It has just ended, and keeps its result.
                Stage::Running if self.has_ended() => self.due = None,
                Stage::Running => {
                    self.timed_out = true;
                    self.terminate(TERM_GRACE, now);
                }
                Stage::Terminated | Stage::Killed => self.kill(),
            }
        }
    }

    /// TERM, and KILL after the grace; no grace kills at once.
    pub(crate) fn terminate(&mut self, grace: Millis, now: Instant) {
        if grace.0 == 0 {
            return self.kill();
        }
        self.signal(Signal::TERM);
        self.stage = Stage::Terminated;
        self.due = Some(now + grace.as_duration());
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.stage = Stage::Killed;
        self.due = None;
    }

    /// To the whole group; to the leader alone while it has not made its group yet.
    fn signal(&self, signal: Signal) {
        if rustix::process::kill_process_group(self.pid, signal).is_err() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// Kills what is left of the group while the leader's zombie still holds its number, then reaps
    /// the leader, whose pidfd is readable: it has ended, or is to be killed anyway.
    pub(crate) fn reap(&self) -> Option<Exit> {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options).ok()??;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }

    /// Whether it is a zombie that waits to be reaped.
    fn has_ended(&self) -> bool {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), peek), Ok(Some(_)))
    }
}

/// Children of the spawner that are no leaders: what runs left behind.
pub(crate) struct Orphans {
    /// The kernel's list of our children.
    children: File,
    /// Each with the runs that it can belong to.
    known: BTreeMap<i32, BTreeSet<u64>>,
    look_again: bool,
}

impl Orphans {
    /// # Errors
    /// The kernel shows no list of children.
    pub(crate) fn new() -> io::Result<Self> {
        let own = std::process::id();
        let children = File::open(format!("/proc/self/task/{own}/children"))?;
        Ok(Self { children, known: BTreeMap::new(), look_again: false })
    }

    /// Looks for children that are no leaders after `ended` has been reaped, and kills and reaps
    /// those that no run that still goes on can own. `leaders`: pid and run of those that go on.
    /// The number that were reaped.
    pub(crate) fn sweep(&mut self, ended: Option<(u64, Pid)>, leaders: &BTreeMap<i32, u64>) -> io::Result<u32> {
        let running: BTreeSet<u64> = leaders.values().copied().collect();
        let mut reaped = 0;
        for pid in self.list()? {
            let Some(child) = Pid::from_raw(pid).filter(|_| !leaders.contains_key(&pid)) else { continue };
            let owners = self.known.entry(pid).or_insert_with(|| owners(child, ended, leaders, &running));
            owners.retain(|run| running.contains(run));
            if owners.is_empty() {
                let _ = rustix::process::kill_process(child, Signal::KILL);
            }
            if !matches!(rustix::process::waitpid(Some(child), WaitOptions::NOHANG), Ok(None)) {
                self.known.remove(&pid);
                reaped += 1;
            }
        }
        // What one had below it is a child of ours only since it ended. Not looked for at once: one
        // that makes the next for ever would keep us here.
        self.look_again = reaped > 0;
        Ok(reaped)
    }

    /// Whether something that nobody owns is still dying, or may have left more.
    pub(crate) fn is_dying(&self) -> bool {
        self.look_again || self.known.values().any(BTreeSet::is_empty)
    }

    fn list(&self) -> io::Result<Vec<i32>> {
        let mut text = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let taken = self.children.read_at(&mut chunk, text.len() as u64)?;
            text.extend_from_slice(&chunk[..taken]);
            // A short read is the end of the list, but for a list that ends with the chunk.
            if taken < chunk.len() {
                let numbers = text.split(|byte| *byte == b' ');
                return Ok(numbers.filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).collect());
            }
        }
    }
}

/// One that kept its group's number belongs to that group's run; any other to one of those that
/// were there when it was first seen.
fn owners(
    child: Pid,
    ended: Option<(u64, Pid)>,
    leaders: &BTreeMap<i32, u64>,
    running: &BTreeSet<u64>,
) -> BTreeSet<u64> {
    let group = rustix::process::getpgid(Some(child)).ok();
    if ended.is_some_and(|(_, leader)| group == Some(leader)) {
        return BTreeSet::new();
    }
    match group.and_then(|group| leaders.get(&group.as_raw_nonzero().get())) {
        Some(run) => BTreeSet::from([*run]),
        None => running.clone(),
    }
}

/// How long between two looks at something that is dying.
pub(crate) const DYING: Duration = Duration::from_millis(1);

/// How long between two looks while runs go on, for what ended by itself in the meantime.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
