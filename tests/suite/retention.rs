//! Old rows go while the executor serves, a bounded number at a time; what is young or still stands
//! for something stays (`spec/queue-and-scheduler.md` 9, 14.17, 14.20).

use rusqlite::Connection;
use shared::time::{Millis, Timestamp};
use tests::instance::Prepared;
use tests::lone::Lone;
use tests::site::{PATIENCE, Setup};
use tests::wait;

/// Everything is kept for an hour.
const HOUR: &str = "dedupe_ttl: 1h\njob_log_retention: 1h\njob_queue_retention: 1h\njob_transitions_retention: 1h\n\
                    job_attempts_retention: 1h\nbreaker_transitions_retention: 1h\nschedule_occurrences_retention: 1h\n\
                    event_context_retention: 1h\nplugin_facts_retention: 1h\nconfig_snapshots_retention: 1h\n\
                    stopwatch_retention: 1h";

/// Far more than one batch.
const MANY: &str = "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 1200)";
const BATCH: u32 = 500;

/// Rows whose names begin with `old` are to go, all others to stay. Of the five ends of a job each
/// is there.
const ROWS: [&str; 16] = [
    "INSERT INTO job_log (id, job_id, plugin, command, status, attempt, submitted_by, created_at, completed_at) \
     SELECT 'old' || n || '-1', 'old' || n, 'tiny', 'poll', 'succeeded', 1, 'api', :old, :old FROM many",
    "INSERT INTO job_log (id, job_id, plugin, command, status, attempt, submitted_by, created_at, completed_at) \
     VALUES ('young-1', 'young', 'tiny', 'poll', 'succeeded', 1, 'api', :old, :young)",
    "INSERT INTO job_queue (id, plugin, command, status, submitted_by, created_at, started_at, completed_at) \
     SELECT 'old' || n, 'tiny', 'poll', CASE n % 5 WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'skipped' \
     WHEN 3 THEN 'timed_out' ELSE 'dead' END, 'api', :old, :old, :old FROM many",
    "INSERT INTO job_queue (id, plugin, command, status, submitted_by, created_at, started_at, completed_at) \
     VALUES ('young', 'tiny', 'poll', 'succeeded', 'api', :old, :old, :young)",
    "INSERT INTO job_queue (id, plugin, command, status, submitted_by, created_at, event_context_id, \
     enqueued_config_snapshot_id) VALUES ('running', 'holder', 'poll', 'queued', 'api', :old, NULL, 'named'), \
     ('waiting', 'holder', 'poll', 'queued', 'api', :old, 'named', 'named')",
    "INSERT INTO job_transitions (job_id, to_status, created_at) SELECT 'old' || n, 'queued', :old FROM many",
    "INSERT INTO job_transitions (job_id, to_status, created_at) VALUES ('young', 'queued', :young)",
    "INSERT INTO job_attempts (job_id, attempt, created_at) SELECT 'old' || n, 1, :old FROM many",
    "INSERT INTO job_attempts (job_id, attempt, created_at) VALUES ('young', 1, :young)",
    "INSERT INTO circuit_breaker_transitions (id, plugin, command, to_state, reason, created_at) VALUES \
     ('old', 'tiny', 'poll', 'open', 'failure_threshold', :old), ('young', 'tiny', 'poll', 'closed', 'success', :young)",
    // The newest slot of an entry tells where its grid stands, the newest fact what a plugin knows.
    "INSERT INTO schedule_occurrences (plugin, schedule_id, slot_at, until_at, outcome, reason, recorded_at) VALUES \
     ('gone', 'old', :older, :older, 'missed', 'as told', :older), \
     ('gone', 'old', :old, :old, 'missed', 'newest', :old), \
     ('gone', 'young', :young, :young, 'missed', 'as told', :young)",
    "INSERT INTO event_context (id, accumulated_json, created_at) VALUES ('old', '{}', :old), ('named', '{}', :old), \
     ('young', '{}', :young)",
    "INSERT INTO plugin_facts (id, plugin_name, fact_type, job_id, command, fact_json, created_at) VALUES \
     ('old', 'tiny', 'a', 'old', 'poll', '{}', :older), ('newest', 'tiny', 'a', 'old', 'poll', '{}', :old), \
     ('young', 'tiny', 'b', 'young', 'poll', '{}', :young)",
    "INSERT INTO config_snapshots (id, config_hash, reason, loaded_at) VALUES ('old', '', 'startup', :oldest), \
     ('named', '', 'startup', :older)",
    "INSERT INTO job_stopwatch (job_id, plugin, attempt, enter_wall_ns, exit_wall_ns, dur_ns, runtime_pre_ns, \
     runtime_post_ns, status, recorded_at) VALUES ('old', 'tiny', 1, 0, 0, 0, 0, 0, 'ok', :old), \
     ('young', 'tiny', 1, 0, 0, 0, 0, 0, 'ok', :young)",
    "INSERT INTO vault_audit (op, outcome, created_at) VALUES ('kept', 'ok', :oldest)",
];

