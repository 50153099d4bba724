//! Which step is next: each kind of call from its first on, until one comes too late.

use std::sync::Mutex;

pub(super) struct Steps(Mutex<Vec<Kind>>);

struct Kind {
    call: &'static str,
    next: u32,
    kills: u32,
    over: bool,
}

impl Steps {
    pub(super) fn new(calls: &[&'static str]) -> Self {
        Self(Mutex::new(calls.iter().map(|call| Kind { call, next: 1, kills: 0, over: false }).collect()))
    }

    /// A call and its number; each is given out once.
    pub(super) fn next(&self) -> Option<(&'static str, u32)> {
        // Far more than one job makes: a walk that comes here does not end by itself.
        const MOST: u32 = 400;
        let mut kinds = self.0.lock().expect("no lane panicked");
        let kind = kinds.iter_mut().find(|kind| !kind.over)?;
        assert!(kind.next < MOST, "the walk over {} does not end", kind.call);
        kind.next += 1;
        Some((kind.call, kind.next - 1))
    }

    /// Whether the executor died at that step; when not, the job's end came first.
    pub(super) fn told(&self, call: &str, died: bool) {
        let mut kinds = self.0.lock().expect("no lane panicked");
        let kind = kinds.iter_mut().find(|kind| kind.call == call).expect("given out by next");
        kind.kills += u32::from(died);
        kind.over |= !died;
    }

    pub(super) fn kills(&self) -> usize {
        self.0.lock().expect("no lane panicked").iter().map(|kind| kind.kills as usize).sum()
    }

    /// How many of each kind, for the report.
    pub(super) fn report(&self) -> String {
        let kinds = self.0.lock().expect("no lane panicked");
        kinds.iter().map(|kind| format!("{} {}", kind.call, kind.kills)).collect::<Vec<_>>().join(", ")
    }
}
