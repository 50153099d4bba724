//! From an outcome to its commit, and what follows the commit: waiters, retries, the agent's
//! leave to forget.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use shared::id::JobId;
use shared::log::{self as lines, Level};
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::{Job, JobStatus};
use shared::wire::refusal::RefusalKind;
use shared::wire::spawner::Exit;
use shared::wire::vault::Request;

use super::claim::Run;
use super::{Dispatcher, Stop};
use crate::ipc::Answer;
use crate::logging::{enabled, log, now};
use crate::plugin::outcome::{self, Failure, Finished};
use crate::plugin::protocol::Response;
use crate::plugin::supervise::Ended;
use crate::queue::ready::Queued;
use crate::queue::retry::{Decision, decide};
use crate::store::write::{
    Applied, Completion, FactRule, Next, Outcome, SpawnStatus, StateUpdate, StopwatchRow, Urgency, Write,
};
use crate::store::{StoreError, StoreErrorKind, new_id};

/// Pauses between two tries of a database that can not be written.
const WRITE_AGAIN_FIRST: Duration = Duration::from_millis(50);
const WRITE_AGAIN_MAX: Duration = Duration::from_secs(1);

/// An operation that the writer has not answered.
pub(super) enum Pending {
    Admission { queued: Queued, answer: Answer, wait: Millis },
    Claim { run: u64 },
    Completion(Box<Done>),
}

