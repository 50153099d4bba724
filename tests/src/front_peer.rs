//! The front's two peers, played by a test: the launcher or systemd that starts it, and the
//! executor at the other end of its line.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use shared::id::{CommandName, PluginName};
use shared::time::Millis;
use shared::wire::frame::{self, EXECUTOR_MAX, Envelope, HELLO_MAX, LINE_MAX};
use shared::wire::gateway::{self, FrontConfig, Plugin, Posture, Reply, Request, Token};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::launch::{Start, Started};
use shared::wire::{codec, fds};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Key of the digests in `config`.
pub const TOKEN_KEY: [u8; 32] = [42; 32];

/// What the played executor tells the front: a free port, the plugins `echo` (`poll`, `handle`,
/// and `write`, which writes) and `off` (not enabled), and no token.
pub fn config() -> FrontConfig {
    let plugin = |name: &str, usable: bool, commands: &[(&str, bool)]| Plugin {
        name: PluginName::parse(name).expect("a name"),
        version: "1.2.3".to_owned(),
        description: String::new(),
        commands: commands
            .iter()
            .map(|&(name, writes)| gateway::Command { name: CommandName::parse(name).expect("a name"), writes })
            .collect(),
        usable,
    };
    FrontConfig {
        listen: Some("127.0.0.1:0".to_owned()),
        posture: Posture::Gateway,
        max_body: 1024,
        max_waiting: 10,
        max_wait: Millis::from_secs(30),
        allowed_origins: vec!["https://app.example".to_owned()],
        token_key: TOKEN_KEY,
        tokens: Vec::new(),
        plugins: vec![
            plugin("echo", true, &[("poll", false), ("handle", false), ("write", true)]),
            plugin("off", false, &[("poll", false)]),
        ],
        log_level: "debug".to_owned(),
    }
}

/// A token as the executor tells it.
pub fn token(text: &str, scopes: &[&str]) -> Token {
    Token {
        digest: *blake3::keyed_hash(&TOKEN_KEY, text.as_bytes()).as_bytes(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        is_admin: false,
    }
}

/// The executor's end of the front's line.
pub struct Peer {
    stream: UnixStream,
}

impl Peer {
    /// Takes the end of a line as it is; nothing is said yet.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        Self { stream }
    }

    /// Answers the front's hello with `theirs`.
    pub fn hello(&mut self, theirs: Hello) {
        let hello: Hello = frame::read::<_, HELLO_MAX>(&mut self.stream).expect("hello").expect("the line is open");
        assert_eq!(hello, Hello::ours(None));
        frame::write(&mut self.stream, &HelloReply::Welcome(theirs), HELLO_MAX).expect("welcome");
    }

    /// Hello, and the configuration that the front asks for.
    pub fn welcome(&mut self, config: &FrontConfig) {
        self.hello(Hello::ours(None));
        let (call, request) = self.request();
        assert_eq!(request, Request::FrontConfig);
        self.answer(call, Reply::FrontConfig(config.clone()));
    }

    /// The front's next request.
    pub fn request(&mut self) -> (u64, Request) {
        let envelope: Envelope<Request> =
            frame::read::<_, EXECUTOR_MAX>(&mut self.stream).expect("request").expect("the line is open");
        (envelope.call, envelope.body)
    }

    pub fn answer(&mut self, call: u64, reply: Reply) {
        frame::write(&mut self.stream, &Envelope { call, body: reply }, EXECUTOR_MAX).expect("answer");
    }

    /// Bytes that may be no message at all.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write");
    }

    /// Waits for the front to close the line; requests on the way are passed over.
    pub fn wait_closed(&mut self) {
        while let Ok(Some(_)) = frame::read::<Envelope<Request>, EXECUTOR_MAX>(&mut self.stream) {}
        let mut byte = [0; 1];
        let end = rustix::net::recv(&self.stream, &mut byte, rustix::net::RecvFlags::empty());
        assert!(
            matches!(end, Ok((0, 0)) | Err(rustix::io::Errno::CONNRESET)),
            "the front keeps the line open: {end:?}"
        );
    }
}

/// A running front.
pub struct Front {
    child: Child,
    log: Arc<Lines>,
    pub address: SocketAddr,
}

