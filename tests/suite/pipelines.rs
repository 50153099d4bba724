//! Events of real plugins, routed through pipelines to the jobs that follow.

use tests::instance::Instance;
use tests::site::{PATIENCE, Setup};
use tests::wait;

const CHAIN: &str = "- name: after\n  on: witnessed\n  from_plugin: witness\n  steps:\n  - {id: one, uses: first}\n  \
                     - split: [{id: left, uses: second}, {id: right, uses: second}]";

fn setup() -> Setup {
    Setup::new()
        .without_vault()
        .plugin("witness")
        .plugin_with("first", "uses: witness")
        .plugin_with("second", "uses: witness")
}

/// Waits until nothing is queued or running.
fn drained(instance: &Instance) {
    let ledger = instance.ledger();
    wait::until_true("every job to end", PATIENCE, || {
        let open = "SELECT count(*) FROM job_queue WHERE status IN ('queued', 'running')";
        ledger.query_row(open, [], |row| row.get::<_, i64>(0)).expect("a count") == 0
    });
}

/// Plugin, status, step and parent's plugin of every job that was routed.
fn routed(instance: &Instance) -> Vec<String> {
    let ledger = instance.ledger();
    let mut statement = ledger
        .prepare(
            "SELECT job.plugin || ' ' || job.status || ' ' || context.step_id || ' after ' || parent.plugin \
             FROM job_queue job JOIN job_queue parent ON parent.id = job.parent_job_id \
             JOIN event_context context ON context.id = job.event_context_id \
             WHERE job.submitted_by = 'route' ORDER BY 1",
        )
        .expect("a query");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("texts")
}

#[test]
fn each_event_makes_its_own_chain() {
    let instance = setup().pipelines(CHAIN).start();
    let id = instance.trigger("witness", "poll", r#"{"emit":2}"#);
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    drained(&instance);
    let (first, left, right) = (
        "first succeeded one after witness",
        "second succeeded left after first",
        "second succeeded right after first",
    );
    assert_eq!(routed(&instance), [first, first, left, left, right, right]);
    // One instance of the pipeline for each event; the steps keep it.
    let instances: i64 = instance
        .ledger()
        .query_row(
            "SELECT count(DISTINCT json_extract(accumulated_json, '$.ductile.pipeline_instance_id')) \
             FROM event_context",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(instances, 2);
}

#[test]
fn who_is_not_meant_hears_nothing_and_the_job_succeeds() {
    let instance = setup().pipelines(CHAIN).start();
    // `first` emits the same event, but the pipeline listens to `witness` alone.
    let id = instance.trigger("first", "poll", r#"{"emit":3}"#);
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    assert!(routed(&instance).is_empty());
}

#[test]
fn a_step_that_can_not_run_fails_by_itself() {
    let pipeline = "- name: after\n  on: witnessed\n  steps: [{uses: counter}]";
    let instance = setup().plugin("counter").pipelines(pipeline).start();
    let id = instance.trigger("witness", "poll", r#"{"emit":1}"#);
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    drained(&instance);
    assert_eq!(routed(&instance), ["counter failed step_1 after witness"]);
    let error: String = instance
        .ledger()
        .query_row("SELECT last_error FROM job_queue WHERE plugin = 'counter'", [], |row| row.get(0))
        .expect("an error");
    assert_eq!(error, "plugin \"counter\" does not support command \"handle\"");
}

#[test]
fn a_retried_step_runs_its_successors_again() {
    let instance = setup().pipelines(CHAIN).start();
    let id = instance.trigger("witness", "poll", r#"{"emit":1}"#);
    instance.finished(&id);
    drained(&instance);
    let step: String = instance
        .ledger()
        .query_row("SELECT id FROM job_queue WHERE plugin = 'first'", [], |row| row.get(0))
        .expect("a step");
    instance.run(&["job", "retry", &step], b"");
    wait::until_true("the successors to be there again", PATIENCE, || routed(&instance).len() == 5);
    drained(&instance);
    assert_eq!(routed(&instance).iter().filter(|job| job.starts_with("second succeeded")).count(), 4);
}

#[test]
fn pipelines_that_can_not_be_are_refused_at_the_start_all_at_once() {
    let bad = "- {name: a, on: x, steps: [{uses: nobody}]}\n- {name: b, on: x, steps: [{uses: nobody_else}]}";
    let ended = setup().pipelines(bad).prepare().run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    for name in ["a", "b"] {
        let text = format!("pipeline \"{name}\" step \"step_1\" references unknown plugin");
        assert!(ended.stderr.contains(&text), "{}", ended.stderr);
    }
    let bad = "- {name: a, on: x, steps: [{uses: first, if: {path: payload.a, op: exists}}]}\n- {name: b, steps: []}";
    let ended = setup().pipelines(bad).prepare().run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    for text in ["not supported yet", "on or on-hook is required"] {
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
}

#[test]
fn an_event_whose_job_another_stands_for_makes_none_and_that_is_told() {
    let only = "- {name: after, on: witnessed, from_plugin: witness, steps: [{id: one, uses: first}]}";
    let instance = setup().pipelines(only).start();
    let id = instance.trigger("witness", "poll", r#"{"emit":3,"key":1}"#);
    assert_eq!(instance.finished(&id)["status"], "succeeded");
    drained(&instance);
    assert_eq!(routed(&instance), ["first succeeded one after witness"]);
    let told = || instance.log().matches("\"msg\":\"dropped duplicate enqueue\",\"dedupe_key\":\"shared\"").count();
    wait::until_true("both to be told of", PATIENCE, || told() == 2);
}
