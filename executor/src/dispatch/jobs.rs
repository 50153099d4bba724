//! What an operator does to one job: run it again as a new one, or end it
//! (`spec/api.md` 6.1, `spec/queue-and-scheduler.md` 14.4).

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::id::{CommandName, JobId, PluginName};
use shared::log::Level;
use shared::time::Millis;
use shared::wire::gateway::{Job, JobStatus, Reply};
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::admit::{is_object, new_job_id};
use super::claim::Run;
use super::finish::Done;
use super::written::Pending;
use crate::ipc::Answer;
use crate::logging::{log, now};
use crate::plugin::supervise::Command;
use crate::queue::dedupe::Check;
use crate::queue::ready::Queued;
use crate::store::read::JobRow;
use crate::store::write::{Applied, Cancel, Completion, Printed, Urgency, Write};

/// What ended a job that its operator cancelled.
const CANCELLED: &str = "cancelled by operator";
/// Between TERM and KILL.
const CANCEL_GRACE: Millis = Millis::from_secs(5);

/// What a caller hears when that can not be stored.
const NOT_CANCELLED: &str = "failed to cancel job";

/// The end of a job on its way into the database.
pub(super) struct Cancelling {
    job_id: JobId,
    /// The job, when it waited for a worker.
    waiting: Option<Queued>,
    answer: Answer,
}

/// A request to run a finished job once more.
pub(super) struct Retry {
    pub(super) job_id: JobId,
    pub(super) payload: Option<String>,
    pub(super) may_write: bool,
    pub(super) may_read: bool,
}

impl Dispatcher {
    pub(super) fn get_job(&self, job_id: &JobId, answer: Answer) {
        match self.reader.job(job_id) {
            Ok(Some(row)) => {
                let mut job = shown(row);
                if let Some(run) = self.unwritten_run(job_id) {
                    run.show(&mut job);
                }
                answer.send(Reply::Job(job));
            }
            Ok(None) => answer.refuse(RefusalKind::JobUnknown, "job not found"),
            Err(error) => {
                log(Level::Error, "job read failed", &[("error", (&shared::log::chain(&error)).into())]);
                answer.refuse(RefusalKind::Internal, "failed to retrieve job");
            }
        }
    }

    /// The run of a job whose end is not in the database.
    fn unwritten_run(&self, job_id: &JobId) -> Option<&Run> {
        let ending = || {
            self.pending.values().find_map(|pending| match pending {
                Pending::Completion(done) => Some(&done.run).filter(|run| run.job.job_id == *job_id),
                _ => None,
            })
        };
        self.run_of(job_id).and_then(|run| self.runs.get(&run)).or_else(ending)
    }

    /// A new job that copies a finished one and names it as its parent.
    pub(super) fn retry_job(&mut self, retry: &Retry, answer: Answer) {
        if self.stopping.is_some() {
            return answer.refuse(RefusalKind::Unavailable, "the executor is stopping");
        }
        let old = match self.reader.job_source(&retry.job_id) {
            Ok(Some(old)) => old,
            Ok(None) => return answer.refuse(RefusalKind::JobUnknown, "job not found"),
            Err(error) => {
                log(Level::Error, "job read failed", &[("error", (&shared::log::chain(&error)).into())]);
                return answer.refuse(RefusalKind::Internal, "failed to retrieve job");
            }
        };
        let (Ok(plugin), Ok(command)) = (PluginName::parse(&old.plugin), CommandName::parse(&old.command)) else {
            return answer.refuse(RefusalKind::PluginUnknown, "plugin not found");
        };
        let known = match self.permitted(&plugin, &command, retry.may_read, retry.may_write) {
            Ok(known) => known,
            Err((kind, text)) => return answer.refuse(kind, text),
        };
        if !old.status.is_terminal() {
            return answer.refuse(RefusalKind::JobNotFinished, "job is not finished");
        }
        if retry.payload.as_deref().is_some_and(|text| !is_object(text)) {
            return answer.refuse(RefusalKind::PayloadNotObject, "payload must be a JSON object");
        }
        let payload = match &retry.payload {
            Some(new) if command.as_str() == "handle" => Some(with_payload(old.payload.as_deref(), new)),
            Some(new) => Some(new.clone()),
            None => old.payload,
        };
        let created_at = now();
        let check = Check::new(old.dedupe_key.as_deref(), Millis(0), created_at);
        let queued = Queued {
            job_id: new_job_id(created_at),
            plugin,
            command,
            payload,
            attempt: 1,
            max_attempts: known.conf.retry.max_attempts,
            submitted_by: "retry".to_owned(),
            dedupe_key: old.dedupe_key,
            created_at,
            parent_job_id: Some(retry.job_id.to_string()),
            event_context_id: old.event_context_id,
        };
        self.admit(queued, check, answer, Millis(0));
    }

    /// Ends a queued or running job as `dead`. Its claim always comes first in the writer.
    pub(super) fn cancel_job(&mut self, job_id: &JobId, answer: Answer) {
        if self.writer_failing.is_some() {
            return answer.refuse(RefusalKind::Storage, NOT_CANCELLED);
        }
        let waiting = self.begin_cancel(job_id);
        let cancel = Cancel { job_id: job_id.clone(), at: now(), reason: CANCELLED.to_owned() };
        let ticket = self.number();
        let cancelling = Cancelling { job_id: job_id.clone(), waiting, answer };
        self.pending.insert(ticket, Pending::Cancel(Box::new(cancelling)));
        self.writer.submit(ticket, Write::Cancel(cancel), Urgency::Now);
    }