/// A front in the launcher's form, with its two lines.
pub struct Launched {
    pub front: Front,
    pub launcher: OwnedFd,
    pub executor: Peer,
}

impl Launched {
    /// Starts the front as the launcher does, and waits until it is ready.
    pub fn start(config: &FrontConfig) -> Self {
        let (mut front, launcher, mut executor) = launch();
        executor.welcome(config);
        assert_eq!(started(&launcher), Started::Ready);
        if config.posture == Posture::Gateway {
            front.address = front.logged_address();
        }
        Self { front, launcher, executor }
    }
}

/// Starts the front as the launcher does, up to the point where it says hello.
pub fn launch() -> (Front, OwnedFd, Peer) {
    let (launcher, line) = seqpacket();
    let (executor, theirs) = UnixStream::pair().expect("pair");
    let front = Front::spawn(ductile_api().arg("--line").stdin(line));
    let start = codec::encode(&Start::Front { instance: "/nowhere/ductile.db".to_owned() });
    fds::send_all(launcher.as_fd(), &start, &[theirs.as_fd()]).expect("start");
    (front, launcher, Peer::new(executor))
}

/// What the front answers on the launcher's line.
pub fn started(launcher: &OwnedFd) -> Started {
    let mut packet = vec![0; LINE_MAX];
    let length = fds::receive(launcher.as_fd(), &mut packet, &mut Vec::new()).expect("an answer");
    codec::decode::<Started, LINE_MAX>(&packet[..length]).expect("Started")
}

/// A launcher's line: the parent's end and the child's.
pub fn seqpacket() -> (OwnedFd, OwnedFd) {
    let (parent, child) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
    let patience = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&parent, patience, Some(PATIENCE)).expect("time-out");
    (parent, child)
}

/// Starts the front as systemd does: one or two listeners become descriptors 3 and 4 under the
/// names given, joined by `:`. A shell moves them there, since that is no work for code without
/// `unsafe`.
pub fn activate(listeners: &[&TcpListener], names: &str, executor: &Path, env: &[(&str, &str)]) -> Front {
    let first = listeners.first().expect("a listener");
    let address = first.local_addr().expect("bound");
    let hand_over = |listener: &TcpListener| -> OwnedFd { listener.try_clone().expect("duplicate").into() };
    let mut command = program("/bin/sh");
    command
        .args(["-c", "export LISTEN_PID=$$; exec \"$@\" 3<&0 4<&2 0</dev/null 2>/dev/null", "sh"])
        .arg(beside("ductile-api"))
        .arg("--executor")
        .arg(executor)
        .env("LISTEN_FDS", listeners.len().to_string())
        .env("LISTEN_FDNAMES", names)
        .envs(env.iter().copied())
        .stdin(hand_over(first))
        .stderr(hand_over(listeners.get(1).unwrap_or(first)));
    let mut front = Front::spawn(&mut command);
    front.address = address;
    front
}

/// The front's program, with nothing of the test's own activation.
pub fn ductile_api() -> Command {
    program(beside("ductile-api"))
}

#[expect(clippy::disallowed_methods, reason = "the harness starts the programs under test")]
fn program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(path);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    command
}

/// A program beside the directory of the test's own.
fn beside(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let path = test.ancestors().nth(2).expect("target directory").join(name);
    assert!(path.exists(), "{} is missing: build the workspace first", path.display());
    path
}

impl Front {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start the front");
        let stdout = child.stdout.take().expect("stdout is piped");
        let log = Arc::new(Lines::default());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.push(line);
            }
        });
        Self { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }

    /// Waits for a log line with all of these in it.
    pub fn logged(&self, parts: &[&str]) -> String {
        self.log.wait(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// All that was logged up to now.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("no panic").clone()
    }

    fn logged_address(&self) -> SocketAddr {
        let line = self.logged(&["\"api listening\""]);
        let value: serde_json::Value = serde_json::from_str(&line).expect("a log line is JSON");
        value["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn terminate(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).expect("signal");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for the front's end and gives its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the front does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    fn push(&self, line: String) {
        self.lines.lock().expect("no panic").push(line);
        self.more.notify_all();
    }

    fn wait(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().expect("no panic");
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such log line in {lines:#?}");
            lines = self.more.wait_timeout(lines, left).expect("no panic").0;
        }
    }
}
