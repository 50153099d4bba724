//! The spawner's loop: the executor's messages, the agent's words, children that ended, deadlines.
//! One thread, one poll; it waits for nobody.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use shared::time::Millis;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::spawner::{Exit, Reply, Request, RunRefusal, Spawn};
use shared::wire::vault::{Attestation, Delivery};

use crate::accounts::Accounts;
use crate::child::{self, Plan, Program};
use crate::confine;
use crate::deliver::{self, Agent, Pipes, Word};
use crate::reap::{DYING, LOOK, Leader, Orphans};
use crate::sys::{self, Child, Record, Stack, Strings};

/// Everything that the loop holds.
pub(crate) struct Spawner {
    line: OwnedFd,
    executor_uid: u32,
    agent: Agent,
    /// `None` before `configure`.
    accounts: Option<Accounts>,
    enforcing: bool,
    landlock: Option<OwnedFd>,
    /// Prepared, and waiting for the agent's word.
    prepared: HashMap<u64, Prepared>,
    runs: HashMap<u64, Run>,
    leaders: BTreeMap<i32, u64>,
    orphans: Orphans,
    next_look: Instant,
    /// Ended runs whose leftovers are still dying.
    dying: Vec<Ending>,
    stacks: Vec<Stack>,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    buffer: Vec<u8>,
}

struct Prepared {
    spawn: Spawn,
    pipes: Pipes,
    /// What `program` names by number, where it does.
    entrypoint: OwnedFd,
    program: Program,
    ids: Option<(u32, u32)>,
    confined: bool,
    deadline: Instant,
}

struct Run {
    leader: Leader,
    /// Kept until the leader is reaped: the child may use both until then.
    child: Box<Child<Plan>>,
    stack: Stack,
}

struct Ending {
    run: u64,
    exit: Exit,
    timed_out: bool,
    leftovers: u32,
}

