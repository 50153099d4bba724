//! What the database may do to the executor: no room, no lock, no right to write, damage. Callers
//! hear `503` and when to come again, nothing accepted is lost, and what ran ends once.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use rusqlite::Connection;
use tests::command::{command, succeed};
use tests::instance::{Instance, Prepared};
use tests::lone;
use tests::site::{PATIENCE, Setup, is_terminal, json};
use tests::undo::Undo;
use tests::{ledger, procs, wait};

/// An instance whose database fails for a while, and what it has promised. The fault is undone
/// before the instance goes.
struct Faulty {
    fault: Option<Undo>,
    instance: Instance,
    accepted: Vec<String>,
}

fn prepare() -> Prepared {
    Setup::new().without_vault().workers(4).plugin("witness").plugin("holder").prepare()
}

impl Faulty {
    /// Started, with two jobs that run until they are released and some that have ended.
    fn start(prepared: Prepared, fault: Option<Undo>) -> Self {
        let instance = prepared.start();
        let mut faulty = Self { fault, instance, accepted: Vec::new() };
        for _ in 0..2 {
            let id = faulty.instance.trigger("holder", "poll", "");
            faulty.accepted.push(id);
        }
        for _ in 0..5 {
            let id = faulty.instance.trigger("witness", "poll", "");
            faulty.instance.finished(&id);
            faulty.accepted.push(id);
        }
        wait::until_true("both jobs to run", PATIENCE, || faulty.holders() == 2);
        faulty
    }

    fn holders(&self) -> usize {
        self.instance.pids("holder").len()
    }

    /// Triggers a job; whether it was accepted. The only other answer is that of a database that
    /// can not be written.
    fn trigger(&mut self) -> bool {
        let body = format!(r#"{{"payload":{{"text":"{}"}}}}"#, "a".repeat(3000));
        let response = self.instance.request("POST", "/plugin/witness/poll", &body);
        match response.status {
            202 => {
                let id = json(&response)["job_id"].as_str().expect("a job id").to_owned();
                self.accepted.push(id);
                true
            }
            503 => {
                assert_eq!(response.header("retry-after").as_deref(), Some("1"), "{response:?}");
                assert_eq!(json(&response)["error"], "failed to enqueue job", "{response:?}");
                false
            }
            _ => panic!("{response:?}\n{}", self.instance.log()),
        }
    }

    /// The fault is there: jobs are refused, the jobs that ran end now, and all goes on.
    fn endure(&mut self) {
        wait::until_true("a job to be refused", 2 * PATIENCE, || !self.trigger());
        self.release();
        assert!(!self.trigger(), "accepted while nothing can be written");
        assert!(self.instance.is_healthy(), "{}", self.instance.log());
    }

    fn release(&self) {
        self.instance.release_holders();
        wait::until_true("both jobs to end", PATIENCE, || self.holders() == 0);
    }

    /// What was logged but for the front's requests.
    fn told(&self) -> String {
        let log = self.instance.log();
        log.lines().filter(|line| !line.contains("\"msg\":\"request\"")).collect::<Vec<_>>().join("\n")
    }

    /// The fault is over: what waited is written, everything accepted ends, each once.
    fn recover(mut self) {
        wait::until_true("a job to be accepted again", PATIENCE, || self.trigger());
        for id in &self.accepted {
            let status = || self.instance.job(id)["status"].as_str().expect("a status").to_owned();
            let end = Instant::now() + PATIENCE;
            while !is_terminal(&status()) {
                assert!(Instant::now() < end, "{id} stays {}\n{}", status(), self.told());
                std::thread::yield_now();
            }
            assert_eq!(status(), "succeeded", "{id}\n{}", self.instance.log());
        }
        let ledger = self.instance.ledger();
        let jobs = ledger::read(&ledger);
        ledger::audit(&jobs);
        for id in &self.accepted {
            assert_eq!((jobs[id].attempts.len(), jobs[id].logged.len()), (1, 1), "{id}: {:?}", jobs[id]);
        }
        let runs = fs::read_to_string(self.instance.plugin_root.join("witness/runs")).expect("some have run");
        let mut runs: Vec<&str> = runs.lines().collect();
        let count = runs.len();
        runs.sort_unstable();
        runs.dedup();
        assert_eq!(runs.len(), count, "a job ran twice");
        assert_eq!(ledger::damage(&ledger), "");
        drop(ledger);
        assert!(self.instance.log().contains("database is written again"), "{}", self.instance.log());
        drop(self.fault.take());
        let ended = self.instance.stop();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    }
}

/// A filesystem of its own, small, for the database.
fn small_disk(prepared: &Prepared) -> Undo {
    let state = state(prepared).display().to_string();
    succeed(command("mount").args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", &state]));
    // Lazily: the processes of a test that failed still have files open there.
    Undo::by(&["umount", "-l", &state])
}

fn state(prepared: &Prepared) -> &Path {
    prepared.database.parent().expect("a database lies in a folder")
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("make a file");
    let mut size = 64 * 1024;
    while size > 0 {
        if file.write_all(&vec![1; size]).is_err() {
            size /= 2;
        }
    }
}

#[test]
fn a_full_disk_refuses_new_jobs_and_loses_none() {
    let prepared = prepare();
    let filler = state(&prepared).join("filler");
    let disk = small_disk(&prepared);
    let mut faulty = Faulty::start(prepared, Some(disk));
    fill(&filler);
    faulty.endure();
    fs::remove_file(&filler).expect("make room");
    faulty.recover();
}

#[test]
fn a_full_disk_at_the_start_is_told_and_the_next_start_succeeds() {
    let prepared = prepare();
    let filler = state(&prepared).join("filler");
    let disk = small_disk(&prepared);
    fill(&filler);
    let ended = prepared.run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.stderr.contains("full") || ended.stderr.contains("No space left"), "{}", ended.stderr);
    fs::remove_file(&filler).expect("make room");
    let instance = prepared.start();
    assert_eq!(instance.run_job("witness", "")["status"], "succeeded");
    drop(disk);
}

#[test]
fn a_foreign_writer_is_waited_for_and_then_refuses_new_jobs() {
    let mut faulty = Faulty::start(prepare(), None);
    let foreign = Connection::open(&faulty.instance.database).expect("open the database");
    foreign.execute_batch("BEGIN IMMEDIATE").expect("take the lock");
    faulty.endure();
    foreign.execute_batch("ROLLBACK").expect("give the lock back");
    drop(foreign);
    faulty.recover();
}

#[test]
fn files_that_can_not_be_written_refuse_new_jobs_and_lose_none() {
    let mut faulty = Faulty::start(prepare(), None);
    // A filesystem can not be made read-only under a writer; this has the same effect on one file.
    let log = format!("{}-wal", faulty.instance.database.display());
    let immutable = Undo::by(&["chattr", "-i", &log]);
    succeed(command("chattr").args(["+i", &log]));
    faulty.fault = Some(immutable);
    faulty.endure();
    drop(faulty.fault.take());
    faulty.recover();
}

#[test]
fn damage_found_at_the_start_refuses_it_and_is_not_written_over() {
    let prepared = prepare();
    let (lone, mut front) = lone::Lone::start(&prepared);
    for _ in 0..50 {
        front.trigger("witness", "").expect("the executor lives");
    }
    front.drained();
    assert!(lone.stop().success());
    damage(&prepared.database);
    let before = fs::read(&prepared.database).expect("read the database");
    let ended = prepared.run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.stderr.contains("malformed"), "{}{}", ended.stderr, ended.log);
    assert!(fs::read(&prepared.database).expect("read the database") == before, "a refused start changed the database");
}

