//! Deliveries, with the test at the agent's end: what the agent is handed, and that its word alone
//! decides whether there is a child.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{AGENT_MAX, Envelope, HELLO_MAX, to_frame};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::spawner::{AgentLine, Deliver, Exit, Request, RunRefusal, Spawn};
use shared::wire::vault::{self, Delivery, Reply};
use tests::procs;
use tests::scratch::Scratch;
use tests::spawner_line::{DEFAULT, Folder, OWN, PATIENCE, SpawnerLine, request, request_as};

/// The agent's end of a line.
struct AgentEnd {
    stream: UnixStream,
    inbox: Inbox,
}

/// One question, with the three descriptors that came with it.
struct Question {
    call: u64,
    delivery: Delivery,
    pipe: File,
    manifest: File,
    entrypoint: File,
}

impl AgentEnd {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { stream, inbox: Inbox::default() }
    }

    fn welcome(&mut self) {
        let (hello, _) =
            self.inbox.wait::<Hello, HELLO_MAX>(self.stream.as_fd()).expect("a hello").expect("not closed");
        assert_eq!(hello, Hello::ours(None));
        let reply = to_frame(&HelloReply::Welcome(Hello::ours(None)), HELLO_MAX).expect("fits");
        self.stream.write_all(&reply).expect("welcome");
    }

    fn question(&mut self) -> Question {
        let (envelope, descriptors) = self
            .inbox
            .wait::<Envelope<vault::Request>, AGENT_MAX>(self.stream.as_fd())
            .expect("a question")
            .expect("not closed");
        let vault::Request::Deliver(delivery) = envelope.body else { panic!("{:?}", envelope.body) };
        let [pipe, manifest, entrypoint]: [OwnedFd; 3] = descriptors.try_into().expect("three descriptors");
        let [pipe, manifest, entrypoint] = [pipe, manifest, entrypoint].map(File::from);
        Question { call: envelope.call, delivery, pipe, manifest, entrypoint }
    }

    fn answer(&mut self, call: u64, body: Reply) {
        let frame = to_frame(&Envelope { call, body }, AGENT_MAX).expect("fits");
        fds::send_all(self.stream.as_fd(), &frame, &[]).expect("answer");
    }

    /// Writes the start of the request and says so.
    fn deliver(&mut self, mut question: Question, start: &str) {
        question.pipe.write_all(start.as_bytes()).expect("the pipe takes it");
        let call = question.call;
        drop(question);
        self.answer(call, Reply::Delivered { secret_names_count: 2 });
    }

    fn refuse(&mut self, call: u64, kind: RefusalKind) {
        self.answer(call, Reply::Refused(Refusal::new(kind, format!("the agent says {kind:?}"))));
    }
}

fn descriptor() -> (SpawnerLine, AgentEnd) {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    (SpawnerLine::greeted(None, AgentLine::Descriptor, Some(theirs.into())).undropped(), AgentEnd::new(ours))
}

pub(super) fn asking(spawn: Spawn) -> Spawn {
    let deliver = Deliver {
        delivery_id: spawn.run + 1000,
        uses: "base".to_owned(),
        principal: "tried-principal".to_owned(),
        requires_vault: true,
    };
    Spawn { deliver: Some(deliver), ..spawn }
}

fn ask(line: &SpawnerLine, spawn: Spawn) {
    line.send(&Request::Spawn(asking(spawn)));
}

