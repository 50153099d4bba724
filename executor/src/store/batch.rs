//! One batch: all its operations in one transaction, in order.

use std::collections::HashMap;

use rusqlite::Connection;
use shared::id::JobId;

use super::admission::{Admissions, find_duplicate, insert_of_event};
use super::completion::{Context, claim, complete};
use super::error::{StoreError, StoreErrorKind};
use super::ledger::Ledger;
use super::open::WriteConnection;
use super::time_text::TimeTexts;
use super::write::{Applied, Completion, NewJob, Next, Write};
use super::{backlog, breaker, cancel, retention, schedule, snapshot};
use crate::queue::job::{check_admission, check_completion};

/// Stores the batch and answers for each operation. When the database is at fault, nothing is
/// stored and every answer is that fault. When one operation is, each is stored by itself, so that
/// it holds up no other.
pub(super) fn run(connection: &WriteConnection, writes: &[Write]) -> Vec<Result<Applied, StoreError>> {
    let fault = match commit(connection, writes) {
        Ok(answers) => return answers,
        Err(fault) => fault,
    };
    if fault.kind() != StoreErrorKind::Refused || writes.len() == 1 {
        return vec![Err(fault); writes.len()];
    }
    let mut answers: Vec<Result<Applied, StoreError>> = Vec::with_capacity(writes.len());
    for write in writes {
        let answer = match commit(connection, std::slice::from_ref(write)) {
            Ok(mut answer) => answer.remove(0),
            Err(fault) => Err(fault),
        };
        let stop = answer.as_ref().err().filter(|e| e.kind() != StoreErrorKind::Refused).cloned();
        answers.push(answer);
        if let Some(fault) = stop {
            // A later completion must not overtake the claim that failed.
            answers.resize(writes.len(), Err(fault));
            break;
        }
    }
    answers
}

fn commit(connection: &WriteConnection, writes: &[Write]) -> Result<Vec<Result<Applied, StoreError>>, StoreError> {
    let answers = begin_apply_commit(connection, writes);
    if answers.is_err() {
        roll_back(&connection.connection);
    }
    answers.map_err(|e| StoreError::sqlite("write to the database", e))
}

/// Ends the transaction if it is still open, and forgets pages that may have been read damaged.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    let _ = connection.execute_batch("PRAGMA shrink_memory");
}

fn begin_apply_commit(write: &WriteConnection, writes: &[Write]) -> rusqlite::Result<Vec<Result<Applied, StoreError>>> {
    let connection = &write.connection;
    connection.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    let answers = apply(write, writes)?;
    connection.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(answers)
}

fn apply(write: &WriteConnection, writes: &[Write]) -> rusqlite::Result<Vec<Result<Applied, StoreError>>> {
    let mut context = Context {
        connection: &write.connection,
        stopwatch: write.stopwatch,
        times: TimeTexts::default(),
        ledger: Ledger::default(),
    };
    let mut admissions = Admissions::default();
    let mut answers = Vec::with_capacity(writes.len());
    let mut overtaken = Overtaken::of(writes);
    for write in writes {
        if let Err(refused) = check(write) {
            answers.push(Err(refused));
            continue;
        }
        if let Write::Admit(job) = write
            && job.source_event_id.is_none()
        {
            admissions.add(job, &mut context.times, &mut context.ledger);
            answers.push(Ok(Applied::Admitted));
            continue;
        }
        if overtaken.hold(write, answers.len()) {
            answers.push(Ok(Applied::Claimed));
            continue;
        }
        admissions.store(context.connection)?;
        let applied = apply_one(&mut context, write)?;
        if let Some(claim) = overtaken.settle(write, &applied) {
            answers[claim] = Ok(Applied::Stale);
        }
        answers.push(Ok(applied));
    }
    admissions.store(context.connection)?;
    context.ledger.store(context.connection)?;
    Ok(answers)
}

/// Claims that their own completions have caught up with while both waited: the claim rides with
/// the completion after all, which saves writing the row twice.
struct Overtaken<'a> {
    /// Each with the place of its answer, once it was held back.
    claims: HashMap<(&'a JobId, u32), Option<usize>>,
}

impl<'a> Overtaken<'a> {
    fn of(writes: &'a [Write]) -> Self {
        let mut claims = HashMap::new();
        // A job's claim comes before its cancel, so where something may be cancelled nothing is held.
        let may_cancel = |write: &Write| {
            matches!(write, Write::Cancel(_)) || matches!(write, Write::Schedule(s) if s.cancel.is_some())
        };
        if writes.iter().any(|write| matches!(write, Write::Claim(_))) && !writes.iter().any(may_cancel) {
            let riding = writes.iter().filter_map(|write| match write {
                Write::Complete(completion) => completion.claim.as_ref(),
                _ => None,
            });
            claims.extend(riding.map(|claim| ((&claim.job_id, claim.attempt), None)));
        }
        Self { claims }
    }

