//! Claims, completions and the moves between statuses.

use super::{Home, at, claim, complete, completion, ended, just_completed, new_job};

use shared::time::Millis;
use shared::wire::gateway::JobStatus::{self, Dead, Failed, Queued, Running, Skipped, Succeeded, TimedOut};

use crate::queue::dedupe::{Check, Reason};
use crate::store::StoreErrorKind;
use crate::store::write::{Applied, NewJob, Next, SpawnStatus, StopwatchRow, Write};

const TERMINAL: [JobStatus; 5] = [Succeeded, Skipped, Failed, TimedOut, Dead];

fn retry(attempt: u32) -> Next {
    Next::Retry { attempt, next_retry_at: at(30) }
}

/// A job brought to that status; attempt 1, or 2 when it was queued again.
fn job_in(home: &Home, id: &str, status: JobStatus) {
    assert_eq!(home.apply(Write::Admit(new_job(id))), Applied::Admitted);
    if status != Queued {
        assert_eq!(home.apply(Write::Claim(claim(id, 1))), Applied::Claimed);
    }
    if status.is_terminal() {
        assert_eq!(home.apply(complete(ended(id, 1, status))), just_completed());
    }
    assert_eq!(home.status(id), status.as_str());
}

#[test]
fn the_table_holds_against_the_store_edge_by_edge() {
    let home = Home::new("moves-table");
    for (index, from) in [Queued, Running, Succeeded, Skipped, Failed, TimedOut, Dead].into_iter().enumerate() {
        for (other, to) in TERMINAL.into_iter().enumerate() {
            let id = format!("job-{index}-{other}");
            job_in(&home, &id, from);
            let expected = if from == Running { just_completed() } else { Applied::Stale };
            assert_eq!(home.apply(complete(ended(&id, 1, to))), expected, "{from:?} -> {to:?}");
            assert_eq!(home.status(&id), if from == Running { to } else { from }.as_str());
        }
        let id = format!("job-{index}-claim");
        job_in(&home, &id, from);
        let expected = if from == Queued { Applied::Claimed } else { Applied::Stale };
        assert_eq!(home.apply(Write::Claim(claim(&id, 1))), expected, "claim from {from:?}");
        let id = format!("job-{index}-retry");
        job_in(&home, &id, from);
        let expected = if from == Running { just_completed() } else { Applied::Stale };
        assert_eq!(home.apply(complete(completion(&id, 1, retry(2)))), expected, "retry from {from:?}");
    }
}

#[test]
fn completing_to_what_is_not_terminal_is_refused_and_changes_nothing() {
    let home = Home::new("moves-refused");
    job_in(&home, "job-1", Running);
    let refused = |write: Write| {
        let error = home.run(&[write]).remove(0).expect_err("refused");
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        error.to_string()
    };
    assert_eq!(refused(complete(ended("job-1", 1, Running))), "invalid terminal status: \"running\"");
    assert_eq!(refused(complete(ended("job-1", 1, Queued))), "invalid terminal status: \"queued\"");
    assert_eq!(refused(complete(completion("job-1", 1, retry(1)))), "attempt 1 can not follow attempt 1");
    let mut other = ended("job-1", 1, Succeeded);
    other.claim = Some(claim("job-1", 2));
    assert_eq!(refused(complete(other)), "the claim is not of this attempt");
    assert_eq!(refused(Write::Admit(NewJob { plugin: " ".to_owned(), ..new_job("job-2") })), "plugin is empty");
    assert_eq!((home.status("job-1"), home.log("job-1").len()), ("running".to_owned(), 0));
}