#[test]
fn the_agent_gets_an_empty_pipe_and_both_files_and_the_child_what_it_wrote() {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let line = SpawnerLine::greeted(Some(OWN), AgentLine::Descriptor, Some(theirs.into()));
    line.enforce();
    let (mut agent, folder) = (AgentEnd::new(ours), Folder::new());
    let manifest = folder.file("manifest.yaml", b"name: tried\n", 0o644);
    let entrypoint = folder.script("s", "cat /dev/stdin");
    let spawn =
        Spawn { manifest: manifest.to_str().expect("text").to_owned(), ..request_as("default", 7, &entrypoint) };
    ask(&line, spawn);
    agent.welcome();
    let question = agent.question();
    let attestation = &question.delivery.attestation;
    assert_eq!((question.delivery.delivery_id, question.delivery.job_id.as_str()), (1007, "job-of-run-7"));
    assert_eq!((attestation.plugin.as_str(), attestation.uses.as_str()), ("tried", "base"));
    assert_eq!((attestation.principal.as_str(), attestation.requires_vault), ("tried-principal", true));
    assert_eq!(attestation.account, Some(DEFAULT));
    let stat = question.pipe.metadata().expect("fstat");
    assert_eq!((stat.mode() & 0o170_000, stat.uid()), (0o010_000, DEFAULT.0));
    let flags = fcntl_getfl(&question.pipe).expect("flags");
    assert_eq!(flags & (OFlags::RWMODE | OFlags::NONBLOCK), OFlags::WRONLY | OFlags::NONBLOCK);
    assert_eq!(rustix::io::ioctl_fionread(&question.pipe).expect("fionread"), 0);
    assert!(rustix::pipe::fcntl_getpipe_size(&question.pipe).expect("size") >= 60 * 1024);
    for (file, path) in [(&question.manifest, &manifest), (&question.entrypoint, &entrypoint)] {
        let (theirs, ours) = (file.metadata().expect("fstat"), fs::metadata(path).expect("stat"));
        assert_eq!((theirs.dev(), theirs.ino()), (ours.dev(), ours.ino()));
        assert_eq!(fcntl_getfl(file).expect("flags") & OFlags::RWMODE, OFlags::RDONLY);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).expect("it can be read");
    }
    assert!(line.answered().is_empty() && procs::children(line.pid()).is_empty(), "a child before the agent's word");
    agent.deliver(question, "{\"secrets\":{\"k\":\"v\"},");
    let mut child = line.running(7);
    assert_eq!((child.prefixed, child.secret_names_count), (true, 2));
    child.close_with("\"protocol\":2}");
    let done = line.finish(child);
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("{\"secrets\":{\"k\":\"v\"},\"protocol\":2}", Exit::Code(0)));
}

