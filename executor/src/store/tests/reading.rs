//! What readers see.

use super::{Home, at, claim, complete, completion, ended, job_id, new_job};

use shared::wire::gateway::JobStatus::{Queued, Succeeded};

use crate::store::snapshot::{self, ConfigSnapshot};
use shared::time::Millis;

use crate::store::write::{Applied, Completion, NewJob, Next, Reanchor, Write};

#[test]
fn pages_follow_the_order_of_execution() {
    let home = Home::new("reading-pages");
    // Two moments, inserted the wrong way round; within one moment the order of insertion counts.
    for (id, second) in [("c", 5), ("d", 5), ("a", 1), ("b", 1), ("e", 5)] {
        home.apply(Write::Admit(NewJob { created_at: at(second), ..new_job(id) }));
    }
    let end = Completion { claim: Some(claim("b", 1)), ..ended("b", 1, Succeeded) };
    home.apply(complete(end));
    let retry = Next::Retry { attempt: 2, next_retry_at: at(40) };
    home.apply(complete(Completion { claim: Some(claim("d", 1)), ..completion("d", 1, retry) }));
    home.foreign()
        .execute_batch(
            "INSERT INTO job_queue (id, plugin, command, payload, status, submitted_by, created_at, next_retry_at) \
             VALUES ('not an id', 'echo', 'c', NULL, 'queued', 'x', '2026-01-01T00:00:00Z', ''); \
             INSERT INTO job_queue (id, plugin, command, status, attempt, submitted_by, created_at) \
             VALUES ('negative', 'echo', 'c', 'queued', -1, 'x', '2026-01-01T00:00:00Z'), \
             ('blob', x'ff', 'c', 'queued', 1, 'x', '2026-01-01T00:00:00Z')",
        )
        .expect("a foreign row");
    let reader = home.store.reader().expect("a reader");
    let (mut ids, mut after, mut unreadable) = (Vec::new(), None, 0);
    loop {
        let page = reader.queued_of("echo", after.as_ref(), 2).expect("a page");
        ids.extend(page.jobs.iter().map(|job| (job.job_id.to_string(), job.attempt)));
        unreadable += page.unreadable;
        match page.next {
            Some(position) => after = Some(position),
            None => break,
        }
    }
    // The others are of no plugin that can be asked for, or have an empty time.
    assert_eq!(unreadable, 1);
    assert_eq!(ids, [("a", 1), ("c", 1), ("e", 1)].map(|(id, attempt)| (id.to_owned(), attempt)));
    assert_eq!(reader.depth().expect("counted"), 7);
    let page = reader.queued_of("echo", None, 100).expect("a page");
    assert_eq!(page.jobs[0].payload.as_deref(), Some("{\"a\":1}"));
    assert_eq!(page.next, None);
    assert_eq!(reader.next_due_of("echo", at(39)).expect("read"), Some(at(40)));
    assert_eq!(reader.next_due_of("echo", at(40)).expect("read"), None);
    // An empty time is none, as in the reference.
    let early = reader.due_of("echo", at(39), 10).expect("a page");
    assert_eq!((early.jobs.len(), early.unreadable), (0, 1));
    let due = reader.due_of("echo", at(40), 10).expect("a page");
    assert_eq!((due.jobs.len(), due.jobs[0].attempt), (1, 2));
}

#[test]
fn a_page_ends_early_when_payloads_are_large() {
    let home = Home::new("reading-large");
    let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(3 * 1024 * 1024));
    for id in ["a", "b", "c"] {
        home.apply(Write::Admit(NewJob { payload: Some(payload.clone()), ..new_job(id) }));
    }
    let reader = home.store.reader().expect("a reader");
    let first = reader.queued_of("echo", None, 100).expect("a page");
    assert_eq!(first.jobs.len(), 2);
    let second = reader.queued_of("echo", first.next.as_ref(), 100).expect("a page");
    assert_eq!((second.jobs.len(), second.next), (1, None));
}

