//! Jobs that share a key, a plugin and a command run one after the other, and nobody else waits for
//! them (`spec/queue-and-scheduler.md` 4.2).

use rustix::process::Signal;
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup, json};
use tests::{procs, wait};

/// One event makes two jobs of `holder` and one of `other`, all with the event's key.
const THREE: &str = "- name: after\n  on: witnessed\n  from_plugin: witness\n  steps:\n  \
                     - split: [{id: one, uses: holder}, {id: two, uses: holder}, {id: three, uses: other}]";

fn count(instance: &Instance, condition: &str) -> i64 {
    instance.count(&format!("SELECT count(*) FROM job_queue WHERE {condition}"))
}

#[test]
fn two_steps_of_one_event_run_one_after_the_other_and_another_plugin_beside_them() {
    let instance = Setup::new()
        .without_vault()
        .plugin("witness")
        .plugin_with("other", "uses: witness")
        .plugin_with("holder", "timeouts: { poll: 120s, handle: 120s }")
        .pipelines(THREE)
        .start();
    let id = instance.trigger("witness", "poll", r#"{"emit":1,"key":1}"#);
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    assert_eq!(count(&instance, "dedupe_key = 'shared'"), 3);
    let shared = |condition: &str| count(&instance, &format!("dedupe_key = 'shared' AND {condition}"));
    wait::until_true("the other plugin to have run", PATIENCE, || {
        shared("plugin = 'other' AND status = 'succeeded'") == 1
    });
    wait::until_true("one of the two to run", PATIENCE, || {
        let running = shared("plugin = 'holder' AND status = 'running'");
        assert!(running < 2, "{running} side by side\n{}", instance.log());
        running == 1 && instance.pids("holder").len() == 1
    });
    // There is room for more: the same command without a key, and another command, run at once.
    for command in ["poll", "handle"] {
        let before = instance.pids("holder").len();
        instance.trigger("holder", command, "");
        wait::until_true("a job without the key to run", PATIENCE, || instance.pids("holder").len() == before + 1);
    }
    assert_eq!(shared("plugin = 'holder' AND status = 'queued'"), 1, "{}", instance.log());
    assert_eq!(instance.pids("holder").len(), 3);

    instance.release_holders();
    wait::until_true("every job to end", PATIENCE, || count(&instance, "status IN ('queued', 'running')") == 0);
    assert_eq!(count(&instance, "status = 'succeeded'"), 6);
    let beside = "SELECT count(*) FROM job_queue a JOIN job_queue b \
                  ON a.dedupe_key = b.dedupe_key AND a.plugin = b.plugin AND a.command = b.command AND a.id < b.id \
                  WHERE a.started_at < b.completed_at AND b.started_at < a.completed_at";
    assert_eq!(instance.count(beside), 0);
}

#[test]
fn a_cancelled_run_holds_its_key_until_its_process_has_ended() {
    let keys = "timeouts: { poll: 120s }\nschedules:\n  - { every: 1h }";
    let instance = Setup::new().without_vault().plugin("tiny").plugin_with("holder", keys).start();
    let pid = wait::until("the scheduled job to run", PATIENCE, || instance.pid_now("holder"));
    let old: String = instance
        .ledger()
        .query_row("SELECT id FROM job_queue", [], |row| row.get(0))
        .expect("the scheduled job stands in the ledger");
    // One that is stopped does not hear that it is to end.
    assert!(procs::signal(pid, Signal::STOP));
    instance.run(&["job", "cancel", &old], b"");
    let response = instance.request("POST", &format!("/job/{old}/retry"), "");
    assert_eq!(response.status, 202, "{}", response.body);
    let new = json(&response)["job_id"].as_str().expect("a job id").to_owned();

    // What comes later and has no key is not held up by it.
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    let beside = instance.trigger("holder", "poll", "");
    wait::until_true("a job without a key to run", PATIENCE, || instance.job(&beside)["status"] == "running");
    let (status, lives) = (instance.job(&new)["status"].clone(), procs::lives(pid));
    assert_eq!((status, lives), ("queued".into(), true), "{}", instance.log());

    assert!(procs::signal(pid, Signal::CONT));
    wait::until_true("the next of the key to run", PATIENCE, || instance.job(&new)["status"] == "running");
    assert!(!procs::lives(pid), "{}", instance.log());
    instance.release_holders();
    for id in [new, beside] {
        assert_eq!(instance.finished(&id)["status"], "succeeded");
    }
    assert_eq!(instance.job(&old)["status"], "dead");
}
