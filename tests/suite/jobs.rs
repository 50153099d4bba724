//! A job run once more, and a job ended (`spec/api.md` 6.1, `spec/cli.md` 14), by the real programs.

use serde_json::Value;
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup, json};
use tests::{procs, wait};

const UNKNOWN: &str = "0198c0de-0000-7000-8000-00000000dead";
/// May change jobs and run read commands, and no more.
const READER: &str = "a-token-that-may-read-0123456789abcdef";
/// May change jobs, and run nothing.
const CLERK: &str = "a-token-that-may-not-run-0123456789abcdef";

/// May run everything, and change no job.
const RUNNER: &str = "a-token-that-may-run-0123456789abcdef";

fn start() -> Instance {
    Setup::new()
        .plugin("picky")
        .plugin("tiny")
        .plugin_with("holder", "timeouts: { poll: 120s }")
        .token(READER, &["jobs:rw", "plugin:invoke:ro"])
        .token(CLERK, &["jobs:rw"])
        .token(RUNNER, &["plugin:rw", "jobs:ro"])
        .start()
}

fn answer(instance: &Instance, path: &str, body: &str, status: u16, text: &str) {
    let response = instance.request("POST", path, body);
    assert_eq!((response.status, json(&response)["error"].as_str()), (status, Some(text)), "{path} {body}");
}

/// Retries a job and gives the new one's id.
fn retry(instance: &Instance, id: &str, body: &str) -> String {
    let response = instance.request("POST", &format!("/job/{id}/retry"), body);
    assert_eq!(response.status, 202, "{}", response.body);
    json(&response)["job_id"].as_str().expect("a job id").to_owned()
}

