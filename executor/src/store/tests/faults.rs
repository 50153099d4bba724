//! Faults of the disk and of the operations.

use super::{Home, claim, complete, ended, just_completed, new_job};

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use shared::wire::gateway::JobStatus::Succeeded;

use crate::store::write::{Applied, Completion, NewJob, Write};
use crate::store::{StoreErrorKind, open};

/// A batch that fails whole, and is stored whole when it is submitted again.
fn batch() -> Vec<Write> {
    let large = NewJob { payload: Some(format!("{{\"a\":\"{}\"}}", "x".repeat(100_000))), ..new_job("job-2") };
    let end = Completion { claim: Some(claim("job-1", 1)), ..ended("job-1", 1, Succeeded) };
    vec![Write::Admit(new_job("job-1")), Write::Admit(large), complete(end)]
}

fn check_failed(home: &Home, kind: StoreErrorKind) {
    for answer in home.run(&batch()) {
        assert_eq!(answer.expect_err("nothing can be stored").kind(), kind);
    }
}

fn check_stored(home: &Home) {
    let answers: Vec<Applied> = home.run(&batch()).into_iter().map(|answer| answer.expect("stored")).collect();
    assert_eq!(answers, [Applied::Admitted, Applied::Admitted, just_completed()]);
    assert_eq!((home.status("job-1"), home.status("job-2")), ("succeeded".to_owned(), "queued".to_owned()));
    assert_eq!(home.count("SELECT count(*) FROM job_transitions"), 4);
}

fn pragma(home: &Home, text: &str) {
    let raw = home.connection.as_ref().expect("open").raw();
    raw.execute_batch(&format!("PRAGMA {text}")).expect("a pragma");
}

#[test]
fn a_full_disk_fails_the_batch_until_there_is_room() {
    let home = Home::new("faults-full");
    let pages = home.count("PRAGMA page_count");
    pragma(&home, &format!("max_page_count = {}", pages + 2));
    check_failed(&home, StoreErrorKind::Full);
    check_failed(&home, StoreErrorKind::Full);
    assert_eq!(home.count("SELECT count(*) FROM job_queue"), 0);
    pragma(&home, "max_page_count = 1000000");
    check_stored(&home);
}

#[test]
fn a_database_that_can_not_be_written_fails_the_batch_until_it_can() {
    let home = Home::new("faults-read-only");
    pragma(&home, "query_only = ON");
    check_failed(&home, StoreErrorKind::ReadOnly);
    pragma(&home, "query_only = OFF");
    check_stored(&home);
}

#[test]
fn a_foreign_writer_makes_it_busy_until_it_lets_go() {
    let home = Home::new("faults-busy");
    pragma(&home, "busy_timeout = 1");
    let foreign = home.foreign();
    foreign.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    check_failed(&home, StoreErrorKind::Busy);
    foreign.execute_batch("ROLLBACK").expect("released");
    check_stored(&home);
}

#[test]
fn a_damaged_page_is_reported_and_read_again_when_it_is_mended() {
    let mut home = Home::new("faults-corrupt");
    let page = home.count("SELECT rootpage FROM sqlite_master WHERE name = 'job_queue'");
    let size = home.count("PRAGMA page_size");
    // Closing folds the log into the file, so that the page in the file is the one that is read.
    drop(home.take_connection());
    let file = fs::OpenOptions::new().read(true).write(true).open(home.store.path()).expect("open");
    let offset = u64::try_from((page - 1) * size).expect("a position");
    let mut good = vec![0; usize::try_from(size).expect("a size")];
    file.read_exact_at(&mut good, offset).expect("read");
    file.write_all_at(&vec![0x5a; good.len()], offset).expect("damaged");
    let (_, connection) = open(home.store.path(), Path::new("c.yaml")).expect("the schema is whole");
    home.connection = Some(connection);
    check_failed(&home, StoreErrorKind::Corrupt);
    file.write_all_at(&good, offset).expect("mended");
    check_stored(&home);
}

#[test]
fn one_operation_that_can_never_be_stored_holds_up_no_other() {
    let home = Home::new("faults-refused");
    home.apply(Write::Admit(new_job("job-0")));
    let answers = home.run(&[
        Write::Admit(new_job("job-1")),
        Write::Admit(new_job("job-0")),
        Write::Claim(claim("job-1", 1)),
        complete(ended("job-1", 1, Succeeded)),
    ]);
    assert!(matches!(answers[0], Ok(Applied::Admitted)));
    assert_eq!(answers[1].as_ref().expect_err("the id is taken").kind(), StoreErrorKind::Refused);
    assert!(matches!((&answers[2], &answers[3]), (Ok(Applied::Claimed), Ok(Applied::Completed(_)))));
    assert_eq!(home.count("SELECT count(*) FROM job_transitions"), 4);
    assert_eq!(home.transitions("job-0"), [">queued"]);
}
