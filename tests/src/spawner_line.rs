//! The harness in the executor's place on the line to a real `ductile-spawner`, and files that a
//! spawner which enforces accepts.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use shared::id::{AccountName, JobId, PluginName};
use shared::time::Millis;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::hello::PROTOCOL;
use shared::wire::spawner::{Account, AgentLine, Exit, Reply, Request, RunRefusal, Spawn};

use crate::command::command;
use crate::{paths, plugins, wait};

/// How long a reply may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Who the spawner becomes where it moves.
pub const OWN: (u32, u32) = (5900, 5900);
/// Two accounts, as uid and gid.
pub const DEFAULT: (u32, u32) = (1001, 1001);
pub const SANDBOX: (u32, u32) = (1002, 1002);

/// A spawner, and the executor's end of its line. Everything is killed when it goes.
pub struct SpawnerLine {
    child: Child,
    line: Option<OwnedFd>,
    /// Came while another reply was waited for.
    waiting: RefCell<Vec<(Reply, Vec<OwnedFd>)>>,
}

/// A child that runs.
pub struct Running {
    pub run: u64,
    pub pid: u32,
    pub prefixed: bool,
    pub secret_names_count: u32,
    /// Does not block; `None` when a test closed it.
    pub stdin: Option<fs::File>,
    pub stdout: fs::File,
    pub stderr: fs::File,
}

/// What `Ended` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    pub timed_out: bool,
    pub leftovers: u32,
}

/// A run from its start to its end.
#[derive(Debug)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub ended: Ended,
}

/// The executor's and the spawner's end of a line.
///
/// # Panics
/// When there are no descriptors.
pub fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
}

/// The program.
///
/// # Panics
/// When it is not built.
pub fn program() -> PathBuf {
    let program = paths::profile().join("ductile-spawner");
    assert!(program.exists(), "run `cargo build -p executor --bin ductile-spawner` first");
    program
}

/// The greeting of this version.
pub fn hello(move_to: Option<(u32, u32)>, agent: AgentLine) -> Request {
    Request::Hello { protocol: PROTOCOL, version: shared::VERSION.to_owned(), move_to, agent }
}

