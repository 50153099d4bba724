//! What of the queue is in memory: a bounded part of each lane, read anew when it runs low, and
//! the time at which something of a lane is due.

use std::collections::{BTreeSet, HashMap, HashSet};

use shared::id::{CommandName, JobId, PluginName};
use shared::log::Level;
use shared::time::Timestamp;

use super::Dispatcher;
use super::written::Pending;
use crate::logging::{log, now};
use crate::queue::ready::Queued;
use crate::queue::retry::delay;
use crate::store::StoreError;
use crate::store::read::{Page, Position, QueuedJob};
use crate::store::write::{Reanchor, Urgency, Write};

/// A lane holds up to these; beyond, its jobs stay in the database until it is down to a quarter.
const LANE_JOBS_MAX: usize = 1024;
const LANE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows read at once.
const PAGE: u32 = 256;

/// Attempts whose back-offs are told apart after a step of the clock.
const MOST_ATTEMPTS: u32 = 16;

/// Which lanes have more in the database than in memory.
#[derive(Default)]
pub(super) struct Backlog {
    /// Every job that is ready, runs or is on its way into the database; what is not here is in the
    /// database alone.
    known: HashSet<JobId>,
    /// Where to go on reading a lane.
    unread: HashMap<PluginName, Option<Position>>,
    /// When the next job of a lane is due that waits for a time of its own.
    due: HashMap<PluginName, Timestamp>,
    by_time: BTreeSet<(Timestamp, PluginName)>,
}

impl Backlog {
    /// The earliest time after `now` at which anything is due. A lane that is due already and was
    /// not read is not low: it is looked at when one of its runs ends.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.by_time.iter().map(|(due, _)| *due).find(|due| *due > now)
    }

    /// False when it was known before.
    fn add(&mut self, job_id: &JobId) -> bool {
        self.known.insert(job_id.clone())
    }

    pub(super) fn forget(&mut self, job_id: &JobId) {
        self.known.remove(job_id);
    }

    /// The lane has a job that is due then.
    pub(super) fn due_at(&mut self, plugin: &PluginName, due: Timestamp) {
        if self.due.get(plugin).is_none_or(|known| due < *known) {
            self.set_due(plugin, Some(due));
        }
    }

    /// The lane has a job in the database that memory does not know.
    pub(super) fn unread(&mut self, plugin: &PluginName) {
        self.unread.insert(plugin.clone(), None);
    }

    fn set_due(&mut self, plugin: &PluginName, due: Option<Timestamp>) {
        if let Some(old) = self.due.remove(plugin) {
            self.by_time.remove(&(old, plugin.clone()));
        }
        if let Some(due) = due {
            self.due.insert(plugin.clone(), due);
            self.by_time.insert((due, plugin.clone()));
        }
    }
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
            dedupe_key: row.dedupe_key,
            parent_job_id: row.parent_job_id,
            event_context_id: row.event_context_id,
            job_id: row.job_id,
        })
    }
}

impl Dispatcher {
    /// Finds the lanes that have jobs in the database.
    ///
    /// # Errors
    /// The database can not be read.
    pub(super) fn find_lanes(&mut self) -> Result<(), StoreError> {
        for name in self.reader.queued_plugins()? {
            match PluginName::parse(&name) {
                Ok(plugin) => {
                    self.backlog.unread(&plugin);
                    self.backlog.due_at(&plugin, Timestamp::from_unix_nanos(0));
                }
                Err(error) => {
                    let text = error.to_string();
                    log(Level::Error, "queued rows of no valid plugin stay queued", &[("reason", (&text).into())]);
                }
            }
        }
        let at = now();
        self.take_in(at)?;
        // As after a step of the clock that came while nothing ran.
        self.reanchor_retries(at);
        Ok(())
    }

    /// A job that was just made durable. Where its lane has more in the database, it is read from
    /// there in its turn.
    pub(super) fn enqueue(&mut self, job: Queued) {
        match self.backlog.unread.get(&job.plugin) {
            // After a step back of the clock it lies before the place where reading goes on.
            Some(Some(after)) if after.is_after(job.created_at) => self.backlog.unread(&job.plugin),
            Some(_) => {}
            None if self.is_full(&job.plugin) => self.backlog.unread(&job.plugin),
            None => self.make_ready(job),
        }
    }

    /// Whether nothing waits for a worker, or for room in this job's lane, before it.
    pub(super) fn is_next(&self, job: &Queued) -> bool {
        !self.backlog.unread.contains_key(&job.plugin) && self.ready.has_room(&job.plugin, self.cap(&job.plugin))
    }

    /// Takes a job for which `is_next` holds past the lanes, counted as running.
    pub(super) fn take_at_once(&mut self, job: Queued) -> Option<Queued> {
        self.make_ready(job);
        self.ready.take()
    }

