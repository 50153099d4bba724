//! What the dispatcher owes: one run after the other where a plugin wants it, and every answer that
//! it has promised.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::site::{PATIENCE, Setup};
use tests::{http, procs, wait};

#[test]
fn a_serial_plugin_gets_the_state_of_the_run_before() {
    const JOBS: usize = 40;
    let instance = Setup::new().plugin("counter").workers(8).start();
    let jobs: Vec<_> = (0..JOBS).map(|_| instance.trigger("counter", "poll", "")).collect();
    let mut results: Vec<_> = jobs.iter().map(|id| instance.finished(id)["result"]["result"].to_string()).collect();
    let mut expected: Vec<_> = (1..=JOBS).map(|run| format!("\"run {run}\"")).collect();
    results.sort();
    expected.sort();
    assert_eq!(results, expected);
}

#[test]
fn a_caller_who_waits_gets_the_result_of_a_job_that_ends_during_the_stop() {
    let instance = Setup::new().plugin("holder").start();
    let (address, bearer) = (instance.address, format!("Bearer {}", instance.token));
    let caller = std::thread::spawn(move || {
        let headers = [("authorization", bearer.as_str()), ("prefer", "wait=30")];
        http::request(address, "POST", "/plugin/holder/poll", &headers, Some(b""))
    });
    wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    procs::signal(instance.pid("ductile-executor"), Signal::TERM);
    wait::until_true("the executor to be asked", PATIENCE, || instance.log().contains("received shutdown signal"));
    // What comes from here on is refused, not lost.
    assert_eq!(instance.request("POST", "/plugin/holder/poll", "").status, 503);
    instance.release_holders();
    let response = caller.join().expect("an answer");
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.contains("released"), "{}", response.body);
}

#[test]
fn a_stop_that_waits_for_a_job_is_idle_meanwhile() {
    let instance = Setup::new()
        .without_vault()
        .plugin_with("holder", "timeouts: { poll: 120s }")
        .plugin_with("witness", "schedules: [{ every: 1s }]")
        .start();
    instance.trigger("holder", "poll", "");
    wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    procs::signal(instance.launcher(), Signal::TERM);
    wait::until_true("the stop to begin", PATIENCE, || instance.log().contains("received shutdown signal"));
    let executor = instance.pid("ductile-executor");
    let (before, start) = (procs::cpu(executor), Instant::now());
    // Slots of the schedule come and are not looked at: nothing may wake for them again and again.
    wait::until_true("some slots to pass", PATIENCE, || start.elapsed() >= Duration::from_secs(3));
    let used = procs::cpu(executor) - before;
    assert!(used < Duration::from_secs(1), "{used:?} of CPU in 3 s");
    instance.release_holders();
    let ended = instance.ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn a_spawner_that_stands_still_does_not_hold_up_the_end() {
    let instance = Setup::new().without_vault().plugin("tiny").start();
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    let (executor, spawner) = (instance.pid("ductile-executor"), instance.pid("ductile-spawner"));
    assert!(procs::signal(spawner, Signal::STOP));
    let asked = Instant::now();
    assert!(procs::signal(executor, Signal::TERM));
    wait::until_true("the executor to end", PATIENCE, || !procs::lives(executor));
    let took = asked.elapsed();
    // It waits for the spawner, a second; the rest is room for a busy machine.
    assert!((1..4).contains(&took.as_secs()), "{took:?}\n{}", instance.log());
    assert!(procs::lives(spawner));
    // As soon as it goes on it sees that its line is closed, and nothing is left.
    assert!(procs::signal(spawner, Signal::CONT));
    let ended = instance.ended();
    assert!(ended.log.contains("\"msg\":\"ductile stopped\""), "{}", ended.log);
}

#[test]
fn a_retry_that_is_due_does_not_wait_behind_newer_jobs() {
    const NEWER: usize = 600;
    let keys = "uses: witness\nparallelism: 1\nretry: { max_attempts: 2, backoff_base: 1s }";
    let instance = Setup::new().without_vault().plugin("witness").plugin_with("slow", keys).start();
    let first = instance.trigger("slow", "poll", r#"{"fail":1}"#);
    wait::until_true("the first attempt to fail", PATIENCE, || {
        instance.count("SELECT count(*) FROM job_log WHERE status = 'failed'") == 1
    });
    for _ in 0..NEWER {
        instance.trigger("slow", "poll", r#"{"ms":10}"#);
    }
    assert_eq!(instance.finished(&first)["status"], "failed");
    let before = instance.count(&format!(
        "SELECT count(*) FROM job_queue WHERE started_at < \
         (SELECT created_at FROM job_attempts WHERE job_id = '{first}' AND attempt = 2)"
    ));
    // A lane is filled anew by itself only when it is nearly empty.
    assert!(before < 300, "{before} newer jobs ran before it");
}
