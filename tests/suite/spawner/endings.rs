//! How runs end: deadlines, signals, and everything that a plugin leaves behind.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use shared::time::Millis;
use shared::wire::spawner::{Exit, Spawn};
use tests::spawner_line::{Folder, PATIENCE, SpawnerLine, request};
use tests::{procs, wait};

/// The number that a script wrote into a file.
fn noted(path: &Path) -> u32 {
    wait::until("a noted pid", PATIENCE, || fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok())
}

#[test]
fn a_deadline_terminates_first_and_is_told() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let polite = folder.script("polite", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.01; done");
    let done = line.run(Spawn { deadline: Millis(200), ..request(1, polite) }, "");
    assert_eq!((done.stdout.as_str(), done.ended.exit, done.ended.timed_out), ("bye\n", Exit::Code(3), true));
}

#[test]
fn who_ignores_term_is_killed_five_seconds_after_the_deadline() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let stubborn = folder.script("stubborn", "trap '' TERM; echo up; while :; do sleep 1000; done");
    let started = std::time::Instant::now();
    let done = line.run(Spawn { deadline: Millis(100), ..request(1, stubborn) }, "");
    assert_eq!((done.ended.exit, done.ended.timed_out), (Exit::Signal(9), true));
    assert!(started.elapsed().as_secs() >= 5, "killed after {:?}", started.elapsed());
}

#[test]
fn end_terminates_and_kills_after_its_grace() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let stubborn = folder.script("stubborn", "trap '' TERM; echo up; while :; do sleep 1000; done");
    let polite = folder.script("polite", "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done");
    for (run, script, grace, exit) in
        [(1, &stubborn, 50, Exit::Signal(9)), (2, &stubborn, 0, Exit::Signal(9)), (3, &polite, 60_000, Exit::Code(3))]
    {
        let mut child = line.spawn(request(run, script));
        child.lines(1);
        line.end(run, grace);
        let ended = line.ended(run);
        assert_eq!((ended.exit, ended.timed_out), (exit, false));
    }
    // A run that nobody knows is passed over.
    line.end(99, 0);
    assert_eq!(line.run(request(4, "/usr/bin/cat"), "x").stdout, "x");
}

#[test]
fn end_reaches_a_child_that_has_hardly_begun() {
    let line = SpawnerLine::start().undropped();
    for run in 0..50 {
        line.send(&shared::wire::spawner::Request::Spawn(request(run, "/usr/bin/cat")));
        line.end(run, 0);
        let _child = line.running(run);
        assert_eq!(line.ended(run).exit, Exit::Signal(9));
    }
}

#[test]
fn a_stopped_child_is_killed_too() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let mut child = line.spawn(request(1, folder.script("s", "echo up; kill -STOP $$")));
    child.lines(1);
    wait::until_true("the stop", PATIENCE, || {
        procs::status_field(child.pid, "State").is_some_and(|s| s.starts_with('T'))
    });
    line.end(1, 50);
    assert!(matches!(line.ended(1).exit, Exit::Signal(9 | 15)));
}

#[test]
fn a_run_that_had_ended_keeps_its_result() {
    let line = SpawnerLine::start().undropped();
    let mut child = line.spawn(Spawn { deadline: Millis(400), ..request(1, "/usr/bin/cat") });
    let started = std::time::Instant::now();
    let idle = || procs::status_field(line.pid(), "State").is_some_and(|state| state.starts_with('S'));
    wait::until_true("the spawner's pause", PATIENCE, idle);
    procs::signal(line.pid(), Signal::STOP);
    child.close_with("in time");
    wait::until_true("the child's end", PATIENCE, || !procs::lives(child.pid));
    wait::until_true("the deadline", PATIENCE, || started.elapsed().as_millis() > 500);
    procs::signal(line.pid(), Signal::CONT);
    let done = line.finish(child);
    assert_eq!((done.ended.exit, done.ended.timed_out), (Exit::Code(0), false));
}

#[test]
fn a_child_in_the_background_is_killed_at_a_normal_end() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let note = folder.path().join("pid");
    let script = folder.script("s", &format!("sleep 1000 & echo $! >{}; echo done", note.display()));
    let done = line.run(request(1, script), "");
    assert_eq!((done.stdout.as_str(), done.ended.exit, done.ended.leftovers), ("done\n", Exit::Code(0), 1));
    assert!(!procs::lives(noted(&note)));
}

