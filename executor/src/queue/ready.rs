//! The jobs that wait for a worker, in memory: one lane per plugin, the oldest job of any lane
//! that has room first. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::id::{CommandName, JobId, PluginName};
use shared::time::Timestamp;

use crate::store::read::QueuedJob;

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
    pub created_at: Timestamp,
}

impl TryFrom<QueuedJob> for Queued {
    /// Says which column is not ours.
    type Error = String;

    fn try_from(row: QueuedJob) -> Result<Self, String> {
        let told = |what: &str| format!("job {} has no valid {what}", row.job_id);
        Ok(Self {
            plugin: PluginName::parse(&row.plugin).map_err(|_| told("plugin"))?,
            command: CommandName::parse(&row.command).map_err(|_| told("command"))?,
            created_at: Timestamp::parse(&row.created_at).ok_or_else(|| told("created_at"))?,
            payload: row.payload,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            submitted_by: row.submitted_by,
            job_id: row.job_id,
        })
    }
}

impl Queued {
    /// What it weighs in memory, roughly, in bytes.
    fn weight(&self) -> usize {
        256 + self.payload.as_ref().map_or(0, String::len)
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
    arrivals: u64,
    count: usize,
    weight: usize,
}

struct Lane {
    jobs: BTreeMap<Place, Queued>,
    running: usize,
    cap: usize,
}

impl Lane {
    fn head(&self) -> Option<Place> {
        if self.running < self.cap { self.jobs.keys().next().copied() } else { None }
    }
}

impl Ready {
    /// Adds a job; `cap` is its plugin's, taken anew with each job.
    pub fn push(&mut self, job: Queued, cap: usize) {
        self.arrivals += 1;
        self.count += 1;
        self.weight += job.weight();
        let (plugin, place) = (job.plugin.clone(), (job.created_at, self.arrivals));
        self.change(&plugin, |lane| {
            lane.cap = cap;
            lane.jobs.insert(place, job);
        });
    }

    /// Takes the oldest job that may run now and counts it as running.
    pub fn take(&mut self) -> Option<Queued> {
        let plugin = self.heads.first()?.1.clone();
        let mut taken = None;
        self.change(&plugin, |lane| {
            taken = lane.jobs.pop_first().map(|(_, job)| job);
            lane.running += usize::from(taken.is_some());
        });
        if let Some(job) = &taken {
            self.count -= 1;
            self.weight -= job.weight();
        }
        taken
    }

    /// A run of this plugin has ended.
    pub fn release(&mut self, plugin: &PluginName) {
        self.change(plugin, |lane| lane.running = lane.running.saturating_sub(1));
        if self.lanes.get(plugin).is_some_and(|lane| lane.running == 0 && lane.jobs.is_empty()) {
            self.lanes.remove(plugin);
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes held, roughly.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Changes one lane and keeps `heads` in step with it.
    fn change(&mut self, plugin: &PluginName, change: impl FnOnce(&mut Lane)) {
        let lane =
            self.lanes.entry(plugin.clone()).or_insert_with(|| Lane { jobs: BTreeMap::new(), running: 0, cap: 1 });
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
            created_at: Timestamp::from_unix_nanos(at),
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
        assert!(ready.is_empty() && ready.weight() == 0);
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
        ready.release(&PluginName::parse("serial").expect("valid"));
        assert_eq!(taken(&mut ready).as_deref(), Some("b"));
    }

    #[test]
    fn a_retried_job_keeps_its_place() {
        let mut ready = Ready::default();
        ready.push(job("new", "x", 9), 2);
        ready.push(job("old", "x", 1), 2);
        assert_eq!(taken(&mut ready).as_deref(), Some("old"));
    }
}