#[test]
fn a_run_that_asks_nothing_of_the_agent_does_not_reach_it() {
    let (line, mut agent) = descriptor();
    let mut child = line.spawn(request(1, "/usr/bin/cat"));
    assert_eq!((child.prefixed, child.secret_names_count), (false, 0));
    child.close_with("whole");
    assert_eq!(line.finish(child).stdout, "whole");
    agent.stream.set_nonblocking(true).expect("non-blocking");
    let silent = agent.inbox.fill(agent.stream.as_fd()).expect_err("nothing was said");
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn refusals_are_told_apart_and_there_never_was_a_child() {
    let (line, mut agent) = descriptor();
    let reaped = procs::faults_of_reaped_children(line.pid());
    ask(&line, request(0, "/usr/bin/cat"));
    agent.welcome();
    let mut refusal = |run: u64, kind| {
        if run > 0 {
            ask(&line, request(run, "/usr/bin/cat"));
        }
        let question = agent.question();
        agent.refuse(question.call, kind);
        line.refusal(run)
    };
    for (run, kind) in [
        RefusalKind::FingerprintMismatch,
        RefusalKind::VaultRequired,
        RefusalKind::SharedAccount,
        RefusalKind::UnsafePath,
    ]
    .into_iter()
    .enumerate()
    {
        let expected = RunRefusal::Denied(Refusal::new(kind, format!("the agent says {kind:?}")));
        assert_eq!(refusal(run as u64, kind), expected);
    }
    assert_eq!(refusal(10, RefusalKind::Pipe), RunRefusal::Pipe { text: "the agent says Pipe".to_owned() });
    for (run, kind) in [(11, RefusalKind::Busy), (12, RefusalKind::Unavailable), (13, RefusalKind::TooManyDeliveries)] {
        assert_eq!(refusal(run, kind), RunRefusal::AgentUnavailable);
    }
    assert!(procs::children(line.pid()).is_empty());
    assert_eq!(procs::faults_of_reaped_children(line.pid()), reaped, "a child has come and gone");
}

#[test]
fn other_runs_go_on_while_the_agent_thinks_and_its_answers_may_come_in_any_order() {
    let (line, mut agent) = descriptor();
    for run in 1..=3 {
        ask(&line, request(run, "/usr/bin/cat"));
    }
    agent.welcome();
    let mut questions: Vec<_> = (0..3).map(|_| agent.question()).collect();
    let ids: Vec<_> = questions.iter().map(|question| question.delivery.delivery_id).collect();
    assert_eq!(ids, [1001, 1002, 1003]);
    assert_eq!(line.run(request(4, "/usr/bin/cat"), "x").stdout, "x");
    while let Some(question) = questions.pop() {
        let run = question.delivery.delivery_id - 1000;
        agent.deliver(question, &format!("{{{run},"));
        let mut child = line.running(run);
        child.close_with("rest");
        assert_eq!(line.finish(child).stdout, format!("{{{run},rest"));
    }
}

#[test]
fn a_silent_agent_is_given_five_seconds() {
    let (line, mut agent) = descriptor();
    let started = std::time::Instant::now();
    ask(&line, request(1, "/usr/bin/cat"));
    agent.welcome();
    let late = agent.question();
    for run in 2..20 {
        assert_eq!(line.run(request(run, "/usr/bin/cat"), "x").stdout, "x");
    }
    assert_eq!(line.refusal(1), RunRefusal::AgentUnavailable);
    let took = started.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&took), "{took:?}");
    // There is no other line: this one is kept, and a late word for a dropped run is passed over.
    ask(&line, request(21, "/usr/bin/cat"));
    let question = agent.question();
    agent.answer(late.call, Reply::Delivered { secret_names_count: 1 });
    agent.deliver(question, "{");
    let mut child = line.running(21);
    child.close_with("}");
    assert_eq!(line.finish(child).stdout, "{}");
    assert!(line.answered().is_empty());
}

#[test]
fn an_agent_that_closes_is_unavailable_at_once() {
    let (line, mut agent) = descriptor();
    for run in 1..=2 {
        ask(&line, request(run, "/usr/bin/cat"));
    }
    agent.welcome();
    agent.question();
    let started = std::time::Instant::now();
    drop(agent);
    for run in 1..=2 {
        assert_eq!(line.refusal(run), RunRefusal::AgentUnavailable);
    }
    // And for ever, since there is no other line.
    assert_eq!(line.refused(asking(request(3, "/usr/bin/cat"))), RunRefusal::AgentUnavailable);
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(line.run(request(4, "/usr/bin/cat"), "x").stdout, "x");
    let line = SpawnerLine::start().undropped();
    assert_eq!(line.refused(asking(request(1, "/usr/bin/cat"))), RunRefusal::AgentUnavailable);
}

#[test]
fn an_agent_that_speaks_nonsense_or_another_version_is_unavailable() {
    let other = Hello { version: "9.9.9".to_owned(), ..Hello::ours(None) };
    let refused = HelloReply::Refused(Refusal::new(RefusalKind::VersionMismatch, "no"));
    let call = Envelope { call: 1, body: Reply::Done };
    for bytes in [
        vec![0xff; 64],
        to_frame(&HelloReply::Welcome(other), HELLO_MAX).expect("fits"),
        to_frame(&refused, HELLO_MAX).expect("fits"),
        [to_frame(&HelloReply::Welcome(Hello::ours(None)), HELLO_MAX).expect("fits"), vec![0xff; 9]].concat(),
        [
            to_frame(&HelloReply::Welcome(Hello::ours(None)), HELLO_MAX).expect("fits"),
            to_frame(&call, AGENT_MAX).expect("fits"),
        ]
        .concat(),
    ] {
        let (line, mut agent) = descriptor();
        ask(&line, request(1, "/usr/bin/cat"));
        agent.stream.write_all(&bytes).expect("write");
        let started = std::time::Instant::now();
        assert_eq!(line.refusal(1), RunRefusal::AgentUnavailable);
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(procs::children(line.pid()).is_empty());
    }
}

