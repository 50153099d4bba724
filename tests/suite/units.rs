//! The unit set under a real manager: owners and modes, who is turned away, readiness, watchdog.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use shared::wire::hello::Hello;
use tests::command::{command, succeed};
use tests::peer::{Peer, connect_as};
use tests::site::{PATIENCE, Setup};
use tests::unit_set::{SERVICES, is_active, show, under_systemd, user};
use tests::{paths, procs, wait};

/// Socket, and the user that owns it.
const SOCKETS: [(&str, &str); 5] = [
    ("executor", "ductile-api"),
    ("executor-admin", "root"),
    ("vault-admin", "root"),
    ("vault-executor", "ductile"),
    ("vault-spawner", "ductile-spawner"),
];

fn path(socket: &str) -> PathBuf {
    PathBuf::from(format!("/run/ductile/{socket}.sock"))
}

#[test]
fn under_systemd_paths_have_the_modes_and_owners_of_the_tables() {
    under_systemd("units::under_systemd_paths_have_the_modes_and_owners_of_the_tables", || {
        let set = Setup::new().plugin("tiny").start_units();
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        for (socket, owner) in SOCKETS {
            let (mode, uid, _) = procs::mode_and_owner(path(socket));
            assert_eq!((mode, uid), (0o600, user(owner).0), "{socket}");
        }
        let check = |path: &str, mode: u32, owner: &str| {
            let (uid, gid) = user(owner);
            assert_eq!(procs::mode_and_owner(path), (mode, uid, gid), "{path}");
        };
        check("/run/ductile", 0o755, "root");
        check("/run/ductile-api", 0o755, "ductile-api");
        check("/etc/ductile", 0o750, "ductile");
        for file in ["config.yaml", "api.yaml", "plugins.yaml", ".checksums"] {
            check(&format!("/etc/ductile/{file}"), 0o640, "ductile");
        }
        check("/var/lib/ductile", 0o711, "ductile");
        check("/var/lib/ductile/ductile.db", 0o600, "ductile");
        check("/var/lib/ductile/accounts", 0o711, "ductile");
        check("/var/lib/ductile/accounts/default", 0o700, "ductile-plugin");
        check("/var/lib/ductile-vault", 0o700, "ductile-vault");
        for entry in fs::read_dir("/var/lib/ductile-vault").expect("the agent's directory") {
            check(&entry.expect("an entry").path().display().to_string(), 0o600, "ductile-vault");
        }
        check("/opt/ductile/plugins", 0o755, "root");
    });
}

#[test]
fn under_systemd_everybody_else_is_turned_away() {
    under_systemd("units::under_systemd_everybody_else_is_turned_away", || {
        let set = Setup::new().plugin("tiny").start_units();
        let users = ["nobody", "ductile-plugin", "ductile-api", "ductile", "ductile-spawner", "ductile-vault"];
        // By the mode of the socket.
        for (socket, owner) in SOCKETS {
            for name in users.into_iter().filter(|name| *name != owner) {
                let (uid, gid) = user(name);
                match connect_as(&path(socket), uid, gid) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name} on {socket}"),
                    Ok(_) => panic!("{name} could connect to {socket}"),
                }
            }
        }
        // And where the mode would let them in, by their credentials: root too. (On the operator's
        // sockets a mode with group write is the check.)
        for (socket, owner) in SOCKETS.into_iter().filter(|(_, owner)| *owner != "root") {
            fs::set_permissions(path(socket), fs::Permissions::from_mode(0o666)).expect("set the mode");
            for name in users.into_iter().chain(["root"]).filter(|name| *name != owner) {
                let (uid, gid) = user(name);
                let stream = connect_as(&path(socket), uid, gid).expect("connect");
                match Peer::hello(stream, &Hello::ours(None)) {
                    Err(_) => {}
                    Ok(_) => panic!("{name} was welcomed on {socket}"),
                }
            }
            fs::set_permissions(path(socket), fs::Permissions::from_mode(0o600)).expect("set the mode");
        }
        // None of them took the line of one who belongs there.
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        // Root is the operator.
        for socket in ["executor-admin", "vault-admin"] {
            let stream = UnixStream::connect(path(socket)).expect("connect");
            assert!(Peer::hello(stream, &Hello::ours(None)).is_ok(), "{socket}");
        }
    });
}

