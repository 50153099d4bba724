//! `ductile system scheduler`, `breaker` and `reset`, and `GET /scheduler/jobs`, by the real
//! programs.

use serde_json::Value;
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup, json};
use tests::{procs, wait};

/// Nothing of it is due while a test runs, but for the entry that is over and the first second of a
/// leap day. The zone never changes its clocks.
const QUIET: &str = "schedules:
  - { id: leap, cron: \"0 0 29 2 *\", timezone: Asia/Kolkata }
  - { id: over, at: \"2020-01-01T00:00:00Z\" }";

fn parsed(instance: &Instance, arguments: &[&str]) -> Value {
    serde_json::from_str(&instance.run(arguments, b"")).expect("JSON")
}

/// The entries as the API shows them, once the one that is over has run.
fn shown(instance: &Instance) -> Vec<Value> {
    wait::until("the entry in the past to have run", PATIENCE, || {
        let response = instance.request("GET", "/scheduler/jobs", "");
        assert_eq!(response.status, 200, "{}", response.body);
        let jobs = json(&response)["jobs"].as_array().expect("a list").clone();
        jobs.iter().any(|job| job["status"] == "exhausted").then_some(jobs)
    })
}

#[test]
fn the_next_starts_are_those_that_the_api_shows() {
    let instance = Setup::new().plugin_with("tiny", QUIET).start();
    let jobs = shown(&instance);
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    let [leap, over] = &jobs[..] else { panic!("{jobs:?}") };
    assert_eq!(
        (&leap["schedule_id"], &leap["mode"], &leap["status"]),
        (&"leap".into(), &"cron".into(), &"scheduled".into())
    );
    assert_eq!(leap["timezone"], "Asia/Kolkata");
    assert_eq!((&over["schedule_id"], &over["mode"], over.get("next_run_at")), (&"over".into(), &"at".into(), None));

    let text = instance.run(&["system", "scheduler", "--next", "3"], b"");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 3 + 1, "{text}");
    assert!(lines[0].starts_with("ENTRY"), "{text}");
    for line in &lines[1..4] {
        assert!(line.starts_with("tiny:leap") && line.contains("-02-29T00:00:00+05:30"), "{text}");
    }
    assert!(lines[4].starts_with("tiny:over") && lines[4].contains("exhausted"), "{text}");

    let preview = parsed(&instance, &["system", "scheduler", "--next", "2", "--tz", "Asia/Tokyo", "--json"]);
    let next = preview["schedules"][0]["next"].as_array().expect("a list");
    assert_eq!(next.len(), 2, "{preview}");
    assert!(next.iter().all(|at| at.as_str().is_some_and(|at| at.ends_with("+09:00"))), "{preview}");
    let first = |text: &Value| shared::time::Timestamp::parse(text.as_str().expect("a time")).expect("a time");
    assert_eq!(first(&next[0]), first(&leap["next_run_at"]));
}

#[test]
fn an_entry_that_is_over_is_made_active_again() {
    let instance = Setup::new().plugin_with("tiny", QUIET).start();
    shown(&instance);
    assert_eq!(instance.run(&["system", "scheduler", "--rearm", "tiny:over"], b""), "Re-armed tiny:over.\n");
    // Its time is past, so it runs once more and is over again.
    let count = || instance.count("SELECT count(*) FROM job_queue");
    wait::until_true("the entry to run once more", PATIENCE, || count() == 2);
    shown(&instance);
    for unknown in ["tiny:nothing", "nobody:over", "tiny:"] {
        instance.refuses(&["system", "scheduler", "--rearm", unknown], &format!("Unknown schedule entry: {unknown}"));
    }
}

#[test]
fn scheduled_jobs_under_way_are_listed() {
    let keys = "timeouts: { poll: 120s }\nschedules:\n  - { every: 1h }";
    let instance = Setup::new().plugin_with("holder", keys).service("name: night-watch").start();
    wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    let text = instance.run(&["system", "scheduler"], b"");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["Scheduler: night-watch", "Active polls: 1"], "{text}");
    assert!(lines[2].starts_with("- plugin=holder status=running attempt=1 created="), "{text}");
    assert!(lines[2].ends_with(" dedupe=holder:poll:default"), "{text}");
    let polls = parsed(&instance, &["system", "scheduler", "--json"]);
    assert_eq!((&polls["service_name"], &polls["count"]), (&"night-watch".into(), &1.into()));
    let id = polls["active_polls"][0]["job_id"].as_str().expect("a job id").to_owned();
    instance.release_holders();
    instance.finished(&id);
    let none = "Scheduler: night-watch\nActive polls: 0\n(none)\n";
    wait::until_true("the list to be empty", PATIENCE, || instance.run(&["system", "scheduler"], b"") == none);
}

