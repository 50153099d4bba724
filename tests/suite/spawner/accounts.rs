//! Accounts: who a child becomes, what it is then kept from, and which accounts and files are
//! refused.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use shared::wire::refusal::RefusalKind;
use shared::wire::spawner::{Account, AgentLine, Exit, Reply, RunRefusal, Spawn};
use tests::command::command;
use tests::spawner_line::{
    DEFAULT, Folder, OWN, PATIENCE, SANDBOX, SpawnerLine, account, hello, pair, program, request, request_as,
};
use tests::{peer, procs, wait};

use super::delivery::asking;

const NONE: &str = "0000000000000000";

#[test]
fn a_dropped_child_has_the_accounts_ids_and_no_capability() {
    for account in ["default", "sandbox", "operator"] {
        let line = SpawnerLine::enforcing();
        let child = line.spawn(request_as(account, 1, "/usr/bin/cat"));
        wait::until_true("exec", PATIENCE, || procs::name(child.pid).is_some_and(|name| name != "ductile-spawner"));
        let id = match account {
            "default" => DEFAULT.0,
            "sandbox" => SANDBOX.0,
            _ => 1003,
        };
        let field = |field| procs::status_field(child.pid, field).unwrap_or_else(|| panic!("{field}"));
        let four = [id; 4].map(|id| id.to_string()).join("\t");
        assert_eq!((field("Uid"), field("Gid"), field("Groups")), (four.clone(), four, String::new()));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigIgn", "SigBlk"] {
            assert_eq!(field(set), NONE, "{set}");
        }
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(procs::descriptors(child.pid).into_keys().collect::<Vec<_>>(), [0, 1, 2]);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.pid)).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"]);
    }
}

#[test]
fn ambient_capabilities_of_the_spawners_start_reach_no_child() {
    let mut launch = command("/usr/bin/setpriv");
    launch.args(["--reuid=5900", "--regid=5900", "--clear-groups", "--inh-caps=+setuid,+setgid,+kill,+net_raw"]);
    launch.args(["--ambient-caps=+setuid,+setgid,+kill,+net_raw"]).arg(program());
    let line = SpawnerLine::silent(&mut launch, pair());
    line.greet(&hello(None, AgentLine::Descriptor), None);
    assert_eq!(procs::status_field(line.pid(), "CapAmb").as_deref(), Some(NONE));
    assert_eq!(procs::status_field(line.pid(), "CapInh").as_deref(), Some(NONE));
    line.enforce();
    let folder = Folder::new();
    let done = line.run(request_as("default", 1, folder.script("s", "grep ^Cap /proc/self/status")), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(done.stdout.contains(&format!("{set}:\t{NONE}")), "{}", done.stdout);
    }
}

#[test]
fn a_spawner_without_capabilities_runs_children_without_any() {
    let mut launch = command("/usr/bin/setpriv");
    launch.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(program());
    let line = SpawnerLine::silent(&mut launch, pair());
    line.greet(&hello(None, AgentLine::Descriptor), None);
    let refused = line.configure(vec![account("default", DEFAULT)]);
    assert!(matches!(&refused, Reply::ConfigureRefused { text } if text.contains("CAP_SETUID")), "{refused:?}");
    let line = line.undropped();
    let folder = Folder::new();
    let done = line.run(request(1, folder.script("s", "grep ^Cap /proc/self/status")), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(done.stdout.contains(&format!("{set}:\t{NONE}")), "{}", done.stdout);
    }
}

#[test]
fn accounts_without_the_right_to_kill_are_refused() {
    let mut launch = command("/usr/bin/setpriv");
    launch.arg("--bounding-set=-kill").arg(program());
    let line = SpawnerLine::silent(&mut launch, pair());
    line.greet(&hello(Some(OWN), AgentLine::Descriptor), None);
    let refused = line.configure(vec![account("default", DEFAULT)]);
    assert!(matches!(&refused, Reply::ConfigureRefused { text } if text.contains("CAP_KILL")), "{refused:?}");
}

#[test]
fn pipes_belong_to_the_account_and_open_again_for_nobody_else() {
    let line = SpawnerLine::enforcing();
    let mut child = line.spawn(request_as("default", 1, "/usr/bin/cat"));
    let stdin = child.stdin.take().expect("open");
    for end in [&stdin, &child.stdout, &child.stderr] {
        let data = end.metadata().expect("fstat");
        assert_eq!(data.uid(), DEFAULT.0);
        let path = format!("/proc/self/fd/{}", end.as_raw_fd());
        for stranger in [OWN.0, SANDBOX.0, 5901] {
            let opened = peer::as_user(stranger, stranger, || {
                // The thread's own link: /proc/self is the process's first thread, still root's.
                let path = path.replace("/proc/self", "/proc/thread-self");
                File::open(path).map(|_| ()).map_err(|error| error.kind())
            });
            assert_eq!(opened, Err(std::io::ErrorKind::PermissionDenied), "as {stranger}");
        }
    }
    let flags = rustix::fs::fcntl_getfl(&stdin).expect("flags");
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::WRONLY), "{flags:?}");
    for end in [&child.stdout, &child.stderr] {
        assert!(!rustix::fs::fcntl_getfl(end).expect("flags").contains(rustix::fs::OFlags::NONBLOCK));
    }
    drop(stdin);
    assert_eq!(line.finish(child).ended.exit, Exit::Code(0));
}

