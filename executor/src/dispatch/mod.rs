//! The dispatcher: one loop over one closed enum of events. It owns what is queued, running and
//! waited for, in memory, and carries out what the pure rules of `queue` and `plugin` decide. It
//! never touches the database but through `store`, a plugin but through `plugin::supervise`, or a
//! secret at all.

mod admit;
mod backlog;
mod breakers;
mod claim;
mod finish;
mod jobs;
mod operate;
mod publish;
mod report;
mod route;
mod schedule;
mod scrub;
mod upkeep;
mod wall_clock;
mod written;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::id::{JobId, PluginName};
use shared::log::Level;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::{FrontConfig, Health, Reply, Request};
use tokio::sync::mpsc;

use crate::config::Retention;
use crate::hub::Hub;
use crate::ipc::{Answer, Role};
use crate::logging::{self, log, now};
use crate::pipeline::Graph;
use crate::plugin::catalog::Catalog;
use crate::plugin::supervise::{Command, RunEvent, Supervisor};
use crate::queue::ready::Ready;
use crate::schedule::entry::Entry;
use crate::store::StoreError;
use crate::store::read::Reader;
use crate::store::recover::Recovered;
use crate::store::write::{Outcome, Write};
use crate::store::writer::Writer;
use crate::vault::{Call, VaultEvent};
use admit::Waiter;
use backlog::Backlog;
use claim::Run;
use schedule::Schedules;
use upkeep::Upkeep;
use wall_clock::{Step, WallClock};
use written::Pending;

/// A claim waits this long for its completion to ride with (design, decision 32).
const CLAIM_WINDOW: Duration = Duration::from_millis(4);
/// After each start claims are committed before the spawn for this long, so that a job that kills
/// the executor spends its attempts.
const CAREFUL_START: Duration = Duration::from_secs(1);
/// Grace for running jobs at a stop (design, decision 30), then TERM, then KILL.
const STOP_GRACE: Duration = Duration::from_secs(30);
const STOP_KILL: Millis = Millis::from_secs(5);
/// After the order to end the runs a stop ends this much later, whatever is still open: the next
/// start finds it in the database.
const STOP_LAST: Duration = Duration::from_secs(8);

/// How long a line of the log may wait for company.
const LOG_GATHER: Duration = Duration::from_millis(5);

/// Everything that the loop reacts to.
#[derive(Debug)]
pub enum Event {
    Request {
        role: Role,
        request: Request,
        answer: Answer,
    },
    Run(RunEvent),
    Written(Vec<Outcome>),
    Vault(VaultEvent),
    /// SIGTERM or SIGINT, with grace for running jobs; or the launcher is gone, and nobody waits.
    Stop {
        signal: &'static str,
        has_grace: bool,
    },
}

/// What the dispatcher is made of; all of it checked and started.
pub struct Parts {
    pub catalog: Catalog,
    pub front: FrontConfig,
    pub max_workers: usize,
    /// `service.name`: whose jobs the scheduler's are.
    pub service_name: String,
    /// `service.dedupe_ttl`.
    pub dedupe_ttl: Millis,
    pub graph: Graph,
    pub snapshot: Option<String>,
    pub reader: Reader,
    pub writer: Writer,
    pub supervisor: Supervisor,
    pub vault: mpsc::UnboundedSender<Call>,
    /// Registered principals.
    pub principals: Vec<String>,
    pub started_at: Timestamp,
    pub retention: Retention,
    /// `service.tick_interval`.
    pub tick_interval: Millis,
    /// Of the enabled plugins, by name, in their order.
    pub entries: Vec<Entry>,
    /// What a crash had left running.
    pub recovered: Vec<Recovered>,
}

/// Why there is no dispatcher.
#[derive(Debug)]
pub enum DispatchError {
    Store(StoreError),
    Timer(std::io::Error),
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store(_) => "take over the queue",
            Self::Timer(_) => "make a timer",
        })
    }
}