#[test]
fn a_breaker_is_shown_and_closed() {
    let keys = "circuit_breaker: { threshold: 1, reset_after: 1h }\nschedules:\n  - { every: 1h }";
    let instance = Setup::new().plugin_with("picky", keys).plugin("tiny").start();
    let breaker = || parsed(&instance, &["system", "breaker", "picky", "--json"]);
    wait::until_true("the breaker to open", PATIENCE, || breaker()["state"] == "open");
    let open = breaker();
    assert_eq!(
        (&open["plugin"], &open["command"], &open["failure_count"]),
        (&"picky".into(), &"poll".into(), &1.into())
    );
    assert_eq!(open["transitions"][0]["reason"], "failure_threshold");
    assert_eq!(open["transitions"][0]["job_id"], open["last_job_id"]);
    let text = instance.run(&["system", "breaker", "picky"], b"");
    assert!(text.starts_with("Circuit breaker for picky (poll)\nState: open (failure_count=1)\nOpened at: "), "{text}");
    assert!(text.contains(" -> open reason=failure_threshold failure_count=1 job="), "{text}");

    assert_eq!(instance.run(&["system", "reset", "picky"], b""), "Reset circuit breaker for picky (poll)\n");
    let closed = breaker();
    assert_eq!((&closed["state"], &closed["failure_count"]), (&"closed".into(), &0.into()));
    assert_eq!(closed["transitions"][0]["reason"], "manual_reset");
    let one = parsed(&instance, &["system", "breaker", "picky", "--limit", "1", "--json"]);
    assert_eq!(one["transitions"].as_array().map(Vec::len), Some(1));

    let none = "Circuit breaker for tiny (handle)\nState: no current row\nTransitions:\n- none\n";
    assert_eq!(instance.run(&["system", "breaker", "tiny", "--command", "handle"], b""), none);
    for action in ["breaker", "reset"] {
        instance.refuses(&["system", action, "nobody"], "Unknown plugin: nobody");
    }
}

#[test]
fn an_entry_that_cancels_ends_its_own_job_and_its_process() {
    let schedules = "timeouts: { poll: 120s }\nschedules:\n  - { id: a, every: 1s, if_running: cancel }\n\
                     circuit_breaker: { threshold: 2 }";
    let instance = Setup::new().without_vault().plugin_with("holder", schedules).start();
    let mut stream = instance.events(Some(0));
    let first = wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    let dead = wait::until("a slot to end the job of the one before", PATIENCE, || {
        let query = "SELECT id FROM job_queue WHERE status = 'dead' LIMIT 1";
        instance.ledger().query_row(query, [], |row| row.get::<_, String>(0)).ok()
    });
    assert_eq!(instance.last_error(&dead), "cancelled by scheduler (if_running=cancel)");
    // Whoever heard of the poll's start hears of its end.
    let mut polls = Vec::new();
    while polls.last().is_none_or(|(kind, _)| kind != "poll.completed") {
        let event = stream.next_event().expect("the stream goes on");
        if event.kind.starts_with("poll.") && event.data["job_id"] == dead {
            polls.push((event.kind, event.data["status"].clone()));
        }
    }
    assert_eq!(polls, [("poll.started".to_owned(), Value::Null), ("poll.completed".to_owned(), "dead".into())]);
    // Its process goes, and nothing brings the job back.
    wait::until_true("the process of the first to end", PATIENCE, || !procs::lives(first));
    assert_eq!(instance.job(&dead)["status"], "dead");
    let rows: i64 = instance
        .ledger()
        .query_row("SELECT count(*) FROM job_log WHERE job_id = ?1", [&dead], |row| row.get(0))
        .expect("a count");
    assert_eq!(rows, 1);
    // An end from outside is no failure: the breaker stays closed and the slots go on.
    let count = |query: &str| instance.count(query);
    wait::until_true("more slots to do the same", PATIENCE, || {
        count("SELECT count(*) FROM job_queue WHERE status = 'dead'") >= 4
    });
    assert_eq!(count("SELECT count(*) FROM schedule_occurrences WHERE reason = 'circuit_open'"), 0);
}

