//! Ledgers that are not empty: filled by SQL before the instance starts.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tests::dice::setting;
use tests::instance::Instance;
use tests::scratch::Scratch;
use tests::site::Setup;

/// What stands in the ledger when an instance starts.
pub(crate) enum Ledger {
    Empty,
    /// So many finished jobs with all their rows; made once, and copied for each instance.
    Finished(Scratch, u64),
    /// So many jobs of the plugin `blocked` that wait behind one which runs.
    Queued(u64),
}

impl Ledger {
    /// `BENCH_FINISHED` in the place of a million.
    pub(crate) fn finished() -> Self {
        let (scratch, count) = (Scratch::new(), setting("BENCH_FINISHED", 1_000_000));
        finish(&open(&scratch.path().join("ductile.db")), count);
        Self::Finished(scratch, count)
    }

    /// `BENCH_QUEUED` in the place of a hundred thousand.
    pub(crate) fn queued() -> Self {
        Self::Queued(setting("BENCH_QUEUED", 100_000))
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Finished(_, count) => format!(", {count} finished"),
            Self::Queued(count) => format!(", {count} queued"),
        }
    }

    /// How many workers the ledger itself holds.
    pub(crate) fn held(&self) -> usize {
        usize::from(matches!(self, Self::Queued(_)))
    }

    /// Starts an instance on it.
    pub(crate) fn start(&self, setup: Setup) -> Instance {
        let prepared = setup.prepare();
        match self {
            Self::Empty => {}
            Self::Finished(scratch, _) => {
                std::fs::copy(scratch.path().join("ductile.db"), &prepared.database).expect("copy the ledger");
            }
            Self::Queued(count) => queue(&open(&prepared.database), *count),
        }
        prepared.start()
    }
}

fn open(path: &Path) -> Connection {
    let schema: PathBuf = tests::paths::sources().join("migrations/schema.sql");
    let ledger = Connection::open(path).expect("make a ledger");
    let schema = std::fs::read_to_string(schema).expect("read the schema");
    ledger.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -262144").expect("only for the filling");
    ledger.execute_batch(&schema).expect("the schema is good");
    ledger
}

/// Ids and times as the executor's own: both rise.
const ROWS: &str = "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :count), \
    job AS (SELECT printf('019c0000-%04x-7%03x-8000-%012x', n >> 12, n & 4095, n) AS id, \
    strftime('%Y-%m-%dT%H:%M:%S', 1700000000 + n, 'unixepoch') || '.000000000Z' AS at FROM counted)";

fn finish(ledger: &Connection, count: u64) {
    let result = format!(r#"{{"status":"ok","result":"{}"}}"#, "a".repeat(200));
    let queue = "INSERT INTO job_queue (id, plugin, command, payload, status, attempt, max_attempts, submitted_by, \
                 created_at, started_at, completed_at) \
                 SELECT id, 'bench', 'poll', '{\"text\":\"a\"}', 'succeeded', 1, 1, 'api', at, at, at FROM job";
    let moves = "INSERT INTO job_transitions (job_id, from_status, to_status, created_at) \
                 SELECT id, column1, column2, at FROM job, \
                 (VALUES (NULL, 'queued'), ('queued', 'running'), ('running', 'succeeded'))";
    let attempts = "INSERT INTO job_attempts (job_id, attempt, created_at) SELECT id, 1, at FROM job";
    let log = format!(
        "INSERT INTO job_log (id, job_id, plugin, command, status, result, attempt, submitted_by, created_at, \
         completed_at) SELECT id || '-1', id, 'bench', 'poll', 'succeeded', '{result}', 1, 'api', at, at FROM job"
    );
    fill(ledger, &[queue, moves, attempts, &log], count);
}

fn queue(ledger: &Connection, count: u64) {
    let queue = "INSERT INTO job_queue (id, plugin, command, payload, status, attempt, max_attempts, submitted_by, \
                 created_at) SELECT id, 'blocked', 'nap', '{\"text\":\"a\"}', 'queued', 1, 1, 'api', at FROM job";
    let moves = "INSERT INTO job_transitions (job_id, from_status, to_status, created_at) \
                 SELECT id, NULL, 'queued', at FROM job";
    fill(ledger, &[queue, moves], count);
}

fn fill(ledger: &Connection, inserts: &[&str], count: u64) {
    let count = i64::try_from(count).expect("a count");
    ledger.execute_batch("BEGIN").expect("begin");
    for insert in inserts {
        // The rows come before the SELECT, after the target.
        let at = insert.find(" SELECT ").expect("an insert from a select");
        let statement = format!("{} {ROWS}{}", &insert[..at], &insert[at..]);
        ledger.execute(&statement, rusqlite::named_params! { ":count": count }).expect("fill the ledger");
    }
    ledger.execute_batch("COMMIT; PRAGMA optimize").expect("commit");
}