#[test]
fn an_agent_at_a_path_is_connected_to_again() {
    let scratch = Scratch::new();
    let path = scratch.path().join("agent.sock");
    let text = path.to_str().expect("text").to_owned();
    let line = SpawnerLine::greeted(None, AgentLine::Path(text), None).undropped();
    assert_eq!(line.refused(asking(request(1, "/usr/bin/cat"))), RunRefusal::AgentUnavailable);
    for run in 2..5 {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bind");
        ask(&line, request(run, "/usr/bin/cat"));
        let mut agent = AgentEnd::new(listener.accept().expect("accept").0);
        agent.welcome();
        let question = agent.question();
        agent.deliver(question, "{");
        let mut child = line.running(run);
        child.close_with("}");
        assert_eq!(line.finish(child).stdout, "{}");
    }
}

#[test]
fn the_bytes_that_the_agent_was_shown_are_those_that_run() {
    let (line, mut agent) = descriptor();
    let folder = Folder::new();
    let old = fs::read("/usr/bin/cat").expect("read a program");
    let path = folder.file("program", &old, 0o755);
    ask(&line, request(1, &path));
    agent.welcome();
    let question = agent.question();
    let other = folder.file("other", &fs::read("/usr/bin/true").expect("read a program"), 0o755);
    fs::rename(other, &path).expect("replace");
    agent.deliver(question, "old");
    let mut child = line.running(1);
    child.close_with("");
    let done = line.finish(child);
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("old", Exit::Code(0)));
}

#[test]
fn a_run_that_ends_before_the_agents_word_never_starts() {
    let (line, mut agent) = descriptor();
    ask(&line, request(1, "/usr/bin/cat"));
    agent.welcome();
    let question = agent.question();
    line.end(1, 0);
    assert!(matches!(line.refusal(1), RunRefusal::Start { .. }));
    agent.answer(question.call, Reply::Delivered { secret_names_count: 0 });
    assert_eq!(line.run(request(2, "/usr/bin/cat"), "x").stdout, "x");
    assert!(line.answered().is_empty() && procs::children(line.pid()).is_empty());
    // The executor's hold on the pipe is gone too: the agent's is the last.
    let mut pipe = question.pipe;
    assert_eq!(pipe.write(b"x").map_err(|error| error.kind()), Err(std::io::ErrorKind::BrokenPipe));
}

#[test]
fn a_number_that_waits_for_the_agent_is_in_use() {
    let (mut line, mut agent) = descriptor();
    ask(&line, request(1, "/usr/bin/cat"));
    agent.welcome();
    agent.question();
    ask(&line, request(1, "/usr/bin/cat"));
    let (status, log) = line.exited();
    assert!(status.code() == Some(1) && log.contains("run 1"), "{status}: {log}");
}

#[test]
fn half_a_question_is_never_followed_by_another() {
    let (line, mut agent) = descriptor();
    let long = |run| {
        let mut spawn = asking(request(run, "/usr/bin/cat"));
        spawn.deliver.as_mut().expect("just made").principal = "p".repeat(100_000);
        spawn
    };
    // Nobody reads: the socket fills in the middle of one of them.
    let started = std::time::Instant::now();
    for run in 0..4 {
        line.send(&Request::Spawn(long(run)));
    }
    for run in 0..4 {
        assert_eq!(line.refusal(run), RunRefusal::AgentUnavailable);
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // The agent sees whole questions, then a cut one.
    agent.inbox.wait::<Hello, HELLO_MAX>(agent.stream.as_fd()).expect("a hello").expect("not closed");
    let cut = loop {
        match agent.inbox.wait::<Envelope<vault::Request>, AGENT_MAX>(agent.stream.as_fd()) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a clean end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(cut, shared::wire::frame::FrameError::Cut), "{cut:?}");
}
