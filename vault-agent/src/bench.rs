//! For unit tests: an agent over a real vault in a fresh directory, a plugin on disk, and clients
//! that speak to it over socket pairs, each served by a real thread.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use interprocess::os::unix::uds_local_socket::Stream;
use rustix::pipe::PipeFlags;
use shared::id::{JobId, PluginName};
use shared::secret::Secret;
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{AGENT_MAX, Envelope, HELLO_MAX, to_frame};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Attestation, Delivery, Reply, Request};
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::attest::Files;
use crate::document::{Document, Value};
use crate::identity::{Candidate, Identity};
use crate::line::Line;
use crate::listen;
use crate::log::now;
use crate::permit::Role;
use crate::rules::SecretChange;
use crate::scratch::Scratch;
use crate::vault::{self, Vault};

/// The one secret of the bench's vault.
pub(crate) const VALUE: &str = "hunter2-hunter2";

pub(crate) struct Bench {
    pub(crate) dir: Scratch,
    pub(crate) agent: Arc<Agent>,
    token: Zeroizing<String>,
}

impl Bench {
    /// Principals `fabric` (granted `api`), `bare` (granted nothing) and `gone` (revoked).
    pub(crate) fn new() -> Self {
        let dir = Scratch::new();
        let token = crate::random::mint();
        let nonce = Value::new(Zeroizing::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".to_owned()));
        let mut document = Document::genesis(nonce, Value::new(token.clone()), "");
        for name in ["fabric", "bare", "gone"] {
            document.register_principal(name, "plugin").expect("new");
        }
        document.revoke_principal("gone").expect("known");
        let value = Value::new(Zeroizing::new(VALUE.to_owned()));
        let grants = ["fabric".to_owned(), "gone".to_owned()];
        let change = SecretChange { name: "api", value: &value, pattern: None, principals: Some(&grants), scope: None };
        document.set_secret(&change, "").expect("new");
        let key = age::x25519::Identity::generate();
        dir.file("age.key", age::secrecy::ExposeSecret::expose_secret(&key.to_string()), 0o600);
        let identity = || {
            let candidate = Candidate { path: dir.path("age.key"), source: "--key", explicit: true, credential: false };
            Identity::find(&[candidate]).expect("usable").expect("there")
        };
        vault::create(&dir.path("vault.age"), identity(), document, now()).expect("created");
        let vault = Vault::open(&dir.path("vault.age"), Some(identity()), false, now()).expect("opens");
        dir.file("manifest.yaml", "name: fabric\n", 0o644);
        dir.file("run", "#!/bin/sh\n", 0o755);
        let agent = Agent::new("/v/vault.age".to_owned(), false, vault, Some(dir.path(".checksums"))).expect("a nonce");
        let bench = Self { dir, agent: Arc::new(agent), token };
        bench.lock_plugins(&[asked("fabric"), asked("bare"), asked("gone")]);
        bench
    }

    /// An agent without a vault.
    pub(crate) fn absent() -> Self {
        let agent = Agent::new("/v/vault.age".to_owned(), false, None, None).expect("no vault");
        Self { dir: Scratch::new(), agent: Arc::new(agent), token: Zeroizing::default() }
    }

    pub(crate) fn token(&self) -> Secret {
        Secret::new(self.token.as_bytes().to_vec())
    }

    /// Records the bench's files for these, as `plugin lock` does.
    pub(crate) fn lock_plugins(&self, plugins: &[Attestation]) {
        let mut text = "version: 2\nplugin_fingerprints:\n".to_owned();
        for asked in plugins {
            let attestor = self.agent.attestor().expect("a vault");
            let [manifest, entrypoint] = self.files();
            let found = attestor.fingerprint(asked, &Files { manifest, entrypoint }, false).expect("hashes");
            text.push_str(&format!(
                "  - name: {}\n    manifest_hash: {}\n    entrypoint_hash: {}\n    binding_mac: {}\n",
                asked.plugin, found.manifest_hash, found.entrypoint_hash, found.binding_mac
            ));
        }
        self.dir.file(".checksums", &text, 0o600);
    }

    /// Manifest and entrypoint.
    pub(crate) fn files(&self) -> [OwnedFd; 2] {
        ["manifest.yaml", "run"].map(|name| match File::open(self.dir.path(name)) {
            Ok(file) => file.into(),
            Err(_) => File::open("/dev/null").expect("opens").into(),
        })
    }

    /// Lines of the journal as `op principal secret actor outcome detail`.
    pub(crate) fn facts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path("vault.age.audit")).unwrap_or_default();
        let fact = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            ["op", "principal", "secret_name", "actor", "outcome", "detail"]
                .map(|member| line[member].as_str().expect("text").to_owned())
                .join("|")
        };
        text.lines().map(fact).collect()
    }

    /// A peer of that role, after its `hello`.
    pub(crate) fn connect(&self, role: Role) -> Client {
        let mut client = self.dial(role);
        client.send(&Hello::ours(None), &[]);
        match client.receive::<HelloReply, HELLO_MAX>() {
            Some((HelloReply::Welcome(_), _)) => client,
            other => panic!("{other:?}"),
        }
    }

    /// A peer of that role that has not said anything.
    pub(crate) fn dial(&self, role: Role) -> Client {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let line = Line::new(Stream::from(theirs), role).expect("a line");
        listen::start(&self.agent, line, &Arc::default());
        Client { stream: ours, inbox: Inbox::default(), call: 0 }
    }
}