#[test]
fn an_answer_that_can_not_be_stored_counts_as_a_failure_each_time() {
    let keys = "circuit_breaker: { threshold: 3, reset_after: 1h }\nschedules:\n  - { every: 200ms, payload: { keep: 1100000 } }";
    let instance = Setup::new().without_vault().plugin_with("witness", keys).start();
    let breaker = || parsed(&instance, &["system", "breaker", "witness", "--json"]);
    wait::until_true("the breaker to open", PATIENCE, || breaker()["state"] == "open");
    let open = breaker();
    assert_eq!(open["failure_count"], 3, "{open}");
    assert_eq!(open["transitions"].as_array().map(Vec::len), Some(1), "{open}");
    let last = open["last_job_id"].as_str().expect("a job id");
    assert_eq!(instance.last_error(last), "plugin state exceeds max size (1048576 bytes)");
}

#[test]
fn entries_that_share_a_breaker_get_one_probe_between_them() {
    let keys = "circuit_breaker: { threshold: 2, reset_after: 300ms }\nretry: { max_attempts: 1 }\nschedules:\n  \
                - { id: a, every: 100ms, payload: { fail: 1 } }\n  - { id: b, every: 100ms, payload: { fail: 1 } }";
    let instance = Setup::new().without_vault().workers(4).plugin_with("witness", keys).start();
    let count = |query: &str| instance.count(query);
    let probes = "SELECT count(*) FROM circuit_breaker_transitions WHERE reason = 'cooldown_elapsed'";
    wait::until_true("some probes", PATIENCE, || count(probes) >= 4);
    // In one look at the ledger, which goes on changing.
    let extra = "SELECT (SELECT count(*) FROM job_queue WHERE created_at >= (SELECT min(created_at) \
                 FROM circuit_breaker_transitions WHERE reason = 'cooldown_elapsed')) - (SELECT count(*) \
                 FROM circuit_breaker_transitions WHERE reason = 'cooldown_elapsed')";
    assert_eq!(count(extra), 0, "{}", instance.log());
}

#[test]
fn an_entry_for_a_command_that_is_not_there_is_found_by_the_check_and_refused_by_the_start() {
    let keys = "schedules:\n  - { id: odd, every: 1h, command: pol }";
    let prepared = Setup::new().without_vault().plugin_with("tiny", keys).prepare();
    let wrong = "plugin \"tiny\" schedule \"odd\" references unsupported command \"pol\"";
    let config = prepared.config.display().to_string();
    let (code, out, err) = prepared.told(&["config", "check", "--config", &config]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains(&format!("ERROR [schedule] plugins.tiny.schedules[0].command: {wrong}")), "{out}{err}");
    let ended = prepared.run_to_end();
    assert!(ended.status.code() == Some(1) && ended.stderr.contains(wrong), "{}{}", ended.stderr, ended.log);
}
