//! What a child is when its plugin's code begins to run.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use shared::wire::spawner::{Exit, Reply, RunRefusal, Spawn, Step};
use tests::spawner_line::{Folder, PATIENCE, SpawnerLine, request};
use tests::{procs, wait};

const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;

#[test]
fn streams_argv_environment_and_directory_are_as_asked() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let script =
        folder.script("all", "cat /dev/stdin; echo no >&2; echo \"$0 $#\"; pwd; tr '\\0' '\\n' </proc/$$/environ");
    let spawn = Spawn {
        env: vec!["PATH=/usr/bin".to_owned(), "A=b c=d".to_owned(), "EMPTY=".to_owned()],
        cwd: Some("/usr".to_owned()),
        ..request(1, &script)
    };
    let done = line.run(spawn, "{\"a\":1}\n");
    let expected = format!("{{\"a\":1}}\n{} 0\n/usr\nPATH=/usr/bin\nA=b c=d\nEMPTY=\n", script.display());
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), (expected.as_str(), "no\n"));
    assert_eq!((done.ended.exit, done.ended.timed_out, done.ended.leftovers), (Exit::Code(0), false, 0));
    // A program is run by descriptor, and still told its path; its environment may be empty.
    let done = line.run(Spawn { env: Vec::new(), ..request(2, "/usr/bin/env") }, "");
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("", Exit::Code(0)));
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let ends = |run, text: &str| line.run(request(run, folder.script(&format!("s{run}"), text)), "").ended.exit;
    assert_eq!(ends(1, "exit 78"), Exit::Code(78));
    assert_eq!(ends(2, "kill -SEGV $$"), Exit::Signal(11));
    assert_eq!(ends(3, "kill -PIPE $$"), Exit::Signal(13));
    assert_eq!(ends(4, "exit 127"), Exit::Code(127));
}

#[test]
fn a_child_that_can_not_start_names_its_step() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let fails = |spawn| line.run(spawn, "").ended.exit;
    let exec = |errno| Exit::StartFailed { step: Step::Exec, errno };
    assert_eq!(fails(request(1, folder.file("garbage", b"\x01\x02 no program", 0o755))), exec(ENOEXEC));
    assert_eq!(fails(request(2, folder.file("empty", b"", 0o755))), exec(ENOEXEC));
    assert_eq!(fails(request(3, folder.file("lost", b"#!/nowhere/sh\n", 0o755))), exec(ENOENT));
    assert_eq!(fails(request(4, folder.file("plain", b"#!/usr/bin/sh\n", 0o644))), exec(EACCES));
    assert_eq!(fails(request(5, folder.file("elf", b"\x7fELF", 0o644))), exec(EACCES));
    let directory = |errno| Exit::StartFailed { step: Step::Directory, errno };
    let in_directory = |run, cwd: &str| Spawn { cwd: Some(cwd.to_owned()), ..request(run, "/usr/bin/cat") };
    assert_eq!(fails(in_directory(6, "/nowhere")), directory(ENOENT));
    assert_eq!(fails(in_directory(7, "/usr/bin/cat")), directory(20));
    // And the spawner goes on.
    assert_eq!(line.run(request(8, "/usr/bin/cat"), "x").stdout, "x");
}

#[test]
fn what_can_not_be_opened_is_refused_without_a_child() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let link = folder.path().join("link");
    symlink("/usr/bin/cat", &link).expect("symlink");
    for (run, path) in
        ["/nowhere/x", "usr/bin/cat", "/usr/bin", "/", "", link.to_str().expect("text")].iter().enumerate()
    {
        let refusal = line.refused(request(run as u64, path));
        assert!(matches!(&refusal, RunRefusal::Start { text } if !text.is_empty()), "{path}: {refusal:?}");
    }
    let null = Spawn { env: vec!["A=\0".to_owned()], ..request(100, "/usr/bin/cat") };
    assert!(matches!(line.refused(null), RunRefusal::Start { .. }));
    assert_eq!(line.run(request(101, "/usr/bin/cat"), "x").stdout, "x");
}

#[test]
fn a_child_has_three_descriptors_and_nothing_of_its_parents_state() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let others: Vec<_> = (100..104).map(|run| line.spawn(request(run, "/usr/bin/cat"))).collect();
    let mut child = line.spawn(request(1, folder.script("s", "umask; echo $$ $PPID; read x")));
    assert_eq!(child.lines(2), ["0077".to_owned(), format!("{} {}", child.pid, line.pid())]);
    let open: Vec<u32> = procs::descriptors(child.pid).into_keys().filter(|fd| *fd != 10).collect();
    assert_eq!(open, [0, 1, 2], "10 is the shell's own");
    // A program without a shell's own doings.
    let sleeper = &others[0];
    wait::until_true("exec", PATIENCE, || procs::name(sleeper.pid).is_some_and(|name| name != "ductile-spawner"));
    assert_eq!(procs::descriptors(sleeper.pid).into_keys().collect::<Vec<_>>(), [0, 1, 2]);
    for (field, expected) in [
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("NSpgid", &sleeper.pid.to_string()),
        // The spawner's session, which has no terminal.
        ("NSsid", &line.pid().to_string()),
    ] {
        assert_eq!(procs::status_field(sleeper.pid, field).as_deref(), Some(expected), "{field}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", sleeper.pid)).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"]);
}

