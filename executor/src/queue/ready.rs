//! The jobs that wait for a worker, in memory: one lane per plugin, the oldest job of any lane
//! that has room first. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use shared::id::{CommandName, JobId, PluginName};
use shared::time::Timestamp;

/// A queued job as the dispatcher holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub job_id: JobId,
    pub plugin: PluginName,
    pub command: CommandName,
    pub payload: Option<String>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub submitted_by: String,
    pub dedupe_key: Option<String>,
    pub created_at: Timestamp,
    pub parent_job_id: Option<String>,
    pub event_context_id: Option<String>,
}

/// Jobs that share it do not run at the same time: the key, within a plugin and command
/// (`spec/queue-and-scheduler.md` 4.2).
pub type SameKey = (CommandName, String);

impl Queued {
    /// What it weighs in memory, roughly, in bytes.
    fn weight(&self) -> usize {
        256 + self.payload.as_ref().map_or(0, String::len)
    }

    fn same_key(&self) -> Option<SameKey> {
        let key = self.dedupe_key.as_ref().filter(|key| !key.trim().is_empty())?;
        Some((self.command.clone(), key.clone()))
    }
}

/// FIFO by creation, then by arrival here.
type Place = (Timestamp, u64);

/// All waiting jobs. A lane is a plugin; `running` counts until the spawner's `ended`.
#[derive(Default)]
pub struct Ready {
    lanes: HashMap<PluginName, Lane>,
    /// The first job of each lane that has a job and room.
    heads: BTreeSet<(Place, PluginName)>,
    places: HashMap<JobId, (PluginName, Place)>,
    arrivals: u64,
}

#[derive(Default)]
struct Lane {
    jobs: BTreeMap<Place, Queued>,
    running: usize,
    cap: usize,
    weight: usize,
    /// Keys of what runs.
    running_keys: HashSet<SameKey>,
    /// The jobs of each key.
    keyed: HashMap<SameKey, BTreeSet<Place>>,
    /// Those whose key does not run.
    open: BTreeSet<Place>,
}

impl Lane {
    fn head(&self) -> Option<Place> {
        if self.running < self.cap { self.open.first().copied() } else { None }
    }

    fn insert(&mut self, place: Place, job: Queued) {
        self.weight += job.weight();
        let key = job.same_key();
        if key.as_ref().is_none_or(|key| !self.running_keys.contains(key)) {
            self.open.insert(place);
        }
        if let Some(key) = key {
            self.keyed.entry(key).or_default().insert(place);
        }
        self.jobs.insert(place, job);
    }

    fn remove(&mut self, place: Place) -> Option<Queued> {
        let job = self.jobs.remove(&place)?;
        self.weight -= job.weight();
        self.open.remove(&place);
        if let Some(key) = job.same_key()
            && let Some(places) = self.keyed.get_mut(&key)
        {
            places.remove(&place);
            if places.is_empty() {
                self.keyed.remove(&key);
            }
        }
        Some(job)
    }

    /// A run begins: whatever shares its key waits.
    fn begin(&mut self, job: &Queued) {
        self.running += 1;
        let Some(key) = job.same_key() else { return };
        for place in self.keyed.get(&key).into_iter().flatten() {
            self.open.remove(place);
        }
        self.running_keys.insert(key);
    }

    fn end(&mut self, job: &Queued) {
        self.running = self.running.saturating_sub(1);
        let Some(key) = job.same_key() else { return };
        self.running_keys.remove(&key);
        self.open.extend(self.keyed.get(&key).into_iter().flatten());
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.jobs.is_empty()
    }
}

impl Ready {
    /// Adds a job; `cap` is its plugin's, taken anew with each job.
    pub fn push(&mut self, job: Queued, cap: usize) {
        self.arrivals += 1;
        let (plugin, place) = (job.plugin.clone(), (job.created_at, self.arrivals));
        self.places.insert(job.job_id.clone(), (plugin.clone(), place));
        self.change(&plugin, |lane| {
            lane.cap = cap;
            lane.insert(place, job);
        });
    }

    /// Takes the oldest job that may run now and counts it as running.
    pub fn take(&mut self) -> Option<Queued> {
        let (place, plugin) = self.heads.first()?.clone();
        let mut taken = None;
        self.change(&plugin, |lane| {
            taken = lane.remove(place);
            if let Some(job) = &taken {
                lane.begin(job);
            }
        });
        if let Some(job) = &taken {
            self.places.remove(&job.job_id);
        }
        taken
    }

    /// Whether a job of this plugin would be taken as soon as it came.
    pub fn has_room(&self, plugin: &PluginName, cap: usize) -> bool {
        let (running, waiting) = self.lanes.get(plugin).map_or((0, 0), |lane| (lane.running, lane.jobs.len()));
        self.heads.is_empty() && waiting == 0 && running < cap
    }

    /// Takes a job out that is not to run any more.
    pub fn remove(&mut self, job_id: &JobId) -> Option<Queued> {
        let (plugin, place) = self.places.remove(job_id)?;
        let mut removed = None;
        self.change(&plugin, |lane| removed = lane.remove(place));
        self.forget_idle(&plugin);
        removed
    }