#[test]
fn a_job_leaves_its_whole_history() {
    let home = Home::new("moves-history");
    job_in(&home, "job-1", Running);
    let mut failed = completion("job-1", 1, retry(2));
    failed.last_error = Some("it broke".to_owned());
    assert_eq!(home.apply(complete(failed)), just_completed());
    let row: Vec<String> = home.column(
        "SELECT status || ' ' || attempt || ' ' || next_retry_at || ' ' || started_at || ' ' || last_error \
         || ' ' || coalesce(completed_at, '-') FROM job_queue",
    );
    assert_eq!(row, [format!("queued 2 {} {} it broke -", at(30), at(1))]);
    let mut last = ended("job-1", 2, Succeeded);
    last.claim = Some(claim("job-1", 2));
    assert_eq!(home.apply(complete(last)), just_completed());
    assert_eq!(
        home.transitions("job-1"),
        [">queued", "queued>running", "running>queued", "queued>running", "running>succeeded"]
    );
    assert_eq!(home.attempts("job-1"), [1, 2]);
    assert_eq!(home.log("job-1"), ["job-1-1 failed it broke", "job-1-2 succeeded "]);
    let times: Vec<String> = home.column("SELECT created_at FROM job_transitions ORDER BY id");
    assert_eq!(times, [at(0), at(1), at(2), at(1), at(2)].map(|time| time.to_string()));
    let reasons: Vec<Option<String>> = home.column("SELECT reason FROM job_transitions ORDER BY id");
    assert_eq!(reasons, [None, None, Some("it broke".to_owned()), None, None]);
    let row: Vec<String> = home.column(
        "SELECT status || ' ' || attempt || ' ' || completed_at || ' ' || coalesce(last_error, '-') || ' ' || \
         enqueued_config_snapshot_id || ' ' || started_config_snapshot_id FROM job_queue",
    );
    assert_eq!(row, [format!("succeeded 2 {} - snapshot-1 snapshot-2", at(2))]);
    let log: Vec<String> = home.column(
        "SELECT plugin || command || result || stderr || submitted_by || created_at || started_config_snapshot_id \
         FROM job_log WHERE id = 'job-1-2'",
    );
    assert_eq!(log, [format!("echopoll{{\"status\":\"ok\"}}a line\napi{}snapshot-2", at(0))]);
}

#[test]
fn a_riding_claim_stores_what_a_claim_of_its_own_would() {
    let home = Home::new("moves-riding");
    let riding = |id: &str, next: Next| {
        let mut end = completion(id, 1, next);
        end.claim = Some(claim(id, 1));
        complete(end)
    };
    for id in ["ride-end", "ride-retry", "ride-requeue", "apart-end", "apart-retry", "apart-requeue"] {
        home.apply(Write::Admit(new_job(id)));
    }
    for (name, next) in [("end", Next::Terminal { status: TimedOut }), ("retry", retry(2)), ("requeue", Next::Requeue)]
    {
        let (ride, apart) = (format!("ride-{name}"), format!("apart-{name}"));
        assert_eq!(home.apply(riding(&ride, next)), just_completed());
        assert_eq!(home.apply(Write::Claim(claim(&apart, 1))), Applied::Claimed);
        assert_eq!(home.apply(complete(completion(&apart, 1, next))), just_completed());
        assert_eq!(home.transitions(&ride), home.transitions(&apart));
        assert_eq!(home.attempts(&ride), [1]);
        let row = |id: &str| -> Vec<String> {
            home.column(&format!(
                "SELECT status || attempt || '/' || max_attempts || coalesce(started_at, '') || \
                 coalesce(completed_at, '') || coalesce(next_retry_at, '') || started_config_snapshot_id \
                 FROM job_queue WHERE id = '{id}'"
            ))
        };
        assert_eq!(row(&ride), row(&apart), "{name}");
        assert_eq!(home.log(&ride).len(), 1);
    }
    let requeued: Vec<String> =
        home.column("SELECT attempt || '/' || max_attempts FROM job_queue WHERE id = 'ride-requeue'");
    assert_eq!(requeued, ["2/5"]);
}

