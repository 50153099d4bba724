//! From an outcome to its commit, and what follows the commit: waiters, retries, the agent's
//! leave to forget.

use std::borrow::Cow;
use std::time::Duration;

use shared::id::{JobId, PluginName};
use shared::log::Level;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::{Job, JobStatus};
use shared::wire::vault::Request;

use super::breakers::Counted;
use super::claim::Run;
use super::jobs::{json_text, shown};
use super::report::{cap_subs, log_end, stopwatch, tell_of_output};
use super::route::{Child, Children};
use super::written::Pending;
use super::{Dispatcher, Stop};
use crate::logging::{enabled, log, now};
use crate::pipeline::route::Stopped;
use crate::plugin::outcome::{self, Failure, Finished};
use crate::plugin::protocol::Response;
use crate::plugin::supervise::Ended;
use crate::queue::ready::Queued;
use crate::queue::retry::{DEFAULT_BACKOFF_BASE, Decision, FailureReason, decide};
use crate::store::new_id;
use crate::store::write::{Completion, FactRule, Next, RoutedJobs, StateUpdate, Urgency, Write};

/// A completion on its way into the database.
pub(super) struct Done {
    /// Of the run.
    pub(super) number: u64,
    pub(super) next: Next,
    pub(super) completed_at: Timestamp,
    pub(super) took: Duration,
    /// The error, and what the retry decision was made of.
    pub(super) failure: Option<(String, Option<FailureReason>)>,
    /// What waiters get; made only when there are some.
    view: Option<Job>,
    children: Vec<Child>,
    /// Pipelines that its events would have started.
    stopped: Vec<Stopped>,
    /// What the breaker has counted.
    pub(super) breaker: Option<Counted>,
    /// The lane is held until the commit, so that the next run sees the state.
    holds_lane: bool,
    /// With its job; for the agent's leave to forget, and, when the state is refused, to complete as
    /// failed.
    pub(super) run: Run,
}

impl Dispatcher {
    /// A run has ended, and what it printed is scrubbed.
    pub(super) fn finished(&mut self, run: u64, ended: Ended) {
        let Some(entry) = self.runs.remove(&run) else { return };
        let finished = Finished {
            exit: ended.exit,
            timed_out: ended.timed_out,
            stdout: if entry.stdout_withheld { None } else { Some(&ended.stdout) },
            stdout_cut: ended.stdout_cut,
            timeout: entry.timeout,
        };
        let verdict = outcome::judge(&finished);
        let is_killing = self.stopping.as_ref().is_some_and(Stop::is_killing);
        if is_killing && !ended.timed_out && verdict.status != JobStatus::Succeeded {
            let stderr = text_of(&ended.stderr);
            return self.complete(run, entry, Attempt { stderr, spawned: true, ..Attempt::ended_by_shutdown() });
        }
        tell_of_output(&entry.job, &ended, verdict.response.as_ref());
        let (state, subs) = self.kept_of(&entry.job, verdict.response.as_ref());
        let reason = verdict.failure.as_ref().and_then(|failure| failure.reason);
        let (next, error) = self.next_of(&entry.job, verdict.status, verdict.failure);
        let result = verdict.result.map(Cow::into_owned);
        let stderr = text_of(&ended.stderr);
        let status = verdict.status;
        let routed = verdict.response.as_ref().map(|response| self.route(&entry, response, now()));
        let children = match routed.transpose() {
            Ok(children) => children.unwrap_or_default(),
            Err(error) => {
                // Its state stays, its answer too; nobody hears of its events.
                let attempt =
                    Attempt { error: Some(error), result, stderr, state, subs, spawned: true, ..Attempt::failed() };
                return self.complete(run, entry, attempt);
            }
        };
        let attempt = Attempt { next, status, error, reason, result, stderr, state, subs, spawned: true, children };
        self.complete(run, entry, attempt);
    }

    /// A run that a stop came before.
    pub(super) fn requeue(&mut self, run: u64) {
        let Some(entry) = self.runs.remove(&run) else { return };
        self.complete(run, entry, Attempt::ended_by_shutdown());
    }

    /// A run that ends without a child having printed anything.
    pub(super) fn fail(&mut self, run: u64, failure: Failure) {
        let Some(entry) = self.runs.remove(&run) else { return };
        let reason = failure.reason;
        let (next, error) = self.next_of(&entry.job, JobStatus::Failed, Some(failure));
        self.complete(run, entry, Attempt { next, error, reason, ..Attempt::failed() });
    }

