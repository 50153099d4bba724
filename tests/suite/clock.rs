//! The clock on the wall is set a day ahead and a day back under a running instance
//! (`spec/queue-and-scheduler.md` 7.9). These tests set the machine's own clock, and run alone.

use std::time::{Duration, Instant};

use tests::instance::Instance;
use tests::site::Setup;
use tests::wall::Wall;
use tests::{procs, wait};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What waits for a moment that is a day away waits in vain for so long.
const SOON: Duration = Duration::from_secs(10);
const MINUTE: u64 = 60;

#[test]
fn retries_and_waiting_jobs_neither_storm_nor_hang_over_a_step() {
    let instance = Setup::new()
        .without_vault()
        .plugin("witness")
        .plugin_with("failing", "uses: witness\nretry: { max_attempts: 4, backoff_base: 500ms }")
        .start();
    let wall = Wall::take();

    let id = instance.trigger("failing", "poll", r#"{"fail":1}"#);
    attempts(&instance, &id, 1);
    // The retry is half a second away, and then a day and half a second.
    wall.set(wall.now() - DAY);
    at_once(&instance);
    attempts(&instance, &id, 2);
    wall.set(wall.now() + 2 * DAY);
    at_once(&instance);
    attempts(&instance, &id, 3);
    wall.set(wall.now() - DAY);
    at_once(&instance);
    let job = wait::until("the last attempt to end", SOON, || {
        let job = instance.job(&id);
        (job["status"] == "failed").then_some(job)
    });
    assert!(job["result"]["error"] == "as asked", "{job}");
    attempts(&instance, &id, 4);

    let log = instance.log();
    assert_eq!(log.matches("\"msg\":\"job started\"").count(), 4 + 3, "{log}");
    // Nothing was awake for nothing: a loop without a pause would have filled the seconds.
    let used = procs::cpu(instance.pid("ductile-executor"));
    assert!(used < Duration::from_millis(700), "{used:?} of CPU");
    drop(wall);
    at_once(&instance);
}

#[test]
fn schedules_go_on_after_a_step_and_run_no_slot_twice() {
    let schedules = "schedules:\n  - { id: a, every: 1s }\n  - { id: b, cron: \"* * * * *\" }";
    let instance = Setup::new().without_vault().plugin_with("witness", schedules).start();
    let wall = Wall::take();
    some_runs(&instance);

    // Three seconds before a minute: the entry of every minute is seen to run too.
    let before = count(&instance, "b");
    wall.set(end_of_minute(wall.now() + DAY));
    some_runs(&instance);
    wait::until_true("cron to run a day ahead", SOON, || count(&instance, "b") > before);
    assert!(count(&instance, "b") <= before + 2, "cron ran for minutes that were left out");

    let before = count(&instance, "b");
    wall.set(end_of_minute(wall.now() - DAY));
    some_runs(&instance);
    wait::until_true("cron to run on the day itself", SOON, || count(&instance, "b") > before);
    assert!(count(&instance, "b") <= before + 2, "cron ran for minutes that were left out");

    drop(wall);
    some_runs(&instance);
    // A slot that were run again would have overwritten the row that names its first job.
    let unnamed: i64 = instance
        .ledger()
        .query_row(
            "SELECT count(*) FROM job_queue WHERE dedupe_key IS NOT NULL AND NOT EXISTS (SELECT 1 \
             FROM schedule_occurrences o WHERE o.job_id = job_queue.id AND o.outcome = 'enqueued')",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(unnamed, 0, "a slot ran twice\n{}", told(&instance));
}

/// The entry of every second runs on: no less often, and not for all the seconds of a day at once.
fn some_runs(instance: &Instance) {
    let (before, start) = (count(instance, "a"), Instant::now());
    while count(instance, "a") < before + 3 {
        assert!(
            start.elapsed() < SOON,
            "the entry of every second does not run\n{}\n{}",
            told(instance),
            instance.log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let (runs, took) = (count(instance, "a") - before, start.elapsed().as_secs());
    assert!(runs <= took + 3, "{runs} runs in {took} s");
}

/// Every job and slot of the scheduler.
fn told(instance: &Instance) -> String {
    let ledger = instance.ledger();
    let query = "SELECT coalesce(dedupe_key, '-') || ' ' || status || ' ' || created_at FROM job_queue UNION ALL \
                 SELECT schedule_id || ' ' || slot_at || ' ' || outcome || ' ' || coalesce(reason, '') \
                 FROM schedule_occurrences";
    let mut statement = ledger.prepare(query).expect("a query");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.map(|row| row.expect("a row")).collect::<Vec<_>>().join("\n")
}

/// How many jobs an entry made.
fn count(instance: &Instance, entry: &str) -> u64 {
    instance
        .ledger()
        .query_row("SELECT count(*) FROM job_queue WHERE dedupe_key = ?1", [format!("witness:poll:{entry}")], |row| {
            row.get::<_, i64>(0)
        })
        .expect("a count")
        .unsigned_abs()
}

fn end_of_minute(at: Duration) -> Duration {
    Duration::from_secs(at.as_secs() / MINUTE * MINUTE + MINUTE - 3)
}

fn attempts(instance: &Instance, id: &str, ended: i64) {
    wait::until_true(&format!("attempt {ended} to end\n{}", instance.log()), SOON, || {
        let count: i64 = instance
            .ledger()
            .query_row("SELECT count(*) FROM job_log WHERE job_id = ?1", [id], |row| row.get(0))
            .expect("a count");
        count >= ended
    });
}

/// A job that waits for nothing does not wait.
fn at_once(instance: &Instance) {
    let start = Instant::now();
    assert_eq!(instance.run_job("witness", "")["status"], "succeeded");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
