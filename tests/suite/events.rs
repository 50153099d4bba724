//! `GET /events` with the real executor behind it: what happens to jobs is seen, in order, once.

use rustix::process::Signal;
use tests::event_stream::EventStream;
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup};
use tests::unit_set::under_systemd;
use tests::{procs, wait};

/// Reads up to the end of a job and gives the ids of its start and its end.
fn watched(stream: &mut EventStream, job: &str) -> (u64, u64) {
    let (mut started, mut pid) = (None, None);
    let mut last = 0;
    loop {
        let event = stream.next_event().expect("the stream goes on");
        assert!(last == 0 || event.id == last + 1, "{event:?} after {last}");
        last = event.id;
        if event.data["job_id"] != job {
            continue;
        }
        match event.kind.as_str() {
            "job.started" => {
                assert_eq!((&event.data["plugin"], &event.data["command"]), (&"tiny".into(), &"poll".into()));
                assert_eq!((&event.data["attempt"], &event.data["parent_job_id"]), (&1.into(), &"".into()));
                started = Some(event.id);
            }
            "plugin.spawned" => pid = event.data["pid"].as_u64(),
            "job.completed" => {
                assert!(pid.is_some(), "ended without having begun: {event:?}");
                assert_eq!((&event.data["plugin"], &event.data["status"]), (&"tiny".into(), &"succeeded".into()));
                assert!(event.data["duration_ms"].is_u64(), "{event:?}");
                return (started.expect("a job starts before it ends"), event.id);
            }
            _ => {}
        }
    }
}

fn start() -> Instance {
    Setup::new().plugin("tiny").start()
}

#[test]
fn a_job_is_seen_live_and_again_from_any_point() {
    let instance = start();
    let mut live = instance.events(None);
    let first = instance.trigger("tiny", "poll", "");
    let (started, ended) = watched(&mut live, &first);
    assert!(started < ended);

    let mut later = instance.events(Some(started));
    let event = later.next_event().expect("an event");
    assert_eq!(event.id, started + 1, "{event:?}");
    // Both see what comes now, the one from its replay on.
    let second = instance.trigger("tiny", "poll", "");
    assert_eq!(watched(&mut live, &second), watched(&mut later, &second));
    // From the beginning, and with the token in the query.
    let path = format!("/events?token={}", instance.token);
    let mut all = EventStream::open(instance.address, &path, &[]).unwrap_or_else(|response| panic!("{response:?}"));
    assert_eq!(watched(&mut all, &first), (started, ended));
}

#[test]
fn the_end_of_a_job_by_its_operator_is_an_event() {
    let instance = Setup::new().plugin_with("holder", "timeouts: { poll: 120s }").start();
    let mut stream = instance.events(None);
    let id = instance.trigger("holder", "poll", "");
    let mut started = false;
    loop {
        let event = stream.next_event().expect("the stream goes on");
        if event.kind == "scheduler.tick" {
            assert!(event.data["at"].is_string(), "{event:?}");
            continue;
        }
        assert_eq!(event.data["job_id"], id.as_str(), "{event:?}");
        match event.kind.as_str() {
            "job.started" => {
                started = true;
                instance.run(&["job", "cancel", &id], b"");
            }
            "job.completed" | "job.timed_out" => panic!("{event:?}"),
            "job.failed" => {
                assert_eq!((&event.data["plugin"], &event.data["status"]), (&"holder".into(), &"dead".into()));
                break;
            }
            _ => {}
        }
    }
    assert!(started, "a job that never ran was ended");
}

#[test]
fn a_cursor_of_another_life_holds_nothing_back() {
    let instance = start();
    let mut stream = instance.events(Some(u64::MAX));
    let job = instance.trigger("tiny", "poll", "");
    let (started, ended) = watched(&mut stream, &job);
    assert!(started < ended);
}

#[test]
fn who_may_not_see_events_does_not() {
    const BLIND: &str = "a-token-that-may-not-see-0123456789abcdef";
    let instance = Setup::new().plugin("tiny").token(BLIND, &["plugin:rw", "jobs:rw"]).start();
    assert_eq!(instance.request_as(BLIND, "GET", "/events", "").status, 403);
    let status = |path: &str, headers: &[(&str, &str)]| match EventStream::open(instance.address, path, headers) {
        Ok(_) => 200,
        Err(response) => response.status,
    };
    assert_eq!(status("/events", &[]), 401);
    assert_eq!(status("/events?token=wrong", &[]), 401);
    assert_eq!(status("/events", &[("Authorization", "Bearer wrong")]), 401);
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    const JOBS: usize = 400;
    let instance = start();
    let mut idle = instance.events(None);
    let jobs: Vec<_> = (0..JOBS).map(|_| instance.trigger("tiny", "poll", "")).collect();
    for job in &jobs {
        assert_eq!(instance.finished(job)["status"], "succeeded");
    }
    // It may have lost some, and has nothing twice or out of order.
    let last = jobs.last().expect("a job");
    let mut before = 0;
    loop {
        let event = idle.next_event().expect("the stream goes on");
        assert!(event.id > before, "{event:?} after {before}");
        before = event.id;
        if event.kind == "job.completed" && event.data["job_id"] == *last {
            break;
        }
    }
}

#[test]
fn under_systemd_ids_go_on_over_a_restart_of_the_executor() {
    under_systemd("events::under_systemd_ids_go_on_over_a_restart_of_the_executor", || {
        let set = Setup::new().plugin("tiny").start_units();
        let mut stream = set.events(None);
        let first = set.trigger("tiny", "poll", "");
        let (_, ended) = watched(&mut stream, &first);
        procs::signal(set.pid("ductile-executor"), Signal::KILL);
        while let Some(event) = stream.next_event() {
            assert!(event.id > ended, "{event:?}");
        }
        wait::until_true("the executor to come back", PATIENCE, || set.is_healthy());
        let mut stream = set.events(Some(ended));
        let second = set.trigger("tiny", "poll", "");
        loop {
            let event = stream.next_event().expect("the stream goes on");
            assert!(event.id > ended && event.data["job_id"] != first, "{event:?}");
            if event.kind == "job.completed" && event.data["job_id"] == second {
                break;
            }
        }
    });
}

#[test]
fn a_job_that_can_not_begin_is_told_of_with_its_reason() {
    let instance = start();
    // As another program may leave it; the plugin's first run reads it.
    let foreign = rusqlite::Connection::open(&instance.database).expect("open the database");
    foreign.execute("INSERT INTO plugin_state (plugin_name, state) VALUES ('tiny', 'no JSON')", []).expect("a row");
    drop(foreign);
    let mut stream = instance.events(None);
    let id = instance.trigger("tiny", "poll", "");
    let (mut told, mut reason) = (Vec::new(), serde_json::Value::Null);
    while told.last().is_none_or(|kind| kind != "job.failed") {
        let event = stream.next_event().expect("the stream goes on");
        if event.data["job_id"] == id {
            if event.kind == "job.preflight" {
                assert_eq!(event.data["decision"], "fail", "{event:?}");
                reason = event.data["reason"].clone();
            }
            told.push(event.kind);
        }
    }
    assert_eq!(told, ["job.enqueued", "job.started", "job.preflight", "job.failed"]);
    assert_eq!(reason, instance.last_error(&id));
}