#[test]
fn a_dropped_child_opens_its_streams_again() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let script = folder.script("s", "cat /dev/stdin >/dev/stdout; echo e >/dev/stderr; id -u; id -G; umask");
    for (run, account, (uid, gid)) in [(1, "default", DEFAULT), (2, "sandbox", SANDBOX)] {
        let done = line.run(request_as(account, run, &script), "in\n");
        assert_eq!((done.stdout, done.stderr), (format!("in\n{uid}\n{gid}\n0077\n"), "e\n".to_owned()));
    }
}

#[test]
fn the_directory_is_entered_as_the_account() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let home = folder.path().join("home");
    std::fs::create_dir(&home).expect("make a home");
    std::os::unix::fs::chown(&home, Some(DEFAULT.0), Some(DEFAULT.1)).expect("chown");
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    let in_home = |account, run| Spawn {
        cwd: Some(home.to_str().expect("text").to_owned()),
        ..request_as(account, run, folder.script("s", "pwd; touch new && echo made; mkdir a; mv new a/ && echo moved"))
    };
    let done = line.run(in_home("default", 1), "");
    assert_eq!(done.stdout, format!("{}\nmade\nmoved\n", home.display()));
    let denied = line.run(in_home("sandbox", 2), "").ended.exit;
    assert_eq!(denied, Exit::StartFailed { step: shared::wire::spawner::Step::Directory, errno: 13 });
}

#[test]
fn a_child_can_touch_neither_the_spawner_nor_another_job_of_its_account() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let prober = folder.plugin("prober");
    let other = line.spawn(request_as("default", 1, "/usr/bin/cat"));
    wait::until_true("exec", PATIENCE, || procs::name(other.pid).is_some_and(|name| name != "ductile-spawner"));
    let probe = format!("{{\"probe\":\"{} {}\"}}", line.pid(), other.pid);
    let done = line.run(request_as("default", 2, &prober), &probe);
    let outcome = |what: String| {
        let word = done.stdout.split([' ', '"']).find_map(|word| word.strip_prefix(&format!("{what}=")));
        word.unwrap_or_else(|| panic!("no {what} in {}", done.stdout)).to_owned()
    };
    for pid in [line.pid(), other.pid] {
        assert_eq!(outcome(format!("signal:{pid}")), "EPERM", "{}", done.stdout);
        assert_eq!(outcome(format!("trace:{pid}")), "EPERM", "{}", done.stdout);
        assert_eq!(outcome(format!("memory:{pid}")), "EACCES", "{}", done.stdout);
        assert_eq!(outcome(format!("environ:{pid}")), "EACCES", "{}", done.stdout);
    }
    assert_eq!(outcome("setuid:0".to_owned()), "EPERM");
    let peek = folder.script("peek", &format!("ls -l /proc/{0}/fd/0 2>&1; cat /proc/{0}/fd/1 2>&1", other.pid));
    let done = line.run(request_as("default", 3, peek), "");
    assert_eq!(done.stdout.matches("Permission denied").count(), 2, "{}", done.stdout);
    // Below itself a job may do as ever.
    let done = line.run(request_as("default", 4, folder.script("s", "sleep 1000 & kill $! && wait $!; echo $?")), "");
    assert_eq!((done.stdout.as_str(), done.ended.exit), ("143\n", Exit::Code(0)), "{done:?}");
}

#[test]
fn the_filter_lets_nobody_make_a_user_namespace() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let done = line.run(request_as("operator", 1, folder.script("s", "unshare -U true")), "");
    assert!(done.stderr.contains("Operation not permitted"), "{done:?}");
    // What falls back from clone3 works: a pipeline of a shell, and threads.
    let done = line.run(request_as("default", 2, folder.script("p", "echo a b | tr ' ' '\\n' | sort -r")), "");
    assert_eq!(done.stdout, "b\na\n");
}