#[test]
fn lanes_are_found_and_read_apart() {
    let home = Home::new("reading-lanes");
    let reader = home.store.reader().expect("a reader");
    assert!(reader.queued_plugins().expect("read").is_empty());
    for (id, plugin, second) in [("a", "p", 50), ("b", "q", 20), ("c", "r", 30)] {
        home.apply(Write::Admit(NewJob { plugin: plugin.to_owned(), ..new_job(id) }));
        home.apply(Write::Admit(NewJob { plugin: plugin.to_owned(), ..new_job(&format!("{id}-now")) }));
        let next = Next::Retry { attempt: 2, next_retry_at: at(second) };
        home.apply(complete(Completion { claim: Some(claim(id, 1)), ..completion(id, 1, next) }));
    }
    assert_eq!(reader.queued_plugins().expect("read"), ["p", "q", "r"]);
    assert_eq!(reader.queued_of("q", None, 9).expect("a page").jobs[0].job_id, job_id("b-now"));
    assert_eq!(reader.due_of("q", at(60), 9).expect("a page").jobs[0].job_id, job_id("b"));
}

#[test]
fn after_a_step_back_nothing_waits_longer_than_its_back_off() {
    let home = Home::new("reading-reanchor");
    for (id, second, attempt) in [("a", 5000, 2), ("b", 90, 2), ("c", 90, 3), ("d", 5000, 9)] {
        home.apply(Write::Admit(new_job(id)));
        let next = Next::Retry { attempt, next_retry_at: at(second) };
        home.apply(complete(Completion { claim: Some(claim(id, 1)), ..completion(id, 1, next) }));
    }
    let longest = vec![Millis::from_secs(30), Millis::from_secs(60)];
    let reanchor = Reanchor { plugin: "echo".to_owned(), now: at(50), longest };
    assert_eq!(home.apply(Write::Reanchor(reanchor)), Applied::Saved);
    let due: Vec<String> = home.column("SELECT next_retry_at FROM job_queue ORDER BY id");
    assert_eq!(due, [at(50), at(50), at(90), at(50)].map(|at| at.to_string()));
}

#[test]
fn a_job_is_shown_with_the_log_of_its_current_attempt() {
    let home = Home::new("reading-job");
    let reader = home.store.reader().expect("a reader");
    assert_eq!(reader.job(&job_id("job-1")).expect("read"), None);
    home.apply(Write::Admit(new_job("job-1")));
    let next = Next::Retry { attempt: 2, next_retry_at: at(40) };
    let failed = Completion { last_error: Some("no".to_owned()), ..completion("job-1", 1, next) };
    home.apply(complete(Completion { claim: Some(claim("job-1", 1)), ..failed }));
    let row = reader.job(&job_id("job-1")).expect("read").expect("there");
    assert_eq!((row.status, row.attempt, row.result, row.last_error.as_deref()), (Queued, 2, None, Some("no")));
    home.apply(Write::Claim(claim("job-1", 2)));
    assert_eq!(home.column::<i64>("SELECT attempt FROM job_queue WHERE status = 'running'"), [2]);
    home.apply(complete(ended("job-1", 2, Succeeded)));
    let row = reader.job(&job_id("job-1")).expect("read").expect("there");
    assert_eq!((row.status, row.result.as_deref()), (Succeeded, Some("{\"status\":\"ok\"}")));
    assert_eq!((row.started_at, row.completed_at), (Some(at(1).to_string()), Some(at(2).to_string())));
    assert_eq!((row.last_error, row.stderr.as_deref()), (None, Some("a line\n")));
}

