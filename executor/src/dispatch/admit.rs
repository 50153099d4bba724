//! Admission: what may become a job, the answer after its commit, and who waits for its result.

use std::time::Instant;

use serde_json::value::RawValue;
use shared::id::{CommandName, JobId, PluginName};
use shared::log::Level;
use shared::time::Millis;
use shared::wire::gateway::{Job, Reply};
use shared::wire::refusal::RefusalKind;

use super::finish::Pending;
use super::{Dispatcher, READY_BYTES_MAX, READY_JOBS_MAX};
use crate::ipc::{Answer, Role};
use crate::logging::{enabled, log, now};
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
        let Some(known) = self.catalog.usable(&plugin) else {
            return answer.refuse(RefusalKind::PluginUnknown, "plugin not found");
        };
        let Some(writes) = known.command(&command) else {
            return answer.refuse(RefusalKind::CommandUnknown, "command not supported by plugin");
        };
        if writes && !may_write {
            return answer.refuse(RefusalKind::WriteScope, "insufficient scope");
        }
        let max_attempts = known.conf.retry.max_attempts;
        let is_object =
            |text: &str| serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'));
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
        let submitted_by = match role {
            Role::Front => "api",
            Role::Admin => "cli",
        };
        let created_at = now();
        let queued = Queued {
            job_id: JobId::parse(&new_id(created_at)).expect("a UUID is a valid id"),
            plugin,
            command,
            payload,
            attempt: 1,
            max_attempts,
            submitted_by: submitted_by.to_owned(),
            created_at,
        };
        let row = NewJob {
            id: queued.job_id.clone(),
            plugin: queued.plugin.to_string(),
            command: queued.command.to_string(),
            payload: queued.payload.clone(),
            max_attempts,
            submitted_by: queued.submitted_by.clone(),
            dedupe_key: None,
            created_at,
            parent_job_id: None,
            source_event_id: None,
            event_context_id: None,
            config_snapshot: self.snapshot.clone(),
        };
        let ticket = self.number();
        self.pending.insert(ticket, Pending::Admission { queued, answer, wait });
        self.writer.submit(ticket, Write::Admit(row), Urgency::Now);
    }

    /// The job is durable: answer, and let it wait for a worker.
    pub(super) fn admitted(&mut self, queued: Queued, answer: Answer, wait: Millis) {
        self.depth += 1;
        if enabled(Level::Debug) {
            log(Level::Debug, "job enqueued", &[("job_id", queued.job_id.as_str().into())]);
        }
        if wait.0 > 0 {
            let waiter = Waiter { answer, until: Instant::now() + wait.as_duration() };
            self.waiters.entry(queued.job_id.clone()).or_default().push(waiter);
        } else {
            answer.send(Reply::Accepted { job_id: queued.job_id.clone() });
        }
        let full = self.ready.len() >= READY_JOBS_MAX || self.ready.weight() >= READY_BYTES_MAX;
        if full && self.backlog.is_none() {
            // From here on the database holds jobs that memory does not; reading goes on from its
            // start, and passes over what is known.
            self.backlog = Some(None);
        }
        if self.backlog.is_none() && self.known.insert(queued.job_id.clone()) {
            self.make_ready(queued);
        }
    }

    /// The job could not be made durable: nothing was accepted.
    pub(super) fn not_admitted(&mut self, answer: Answer, wait: Millis, kind: RefusalKind) {
        self.waiting -= usize::from(wait.0 > 0);
        answer.refuse(kind, "failed to enqueue job");
    }

    pub(super) fn has_waiter(&self, job_id: &JobId) -> bool {
        self.waiters.contains_key(job_id)
    }

    /// Answers everybody who waits for a job that has ended.
    pub(super) fn wake_waiters(&mut self, job: &Job) {
        for waiter in self.waiters.remove(&job.job_id).unwrap_or_default() {
            self.waiting -= 1;
            waiter.answer.send(Reply::Finished(job.clone()));
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
