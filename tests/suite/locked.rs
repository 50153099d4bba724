//! While another program holds the database's write lock: what has begun, what ends, and what goes
//! on by itself when the lock is given back.

use std::fs;
use std::time::{Duration, SystemTime};

use shared::time::{Millis, Timestamp};
use tests::event_stream::EventStream;
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
        wait::until_true("the process to start", PATIENCE, || instance.pids("witness").len() == 1);
        assert_eq!((instance.count("SELECT count(*) FROM job_queue"), runs(&instance)), (0, String::new()));
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
        wait::until_true("the process to start", PATIENCE, || instance.pids("witness").len() == 1);
    });
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("1")), "{answer:?}");
    wait::until_true("the process to end", PATIENCE, || instance.pids("witness").is_empty());
    lock.give_back();
    assert_eq!((instance.count("SELECT count(*) FROM job_queue"), runs(&instance)), (0, String::new()));
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
    wait::until_true("the first to run", PATIENCE, || instance.pids("holder").len() == 1);
    wait::until_true("its claim to be written", PATIENCE, || instance.count("SELECT count(*) FROM job_attempts") == 1);
    let lock = Lock::take(&instance);
    let mut caller = Connection::open(instance.address);
    let bearer = format!("Bearer {}", instance.token);
    caller.send("POST", &format!("/job/{second}/cancel"), &[("authorization", &bearer)], None);
    // What is asked later is answered later: the executor has the cancel.
    assert_eq!(instance.job(&second)["status"], "queued");
    instance.release_holders();
    wait::until_true("the first to end", PATIENCE, || instance.pids("holder").is_empty());
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
    wait::until_true("the long job to run", PATIENCE, || instance.pids("holder").len() == 1);
    let fired = || instance.count("SELECT count(*) FROM schedule_occurrences WHERE outcome = 'enqueued'");
    wait::until_true("the entry to run", PATIENCE, || fired() > 0);
    let lock = Lock::take(&instance);
    let refused = instance.request("POST", "/plugin/witness/poll", "");
    assert_eq!(refused.status, 503, "{refused:?}");
    let before = fired();
    lock.give_back();
    // Nobody asks for anything.
    wait::until_true("the entry to run again", Duration::from_secs(8), || fired() > before);
    assert_eq!(instance.pids("holder").len(), 1);
}

/// Reads events up to a tick from now on; the end of the job must not be among them.
fn no_end_up_to_a_tick(stream: &mut EventStream, id: &str) {
    let now = Timestamp::from_system_time(SystemTime::now());
    loop {
        let event = stream.next_event().expect("the stream goes on");
        assert!(event.kind != "job.completed" || event.data["job_id"] != id, "told before its commit: {event:?}");
        if event.kind == "scheduler.tick"
            && Timestamp::parse(event.data["at"].as_str().expect("a time")).expect("a time") > now
        {
            return;
        }
    }
}

#[test]
fn the_end_of_a_job_is_told_when_it_is_in_the_database() {
    let instance = Setup::new().without_vault().plugin("holder").service("tick_interval: 500ms").start();
    past_the_careful_start(&instance);
    let mut stream = instance.events(None);
    let id = instance.trigger("holder", "poll", "");
    wait::until_true("the job to run", PATIENCE, || instance.pids("holder").len() == 1);
    wait::until_true("its claim to be written", PATIENCE, || instance.count("SELECT count(*) FROM job_attempts") == 1);
    let lock = Lock::take(&instance);
    instance.release_holders();
    let has_ended = || instance.log().lines().any(|line| line.contains("\"job completed\"") && line.contains(&id));
    wait::until_true("the executor to know of the end", PATIENCE, has_ended);
    no_end_up_to_a_tick(&mut stream, &id);
    // Nor when its writer has given up and tries again now and then.
    let failing = || instance.log().contains("database write failed");
    wait::until_true("the writer to fail", PATIENCE, failing);
    no_end_up_to_a_tick(&mut stream, &id);
    assert_eq!(instance.count("SELECT count(*) FROM job_queue WHERE status = 'running'"), 1);

    lock.give_back();
    loop {
        let event = stream.next_event().expect("the stream goes on");
        if event.kind == "job.completed" && event.data["job_id"] == id {
            break;
        }
    }
    assert_eq!(instance.count("SELECT count(*) FROM job_queue WHERE status = 'succeeded'"), 1);
}

#[test]
fn an_entry_that_is_due_wakes_nobody_while_nothing_can_be_written() {
    // The writer tries for five seconds; what is due before that is with it, what is due later is not.
    let schedules = "schedules:\n  - { id: soon, every: 1s }\n  - { id: late, every: 8s }";
    let instance = Setup::new().without_vault().plugin_with("witness", schedules).start();
    let fired = || instance.count("SELECT count(*) FROM schedule_occurrences WHERE outcome = 'enqueued'");
    wait::until_true("both entries to run", PATIENCE, || fired() >= 2);
    let query = "SELECT next_run_at FROM schedule_entries WHERE schedule_id = 'late'";
    let late: String = instance.ledger().query_row(query, [], |row| row.get(0)).expect("the entry's next slot");
    let late = Timestamp::parse(&late).expect("a time").plus(Millis::from_secs(2));
    let executor = instance.pid("ductile-executor");
    let idles = |what: &str, condition: &dyn Fn() -> bool| {
        let before = procs::cpu(executor);
        wait::until_true(what, PATIENCE, condition);
        let used = procs::cpu(executor) - before;
        assert!(used < Duration::from_millis(200), "{used:?} of CPU\n{}", instance.log());
    };
    let lock = Lock::take(&instance);
    idles("the writer to fail", &|| instance.log().contains("database write failed"));
    idles("the late slot to be long due", &|| Timestamp::from_system_time(SystemTime::now()) > late);
    let before = fired();
    lock.give_back();
    wait::until_true("the entries to run again", PATIENCE, || fired() >= before + 3);
}
