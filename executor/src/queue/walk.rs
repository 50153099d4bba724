//! The queue's rules walked at random: jobs are admitted, claimed, written down, ended, cancelled
//! and lost in crashes in any order, and what must hold (design, section 4) is looked at after each
//! step. A failure names its seed, which gives the same walk again.

use std::collections::{BTreeMap, BTreeSet};

use shared::id::{CommandName, JobId, PluginName};
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::JobStatus;

use super::dedupe::{self, Check};
use super::job::{check_completion, check_move};
use super::ready::{Queued, Ready, SameKey};
use super::retry::{self, Decision, FailureReason};

const SEEDS: u64 = 48;
const STEPS: u64 = 300;
const PLUGINS: [&str; 3] = ["serial", "pair", "wide"];
const BACKOFF: Millis = Millis(40);
const WORKERS: usize = 5;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }
}

/// A job as the database holds it: what a crash leaves.
struct Row {
    status: JobStatus,
    job: Queued,
    next_retry_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    /// Attempts whose claim was written, in that order.
    attempts: Vec<u32>,
}

/// An attempt under way.
struct Run {
    job: Queued,
    claim_written: bool,
}

struct World {
    dice: Dice,
    clock: i64,
    born: u64,
    caps: BTreeMap<PluginName, usize>,
    rows: BTreeMap<JobId, Row>,
    /// The ends that were seen.
    ended: BTreeMap<JobId, (JobStatus, u32)>,

    // Memory: what a crash takes.
    ready: Ready,
    /// What `ready` holds, kept as plainly as can be; the number is the order of arrival.
    waiting: BTreeMap<(Timestamp, u64), Queued>,
    arrivals: u64,
    /// The cap of each plugin's newest arrival, which is the one that counts.
    lane_caps: BTreeMap<PluginName, usize>,
    delayed: Vec<(Timestamp, Queued)>,
    runs: Vec<Run>,
}

impl World {
    fn new(seed: u64) -> Self {
        let names = PLUGINS.map(|name| PluginName::parse(name).expect("a name"));
        Self {
            dice: Dice(seed),
            clock: 1_000_000_000,
            born: 0,
            caps: names.into_iter().zip(1..).collect(),
            rows: BTreeMap::new(),
            ended: BTreeMap::new(),
            ready: Ready::default(),
            waiting: BTreeMap::new(),
            arrivals: 0,
            lane_caps: BTreeMap::new(),
            delayed: Vec::new(),
            runs: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_nanos(self.clock)
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..24 => self.admit(),
            24..50 => self.claim(),
            50..62 => self.write_claim(),
            62..84 => self.end_a_run(),
            84..88 => self.cancel(),
            88..97 => self.pass_time(),
            97..99 => self.reload(),
            _ => self.crash(),
        }
        self.look();
    }

    fn admit(&mut self) {
        // Several in one moment: then the order of arrival decides.
        self.clock += i64::try_from(self.dice.below(3)).expect("small") * 1_000_000;
        let plugin = PluginName::parse(PLUGINS[self.dice.pick(PLUGINS.len())]).expect("a name");
        let command = CommandName::parse(["poll", "sync"][self.dice.pick(2)]).expect("a name");
        let key = [None, Some(" "), Some("a"), Some("b")][self.dice.pick(4)].map(str::to_owned);
        let window = Millis([0, 50][self.dice.pick(2)]);
        // Some producers do not look: a schedule entry's key is not checked.
        if self.dice.below(2) == 0
            && let Some(check) = Check::new(key.as_deref(), window, self.now())
        {
            let same = |row: &&Row| {
                row.job.plugin == plugin
                    && row.job.command == command
                    && row.job.dedupe_key.as_deref() == Some(check.key())
            };
            let first = |wanted: &dyn Fn(&Row) -> bool| {
                self.rows.values().filter(same).find(|row| wanted(row)).map(|row| row.job.job_id.to_string())
            };
            let outstanding = first(&|row| !row.status.is_terminal());
            let recent = first(&|row| {
                row.status == JobStatus::Succeeded && check.since().is_some_and(|since| row.completed_at >= Some(since))
            });
            let expected = outstanding.clone().or(recent.clone());
            let found = dedupe::judge(&check, outstanding, recent);
            assert_eq!(found.as_ref().map(|found| &found.existing_job_id), expected.as_ref());
            if found.is_some() {
                return;
            }
        }
        self.born += 1;
        let job = Queued {
            job_id: JobId::parse(&format!("job-{}", self.born)).expect("an id"),
            plugin,
            command,
            payload: None,
            attempt: 1,
            max_attempts: 1 + u32::try_from(self.dice.below(4)).expect("small"),
            submitted_by: "walk".to_owned(),
            dedupe_key: key,
            created_at: self.now(),
            parent_job_id: None,
            event_context_id: None,
        };
        check_move(None, JobStatus::Queued).expect("every job begins so");
        let row = Row {
            status: JobStatus::Queued,
            job: job.clone(),
            next_retry_at: None,
            completed_at: None,
            attempts: Vec::new(),
        };
        self.rows.insert(job.job_id.clone(), row);
        self.make_ready(job);
    }

