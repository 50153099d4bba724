//! Whatever is killed, in whatever moment: it comes back, no connection is refused, and every job
//! that was promised ends.

use rustix::process::Signal;
use tests::load::{Load, Seen};
use tests::site::{PATIENCE, Setup};
use tests::unit_set::{SERVICES, UnitSet, is_active, under_systemd};
use tests::{procs, wait};

const PROGRAMS: [&str; 4] = ["ductile-vault-agent", "ductile-executor", "ductile-spawner", "ductile-api"];
const AGAIN: &str = "retry: { max_attempts: 50, backoff_base: 20ms }";

fn start() -> UnitSet {
    let set = Setup::new()
        .plugin_with("tiny", AGAIN)
        .plugin_with("canary", &format!("{AGAIN}\nshared_account: true"))
        .secret("canary_key", "a-value-of-some-length", &["canary"])
        .start_units();
    assert_eq!(set.run_job("canary", "")["status"], "succeeded");
    set
}

#[test]
fn under_systemd_kill_each_process_in_turn_under_load() {
    under_systemd("kill::under_systemd_kill_each_process_in_turn_under_load", || {
        let set = start();
        let load = Load::start(set.address, &set.token, &["tiny/poll", "canary/poll"]);
        for program in PROGRAMS.into_iter().cycle().take(3 * PROGRAMS.len()) {
            more(&load);
            let pid = set.pid(program);
            let executor = set.pid("ductile-executor");
            procs::signal(pid, Signal::KILL);
            wait::until_true(&format!("{program} to come back\n{}", tail(&set)), PATIENCE, || {
                set.pid_now(program).is_some_and(|now| now != pid) && SERVICES.iter().all(|unit| is_active(unit))
            });
            if program == "ductile-spawner" {
                // They are one service: neither outlives the other.
                assert_ne!(set.pid("ductile-executor"), executor);
            }
        }
        more(&load);
        promises_are_kept(&set, &load.stop());
    });
}

#[test]
fn under_systemd_restart_each_service_alone_under_load() {
    under_systemd("kill::under_systemd_restart_each_service_alone_under_load", || {
        let set = start();
        let load = Load::start(set.address, &set.token, &["tiny/poll", "canary/poll"]);
        for service in SERVICES.into_iter().cycle().take(2 * SERVICES.len()) {
            more(&load);
            let others: Vec<_> = SERVICES.into_iter().filter(|other| *other != service).collect();
            let before: Vec<_> = others.iter().map(|other| set.pid(other)).collect();
            set.systemctl(&["restart", &format!("{service}.service")]);
            let after: Vec<_> = others.iter().map(|other| set.pid(other)).collect();
            assert_eq!(before, after, "{service} took others with it\n{}", tail(&set));
        }
        more(&load);
        promises_are_kept(&set, &load.stop());
    });
}

#[test]
fn under_systemd_kill_all_at_once_under_load() {
    under_systemd("kill::under_systemd_kill_all_at_once_under_load", || {
        let set = start();
        let load = Load::start(set.address, &set.token, &["tiny/poll", "canary/poll"]);
        for _ in 0..3 {
            more(&load);
            let pids = PROGRAMS.map(|program| set.pid(program));
            for pid in pids {
                procs::signal(pid, Signal::KILL);
            }
            wait::until_true(&format!("all to come back\n{}", tail(&set)), PATIENCE, || {
                PROGRAMS.iter().zip(pids).all(|(program, pid)| set.pid_now(program).is_some_and(|now| now != pid))
                    && SERVICES.iter().all(|unit| is_active(unit))
            });
        }
        more(&load);
        promises_are_kept(&set, &load.stop());
    });
}

/// Waits until the load has got some more jobs in: it runs, and is under way.
fn more(load: &Load) {
    let before = load.seen().accepted.len();
    wait::until_true("more jobs to be accepted", PATIENCE, || load.seen().accepted.len() >= before + 30);
}

fn promises_are_kept(set: &UnitSet, seen: &Seen) {
    assert_eq!(seen.refused, 0, "connections were refused");
    assert!(seen.strange.is_empty(), "{:?}", seen.strange);
    wait::until_true(&format!("every job to end\n{}", tail(set)), 4 * PATIENCE, || outstanding(set) == 0);
    let ledger = set.ledger();
    let mut status = ledger.prepare("SELECT status FROM job_queue WHERE id = ?1").expect("a query");
    for id in &seen.accepted {
        let status: String = status.query_row([id], |row| row.get(0)).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(status, "succeeded", "{id}: {}", set.last_error(id));
    }
    let runs: i64 = ledger
        .query_row("SELECT count(*) FROM job_log WHERE status = 'succeeded'", [], |row| row.get(0))
        .expect("a count");
    assert!(usize::try_from(runs).is_ok_and(|runs| runs >= seen.accepted.len()), "{runs} runs");
}

fn outstanding(set: &UnitSet) -> i64 {
    set.ledger()
        .query_row("SELECT count(*) FROM job_queue WHERE status IN ('queued', 'running')", [], |row| row.get(0))
        .expect("a count")
}

fn tail(set: &UnitSet) -> String {
    let log = set.log();
    let lines: Vec<_> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
