//! The executor's line itself: greetings, messages that are none, and a line that closes.

use std::os::fd::OwnedFd;

use shared::wire::codec;
use shared::wire::hello::PROTOCOL;
use shared::wire::spawner::{AgentLine, Reply, Request};
use tests::command::{command, run_with};
use tests::procs;
use tests::spawner_line::{OWN, SpawnerLine, hello, pair, program, request};

fn silent() -> SpawnerLine {
    SpawnerLine::silent(&mut command(program()), pair())
}

/// Ends with exit 1 and one line of log.
fn dies(line: &mut SpawnerLine) -> String {
    let (status, log) = line.exited();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    log
}

fn no_agent() -> AgentLine {
    AgentLine::Descriptor
}

#[test]
fn a_first_message_that_is_no_hello_ends_it() {
    for bytes in
        [&b"\xff\xff\xff\xff"[..], b"GET / HTTP/1.1", &codec::encode(&Request::Configure { accounts: Vec::new() })]
    {
        let mut line = silent();
        line.send_with(bytes, None);
        assert!(dies(&mut line).contains("hello"));
    }
}

#[test]
fn another_version_is_refused_by_name() {
    for (protocol, version) in [(PROTOCOL + 1, shared::VERSION), (PROTOCOL, "9.9.9")] {
        let mut line = silent();
        line.send(&Request::Hello { protocol, version: version.to_owned(), move_to: None, agent: no_agent() });
        let log = dies(&mut line);
        assert!(log.contains(version) && log.contains(shared::VERSION) && log.contains(&protocol.to_string()), "{log}");
    }
}

#[test]
fn garbage_and_a_second_hello_end_it_with_every_run() {
    let mut cut = codec::encode(&Request::Spawn(request(2, "/usr/bin/cat")));
    cut.truncate(20);
    let mut longer = codec::encode(&Request::End { run: 1, grace: shared::time::Millis(0) });
    longer.push(0);
    for bytes in [b"\xfe\xfe".to_vec(), cut, longer, vec![7; 100_000], codec::encode(&hello(None, no_agent()))] {
        let mut line = SpawnerLine::start().undropped();
        let child = line.spawn(request(1, "/usr/bin/cat"));
        line.send_with(&bytes, None);
        assert!(dies(&mut line).contains("message of the executor"));
        assert!(!procs::lives(child.pid));
    }
}

#[test]
fn a_number_that_is_in_use_ends_it() {
    let mut line = SpawnerLine::start().undropped();
    let child = line.spawn(request(1, "/usr/bin/cat"));
    line.send(&Request::Spawn(request(1, "/usr/bin/cat")));
    assert!(dies(&mut line).contains("run 1"));
    assert!(!procs::lives(child.pid));
}

#[test]
fn a_line_that_closes_before_the_hello_or_with_unread_replies_is_no_error() {
    let mut line = silent();
    line.hang_up();
    line.exited();
    for _ in 0..5 {
        let mut line = SpawnerLine::start().undropped();
        for run in 0..8 {
            line.send(&Request::Spawn(request(run, "/usr/bin/cat")));
        }
        line.take("a child", |reply| matches!(reply, Reply::Spawned { run: 3, .. }));
        line.hang_up();
        let (status, log) = line.exited();
        assert!(status.success(), "{status}: {log}");
    }
}

#[test]
fn replies_that_the_executor_is_slow_to_read_are_kept() {
    let line = SpawnerLine::start().undropped();
    // Far more than the socket's buffer holds; none of them needs a child.
    for run in 0..2_000 {
        line.send(&Request::Spawn(request(run, "/nowhere")));
    }
    for run in 0..2_000 {
        line.refusal(run);
    }
}

#[test]
fn it_is_not_started_by_hand() {
    let output = run_with(&mut command(program()), b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ductile-executor starts this program"));
    let output = run_with(command(program()).arg("--version"), b"");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("ductile-spawner {}\n", shared::VERSION));
}

#[test]
fn it_moves_to_its_own_user_with_three_capabilities() {
    let line = SpawnerLine::greeted(Some(OWN), no_agent(), None::<OwnedFd>);
    let field = |field| procs::status_field(line.pid(), field).unwrap_or_else(|| panic!("{field}"));
    let four = [OWN.0; 4].map(|id| id.to_string()).join("\t");
    assert_eq!((field("Uid"), field("Gid"), field("Groups")), (four.clone(), four, String::new()));
    // CAP_KILL, CAP_SETGID and CAP_SETUID.
    assert_eq!((field("CapPrm"), field("CapEff")), ("00000000000000e0".to_owned(), "00000000000000e0".to_owned()));
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp"), field("Threads")), ("1".into(), "0".into(), "1".into()));
    line.enforce();
    assert_eq!(procs::status_field(line.pid(), "Seccomp").as_deref(), Some("2"));
    line.run(tests::spawner_line::request_as("default", 1, "/usr/bin/cat"), "");
    // Undumpable, after it changed its fsuid and its children their ids too: root's in /proc.
    assert_eq!(procs::mode_and_owner(format!("/proc/{}/environ", line.pid())).1, 0);
}