    /// The retry decision (`spec/queue-and-scheduler.md` 5).
    fn next_of(&self, job: &Queued, status: JobStatus, failure: Option<Failure>) -> (Next, Option<String>) {
        let Some(Failure { error, reason, .. }) = failure else { return (Next::Terminal { status }, None) };
        let backoff = self.backoff_base(&job.plugin);
        let decision = reason.map(|reason| decide(reason, job.attempt, job.max_attempts, backoff, random_fraction()));
        let next = match decision {
            Some(Decision::Retry { delay }) => {
                Next::Retry { attempt: job.attempt + 1, next_retry_at: now().plus(delay) }
            }
            Some(Decision::Final) | None => Next::Terminal { status },
        };
        (next, Some(error))
    }

    pub(super) fn backoff_base(&self, plugin: &PluginName) -> Millis {
        self.catalog.usable(plugin).map_or(DEFAULT_BACKOFF_BASE, |plugin| plugin.conf.retry.backoff_base)
    }

    /// What of an answer is stored besides the answer itself: state, and sub-spans.
    fn kept_of(&self, job: &Queued, response: Option<&Response<'_>>) -> (Option<StateUpdate>, Option<String>) {
        let (Some(response), Some(plugin)) = (response, self.catalog.usable(&job.plugin)) else { return (None, None) };
        let state = response.state_updates.map(|updates| {
            let rules = plugin.fact_outputs.iter().filter(|rule| rule.command == job.command);
            let facts: Vec<_> =
                rules.map(|rule| FactRule { fact_type: rule.fact_type.clone(), mirror: rule.mirrors }).collect();
            StateUpdate {
                plugin: job.plugin.to_string(),
                command: job.command.to_string(),
                updates_json: updates.get().to_owned(),
                fact_ids: facts.iter().map(|_| new_id(now())).collect(),
                facts,
            }
        });
        let subs = response.stopwatch_subs.map(|subs| cap_subs(job, subs.get(), plugin.max_subs));
        (state, subs)
    }

    fn complete(&mut self, run: u64, mut entry: Run, attempt: Attempt) {
        let completed_at = now();
        let status = match attempt.next {
            Next::Terminal { status } => status,
            Next::Retry { .. } | Next::Requeue => JobStatus::Queued,
        };
        if enabled(Level::Info) {
            log_end(&entry, attempt.status, attempt.error.as_deref());
        }
        let view = (status.is_terminal() && self.has_waiter(&entry.job.job_id)).then(|| Job {
            job_id: entry.job.job_id.clone(),
            status,
            plugin: entry.job.plugin.to_string(),
            command: entry.job.command.to_string(),
            attempt: entry.job.attempt,
            result: attempt.result.clone().map(json_text),
            last_error: attempt.error.clone(),
            started_at: Some(entry.started_at.to_string()),
            completed_at: Some(completed_at.to_string()),
        });
        let claim = (!entry.claim_written).then(|| entry.claim(self.snapshot.as_ref()));
        let stopwatch = attempt.spawned.then(|| stopwatch(&entry, &attempt, completed_at));
        // The caller waits, or nothing else will bring company soon: commit at once.
        let urgency = if view.is_some() || self.runs.is_empty() { Urgency::Now } else { Urgency::Lazy };
        let holds_lane = attempt.state.is_some();
        if !holds_lane && std::mem::replace(&mut entry.counted, false) {
            self.ready.release(&entry.job);
        }
        let succeeded = status == JobStatus::Succeeded;
        let breaker = if status.is_terminal() && !entry.is_cancelled {
            self.count_for_breaker(&entry.job, succeeded, completed_at)
        } else {
            None
        };
        let entry_of = if succeeded { self.entry_of(&entry.job) } else { None };
        let failure = attempt.error.clone().map(|error| (error, attempt.reason));
        let write = Write::Complete(Box::new(Completion {
            claim,
            job_id: entry.job.job_id.clone(),
            attempt: entry.job.attempt,
            next: attempt.next,
            completed_at,
            log_status: attempt.status,
            last_error: attempt.error,
            result: attempt.result,
            stderr: attempt.stderr,
            state: attempt.state,
            stopwatch,
            breaker: breaker.as_ref().map(|counted| counted.change.clone()),
            entry: entry_of,
            routed: attempt.children.routed,
        }));
        let took = entry.started.elapsed();
        let done = Done {
            number: run,
            next: attempt.next,
            completed_at,
            took,
            failure,
            view,
            children: attempt.children.jobs,
            stopped: attempt.children.stopped,
            breaker,
            holds_lane,
            run: entry,
        };
        let ticket = self.number();
        self.pending.insert(ticket, Pending::Completion(Box::new(done)));
        self.writer.submit(ticket, write, urgency);
    }

