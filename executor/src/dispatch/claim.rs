//! From a ready job to a running child: the claim in memory, the request, and what the spawner
//! says of it.

use std::time::Instant;

use shared::log::Level;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::{Job, JobStatus};
use shared::wire::spawner::{RunRefusal, Spawn};
use shared::wire::vault;

use super::written::Pending;
use super::{CAREFUL_START, CLAIM_WINDOW, Dispatcher, Stop};
use crate::logging::{enabled, log, now};
use crate::pipeline::Context;
use crate::plugin::outcome::{self, Failure};
use crate::plugin::protocol::{RequestParts, request_tail};
use crate::plugin::supervise::{Command, Ended, RunEvent, Start};
use crate::queue::ready::Queued;
use crate::store;
use crate::store::write::{Claim, Urgency, Write};

/// One attempt, from its claim to the hand-over of its outcome to the writer.
pub(super) struct Run {
    pub(super) job: Queued,
    pub(super) started_at: Timestamp,
    pub(super) started: Instant,
    pub(super) timeout: Millis,
    /// The claim has been handed to the writer.
    pub(super) claim_submitted: bool,
    /// The claim is in the database; until then it rides with the completion as well.
    pub(super) claim_written: bool,
    /// Set while the claim must be durable before the spawn.
    pub(super) held: Option<Box<Start>>,
    /// What came back, while the agent scrubs it.
    pub(super) ended: Option<Box<Ended>>,
    /// The agent could not scrub its stdout.
    pub(super) stdout_withheld: bool,
    /// The plugin's lane still counts this run: until its outcome is known, and with a new state
    /// until this is committed.
    pub(super) counted: bool,
    /// Its job was ended from outside: what its process still does is no failure of the plugin.
    pub(super) is_cancelled: bool,
    pub(super) standing: Standing,
    /// Where the job stands in a pipeline.
    pub(super) context: Option<Context>,
    /// The agent was asked to compose for it, and is to be told when it may forget.
    pub(super) delivers: bool,
}

/// Whether the job that runs was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Admitted,
    /// The process starts while the admission is committed, and gets its request after that.
    Awaited {
        /// Since it was spawned.
        pid: Option<u32>,
    },
    /// The admission could not be stored: there is no such job.
    Refused,
}

impl Run {
    /// Overlays what the database does not know yet; what has ended there stays so, also while its
    /// process is being killed.
    pub(super) fn show(&self, job: &mut Job) {
        if job.status.is_terminal() {
            return;
        }
        job.status = JobStatus::Running;
        job.attempt = self.job.attempt;
        job.started_at = Some(self.started_at.to_string());
    }

    pub(super) fn claim(&self, snapshot: Option<&String>) -> Claim {
        Claim {
            job_id: self.job.job_id.clone(),
            attempt: self.job.attempt,
            started_at: self.started_at,
            config_snapshot: snapshot.cloned(),
        }
    }
}

impl Dispatcher {
    /// Gives free workers the oldest jobs that may run.
    pub(super) fn fill(&mut self) {
        while self.runs.len() < self.max_workers && !self.rests() {
            let Some(job) = self.ready.take() else { return };
            self.start(job);
        }
    }

    pub(super) fn start(&mut self, job: Queued) {
        let run = self.number();
        self.publish_started(&job);
        self.start_as(run, job, Standing::Admitted);
    }

    /// Begins a run; its error when that can not be, and the job fails.
    pub(super) fn start_as(&mut self, run: u64, job: Queued, standing: Standing) -> Option<String> {
        let timeout = self.catalog.usable(&job.plugin).map_or(Millis(0), |plugin| plugin.timeout(&job.command));
        let careful = self.is_careful();
        let mut entry = Run {
            job,
            started_at: now(),
            started: Instant::now(),
            timeout,
            claim_submitted: false,
            claim_written: false,
            held: None,
            ended: None,
            stdout_withheld: false,
            counted: true,
            is_cancelled: false,
            standing,
            context: None,
            delivers: false,
        };
        let prepared = match self.context_of(&entry.job) {
            Ok(context) => {
                entry.context = context;
                self.prepare(run, &entry)
            }
            Err(error) => Err(Failure::terminal(error)),
        };
        match prepared {
            Ok(start) => {
                if enabled(Level::Info) {
                    log_start(&entry, &start.spawn);
                }
                entry.delivers = start.spawn.deliver.is_some();
                if standing == Standing::Admitted {
                    self.publish_preflight(&entry.job, None);
                }
                self.runs.insert(run, entry);
                if careful {
                    self.hold(run, start);
                } else {
                    self.unwritten_claims.push_back((Instant::now(), run));
                    self.supervisor.send(Command::Start(start));
                }
            }
            Err(failure) => {
                let error = failure.error.clone();
                if standing == Standing::Admitted {
                    self.publish_preflight(&entry.job, Some(&error));
                }
                self.runs.insert(run, entry);
                self.fail(run, failure);
                return Some(error);
            }
        }
        None
    }

