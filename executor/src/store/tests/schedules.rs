//! Looks at schedule entries, their slots and breakers, as they are stored.

use super::{Home, at, claim, complete, ended, job_id, just_completed, new_job};

use shared::time::Millis;
use shared::wire::gateway::JobStatus::{Failed, Succeeded};

use crate::queue::breaker::{Breaker, Rule, State};
use crate::queue::dedupe::Check;
use crate::schedule::ran::Ran;
use crate::schedule::record::{Occurrence, Outcome, Record, Status};
use crate::store::write::{Applied, BreakerChange, CancelOwn, Completion, NewJob, Scheduling, Write};

fn look(occurrences: Vec<Occurrence>, jobs: Vec<(NewJob, Option<Check>)>) -> Scheduling {
    Scheduling {
        plugin: "echo".to_owned(),
        schedule_id: "a".to_owned(),
        at: at(0),
        record: Record { next_run_at: Some(at(60)), last_fired_at: Some(at(0)), ..Record::new("poll") },
        occurrences,
        jobs,
        cancel: None,
        breaker: None,
    }
}

fn stored(home: &Home, look: Scheduling) -> Applied {
    home.apply(Write::Schedule(Box::new(look)))
}

fn skipped(second: i64, reason: &'static str) -> Occurrence {
    Occurrence { slot_at: at(second), until_at: at(second), slots: 1, outcome: Outcome::Skipped { reason } }
}

fn run(second: i64, id: &str) -> Occurrence {
    let outcome = Outcome::Enqueued { job_id: job_id(id) };
    Occurrence { slot_at: at(second), until_at: at(second), slots: 1, outcome }
}

fn own(id: &str) -> NewJob {
    let dedupe_key = Some("echo:poll:a".to_owned());
    NewJob { dedupe_key, submitted_by: "ductile".to_owned(), ..new_job(id) }
}

fn rows(home: &Home) -> Vec<String> {
    home.column(
        "SELECT outcome || ' ' || coalesce(reason, job_id) || ' ' || slots FROM schedule_occurrences ORDER BY slot_at",
    )
}

const NOTHING: Applied = Applied::Scheduled { cancelled: Vec::new(), duplicates: Vec::new() };

#[test]
fn a_look_is_stored_whole_and_read_again() {
    let home = Home::new("schedules-look");
    assert_eq!(stored(&home, look(vec![run(0, "job-1")], vec![(own("job-1"), None)])), NOTHING);
    assert_eq!(
        (home.status("job-1").as_str(), rows(&home).as_slice()),
        ("queued", ["enqueued job-1 1".to_owned()].as_slice())
    );
    let reader = home.store.reader().expect("a reader");
    let records = reader.schedule_entries(at(1000)).expect("read");
    let record = &records[&("echo".to_owned(), "a".to_owned())];
    assert_eq!((record.status, record.next_run_at, record.last_slot_at), (Status::Active, Some(at(60)), Some(at(0))));
    assert_eq!(reader.outstanding_of("echo:poll:a", "ductile").expect("read"), [job_id("job-1")]);
    assert!(reader.outstanding_of("echo:poll:a", "other").expect("read").is_empty());
    assert_eq!(reader.slots_run("echo", "a", at(-1)).expect("read"), Ran::from_iter([at(0)]));
    assert_eq!(reader.active_of("ductile").expect("read")[0].dedupe_key.as_deref(), Some("echo:poll:a"));
    // A success of its job is its success, and a later look does not take it back.
    let entry = Some(("echo".to_owned(), "a".to_owned()));
    let end = Completion { claim: Some(claim("job-1", 1)), entry, ..ended("job-1", 1, Succeeded) };
    assert_eq!(home.apply(complete(end)), just_completed());
    stored(&home, look(Vec::new(), Vec::new()));
    let records = reader.schedule_entries(at(1000)).expect("read");
    assert_eq!(records[&("echo".to_owned(), "a".to_owned())].last_success_job_id.as_deref(), Some("job-1"));
    // But for one that finds another command under its id.
    stored(&home, Scheduling { record: Record::new("sync"), ..look(Vec::new(), Vec::new()) });
    let records = reader.schedule_entries(at(1000)).expect("read");
    let record = &records[&("echo".to_owned(), "a".to_owned())];
    assert_eq!((record.last_success_job_id.as_deref(), record.last_success_at), (None, None));
}