/// Starts a job of `holder` that runs until `release`, and gives its id and the plugin's pid.
fn hold(instance: &Instance) -> (String, u32) {
    let id = instance.trigger("holder", "poll", "");
    (id, wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder")))
}

#[test]
fn a_failed_job_runs_once_more_with_its_payload_or_another() {
    let instance = start();
    let old = instance.trigger("picky", "poll", "{\"n\":7}");
    assert_eq!(instance.finished(&old)["status"], "failed");

    let response = instance.request("POST", &format!("/job/{old}/retry"), "");
    let body = json(&response);
    assert_eq!(response.status, 202, "{body}");
    assert_eq!(
        (&body["status"], &body["plugin"], &body["command"]),
        (&"queued".into(), &"picky".into(), &"poll".into())
    );
    let same = body["job_id"].as_str().expect("a job id");
    assert_ne!(same, old);
    assert_eq!(instance.finished(same)["status"], "failed");
    assert!(instance.last_error(same).contains("refused n=7"), "{}", instance.last_error(same));
    let row = instance.ledger().query_row(
        "SELECT parent_job_id, submitted_by, attempt, source_event_id FROM job_queue WHERE id = ?1",
        [same],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    );
    let (parent, by, attempt, source): (String, String, i64, Option<String>) = row.expect("the job's row");
    assert_eq!((parent, by.as_str(), attempt, source), (old.clone(), "retry", 1, None));

    let other = retry(&instance, &old, "{\"payload\":{\"pass\":true}}");
    assert_eq!(instance.finished(&other)["status"], "succeeded");
    // What came of the old one stands as it was, and a success may be repeated too.
    assert_eq!(instance.job(&old)["status"], "failed");
    let again = retry(&instance, &other, "{}");
    assert_eq!(instance.finished(&again)["status"], "succeeded");
}

#[test]
fn a_handle_job_takes_the_new_payload_as_its_event() {
    let instance = start();
    let old = instance.trigger("picky", "handle", "{\"n\":3}");
    assert_eq!(instance.finished(&old)["status"], "failed");
    let same = retry(&instance, &old, "");
    assert_eq!(instance.finished(&same)["status"], "failed");
    assert!(instance.last_error(&same).contains("refused n=3"));
    let other = retry(&instance, &old, "{\"payload\":{\"n\":4}}");
    assert_eq!(instance.finished(&other)["status"], "failed");
    assert!(instance.last_error(&other).contains("refused n=4"));
}

#[test]
fn what_can_not_be_retried_is_refused() {
    let instance = start();
    answer(&instance, &format!("/job/{UNKNOWN}/retry"), "", 404, "job not found");
    let old = instance.trigger("picky", "poll", "{\"n\":7}");
    let writes = instance.trigger("picky", "handle", "{\"n\":7}");
    instance.finished(&old);
    instance.finished(&writes);
    let path = format!("/job/{old}/retry");
    answer(&instance, &path, "no JSON", 400, "invalid JSON body");
    answer(&instance, &path, "{\"payload\":[1]}", 400, "payload must be a JSON object");

    let as_who = |token: &str, id: &str| instance.request_as(token, "POST", &format!("/job/{id}/retry"), "").status;
    assert_eq!((as_who(READER, &old), as_who(READER, &writes)), (202, 403));
    assert_eq!((as_who(CLERK, &old), as_who(CLERK, &writes)), (403, 403));
    assert_eq!((as_who(RUNNER, &old), as_who(RUNNER, &writes)), (403, 403));
    assert_eq!(as_who("nobody", &old), 401);

    let (running, _) = hold(&instance);
    answer(&instance, &format!("/job/{running}/retry"), "", 409, "job is not finished");
    instance.release_holders();
    assert_eq!(instance.finished(&running)["status"], "succeeded");
    retry(&instance, &running, "");
}

#[test]
fn a_running_job_is_ended_and_its_process_with_it() {
    let instance = start();
    let (id, pid) = hold(&instance);
    let response = instance.request("POST", &format!("/job/{id}/cancel"), "");
    assert_eq!((response.status, json(&response)), (200, serde_json::json!({"job_id": id, "status": "dead"})));
    assert_eq!(instance.job(&id)["status"], "dead");
    wait::until_true("the plugin's process to end", PATIENCE, || !procs::lives(pid));
    // Its end changes nothing that was answered, and its place is free.
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    assert_eq!(instance.job(&id)["status"], "dead");
    answer(&instance, &format!("/job/{id}/cancel"), "", 409, "job is already finished");
    let rows: i64 = instance
        .ledger()
        .query_row("SELECT count(*) FROM job_log WHERE job_id = ?1", [&id], |row| row.get(0))
        .expect("a count");
    assert_eq!(rows, 1);
}

#[test]
fn a_queued_job_is_ended_and_never_runs() {
    let instance = Setup::new().plugin_with("holder", "timeouts: { poll: 120s }").plugin("tiny").workers(1).start();
    let (running, _) = hold(&instance);
    let queued = instance.trigger("tiny", "poll", "");
    let other = instance.trigger("tiny", "poll", "");
    assert_eq!(instance.job(&queued)["status"], "queued");
    answer(&instance, &format!("/job/{queued}/retry"), "", 409, "job is not finished");
    instance.refuses(&["job", "retry", &queued], "Error: job is not finished");
    assert_eq!(instance.run(&["job", "cancel", &other], b""), format!("Cancelled job {other}\n"));
    let response = instance.request("POST", &format!("/job/{queued}/cancel"), "");
    assert_eq!((response.status, &json(&response)["status"]), (200, &Value::from("dead")));
    instance.release_holders();
    assert_eq!(instance.finished(&running)["status"], "succeeded");
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    for id in [queued, other] {
        let job = instance.job(&id);
        assert_eq!((&job["status"], job.get("started_at")), (&"dead".into(), None), "{job}");
    }
}

#[test]
fn one_outstanding_job_of_a_key_is_enough() {
    let keys = "timeouts: { poll: 120s }\nschedules:\n  - { every: 1h }";
    let instance = Setup::new().plugin_with("holder", keys).start();
    let pid = wait::until("the scheduled job to run", PATIENCE, || instance.pid_now("holder"));
    let old: String = instance
        .ledger()
        .query_row("SELECT id FROM job_queue", [], |row| row.get(0))
        .expect("the scheduled job stands in the ledger");
    instance.run(&["job", "cancel", &old], b"");
    wait::until_true("the plugin's process to end", PATIENCE, || !procs::lives(pid));

    let new = retry(&instance, &old, "");
    let text = format!("job deduplicated for key \"holder:poll:default\" (existing job {new})");
    answer(&instance, &format!("/job/{old}/retry"), "", 409, &text);
    instance.refuses(&["job", "retry", &old], &format!("Error: {text}"));
    // Only what is outstanding counts: a success before is no reason not to repeat it.
    instance.release_holders();
    assert_eq!(instance.finished(&new)["status"], "succeeded");
    retry(&instance, &old, "");
}

#[test]
fn what_is_over_or_unknown_can_not_be_ended() {
    let instance = start();
    assert_eq!(instance.request_as(RUNNER, "POST", &format!("/job/{UNKNOWN}/cancel"), "").status, 403);
    let done = instance.run_job("tiny", "");
    let id = done["job_id"].as_str().expect("a job id");
    answer(&instance, &format!("/job/{id}/cancel"), "", 409, "job is already finished");
    answer(&instance, &format!("/job/{UNKNOWN}/cancel"), "", 404, "job not found");
}

#[test]
fn the_command_line_retries_and_cancels() {
    let instance = start();
    let old = instance.trigger("picky", "poll", "{\"n\":7}");
    instance.finished(&old);

    let text = instance.run(&["job", "retry", &old], b"");
    let new = text.strip_prefix("Queued job ").and_then(|rest| rest.split(' ').next()).expect("the new id").to_owned();
    assert_eq!(text, format!("Queued job {new} (retry of {old})\n"));
    assert_eq!(instance.finished(&new)["status"], "failed");
    let shown: Value =
        serde_json::from_str(&instance.run(&["job", "retry", &old, "--payload", "{\"pass\":true}", "--json"], b""))
            .expect("JSON");
    assert_eq!((&shown["status"], &shown["parent_job_id"]), (&"queued".into(), &old.as_str().into()));
    assert_eq!(instance.finished(shown["job_id"].as_str().expect("an id"))["status"], "succeeded");
    let file = instance.root().join("payload.json");
    std::fs::write(&file, "{\"pass\":true}").expect("write the payload");
    let text = instance.run(&["job", "retry", &old, "--payload-file", &file.display().to_string()], b"");
    assert!(text.starts_with("Queued job "), "{text}");

    let (running, pid) = hold(&instance);
    instance.refuses(&["job", "retry", &running], "Error: job is not finished");
    assert_eq!(instance.run(&["job", "cancel", &running], b""), format!("Cancelled job {running}\n"));
    wait::until_true("the plugin's process to end", PATIENCE, || !procs::lives(pid));
    instance.refuses(&["job", "cancel", &running], "Error: job is already finished");
    let (running, _) = hold(&instance);
    assert_eq!(
        instance.run(&["job", "cancel", &running, "--json"], b""),
        format!("{{\n  \"job_id\": \"{running}\",\n  \"status\": \"dead\"\n}}\n")
    );
    for action in ["retry", "cancel"] {
        instance.refuses(&["job", action, UNKNOWN], "Error: job not found");
        instance.refuses(&["job", action, "no id"], "Error: job not found");
    }
    let (code, out, _) = instance.told(&["job", "cancel", UNKNOWN, "--json"]);
    assert_eq!((code, out.as_str()), (Some(1), "{\n  \"error\": \"Error: job not found\",\n  \"code\": 1\n}\n"));
}
