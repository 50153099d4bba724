//! Admission: what may become a job, the answer after its commit, and who waits for its result.

use std::time::Instant;

use serde_json::value::RawValue;
use shared::id::{CommandName, JobId, PluginName};
use shared::log::Level;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::{Job, Reply};
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::claim::Standing;
use super::written::Pending;
use crate::ipc::{Answer, Role};
use crate::logging::{enabled, log, now};
use crate::plugin::catalog::Plugin;
use crate::queue::dedupe::{Check, Duplicate};
use crate::queue::ready::Queued;
use crate::store::new_id;
use crate::store::write::{NewJob, Urgency, Write};

/// A request for one job.
pub(super) struct Trigger {
    pub(super) role: Role,
    pub(super) plugin: PluginName,
    pub(super) command: CommandName,
    pub(super) payload: Option<String>,
    pub(super) may_write: bool,
    pub(super) wait: Millis,
}

/// A job on its way into the database, and who is to hear of it.
pub(super) struct Admission {
    /// Without its payload when it runs already.
    queued: Queued,
    answer: Answer,
    wait: Millis,
    run: Option<u64>,
    /// Why its run could not begin.
    preflight_error: Option<String>,
}

/// What a caller hears when its job could not be stored.
pub(super) const NOT_ENQUEUED: &str = "failed to enqueue job";

/// A caller that wants the result of a job, until then.
pub(super) struct Waiter {
    pub(super) answer: Answer,
    pub(super) until: Instant,
}

impl Dispatcher {
    /// `spec/api.md` 5.1, in its order. The `202` goes out after the commit.
    pub(super) fn trigger(&mut self, trigger: Trigger, answer: Answer) {
        let Trigger { role, plugin, command, payload, may_write, wait } = trigger;
        if self.stopping.is_some() {
            return answer.refuse(RefusalKind::Unavailable, "the executor is stopping");
        }
        // Whoever may not read a plugin does not come this far.
        let known = match self.permitted(&plugin, &command, true, may_write) {
            Ok(known) => known,
            Err((kind, text)) => return answer.refuse(kind, text),
        };
        let max_attempts = known.conf.retry.max_attempts;
        if payload.as_deref().is_some_and(|text| !is_object(text)) {
            return answer.refuse(RefusalKind::PayloadNotObject, "payload must be a JSON object");
        }
        if wait.0 > 0 {
            if self.waiting >= self.front.max_waiting as usize {
                self.drop_lost_waiters();
            }
            if self.waiting >= self.front.max_waiting as usize {
                return answer.refuse(RefusalKind::TooManyWaiting, "too many concurrent synchronous requests");
            }
            self.waiting += 1;
        }
        let payload = if command.as_str() == "handle" {
            Some(format!("{{\"type\":\"api.trigger\",\"payload\":{}}}", payload.as_deref().unwrap_or("{}")))
        } else {
            payload
        };
        let created_at = now();
        let queued = Queued {
            job_id: new_job_id(created_at),
            plugin,
            command,
            payload,
            attempt: 1,
            max_attempts,
            submitted_by: submitter(role).to_owned(),
            dedupe_key: None,
            created_at,
            parent_job_id: None,
            event_context_id: None,
        };
        self.admit(queued, None, answer, wait);
    }

    /// The plugin, if it has this command and the caller may run it.
    ///
    /// # Errors
    /// What the caller is refused with.
    pub(super) fn permitted(
        &self,
        plugin: &PluginName,
        command: &CommandName,
        may_read: bool,
        may_write: bool,
    ) -> Result<&Plugin, (RefusalKind, &'static str)> {
        let known = self.catalog.usable(plugin).ok_or((RefusalKind::PluginUnknown, "plugin not found"))?;
        let writes = known.command(command).ok_or((RefusalKind::CommandUnknown, "command not supported by plugin"))?;
        let may = may_write || (may_read && !writes);
        if may { Ok(known) } else { Err((RefusalKind::WriteScope, "insufficient scope")) }
    }

    /// Hands a new job to the writer; the answer follows its commit. Where it can run at once, its
    /// process starts meanwhile.
    pub(super) fn admit(&mut self, mut queued: Queued, check: Option<Check>, answer: Answer, wait: Millis) {
        if self.writer_failing.is_some() {
            self.waiting -= usize::from(wait.0 > 0);
            return answer.refuse(RefusalKind::Storage, NOT_ENQUEUED);
        }
        let row = new_job(&queued, self.snapshot.as_ref());
        let is_early = check.is_none() && self.runs_at_once(&queued);
        let write = match check {
            Some(check) => Write::AdmitUnique(row, check),
            None => Write::Admit(row),
        };
        let ticket = self.number();
        // First in the writer's order.
        self.writer.submit(ticket, write, Urgency::Now);
        let admission = if is_early {
            self.began_early = true;
            let run = self.number();
            let payload = queued.payload.take();
            let told = queued.clone();
            queued.payload = payload;
            let job = self.take_at_once(queued);
            let preflight_error = job.and_then(|job| self.start_as(run, job, Standing::Awaited { pid: None }));
            Admission { queued: told, answer, wait, run: Some(run), preflight_error }
        } else {
            self.unstarted += 1;
            Admission { queued, answer, wait, run: None, preflight_error: None }
        };
        self.pending.insert(ticket, Pending::Admission(Box::new(admission)));
    }