#[test]
fn damage_found_on_the_way_is_told_and_ends_nothing() {
    let instance = prepare().start();
    for _ in 0..50 {
        assert_eq!(instance.run_job("witness", "")["status"], "succeeded");
    }
    let foreign = Connection::open(&instance.database).expect("open the database");
    // What the write-ahead log holds would be read in the place of the pages.
    foreign.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("empty the log");
    drop(foreign);
    let launcher = instance.launcher();
    damage(&instance.database);
    for _ in 0..50 {
        let response = instance.request("POST", "/plugin/witness/poll", "");
        match response.status {
            // Pages that the writer keeps are whole.
            202 => {}
            503 => {
                assert_eq!(response.header("retry-after").as_deref(), Some("1"), "{response:?}");
                assert_eq!(json(&response)["error"], "failed to enqueue job", "{response:?}");
                assert!(instance.log().contains("malformed"), "{}", instance.log());
            }
            _ => panic!("{response:?}\n{}", instance.log()),
        }
    }
    assert!(procs::lives(launcher) && instance.is_healthy(), "{}", instance.log());
    let ended = instance.stop();
    assert!(ended.status.code().is_some(), "{}", ended.log);
    assert!(ended.log.contains("malformed"), "the damage was never told\n{}", ended.log);
}

/// Writes over the first pages of the queue's table and of its indexes.
fn damage(database: &Path) {
    let ledger = Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open");
    let size: u32 = ledger.query_row("PRAGMA page_size", [], |row| row.get(0)).expect("a size");
    let mut statement =
        ledger.prepare("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'job_queue'").expect("query");
    let pages = statement.query_map([], |row| row.get::<_, u32>(0)).expect("pages");
    let pages: Vec<u32> = pages.map(|page| page.expect("a page")).collect();
    assert!(pages.len() > 3);
    let mut file = File::options().write(true).open(database).expect("open the file");
    for page in pages {
        file.seek(SeekFrom::Start(u64::from(page - 1) * u64::from(size))).expect("seek");
        file.write_all(&vec![0xdb; size as usize]).expect("write over a page");
    }
}