    fn make_ready(&mut self, job: Queued) {
        let cap = self.caps[&job.plugin];
        self.arrivals += 1;
        self.lane_caps.insert(job.plugin.clone(), cap);
        self.waiting.insert((job.created_at, self.arrivals), job.clone());
        self.ready.push(job, cap);
    }

    fn running(&self, plugin: &PluginName) -> usize {
        self.runs.iter().filter(|run| run.job.plugin == *plugin).count()
    }

    /// Takes the oldest that may run: of any plugin with room, and of no key that runs.
    fn claim(&mut self) {
        if self.runs.len() >= WORKERS {
            return;
        }
        let may_run = |job: &Queued| {
            let same = |run: &Run| {
                run.job.plugin == job.plugin && same_key(job).is_some_and(|key| same_key(&run.job) == Some(key))
            };
            let same_runs = self.runs.iter().any(same);
            self.running(&job.plugin) < self.lane_caps[&job.plugin] && !same_runs
        };
        let expected = self.waiting.iter().find(|(_, job)| may_run(job)).map(|(place, _)| *place);
        let taken = self.ready.take();
        assert_eq!(taken.as_ref(), expected.map(|place| &self.waiting[&place]), "the oldest that may run");
        if let (Some(job), Some(place)) = (taken, expected) {
            self.waiting.remove(&place);
            self.runs.push(Run { job, claim_written: false });
        }
    }

    fn write_claim(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let index = self.dice.pick(self.runs.len());
        let run = &mut self.runs[index];
        let row = self.rows.get_mut(&run.job.job_id).expect("what runs was admitted");
        // Compare and set: after a cancel it holds no more.
        if !run.claim_written && row.status == JobStatus::Queued && row.job.attempt == run.job.attempt {
            run.claim_written = true;
            begin(row);
        }
    }

    fn end_a_run(&mut self) {
        use FailureReason::{ExitCode78, PluginError, PluginRetryFalse, Timeout};
        if self.runs.is_empty() {
            return;
        }
        let index = self.dice.pick(self.runs.len());
        let Run { job, claim_written } = self.runs.swap_remove(index);
        let (status, reason) = match self.dice.below(6) {
            0 => (JobStatus::Failed, Some(PluginError)),
            1 => (JobStatus::TimedOut, Some(Timeout)),
            2 => (JobStatus::Failed, Some([PluginRetryFalse, ExitCode78][self.dice.pick(2)])),
            3 => (JobStatus::Skipped, None),
            _ => (JobStatus::Succeeded, None),
        };
        self.ready.release(&job);
        let now = self.now();
        let row = self.rows.get_mut(&job.job_id).expect("what runs was admitted");
        let waits_for = if claim_written { JobStatus::Running } else { JobStatus::Queued };
        if row.status != waits_for || row.job.attempt != job.attempt {
            // Somebody else ended it: dropped whole.
            assert!(self.ended.contains_key(&job.job_id), "{}: a claim that does not hold, and no end", job.job_id);
            return;
        }
        if !claim_written {
            begin(row);
        }
        let decision = reason
            .map(|reason| retry::decide(reason, job.attempt, job.max_attempts, BACKOFF, f64::from(job.attempt) / 9.0));
        if let Some(Decision::Retry { delay }) = decision {
            assert!(job.attempt < job.max_attempts && delay >= BACKOFF);
            check_move(Some(row.status), JobStatus::Queued).expect("a retry");
            row.status = JobStatus::Queued;
            row.job.attempt += 1;
            row.next_retry_at = Some(now.plus(delay));
            self.delayed.push((now.plus(delay), row.job.clone()));
            return;
        }
        check_completion(status).expect("only an end completes");
        end(row, status, now);
    }

    fn cancel(&mut self) {
        let open: Vec<JobId> =
            self.rows.values().filter(|row| !row.status.is_terminal()).map(|row| row.job.job_id.clone()).collect();
        if open.is_empty() {
            return;
        }
        let job_id = &open[self.dice.pick(open.len())];
        let now = self.now();
        let row = self.rows.get_mut(job_id).expect("one of the rows");
        // A claim that is in memory alone is written before the cancel.
        if let Some(run) = self.runs.iter_mut().find(|run| run.job.job_id == *job_id && !run.claim_written) {
            run.claim_written = true;
            begin(row);
        }
        end(row, JobStatus::Dead, now);
        let removed = self.ready.remove(job_id);
        let place = self.waiting.iter().find(|(_, job)| job.job_id == *job_id).map(|(place, _)| *place);
        assert_eq!(removed, place.and_then(|place| self.waiting.remove(&place)));
        self.delayed.retain(|(_, job)| job.job_id != *job_id);
        // A run of it goes on until its process has ended, and counts until then.
    }

