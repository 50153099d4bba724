//! Waiting: looks again every millisecond until a deadline.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(1);

/// What `look` finds, as soon as it finds something.
///
/// # Panics
/// After `deadline`, saying what was waited for.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Until `condition` holds.
///
/// # Panics
/// As `until`.
pub fn until_true(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    until(what, deadline, || condition().then_some(()));
}