#[test]
fn slots_that_say_the_same_share_a_row_and_the_newest_may_still_run() {
    let home = Home::new("schedules-rows");
    for second in [60, 120, 180] {
        stored(&home, look(vec![skipped(second, "already_running")], Vec::new()));
    }
    assert_eq!(rows(&home), ["skipped already_running 2", "skipped already_running 1"]);
    stored(&home, look(vec![run(180, "job-1")], vec![(own("job-1"), None)]));
    assert_eq!(rows(&home), ["skipped already_running 2", "enqueued job-1 1"]);
    stored(&home, look(vec![skipped(240, "circuit_open")], Vec::new()));
    stored(&home, look(vec![skipped(300, "already_running")], Vec::new()));
    let expected =
        ["skipped already_running 2", "enqueued job-1 1", "skipped circuit_open 1", "skipped already_running 1"];
    assert_eq!(rows(&home), expected);
}

#[test]
fn a_row_that_names_a_job_is_never_replaced() {
    let home = Home::new("schedules-enqueued");
    stored(&home, look(vec![run(60, "job-1")], vec![(own("job-1"), None)]));
    let missed =
        Occurrence { until_at: at(120), slots: 2, outcome: Outcome::Missed { reason: "late" }, ..run(60, "job-2") };
    for told in [skipped(60, "already_running"), missed, run(60, "job-2")] {
        stored(&home, look(vec![told], Vec::new()));
        assert_eq!(rows(&home), ["enqueued job-1 1"]);
    }
}

#[test]
fn slots_that_ran_and_the_newest_slot_are_read_as_of_a_time() {
    let home = Home::new("schedules-ran");
    for second in [0, 60, 180, 240] {
        let id = format!("job-{second}");
        stored(&home, look(vec![run(second, &id)], vec![(own(&id), None)]));
    }
    stored(&home, look(vec![skipped(120, "already_running")], Vec::new()));
    let reader = home.store.reader().expect("a reader");
    let ran = |floor: i64| reader.slots_run("echo", "a", at(floor)).expect("read");
    assert_eq!(ran(130), Ran::from_iter([180, 240].map(at)));
    assert_eq!(ran(180), Ran::from_iter([180, 240].map(at)));
    assert_eq!(ran(-1), Ran::from_iter([0, 60, 180, 240].map(at)));
    let newest =
        |now: i64| reader.schedule_entries(at(now)).expect("read")[&("echo".to_owned(), "a".to_owned())].last_slot_at;
    assert_eq!([1000, 130, -5].map(newest), [240, 120, 0].map(|second| Some(at(second))));
}

#[test]
fn a_job_of_catch_up_that_another_stands_for_is_told_of() {
    let home = Home::new("schedules-duplicate");
    let job = |id: &str| NewJob { dedupe_key: Some("k".to_owned()), ..own(id) };
    let check = || Check::new(Some("k"), Millis(1000), at(0));
    home.apply(Write::Admit(job("job-1")));
    let look = look(vec![run(0, "job-2")], vec![(job("job-2"), check())]);
    let Applied::Scheduled { duplicates, .. } = stored(&home, look) else { panic!("a look") };
    assert_eq!((duplicates.len(), &duplicates[0].0), (1, &job_id("job-2")));
    assert_eq!(rows(&home), ["skipped duplicate 1"]);
    assert_eq!(home.count("SELECT count(*) FROM job_queue"), 1);
}

