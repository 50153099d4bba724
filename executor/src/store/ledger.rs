//! `job_transitions` and `job_attempts`: append-only, read by nothing within a batch, so that the
//! rows of a whole batch are written together at its end, in order.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::LazyLock;

use rusqlite::Connection;
use shared::wire::gateway::JobStatus;

use super::rows::ManyRows;
use crate::queue::job::check_move;

static TRANSITIONS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT OR ROLLBACK INTO job_transitions (job_id, from_status, to_status, reason, created_at)",
        "(?,?,?,?,?)",
    )
});

// An attempt is a fact: a second row of the same attempt says nothing new.
static ATTEMPTS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT OR IGNORE INTO job_attempts (job_id, attempt, created_at)", "(?,?,?)"));

/// One change of a job's status.
#[derive(Debug)]
pub(super) struct Transition<'a> {
    pub(super) job_id: Cow<'a, str>,
    pub(super) from: Option<JobStatus>,
    pub(super) to: JobStatus,
    pub(super) reason: Option<&'a str>,
    pub(super) at: Rc<str>,
}

#[derive(Debug)]
struct Attempt<'a> {
    job_id: &'a str,
    attempt: u32,
    at: Rc<str>,
}

/// The rows that the batch has made so far.
#[derive(Debug, Default)]
pub(super) struct Ledger<'a> {
    transitions: Vec<Transition<'a>>,
    attempts: Vec<Attempt<'a>>,
}

impl<'a> Ledger<'a> {
    /// A job went from one status to another; no row when they are equal.
    pub(super) fn transition(&mut self, transition: Transition<'a>) {
        if transition.from != Some(transition.to) {
            debug_assert_eq!(check_move(transition.from, transition.to), Ok(()));
            self.transitions.push(transition);
        }
    }

    /// An attempt began: its transition and its row.
    pub(super) fn began(&mut self, job_id: &'a str, attempt: u32, at: &Rc<str>) {
        self.transition(Transition {
            job_id: Cow::Borrowed(job_id),
            from: Some(JobStatus::Queued),
            to: JobStatus::Running,
            reason: None,
            at: Rc::clone(at),
        });
        self.attempts.push(Attempt { job_id, attempt, at: Rc::clone(at) });
    }

    pub(super) fn store(self, connection: &Connection) -> rusqlite::Result<()> {
        TRANSITIONS.insert(connection, &self.transitions, |row, binder| {
            binder.push(&*row.job_id)?;
            binder.push(row.from.map(JobStatus::as_str))?;
            binder.push(row.to.as_str())?;
            binder.push(row.reason)?;
            binder.push(&*row.at)
        })?;
        ATTEMPTS.insert(connection, &self.attempts, |row, binder| {
            binder.push(row.job_id)?;
            binder.push(row.attempt)?;
            binder.push(&*row.at)
        })
    }
}
