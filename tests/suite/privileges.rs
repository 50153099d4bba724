//! What each process of the unit set may do, examined from outside and tried from inside.

use std::fs::{self, File};

use tests::command::{command, succeed};
use tests::site::{PATIENCE, Setup};
use tests::unit_set::{UnitSet, under_systemd, user};
use tests::{procs, wait};

const NONE: &str = "0000000000000000";
/// CAP_KILL, CAP_SETGID and CAP_SETUID, by their numbers 5, 6 and 7.
const SPAWNERS: &str = "00000000000000e0";

#[test]
fn under_systemd_who_runs_as_whom_with_which_capabilities() {
    under_systemd("privileges::under_systemd_who_runs_as_whom_with_which_capabilities", || {
        let set = Setup::new().plugin("tiny").start_units();
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        for (program, name, held) in [
            ("ductile-vault-agent", "ductile-vault", NONE),
            ("ductile-executor", "ductile", NONE),
            ("ductile-spawner", "ductile-spawner", SPAWNERS),
            ("ductile-api", "ductile-api", NONE),
        ] {
            let pid = set.pid(program);
            let (uid, gid) = user(name);
            for thread in procs::threads(pid) {
                let field = |field| procs::status_field(thread, field).unwrap_or_else(|| panic!("{program}: {field}"));
                let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
                assert_eq!((field("Uid"), field("Gid")), (four(uid), four(gid)), "{program}");
                assert_eq!((field("CapPrm"), field("CapEff")), (held.to_owned(), held.to_owned()), "{program}");
                for set in ["CapInh", "CapBnd", "CapAmb"] {
                    assert_eq!(field(set), NONE, "{program}: {set}");
                }
                assert_eq!(field("NoNewPrivs"), "1", "{program}");
                // A service manager gives a service its own group as a supplementary one too.
                let mut groups = match program {
                    "ductile-spawner" => Vec::new(),
                    "ductile-vault-agent" => vec![gid, user("ductile").1],
                    _ => vec![gid],
                };
                groups.sort_unstable();
                let groups = groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                assert_eq!(field("Groups").trim(), groups, "{program}");
                if program == "ductile-executor" || program == "ductile-spawner" {
                    assert_eq!(field("Seccomp"), "2", "{program} has no filter");
                }
            }
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("read the limits");
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
            assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{program}");
            // Undumpable, and so root's in /proc.
            assert_eq!(procs::mode_and_owner(format!("/proc/{pid}/environ")).1, 0, "{program} is dumpable");
        }
    });
}

#[test]
fn under_systemd_the_executor_can_not_do_what_it_was_denied() {
    under_systemd("privileges::under_systemd_the_executor_can_not_do_what_it_was_denied", || {
        let set = Setup::new().plugin("tiny").start_units();
        let pid = set.pid("ductile-executor");
        denied_inside(pid);
        assert_eq!(set.pid("ductile-executor"), pid);
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
    });
}

#[test]
fn the_executor_of_the_launcher_can_not_either() {
    let instance = Setup::new().plugin("tiny").start();
    let pid = instance.pid("ductile-executor");
    denied_inside(pid);
    for program in ["ductile-vault-agent", "ductile-executor", "ductile-spawner", "ductile-api"] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(procs::status_field(instance.pid(program), set).as_deref(), Some(NONE), "{program}: {set}");
        }
    }
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

const EPERM: i64 = 1;
const ENOSYS: i64 = 38;

/// Numbers of system calls, and the errno that each must come to. The arguments are such that
/// without a filter it would succeed or fail with another errno, and never do any harm.
#[cfg(target_arch = "x86_64")]
const DENIED: [(&str, u32, &str, i64); 14] = [
    ("execve", 59, "0, 0, 0", EPERM),
    ("execveat", 322, "-1, 0, 0, 0, 0", EPERM),
    ("ptrace", 101, "2, 1, 0, 0", EPERM),
    ("setuid", 105, "(int)getuid()", EPERM),
    ("setgid", 106, "(int)getgid()", EPERM),
    ("setreuid", 113, "-1, -1", EPERM),
    ("setregid", 114, "-1, -1", EPERM),
    ("setresuid", 117, "-1, -1, -1", EPERM),
    ("setresgid", 119, "-1, -1, -1", EPERM),
    ("setfsuid", 122, "-1", EPERM),
    ("setfsgid", 123, "-1", EPERM),
    ("unshare(CLONE_NEWUSER)", 272, "0x10000000", EPERM),
    ("clone(CLONE_NEWUSER|CLONE_FS)", 56, "0x10000200, 0, 0, 0, 0", EPERM),
    ("clone3", 435, "0, 0", ENOSYS),
];
#[cfg(target_arch = "aarch64")]
const DENIED: [(&str, u32, &str, i64); 14] = [
    ("execve", 221, "0, 0, 0", EPERM),
    ("execveat", 281, "-1, 0, 0, 0, 0", EPERM),
    ("ptrace", 117, "2, 1, 0, 0", EPERM),
    ("setuid", 146, "(int)getuid()", EPERM),
    ("setgid", 144, "(int)getgid()", EPERM),
    ("setreuid", 145, "-1, -1", EPERM),
    ("setregid", 143, "-1, -1", EPERM),
    ("setresuid", 147, "-1, -1, -1", EPERM),
    ("setresgid", 149, "-1, -1, -1", EPERM),
    ("setfsuid", 151, "-1", EPERM),
    ("setfsgid", 152, "-1", EPERM),
    ("unshare(CLONE_NEWUSER)", 97, "0x10000000", EPERM),
    ("clone(CLONE_NEWUSER|CLONE_FS)", 220, "0x10000200, 0, 0, 0, 0", EPERM),
    ("clone3", 435, "0, 0", ENOSYS),
];

