//! The bundled plugin `echo` (`spec/bundled-plugins.md` 2), run as a job would run it.

use std::process::Output;

use serde_json::{Value, json};
use tests::command::{command, run_with};
use tests::paths;

fn run(request: &[u8]) -> Output {
    run_with(command(paths::sources().join("plugins/echo/run.sh")).env_clear(), request)
}

fn answer(request: &Value) -> Value {
    let output = run(request.to_string().as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn error(text: &str) -> Value {
    json!({"status": "error", "error": text, "retry": false, "logs": [{"level": "error", "message": text}]})
}

#[test]
fn the_message_survives_as_it_was_written() {
    let message = "é😀 \"quoted\" \\ \u{1} \n\t</script> $(x) `y` %s";
    let found = answer(&json!({"command": "poll", "job_id": "j-1", "config": {"message": "other"},
        "payload": {"message": message, "config": {"message": "no", "mode": "error"}}, "state": {"command": "health"}}));
    assert_eq!(found["status"], "ok");
    assert_eq!(found["result"], message);
    assert_eq!(found["state_updates"]["job_id"], "j-1");
    let last_run = found["state_updates"]["last_run"].as_str().expect("a time");
    assert_eq!(found["logs"][0]["message"], format!("{message} at {last_run}"));
    assert_eq!(found["events"], json!([]));
}

#[test]
fn where_the_message_comes_from() {
    let check = |request: Value, expected: &str| assert_eq!(answer(&request)["result"], expected, "{request}");
    check(json!({}), "echo plugin ran");
    check(json!({"config": {"message": "c"}}), "c");
    check(json!({"config": {"message": ""}}), "echo plugin ran");
    check(json!({"config": {"message": " \t\n"}}), "echo plugin ran");
    check(json!({"config": {"message": 5}}), "echo plugin ran");
    check(json!({"config": null, "payload": [], "state": 1}), "echo plugin ran");
    check(
        json!({"command": "handle", "config": {"message": "c"}, "payload": {"message": "envelope"},
        "event": {"payload": {"message": "event"}}}),
        "event",
    );
    check(json!({"command": "handle", "config": {"message": "c"}, "event": {"payload": {"message": ""}}}), "c");
}

#[test]
fn health_leaves_the_state_alone_and_unknown_commands_are_refused() {
    assert!(answer(&json!({"command": "health"})).get("state_updates").is_none());
    assert_eq!(answer(&json!({"command": "dance"})), error("unknown command: dance"));
}

#[test]
fn modes_make_the_outcomes() {
    let mode = |mode: &str| run(json!({"command": "poll", "config": {"mode": mode}}).to_string().as_bytes());
    let parsed = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
    assert_eq!(answer(&json!({"config": {"mode": "error"}})), error("echo plugin forced error (mode=error)"));
    assert_eq!(mode("exit78").status.code(), Some(78));
    assert_eq!(parsed(&mode("exit78"))["status"], "error");
    assert_eq!(mode("exit:3").status.code(), Some(3));
    assert_eq!(parsed(&mode("exit:3"))["status"], "ok");
    let broken = mode("protocol_error");
    assert!(serde_json::from_slice::<Value>(&broken.stdout).is_err() && broken.status.success());
    assert_eq!(parsed(&mode("event"))["events"][0]["type"], "echo.event");
    assert_eq!(mode("stderr:70000").stderr.len(), 70_000);
    let large = mode("stdout:100000");
    assert_eq!((large.stdout.len(), parsed(&large)["status"].clone()), (100_000, json!("ok")));
    assert_eq!(parsed(&mode("sleep:0"))["status"], "ok");
    assert_eq!(parsed(&mode("sleep:1; exit 5"))["status"], "ok");
}

#[test]
fn hostile_input_is_a_valid_error() {
    for request in [
        "",
        " \n",
        "nonsense",
        "[{}]",
        "\"text\"",
        "{",
        "{\"a\"",
        "{\"a\":1,}",
        "{\"a\":1} {}",
        "{\"a\":tru}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":[1,}",
        "{\"a\":\"\n\"}",
        "{\"a\":01}",
        "{]",
        "{\"command\":\"poll\"",
    ] {
        let output = run(request.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{request:?}: {output:?}");
        let found: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{request:?}: {error}"));
        assert!(found["error"].as_str().is_some_and(|text| text.starts_with("invalid JSON input: ")), "{found}");
        assert_eq!(found["retry"], false);
    }
}

#[test]
fn a_long_message_is_whole_and_its_log_is_cut_between_characters() {
    let message = "é😀\"\\".repeat(5000);
    let found = answer(&json!({"payload": {"message": message}}));
    assert_eq!(found["result"], message);
    assert!(
        found["logs"][0]["message"].as_str().is_some_and(|text| text.len() < 16_500 && text.contains(" [cut] at "))
    );
}
