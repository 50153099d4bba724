//! One database over many lives of an executor, and what must stay true from one to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use shared::id::JobId;
use tests::instance::Prepared;
use tests::lone::{self, Front, Lone};
use tests::site::{PATIENCE, Setup, is_terminal};
use tests::{ledger, wait};

/// Succeeds, and may be tried often enough to outlive every kill.
pub(super) const PLAIN: &str = "witness";
/// The same program; used by jobs that fail and soon have spent their attempts.
pub(super) const FAILING: &str = "failing";
/// The same program; what the events of the others make.
const CHILD: &str = "child";
/// What follows an event: two steps, so that each event makes two jobs in the end.
const PIPELINE: &str = "- name: after\n  on: witnessed\n  steps: [{id: one, uses: child}, {id: two, uses: child}]";

pub(super) struct History {
    pub(super) prepared: Prepared,
    /// What is being done, for the texts of failures.
    pub(super) told: String,
    /// Jobs that were answered with `Accepted`.
    promised: BTreeSet<String>,
    /// The ends that were seen.
    ended: BTreeMap<String, String>,
    /// Those that were seen before this life began.
    ended_before: BTreeSet<String>,
    /// How often each job ran in the life that ended last; held against the ledger in the next.
    last_life: BTreeMap<String, usize>,
    /// How often each job has run in all, by its own plugin's word.
    runs: BTreeMap<String, usize>,
    /// Lives since the ledger was last looked at.
    lives_unseen: usize,
    /// So much of what the plugins wrote is read.
    read: u64,
    kills: usize,
}

impl History {
    pub(super) fn new() -> Self {
        let prepared = Setup::new()
            .without_vault()
            .workers(4)
            .plugin_with(PLAIN, "retry: { max_attempts: 50, backoff_base: 1ms }\nparallelism: 4")
            .plugin_with(FAILING, "uses: witness\nretry: { max_attempts: 3, backoff_base: 1ms }")
            .plugin_with(CHILD, "uses: witness\nretry: { max_attempts: 50, backoff_base: 1ms }\nparallelism: 4")
            .pipelines(PIPELINE)
            .prepare();
        Self {
            prepared,
            told: String::new(),
            promised: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_before: BTreeSet::new(),
            last_life: BTreeMap::new(),
            runs: BTreeMap::new(),
            lives_unseen: 0,
            read: 0,
            kills: 0,
        }
    }

    /// The next life; what the last one left is looked at first.
    pub(super) fn begin(&mut self) -> (Lone, Front) {
        let begun = Lone::start(&self.prepared);
        self.look();
        if self.kills.is_multiple_of(16) {
            ledger::audit(&ledger::read(&self.ledger()));
        }
        begun
    }

    /// A job was answered with `Accepted`.
    pub(super) fn promise(&mut self, job: &JobId) {
        assert!(self.promised.insert(job.to_string()), "{}: {job} was accepted twice", self.told);
    }

    /// Waits until nothing is queued or running, and remembers how everything ended.
    pub(super) fn drained(&mut self, front: &mut Front) {
        front.drained();
        self.look();
        let open = self.promised.iter().find(|id| !self.ended.contains_key(*id));
        assert_eq!(open, None, "{}: a job is not at its end and nothing is queued", self.told);
    }

    /// Waits for a job's end or the executor's; true when the executor died.
    pub(super) fn ends_or_dies(&self, job: &JobId, lone: &mut Lone) -> bool {
        let ledger = self.ledger();
        wait::until(&format!("the end of {job}\n{}", self.told), PATIENCE, || {
            if lone.has_ended() {
                return Some(true);
            }
            status(&ledger, job).is_some_and(|status| is_terminal(&status)).then_some(false)
        })
    }

    /// Waits until a job is marked as running.
    pub(super) fn runs(&self, job: &JobId) {
        let ledger = self.ledger();
        wait::until_true("the job to run", PATIENCE, || status(&ledger, job).as_deref() == Some("running"));
    }

    /// The executor is dead and all that it started: nothing ran whose end was known before. A
    /// kill may follow the next start at once, so that the rest is looked at when one has lived.
    pub(super) fn death(&mut self) {
        self.kills += 1;
        for id in self.new_runs().lines() {
            assert!(!self.ended_before.contains(id), "{}: {id} ran after its end", self.told);
            *self.last_life.entry(id.to_owned()).or_default() += 1;
            *self.runs.entry(id.to_owned()).or_default() += 1;
        }
        self.ended_before = self.ended.keys().cloned().collect();
        self.lives_unseen += 1;
    }