/// What is left of them afterwards, with the executor's own rows left out.
const LEFT: [(&str, &str); 11] = [
    ("SELECT job_id FROM job_log WHERE job_id < '0' OR job_id > '9'", "young"),
    ("SELECT id FROM job_queue WHERE id < '0' OR id > '9' ORDER BY id", "running waiting young"),
    ("SELECT job_id FROM job_transitions WHERE job_id GLOB 'old*' OR job_id = 'young'", "young"),
    ("SELECT job_id FROM job_attempts WHERE job_id GLOB 'old*' OR job_id = 'young'", "young"),
    ("SELECT id FROM circuit_breaker_transitions", "young"),
    ("SELECT schedule_id || '/' || reason FROM schedule_occurrences ORDER BY 1", "old/newest young/as told"),
    ("SELECT id FROM event_context ORDER BY id", "named young"),
    ("SELECT id FROM plugin_facts ORDER BY id", "newest young"),
    ("SELECT id FROM config_snapshots WHERE id IN ('old', 'named')", "named"),
    ("SELECT job_id FROM job_stopwatch WHERE job_id IN ('old', 'young')", "young"),
    ("SELECT op FROM vault_audit", "kept"),
];

/// Whose triggers note, with each row that goes, the moment of its statement.
const NOTED: [&str; 4] = ["job_log", "job_queue", "job_transitions", "job_attempts"];

/// A database of ours that has grown old.
fn grown_old(prepared: &Prepared) {
    let (lone, front) = Lone::start(prepared);
    drop(front);
    assert!(lone.stop().success());
    let database = Connection::open(&prepared.database).expect("open the database");
    let now = Timestamp::from_system_time(std::time::SystemTime::now());
    let ago = |minutes: u64| format!("'{}'", now.minus(Millis::from_secs(60 * minutes)));
    // The longest first: one begins like the other.
    let times = [(":oldest", ago(240)), (":older", ago(180)), (":old", ago(120)), (":young", ago(10))];
    for row in ROWS {
        let many = if row.contains("FROM many") { MANY } else { "" };
        let text = times.iter().fold(format!("{many} {row}"), |text, (name, time)| text.replace(name, time));
        database.execute(&text, []).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    database.execute_batch("CREATE TABLE gone (kind TEXT, at TEXT)").expect("make a table");
    for table in NOTED {
        let trigger = format!(
            "CREATE TRIGGER note_{table} AFTER DELETE ON {table} BEGIN \
             INSERT INTO gone VALUES ('{table}', strftime('%Y-%m-%d %H:%M:%f', 'now')); END"
        );
        database.execute_batch(&trigger).expect("make a trigger");
    }
}

fn found(database: &Connection, query: &str) -> String {
    let mut statement = database.prepare(query).expect("a query of this schema");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("the ledger can be read");
    rows.map(|row| row.expect("a text")).collect::<Vec<_>>().join(" ")
}

#[test]
fn old_rows_go_in_batches_and_what_is_young_or_open_stays() {
    let prepared = Setup::new()
        .without_vault()
        .plugin("tiny")
        .plugin_with("holder", "timeouts: { poll: 120s }\nparallelism: 1")
        .service(HOUR)
        .prepare();
    grown_old(&prepared);
    let instance = prepared.start();
    let ledger = instance.ledger();
    wait::until("the job of the old rows to run", PATIENCE, || instance.pid_now("holder"));
    // The last table of the round.
    wait::until_true("a whole round to be over", PATIENCE, || {
        assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
        instance.log().contains("\"msg\":\"old rows removed\",\"table\":\"job_stopwatch\"")
    });
    for (query, left) in LEFT {
        assert_eq!(found(&ledger, query), left, "{query}\n{}", instance.log());
    }
    for table in NOTED {
        let query = format!("SELECT CAST(count(*) AS TEXT) FROM gone WHERE kind = '{table}' GROUP BY at");
        let text = found(&ledger, &query);
        let batches: Vec<u32> = text.split(' ').map(|rows| rows.parse().expect("a count")).collect();
        assert_eq!(batches.iter().sum::<u32>(), 1200, "{table}: {text}");
        assert!(batches.iter().all(|rows| *rows <= BATCH), "{table}: {text}");
    }

    instance.release_holders();
    for id in ["running", "waiting"] {
        assert_eq!(instance.finished(id)["status"], "succeeded", "{}", instance.log());
    }
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    assert!(instance.is_healthy());
    assert_eq!(tests::ledger::damage(&ledger), "");
    drop(ledger);
    let ended = instance.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}