/// A completion on its way into the database.
pub(super) struct Done {
    number: u64,
    job: Queued,
    next: Next,
    /// What waiters get; made only when there are some.
    view: Option<Job>,
    /// The lane is held until the commit, so that the next run sees the state.
    holds_lane: bool,
    /// For the agent's leave to forget, and, when the state is refused, to complete as failed.
    run: Run,
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
        let (next, error) = self.next_of(&entry.job, verdict.status, verdict.failure);
        let result = verdict.result.map(Cow::into_owned);
        let stderr = text_of(&ended.stderr);
        let attempt = Attempt { next, status: verdict.status, error, result, stderr, state, subs, spawned: true };
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
        let (next, error) = self.next_of(&entry.job, JobStatus::Failed, Some(failure));
        self.complete(run, entry, Attempt { next, error, ..Attempt::failed() });
    }

    /// The retry decision (`spec/queue-and-scheduler.md` 5).
    fn next_of(&self, job: &Queued, status: JobStatus, failure: Option<Failure>) -> (Next, Option<String>) {
        let Some(Failure { error, reason, .. }) = failure else { return (Next::Terminal { status }, None) };
        let backoff = self.catalog.usable(&job.plugin).map_or(Millis(0), |plugin| plugin.conf.retry.backoff_base);
        let decision = reason.map(|reason| decide(reason, job.attempt, job.max_attempts, backoff, random_fraction()));
        let next = match decision {
            Some(Decision::Retry { delay }) => {
                Next::Retry { attempt: job.attempt + 1, next_retry_at: now().plus(delay) }
            }
            Some(Decision::Final) | None => Next::Terminal { status },
        };
        (next, Some(error))
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
            result: attempt.result.clone().map(super::json_text),
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
            self.ready.release(&entry.job.plugin);
        }
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
        }));
        let done = Done { number: run, job: entry.job.clone(), next: attempt.next, view, holds_lane, run: entry };
        let ticket = self.number();
        self.pending.insert(ticket, Pending::Completion(Box::new(done)));
        self.writer.submit(ticket, write, urgency);
    }

    /// The writer's answers, in the order of its commits.
    pub(super) fn written(&mut self, outcomes: Vec<Outcome>) {
        for Outcome { ticket, result, returned } in outcomes {
            let applied = match result {
                Ok(applied) => {
                    self.writer_works();
                    applied
                }
                Err(error) => {
                    self.not_written(ticket, &error, returned);
                    continue;
                }
            };
            match (self.pending.remove(&ticket), applied) {
                (Some(Pending::Admission { queued, answer, wait }), Applied::Admitted) => {
                    self.admitted(queued, answer, wait);
                }
                (Some(Pending::Admission { answer, wait, .. }), _) => {
                    self.not_admitted(answer, wait, RefusalKind::Internal);
                }
                (Some(Pending::Claim { run }), applied) => self.claimed(run, applied == Applied::Claimed),
                (Some(Pending::Completion(done)), Applied::StateRefused { text }) => self.state_refused(*done, text),
                (Some(Pending::Completion(done)), applied) => self.completed(*done, applied == Applied::Completed),
                (None, _) => {}
            }
        }
    }

    fn writer_works(&mut self) {
        if self.writer_failing.take().is_some() {
            log(Level::Info, "database is written again", &[]);
        }
    }

    /// An admission is refused to its caller; everything else is kept and written before anything
    /// new is claimed (design, decision 27). An operation that can never be stored is dropped.
    fn not_written(&mut self, ticket: u64, error: &StoreError, write: Option<Write>) {
        let refused = error.kind() == StoreErrorKind::Refused;
        if refused {
            log(Level::Error, "operation can not be stored", &[("error", (&lines::chain(error)).into())]);
        } else {
            self.writer_fails(error);
        }
        match self.pending.remove(&ticket) {
            Some(Pending::Admission { answer, wait, .. }) => {
                let kind = if refused { RefusalKind::Internal } else { RefusalKind::Storage };
                self.not_admitted(answer, wait, kind);
            }
            Some(Pending::Claim { run }) if refused => self.claimed(run, false),
            Some(Pending::Completion(done)) if refused => self.completed(*done, false),
            Some(pending) => {
                self.pending.insert(ticket, pending);
                self.unwritten.extend(write.map(|write| (ticket, write)));
            }
            None => {}
        }
    }

    fn writer_fails(&mut self, error: &StoreError) {
        if self.writer_failing.is_none() {
            let text = "database write failed; nothing new is claimed until it works";
            log(Level::Error, text, &[("error", (&lines::chain(error)).into())]);
            let until = Instant::now() + WRITE_AGAIN_FIRST;
            self.writer_failing = Some(Failing { until, pause: WRITE_AGAIN_FIRST });
        }
    }

    /// Hands over again what could not be written; without any, one job is claimed as a probe.
    pub(super) fn write_again(&mut self, at: Instant) {
        let Some(failing) = &mut self.writer_failing else { return };
        if failing.until > at {
            return;
        }
        failing.pause = (failing.pause * 2).min(WRITE_AGAIN_MAX);
        failing.until = at + failing.pause;
        if self.unwritten.is_empty()
            && self.runs.is_empty()
            && self.stopping.is_none()
            && let Some(job) = self.ready.take()
        {
            return self.start(job);
        }
        for (ticket, write) in self.unwritten.drain(..) {
            self.writer.submit(ticket, write, Urgency::Now);
        }
    }

    fn completed(&mut self, done: Done, holds: bool) {
        if done.holds_lane {
            self.states.remove(&done.job.plugin);
            self.ready.release(&done.job.plugin);
        }
        if done.run.delivers {
            self.ask_vault(Request::CloseDelivery { delivery_id: done.number }, Vec::new());
        }
        if !holds {
            // Whoever ended the job counted it (a cancel), or it is gone.
            self.known.remove(&done.job.job_id);
            let fields = [("job_id", done.job.job_id.as_str().into()), ("attempt", done.job.attempt.into())];
            return log(Level::Warn, "completion dropped: its claim no longer holds", &fields);
        }
        match done.next {
            Next::Terminal { .. } => {
                self.depth = self.depth.saturating_sub(1);
                self.known.remove(&done.job.job_id);
                if let Some(view) = &done.view {
                    self.wake_waiters(view);
                } else if self.has_waiter(&done.job.job_id) {
                    self.wake_late_waiters(&done.job.job_id);
                }
            }
            Next::Retry { attempt, next_retry_at } => self.delay(Queued { attempt, ..done.job }, next_retry_at),
            Next::Requeue => {
                self.known.remove(&done.job.job_id);
            }
        }
    }

    /// Somebody began to wait while the completion was on its way.
    fn wake_late_waiters(&mut self, job_id: &JobId) {
        if let Ok(Some(row)) = self.reader.job(job_id) {
            self.wake_waiters(&super::shown(row));
        }
    }

    /// The state could not be taken (`spec/plugins.md` 10.3): nothing was stored, the job fails.
    fn state_refused(&mut self, done: Done, text: String) {
        let Done { number, run, .. } = done;
        self.complete(number, run, Attempt { error: Some(text), ..Attempt::failed() });
    }
}

/// The writer fails: when it is tried again, and how long the pause before was.
pub(super) struct Failing {
    pub(super) until: Instant,
    pause: Duration,
}