    /// Whether this is a claim whose completion follows in the same batch.
    fn hold(&mut self, write: &'a Write, answer: usize) -> bool {
        let Write::Claim(claim) = write else { return false };
        match self.claims.get_mut(&(&claim.job_id, claim.attempt)) {
            Some(place) => place.replace(answer).is_none(),
            None => false,
        }
    }

    /// The answer of a held claim whose completion was not taken, and so neither was the claim.
    fn settle(&mut self, write: &'a Write, applied: &Applied) -> Option<usize> {
        let Write::Complete(completion) = write else { return None };
        let claim = completion.claim.as_ref()?;
        let held = self.claims.remove(&(&claim.job_id, claim.attempt)).flatten();
        held.filter(|_| !matches!(applied, Applied::Completed(_)))
    }
}

fn apply_one<'a>(context: &mut Context<'_, 'a>, write: &'a Write) -> rusqlite::Result<Applied> {
    match write {
        Write::Admit(job) => admit(context, job),
        Write::AdmitUnique(job, check) => {
            if let Some(duplicate) = find_duplicate(context.connection, job, check, &mut context.times)? {
                return Ok(Applied::Duplicate(duplicate));
            }
            admit(context, job)
        }
        Write::Claim(taken) => claim(context, taken),
        Write::Complete(completion) => complete(context, completion),
        Write::Cancel(wanted) => cancel::cancel(context, wanted),
        Write::Printed(wanted) => {
            cancel::printed(context.connection, wanted)?;
            Ok(Applied::Saved)
        }
        Write::Schedule(wanted) => schedule::store(context, wanted),
        Write::Breaker(change) => {
            breaker::store(context.connection, change, &mut context.times)?;
            Ok(Applied::Saved)
        }
        Write::Prune(wanted) => retention::prune(context, wanted),
        Write::Reanchor(wanted) => {
            backlog::reanchor(context.connection, wanted)?;
            Ok(Applied::Saved)
        }
        Write::Snapshot(taken) => {
            snapshot::store(context.connection, taken)?;
            Ok(Applied::Saved)
        }
        Write::Probe => {
            probe(context.connection)?;
            Ok(Applied::Saved)
        }
    }
}

pub(super) fn admit<'a>(context: &mut Context<'_, 'a>, job: &'a NewJob) -> rusqlite::Result<Applied> {
    if job.source_event_id.is_some() {
        let inserted = insert_of_event(context.connection, job, &mut context.times, &mut context.ledger)?;
        return Ok(if inserted { Applied::Admitted } else { Applied::Conflict });
    }
    let mut alone = Admissions::default();
    alone.add(job, &mut context.times, &mut context.ledger);
    alone.store(context.connection)?;
    Ok(Applied::Admitted)
}

/// SQLite writes the file's first page for this, whether or not the number changes.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    connection.execute_batch(&format!("PRAGMA user_version = {version}"))
}

/// Refuses what the queue's rules do not allow, before the database is touched.
fn check(write: &Write) -> Result<(), StoreError> {
    let refused = |text: String| StoreError::plain(StoreErrorKind::Refused, text);
    match write {
        Write::Admit(job) | Write::AdmitUnique(job, _) => {
            check_admission(&job.plugin, &job.command, &job.submitted_by).map_err(|e| refused(e.to_string()))
        }
        Write::Complete(completion) => completion
            .routed
            .iter()
            .try_for_each(|routed| check_admission(&routed.job.plugin, &routed.job.command, &routed.job.submitted_by))
            .map_err(|e| refused(e.to_string()))
            .and_then(|()| check_end(completion).map_err(refused)),
        Write::Schedule(wanted) => wanted.jobs.iter().try_for_each(|(job, _)| {
            check_admission(&job.plugin, &job.command, &job.submitted_by).map_err(|e| refused(e.to_string()))
        }),
        Write::Claim(_)
        | Write::Snapshot(_)
        | Write::Cancel(_)
        | Write::Printed(_)
        | Write::Breaker(_)
        | Write::Prune(_)
        | Write::Reanchor(_)
        | Write::Probe => Ok(()),
    }
}

fn check_end(completion: &Completion) -> Result<(), String> {
    match completion.next {
        Next::Terminal { status } => check_completion(status).map_err(|e| e.to_string())?,
        Next::Retry { attempt, .. } if attempt <= completion.attempt => {
            return Err(format!("attempt {attempt} can not follow attempt {}", completion.attempt));
        }
        Next::Retry { .. } | Next::Requeue => {}
    }
    check_completion(completion.log_status).map_err(|e| e.to_string())?;
    match &completion.claim {
        Some(claim) if claim.job_id != completion.job_id || claim.attempt != completion.attempt => {
            Err("the claim is not of this attempt".to_owned())
        }
        _ => Ok(()),
    }
}