impl SpawnerLine {
    /// Starts `command` with one end of a pair as its stdin, and says nothing yet.
    ///
    /// # Panics
    /// When it can not be started.
    pub fn silent(command: &mut Command, (ours, theirs): (OwnedFd, OwnedFd)) -> Self {
        let child = command
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, line: Some(ours), waiting: RefCell::default() }
    }

    /// A greeted spawner without an agent, which keeps its ids.
    pub fn start() -> Self {
        Self::greeted(None, AgentLine::Descriptor, None)
    }

    /// A spawner that has moved to its own user and has the two accounts `default` and `sandbox`,
    /// and `operator`, which is a credentialed one.
    pub fn enforcing() -> Self {
        let line = Self::greeted(Some(OWN), AgentLine::Descriptor, None);
        line.enforce();
        line
    }

    /// A greeted spawner.
    ///
    /// # Panics
    /// When it does not answer as it must.
    pub fn greeted(move_to: Option<(u32, u32)>, agent: AgentLine, given: Option<OwnedFd>) -> Self {
        let line = Self::silent(&mut command(program()), pair());
        line.greet(&hello(move_to, agent), given.as_ref());
        line
    }

    /// Says hello.
    ///
    /// # Panics
    /// When the answer is not a hello of this version.
    pub fn greet(&self, hello: &Request, given: Option<&OwnedFd>) {
        self.send_with(&codec::encode(hello), given);
        let reply = self.take("hello", |reply| matches!(reply, Reply::Hello { .. })).0;
        assert_eq!(reply, Reply::Hello { protocol: PROTOCOL, version: shared::VERSION.to_owned() });
    }

    /// Configures the accounts of `enforcing`.
    ///
    /// # Panics
    /// When they are refused.
    pub fn enforce(&self) {
        let mut accounts =
            [account("default", DEFAULT), account("sandbox", SANDBOX), account("operator", (1003, 1003))];
        accounts[2].credentialed = true;
        let reply = self.configure(accounts.to_vec());
        assert!(matches!(reply, Reply::Ready { enforcing: true, .. }), "{reply:?}");
    }

    /// Configures no account.
    ///
    /// # Panics
    /// When that is refused.
    pub fn undropped(self) -> Self {
        let reply = self.configure(Vec::new());
        assert!(matches!(reply, Reply::Ready { enforcing: false, .. }), "{reply:?}");
        self
    }

    /// Sends accounts and gives the answer.
    pub fn configure(&self, accounts: Vec<Account>) -> Reply {
        self.send(&Request::Configure { accounts });
        self.take("configure", |reply| matches!(reply, Reply::Ready { .. } | Reply::ConfigureRefused { .. })).0
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&self, request: &Request) {
        self.send_with(&codec::encode(request), None);
    }

    /// Sends bytes as one message.
    ///
    /// # Panics
    /// When the spawner is gone.
    pub fn send_with(&self, bytes: &[u8], given: Option<&OwnedFd>) {
        let given: Vec<_> = given.iter().map(|fd| fd.as_fd()).collect();
        fds::send(self.line().as_fd(), bytes, &given).expect("the spawner takes a message");
    }

    /// The first reply that fits.
    ///
    /// # Panics
    /// When none comes within `PATIENCE`, or the line closes.
    pub fn take(&self, what: &str, fits: impl Fn(&Reply) -> bool) -> (Reply, Vec<OwnedFd>) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.waiting.borrow().iter().position(|(reply, _)| fits(reply));
            if let Some(at) = found {
                return self.waiting.borrow_mut().remove(at);
            }
            assert!(self.receive(end), "no {what} within {PATIENCE:?}; there is {:?}", self.waiting.borrow());
        }
    }

    /// What has been answered until now and was not taken.
    pub fn answered(&self) -> Vec<Reply> {
        while self.receive(Instant::now()) {}
        self.waiting.borrow().iter().map(|(reply, _)| reply.clone()).collect()
    }

    fn receive(&self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut polled = [PollFd::new(self.line(), PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&left)).expect("poll") == 0 {
            return false;
        }
        let (mut buffer, mut descriptors) = (vec![0; LINE_MAX], Vec::new());
        let taken = fds::receive(self.line().as_fd(), &mut buffer, &mut descriptors).expect("receive");
        assert!(taken > 0, "the spawner has closed its line; waiting: {:?}", self.waiting.borrow());
        let reply = codec::decode::<Reply, LINE_MAX>(&buffer[..taken]).expect("a reply");
        self.waiting.borrow_mut().push((reply, descriptors));
        true
    }

    fn line(&self) -> &OwnedFd {
        self.line.as_ref().expect("the line is open")
    }

    /// Asks for a child that must come to be.
    ///
    /// # Panics
    /// When it is refused.
    pub fn spawn(&self, spawn: Spawn) -> Running {
        let run = spawn.run;
        self.send(&Request::Spawn(spawn));
        self.running(run)
    }

    /// The child of `run`, when it comes.
    ///
    /// # Panics
    /// When it is refused.
    pub fn running(&self, run: u64) -> Running {
        let (reply, descriptors) = self.take("child", |reply| match reply {
            Reply::Spawned { run: of, .. } => *of == run,
            Reply::RunRefused { run: of, .. } => *of == run,
            _ => false,
        });
        let Reply::Spawned { pid, prefixed, secret_names_count, .. } = reply else { panic!("{reply:?}") };
        let [stdin, stdout, stderr]: [OwnedFd; 3] = descriptors.try_into().expect("three descriptors");
        let (stdin, stdout, stderr) = (Some(stdin.into()), stdout.into(), stderr.into());
        Running { run, pid, prefixed, secret_names_count, stdin, stdout, stderr }
    }

    /// Why `run` was refused.
    ///
    /// # Panics
    /// When it was not.
    pub fn refusal(&self, run: u64) -> RunRefusal {
        match self.take("refusal", |reply| matches!(reply, Reply::RunRefused { run: of, .. } | Reply::Spawned { run: of, .. } if *of == run)).0 {
            Reply::RunRefused { refusal, .. } => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a child that must be refused.
    pub fn refused(&self, spawn: Spawn) -> RunRefusal {
        let run = spawn.run;
        self.send(&Request::Spawn(spawn));
        self.refusal(run)
    }

    /// How `run` ended, when it has.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&self, run: u64) -> Ended {
        let what = format!("end of run {run}");
        match self.take(&what, |reply| matches!(reply, Reply::Ended { run: of, .. } if *of == run)).0 {
            Reply::Ended { exit, timed_out, leftovers, .. } => Ended { exit, timed_out, leftovers },
            other => panic!("{other:?}"),
        }
    }

    /// From the spawn to the end with `input` on stdin.
    ///
    /// # Panics
    /// When the child is refused or its output is no text.
    pub fn run(&self, spawn: Spawn, input: &str) -> Done {
        let mut running = self.spawn(spawn);
        running.close_with(input);
        self.finish(running)
    }

    /// Waits for the end and reads what was written.
    ///
    /// # Panics
    /// When it does not end or its output is no text.
    pub fn finish(&self, mut running: Running) -> Done {
        let ended = self.ended(running.run);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        running.stdout.read_to_string(&mut stdout).expect("stdout");
        running.stderr.read_to_string(&mut stderr).expect("stderr");
        Done { stdout, stderr, ended }
    }

    pub fn end(&self, run: u64, grace: u64) {
        self.send(&Request::End { run, grace: Millis(grace) });
    }

    /// Closes the executor's end.
    pub fn hang_up(&mut self) {
        self.line = None;
    }

    /// Waits for the spawner's own end; with what it logged.
    ///
    /// # Panics
    /// When it goes on.
    pub fn exited(&mut self) -> (ExitStatus, String) {
        let status = wait::until("the spawner's end", PATIENCE, || self.child.try_wait().expect("a child of ours"));
        let mut log = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut log).expect("the log is text");
        (status, log)
    }
}