#[test]
fn an_escapee_is_killed_with_all_below_it() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let note = |name: &str| folder.path().join(name);
    // Each level is a session of its own, so no group tells whose it is.
    let third = folder.script("third", &format!("echo $$ >{}; exec sleep 1000", note("c").display()));
    let second =
        folder.script("second", &format!("setsid {} & echo $$ >{}; wait", third.display(), note("b").display()));
    let first =
        folder.script("first", &format!("setsid {} & echo $$ >{}; wait", second.display(), note("a").display()));
    for run in 0..20 {
        for name in ["a", "b", "c"] {
            let _ = fs::remove_file(note(name));
        }
        let mut child =
            line.spawn(request(run, folder.script("s", &format!("(setsid {} &)\nread x", first.display()))));
        let pids = ["a", "b", "c"].map(|name| noted(&note(name)));
        child.close_with("\n");
        let ended = line.ended(run);
        assert_eq!((ended.exit, ended.leftovers), (Exit::Code(0), 3), "in turn {run}");
        assert_eq!(pids.map(procs::lives), [false; 3], "in turn {run}");
    }
    assert!(procs::children(line.pid()).is_empty());
}

#[test]
fn an_escapee_that_another_run_may_own_dies_with_that_and_does_it_no_harm() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let note = folder.path().join("pid");
    let mut long = line.spawn(request(1, folder.script("long", "echo up; cat")));
    long.lines(1);
    let lone = folder.script("lone", &format!("echo $$ >{}; exec sleep 1000", note.display()));
    let mut short = line.spawn(request(2, folder.script("s", &format!("(setsid {} &)\nread x", lone.display()))));
    let escaped = noted(&note);
    short.close_with("\n");
    assert_eq!(line.ended(2).exit, Exit::Code(0));
    assert!(procs::lives(long.pid) && line.answered().is_empty(), "the other run was harmed");
    long.close_with("still here");
    let done = line.finish(long);
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("still here", Exit::Code(0)));
    assert!(!procs::lives(escaped));
}

#[test]
fn a_background_child_of_one_run_outlives_the_end_of_another() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let note = folder.path().join("pid");
    // Its parent is gone, so it is the spawner's child, but still of its run's group.
    let script = folder.script("s", &format!("(sleep 1000 & echo $! >{}); read x", note.display()));
    let mut owner = line.spawn(request(1, script));
    let worker = noted(&note);
    for run in 2..6 {
        assert_eq!(line.run(request(run, "/usr/bin/cat"), "x").stdout, "x");
        assert!(procs::lives(worker), "killed with another run");
    }
    owner.close_with("\n");
    assert_eq!(line.finish(owner).ended.leftovers, 1);
    assert!(!procs::lives(worker));
}

#[test]
fn everything_dies_when_the_executor_hangs_up() {
    let (mut line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let note = folder.path().join("pid");
    let lone = folder.script("lone", &format!("echo $$ >{}; exec sleep 1000", note.display()));
    let script = folder
        .script("s", &format!("trap '' TERM; (setsid {} &)\necho up; while :; do sleep 1000; done", lone.display()));
    let mut child = line.spawn(request(1, script));
    child.lines(1);
    let escaped = noted(&note);
    line.hang_up();
    let (status, log) = line.exited();
    assert!(status.success(), "{status}: {log}");
    assert!(!procs::lives(child.pid) && !procs::lives(escaped));
}

#[test]
fn what_a_run_left_behind_and_ended_by_itself_is_reaped_while_it_goes_on() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    let text = "i=0; while [ $i -lt 100 ]; do (true &); i=$((i+1)); done; echo up; read x";
    let mut child = line.spawn(request(1, folder.script("s", text)));
    child.lines(1);
    wait::until_true("no zombie", PATIENCE, || procs::children(line.pid()) == [child.pid]);
    child.close_with("\n");
    assert_eq!(line.finish(child).ended.exit, Exit::Code(0));
}

#[test]
fn a_chain_that_forks_for_ever_is_caught_and_holds_up_nobody() {
    let (line, folder) = (SpawnerLine::start().undropped(), Folder::new());
    // Each link is a session of its own, and gone as soon as it has made the next.
    let chain = folder.script("chain", "setsid \"$0\" >/dev/null 2>&1 & exit 0");
    let mut child = line.spawn(request(1, &chain));
    child.close_with("");
    for run in 2..6 {
        assert_eq!(line.run(request(run, "/usr/bin/cat"), "x").stdout, "x");
    }
    assert_eq!(line.ended(1).exit, Exit::Code(0));
    wait::until_true("nothing left", PATIENCE, || procs::children(line.pid()).is_empty());
    assert_eq!(line.run(request(7, "/usr/bin/cat"), "x").stdout, "x");
}