#[test]
fn under_systemd_ready_means_ready() {
    under_systemd("units::under_systemd_ready_means_ready", || {
        let set = Setup::new().plugin("tiny").start_units();
        let agent = [
            "ductile-vault-agent.socket",
            "ductile-vault-executor.socket",
            "ductile-vault-spawner.socket",
            "ductile-vault-agent.service",
        ];
        set.systemctl(&["stop", "ductile.target"]);
        wait::until_true("all to stop", PATIENCE, || {
            SERVICES.iter().all(|unit| show(unit, "ActiveState") == "inactive")
        });
        for unit in SERVICES {
            assert_eq!(show(unit, "Result"), "success", "{unit}\n{}", set.log());
        }
        // Without the agent the executor starts and is not ready.
        set.systemctl(&["start", "--no-block", "ductile-executor.service"]);
        wait::until_true("the executor to run", PATIENCE, || set.pid_now("ductile-spawner").is_some());
        assert_eq!(show("ductile-executor", "ActiveState"), "activating");
        set.systemctl(&[&["start"], &agent[..]].concat());
        wait::until_true("the executor to be ready", PATIENCE, || is_active("ductile-executor"));
        // The first connection starts the front, and is served.
        set.systemctl(&["start", "ductile-api.socket"]);
        assert_eq!(show("ductile-api", "ActiveState"), "inactive");
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        assert!(is_active("ductile-api"));
    });
}

#[test]
fn under_systemd_a_service_that_hangs_is_replaced() {
    under_systemd("units::under_systemd_a_service_that_hangs_is_replaced", || {
        let set = Setup::new().plugin("tiny").install_units();
        for unit in SERVICES {
            let folder = PathBuf::from(format!("/run/systemd/system/{unit}.service.d"));
            fs::create_dir_all(&folder).expect("make a folder");
            fs::write(folder.join("watchdog.conf"), "[Service]\nWatchdogSec=1s\n").expect("write the drop-in");
        }
        set.systemctl(&["daemon-reload"]);
        set.start();
        for unit in SERVICES {
            let pid = set.pid(unit);
            procs::signal(pid, Signal::STOP);
            wait::until_true(&format!("{unit} to be replaced"), PATIENCE, || {
                is_active(unit) && set.pid_now(unit).is_some_and(|now| now != pid)
            });
            wait::until_true("jobs to run again", PATIENCE, || {
                set.is_healthy() && set.run_job("tiny", "")["status"] == "succeeded"
            });
        }
        // A second with jobs in it is none in which a healthy service is replaced.
        let pids = SERVICES.map(|unit| set.pid(unit));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < end {
            assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        }
        assert_eq!(SERVICES.map(|unit| set.pid(unit)), pids);
    });
}

#[test]
fn under_systemd_a_refused_start_does_not_loop() {
    under_systemd("units::under_systemd_a_refused_start_does_not_loop", || {
        let set = Setup::new().plugin("tiny").start_units();
        set.systemctl(&["stop", "ductile.target"]);
        let is_down = |unit: &str| show(unit, "ActiveState") == "inactive";
        wait::until_true("the services to end", PATIENCE, || SERVICES.iter().all(|unit| is_down(unit)));
        fs::set_permissions(&set.key, fs::Permissions::from_mode(0o644)).expect("set the mode");
        // Its own sockets are up, and nobody connects: one start, one refusal.
        let _ = command("systemctl").args(["start", "ductile-vault-agent.service"]).status();
        wait::until_true("the agent to refuse", PATIENCE, || show("ductile-vault-agent", "ActiveState") == "failed");
        assert_eq!(show("ductile-vault-agent", "ExecMainStatus"), "78");
        assert_eq!(show("ductile-vault-agent", "NRestarts"), "0");
        let log = set.log();
        assert!(log.contains("has insecure permissions") && log.contains("age.key"), "{log}");
    });
}

#[test]
fn under_systemd_an_uninstalled_set_leaves_what_holds_data() {
    under_systemd("units::under_systemd_an_uninstalled_set_leaves_what_holds_data", || {
        let set = Setup::new().plugin("tiny").start_units();
        let pids = SERVICES.map(|unit| set.pid(unit));
        succeed(command(paths::sources().join("systemd/uninstall.sh")).env("PREFIX", "/usr/local"));
        wait::until_true("the services to end", PATIENCE, || pids.iter().all(|pid| !procs::lives(*pid)));
        for program in paths::PROGRAMS {
            assert!(!Path::new("/usr/local/bin").join(program).exists(), "{program}");
        }
        assert!(!Path::new("/etc/systemd/system/ductile.target").exists());
        for kept in [&set.key, &set.vault, &set.database, &set.config.join("config.yaml")] {
            assert!(kept.exists(), "{}", kept.display());
        }
    });
}