    /// Everything of a run that can be refused before anybody is asked to spawn.
    fn prepare(&mut self, run: u64, entry: &Run) -> Result<Box<Start>, Failure> {
        let job = &entry.job;
        let Some(plugin) = self.catalog.usable(&job.plugin) else {
            return Err(Failure::terminal(format!("plugin {:?} not found in registry", job.plugin.as_str())));
        };
        if plugin.command(&job.command).is_none() {
            let text = format!("plugin {:?} does not support command {:?}", job.plugin.as_str(), job.command.as_str());
            return Err(Failure::terminal(text));
        }
        if !self.states.contains_key(&job.plugin) {
            let state = self.reader.plugin_state(job.plugin.as_str()).map_err(|error| {
                Failure::terminal(format!("failed to get plugin state: {}", shared::log::chain(&error)))
            })?;
            let state = state.unwrap_or_else(|| "{}".to_owned());
            store::check_stored(job.plugin.as_str(), &state).map_err(Failure::terminal)?;
            self.states.insert(job.plugin.clone(), state);
        }
        let state = self.states.get(&job.plugin).map_or("{}", String::as_str);
        let request = request_tail(RequestParts {
            job_id: job.job_id.as_str(),
            plugin: job.plugin.as_str(),
            command: job.command.as_str(),
            config: &plugin.conf.config_json,
            state,
            payload: job.payload.as_deref(),
            context: entry.context.as_ref(),
            outside: None,
            deadline_at: entry.started_at.plus(entry.timeout),
        })
        .map_err(|error| Failure::terminal(error.to_string()))?;
        Ok(Box::new(Start {
            spawn: Spawn {
                run,
                job_id: job.job_id.clone(),
                plugin: job.plugin.clone(),
                manifest: plugin.manifest.clone(),
                entrypoint: plugin.entrypoint.clone(),
                account: plugin.account.clone(),
                env: plugin.env.clone(),
                cwd: plugin.cwd.clone(),
                deadline: entry.timeout,
                deliver: plugin.deliver(run, |principal| self.principals.contains(principal)),
            },
            request,
            is_held: entry.standing != Standing::Admitted,
        }))
    }

    /// A claim must be durable before its spawn.
    pub(super) fn is_careful(&self) -> bool {
        self.started.elapsed() < CAREFUL_START || self.writer_failing.is_some()
    }

    /// Writes the claim first; the spawn follows its commit.
    fn hold(&mut self, run: u64, start: Box<Start>) {
        if let Some(entry) = self.runs.get_mut(&run) {
            entry.held = Some(start);
        }
        self.write_claim(run, Urgency::Now);
    }

    pub(super) fn write_claim(&mut self, run: u64, urgency: Urgency) {
        let ticket = self.number();
        let Some(entry) = self.runs.get_mut(&run) else { return };
        if !std::mem::replace(&mut entry.claim_submitted, true) {
            let claim = entry.claim(self.snapshot.as_ref());
            self.pending.insert(ticket, Pending::Claim { run });
            self.writer.submit(ticket, Write::Claim(claim), urgency);
        }
    }

    /// Claims that no completion came for within the window.
    pub(super) fn write_old_claims(&mut self, at: Instant) {
        if self.writer_failing.is_some() {
            return;
        }
        while let Some((claimed, run)) = self.unwritten_claims.front().copied() {
            if at.duration_since(claimed) < CLAIM_WINDOW && self.runs.contains_key(&run) {
                return;
            }
            self.unwritten_claims.pop_front();
            self.write_claim(run, Urgency::Lazy);
        }
    }

    /// A claim is durable; one that no longer held ends its run.
    pub(super) fn claimed(&mut self, run: u64, holds: bool) {
        let Some(entry) = self.runs.get_mut(&run) else { return };
        entry.claim_written = holds;
        let held = entry.held.take();
        match (holds, held) {
            (true, Some(_)) if self.stopping.is_some() => self.requeue(run),
            (true, Some(start)) => self.supervisor.send(Command::Start(start)),
            (true, None) => {}
            (false, Some(_)) => self.forget(run),
            (false, None) => self.supervisor.send(Command::End { run, grace: Millis(0) }),
        }
    }