#[test]
fn a_claim_that_was_also_written_by_itself_is_recognised() {
    let home = Home::new("moves-recognised");
    home.apply(Write::Admit(new_job("job-1")));
    let mut end = ended("job-1", 1, Succeeded);
    end.claim = Some(claim("job-1", 1));
    assert_eq!(home.apply(Write::Claim(claim("job-1", 1))), Applied::Claimed);
    assert_eq!(home.apply(complete(end.clone())), just_completed());
    assert_eq!(home.transitions("job-1"), [">queued", "queued>running", "running>succeeded"]);
    assert_eq!(home.apply(complete(end)), Applied::Stale);
    // Someone else's claim of the same attempt is not.
    home.apply(Write::Admit(new_job("job-2")));
    home.apply(Write::Claim(claim("job-2", 1)));
    let mut end = ended("job-2", 1, Succeeded);
    end.claim = Some(crate::store::write::Claim { started_at: at(9), ..claim("job-2", 1) });
    assert_eq!(home.apply(complete(end)), Applied::Stale);
}

#[test]
fn a_claim_whose_completion_is_in_the_same_batch_rides_after_all() {
    let home = Home::new("moves-overtaken");
    home.apply(Write::Admit(new_job("job-1")));
    let mut end = ended("job-1", 1, Succeeded);
    end.claim = Some(claim("job-1", 1));
    let answers = home.run(&[Write::Claim(claim("job-1", 1)), complete(end.clone())]);
    assert!(matches!(answers[..], [Ok(Applied::Claimed), Ok(Applied::Completed(_))]));
    assert_eq!(home.transitions("job-1"), [">queued", "queued>running", "running>succeeded"]);
    assert_eq!(home.attempts("job-1"), [1]);
    // A completion that is not taken leaves its claim unwritten, and both are told so.
    home.apply(Write::Admit(new_job("job-2")));
    let refused = |id: &str| {
        let mut end = ended(id, 1, Succeeded);
        end.claim = Some(claim(id, 1));
        end.state = Some(super::states::update("[]", &[]));
        complete(end)
    };
    let answers = home.run(&[Write::Claim(claim("job-2", 1)), refused("job-2")]);
    assert!(matches!(answers[..], [Ok(Applied::Stale), Ok(Applied::StateRefused { .. })]), "{answers:?}");
    assert_eq!(home.status("job-2"), "queued");
    // A claim behind its completion is judged for itself.
    let answers = home.run(&[complete(end), Write::Claim(claim("job-1", 1))]);
    assert!(matches!(answers[..], [Ok(Applied::Stale), Ok(Applied::Stale)]), "{answers:?}");
}

#[test]
fn a_stale_completion_is_dropped_whole() {
    let home = Home::new("moves-stale");
    job_in(&home, "job-1", Running);
    home.apply(complete(completion("job-1", 1, retry(2))));
    home.apply(Write::Claim(claim("job-1", 2)));
    let mut stale = ended("job-1", 1, Succeeded);
    stale.state = Some(super::states::update("{\"a\":1}", &[]));
    stale.stopwatch = Some(stopwatch());
    assert_eq!(home.apply(complete(stale.clone())), Applied::Stale);
    stale.claim = Some(claim("job-1", 1));
    assert_eq!(home.apply(complete(stale.clone())), Applied::Stale);
    stale.state = Some(super::states::update("[]", &[]));
    assert_eq!(home.apply(complete(stale)), Applied::Stale);
    assert_eq!(home.apply(complete(ended("unknown", 1, Succeeded))), Applied::Stale);
    assert_eq!(home.apply(Write::Claim(claim("unknown", 1))), Applied::Stale);
    assert_eq!(home.status("job-1"), "running");
    assert_eq!(home.count("SELECT count(*) FROM plugin_state"), 0);
    assert_eq!(home.count("SELECT count(*) FROM job_stopwatch"), 0);
    assert_eq!(home.log("job-1").len(), 1);
    assert_eq!(home.transitions("job-1").len(), 4);
}

fn stopwatch() -> StopwatchRow {
    StopwatchRow {
        plugin: "echo".to_owned(),
        pipeline: None,
        step_id: None,
        pipeline_instance_id: None,
        enter_wall_ns: 1,
        exit_wall_ns: 5,
        dur_ns: 4,
        runtime_pre_ns: 2,
        runtime_post_ns: 0,
        status: SpawnStatus::Timeout,
        subs_json: "[]".to_owned(),
    }
}