#[test]
fn closing_one_runs_stdin_ends_it_while_another_lives() {
    let line = SpawnerLine::start().undropped();
    let (mut first, mut second) = (line.spawn(request(1, "/usr/bin/cat")), line.spawn(request(2, "/usr/bin/cat")));
    first.close_with("one");
    let done = line.finish(first);
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("one", Exit::Code(0)));
    assert!(line.answered().is_empty(), "the other run has ended too");
    second.close_with("two");
    assert_eq!(line.finish(second).stdout, "two");
}

#[test]
fn a_stream_that_the_child_closed_is_closed_while_it_lives() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let script = folder.script("s", "echo up >&2; exec 0<&- 1>&-; echo closed >&2; exec sleep 1000");
    let mut child = line.spawn(request(1, script));
    let mut told = Vec::new();
    let mut byte = [0];
    while told != b"up\nclosed\n" {
        child.stderr.read_exact(&mut byte).expect("stderr");
        told.push(byte[0]);
    }
    let written = child.stdin.as_mut().expect("open").write(b"x");
    assert_eq!(written.map_err(|error| error.kind()), Err(std::io::ErrorKind::BrokenPipe));
    assert_eq!(child.stdout.read(&mut byte).expect("stdout"), 0);
    assert!(procs::lives(child.pid) && line.answered().is_empty());
    line.end(1, 0);
    assert_eq!(line.ended(1).exit, Exit::Signal(9));
}

#[test]
fn output_larger_than_a_pipe_arrives() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let mut child = line.spawn(request(1, folder.script("s", "head -c 300000 /dev/zero")));
    let mut bytes = Vec::new();
    child.stdout.read_to_end(&mut bytes).expect("stdout");
    assert_eq!((bytes.len(), line.ended(1).exit), (300_000, Exit::Code(0)));
}

#[test]
fn many_quick_runs_leave_the_spawner_as_it_was() {
    let line = SpawnerLine::start().undropped();
    let batch = |start: u64| {
        let running: Vec<_> = (start..start + 16).map(|run| line.spawn(request(run, "/usr/bin/cat"))).collect();
        for mut run in running {
            run.close_with("x");
            let done = line.finish(run);
            assert_eq!((done.stdout.as_str(), done.ended.exit), ("x", Exit::Code(0)));
        }
    };
    (0..4).for_each(|batches| batch(batches * 16));
    let open = procs::descriptors(line.pid()).len();
    let resident = procs::resident_kib(line.pid());
    (4..24).for_each(|batches| batch(batches * 16));
    assert_eq!(procs::descriptors(line.pid()).len(), open);
    let grown = procs::resident_kib(line.pid()).saturating_sub(resident);
    assert!(grown <= 256, "{grown} KiB more after 320 runs");
    assert!(procs::children(line.pid()).is_empty());
}

#[test]
fn children_die_with_a_killed_spawner() {
    // As an account: an exec that makes root mighty again, which no form of ours allows, would undo it.
    let mut line = SpawnerLine::enforcing();
    let child = line.spawn(tests::spawner_line::request_as("default", 1, "/usr/bin/cat"));
    wait::until_true("exec", PATIENCE, || procs::name(child.pid).is_some_and(|name| name != "ductile-spawner"));
    procs::signal(line.pid(), Signal::KILL);
    line.exited();
    wait::until_true("the child's end", PATIENCE, || !procs::lives(child.pid));
}

#[test]
fn a_spawn_before_configure_is_refused() {
    let line = SpawnerLine::start();
    assert_eq!(line.refused(request(1, "/usr/bin/cat")), RunRefusal::NotConfigured);
    let reply = line.configure(Vec::new());
    assert!(matches!(reply, Reply::Ready { enforcing: false, cgroup: false, .. }));
    assert_eq!(line.run(request(2, "/usr/bin/cat"), "x").stdout, "x");
}

#[test]
fn without_descriptors_or_processes_a_run_is_refused_and_later_ones_go_on() {
    let mut launch = tests::command::command("/usr/bin/prlimit");
    launch.arg("--nofile=40").arg(tests::spawner_line::program());
    let line = SpawnerLine::silent(&mut launch, tests::spawner_line::pair());
    line.greet(&tests::spawner_line::hello(None, shared::wire::spawner::AgentLine::Descriptor), None);
    let line = line.undropped();
    let mut running = Vec::new();
    let refusal = (0..100).find_map(|run| {
        line.send(&shared::wire::spawner::Request::Spawn(request(run, "/usr/bin/cat")));
        let answer = line.take("answer", |reply| matches!(reply, Reply::Spawned { .. } | Reply::RunRefused { .. }));
        match answer.0 {
            Reply::RunRefused { refusal, .. } => Some(refusal),
            _ => {
                running.push((run, answer.1));
                None
            }
        }
    });
    assert!(matches!(&refusal, Some(RunRefusal::Start { text }) if text.contains("open files")), "{refusal:?}");
    assert!(running.len() > 16, "only {} runs fitted", running.len());
    for (run, descriptors) in running {
        drop(descriptors);
        assert_eq!(line.ended(run).exit, Exit::Code(0));
    }
    assert_eq!(line.run(request(200, "/usr/bin/cat"), "x").stdout, "x");
}