#[test]
fn an_account_that_is_unknown_or_missing_is_refused() {
    let line = SpawnerLine::enforcing();
    assert_eq!(line.refused(request_as("nobody", 1, "/usr/bin/cat")), RunRefusal::UnknownAccount);
    assert_eq!(line.refused(request(2, "/usr/bin/cat")), RunRefusal::UnknownAccount);
    let line = SpawnerLine::start().undropped();
    assert_eq!(line.refused(request_as("default", 1, "/usr/bin/cat")), RunRefusal::UnknownAccount);
}

#[test]
fn accounts_that_are_root_or_ours_or_twice_the_same_are_refused() {
    // Who made the pair is the executor.
    let ends = peer::as_user(5901, 5901, pair);
    let line = SpawnerLine::silent(&mut command(program()), ends);
    line.greet(&hello(Some(OWN), AgentLine::Descriptor), None);
    let refused = |accounts: Vec<Account>| {
        let named = accounts.last().expect("one").name.to_string();
        let reply = line.configure(accounts);
        assert!(matches!(&reply, Reply::ConfigureRefused { text } if text.contains(&named)), "{reply:?}");
    };
    for ids in [(0, 1001), (1001, 0), OWN, (1001, OWN.1), (OWN.0, 1001), (5901, 1001)] {
        refused(vec![account("bad", ids)]);
    }
    refused(vec![account("one", DEFAULT), account("two", DEFAULT)]);
    refused(vec![account("one", DEFAULT), account("one", SANDBOX)]);
    // Nothing is in force after that: still not configured.
    assert_eq!(line.refused(request(1, "/usr/bin/cat")), RunRefusal::NotConfigured);
    line.enforce();
    let reply = line.configure(vec![account("late", (1004, 1004))]);
    assert!(matches!(&reply, Reply::ConfigureRefused { text } if text.contains("already")), "{reply:?}");
    assert_eq!(line.refused(request_as("late", 2, "/usr/bin/cat")), RunRefusal::UnknownAccount);
}

#[test]
fn a_file_that_others_can_change_is_denied_by_its_path() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let denied = |run, path: &std::path::Path| match line.refused(asking(request_as("default", run, path))) {
        RunRefusal::Denied(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::UnsafePath);
            assert!(refusal.message.contains(path.to_str().expect("text")), "{refusal:?}");
        }
        other => panic!("{}: {other:?}", path.display()),
    };
    let script = folder.script("s", "echo ok");
    assert_eq!(line.run(request_as("default", 1, &script), "").stdout, "ok\n");
    denied(2, &folder.file("group", b"#!/usr/bin/sh\n", 0o775));
    denied(3, &folder.file("others", b"#!/usr/bin/sh\n", 0o757));
    let foreign = folder.script("foreign", "echo ok");
    std::os::unix::fs::chown(&foreign, Some(DEFAULT.0), None).expect("chown");
    denied(4, &foreign);
    // One that gets no secrets may be its own user's.
    assert_eq!(line.run(request_as("default", 12, &foreign), "").stdout, "ok\n");
    // An ancestor: the folder's mode, then a sticky one, then its owner.
    for (run, mode) in [(5, 0o775), (6, 0o1777)] {
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
        denied(run, &script);
    }
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::chown(folder.path(), Some(DEFAULT.0), None).expect("chown");
    denied(7, &script);
    std::os::unix::fs::chown(folder.path(), Some(0), None).expect("chown");
    // Links, in the last place and before it, and a way back up.
    let other = Folder::new();
    symlink(&script, other.path().join("link")).expect("symlink");
    symlink(folder.path(), other.path().join("dir")).expect("symlink");
    let up = format!("{}/../{}/s", other.path().display(), folder.path().file_name().expect("a name").display());
    for (run, path) in [(8, other.path().join("link")), (9, other.path().join("dir/s")), (10, up.into())] {
        let refusal = line.refused(request_as("default", run, &path));
        assert!(matches!(refusal, RunRefusal::Start { .. } | RunRefusal::Denied(_)), "{refusal:?}");
    }
    assert_eq!(line.run(request_as("default", 11, &script), "").stdout, "ok\n");
}

#[test]
fn a_dropped_run_is_killed_with_its_escapee() {
    let (line, folder) = (SpawnerLine::enforcing(), Folder::new());
    let lone = folder.script("lone", "trap '' TERM; echo $$; while :; do sleep 1000; done");
    let script = folder.script("s", &format!("trap '' TERM; (setsid {} &); read x", lone.display()));
    let mut child = line.spawn(request_as("default", 1, script));
    let escaped: u32 = child.lines(1)[0].parse().expect("a pid");
    line.end(1, 20);
    let ended = line.ended(1);
    assert_eq!(ended.exit, Exit::Signal(9));
    assert!(ended.leftovers >= 1 && !procs::lives(child.pid) && !procs::lives(escaped), "{ended:?}");
}