/// What a plugin of that name asks for, in the one-uid forms.
pub(crate) fn asked(plugin: &str) -> Attestation {
    Attestation {
        plugin: PluginName::parse(plugin).expect("valid"),
        uses: String::new(),
        principal: plugin.to_owned(),
        requires_vault: false,
        account: None,
    }
}

pub(crate) fn delivery(delivery_id: u64, attestation: Attestation) -> Delivery {
    Delivery { delivery_id, job_id: JobId::parse(&format!("job{delivery_id}")).expect("valid"), attestation }
}

/// An empty pipe as the spawner makes it: read end, write end.
pub(crate) fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("pipe");
    rustix::io::ioctl_fionbio(&write, true).expect("nonblocking");
    (read.into(), write)
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    inbox: Inbox,
    call: u64,
}

impl Client {
    pub(crate) fn send<T: serde::Serialize>(&self, message: &T, descriptors: &[OwnedFd]) {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        let frame = to_frame(message, AGENT_MAX).expect("fits");
        fds::send_all(self.stream.as_fd(), &frame, &descriptors).expect("sent");
    }

    /// The next message; `None` when the agent has closed the connection.
    pub(crate) fn receive<T: serde::de::DeserializeOwned, const LIMIT: usize>(&mut self) -> Option<(T, Vec<OwnedFd>)> {
        self.inbox.wait::<T, LIMIT>(self.stream.as_fd()).ok().flatten()
    }

    /// Asks; `None` when the agent has closed the connection.
    pub(crate) fn ask(&mut self, body: Request, descriptors: &[OwnedFd]) -> Option<(Reply, Vec<OwnedFd>)> {
        self.call += 1;
        self.send(&Envelope { call: self.call, body }, descriptors);
        let (envelope, fds) = self.receive::<Envelope<Reply>, AGENT_MAX>()?;
        assert_eq!(envelope.call, self.call);
        Some((envelope.body, fds))
    }

    pub(crate) fn reply(&mut self, body: Request) -> Reply {
        self.ask(body, &[]).expect("an answer").0
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, body: Request) -> Refusal {
        refusal(self.reply(body))
    }
}

#[track_caller]
pub(crate) fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn is_refused(reply: Reply, kind: RefusalKind, text: &str) {
    assert_eq!(refusal(reply), Refusal::new(kind, text));
}

/// Waits until a thread of the agent has done something.
#[track_caller]
pub(crate) fn eventually(done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < end, "not within ten seconds");
        std::thread::yield_now();
    }
}