#[test]
fn hot_queries_use_their_index_without_sorting() {
    let home = Home::new("reading-plans");
    let plan = |sql: &str| -> String {
        let foreign = home.foreign();
        let mut statement = foreign.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a plan");
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).expect("rows");
        rows.collect::<Result<Vec<_>, _>>().expect("lines").join("\n")
    };
    let page = plan(
        "SELECT id FROM job_queue INDEXED BY job_queue_waiting_idx WHERE status = 'queued' AND plugin = 'p' \
         AND next_retry_at IS NULL AND (created_at, rowid) > ('a', 1) ORDER BY created_at, rowid LIMIT 3",
    );
    assert!(page.contains("job_queue_waiting_idx (plugin=? AND next_retry_at=? AND created_at>?)"), "{page}");
    assert!(!page.contains("TEMP B-TREE"), "{page}");
    let due = plan(
        "SELECT id FROM job_queue INDEXED BY job_queue_waiting_idx WHERE status = 'queued' AND plugin = 'p' \
         AND next_retry_at <= 'b' ORDER BY next_retry_at, created_at LIMIT 3",
    );
    assert!(due.contains("job_queue_waiting_idx (plugin=? AND next_retry_at<?)"), "{due}");
    assert!(!due.contains("TEMP B-TREE"), "{due}");
    let least = plan(
        "SELECT min(next_retry_at) FROM job_queue INDEXED BY job_queue_waiting_idx \
         WHERE status = 'queued' AND plugin = 'p' AND next_retry_at > ''",
    );
    assert!(least.contains("job_queue_waiting_idx (plugin=? AND next_retry_at>?)"), "{least}");
}

#[test]
fn a_config_snapshot_is_recorded_at_start_and_at_reload() {
    let home = Home::new("reading-snapshot");
    let taken = |reason: &str| ConfigSnapshot {
        id: snapshot::new_id(at(0)),
        config_hash: "hash".to_owned(),
        source_hash: None,
        source_path: Some("c.yaml".to_owned()),
        source: None,
        reason: reason.to_owned(),
        loaded_at: at(0),
        ductile_version: Some("0.1.0".to_owned()),
        binary_path: None,
        snapshot_format: 1,
        semantics: Some("{}".to_owned()),
        plugin_fingerprints: None,
        sanitized_config: None,
        secret_fingerprints: None,
    };
    let start = taken("startup");
    snapshot::record(home.connection.as_ref().expect("open"), &start).expect("recorded");
    assert_eq!(home.apply(Write::Snapshot(Box::new(taken("reload")))), Applied::Saved);
    let reasons: Vec<String> = home.column("SELECT reason || loaded_at FROM config_snapshots ORDER BY rowid");
    assert_eq!(reasons, [format!("startup{}", at(0)), format!("reload{}", at(0))]);
    assert!(start.id.starts_with("019e"), "a UUIDv7 of that time: {}", start.id);
}

#[test]
fn hostile_text_is_stored_as_it_is() {
    let home = Home::new("reading-hostile");
    let text = "'; DROP TABLE job_queue; --\u{0}\u{1}\u{feff}\"?1 é\n";
    let job = NewJob { plugin: text.to_owned(), payload: Some("123".to_owned()), ..new_job("job-1") };
    home.apply(Write::Admit(job));
    let end = ended("job-1", 1, Succeeded);
    let hostile = Completion { last_error: Some(text.to_owned()), stderr: Some(text.to_owned()), ..end };
    let reader = home.store.reader().expect("a reader");
    assert_eq!(reader.queued_of(text, None, 1).expect("a page").jobs[0].payload.as_deref(), Some("123"));
    home.apply(complete(Completion { claim: Some(claim("job-1", 1)), result: Some(text.to_owned()), ..hostile }));
    let row = reader.job(&job_id("job-1")).expect("read").expect("there");
    assert_eq!((&*row.plugin, row.last_error.as_deref()), (text, Some(text)));
    assert_eq!((row.result.as_deref(), row.stderr.as_deref()), (Some(text), Some(text)));
}

#[test]
fn readers_can_not_write() {
    let home = Home::new("reading-only");
    let reader = home.store.reader().expect("a reader");
    assert!(reader.connection().execute_batch("DELETE FROM job_queue").is_err());
}