#[test]
fn the_stopwatch_row_comes_with_the_completion() {
    let home = Home::new("moves-stopwatch");
    job_in(&home, "job-1", Running);
    let mut end = ended("job-1", 1, TimedOut);
    end.stopwatch = Some(stopwatch());
    assert_eq!(home.apply(complete(end)), just_completed());
    let rows: Vec<String> = home.column(
        "SELECT job_id || attempt || status || enter_wall_ns || exit_wall_ns || dur_ns || runtime_pre_ns || \
         runtime_post_ns || subs_json || recorded_at FROM job_stopwatch",
    );
    assert_eq!(rows, [format!("job-11timeout15420[]{}", at(2))]);
}

#[test]
fn a_job_of_an_event_is_admitted_once_and_others_share_their_insert() {
    let home = Home::new("moves-event");
    let of_event = |id: &str, event: &str| NewJob {
        parent_job_id: Some("parent".to_owned()),
        source_event_id: Some(event.to_owned()),
        ..new_job(id)
    };
    let mut batch: Vec<Write> = (0..21).map(|n| Write::Admit(new_job(&format!("job-{n}")))).collect();
    batch.push(Write::Admit(of_event("child-1", "event-1")));
    batch.push(Write::Admit(of_event("child-2", "event-1")));
    batch.push(Write::Admit(of_event("child-3", "event-1#2")));
    batch.push(Write::Admit(new_job("job-21")));
    let answers: Vec<Applied> = home.run(&batch).into_iter().map(|answer| answer.expect("answered")).collect();
    let expected: Vec<Applied> = (0..25).map(|n| if n == 22 { Applied::Conflict } else { Applied::Admitted }).collect();
    assert_eq!(answers, expected);
    assert_eq!(home.count("SELECT count(*) FROM job_transitions"), 24);
    let order: Vec<String> = home.column("SELECT id FROM job_queue ORDER BY rowid");
    assert_eq!(order[20..], ["job-20", "child-1", "child-3", "job-21"]);
    assert_eq!(home.count("SELECT count(*) FROM job_queue WHERE typeof(payload) = 'text'"), 24);
}

#[test]
fn duplicates_are_found_in_the_transaction_of_the_insert() {
    let home = Home::new("moves-dedupe");
    let keyed = |id: &str, now: i64, window: Millis| {
        let job = NewJob { dedupe_key: Some("k".to_owned()), created_at: at(now), ..new_job(id) };
        Write::AdmitUnique(job, Check::new(Some("k"), window, at(now)).expect("a key"))
    };
    let reason = |answer: Applied| match answer {
        Applied::Duplicate(duplicate) => Some((duplicate.existing_job_id, duplicate.reason)),
        Applied::Admitted => None,
        other => panic!("{other:?}"),
    };
    let hour = Millis::from_secs(3600);
    let mut answers = home.run(&[keyed("job-1", 0, hour), keyed("job-2", 0, hour)]);
    let second = answers.remove(1).expect("answered");
    assert_eq!(reason(answers.remove(0).expect("answered")), None);
    assert_eq!(reason(second), Some(("job-1".to_owned(), Reason::Outstanding)));
    let mut end = ended("job-1", 1, Succeeded);
    end.claim = Some(claim("job-1", 1));
    home.apply(complete(end));
    assert_eq!(reason(home.apply(keyed("job-3", 10, hour))), Some(("job-1".to_owned(), Reason::RecentSuccess)));
    // Another command of the key, a window that has passed, and one of 0.
    let Write::AdmitUnique(job, check) = keyed("job-4", 10, hour) else { unreachable!("made above") };
    assert_eq!(reason(home.apply(Write::AdmitUnique(NewJob { command: "handle".to_owned(), ..job }, check))), None);
    assert_eq!(reason(home.apply(keyed("job-5", 3603, hour))), None);
    let mut end = ended("job-5", 1, Failed);
    end.claim = Some(claim("job-5", 1));
    home.apply(complete(end));
    assert_eq!(reason(home.apply(keyed("job-6", 3603, Millis(0)))), None);
    assert_eq!(home.count("SELECT count(*) FROM job_queue"), 4);
}
