//! The machine's own clock on the wall, set by a test: it has no namespace, so that there is no
//! other way to see what a step does. Only tests that run alone may.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::command::command;
use crate::undo::Undo;

/// Sets the clock from the one that is never set, whatever becomes of the test: at the end of its
/// input, and after a minute and a half in any case.
const WATCHDOG: &str = "\
import select, sys, time
ahead = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
sys.stdout.write('r')
sys.stdout.flush()
select.select([sys.stdin], [], [], 90)
time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_MONOTONIC) + ahead)
";

/// Holds the clock; it is right again when this is dropped or the test is gone.
#[derive(Debug)]
pub struct Wall(#[expect(dead_code, reason = "its drop is its use")] Undo);

impl Wall {
    /// Needs root.
    ///
    /// # Panics
    /// When the watchdog can not be started.
    pub fn take() -> Self {
        let mut undo = Undo::waiting(command("python3").args(["-c", WATCHDOG]).stdout(Stdio::piped()));
        let mut ready = [0];
        undo.stdout().expect("piped").read_exact(&mut ready).expect("the watchdog is ready");
        Self(undo)
    }

    /// Since 1970, by the clock as it is set now.
    ///
    /// # Panics
    /// Before 1970.
    pub fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
    }

    /// Sets the clock.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn set(&self, since_1970: Duration) {
        let tv_sec = i64::try_from(since_1970.as_secs()).expect("not that far");
        let at = Timespec { tv_sec, tv_nsec: i64::from(since_1970.subsec_nanos()) };
        clock_settime(ClockId::Realtime, at).expect("set the clock: needs root");
    }
}