    fn pass_time(&mut self) {
        self.clock += i64::try_from(self.dice.below(60)).expect("small") * 1_000_000;
        let now = self.now();
        let (due, rest) = std::mem::take(&mut self.delayed).into_iter().partition(|(due, _)| *due <= now);
        self.delayed = rest;
        for (_, job) in due {
            self.make_ready(job);
        }
    }

    /// Another configuration: what arrives from now on brings the new cap along.
    fn reload(&mut self) {
        for cap in self.caps.values_mut() {
            *cap = 1 + self.dice.pick(4);
        }
    }

    /// Memory is gone; recovery and the next start make of the rows what there was.
    fn crash(&mut self) {
        self.ready = Ready::default();
        self.waiting.clear();
        self.lane_caps.clear();
        self.delayed.clear();
        self.runs.clear();
        let now = self.now();
        for row in self.rows.values_mut().filter(|row| row.status == JobStatus::Running) {
            if row.job.attempt < row.job.max_attempts {
                check_move(Some(row.status), JobStatus::Queued).expect("a recovery");
                row.status = JobStatus::Queued;
                row.next_retry_at = Some(now.plus(retry::delay(row.job.attempt, BACKOFF, 0.0)));
                row.job.attempt += 1;
            } else {
                end(row, JobStatus::Dead, now);
            }
        }
        let mut queued: Vec<(Option<Timestamp>, Queued)> = self
            .rows
            .values()
            .filter(|row| row.status == JobStatus::Queued)
            .map(|row| (row.next_retry_at, row.job.clone()))
            .collect();
        queued.sort_by_key(|(_, job)| job.created_at);
        for (due, job) in queued {
            match due {
                Some(due) if due > now => self.delayed.push((due, job)),
                _ => self.make_ready(job),
            }
        }
    }

    /// What must hold after every step.
    fn look(&mut self) {
        for (job_id, row) in &self.rows {
            let seen = (row.status, row.job.attempt);
            assert!(row.job.attempt <= row.job.max_attempts, "{job_id}: {seen:?}");
            assert!(row.attempts.is_sorted_by(|a, b| a < b), "{job_id}: attempts {:?}", row.attempts);
            if let Some(end) = self.ended.get(job_id) {
                assert_eq!(*end, seen, "{job_id} had its end");
            } else if row.status.is_terminal() {
                self.ended.insert(job_id.clone(), seen);
            } else {
                // Nothing is lost, and nothing is in two places.
                let places = self.waiting.values().filter(|job| job.job_id == *job_id).count()
                    + self.delayed.iter().filter(|(_, job)| job.job_id == *job_id).count()
                    + self.runs.iter().filter(|run| run.job.job_id == *job_id).count();
                assert_eq!(places, 1, "{job_id}: {seen:?} is in {places} places");
            }
        }
        let mut keys = BTreeSet::new();
        for run in &self.runs {
            let key = same_key(&run.job);
            assert!(key.is_none() || keys.insert((run.job.plugin.clone(), key)), "two of one key run");
        }
        for plugin in self.caps.keys() {
            let waiting = self.waiting.values().filter(|job| job.plugin == *plugin).count();
            assert_eq!(self.ready.load(plugin).0, waiting, "{plugin}");
        }
        assert_eq!(self.ready.is_empty(), self.waiting.is_empty());
    }

    /// Lets everything come to its end.
    fn drain(&mut self) {
        for _ in 0..100_000 {
            if self.rows.values().all(|row| row.status.is_terminal()) && self.runs.is_empty() {
                assert!(self.ready.is_empty() && self.delayed.is_empty());
                return;
            }
            self.claim();
            self.end_a_run();
            self.pass_time();
            self.look();
        }
        panic!("jobs wait for ever");
    }
}

/// The first attempt of a job is written, or the next: each number once.
fn begin(row: &mut Row) {
    check_move(Some(row.status), JobStatus::Running).expect("a claim");
    row.status = JobStatus::Running;
    row.attempts.push(row.job.attempt);
}

fn end(row: &mut Row, status: JobStatus, at: Timestamp) {
    check_move(Some(row.status), status).expect("an end");
    row.status = status;
    row.completed_at = Some(at);
}

/// What must not run twice at a time, within a plugin.
fn same_key(job: &Queued) -> Option<SameKey> {
    let key = job.dedupe_key.as_ref().filter(|key| !key.trim().is_empty())?;
    Some((job.command.clone(), key.clone()))
}

/// Says which walk it was when one of its assertions fails.
struct Told(u64, u64);

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "a failure that can not be run again is worth little")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}", self.0, self.1);
        }
    }
}

#[test]
fn whatever_the_order_nothing_is_lost_and_no_end_changes() {
    let mut ends = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut told = Told(seed, 0);
        let mut world = World::new(seed);
        for step in 0..STEPS {
            told.1 = step;
            world.step();
        }
        world.drain();
        ends.extend(world.ended.values().map(|(status, _)| status.as_str()));
    }
    // The walks came everywhere.
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), ["dead", "failed", "skipped", "succeeded", "timed_out"]);
}
