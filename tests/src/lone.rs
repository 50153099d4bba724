//! The executor alone with its spawner. The harness is its launcher, its front and its agent, which
//! has no vault: so a life begins in some 15 ms, and may end at any moment without taking others
//! along.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use shared::id::{CommandName, JobId, PluginName};
use shared::time::Millis;
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{self, AGENT_MAX, EXECUTOR_MAX, Envelope, FrameError, HELLO_MAX, LINE_MAX};
use shared::wire::gateway::{Reply, Request};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::launch::{Start, Started};
use shared::wire::{codec, vault};

use crate::command::command;
use crate::front_peer::seqpacket;
use crate::instance::Prepared;
use crate::site::PATIENCE;
use crate::{procs, wait};

/// One life of an executor. Dropping it ends it and all that it started.
#[derive(Debug)]
pub struct Lone {
    child: Child,
    /// The launcher's line; its end would be the executor's stop.
    line: OwnedFd,
    /// Where its files are, by which its processes are known.
    root: std::path::PathBuf,
    ready: Instant,
}

/// The front's end of its line to the executor.
pub struct Front {
    stream: UnixStream,
    inbox: Inbox,
    calls: u64,
}

/// How a start ended.
pub enum Begun {
    Ready(Lone, Front),
    /// It was killed before it was ready.
    Killed,
}

impl Lone {
    /// Starts one on what is prepared and waits until it is ready.
    ///
    /// # Panics
    /// When it refuses its start or ends.
    pub fn start(prepared: &Prepared) -> (Self, Front) {
        match Self::start_under(prepared, &[]) {
            Begun::Ready(lone, front) => (lone, front),
            Begun::Killed => panic!("the executor was killed\n{}", log(prepared.root())),
        }
    }