    /// A job is about to be marked dead: where it waits it starts no more, and what it waited as is
    /// given back; where it runs, its claim goes first, and its end counts for nothing.
    pub(super) fn begin_cancel(&mut self, job_id: &JobId) -> Option<Queued> {
        if let Some(run) = self.run_of(job_id) {
            self.write_claim(run, Urgency::Now);
            self.runs.entry(run).and_modify(|run| run.is_cancelled = true);
        }
        self.ready.remove(job_id)
    }

    /// A job that `begin_cancel` was called for lives on.
    pub(super) fn abandon_cancel(&mut self, job_id: &JobId, waiting: Option<Queued>) {
        if let Some(run) = self.run_of(job_id) {
            self.runs.entry(run).and_modify(|run| run.is_cancelled = false);
        }
        if let Some(job) = waiting {
            self.make_ready_again(job);
        }
    }

    /// The job is dead, or it was not there to end.
    pub(super) fn cancelled(&mut self, cancelling: Cancelling, applied: &Applied) {
        let Cancelling { job_id, answer, .. } = cancelling;
        match applied {
            Applied::Cancelled => {
                answer.send(Reply::Cancelled { job_id: job_id.clone() });
                self.ended_from_outside(&job_id, CANCELLED);
            }
            Applied::Missing => answer.refuse(RefusalKind::JobUnknown, "job not found"),
            _ => answer.refuse(RefusalKind::JobFinished, "job is already finished"),
        }
    }

    pub(super) fn not_cancelled(&mut self, cancelling: Cancelling, kind: RefusalKind) {
        self.abandon_cancel(&cancelling.job_id, cancelling.waiting);
        cancelling.answer.refuse(kind, NOT_CANCELLED);
    }

    /// A job was marked dead in the database: nothing of it starts any more, and what runs is
    /// killed.
    pub(super) fn ended_from_outside(&mut self, job_id: &JobId, reason: &str) {
        log(Level::Info, "job cancelled", &[("job_id", job_id.as_str().into()), ("reason", reason.into())]);
        self.depth = self.depth.saturating_sub(1);
        // Until its completion comes a run is known; whatever waited is not any more.
        self.ready.remove(job_id);
        let run = self.run_of(job_id);
        match run {
            Some(run) => self.supervisor.send(Command::End { run, grace: CANCEL_GRACE }),
            None => self.backlog.forget(job_id),
        }
        match self.reader.job(job_id) {
            Ok(Some(row)) => {
                let error = row.last_error.clone().unwrap_or_default();
                self.publish_end(&row.plugin, job_id, JobStatus::Dead, None, Some(&error));
                self.schedule_job_ended(job_id, &row.submitted_by, row.dedupe_key.as_deref());
                self.wake_waiters(&shown(row));
            }
            Ok(None) => {}
            Err(error) => {
                log(Level::Error, "job read failed", &[("error", (&shared::log::chain(&error)).into())]);
                self.forget_outstanding(job_id);
            }
        }
        if let Some(run) = run {
            self.publish_poll_cancelled(run, reason);
        }
    }

    /// A completion came too late: somebody ended its job. What the process had printed still
    /// belongs into the job's log.
    pub(super) fn dropped(&mut self, done: Done, returned: Option<Write>) {
        if let Some(Write::Complete(completion)) = returned {
            let Completion { job_id, attempt, result, stderr, .. } = *completion;
            if result.is_some() || stderr.is_some() {
                let ticket = self.number();
                self.pending.insert(ticket, Pending::Note);
                let printed = Printed { job_id, attempt, result, stderr };
                self.writer.submit(ticket, Write::Printed(printed), Urgency::Lazy);
            }
        }
        self.not_completed(done);
    }

    pub(super) fn run_of(&self, job_id: &JobId) -> Option<u64> {
        self.runs.iter().find(|(_, run)| run.job.job_id == *job_id).map(|(number, _)| *number)
    }
}

/// A row as a caller may see it.
pub(super) fn shown(row: JobRow) -> Job {
    Job {
        job_id: row.job_id,
        status: row.status,
        plugin: row.plugin,
        command: row.command,
        attempt: row.attempt,
        result: row.result.map(json_text),
        last_error: row.last_error,
        started_at: row.started_at,
        completed_at: row.completed_at,
    }
}

/// What a plugin printed, as JSON text: as it stands, or, when it is none, as a JSON string.
pub(super) fn json_text(printed: String) -> String {
    if serde_json::from_str::<&serde_json::value::RawValue>(&printed).is_ok() {
        return printed;
    }
    let mut text = String::with_capacity(printed.len() + 2);
    shared::log::push_json_text(&mut text, &printed);
    text
}

/// The event of the old job with another payload; what was no event becomes one as from the API.
fn with_payload(old: Option<&str>, payload: &str) -> String {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow, rename = "type")]
        kind: &'a RawValue,
    }
    let kind = old.and_then(|old| serde_json::from_str::<Typed<'_>>(old).ok()).map(|typed| typed.kind.get());
    let kind = kind.filter(|kind| kind.starts_with('"')).unwrap_or("\"api.trigger\"");
    format!("{{\"type\":{kind},\"payload\":{payload}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_the_old_event_is_kept() {
        let check = |old: Option<&str>, expected: &str| assert_eq!(with_payload(old, "{\"a\":1}"), expected);
        check(Some("{\"type\":\"x.y\",\"payload\":{}}"), "{\"type\":\"x.y\",\"payload\":{\"a\":1}}");
        for none in [None, Some("{}"), Some("{\"type\":5}"), Some("no json")] {
            check(none, "{\"type\":\"api.trigger\",\"payload\":{\"a\":1}}");
        }
    }
}
