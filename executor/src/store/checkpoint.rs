//! When the write-ahead log is copied back into the database: never between a commit and its
//! answers, which is where SQLite does it by itself. It takes milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB};

/// From so many pages on, SQLite's own number, it is done in the next pause.
const SOON: u32 = 1000;
/// With so many, 16 MiB, it waits for no pause.
const AT_ONCE: u32 = 4 * SOON;
/// So long nothing is to be written.
const PAUSE: Duration = Duration::from_millis(50);

/// The size of the log, as the last commit left it.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pages: Arc<AtomicU32>,
}

impl Checkpoints {
    /// Takes the checkpoints of a connection over.
    ///
    /// # Errors
    /// The library's own.
    pub(super) fn take_over(connection: &mut Connection) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&pages);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: i32| {
            seen.store(count.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { pages })
    }

    /// How long nothing may be written before it is time; `None` while there is little to do.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.pages.load(Ordering::Relaxed) {
            ..SOON => None,
            SOON..AT_ONCE => Some(PAUSE),
            AT_ONCE.. => Some(Duration::ZERO),
        }
    }

    /// Copies what no reader holds up. What fails, or remains, is left for the next commit to ask for.
    pub(super) fn run(&self, connection: &Connection) {
        self.pages.store(0, Ordering::Relaxed);
        let _ = connection.wal_checkpoint_v2(Some(MAIN_DB), rusqlite::wal::CheckpointMode::PASSIVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Home, new_job};
    use crate::store::write::{Urgency, Write};
    use crate::store::writer::Writer;

    use std::sync::mpsc;
    use std::time::Instant;

    /// The size of the log in one commit; the database's file before the answer, and in the end.
    fn answered_and_settled(name: &str, log: usize) -> (u64, u64) {
        let mut home = Home::new(name);
        let path = home.store.path().to_owned();
        let size = move || std::fs::metadata(&path).expect("the database").len();
        let (sender, answers) = mpsc::channel();
        let seen = size.clone();
        let writer = Writer::start(home.take_connection(), move |_| {
            let _ = sender.send(seen());
        });
        let writer = writer.expect("a thread");
        let mut job = new_job("job");
        job.payload = Some("a".repeat(log));
        writer.submit(1, Write::Admit(job), Urgency::Now);
        writer.wake();
        let answered = answers.recv_timeout(Duration::from_secs(20)).expect("a commit in time");
        let deadline = Instant::now() + Duration::from_secs(20);
        while size() < log as u64 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        (answered, size())
    }

    #[test]
    fn a_log_of_some_size_goes_into_the_database_after_the_answer() {
        for (name, log) in [("checkpoint-pause", 5 << 20), ("checkpoint-at-once", 17 << 20)] {
            let (answered, settled) = answered_and_settled(name, log);
            assert!(answered < 1 << 20 && settled > log as u64, "{name}: {answered} {settled}");
        }
    }

    #[test]
    fn a_small_log_is_left_a_large_one_waits_for_nothing() {
        let checkpoints = Checkpoints::default();
        let due = |pages| {
            checkpoints.pages.store(pages, Ordering::Relaxed);
            checkpoints.due()
        };
        assert_eq!((due(0), due(SOON - 1)), (None, None));
        assert_eq!((due(SOON), due(AT_ONCE - 1)), (Some(PAUSE), Some(PAUSE)));
        assert_eq!((due(AT_ONCE), due(u32::MAX)), (Some(Duration::ZERO), Some(Duration::ZERO)));
    }
}