    /// The same under a tracer: a program with arguments that the executor's own follow.
    ///
    /// # Panics
    /// When it refuses its start, or ends otherwise than by SIGKILL.
    pub fn start_under(prepared: &Prepared, tracer: &[String]) -> Begun {
        let mut starting = Starting::new(prepared, tracer);
        let mut packet = vec![0; LINE_MAX];
        let answer = fds::receive(starting.lone.line.as_fd(), &mut packet, &mut Vec::new());
        match answer {
            Ok(length) if length > 0 => {
                let started = codec::decode::<Started, LINE_MAX>(&packet[..length]).expect("Started");
                assert_eq!(started, Started::Ready, "{}", log(prepared.root()));
                starting.lone.ready = Instant::now();
                match Front::hello(starting.front) {
                    Ok(front) => Begun::Ready(starting.lone, front),
                    Err(_) => starting.lone.killed(),
                }
            }
            Ok(_) => starting.lone.killed(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => starting.lone.killed(),
            Err(error) => panic!("no answer of the executor: {error}\n{}", log(prepared.root())),
        }
    }

    /// Starts one, and kills it after `delay` unless it is ready by then. Whether it was killed.
    ///
    /// # Panics
    /// When it refuses its start.
    pub fn start_and_kill(prepared: &Prepared, delay: Duration) {
        let starting = Starting::new(prepared, &[]);
        let end = Instant::now() + delay;
        wait::until_true("the moment to kill", PATIENCE, || Instant::now() >= end);
        starting.lone.kill();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been ready.
    pub fn age(&self) -> Duration {
        self.ready.elapsed()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When it can not be waited for.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours can be waited for").is_some()
    }

    /// Kills it, unless something else just did, and waits until nothing of it is left.
    ///
    /// # Panics
    /// When it ended otherwise, or something outlives it.
    pub fn kill(mut self) {
        procs::signal(self.pid(), Signal::KILL);
        self.end_of_all();
    }

    /// Waits for its end by SIGKILL, which somebody else sees to.
    ///
    /// # Panics
    /// As `kill`, or when it does not end.
    pub fn killed_by_another(mut self) {
        self.end_of_all();
    }

    /// Asks it to stop and waits for it.
    ///
    /// # Panics
    /// When it does not end, or something outlives it.
    pub fn stop(mut self) -> ExitStatus {
        procs::signal(self.pid(), Signal::TERM);
        let status = self.ended();
        self.nothing_left();
        status
    }

    fn killed(mut self) -> Begun {
        self.end_of_all();
        Begun::Killed
    }

    fn end_of_all(&mut self) {
        let status = self.ended();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}\n{}", log(&self.root));
        self.nothing_left();
    }

    fn ended(&mut self) -> ExitStatus {
        wait::until("the executor to end", Duration::from_secs(50), || {
            self.child.try_wait().expect("a child of ours can be waited for")
        })
    }

    fn nothing_left(&self) {
        let what = "everything that the executor started to end";
        wait::until_true(what, Duration::from_secs(10), || procs::of_folder(&self.root).is_empty());
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for pid in procs::of_folder(&self.root) {
            procs::signal(pid, Signal::KILL);
        }
    }
}

/// What was started and has not said yet that it is ready.
struct Starting {
    lone: Lone,
    front: UnixStream,
}

impl Starting {
    fn new(prepared: &Prepared, tracer: &[String]) -> Self {
        let (line, theirs) = seqpacket();
        let stream = || UnixStream::pair().expect("a pair of sockets");
        let ((front, its_front), (agent, its_agent), (spawners, its_spawners)) = (stream(), stream(), stream());
        let admin = prepared.root().join("admin.sock");
        let _ = fs::remove_file(&admin);
        let its_admin = UnixListener::bind(&admin).expect("bind the admin socket");
        let output = |name: &str| {
            let file = File::options().append(true).create(true).open(prepared.root().join(name));
            Stdio::from(file.expect("a file for the output"))
        };
        let program = prepared.programs.join("ductile-executor");
        let mut words = tracer.iter().map(std::ffi::OsString::from).chain([program.into()]);
        let mut executor = command(words.next().expect("the program at least"));
        executor
            .args(words)
            .arg("--config")
            .arg(&prepared.config)
            .args(["--line", "--launcher-version", shared::VERSION])
            .current_dir(prepared.root())
            .stdin(Stdio::from(theirs))
            .stdout(output("log"))
            .stderr(output("stderr"));
        let child = without_capabilities(&mut executor);
        let start = Start::Executor { instance: prepared.database.display().to_string() };
        let descriptors = [its_front.as_fd(), its_admin.as_fd(), its_agent.as_fd(), its_spawners.as_fd()];
        // One that is killed at once does not take it, and that is found out by whoever waits.
        let _ = fds::send_all(line.as_fd(), &codec::encode(&start), &descriptors);
        std::thread::spawn(move || be_agent(agent, spawners));
        let root = prepared.root().to_owned();
        Self { lone: Lone { child, line, root, ready: Instant::now() }, front }
    }
}

/// Starts a command as the launcher of a root without accounts does (`spec/operations.md` 11.2).
/// Only a thread of its own loses its rights, and it ends here.
fn without_capabilities(command: &mut Command) -> Child {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            thread::set_no_new_privs(true).expect("no_new_privs");
            for number in 0..u64::BITS {
                let capability = CapabilitySet::from_bits_retain(1 << number);
                if thread::capability_is_in_bounding_set(capability) == Ok(true) {
                    thread::remove_capability_from_bounding_set(capability).expect("the right to give up a right");
                }
            }
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            thread::set_capabilities(None, sets).expect("rights may always be given up");
            command.spawn().expect("start the executor")
        });
        started.join().expect("the thread that started it ends")
    })
}

/// An agent without a vault; `spawners` is held open beside it. Ends when the executor has closed.
fn be_agent(mut line: UnixStream, spawners: UnixStream) {
    let Ok(Some(_)) = frame::read::<Hello, HELLO_MAX>(&mut line) else { return };
    if frame::write(&mut line, &HelloReply::Welcome(Hello::ours(None)), HELLO_MAX).is_err() {
        return;
    }
    while let Ok(Some(Envelope { call, body })) = frame::read::<Envelope<vault::Request>, AGENT_MAX>(&mut line) {
        let reply = match body {
            vault::Request::Status => vault::Reply::Status(vault::Status {
                vault: vault::VaultState::Absent,
                generation: 0,
                memory_locked: false,
                key_source: String::new(),
                recovery_recipients: Vec::new(),
                principals: Vec::new(),
            }),
            vault::Request::Prepare { .. } => vault::Reply::Prepared {
                principals: Vec::new(),
                token_key: [7; 32],
                tokens: Vec::new(),
                admin_token: None,
            },
            _ => vault::Reply::Done,
        };
        if frame::write(&mut line, &Envelope { call, body: reply }, AGENT_MAX).is_err() {
            break;
        }
    }
    drop(spawners);
}