    pub(super) fn run_event(&mut self, event: RunEvent) {
        match event {
            RunEvent::Spawned { run, pid } => self.spawned(run, pid),
            RunEvent::Refused { run, .. } if self.is_unaccepted(run) => self.forget_unaccepted(run),
            RunEvent::Ended(ended) if self.is_unaccepted(ended.run) => self.forget_unaccepted(ended.run),
            RunEvent::Refused { run, refusal } => self.refused(run, &refusal),
            RunEvent::Ended(ended) => self.scrub(ended),
            RunEvent::SpawnerLost { text } => self.failed = Some(format!("the spawner is gone: {text}")),
        }
    }

    fn spawned(&mut self, run: u64, pid: u32) {
        let Some(entry) = self.runs.get_mut(&run) else { return };
        let job_id = entry.job.job_id.as_str();
        log(Level::Debug, "plugin spawned", &[("job_id", job_id.into()), ("pid", pid.into())]);
        match &mut entry.standing {
            Standing::Awaited { pid: known } => *known = Some(pid),
            Standing::Admitted => self.publish_spawned(run, pid),
            Standing::Refused => {}
        }
    }

    fn refused(&mut self, run: u64, refusal: &RunRefusal) {
        if self.stopping.as_ref().is_some_and(Stop::is_killing) {
            return self.requeue(run);
        }
        let Some(entry) = self.runs.get(&run) else { return };
        let plugin = &entry.job.plugin;
        let account = self.catalog.usable(plugin).and_then(|plugin| plugin.account.as_ref()).map(|name| name.as_str());
        let failure = outcome::judge_refusal(refusal, account);
        if failure.is_security_event {
            let fields = [
                ("event", "plugin.fingerprint_mismatch".into()),
                ("plugin", plugin.as_str().into()),
                ("job_id", entry.job.job_id.as_str().into()),
                ("detail", (&failure.error).into()),
            ];
            log(Level::Error, "SECURITY: plugin does not match what was locked; its secrets were withheld", &fields);
            let (plugin, job_id) = (plugin.clone(), entry.job.job_id.clone());
            self.publish_mismatch(plugin.as_str(), &job_id, &failure.error);
        }
        self.fail(run, failure);
    }

    /// The run no longer counts against its plugin's cap.
    pub(super) fn release(&mut self, run: u64) {
        if let Some(entry) = self.runs.get_mut(&run)
            && std::mem::replace(&mut entry.counted, false)
        {
            self.ready.release(&entry.job);
        }
    }

    /// The job of a run that began early is durable: its process gets its request.
    pub(super) fn confirm_early(&mut self, run: u64, job: &Queued, preflight_error: Option<&str>) {
        self.publish_started(job);
        self.publish_preflight(job, preflight_error);
        // It may have ended without having waited for its request.
        let Some(entry) = self.runs.get_mut(&run) else { return };
        let standing = std::mem::replace(&mut entry.standing, Standing::Admitted);
        self.supervisor.send(Command::Release { run });
        if let Standing::Awaited { pid: Some(pid) } = standing {
            self.publish_spawned(run, pid);
        }
    }

    /// The job of a run that began early was not accepted: its process ends without a request.
    pub(super) fn drop_early(&mut self, run: u64) {
        let Some(entry) = self.runs.get_mut(&run) else { return };
        entry.standing = Standing::Refused;
        let fields = [("job_id", entry.job.job_id.as_str().into()), ("plugin", entry.job.plugin.as_str().into())];
        log(Level::Warn, "job was not accepted; its process ends without a request", &fields);
        self.supervisor.send(Command::End { run, grace: Millis(0) });
    }

    fn is_unaccepted(&self, run: u64) -> bool {
        self.runs.get(&run).is_some_and(|entry| entry.standing == Standing::Refused)
    }

    fn forget_unaccepted(&mut self, run: u64) {
        if self.runs.get(&run).is_some_and(|entry| entry.delivers) {
            self.ask_vault(vault::Request::CloseDelivery { delivery_id: run }, Vec::new());
        }
        self.forget(run);
    }

    /// Drops a run that has no outcome of its own.
    pub(super) fn forget(&mut self, run: u64) {
        self.release(run);
        if let Some(entry) = self.runs.remove(&run) {
            self.backlog.forget(&entry.job.job_id);
        }
    }
}

fn log_start(run: &Run, spawn: &Spawn) {
    let job = &run.job;
    let ids = [("job_id", job.job_id.as_str().into()), ("plugin", job.plugin.as_str().into())];
    let started = [ids[0], ids[1], ("command", job.command.as_str().into()), ("attempt", job.attempt.into())];
    log(Level::Info, "job started", &started);
    let timeout = run.timeout.to_string();
    let executing = [ids[0], ids[1], ("entrypoint", (&spawn.entrypoint).into()), ("timeout", (&timeout).into())];
    log(Level::Info, "plugin executing", &executing);
}