    /// Whether this job, were it admitted now, would be the next to run, and at once.
    fn runs_at_once(&self, job: &Queued) -> bool {
        self.runs.len() < self.max_workers
            && self.unstarted == 0
            && !self.rests()
            && !self.is_careful()
            && self.is_next(job)
    }

    /// The job is durable: answer; then its process gets its request, or it waits for a worker.
    pub(super) fn admitted(&mut self, admission: Admission) {
        let Admission { queued, answer, wait, run, preflight_error } = admission;
        self.depth += 1;
        if enabled(Level::Debug) {
            log(Level::Debug, "job enqueued", &[("job_id", queued.job_id.as_str().into())]);
        }
        if let Some(of) = &queued.parent_job_id {
            let fields = [("job_id", queued.job_id.as_str().into()), ("of", of.into())];
            log(Level::Info, "job is run again", &fields);
        }
        if wait.0 > 0 {
            let waiter = Waiter { answer, until: Instant::now() + wait.as_duration() };
            self.waiters.entry(queued.job_id.clone()).or_default().push(waiter);
        } else {
            answer.send(Reply::Accepted { job_id: queued.job_id.clone() });
        }
        self.publish_enqueued(&queued);
        match run {
            Some(run) => self.confirm_early(run, &queued, preflight_error.as_deref()),
            None => {
                self.unstarted -= 1;
                self.enqueue(queued);
            }
        }
    }

    /// Nothing was accepted.
    pub(super) fn not_admitted(&mut self, admission: Admission, kind: RefusalKind, text: impl Into<String>) {
        self.waiting -= usize::from(admission.wait.0 > 0);
        match admission.run {
            Some(run) => self.drop_early(run),
            None => self.unstarted -= 1,
        }
        admission.answer.refuse(kind, text);
    }

    /// Another job stands for it.
    pub(super) fn duplicate(&mut self, found: &Duplicate, admission: Admission) {
        log_duplicate(found);
        self.not_admitted(admission, RefusalKind::Duplicate, found.to_string());
    }

    pub(super) fn has_waiter(&self, job_id: &JobId) -> bool {
        self.waiters.contains_key(job_id)
    }

    /// Answers everybody who waits for a job that has ended.
    pub(super) fn wake_waiters(&mut self, job: &Job) {
        self.answer_waiters(&job.job_id, || Reply::Finished(job.clone()));
    }

    /// Answers `Accepted` to those who wait for a job that ends in another life of the executor.
    pub(super) fn release_waiters_of(&mut self, job_id: &JobId) {
        self.answer_waiters(job_id, || Reply::Accepted { job_id: job_id.clone() });
    }

    fn answer_waiters(&mut self, job_id: &JobId, reply: impl Fn() -> Reply) {
        for waiter in self.waiters.remove(job_id).unwrap_or_default() {
            self.waiting -= 1;
            waiter.answer.send(reply());
        }
    }

    /// The same to all.
    pub(super) fn release_waiters(&mut self) {
        for job_id in self.waiters.keys().cloned().collect::<Vec<_>>() {
            self.release_waiters_of(&job_id);
        }
    }

    /// Forgets those whose connection is gone.
    fn drop_lost_waiters(&mut self) {
        let mut lost = 0;
        self.waiters.retain(|_, waiters| {
            lost += waiters.extract_if(.., |waiter| waiter.answer.is_lost()).count();
            !waiters.is_empty()
        });
        self.waiting -= lost;
    }

    /// Answers `Accepted` to those whose wait is over; the job goes on.
    pub(super) fn end_waits(&mut self, at: Instant) {
        let mut over = 0;
        self.waiters.retain(|job_id, waiters| {
            for waiter in waiters.extract_if(.., |waiter| waiter.until <= at) {
                over += 1;
                waiter.answer.send(Reply::Accepted { job_id: job_id.clone() });
            }
            !waiters.is_empty()
        });
        self.waiting -= over;
    }
}

pub(super) fn log_duplicate(found: &Duplicate) {
    let fields = [
        ("dedupe_key", (&found.key).into()),
        ("existing_job_id", (&found.existing_job_id).into()),
        ("dedupe_reason", found.reason.as_str().into()),
    ];
    log(Level::Info, "dropped duplicate enqueue", &fields);
}

pub(super) fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}

/// Whose job it is that came in by this socket.
pub(super) fn submitter(role: Role) -> &'static str {
    match role {
        Role::Front => "api",
        Role::Admin => "cli",
    }
}

pub(super) fn new_job_id(created_at: Timestamp) -> JobId {
    JobId::parse(&new_id(created_at)).expect("a UUID is a valid id")
}

/// The row of a job as it begins.
pub(super) fn new_job(queued: &Queued, snapshot: Option<&String>) -> NewJob {
    NewJob {
        id: queued.job_id.clone(),
        plugin: queued.plugin.to_string(),
        command: queued.command.to_string(),
        payload: queued.payload.clone(),
        max_attempts: queued.max_attempts,
        submitted_by: queued.submitted_by.clone(),
        dedupe_key: queued.dedupe_key.clone(),
        created_at: queued.created_at,
        parent_job_id: queued.parent_job_id.clone(),
        source_event_id: None,
        event_context_id: queued.event_context_id.clone(),
        config_snapshot: snapshot.cloned(),
    }
}