    /// The run of this job has ended.
    pub fn release(&mut self, job: &Queued) {
        self.change(&job.plugin, |lane| lane.end(job));
        self.forget_idle(&job.plugin);
    }

    /// How many jobs of a plugin wait here, and their bytes, roughly.
    pub fn load(&self, plugin: &PluginName) -> (usize, usize) {
        self.lanes.get(plugin).map_or((0, 0), |lane| (lane.jobs.len(), lane.weight))
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn forget_idle(&mut self, plugin: &PluginName) {
        if self.lanes.get(plugin).is_some_and(Lane::is_idle) {
            self.lanes.remove(plugin);
        }
    }

    /// Changes one lane and keeps `heads` in step with it.
    fn change(&mut self, plugin: &PluginName, change: impl FnOnce(&mut Lane)) {
        let lane = match self.lanes.get_mut(plugin) {
            Some(lane) => lane,
            None => self.lanes.entry(plugin.clone()).or_insert_with(|| Lane { cap: 1, ..Lane::default() }),
        };
        let before = lane.head();
        change(lane);
        let after = lane.head();
        if before != after {
            if let Some(place) = before {
                self.heads.remove(&(place, plugin.clone()));
            }
            if let Some(place) = after {
                self.heads.insert((place, plugin.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, plugin: &str, at: i64) -> Queued {
        Queued {
            job_id: JobId::parse(id).expect("valid"),
            plugin: PluginName::parse(plugin).expect("valid"),
            command: CommandName::parse("poll").expect("valid"),
            payload: None,
            attempt: 1,
            max_attempts: 4,
            submitted_by: "api".to_owned(),
            dedupe_key: None,
            created_at: Timestamp::from_unix_nanos(at),
            parent_job_id: None,
            event_context_id: None,
        }
    }

    fn taken(ready: &mut Ready) -> Option<String> {
        ready.take().map(|job| job.job_id.to_string())
    }

    #[test]
    fn oldest_first_whatever_the_order_of_arrival() {
        let mut ready = Ready::default();
        for (id, plugin, at) in [("b", "x", 2), ("a", "y", 1), ("c", "x", 3), ("d", "y", 3)] {
            ready.push(job(id, plugin, at), 8);
        }
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut ready)).collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
        assert!(ready.is_empty());
    }

    #[test]
    fn a_full_lane_is_passed_over_until_a_run_ends() {
        let mut ready = Ready::default();
        for (id, plugin, at) in [("a", "serial", 1), ("b", "serial", 2), ("c", "other", 3)] {
            ready.push(job(id, plugin, at), 1);
        }
        assert_eq!(taken(&mut ready).as_deref(), Some("a"));
        assert_eq!(taken(&mut ready).as_deref(), Some("c"));
        assert_eq!(taken(&mut ready), None);
        ready.release(&job("a", "serial", 1));
        assert_eq!(taken(&mut ready).as_deref(), Some("b"));
    }

    #[test]
    fn a_retried_job_keeps_its_place() {
        let mut ready = Ready::default();
        ready.push(job("new", "x", 9), 2);
        ready.push(job("old", "x", 1), 2);
        assert_eq!(taken(&mut ready).as_deref(), Some("old"));
    }

    fn keyed(id: &str, key: &str, at: i64) -> Queued {
        Queued { dedupe_key: Some(key.to_owned()), ..job(id, "x", at) }
    }

    #[test]
    fn jobs_of_one_key_run_one_after_the_other() {
        let mut ready = Ready::default();
        for (id, key, at) in [("a", "k", 1), ("b", "k", 2), ("c", "other", 3), ("d", " ", 4), ("e", " ", 5)] {
            ready.push(keyed(id, key, at), 8);
        }
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut ready)).collect();
        assert_eq!(order, ["a", "c", "d", "e"]);
        ready.push(keyed("f", "k", 0), 8);
        assert_eq!(taken(&mut ready), None);
        ready.release(&keyed("a", "k", 1));
        assert_eq!(taken(&mut ready).as_deref(), Some("f"));
        assert_eq!(taken(&mut ready), None);
        ready.release(&keyed("f", "k", 0));
        assert_eq!(taken(&mut ready).as_deref(), Some("b"));
    }

    #[test]
    fn another_command_may_share_the_key() {
        let mut ready = Ready::default();
        ready.push(keyed("a", "k", 1), 8);
        let command = CommandName::parse("health").expect("valid");
        ready.push(Queued { command, ..keyed("b", "k", 2) }, 8);
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut ready)).collect();
        assert_eq!(order, ["a", "b"]);
    }

    #[test]
    fn a_job_that_is_taken_out_does_not_run() {
        let mut ready = Ready::default();
        for (id, at) in [("a", 1), ("b", 2), ("c", 3)] {
            ready.push(keyed(id, "k", at), 8);
        }
        let removed = |ready: &mut Ready, id: &str| ready.remove(&JobId::parse(id).expect("valid")).is_some();
        assert!(removed(&mut ready, "a") && !removed(&mut ready, "a"));
        assert_eq!(taken(&mut ready).as_deref(), Some("b"));
        assert!(!removed(&mut ready, "b") && removed(&mut ready, "c"));
        ready.release(&keyed("b", "k", 2));
        assert!(ready.is_empty() && ready.lanes.is_empty() && ready.heads.is_empty());
    }
}