#[test]
fn a_look_may_end_the_jobs_of_its_own_entry_alone() {
    let home = Home::new("schedules-cancel");
    let jobs = [
        ("own", "ductile", "echo:poll:a"),
        ("caught", "ductile", "echo:poll:a:catchup:1970-01-01T00:00:00Z"),
        ("b", "ductile", "echo:poll:b"),
        ("api", "api", "echo:poll:a"),
    ];
    for (id, by, key) in jobs {
        let (submitted_by, dedupe_key) = (by.to_owned(), Some(key.to_owned()));
        home.apply(Write::Admit(NewJob { submitted_by, dedupe_key, ..new_job(id) }));
    }
    let cancel = Some(CancelOwn {
        dedupe_key: "echo:poll:a".to_owned(),
        submitted_by: "ductile".to_owned(),
        reason: "cancelled by scheduler (if_running=cancel)".to_owned(),
    });
    let look = Scheduling { cancel, ..look(vec![run(60, "next")], vec![(own("next"), None)]) };
    let Applied::Scheduled { cancelled, .. } = stored(&home, look) else { panic!("a look") };
    assert_eq!(cancelled, [job_id("own"), job_id("caught")]);
    assert_eq!(home.status("caught"), "dead");
    assert_eq!(["own", "b", "api", "next"].map(|id| home.status(id)), ["dead", "queued", "queued", "queued"]);
    assert_eq!(home.log("own"), ["own-1 dead cancelled by scheduler (if_running=cancel)"]);
}

#[test]
fn a_breaker_is_stored_with_the_completion_that_it_counts() {
    let home = Home::new("schedules-breaker");
    let rule = Rule { threshold: 1, reset_after: Millis(1000) };
    let (breaker, transition) = Breaker::default().completed(rule, false, "job-1", false, at(2));
    let change = BreakerChange {
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        breaker: breaker.clone(),
        transition,
        at: at(2),
    };
    home.apply(Write::Admit(own("job-1")));
    let end = |breaker| Completion { claim: Some(claim("job-1", 1)), breaker, ..ended("job-1", 1, Failed) };
    assert_eq!(home.apply(complete(end(Some(change.clone())))), just_completed());
    // A completion that no longer holds counts nothing.
    assert_eq!(home.apply(complete(end(Some(change.clone())))), Applied::Stale);
    let reader = home.store.reader().expect("a reader");
    assert_eq!(reader.breakers().expect("read")[&("echo".to_owned(), "poll".to_owned())], breaker);
    let shown = reader.breaker("echo", "poll", 20).expect("read");
    assert_eq!((shown.state.as_deref(), shown.failure_count, shown.transitions.len()), (Some("open"), 1, 1));
    assert_eq!(
        (shown.transitions[0].from_state.as_deref(), shown.transitions[0].reason.as_str()),
        (None, "failure_threshold")
    );
    let (closed, transition) = breaker.reset(true, at(3));
    let reset = BreakerChange { breaker: closed, transition: Some(transition), at: at(3), ..change };
    assert_eq!(home.apply(Write::Breaker(Box::new(reset))), Applied::Saved);
    let shown = reader.breaker("echo", "poll", 1).expect("read");
    assert_eq!((shown.state.as_deref(), shown.transitions[0].reason.as_str()), (Some("closed"), "manual_reset"));
    assert_eq!(reader.breaker("other", "poll", 1).expect("read").state, None);
}

#[test]
fn rows_of_another_program_are_read_as_far_as_they_go() {
    let home = Home::new("schedules-foreign");
    home.foreign()
        .execute_batch(
            "INSERT INTO schedule_entries (plugin, schedule_id, command, status, last_fired_at, next_run_at, updated_at) \
             VALUES ('echo', 'a', 'poll', 'no status', '2026-01-01T00:00:00Z', 'no time', ''); \
             INSERT INTO circuit_breakers (plugin, command, state, failure_count, opened_at, updated_at) \
             VALUES ('echo', 'poll', 'no state', 2, 'no time', '')",
        )
        .expect("filled");
    let reader = home.store.reader().expect("a reader");
    let record = &reader.schedule_entries(at(1000)).expect("read")[&("echo".to_owned(), "a".to_owned())];
    assert_eq!((record.status, record.next_run_at), (Status::Active, None));
    assert!(record.last_fired_at.is_some());
    let breaker = &reader.breakers().expect("read")[&("echo".to_owned(), "poll".to_owned())];
    assert_eq!((breaker.state, breaker.opened_at), (State::Closed, None));
}
