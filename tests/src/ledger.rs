//! What the ledger must tell of every job, whatever happened (`spec/queue-and-scheduler.md` 2).

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::site::is_terminal;

/// From which status (`None`: the job did not exist) to which.
pub type Move = (Option<String>, String);

/// One job with its history.
#[derive(Debug, Default)]
pub struct Told {
    pub status: String,
    pub attempt: u32,
    pub max_attempts: u32,
    pub completed: bool,
    /// `(from, to)`, oldest first.
    pub moves: Vec<Move>,
    /// Attempts that began, in the order of their rows.
    pub attempts: Vec<u32>,
    /// Attempts that ended, with their statuses.
    pub logged: Vec<(u32, String)>,
}

/// Reads every job.
///
/// # Panics
/// When the ledger can not be read.
pub fn read(ledger: &Connection) -> BTreeMap<String, Told> {
    // One transaction: a run that ends meanwhile is seen whole or not at all.
    ledger.execute_batch("BEGIN").expect("begin to read");
    let mut jobs: BTreeMap<String, Told> = BTreeMap::new();
    each(ledger, "SELECT id, status, attempt, max_attempts, completed_at IS NOT NULL FROM job_queue", |row| {
        let job = jobs.entry(row.get(0)?).or_default();
        (job.status, job.attempt, job.max_attempts) = (row.get(1)?, row.get(2)?, row.get(3)?);
        job.completed = row.get(4)?;
        Ok(())
    });
    each(ledger, "SELECT job_id, from_status, to_status FROM job_transitions ORDER BY id", |row| {
        jobs.entry(row.get(0)?).or_default().moves.push((row.get(1)?, row.get(2)?));
        Ok(())
    });
    each(ledger, "SELECT job_id, attempt FROM job_attempts ORDER BY id", |row| {
        jobs.entry(row.get(0)?).or_default().attempts.push(row.get(1)?);
        Ok(())
    });
    each(ledger, "SELECT job_id, attempt, status, id FROM job_log ORDER BY rowid", |row| {
        let (job, attempt): (String, u32) = (row.get(0)?, row.get(1)?);
        assert_eq!(row.get::<_, String>(3)?, format!("{job}-{attempt}"));
        jobs.entry(job).or_default().logged.push((attempt, row.get(2)?));
        Ok(())
    });
    ledger.execute_batch("COMMIT").expect("end to read");
    jobs
}

fn each(ledger: &Connection, query: &str, mut row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>) {
    let mut statement = ledger.prepare(query).expect("a query of this schema");
    let mut rows = statement.query([]).expect("the ledger can be read");
    while let Some(found) = rows.next().expect("the ledger can be read") {
        row(found).expect("columns of this schema");
    }
}

/// Holds every job against the table of moves and its ledgers against each other.
///
/// # Panics
/// When a job's rows do not fit together, with all of them.
pub fn audit(jobs: &BTreeMap<String, Told>) {
    for (id, job) in jobs {
        if let Err(text) = fits(job) {
            panic!("job {id}: {text}\n{job:#?}");
        }
    }
}

fn fits(job: &Told) -> Result<(), String> {
    let holds = |condition: bool, text: &str| if condition { Ok(()) } else { Err(text.to_owned()) };
    holds(!job.status.is_empty(), "has history and no row")?;
    let mut at: Option<&str> = None;
    for (from, to) in &job.moves {
        holds(from.as_deref() == at, "a move does not begin where the one before ended")?;
        let legal = match (at, to.as_str()) {
            (None, to) => to == "queued",
            (Some("queued"), to) => matches!(to, "running" | "dead"),
            (Some("running"), to) => to == "queued" || is_terminal(to),
            _ => false,
        };
        holds(legal, &format!("the move from {at:?} to {to} is not in the table"))?;
        at = Some(to);
    }
    holds(at == Some(&job.status), "its newest move is not its status")?;
    holds(job.completed == is_terminal(&job.status), "completed_at does not go with its status")?;
    holds(job.attempt >= 1 && job.attempt <= job.max_attempts, "its attempt is out of range")?;

    holds(job.attempts.is_sorted_by(|a, b| a < b), "attempts do not rise")?;
    let count = |wanted: &dyn Fn(&Move) -> bool| job.moves.iter().filter(|one| wanted(one)).count();
    let begun = count(&|(_, to)| to == "running");
    holds(begun == job.attempts.len(), "not one attempt for each move to running")?;
    holds(job.attempts.last().is_none_or(|last| *last <= job.attempt), "an attempt beyond the job's own")?;
    if job.status != "queued" && begun > 0 {
        holds(job.attempts.last() == Some(&job.attempt), "its newest attempt is not its attempt")?;
    }

    let ended = count(&|(from, _)| from.as_deref() == Some("running"));
    // A cancel of a queued job writes a log row for the attempt that never began.
    let cancelled = count(&|(from, to)| from.as_deref() == Some("queued") && to == "dead");
    holds(job.logged.len() == ended + cancelled, "not one log row for each attempt that ended")?;
    let numbers: BTreeSet<u32> = job.logged.iter().map(|(attempt, _)| *attempt).collect();
    holds(numbers.len() == job.logged.len(), "two log rows of one attempt")?;
    if cancelled == 0 {
        holds(numbers.iter().all(|attempt| job.attempts.contains(attempt)), "a log row of no attempt")?;
    }
    holds(job.logged.iter().all(|(_, status)| is_terminal(status)), "a log row whose status is no end")
}

/// What `PRAGMA integrity_check` says; empty when all is well.
///
/// # Panics
/// When it can not be asked.
pub fn damage(ledger: &Connection) -> String {
    let mut statement = ledger.prepare("PRAGMA integrity_check").expect("a pragma");
    let lines = statement.query_map([], |row| row.get::<_, String>(0)).expect("the file can be read");
    let lines: Vec<String> = lines.map(|line| line.unwrap_or_else(|error| error.to_string())).collect();
    if lines == ["ok"] { String::new() } else { lines.join("\n") }
}