impl Drop for SpawnerLine {
    fn drop(&mut self) {
        // Its end of file lets it kill what runs; a hung one must not hang the test.
        self.line = None;
        let end = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(3));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Writes to stdin and closes it.
    ///
    /// # Panics
    /// When stdin is closed, or the text does not fit the pipe.
    pub fn close_with(&mut self, input: &str) {
        let mut stdin = self.stdin.take().expect("stdin is open");
        // A child that ends without reading is no fault of the harness.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("{error}"),
            _ => {}
        }
    }

    /// Reads stdout until it holds `count` lines.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        let (mut text, mut byte) = (Vec::new(), [0]);
        while text.iter().filter(|byte| **byte == b'\n').count() < count {
            assert_eq!(self.stdout.read(&mut byte).expect("stdout"), 1, "only {:?}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

/// An account that is not credentialed.
///
/// # Panics
/// When the name is none.
pub fn account(name: &str, (uid, gid): (u32, u32)) -> Account {
    Account { name: AccountName::parse(name).expect("a name"), uid, gid, credentialed: false }
}

/// One child without account, secrets, environment and directory, with a long deadline.
///
/// # Panics
/// Never.
pub fn request(run: u64, entrypoint: impl AsRef<Path>) -> Spawn {
    let path = entrypoint.as_ref().to_str().expect("a path of ours is text").to_owned();
    Spawn {
        run,
        job_id: JobId::parse(&format!("job-of-run-{run}")).expect("valid"),
        plugin: PluginName::parse("tried").expect("valid"),
        manifest: path.clone(),
        entrypoint: path,
        account: None,
        env: vec!["PATH=/usr/bin".to_owned()],
        cwd: None,
        deadline: Millis(60_000),
        deliver: None,
    }
}

/// The same as an account.
///
/// # Panics
/// When the name is none.
pub fn request_as(account: &str, run: u64, entrypoint: impl AsRef<Path>) -> Spawn {
    Spawn { account: Some(AccountName::parse(account).expect("a name")), ..request(run, entrypoint) }
}

/// A directory of which every ancestor is root's alone, unlike one below `/tmp`; gone when its
/// owner is.
#[derive(Debug)]
pub struct Folder(PathBuf);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Folder {
    /// # Panics
    /// When it can not be made; it needs root.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/opt/ductile-test-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        plugins::make_dir(&path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes an executable script for `/usr/bin/sh`.
    ///
    /// # Panics
    /// When it can not be written.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        self.file(name, format!("#!/usr/bin/sh\n{text}\n").as_bytes(), 0o755)
    }

    /// Writes a file with exactly this mode.
    ///
    /// # Panics
    /// When it can not be written.
    pub fn file(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
        path
    }

    /// A compiled plugin of `tests/plugins`.
    pub fn plugin(&self, name: &str) -> PathBuf {
        plugins::install(name, &self.0);
        self.0.join(name).join(name)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
