//! While another program holds the database's write lock: what has begun, what ends, and what goes
//! on by itself when the lock is given back.

use std::fs;
use std::time::Duration;

use tests::http::{Connection, Response};
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup, json};
use tests::{procs, wait};

/// The write lock, in another program's hands until it is given back.
struct Lock(rusqlite::Connection);

impl Lock {
    fn take(instance: &Instance) -> Self {
        let foreign = rusqlite::Connection::open(&instance.database).expect("open the database");
        foreign.busy_timeout(PATIENCE).expect("set");
        foreign.execute_batch("BEGIN IMMEDIATE").expect("take the lock");
        Self(foreign)
    }

    fn give_back(self) {
        self.0.execute_batch("ROLLBACK").expect("give the lock back");
    }
}

/// Claims need not be durable before their spawn any more.
fn past_the_careful_start(instance: &Instance) {
    wait::until_true("the first seconds to pass", PATIENCE, || {
        let health = json(&instance.request("GET", "/healthz", ""));
        health["uptime_seconds"].as_u64().expect("a number") >= 2
    });
}

fn running(instance: &Instance, name: &str) -> usize {
    procs::tree(instance.launcher()).into_iter().filter(|pid| procs::name(*pid).as_deref() == Some(name)).count()
}

fn rows(instance: &Instance, sql: &str) -> i64 {
    instance.ledger().query_row(sql, [], |row| row.get(0)).expect("a count")
}

fn runs(instance: &Instance) -> String {
    fs::read_to_string(instance.plugin_root.join("witness/runs")).unwrap_or_default()
}

/// Sends a request while `look` is done; `look` gets no answer before it has returned.
fn meanwhile(instance: &Instance, path: &str, look: impl FnOnce()) -> Response {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| instance.request("POST", path, ""));
        look();
        asked.join().expect("an answer")
    })
}

#[test]
fn a_process_starts_beside_the_admission_and_is_asked_after_it() {
    let instance = Setup::new().without_vault().plugin("witness").start();
    past_the_careful_start(&instance);
    let lock = Lock::take(&instance);
    let answer = meanwhile(&instance, "/plugin/witness/poll", || {
        wait::until_true("the process to start", PATIENCE, || running(&instance, "witness") == 1);
        assert_eq!((rows(&instance, "SELECT count(*) FROM job_queue"), runs(&instance)), (0, String::new()));
        lock.give_back();
    });
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = json(&answer)["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    assert_eq!(runs(&instance), format!("{id}\n"));
}

#[test]
fn a_job_that_is_not_accepted_is_never_asked_and_holds_no_place() {
    let serial = "parallelism: 1";
    let instance = Setup::new().without_vault().workers(1).plugin_with("witness", serial).start();
    past_the_careful_start(&instance);
    let lock = Lock::take(&instance);
    let answer = meanwhile(&instance, "/plugin/witness/poll", || {
        wait::until_true("the process to start", PATIENCE, || running(&instance, "witness") == 1);
    });
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("1")), "{answer:?}");
    wait::until_true("the process to end", PATIENCE, || running(&instance, "witness") == 0);
    lock.give_back();
    assert_eq!((rows(&instance, "SELECT count(*) FROM job_queue"), runs(&instance)), (0, String::new()));
    let id = wait::until("a job to be accepted", PATIENCE, || {
        let answer = instance.request("POST", "/plugin/witness/poll", "");
        (answer.status == 202).then(|| json(&answer)["job_id"].as_str().expect("an id").to_owned())
    });
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    assert_eq!(runs(&instance), format!("{id}\n"));
    let log = instance.log();
    assert!(log.contains("job was not accepted; its process ends without a request"), "{log}");
}

#[test]
fn a_waiting_job_that_is_being_cancelled_starts_no_more() {
    let instance = Setup::new().without_vault().plugin_with("holder", "parallelism: 1").start();
    let (first, second) = (instance.trigger("holder", "poll", ""), instance.trigger("holder", "poll", ""));
    wait::until_true("the first to run", PATIENCE, || running(&instance, "holder") == 1);
    wait::until_true("its claim to be written", PATIENCE, || rows(&instance, "SELECT count(*) FROM job_attempts") == 1);
    let lock = Lock::take(&instance);
    let mut caller = Connection::open(instance.address);
    let bearer = format!("Bearer {}", instance.token);
    caller.send("POST", &format!("/job/{second}/cancel"), &[("authorization", &bearer)], None);
    // What is asked later is answered later: the executor has the cancel.
    assert_eq!(instance.job(&second)["status"], "queued");
    fs::write(instance.plugin_root.join("holder/release"), "").expect("release the plugin");
    wait::until_true("the first to end", PATIENCE, || running(&instance, "holder") == 0);
    lock.give_back();
    let answer = caller.response();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(instance.finished(&first)["status"], "succeeded");
    assert_eq!(instance.finished(&second)["status"], "dead");
    let log = instance.log();
    let begun = log.lines().filter(|line| line.contains("job started") && line.contains(&second)).count();
    assert_eq!(begun, 0, "{log}");
}

#[test]
fn schedules_go_on_by_themselves_while_a_long_job_runs() {
    // The next slot comes when the lock is free again, so that the admission is all that failed.
    let schedules = "schedules:\n  - { id: a, every: 8s }";
    let instance = Setup::new().without_vault().workers(3).plugin("holder").plugin_with("witness", schedules).start();
    instance.trigger("holder", "poll", "");
    wait::until_true("the long job to run", PATIENCE, || running(&instance, "holder") == 1);
    let fired = || rows(&instance, "SELECT count(*) FROM schedule_occurrences WHERE outcome = 'enqueued'");
    wait::until_true("the entry to run", PATIENCE, || fired() > 0);
    let lock = Lock::take(&instance);
    let refused = instance.request("POST", "/plugin/witness/poll", "");
    assert_eq!(refused.status, 503, "{refused:?}");
    let before = fired();
    lock.give_back();
    // Nobody asks for anything.
    wait::until_true("the entry to run again", Duration::from_secs(8), || fired() > before);
    assert_eq!(running(&instance, "holder"), 1);
}
