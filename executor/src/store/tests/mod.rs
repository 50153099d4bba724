//! The store against real databases on disk.

mod faults;
mod moves;
mod opening;
mod operators;
mod reading;
mod recovery;
mod schedules;
mod states;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::FromSql;
use shared::id::JobId;
use shared::time::Timestamp;
use shared::wire::gateway::JobStatus;

use super::open::{Store, WriteConnection, open};
use super::write::{Applied, Claim, Completion, NewJob, Next, RoutedJobs, Write};
use super::{StoreError, batch};

/// The answer to a completion without events.
pub(super) fn just_completed() -> Applied {
    Applied::Completed(RoutedJobs::default())
}

/// A database in a directory of its own, which goes with it.
pub(super) struct Home {
    directory: PathBuf,
    pub(super) store: Store,
    pub(super) connection: Option<WriteConnection>,
}

impl Home {
    pub(super) fn new(name: &str) -> Self {
        let directory = directory(name);
        let (store, connection) = open(&directory.join("data/ductile.db"), Path::new("c.yaml")).expect("opened");
        Self { directory, store, connection: Some(connection) }
    }

    pub(super) fn take_connection(&mut self) -> WriteConnection {
        self.connection.take().expect("not yet taken")
    }

    /// Another program's connection.
    pub(super) fn foreign(&self) -> Connection {
        Connection::open(self.store.path()).expect("opened")
    }

    pub(super) fn column<T: FromSql>(&self, sql: &str) -> Vec<T> {
        let foreign = self.foreign();
        let mut statement = foreign.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("values")
    }

    pub(super) fn count(&self, sql: &str) -> i64 {
        self.column(sql)[0]
    }

    /// One batch, as the writer thread would run it.
    pub(super) fn run(&self, writes: &[Write]) -> Vec<Result<Applied, StoreError>> {
        batch::run(self.connection.as_ref().expect("not taken"), writes)
    }

    /// One batch of one operation that is stored or dropped.
    pub(super) fn apply(&self, write: Write) -> Applied {
        self.run(&[write]).remove(0).expect("answered")
    }

    /// `from -> to` of every transition, in order.
    fn transitions(&self, job: &str) -> Vec<String> {
        self.column(&format!(
            "SELECT coalesce(from_status, '') || '>' || to_status FROM job_transitions WHERE job_id = '{job}' ORDER BY id"
        ))
    }

    fn attempts(&self, job: &str) -> Vec<i64> {
        self.column(&format!("SELECT attempt FROM job_attempts WHERE job_id = '{job}' ORDER BY id"))
    }

    fn status(&self, job: &str) -> String {
        self.column(&format!("SELECT status FROM job_queue WHERE id = '{job}'")).remove(0)
    }

    fn log(&self, job: &str) -> Vec<String> {
        self.column(&format!(
            "SELECT id || ' ' || status || ' ' || coalesce(last_error, '') FROM job_log WHERE job_id = '{job}' ORDER BY rowid"
        ))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A fresh directory; the name makes it the test's own.
fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("ductile-store-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("created");
    directory
}

pub(super) fn job_id(text: &str) -> JobId {
    JobId::parse(text).expect("an id")
}

/// Seconds after the beginning of the tests' time.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_nanos(1_780_000_000_000_000_000 + seconds * 1_000_000_000)
}

pub(super) fn new_job(id: &str) -> NewJob {
    NewJob {
        id: job_id(id),
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        payload: Some("{\"a\":1}".to_owned()),
        max_attempts: 4,
        submitted_by: "api".to_owned(),
        dedupe_key: None,
        created_at: at(0),
        parent_job_id: None,
        source_event_id: None,
        event_context_id: None,
        config_snapshot: Some("snapshot-1".to_owned()),
    }
}

fn claim(id: &str, attempt: u32) -> Claim {
    Claim { job_id: job_id(id), attempt, started_at: at(1), config_snapshot: Some("snapshot-2".to_owned()) }
}

fn completion(id: &str, attempt: u32, next: Next) -> Completion {
    Completion {
        claim: None,
        job_id: job_id(id),
        attempt,
        next,
        completed_at: at(2),
        log_status: match next {
            Next::Terminal { status } => status,
            Next::Retry { .. } | Next::Requeue => JobStatus::Failed,
        },
        last_error: None,
        result: Some("{\"status\":\"ok\"}".to_owned()),
        stderr: Some("a line\n".to_owned()),
        state: None,
        stopwatch: None,
        breaker: None,
        entry: None,
        routed: Vec::new(),
    }
}

fn ended(id: &str, attempt: u32, status: JobStatus) -> Completion {
    completion(id, attempt, Next::Terminal { status })
}

fn complete(completion: Completion) -> Write {
    Write::Complete(Box::new(completion))
}