    /// It is in the database; `routed`: what became of the jobs of its events.
    pub(super) fn completed(&mut self, mut done: Done, routed: &RoutedJobs) {
        self.settle(&done);
        self.tell_of_stopped(&done.run.job, &done.stopped);
        self.enqueue_children(std::mem::take(&mut done.children), routed);
        self.publish_done(&done);
        let job = &done.run.job;
        match done.next {
            Next::Terminal { .. } => {
                self.depth = self.depth.saturating_sub(1);
                self.schedule_job_ended(&job.job_id, &job.submitted_by, job.dedupe_key.as_deref());
                if let Some(view) = &done.view {
                    self.wake_waiters(view);
                } else if self.has_waiter(&job.job_id) {
                    self.wake_late_waiters(&job.job_id);
                }
            }
            Next::Retry { next_retry_at, .. } => self.backlog.due_at(&job.plugin, next_retry_at),
            // It runs again after the next start; its callers need not wait for that.
            Next::Requeue => self.release_waiters_of(&job.job_id),
        }
    }

    /// The completion did not hold: whoever ended the job has told of it, or it is gone.
    pub(super) fn not_completed(&mut self, mut done: Done) {
        self.settle(&done);
        if let Some(counted) = done.breaker.take() {
            self.uncount(counted);
        }
        if !done.run.is_cancelled {
            let fields = [("job_id", done.run.job.job_id.as_str().into()), ("attempt", done.run.job.attempt.into())];
            log(Level::Warn, "completion dropped: its claim no longer holds", &fields);
        }
    }

    /// What a run held until its outcome was settled.
    fn settle(&mut self, done: &Done) {
        if done.holds_lane {
            self.states.remove(&done.run.job.plugin);
            self.ready.release(&done.run.job);
        }
        if done.run.delivers {
            self.ask_vault(Request::CloseDelivery { delivery_id: done.number }, Vec::new());
        }
        self.backlog.forget(&done.run.job.job_id);
    }

    /// Somebody began to wait while the completion was on its way.
    fn wake_late_waiters(&mut self, job_id: &JobId) {
        if let Ok(Some(row)) = self.reader.job(job_id) {
            self.wake_waiters(&shown(row));
        }
    }

    /// The state could not be taken (`spec/plugins.md` 10.3): nothing was stored, the job fails. What
    /// the plugin printed is kept.
    pub(super) fn state_refused(&mut self, done: Done, text: String, returned: Option<Write>) {
        let Done { number, run, breaker, .. } = done;
        if let Some(counted) = breaker {
            self.uncount(counted);
        }
        let mut attempt = Attempt { error: Some(text), spawned: true, ..Attempt::failed() };
        if let Some(Write::Complete(completion)) = returned {
            attempt.result = completion.result;
            attempt.stderr = completion.stderr;
            attempt.subs = completion.stopwatch.map(|row| row.subs_json);
        }
        self.complete(number, run, attempt);
    }
}

/// What is stored of an attempt.
pub(super) struct Attempt {
    next: Next,
    pub(super) status: JobStatus,
    error: Option<String>,
    reason: Option<FailureReason>,
    result: Option<String>,
    stderr: Option<String>,
    state: Option<StateUpdate>,
    pub(super) subs: Option<String>,
    /// The jobs that its events make.
    children: Children,
    /// A child existed, so there is a stopwatch row.
    spawned: bool,
}

impl Attempt {
    /// One that failed for good and left nothing.
    fn failed() -> Self {
        Self {
            next: Next::Terminal { status: JobStatus::Failed },
            status: JobStatus::Failed,
            error: None,
            reason: None,
            result: None,
            stderr: None,
            state: None,
            subs: None,
            spawned: false,
            children: Children::default(),
        }
    }

    /// One that counts, and its job goes on after the next start (`spec/queue-and-scheduler.md` 14.2).
    fn ended_by_shutdown() -> Self {
        Self { next: Next::Requeue, error: Some("ended by shutdown".to_owned()), ..Self::failed() }
    }
}

fn text_of(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() { None } else { Some(String::from_utf8_lossy(bytes).into_owned()) }
}

/// For the jitter of a retry.
pub(super) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the jitter is 0: a retry that comes on the dot is still a retry.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
