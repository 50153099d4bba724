//! The clock on the wall: wakes at a time of day, through suspend and steps of the clock, which
//! timers that count from the start do not see (`spec/queue-and-scheduler.md` 7.1).

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use shared::time::{Millis, Timestamp};
use tokio::io::unix::AsyncFd;

use crate::logging::{log, now};

/// Further ahead than anything that is waited for: without an earlier time the timer still tells
/// of steps.
const FAR: i64 = 1 << 40;
/// A clock that is being slewed differs by less.
const STEP: i64 = 500_000_000;

/// Readings of two clocks that lie closer than this are of one moment.
const TOGETHER: Duration = Duration::from_millis(10);

/// Both clocks, read together: a process that was held up between the two is no step of the clock.
pub(super) fn read() -> (Instant, Timestamp) {
    loop {
        let (before, time, after) = (Instant::now(), now(), Instant::now());
        if after - before < TOGETHER {
            return (after, time);
        }
    }
}

/// One timer, armed with the earliest time that anybody waits for.
pub(super) struct WallClock {
    timer: AsyncFd<OwnedFd>,
    armed: Option<Option<Timestamp>>,
    /// One moment on both clocks.
    anchor: (Instant, Timestamp),
}

/// How the clock moved besides running on, in nanoseconds; below 0 it went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step(pub(super) i64);

impl WallClock {
    /// # Errors
    /// The kernel gives no timer.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor may not be called here, and what it asks for, a descriptor that stays open \
                      while it is registered, an OwnedFd keeps"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, armed: None, anchor: (Instant::now(), now()) })
    }

    /// Wakes `wait` at that time.
    pub(super) fn arm(&mut self, due: Option<Timestamp>) {
        if self.armed == Some(due) {
            return;
        }
        let nanos = due.map(Timestamp::unix_nanos);
        let at = nanos.map_or(Timespec { tv_sec: FAR, tv_nsec: 0 }, |nanos| Timespec {
            // All zeros would disarm it.
            tv_sec: nanos.div_euclid(1_000_000_000).max(1),
            tv_nsec: nanos.rem_euclid(1_000_000_000),
        });
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(self.timer.get_ref(), flags, &once) {
            // A step since it was last armed is told of here as well; `stepped` finds it.
            Ok(_) | Err(rustix::io::Errno::CANCELED) => self.armed = Some(due),
            Err(error) => {
                let text = error.to_string();
                log(shared::log::Level::Error, "timer can not be set", &[("error", (&text).into())]);
            }
        }
    }

    /// Until the armed time has come, or the clock was set.
    pub(super) async fn wait(&self) {
        if let Ok(mut ready) = self.timer.readable().await {
            let mut count = [0; 8];
            let _ = rustix::io::read(self.timer.get_ref(), &mut count);
            ready.clear_ready();
        }
    }

    /// How far the clock was set since this was last asked, if it was; and the next `arm` sets the
    /// timer anew, which once it has fired it needs.
    pub(super) fn stepped(&mut self, at: Instant, time: Timestamp) -> Option<Step> {
        let ran = Millis(u64::try_from(at.duration_since(self.anchor.0).as_millis()).unwrap_or(u64::MAX));
        let moved = time.unix_nanos().saturating_sub(self.anchor.1.plus(ran).unix_nanos());
        self.anchor = (at, time);
        (moved.abs() >= STEP).then_some(Step(moved))
    }

    /// The timer has fired or was cancelled.
    pub(super) fn fired(&mut self) {
        self.armed = None;
    }
}
