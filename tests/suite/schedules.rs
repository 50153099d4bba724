//! Entries of the schedule over time: what becomes of slots that pass unseen, and what a breaker
//! lets through (`spec/queue-and-scheduler.md` 7.3, 7.4, 8).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::time::Timestamp;
use tests::event_stream::{Event, EventStream};
use tests::instance::Instance;
use tests::site::{PATIENCE, Setup};
use tests::{procs, wait};

const SECOND: i64 = 1_000_000_000;

/// Slots that share a row of `schedule_occurrences`.
#[derive(Debug)]
struct Slots {
    first: i64,
    last: i64,
    count: i64,
    outcome: String,
    reason: Option<String>,
    /// When its job was made.
    made: Option<i64>,
}

fn occurrences(instance: &Instance, entry: &str) -> Vec<Slots> {
    let ledger = instance.ledger();
    let query = "SELECT slot_at, until_at, slots, outcome, reason, job.created_at FROM schedule_occurrences \
                 LEFT JOIN job_queue job ON job.id = job_id WHERE schedule_id = ?1 ORDER BY slot_at";
    let nanos = |text: String| Timestamp::parse(&text).expect("a time").unix_nanos();
    let mut statement = ledger.prepare(query).expect("a query");
    let rows = statement.query_map([entry], |row| {
        Ok(Slots {
            first: nanos(row.get(0)?),
            last: nanos(row.get(1)?),
            count: row.get(2)?,
            outcome: row.get(3)?,
            reason: row.get(4)?,
            made: row.get::<_, Option<String>>(5)?.map(nanos),
        })
    });
    rows.expect("rows").map(|row| row.expect("a row")).collect()
}

/// Each slot of the grid of seconds is in one row, and in no other.
fn is_one_grid(slots: &[Slots]) {
    for (slot, next) in slots.iter().zip(&slots[1..]) {
        assert_eq!(slot.last + SECOND, next.first, "{slots:#?}");
    }
    for slot in slots {
        assert_eq!(slot.last, slot.first + (slot.count - 1) * SECOND, "{slots:#?}");
        assert_eq!(slot.made.is_some(), slot.outcome == "enqueued", "{slots:#?}");
    }
}

#[test]
fn slots_that_pass_while_the_executor_stands_still_are_told_of_and_not_made_up_for() {
    let schedules = "schedules:\n  - { id: a, every: 1s }";
    let instance = Setup::new().without_vault().plugin_with("witness", schedules).start();
    let runs = || instance.count("SELECT count(*) FROM schedule_occurrences WHERE outcome = 'enqueued'");
    wait::until_true("the entry to run", PATIENCE, || runs() >= 2);

    let still = ["ductile-executor", "ductile-spawner"].map(|program| instance.pid(program));
    for pid in still {
        assert!(procs::signal(pid, Signal::STOP));
    }
    let (before, start) = (runs(), Instant::now());
    wait::until_true("some slots to pass", PATIENCE, || start.elapsed() >= Duration::from_millis(3200));
    for pid in still {
        assert!(procs::signal(pid, Signal::CONT));
    }
    wait::until_true("the entry to run on", PATIENCE, || runs() >= before + 3);

    let slots = occurrences(&instance, "a");
    is_one_grid(&slots);
    // Each job in its own slot: none is made up for.
    for slot in &slots {
        assert!(slot.made.is_none_or(|made| (slot.first..slot.first + SECOND).contains(&made)), "{slots:#?}");
    }
    let missed =
        |slot: &&Slots| (slot.outcome.as_str(), slot.reason.as_deref()) == ("missed", Some("not_looked_at_in_time"));
    // Three or four passed, and the last of them may have been run.
    assert!(slots.iter().filter(missed).map(|slot| slot.count).sum::<i64>() >= 2, "{slots:#?}");
    assert_eq!(instance.count("SELECT count(*) FROM job_queue"), runs(), "{slots:#?}");
    assert!(!instance.log().contains("the clock was set"), "{}", instance.log());
}

#[test]
fn what_passed_while_nothing_ran_is_caught_up_with_as_the_entry_says() {
    let schedules = "schedules:\n  - { id: none, every: 1s }\n  - { id: one, every: 1s, catch_up: run_once }\n  - { id: \
                     all, every: 1s, catch_up: run_all, jitter: 300ms }";
    let mut instance = Setup::new().without_vault().plugin_with("witness", schedules).start();
    let jobs = |instance: &Instance, key: &str| {
        instance.count(&format!("SELECT count(*) FROM job_queue WHERE dedupe_key GLOB 'witness:poll:{key}'"))
    };
    let all_run = |instance: &Instance| {
        let before = ["none", "one", "all"].map(|entry| jobs(instance, entry));
        wait::until_true("each entry to run", PATIENCE, || {
            ["none", "one", "all"].iter().zip(before).all(|(entry, before)| jobs(instance, entry) >= before + 2)
        });
    };
    all_run(&instance);
    for (program, signal) in [("ductile", Signal::TERM), ("ductile-executor", Signal::KILL)] {
        let caught_up = ["none:*", "one:*", "all:*"].map(|key| jobs(&instance, key));
        instance.restart(program, signal, || {
            let start = Instant::now();
            wait::until_true("some slots to pass", PATIENCE, || start.elapsed() >= Duration::from_millis(3200));
        });
        all_run(&instance);
        let [none, one, all] = ["none:*", "one:*", "all:*"].map(|key| jobs(&instance, key));
        assert_eq!((none, one), (0, caught_up[1] + 1), "after {program}");
        assert!((3..=6).contains(&(all - caught_up[2])), "{all} after {program}, {} before", caught_up[2]);
    }
    for entry in ["none", "one", "all"] {
        let slots = occurrences(&instance, entry);
        is_one_grid(&slots);
        // A slot that ran twice would have left a job that no row names.
        let named = i64::try_from(slots.iter().filter(|slot| slot.made.is_some()).count()).expect("a few");
        assert_eq!(jobs(&instance, entry) + jobs(&instance, &format!("{entry}:*")), named, "{entry}: {slots:#?}");
    }
}