    /// Reads lanes that run low and have more, and what has become due.
    ///
    /// # Errors
    /// The database can not be read; what was not read is tried again.
    pub(super) fn take_in(&mut self, at: Timestamp) -> Result<(), StoreError> {
        if self.backlog.unread.is_empty() && self.backlog.by_time.is_empty() {
            return Ok(());
        }
        let due: Vec<PluginName> =
            self.backlog.by_time.iter().take_while(|(due, _)| *due <= at).map(|(_, plugin)| plugin.clone()).collect();
        // What is due may be older than all that the lane holds.
        let most = LANE_JOBS_MAX + PAGE as usize;
        for plugin in due.into_iter().filter(|plugin| self.ready.load(plugin).0 < most).collect::<Vec<_>>() {
            self.take_due(&plugin, at)?;
        }
        let low: Vec<PluginName> = self.backlog.unread.keys().filter(|plugin| self.is_low(plugin)).cloned().collect();
        for plugin in low {
            self.take_fresh(&plugin)?;
        }
        Ok(())
    }

    /// After a step back of the clock nothing waits longer than one back-off of its own.
    pub(super) fn reanchor_retries(&mut self, at: Timestamp) {
        for (plugin, due) in self.backlog.due.clone() {
            let base = self.backoff_base(&plugin);
            if due <= at.plus(delay(1, base, 1.0)) {
                continue;
            }
            let longest = (1..=MOST_ATTEMPTS).map(|attempt| delay(attempt, base, 1.0)).collect();
            let reanchor = Reanchor { plugin: plugin.to_string(), now: at, longest };
            let ticket = self.number();
            self.pending.insert(ticket, Pending::Reanchor { plugin });
            self.writer.submit(ticket, Write::Reanchor(reanchor), Urgency::Now);
        }
    }

    fn take_due(&mut self, plugin: &PluginName, at: Timestamp) -> Result<(), StoreError> {
        // Some of the rows may be known: what waits in the lane, and what runs with a claim that is
        // not written yet.
        let known = self.ready.load(plugin).0 + self.runs.len() + self.pending.len();
        let limit = PAGE.saturating_add(u32::try_from(known).unwrap_or(u32::MAX));
        let page = self.reader.due_of(plugin.as_str(), at, limit)?;
        let has_more = page.next.is_some();
        self.take_page(page);
        let next = if has_more { Some(at) } else { self.reader.next_due_of(plugin.as_str(), at)? };
        self.backlog.set_due(plugin, next);
        Ok(())
    }

    fn take_fresh(&mut self, plugin: &PluginName) -> Result<(), StoreError> {
        while !self.is_full(plugin) {
            let Some(after) = self.backlog.unread.get(plugin) else { return Ok(()) };
            let page = self.reader.queued_of(plugin.as_str(), after.as_ref(), PAGE)?;
            match &page.next {
                Some(position) => self.backlog.unread.insert(plugin.clone(), Some(position.clone())),
                None => self.backlog.unread.remove(plugin),
            };
            self.take_page(page);
        }
        Ok(())
    }

    fn take_page(&mut self, page: Page) {
        if page.unreadable > 0 {
            let count = i64::try_from(page.unreadable).unwrap_or(i64::MAX);
            log(Level::Error, "queued rows are no jobs of ours and stay queued", &[("count", count.into())]);
        }
        for row in page.jobs {
            match Queued::try_from(row) {
                Ok(job) => self.make_ready(job),
                Err(text) => {
                    log(Level::Error, "queued row is no job of ours and stays queued", &[("reason", (&text).into())]);
                }
            }
        }
    }

    /// Puts a job that memory did not know at the place of its creation.
    fn make_ready(&mut self, job: Queued) {
        if self.backlog.add(&job.job_id) {
            let cap = self.cap(&job.plugin);
            self.ready.push(job, cap);
        }
    }

    /// Puts a job back that was taken out of its lane.
    pub(super) fn make_ready_again(&mut self, job: Queued) {
        let cap = self.cap(&job.plugin);
        self.ready.push(job, cap);
    }

    fn cap(&self, plugin: &PluginName) -> usize {
        self.catalog.usable(plugin).map_or(1, |plugin| plugin.cap)
    }

    fn is_full(&self, plugin: &PluginName) -> bool {
        let (jobs, bytes) = self.ready.load(plugin);
        jobs >= LANE_JOBS_MAX || bytes >= LANE_BYTES_MAX
    }

    fn is_low(&self, plugin: &PluginName) -> bool {
        let (jobs, bytes) = self.ready.load(plugin);
        jobs < LANE_JOBS_MAX / 4 && bytes < LANE_BYTES_MAX / 4
    }
}