impl Front {
    fn hello(mut stream: UnixStream) -> Result<Self, FrameError> {
        stream.set_read_timeout(Some(PATIENCE)).expect("set the time-out");
        frame::write(&mut stream, &Hello::ours(None), HELLO_MAX)?;
        match frame::read::<HelloReply, HELLO_MAX>(&mut stream)? {
            Some(HelloReply::Welcome(_)) => Ok(Self { stream, inbox: Inbox::default(), calls: 0 }),
            Some(HelloReply::Refused(refusal)) => panic!("the executor refuses its front: {refusal}"),
            None => Err(FrameError::Cut),
        }
    }

    /// Sends a request and waits for nothing; `None` when the executor is gone.
    ///
    /// # Panics
    /// When the request is too long.
    pub fn send(&mut self, request: Request) -> Option<u64> {
        self.calls += 1;
        let envelope = Envelope { call: self.calls, body: request };
        let bytes = frame::to_frame(&envelope, EXECUTOR_MAX).expect("a test's request fits");
        fds::send_all(self.stream.as_fd(), &bytes, &[]).ok().map(|()| envelope.call)
    }

    /// The next reply; `None` when the executor is gone.
    ///
    /// # Panics
    /// When none comes in time, or it is malformed.
    pub fn reply(&mut self) -> Option<(u64, Reply)> {
        match self.inbox.wait::<Envelope<Reply>, EXECUTOR_MAX>(self.stream.as_fd()) {
            Ok(Some((envelope, _))) => Some((envelope.call, envelope.body)),
            Ok(None) | Err(FrameError::Cut) => None,
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {}", shared::log::chain(&error)),
        }
    }

    /// Asks and waits for the answer; replies to earlier requests are passed over.
    ///
    /// # Panics
    /// As `reply`.
    pub fn ask(&mut self, request: Request) -> Option<Reply> {
        let call = self.send(request)?;
        loop {
            let (answered, reply) = self.reply()?;
            if answered == call {
                return Some(reply);
            }
        }
    }

    /// Triggers a job of a plugin's `poll` and waits for its admission; `None` when the executor
    /// is gone.
    ///
    /// # Panics
    /// When it is refused.
    pub fn trigger(&mut self, plugin: &str, payload: &str) -> Option<JobId> {
        match self.ask(trigger(plugin, payload))? {
            Reply::Accepted { job_id } => Some(job_id),
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Jobs queued or running; `None` when the executor is gone.
    ///
    /// # Panics
    /// When something else is answered.
    pub fn depth(&mut self) -> Option<u64> {
        match self.ask(Request::Health)? {
            Reply::Health(health) => Some(health.queue_depth),
            other => panic!("no health: {other:?}"),
        }
    }

    /// Waits until nothing is queued or running.
    ///
    /// # Panics
    /// When that does not come to pass, or the executor ends.
    pub fn drained(&mut self) {
        wait::until_true("every job to end", 4 * PATIENCE, || self.depth().expect("the executor lives") == 0);
    }
}

/// A request for one job of a plugin's `poll`.
///
/// # Panics
/// When the name is none.
pub fn trigger(plugin: &str, payload: &str) -> Request {
    Request::Trigger {
        plugin: PluginName::parse(plugin).expect("a name"),
        command: CommandName::parse("poll").expect("a name"),
        payload: (!payload.is_empty()).then(|| payload.to_owned()),
        may_write: true,
        wait: Millis(0),
    }
}

/// The end of what it logged.
pub fn log(root: &Path) -> String {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let (log, stderr) = (read("log"), read("stderr"));
    let lines: Vec<_> = log.lines().rev().take(30).collect();
    format!("{stderr}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