/// Why the spawner ends.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// A message that is none of the executor's.
    Message(String),
    Io(io::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(why) => write!(f, "message of the executor: {why}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for ServeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for ServeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Spawner {
    /// # Errors
    /// The kernel shows no list of children.
    pub(crate) fn new(line: OwnedFd, executor_uid: u32, agent: Agent) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&line, true)?;
        Ok(Self {
            line,
            executor_uid,
            agent,
            accounts: None,
            enforcing: false,
            landlock: None,
            prepared: HashMap::new(),
            runs: HashMap::new(),
            leaders: BTreeMap::new(),
            orphans: Orphans::new()?,
            next_look: Instant::now(),
            dying: Vec::new(),
            stacks: Vec::new(),
            outbox: VecDeque::new(),
            buffer: vec![0; LINE_MAX],
        })
    }

    /// Serves until the executor closes its end; then every run is killed.
    ///
    /// # Errors
    /// A message that is none of the executor's, or a broken line; every run is killed then too.
    pub(crate) fn serve(&mut self) -> Result<(), ServeError> {
        let ended = self.turn_until_closed();
        self.kill_all();
        ended
    }

    fn turn_until_closed(&mut self) -> Result<(), ServeError> {
        loop {
            let (line, agent, ended) = self.wait()?;
            if line && !self.read_line()? {
                return Ok(());
            }
            let words = if agent { self.agent.words() } else { Vec::new() };
            let now = Instant::now();
            for (run, word) in words.into_iter().chain(self.agent.overdue(now)) {
                self.word(run, word)?;
            }
            for run in ended {
                self.reap(run)?;
            }
            for run in self.runs.values_mut() {
                run.leader.tick(now);
            }
            if !self.dying.is_empty() || self.next_look <= now {
                self.next_look = now + LOOK;
                self.bury(None)?;
            }
            self.flush()?;
        }
    }

    /// Polls; whether the line and the agent have something, and which leaders have ended.
    fn wait(&self) -> Result<(bool, bool, Vec<u64>), ServeError> {
        let line = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut polled = vec![PollFd::new(&self.line, line)];
        polled.extend(self.agent.socket().map(|socket| PollFd::new(socket, PollFlags::IN)));
        let before_runs = polled.len();
        let mut runs = Vec::with_capacity(self.runs.len());
        for (number, run) in &self.runs {
            runs.push(*number);
            polled.push(PollFd::new(&run.leader.pidfd, PollFlags::IN));
        }
        let now = Instant::now();
        let dying = (!self.dying.is_empty()).then(|| now + DYING);
        let look = (!self.runs.is_empty()).then_some(self.next_look);
        let due = self.runs.values().filter_map(|run| run.leader.due());
        let wake = due.chain(self.agent.next_deadline()).chain(dying).chain(look).min();
        let timeout = wake.map(|wake| timespec(wake.saturating_duration_since(now)));
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let ended = runs.into_iter().zip(&polled[before_runs..]).filter(|(_, polled)| ready(polled));
        let ended = ended.map(|(run, _)| run).collect();
        Ok((ready(&polled[0]), before_runs > 1 && ready(&polled[1]), ended))
    }

    /// Takes every waiting message; `false` when the executor has closed its end.
    fn read_line(&mut self) -> Result<bool, ServeError> {
        loop {
            let mut descriptors = Vec::new();
            let taken = match fds::receive(self.line.as_fd(), &mut self.buffer, &mut descriptors) {
                Ok(0) => return Ok(false),
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // Closed too, with replies that the executor has not read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let request = codec::decode::<Request, LINE_MAX>(&self.buffer[..taken])
                .map_err(|error| ServeError::Message(error.to_string()))?;
            match request {
                Request::Hello { .. } => return Err(ServeError::Message("a second hello".to_owned())),
                Request::Configure { accounts } => self.configure(accounts)?,
                // What a run that goes on holds is in its child's use: it must not be replaced.
                Request::Spawn(Spawn { run, .. })
                    if self.runs.contains_key(&run) || self.prepared.contains_key(&run) =>
                {
                    return Err(ServeError::Message(format!("run {run} is there already")));
                }
                Request::Spawn(spawn) => self.spawn(spawn)?,
                Request::End { run, grace } => self.end(run, grace)?,
            }
        }
    }

    fn configure(&mut self, accounts: Vec<shared::wire::spawner::Account>) -> Result<(), ServeError> {
        let reply = match self.try_configure(accounts) {
            Ok(()) => Reply::Ready { enforcing: self.enforcing, cgroup: false, landlock: self.landlock.is_some() },
            Err(text) => Reply::ConfigureRefused { text },
        };
        self.answer(&reply, Vec::new())
    }

    fn try_configure(&mut self, accounts: Vec<shared::wire::spawner::Account>) -> Result<(), String> {
        if self.accounts.is_some() {
            return Err("the accounts are configured already".to_owned());
        }
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let can_drop = confine::can_drop().map_err(|error| error.to_string())?;
        if !accounts.is_empty() && !can_drop {
            return Err("accounts need CAP_SETUID, CAP_SETGID and CAP_KILL, which are not all held".to_owned());
        }
        let enforcing = !accounts.is_empty();
        let accounts = Accounts::check(accounts, own, self.executor_uid)?;
        self.landlock = confine::landlock_ruleset();
        if enforcing {
            confine::shut_filter(&accounts, self.executor_uid)?;
        }
        self.enforcing = enforcing;
        self.accounts = Some(accounts);
        Ok(())
    }

    fn spawn(&mut self, spawn: Spawn) -> Result<(), ServeError> {
        let run = spawn.run;
        match self.prepare(spawn) {
            Ok(Some(prepared)) => self.launch(prepared, None),
            Ok(None) => Ok(()),
            Err(refusal) => self.refuse(run, refusal),
        }
    }

    /// Pipes and files; `None` when the agent was asked and its word is awaited.
    fn prepare(&mut self, spawn: Spawn) -> Result<Option<Prepared>, RunRefusal> {
        let deadline = Instant::now() + spawn.deadline.as_duration();
        let accounts = self.accounts.as_ref().ok_or(RunRefusal::NotConfigured)?;
        let account = match &spawn.account {
            Some(name) => Some(accounts.get(name).ok_or(RunRefusal::UnknownAccount)?),
            None if self.enforcing => return Err(RunRefusal::UnknownAccount),
            None => None,
        };
        let ids = account.map(|account| (account.uid, account.gid));
        let confined = account.is_some_and(|account| !account.credentialed);
        let start = |error: io::Error| RunRefusal::Start { text: error.to_string() };
        // Without secrets a plugin may lie in its own user's home.
        let trusted = self.enforcing && spawn.deliver.is_some();
        let entrypoint = deliver::open(&spawn.entrypoint, trusted)?;
        let pipes = Pipes::new(ids.map(|(uid, _)| uid)).map_err(start)?;
        let program = deliver::program(&spawn.entrypoint, &entrypoint).map_err(start)?;
        let Some(asked) = spawn.deliver.clone() else {
            return Ok(Some(Prepared { spawn, pipes, entrypoint, program, ids, confined, deadline }));
        };
        let manifest = deliver::open(&spawn.manifest, trusted)?;
        let delivery = Delivery {
            delivery_id: asked.delivery_id,
            job_id: spawn.job_id.clone(),
            attestation: Attestation {
                plugin: spawn.plugin.clone(),
                uses: asked.uses,
                principal: asked.principal,
                requires_vault: asked.requires_vault,
                account: ids,
            },
        };
        if !self.agent.ask(spawn.run, delivery, [&pipes.stdin_write, &manifest, &entrypoint]) {
            return Err(RunRefusal::AgentUnavailable);
        }
        let run = spawn.run;
        self.prepared.insert(run, Prepared { spawn, pipes, entrypoint, program, ids, confined, deadline });
        Ok(None)
    }

    fn word(&mut self, run: u64, word: Word) -> Result<(), ServeError> {
        let Some(prepared) = self.prepared.remove(&run) else { return Ok(()) };
        match word {
            Word::Delivered { secret_names_count } => self.launch(prepared, Some(secret_names_count)),
            Word::Refused(refusal) => self.refuse(run, refusal),
        }
    }

    fn refuse(&mut self, run: u64, refusal: RunRefusal) -> Result<(), ServeError> {
        self.answer(&Reply::RunRefused { run, refusal }, Vec::new())
    }

    /// Makes the child and hands the executor its ends of the pipes at once.
    fn launch(&mut self, prepared: Prepared, delivered: Option<u32>) -> Result<(), ServeError> {
        let run = prepared.spawn.run;
        match self.make(prepared) {
            Ok((pid, ends)) => {
                let (prefixed, secret_names_count) = (delivered.is_some(), delivered.unwrap_or(0));
                self.answer(&Reply::Spawned { run, pid, prefixed, secret_names_count }, ends)
            }
            Err(error) => self.refuse(run, RunRefusal::Start { text: error.to_string() }),
        }
    }

    fn make(&mut self, prepared: Prepared) -> io::Result<(u32, Vec<OwnedFd>)> {
        // `entrypoint` and the child's ends of the pipes close when this returns: the child has its own.
        let Prepared { spawn, pipes, entrypoint: _entrypoint, program, ids, confined, deadline } = prepared;
        let Pipes { stdin_write, stdin_read, stdout_read, stdout_write, stderr_read, stderr_write } = pipes;
        let text = |text: String| CString::new(text).map_err(io::Error::from);
        let plan = Plan {
            streams: [stdin_read.as_raw_fd(), stdout_write.as_raw_fd(), stderr_write.as_raw_fd()],
            ids,
            confined,
            landlock: self.landlock.as_ref().map(AsRawFd::as_raw_fd),
            cwd: spawn.cwd.map(text).transpose()?,
            program,
            argv: Strings::new(vec![text(spawn.entrypoint)?]),
            envp: Strings::new(spawn.env.into_iter().map(text).collect::<io::Result<_>>()?),
        };
        let stack = self.stacks.pop().map_or_else(Stack::new, Ok)?;
        let child = Box::new(Child { body: child::become_plugin, plan, record: Record::default() });
        let (pid, pidfd) = match sys::spawn(&stack, &child) {
            Ok(made) => made,
            Err(error) => {
                self.stacks.push(stack);
                return Err(error);
            }
        };
        let raw = pid.as_raw_nonzero().get();
        let leader = Leader::new(pid, pidfd, deadline);
        self.leaders.insert(raw, spawn.run);
        self.runs.insert(spawn.run, Run { leader, child, stack });
        Ok((raw.unsigned_abs(), vec![stdin_write, stdout_read, stderr_read]))
    }

    fn end(&mut self, run: u64, grace: Millis) -> Result<(), ServeError> {
        if let Some(run) = self.runs.get_mut(&run) {
            run.leader.terminate(grace, Instant::now());
            return Ok(());
        }
        match self.prepared.remove(&run) {
            Some(_) => self.refuse(run, RunRefusal::Start { text: "ended before its start".to_owned() }),
            None => Ok(()),
        }
    }

    /// A leader has ended: its group goes with it.
    fn reap(&mut self, number: u64) -> Result<(), ServeError> {
        let Some(run) = self.runs.get(&number) else { return Ok(()) };
        let Some(mut exit) = run.leader.reap() else { return Ok(()) };
        let (pid, timed_out) = (run.leader.pid, run.leader.timed_out());
        if let Some((step, errno)) = run.child.record.failure() {
            let step = child::STEPS.get(step as usize).copied().unwrap_or(shared::wire::spawner::Step::Exec);
            exit = Exit::StartFailed { step, errno };
        }
        self.leaders.remove(&pid.as_raw_nonzero().get());
        if let Some(Run { stack, .. }) = self.runs.remove(&number) {
            self.stacks.push(stack);
        }
        self.dying.push(Ending { run: number, exit, timed_out, leftovers: 0 });
        self.bury(Some((number, pid)))
    }

    /// Kills and reaps what ended runs left behind; those of which nothing is left are told.
    fn bury(&mut self, ended: Option<(u64, rustix::process::Pid)>) -> Result<(), ServeError> {
        let reaped = self.orphans.sweep(ended, &self.leaders)?;
        if let Some(last) = self.dying.last_mut() {
            last.leftovers += reaped;
        }
        if self.orphans.is_dying() {
            return Ok(());
        }
        for Ending { run, exit, timed_out, leftovers } in std::mem::take(&mut self.dying) {
            self.answer(&Reply::Ended { run, exit, timed_out, leftovers }, Vec::new())?;
        }
        Ok(())
    }

    fn answer(&mut self, reply: &Reply, descriptors: Vec<OwnedFd>) -> Result<(), ServeError> {
        self.outbox.push_back((codec::encode(reply), descriptors));
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ServeError> {
        while let Some((message, descriptors)) = self.outbox.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match fds::send(self.line.as_fd(), message, &borrowed) {
                Ok(_) => self.outbox.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The executor is gone: the next read says so.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.outbox.clear();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// Nothing may outlive the spawner.
    fn kill_all(&mut self) {
        let until = Instant::now() + Duration::from_secs(2);
        for run in self.runs.values_mut() {
            run.leader.terminate(Millis(0), until);
        }
        while Instant::now() < until {
            self.runs.retain(|_, run| run.leader.reap().is_none());
            self.leaders.retain(|_, run| self.runs.contains_key(run));
            let swept = self.orphans.sweep(None, &self.leaders);
            if self.runs.is_empty() && (swept.is_err() || !self.orphans.is_dying()) {
                return;
            }
            let _ = rustix::event::poll(&mut [], Some(&timespec(DYING)));
        }
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(span.subsec_nanos()) }
}