/// Says how the run of `judged` that comes next, or waits, is to end.
fn judge(plugin_root: &Path, verdict: &str) {
    let folder = plugin_root.join("judged");
    fs::write(folder.join("fresh"), verdict).expect("write the verdict");
    fs::rename(folder.join("fresh"), folder.join("verdict")).expect("put the verdict in place");
}

/// The next event of a breaker: its kind, with the state before, the state and the failures.
fn change(stream: &mut EventStream) -> (String, String) {
    loop {
        let Event { kind, data, .. } = stream.next_event().expect("the stream goes on");
        if !kind.starts_with("scheduler.circuit") {
            continue;
        }
        assert_eq!((&data["plugin"], &data["command"]), (&"judged".into(), &"poll".into()), "{data}");
        let text = |key: &str| data[key].as_str().unwrap_or("-").to_owned();
        return (kind, format!("{} {} {}", text("previous_state"), text("state"), data["failure_count"]));
    }
}

#[test]
fn a_half_open_breaker_lets_one_probe_through_which_decides() {
    // Without the breaker two more slots would become jobs while one runs.
    let keys = "timeouts: { poll: 120s }\nmax_outstanding_polls: 3\n\
                circuit_breaker: { threshold: 1, reset_after: 1500ms }\n\
                schedules:\n  - { id: a, every: 1s, if_running: queue }";
    let prepared = Setup::new().without_vault().plugin_with("judged", keys).prepare();
    judge(&prepared.plugin_root, "fail");
    let instance = prepared.start();
    let jobs = || instance.count("SELECT count(*) FROM job_queue");
    let changed = |change: &str| ("scheduler.circuit_state_changed".to_owned(), change.to_owned());
    let half_open = ("scheduler.circuit_half_open".to_owned(), "- - null".to_owned());
    let mut stream = instance.events(None);

    assert_eq!(change(&mut stream), changed(" open 1"));
    assert_eq!(change(&mut stream), half_open);
    assert_eq!(jobs(), 2);
    // The probe runs on, and the slots that come wait for it.
    let blocked = "SELECT coalesce(sum(slots), 0) FROM schedule_occurrences WHERE reason = 'circuit_open' AND slot_at > \
                   (SELECT max(slot_at) FROM schedule_occurrences WHERE outcome = 'enqueued')";
    wait::until_true("slots to pass beside the probe", PATIENCE, || {
        assert_eq!(jobs(), 2, "another job beside the probe");
        instance.count(blocked) >= 2
    });
    assert_eq!(instance.count("SELECT count(*) FROM circuit_breakers WHERE state = 'half_open'"), 1);
    assert_eq!(jobs(), 2);

    judge(&instance.plugin_root, "fail");
    assert_eq!(change(&mut stream), changed("half_open open 2"));
    assert_eq!(change(&mut stream), half_open);
    assert_eq!(jobs(), 3);
    judge(&instance.plugin_root, "pass");
    assert_eq!(change(&mut stream), changed("half_open closed 0"));
    // Closed, it lets through what the entry itself allows.
    wait::until_true("jobs beside each other", PATIENCE, || jobs() == 6);
    assert_eq!(instance.count("SELECT count(*) FROM job_queue WHERE status IN ('queued', 'running')"), 3);

    let ledger = instance.ledger();
    let query = "SELECT coalesce(from_state, '') || ' ' || to_state || ' ' || reason || ' ' || failure_count \
                 || coalesce(' ' || job.last_error, iif(job.id IS NULL, '', ' succeeded')) \
                 FROM circuit_breaker_transitions change LEFT JOIN job_queue job ON job.id = job_id \
                 ORDER BY change.created_at";
    let mut statement = ledger.prepare(query).expect("a query");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    let rows: Vec<String> = rows.map(|row| row.expect("a row")).collect();
    let expected = [
        " open failure_threshold 1 as told",
        "open half_open cooldown_elapsed 1",
        "half_open open failure_threshold 2 as told",
        "open half_open cooldown_elapsed 2",
        "half_open closed success 0 succeeded",
    ];
    assert_eq!(rows, expected);
}
