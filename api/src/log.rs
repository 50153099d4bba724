//! The front's log: lines gathered for a few milliseconds and written to stdout at once.
//!
//! A request costs one line; written one by one they would cost a system call each. What is a
//! warning or worse is written before the caller goes on. No token, body or query string is ever
//! handed over.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use shared::log::{Level, Value, line};
use shared::time::Timestamp;
use tokio::sync::Notify;

const COMPONENT: &str = "api";
/// How long a line may wait for company.
const GATHER: Duration = Duration::from_millis(5);
/// So much is written at once, whatever the clock says.
const FULL: usize = 64 * 1024;

/// Where all of the front logs.
pub(crate) struct Log {
    level: AtomicU8,
    lines: Mutex<Vec<u8>>,
    gathered: Notify,
}

impl Log {
    /// Logs from `info` on until the executor has told the configured level.
    pub(crate) fn new() -> Self {
        Self { level: AtomicU8::new(Level::Info as u8), lines: Mutex::new(Vec::new()), gathered: Notify::new() }
    }

    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Whether a line of this level is written; asked before the line is composed.
    pub(crate) fn enabled(&self, level: Level) -> bool {
        level as u8 >= self.level.load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, level: Level, msg: &str, fields: &[(&str, Value<'_>)]) {
        if !self.enabled(level) {
            return;
        }
        let text = line(Timestamp::from_system_time(SystemTime::now()), level, COMPONENT, msg, fields);
        let mut lines = self.lines();
        let first = lines.is_empty();
        lines.extend_from_slice(text.as_bytes());
        if level >= Level::Warn || lines.len() >= FULL {
            flush(&mut lines);
        } else if first {
            self.gathered.notify_one();
        }
    }

    /// Writes what is gathered; called once more before the program ends.
    pub(crate) fn flush(&self) {
        flush(&mut self.lines());
    }

    /// Flushes behind `write`, for as long as the program runs.
    pub(crate) async fn drive(&self) -> Infallible {
        loop {
            self.gathered.notified().await;
            tokio::time::sleep(GATHER).await;
            self.flush();
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of stdout that is gone must not end the front, so a failed write loses its lines.
fn flush(lines: &mut Vec<u8>) {
    if !lines.is_empty() {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(lines).and_then(|()| stdout.flush());
        lines.clear();
    }
}