impl std::error::Error for DispatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Timer(error) => Some(error),
        }
    }
}

/// How the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Asked to, in good order.
    Stopped,
    /// A part died; the service must start anew.
    Failed(String),
}

/// The loop's state.
pub struct Dispatcher {
    catalog: Arc<Catalog>,
    front: FrontConfig,
    max_workers: usize,
    service_name: String,
    dedupe_ttl: Millis,
    graph: Graph,
    snapshot: Option<String>,
    reader: Reader,
    writer: Writer,
    supervisor: Supervisor,
    vault: mpsc::UnboundedSender<Call>,
    principals: HashSet<String>,
    vault_calls: u64,
    vault_is_up: bool,
    started_at: Timestamp,
    started: Instant,

    hub: Hub,
    schedules: Schedules,
    clock: WallClock,
    upkeep: Upkeep,
    ready: Ready,
    backlog: Backlog,
    /// Jobs queued or running.
    depth: u64,
    numbers: u64,

    /// The compatibility rows, as last read; this executor alone writes them.
    states: HashMap<PluginName, String>,

    runs: HashMap<u64, Run>,
    /// Claims that are in memory alone, oldest first.
    unwritten_claims: VecDeque<(Instant, u64)>,
    scrubs: HashMap<u64, scrub::Open>,
    pending: HashMap<u64, Pending>,
    /// What the writer could not store and must store before anything else, in its order.
    unwritten: Vec<(u64, Write)>,
    waiters: HashMap<JobId, Vec<Waiter>>,
    waiting: usize,
    /// When the log's lines are written.
    log_due: Option<Instant>,
    /// In this turn a process was begun beside its admission.
    began_early: bool,
    /// Admissions in the writer whose jobs do not run yet.
    unstarted: usize,
    /// The writer can not write: nothing new is claimed, and what is unwritten is tried again then.
    writer_failing: Option<written::Failing>,
    stopping: Option<Stop>,
    failed: Option<String>,
}

/// A stop under way.
struct Stop {
    at: Instant,
    /// When the runs were ordered to end.
    killed: Option<Instant>,
}

impl Stop {
    fn is_killing(&self) -> bool {
        self.killed.is_some()
    }

    /// When it goes on by itself.
    fn next(&self) -> Instant {
        self.killed.map_or(self.at + STOP_GRACE, |killed| killed + STOP_LAST)
    }
}

impl Dispatcher {
    /// Takes over what is queued.
    ///
    /// # Errors
    /// The database can not be read, or the kernel gives no timer.
    pub fn new(parts: Parts) -> Result<Self, DispatchError> {
        let depth = parts.reader.depth().map_err(DispatchError::Store)?;
        let schedules = Schedules::read(parts.entries, &parts.service_name, &parts.reader);
        let schedules = schedules.map_err(DispatchError::Store)?;
        let mut dispatcher = Self {
            catalog: Arc::new(parts.catalog),
            front: parts.front,
            max_workers: parts.max_workers,
            service_name: parts.service_name,
            dedupe_ttl: parts.dedupe_ttl,
            graph: parts.graph,
            snapshot: parts.snapshot,
            reader: parts.reader,
            writer: parts.writer,
            supervisor: parts.supervisor,
            vault: parts.vault,
            principals: parts.principals.into_iter().collect(),
            vault_calls: 0,
            vault_is_up: true,
            started_at: parts.started_at,
            started: Instant::now(),
            schedules,
            hub: Hub::new(parts.started_at),
            clock: WallClock::new().map_err(DispatchError::Timer)?,
            upkeep: Upkeep::new(&parts.retention, parts.tick_interval),
            ready: Ready::default(),
            backlog: Backlog::default(),
            depth,
            numbers: 0,
            states: HashMap::new(),
            runs: HashMap::new(),
            unwritten_claims: VecDeque::new(),
            scrubs: HashMap::new(),
            pending: HashMap::new(),
            unwritten: Vec::new(),
            waiters: HashMap::new(),
            waiting: 0,
            log_due: None,
            began_early: false,
            unstarted: 0,
            writer_failing: None,
            stopping: None,
            failed: None,
        };
        for recovered in &parts.recovered {
            dispatcher.publish_recovered(recovered);
            dispatcher.count_recovered(recovered);
        }
        dispatcher.read_ran(now());
        dispatcher.find_lanes().map_err(DispatchError::Store)?;
        Ok(dispatcher)
    }