/// What is stored of an attempt.
struct Attempt {
    next: Next,
    status: JobStatus,
    error: Option<String>,
    result: Option<String>,
    stderr: Option<String>,
    state: Option<StateUpdate>,
    subs: Option<String>,
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
            result: None,
            stderr: None,
            state: None,
            subs: None,
            spawned: false,
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

fn stopwatch(entry: &Run, attempt: &Attempt, completed_at: Timestamp) -> StopwatchRow {
    StopwatchRow {
        plugin: entry.job.plugin.to_string(),
        pipeline: None,
        step_id: None,
        pipeline_instance_id: None,
        enter_wall_ns: entry.started_at.unix_nanos(),
        exit_wall_ns: completed_at.unix_nanos(),
        dur_ns: i64::try_from(entry.started.elapsed().as_nanos()).unwrap_or(i64::MAX),
        runtime_pre_ns: 0,
        runtime_post_ns: 0,
        status: match attempt.status {
            JobStatus::Succeeded => SpawnStatus::Ok,
            JobStatus::TimedOut => SpawnStatus::Timeout,
            _ => SpawnStatus::Err,
        },
        subs_json: attempt.subs.clone().unwrap_or_else(|| "[]".to_owned()),
    }
}

/// Keeps the first `max` sub-spans (`spec/plugins.md` 11).
fn cap_subs(job: &Queued, subs: &str, max: usize) -> String {
    let list: Vec<&serde_json::value::RawValue> = serde_json::from_str(subs).unwrap_or_default();
    if list.len() <= max {
        return subs.to_owned();
    }
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let fields = [
        ("job_id", job.job_id.as_str().into()),
        ("received", lines::Value::Number(count(list.len()))),
        ("cap", lines::Value::Number(count(max))),
        ("dropped", lines::Value::Number(count(list.len() - max))),
    ];
    log(Level::Warn, "stopwatch sub-spans dropped", &fields);
    serde_json::to_string(&list[..max]).unwrap_or_else(|_| "[]".to_owned())
}

fn tell_of_output(job: &Queued, ended: &Ended, response: Option<&Response<'_>>) {
    let ids = [("job_id", job.job_id.as_str().into()), ("plugin", job.plugin.as_str().into())];
    if ended.stderr_cut {
        log(Level::Warn, "plugin stderr truncated", &ids);
    }
    if ended.leftovers > 0 {
        log(
            Level::Warn,
            "plugin left processes behind; they were killed",
            &[ids[0], ids[1], ("count", ended.leftovers.into())],
        );
    }
    match ended.exit {
        Exit::Code(code) if code != 0 => {
            let fields = [ids[0], ids[1], ("exit_code", i64::from(code).into())];
            log(Level::Warn, "plugin exited with non-zero status", &fields);
        }
        Exit::Signal(signal) if !ended.timed_out => {
            let fields = [ids[0], ids[1], ("signal", i64::from(signal).into())];
            log(Level::Warn, "plugin exited with non-zero status", &fields);
        }
        _ => {}
    }
    let Some(response) = response else { return };
    for name in &response.dropped {
        log(
            Level::Warn,
            "wrongly typed member left out of the response",
            &[ids[0], ids[1], ("member", (*name).into())],
        );
    }
    if !response.events.is_empty() {
        let events = i64::try_from(response.events.len()).unwrap_or(i64::MAX);
        log(Level::Info, "events dropped: no router", &[ids[0], ids[1], ("count", events.into())]);
    }
    if enabled(Level::Info) {
        for entry in &response.logs {
            let said = [("plugin_level", (&*entry.level).into()), ("message", (&*entry.message).into())];
            log(Level::Info, "plugin log", &[ids[0], ids[1], said[0], said[1]]);
        }
    }
}

fn log_end(entry: &Run, status: JobStatus, error: Option<&str>) {
    let duration = i64::try_from(entry.started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let mut fields = vec![
        ("job_id", entry.job.job_id.as_str().into()),
        ("plugin", entry.job.plugin.as_str().into()),
        ("status", status.as_str().into()),
        ("attempt", entry.job.attempt.into()),
        ("duration_ms", duration.into()),
    ];
    fields.extend(error.map(|error| ("error", error.into())));
    log(Level::Info, "job completed", &fields);
}

/// For the jitter of a retry.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the jitter is 0: a retry that comes on the dot is still a retry.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
