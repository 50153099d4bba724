//! What a crash left running.

use super::{Home, at, claim, complete, completion, just_completed, new_job};

use shared::time::Millis;
use shared::wire::gateway::JobStatus::{Failed, Succeeded};

use crate::store::recover::{RecoveredEnd, recover};
use crate::store::write::{Applied, Completion, NewJob, Next, Write};

fn running(home: &Home, id: &str, max_attempts: u32) {
    home.apply(Write::Admit(NewJob { max_attempts, ..new_job(id) }));
    home.apply(Write::Claim(claim(id, 1)));
}

#[test]
fn what_ran_is_queued_again_after_its_delay_and_what_is_spent_is_dead() {
    let mut home = Home::new("recovery-matrix");
    running(&home, "again", 4);
    running(&home, "spent", 1);
    home.apply(Write::Admit(new_job("waiting")));
    home.foreign().execute_batch("UPDATE job_queue SET last_error = 'earlier' WHERE id = 'again'").expect("set");
    let mut connection = home.take_connection();
    let report = recover(&mut connection, at(100), |plugin, attempt| {
        assert_eq!((plugin, attempt), ("echo", 1));
        Millis(30_000)
    });
    let report = report.expect("recovered");
    home.connection = Some(connection);
    let ends: Vec<String> = report
        .iter()
        .map(|recovered| match &recovered.end {
            RecoveredEnd::Queued { attempt, next_retry_at } => {
                format!("{} queued {attempt} {next_retry_at}", recovered.job_id)
            }
            RecoveredEnd::Dead { last_error } => format!("{} dead {last_error}", recovered.job_id),
            RecoveredEnd::Failed(error) => panic!("{error:?}"),
        })
        .collect();
    let text = "Job marked dead during crash recovery: max attempts (1) reached";
    assert_eq!(ends, [format!("again queued 2 {}", at(130)), format!("spent dead {text}")]);
    let row = |id: &str| -> Vec<String> {
        home.column(&format!(
            "SELECT status || ' ' || attempt || ' ' || coalesce(next_retry_at, '-') || ' ' || started_at || ' ' || \
             coalesce(completed_at, '-') || ' ' || coalesce(last_error, '-') FROM job_queue WHERE id = '{id}'"
        ))
    };
    assert_eq!(row("again"), [format!("queued 2 {} {} - -", at(130), at(1))]);
    assert_eq!(row("spent"), [format!("dead 1 - {} {} {text}", at(1), at(100))]);
    assert_eq!(home.status("waiting"), "queued");
    assert_eq!(home.log("again"), ["again-1 failed executor ended during the attempt"]);
    assert_eq!(home.log("spent"), ["spent-1 dead executor ended during the attempt"]);
    assert_eq!(home.transitions("again"), [">queued", "queued>running", "running>queued"]);
    assert_eq!(home.transitions("spent"), [">queued", "queued>running", "running>dead"]);
    // The lost attempt comes back too late; the next one runs.
    let late =
        Completion { claim: Some(claim("again", 1)), ..completion("again", 1, Next::Terminal { status: Succeeded }) };
    assert_eq!(home.apply(complete(late)), Applied::Stale);
    assert_eq!(home.apply(Write::Claim(claim("again", 2))), Applied::Claimed);
    assert_eq!(home.attempts("again"), [1, 2]);
    assert_eq!(home.log("again").len(), 1);
}

#[test]
fn nothing_running_is_nothing_to_do() {
    let mut home = Home::new("recovery-none");
    home.apply(Write::Admit(new_job("job-1")));
    let mut connection = home.take_connection();
    assert!(recover(&mut connection, at(1), |_, _| Millis(0)).expect("recovered").is_empty());
    home.connection = Some(connection);
    assert_eq!(home.transitions("job-1"), [">queued"]);
}

#[test]
fn a_failure_on_one_job_leaves_the_others_to_go_on() {
    let mut home = Home::new("recovery-failure");
    running(&home, "bad", 4);
    running(&home, "good", 4);
    home.foreign()
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE UPDATE ON job_queue WHEN old.id = 'bad' \
             BEGIN SELECT raise(ABORT, 'no'); END",
        )
        .expect("a trigger");
    let mut connection = home.take_connection();
    let report = recover(&mut connection, at(100), |_, _| Millis(0)).expect("listed");
    home.connection = Some(connection);
    assert!(matches!(report[0].end, RecoveredEnd::Failed(_)));
    assert!(matches!(report[1].end, RecoveredEnd::Queued { attempt: 2, .. }));
    assert_eq!((home.status("bad"), home.status("good")), ("running".to_owned(), "queued".to_owned()));
    assert_eq!(home.log("bad").len(), 0);
}

#[test]
fn an_attempt_number_is_never_used_again() {
    let mut home = Home::new("recovery-fencing");
    running(&home, "job-1", 9);
    for attempt in 1..4 {
        let mut connection = home.take_connection();
        recover(&mut connection, at(100), |_, _| Millis(0)).expect("recovered");
        home.connection = Some(connection);
        assert_eq!(home.apply(Write::Claim(claim("job-1", attempt))), Applied::Stale);
        assert_eq!(home.apply(Write::Claim(claim("job-1", attempt + 1))), Applied::Claimed);
    }
    let end = completion("job-1", 4, Next::Terminal { status: Failed });
    assert_eq!(home.apply(complete(end)), just_completed());
    assert_eq!(home.attempts("job-1"), [1, 2, 3, 4]);
    assert_eq!(home.log("job-1").len(), 4);
}