    /// Runs until a stop has been carried out or a part has died. The writer is given back, to be
    /// drained and closed; what nobody handled is dropped, since it holds the way back of its answer
    /// open.
    pub async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) -> (Ending, Writer) {
        let mut batch = Vec::new();
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        let mut fed = Instant::now();
        loop {
            let wake = self.next_wake().into_iter().chain(watchdog.map(|period| fed + period)).min();
            tokio::select! {
                count = events.recv_many(&mut batch, 256) => if count == 0 {
                    return (Ending::Failed("every source of events is gone".to_owned()), self.writer);
                },
                () = sleep_until(wake) => {}
                () = self.clock.wait() => self.clock.fired(),
            }
            for event in batch.drain(..) {
                self.handle(event);
            }
            self.tick();
            self.fill();
            if std::mem::take(&mut self.began_early) {
                // The spawner hears of it before the writer does: the two can then use two CPUs.
                tokio::task::yield_now().await;
            }
            self.writer.wake();
            // What rests is looked at when it goes on; a time that has come would wake for nothing.
            let entry = self.schedules.next_wake().filter(|_| !self.rests());
            self.clock.arm(self.backlog.next_due(now()).into_iter().chain(entry).min());
            self.hub.tend(Instant::now());
            self.flush_log(Instant::now());
            if watchdog.is_some_and(|period| fed.elapsed() >= period) {
                fed = Instant::now();
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            if let Some(text) = self.failed {
                return (Ending::Failed(text), self.writer);
            }
            if let Some(stop) = &self.stopping {
                if self.runs.is_empty() && self.pending.is_empty() {
                    self.release_waiters();
                    return (Ending::Stopped, self.writer);
                }
                if stop.is_killing() && stop.next() <= Instant::now() {
                    self.release_waiters();
                    let text = format!(
                        "stopped with {} jobs running and {} writes open; the next start takes them up",
                        self.runs.len(),
                        self.pending.len()
                    );
                    return (Ending::Failed(text), self.writer);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { role, request, answer } => self.request(role, request, answer),
            Event::Run(event) => self.run_event(event),
            Event::Written(outcomes) => self.written(outcomes),
            Event::Vault(event) => self.vault_event(event),
            Event::Stop { signal, has_grace } => self.stop(signal, has_grace),
        }
    }

    /// One request; the permit table has passed it.
    fn request(&mut self, role: Role, request: Request, answer: Answer) {
        match request {
            Request::FrontConfig => answer.send(Reply::FrontConfig(self.front.clone())),
            Request::Health => answer.send(Reply::Health(Health {
                queue_depth: self.depth,
                plugins_loaded: self.catalog.shown().len() as u64,
                plugins_circuit_open: self.schedules.open_breakers(),
                started_at: self.started_at,
            })),
            Request::Trigger { plugin, command, payload, may_write, wait } => {
                self.trigger(admit::Trigger { role, plugin, command, payload, may_write, wait }, answer);
            }
            Request::GetJob { job_id } => self.get_job(&job_id, answer),
            Request::TokenExposed => {
                log(Level::Warn, "admin token seen over HTTP: run 'ductile vault rotate-admin-token'", &[]);
                self.ask_vault(shared::wire::vault::Request::TokenExposed, Vec::new());
                answer.send(Reply::Done);
            }
            Request::RetryJob { job_id, payload, may_write, may_read } => {
                self.retry_job(&jobs::Retry { job_id, payload, may_write, may_read }, answer);
            }
            Request::CancelJob { job_id } => self.cancel_job(&job_id, answer),
            Request::Events { after, wait } => self.hub.watch(after, Instant::now() + wait.as_duration(), answer),
            Request::Schedules { count } => self.show_schedules(count, answer),
            Request::Rearm { plugin, schedule_id } => self.rearm(&plugin, &schedule_id, answer),
            Request::ResetBreaker { plugin, command } => self.reset_breaker(plugin, command, answer),
            Request::Breaker { plugin, command, limit } => self.show_breaker(&plugin, &command, limit, answer),
            Request::ActivePolls => self.show_polls(answer),
        }
    }

    /// What time alone brings: claims to write, retries that are due, waits that are over.
    fn tick(&mut self) {
        let (at, time) = wall_clock::read();
        if let Some(step) = self.clock.stepped(at, time) {
            self.clock_stepped(step, time);
        }
        self.write_old_claims(at);
        self.end_waits(at);
        self.end_scrubs(at);
        self.write_again(at);
        if let Some(stop) = &mut self.stopping
            && !stop.is_killing()
            && stop.next() <= at
        {
            stop.killed = Some(at);
            self.end_all(STOP_KILL);
        }
        self.publish_tick(at, time);
        self.prune(at);
        self.look_at_schedules(time);
        if let Err(error) = self.take_in(time) {
            log(Level::Error, "queue read failed", &[("error", (&shared::log::chain(&error)).into())]);
        }
    }

    /// The next moment at which `tick` has something to do.
    fn next_wake(&self) -> Option<Instant> {
        let claim = self.unwritten_claims.front().filter(|_| self.writer_failing.is_none());
        let claim = claim.map(|(claimed, _)| *claimed + CLAIM_WINDOW);
        let wait = self.waiters.values().flatten().map(|waiter| waiter.until).min();
        let scrub = self.scrubs.values().map(|open| open.until).min();
        let stop = self.stopping.as_ref().map(Stop::next);
        let again = self.writer_failing.as_ref().map(|failing| failing.until);
        let upkeep = self.upkeep.next_wake().filter(|_| !self.rests());
        let others = [self.hub.next_wake(), Some(self.upkeep.next_tick()), upkeep, self.log_due];
        [claim, wait, scrub, stop, again].into_iter().chain(others).flatten().min()
    }

    /// Writes the log's lines when they have waited for company: each turn would cost a system call.
    fn flush_log(&mut self, at: Instant) {
        if !logging::waits() {
            self.log_due = None;
        } else if at >= *self.log_due.get_or_insert(at + LOG_GATHER) {
            logging::flush();
            self.log_due = None;
        }
    }

    /// Nothing new is begun: a stop is under way, or the database can not be written.
    fn rests(&self) -> bool {
        self.stopping.is_some() || self.writer_failing.is_some()
    }

    /// Somebody set the clock, or the machine slept.
    fn clock_stepped(&mut self, step: Step, time: Timestamp) {
        let seconds = step.0 / 1_000_000_000;
        log(Level::Warn, "the clock was set", &[("by_seconds", seconds.into())]);
        if step.0 < 0 {
            self.reanchor_retries(time);
        }
        self.schedules_stepped(time, step.0 > 0);
    }

    /// A number for a run, a ticket or a call; never reused.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn stop(&mut self, signal: &str, has_grace: bool) {
        log(Level::Info, "received shutdown signal", &[("signal", signal.into())]);
        let at = Instant::now();
        let stop = self.stopping.get_or_insert(Stop { at, killed: None });
        if !has_grace && !stop.is_killing() {
            stop.killed = Some(at);
            self.end_all(Millis(0));
        }
    }

    fn end_all(&self, grace: Millis) {
        for run in self.runs.keys() {
            self.supervisor.send(Command::End { run: *run, grace });
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