/// Has the process itself make the calls, by a debugger that root attaches.
fn denied_inside(pid: u32) {
    let mut gdb = command("gdb");
    // C, whatever the language of the frame that it stops in: the calls below are written in it.
    gdb.args(["-nx", "--batch", "-ex", "set language c", "-p", &pid.to_string()]);
    for (name, number, arguments, _) in DENIED {
        // Each answer has a line of its own that begins with its name.
        gdb.args(["-ex", &format!("set $result = ((long(*)(long, ...))syscall)({number}, {arguments})")]);
        gdb.args([
            "-ex",
            &format!("printf \"tried {name}: %ld %d\\n\", $result, *((int*(*)(void))__errno_location)()"),
        ]);
    }
    let said = succeed(&mut gdb);
    for (name, _, _, errno) in DENIED {
        let head = format!("tried {name}: ");
        let outcome =
            said.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_else(|| panic!("{name}\n{said}"));
        assert_eq!(outcome, format!("-1 {errno}"), "{name} was not refused\n{said}");
    }
}

#[test]
fn under_systemd_the_executor_holds_no_end_of_a_pipe_that_it_could_read_a_secret_from() {
    under_systemd(
        "privileges::under_systemd_the_executor_holds_no_end_of_a_pipe_that_it_could_read_a_secret_from",
        || {
            let set =
                Setup::new().plugin("holder").secret("a_key", "a-value-of-some-length", &["holder"]).start_units();
            // More than a pipe holds, so that the executor still has its write end open.
            let payload = format!("{{\"filler\":\"{}\"}}", "x".repeat(200_000));
            let id = set.trigger("holder", "poll", &payload);
            let plugin = wait::until("the plugin to run", PATIENCE, || {
                let children = procs::children(set.pid_now("ductile-spawner")?);
                children.into_iter().find(|pid| procs::name(*pid).as_deref() == Some("holder"))
            });
            let stdin = procs::descriptors(plugin)[&0].clone();
            assert!(stdin.target.starts_with("pipe:") && stdin.readable && !stdin.writable, "{stdin:?}");

            let executor = procs::descriptors(set.pid("ductile-executor"));
            let ends: Vec<_> = executor.values().filter(|end| end.target == stdin.target).collect();
            assert!(!ends.is_empty(), "the executor does not hold the write end any more: {executor:?}");
            assert!(ends.iter().all(|end| end.writable && !end.readable), "{ends:?}");
            let spawner = procs::descriptors(set.pid("ductile-spawner"));
            assert!(spawner.values().all(|end| end.target != stdin.target), "{spawner:?}");
            let agent = procs::descriptors(set.pid("ductile-vault-agent"));
            assert!(agent.values().all(|end| end.target != stdin.target), "{agent:?}");
            // Nothing but 0, 1 and 2 in the plugin, and the pipe is its account's.
            assert_eq!(procs::descriptors(plugin).keys().copied().collect::<Vec<_>>(), [0, 1, 2]);

            release(&set, "holder");
            assert_eq!(set.finished(&id)["result"]["result"], "released");
        },
    );
}

#[test]
fn under_systemd_a_plugin_can_touch_nothing_of_ductile() {
    under_systemd("privileges::under_systemd_a_plugin_can_touch_nothing_of_ductile", || {
        let set = Setup::new().plugin("prober").start_units();
        let programs = ["ductile-vault-agent", "ductile-executor", "ductile-spawner", "ductile-api"];
        let pids: Vec<_> = programs.iter().map(|program| set.pid(program).to_string()).collect();
        let files = [
            &set.key,
            &set.vault,
            &set.database,
            &set.config.join("config.yaml"),
            &set.config.join("api.yaml"),
            &set.config.join(".checksums"),
        ]
        .map(|path| path.display().to_string());
        let sockets = ["executor", "executor-admin", "vault-admin", "vault-executor", "vault-spawner"]
            .map(|name| format!("@/run/ductile/{name}.sock"));
        let probe = [pids.join(" "), files.join(" "), sockets.join(" ")].join(" ");
        let job = set.run_job("prober", &format!("{{\"probe\":\"{probe}\"}}"));
        assert_eq!(job["status"], "succeeded", "{job}\n{}", set.log());
        let told = job["result"]["result"].as_str().expect("a text");
        let outcome = |what: &str| {
            let of = told.split(' ').find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
            of.unwrap_or_else(|| panic!("{what} is not in {told}"))
        };

        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(outcome(set), NONE, "{set}");
        }
        let (uid, _) = user("ductile-plugin");
        assert_eq!(outcome("Uid"), [uid; 4].map(|uid| uid.to_string()).join(","));
        assert_eq!(outcome("Groups").trim_end_matches(','), "");
        assert_eq!(outcome("NoNewPrivs"), "1");
        assert_eq!(outcome("setuid:0"), "EPERM");
        for path in &files {
            assert_eq!(outcome(&format!("open:{path}")), "EACCES", "{path}");
        }
        for socket in &sockets {
            assert_eq!(outcome(&format!("use:{}", &socket[1..])), "EACCES", "{socket}");
        }
        for pid in &pids {
            assert_eq!(outcome(&format!("signal:{pid}")), "EPERM");
            assert_eq!(outcome(&format!("trace:{pid}")), "EPERM");
            for what in ["memory", "environ"] {
                let outcome = outcome(&format!("{what}:{pid}"));
                assert!(["EACCES", "EPERM"].contains(&outcome), "{what} of {pid}: {outcome}");
            }
        }
    });
}

fn release(set: &UnitSet, plugin: &str) {
    File::create(set.plugin_root.join(plugin).join("release")).expect("let the plugin go on");
}