    /// One last life that ends in good order; everything promised has its end by then. How many
    /// jobs that were.
    pub(super) fn finish(mut self) -> usize {
        let (lone, mut front) = self.begin();
        self.drained(&mut front);
        let status = lone.stop();
        assert!(status.success(), "{status}\n{}", lone::log(self.prepared.root()));
        self.death();
        self.look();
        let ledger = self.ledger();
        assert_eq!(ledger::damage(&ledger), "", "{}", self.told);
        let jobs = ledger::read(&ledger);
        ledger::audit(&jobs);
        for (id, job) in &jobs {
            let runs = self.runs.get(id).copied().unwrap_or(0);
            assert!(is_terminal(&job.status), "{id}: {job:?}");
            match job.status.as_str() {
                "succeeded" => assert!(runs >= 1, "{id} succeeded and never ran"),
                // Its attempts were spent by itself or by kills.
                "failed" | "dead" => assert!(job.attempt == 3 && runs >= 1 || job.status == "dead", "{id}: {job:?}"),
                other => panic!("{id} is {other}: {job:?}"),
            }
            // Each run that left no attempt behind was cut off by a kill of its own.
            assert!(runs <= job.attempts.len() + self.kills, "{id} ran {runs} times: {job:?}");
        }
        // Each event made one job and that one another: none is missing, none is there twice.
        let mut statement = ledger
            .prepare(
                "SELECT parent.id, parent.status, coalesce(json_extract(parent.payload, '$.emit'), 0), \
                 parent.submitted_by = 'route' AND context.step_id = 'one', \
                 (SELECT count(*) FROM job_queue child WHERE child.parent_job_id = parent.id) \
                 FROM job_queue parent LEFT JOIN event_context context ON context.id = parent.event_context_id",
            )
            .expect("a query");
        let mut rows = statement.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let (id, status): (String, String) = (row.get(0).expect("an id"), row.get(1).expect("a status"));
            let (emitted, has_next): (i64, Option<bool>) = (row.get(2).expect("a count"), row.get(3).expect("a flag"));
            let children: i64 = row.get(4).expect("a count");
            let expected = if status != "succeeded" {
                0
            } else if has_next == Some(true) {
                1
            } else {
                emitted
            };
            assert_eq!(children, expected, "children of {id}, which {status}");
        }
        self.promised.len()
    }

    /// Nothing promised is missing, nothing that had its end has another one now, and in one life
    /// nothing ran more often than it may.
    fn look(&mut self) {
        let ledger = self.ledger();
        let mut statement = ledger.prepare("SELECT id, status, plugin FROM job_queue").expect("a query");
        let mut rows = statement.query([]).expect("rows");
        let (mut now, mut failing) = (BTreeMap::<String, String>::new(), BTreeSet::<String>::new());
        while let Some(row) = rows.next().expect("a row") {
            now.insert(row.get(0).expect("an id"), row.get(1).expect("a status"));
            if row.get_ref(2).expect("a plugin").as_str() == Ok(FAILING) {
                failing.insert(row.get(0).expect("an id"));
            }
        }
        let lives = std::mem::take(&mut self.lives_unseen);
        for (id, runs) in std::mem::take(&mut self.last_life) {
            assert!(now.contains_key(&id), "{}: {id} ran and was never written down", self.told);
            // One that fails is tried again in the same life, three times in all.
            let most = lives * if failing.contains(&id) { 3 } else { 1 };
            assert!(runs <= most, "{}: {id} ran {runs} times in {lives} lives", self.told);
        }
        for id in &self.promised {
            assert!(now.contains_key(id), "{}: {id} was accepted and is lost", self.told);
        }
        for (id, end) in &self.ended {
            assert_eq!(now.get(id), Some(end), "{}: {id} had ended as {end}", self.told);
        }
        self.ended.extend(now.into_iter().filter(|(_, status)| is_terminal(status)));
    }

    /// Read-only, and leaves the write-ahead log as it is when it goes: the next start is to find
    /// what the kill left.
    fn ledger(&self) -> Connection {
        let open = || {
            let ledger = Connection::open_with_flags(&self.prepared.database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            ledger.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            ledger.busy_timeout(Duration::from_secs(20))?;
            Ok::<_, rusqlite::Error>(ledger)
        };
        open().unwrap_or_else(|error| panic!("{}: {error}", self.told))
    }

    fn new_runs(&mut self) -> String {
        let mut text = String::new();
        // No job has run yet where there is no file.
        if let Ok(mut file) = File::open(self.prepared.plugin_root.join("witness/runs")) {
            file.seek(SeekFrom::Start(self.read)).expect("seek");
            file.read_to_string(&mut text).expect("read what the plugins wrote");
        }
        self.read += text.len() as u64;
        text
    }
}

fn status(ledger: &Connection, job: &JobId) -> Option<String> {
    let mut statement = ledger.prepare_cached("SELECT status FROM job_queue WHERE id = ?1").expect("a query");
    statement.query_row([job.as_str()], |row| row.get(0)).optional().expect("the ledger can be read")
}
