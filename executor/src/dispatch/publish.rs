//! What the hub hears of jobs (`spec/queue-and-scheduler.md` 12), ends only after their commit.

use std::time::Duration;

use shared::id::JobId;
use shared::log::Value;
use shared::time::Timestamp;
use shared::wire::gateway::JobStatus;

use super::Dispatcher;
use super::claim::Run;
use super::finish::Done;
use super::route::Child;
use crate::queue::breaker::State;
use crate::queue::ready::Queued;
use crate::queue::retry::{FailureReason, delay};
use crate::schedule::entry::Entry;
use crate::store::recover::{Recovered, RecoveredEnd};
use crate::store::write::{BreakerChange, Next};

/// Constant fields of the retry events.
const OWNER: [(&str, Value<'_>); 2] = [
    ("retry_policy_owner", Value::Text("core")),
    ("plugin_retry_field", Value::Text("v2_boundary_compatibility_signal")),
];

impl Dispatcher {
    /// A job that came in by itself is durable.
    pub(super) fn publish_enqueued(&mut self, job: &Queued) {
        let at = job.created_at.to_string();
        let [id, plugin, command] = names(job);
        let fields = [
            ("at", (&at).into()),
            id,
            plugin,
            command,
            ("submitted_by", (&job.submitted_by).into()),
            ("direct", true.into()),
        ];
        self.hub.publish("job.enqueued", &fields);
    }

    pub(super) fn publish_started(&mut self, job: &Queued) {
        let [id, plugin, command] = names(job);
        let attempt = ("attempt", job.attempt.into());
        let parent = ("parent_job_id", job.parent_job_id.as_deref().unwrap_or_default().into());
        let by = ("submitted_by", (&job.submitted_by).into());
        self.hub.publish("job.started", &[id, plugin, command, attempt, parent, by]);
        if let Some(schedule_id) = self.poll_of(job) {
            let schedule = ("schedule_id", (&schedule_id).into());
            self.hub.publish("poll.started", &[id, plugin, command, schedule, by, attempt]);
        }
    }

    /// `error`: why it can not be run.
    pub(super) fn publish_preflight(&mut self, job: &Queued, error: Option<&str>) {
        let [id, plugin, command] = names(job);
        let decision = ("decision", if error.is_none() { "run" } else { "fail" }.into());
        self.hub
            .publish("job.preflight", &[id, plugin, command, decision, ("reason", error.unwrap_or_default().into())]);
    }

    pub(super) fn publish_spawned(&mut self, run: u64, pid: u32) {
        let Some(entry) = self.runs.get(&run) else { return };
        let [id, plugin, command] = names(&entry.job);
        self.hub.publish("plugin.spawned", &[id, plugin, command, ("pid", pid.into())]);
    }

    pub(super) fn publish_mismatch(&mut self, plugin: &str, job_id: &JobId, detail: &str) {
        let fields = [("plugin", plugin.into()), ("job_id", job_id.as_str().into()), ("detail", detail.into())];
        self.hub.publish("plugin.fingerprint_mismatch", &fields);
    }

    /// What became of an attempt that is in the database now.
    pub(super) fn publish_done(&mut self, done: &Done) {
        if let Some(counted) = &done.breaker {
            self.publish_breaker(&counted.change);
        }
        let job = &done.run.job;
        let reason = done.failure.as_ref().and_then(|failure| failure.1);
        let error = done.failure.as_ref().map(|failure| failure.0.as_str());
        match done.next {
            Next::Terminal { status } => {
                if let (Some(reason), Some(error)) = (reason, error) {
                    self.publish_exhausted(job, reason, error);
                }
                self.publish_end(job.plugin.as_str(), &job.job_id, status, Some(done.took), error);
                self.publish_poll_end(&done.run, status, done.took, error);
            }
            Next::Retry { next_retry_at, .. } => {
                if let Some(reason) = reason {
                    self.publish_retry(job, next_retry_at, done.completed_at, reason);
                }
            }
            Next::Requeue => {}
        }
    }

    /// A job has ended, by its plugin or from outside.
    pub(super) fn publish_end(
        &mut self,
        plugin: &str,
        job_id: &JobId,
        status: JobStatus,
        took: Option<Duration>,
        error: Option<&str>,
    ) {
        let duration = took.map_or(0, millis);
        let mut fields = vec![
            ("job_id", job_id.as_str().into()),
            ("plugin", plugin.into()),
            ("status", status.as_str().into()),
            ("duration_ms", duration.into()),
        ];
        let (kind, message) = match status {
            JobStatus::TimedOut => ("job.timed_out", format!("Job timed out [{plugin}]")),
            JobStatus::Failed | JobStatus::Dead => {
                let why = error.map(|error| format!(": {error}")).unwrap_or_default();
                ("job.failed", format!("Job failed [{plugin}]{why}"))
            }
            _ => return self.hub.publish("job.completed", &fields),
        };
        fields.extend(error.map(|error| ("error", error.into())));
        fields.extend([("message", (&message).into()), ("text", (&message).into())]);
        self.hub.publish(kind, &fields);
    }

    /// A crash spent the last attempt of a job.
    pub(super) fn publish_recovered(&mut self, recovered: &Recovered) {
        let RecoveredEnd::Dead { last_error } = &recovered.end else { return };
        let fields = [
            ("job_id", recovered.job_id.as_str().into()),
            ("plugin", (&recovered.plugin).into()),
            ("command", (&recovered.command).into()),
            ("status", JobStatus::Dead.as_str().into()),
            ("error", last_error.into()),
            ("recovery", true.into()),
        ];
        self.hub.publish("job.failed", &fields);
    }

    fn publish_poll_end(&mut self, run: &Run, status: JobStatus, took: Duration, error: Option<&str>) {
        let Some(schedule_id) = self.poll_of(&run.job) else { return };
        let [id, plugin, command] = names(&run.job);
        let mut fields = vec![
            id,
            plugin,
            command,
            ("schedule_id", (&schedule_id).into()),
            ("submitted_by", (&run.job.submitted_by).into()),
            ("attempt", run.job.attempt.into()),
            ("status", status.as_str().into()),
            ("outcome", status.as_str().into()),
            ("duration_ms", millis(took).into()),
        ];
        fields.extend(error.map(|error| ("error", error.into())));
        self.hub.publish("poll.completed", &fields);
    }

    /// The run goes on until its process has ended; its job is dead.
    pub(super) fn publish_poll_cancelled(&mut self, run: u64, reason: &str) {
        if let Some(entry) = self.runs.remove(&run) {
            self.publish_poll_end(&entry, JobStatus::Dead, entry.started.elapsed(), Some(reason));
            self.runs.insert(run, entry);
        }
    }

    fn publish_retry(&mut self, job: &Queued, next: Timestamp, ended: Timestamp, reason: FailureReason) {
        let base = self.backoff_base(&job.plugin);
        let schedule: Vec<String> =
            (1..job.max_attempts).take(64).map(|attempt| delay(attempt, base, 0.0).0.to_string()).collect();
        let schedule = format!("[{}]", schedule.join(","));
        let next_text = next.to_string();
        let backoff = i64::try_from(next.millis_since(ended).0).unwrap_or(i64::MAX);
        let fields = [
            ("job_id", job.job_id.as_str().into()),
            ("attempt", job.attempt.into()),
            ("max_attempts", job.max_attempts.into()),
            ("retry_count", job.attempt.into()),
            ("max_retries", job.max_attempts.saturating_sub(1).into()),
            OWNER[0],
            OWNER[1],
            ("backoff_ms", backoff.into()),
            ("backoff_schedule", Value::Json(&schedule)),
            ("next_retry_at", (&next_text).into()),
            ("reason", reason.as_str().into()),
        ];
        self.hub.publish("job.retry_scheduled", &fields);
    }

    fn publish_exhausted(&mut self, job: &Queued, reason: FailureReason, error: &str) {
        let spent = reason.is_retryable();
        let told = if spent { FailureReason::AttemptsExhausted } else { reason };
        let mut fields = vec![
            ("job_id", job.job_id.as_str().into()),
            ("attempts", job.attempt.into()),
            ("final_error", error.into()),
            ("reason", told.as_str().into()),
            OWNER[0],
            OWNER[1],
        ];
        if spent {
            fields.push(("retry_decision_reason", reason.as_str().into()));
        }
        self.hub.publish("job.retry_exhausted", &fields);
    }

    pub(super) fn publish_routed(&mut self, child: &Child) {
        let [id, plugin, command] = names(&child.job);
        let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        let (parent, context) = (text(&child.job.parent_job_id), text(&child.job.event_context_id));
        let fields = [
            id,
            ("parent_job_id", (&parent).into()),
            plugin,
            command,
            ("pipeline", (&child.pipeline).into()),
            ("step_id", (&child.step).into()),
            ("event_context_id", (&context).into()),
        ];
        self.hub.publish("router.enqueued", &fields);
    }

    pub(super) fn publish_skipped(&mut self, entry: &Entry, reason: &str, next: Option<Timestamp>) {
        let next = next.map(|next| next.to_string());
        let mut fields = vec![
            ("plugin", entry.plugin.as_str().into()),
            ("schedule_id", (&entry.id).into()),
            ("command", entry.command.as_str().into()),
            ("reason", reason.into()),
        ];
        fields.extend(next.as_ref().map(|next| ("next_run_at", next.into())));
        self.hub.publish("scheduler.skipped", &fields);
    }

    pub(super) fn publish_scheduled(&mut self, job: &Queued, schedule_id: &str) {
        let [id, plugin, command] = names(job);
        let is_catch_up = job.dedupe_key.as_deref().is_some_and(|key| key.contains(":catchup:"));
        let shown = if is_catch_up { "catch_up" } else { schedule_id };
        let by = ("submitted_by", (&job.submitted_by).into());
        self.hub.publish("scheduler.scheduled", &[id, plugin, command, ("schedule_id", shown.into()), by]);
    }

    pub(super) fn publish_half_open(&mut self, entry: &Entry) {
        let fields = [("plugin", entry.plugin.as_str().into()), ("command", entry.command.as_str().into())];
        self.hub.publish("scheduler.circuit_half_open", &fields);
    }

    /// A breaker is stored; its change of state is told of, if it is one.
    pub(super) fn publish_breaker(&mut self, change: &BreakerChange) {
        let Some(transition) = &change.transition else { return };
        let fields = [
            ("plugin", (&change.plugin).into()),
            ("command", (&change.command).into()),
            ("previous_state", transition.from.map_or("", State::as_str).into()),
            ("state", transition.to.as_str().into()),
            ("failure_count", transition.failure_count.into()),
        ];
        self.hub.publish("scheduler.circuit_state_changed", &fields);
    }

    /// The schedule id of a `poll` that the scheduler submitted.
    fn poll_of(&self, job: &Queued) -> Option<String> {
        if job.command.as_str() != "poll" || job.submitted_by != self.service_name {
            return None;
        }
        // An entry that is configured no more is named by its key alone.
        let of_key = || job.dedupe_key.as_deref()?.split(':').nth(2).map(str::to_owned);
        self.entry_of(job).map(|(_, id)| id).or_else(of_key)
    }
}

fn names(job: &Queued) -> [(&'static str, Value<'_>); 3] {
    [
        ("job_id", job.job_id.as_str().into()),
        ("plugin", job.plugin.as_str().into()),
        ("command", job.command.as_str().into()),
    ]
}

fn millis(took: Duration) -> i64 {
    i64::try_from(took.as_millis()).unwrap_or(i64::MAX)
}
