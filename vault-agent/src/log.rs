//! Log lines of this program: stdout in the service forms, stderr in the one-shot ones. Never a
//! value, never a key, never the bytes of a request.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use shared::log::{Level, Value, line};
use shared::time::Timestamp;

static TO_STDERR: AtomicBool = AtomicBool::new(true);

/// The service forms log to stdout from here on.
pub(crate) fn to_stdout() {
    TO_STDERR.store(false, Ordering::Relaxed);
}

/// The clock, which only the edges of this program read.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_system_time(SystemTime::now())
}

/// One record. A log that nobody takes is no reason to stop.
pub(crate) fn say(level: Level, msg: &str, fields: &[(&str, Value<'_>)]) {
    let text = line(now(), level, "vault-agent", msg, fields);
    let _ = if TO_STDERR.load(Ordering::Relaxed) {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
}
