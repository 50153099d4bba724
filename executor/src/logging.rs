//! Where the executor's log lines go: one buffer to stdout, filled by all threads, written by the
//! dispatcher's loop some milliseconds later, or at once when a line matters.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use shared::log::{self, Level, Value};
use shared::time::Timestamp;

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static BUFFER: Mutex<String> = Mutex::new(String::new());

/// A buffer larger than this is written before the turn ends.
const WRITE_AT: usize = 64 * 1024;

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::from_system_time(SystemTime::now())
}

/// Sets `service.log_level`.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether a line of this level is written; asked before fields are made.
pub fn enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}

/// Adds a line; warnings and errors are written at once.
pub fn log(level: Level, msg: &str, fields: &[(&str, Value<'_>)]) {
    if !enabled(level) {
        return;
    }
    let time = now();
    let mut buffer = BUFFER.lock().unwrap_or_else(PoisonError::into_inner);
    log::push_line(&mut buffer, time, level, "executor", msg, fields);
    if level >= Level::Warn || buffer.len() >= WRITE_AT {
        write_out(&mut buffer);
    }
}

/// Whether something waits to be written.
pub fn waits() -> bool {
    !BUFFER.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
}

/// Writes what waits.
pub fn flush() {
    write_out(&mut BUFFER.lock().unwrap_or_else(PoisonError::into_inner));
}

fn write_out(buffer: &mut String) {
    if !buffer.is_empty() {
        // A log that can not be written has nobody left to be told.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(buffer.as_bytes()).and_then(|()| stdout.flush());
        buffer.clear();
    }
}
