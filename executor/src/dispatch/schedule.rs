//! Schedules carried out: looks at an entry when its time comes or what stood in its way is gone,
//! and hands what the pure rules say to the writer in one piece
//! (`spec/queue-and-scheduler.md` 7, 8).

use std::collections::{BTreeSet, HashMap, HashSet};

use shared::id::{CommandName, JobId, PluginName};
use shared::log::Level;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::Reply;
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::admit::{log_duplicate, new_job, new_job_id};
use super::finish::random_fraction;
use super::written::Pending;
use crate::ipc::Answer;
use crate::logging::{log, now};
use crate::queue::breaker::{Breaker, Gate, State};
use crate::queue::dedupe::{Check, Duplicate};
use crate::queue::job::DEFAULT_MAX_ATTEMPTS;
use crate::queue::ready::Queued;
use crate::schedule::catch_up::{self, catch_up};
use crate::schedule::entry::{Entry, Timing};
use crate::schedule::next::{Situation, Step, step};
use crate::schedule::ran::Ran;
use crate::schedule::record::{Occurrence, Outcome, Record};
use crate::store::StoreError;
use crate::store::write::{BreakerChange, CancelOwn, NewJob, Scheduling, Urgency, Write};

/// Why a job of an entry ended that made room for its next.
const CANCELLED: &str = "cancelled by scheduler (if_running=cancel)";

/// Every entry of the configuration and where it stands.
#[derive(Default)]
pub(super) struct Schedules {
    pub(super) entries: Vec<Planned>,
    by_key: HashMap<String, usize>,
    /// When to look at which entry by time alone.
    wakes: BTreeSet<(Timestamp, usize)>,
    /// To be looked at now.
    fresh: BTreeSet<usize>,
    pub(super) breakers: HashMap<Target, Breaker>,
    /// The clock was set since the entries were last looked at.
    is_stepped: bool,
}

/// What a breaker is of.
type Target = (PluginName, CommandName);

/// A look at an entry on its way into the database.
pub(super) struct Looked {
    pub(super) index: usize,
    pub(super) record: Record,
    /// Each with its slot.
    pub(super) jobs: Vec<(Timestamp, Queued)>,
    /// The jobs that end to make room, and those of them that waited for a worker.
    pub(super) ending: Vec<(JobId, Option<Queued>)>,
    /// Newly blocked, for this reason.
    pub(super) skipped: Option<&'static str>,
    /// Its job is a probe: the breaker as it was before.
    pub(super) probe_of: Option<Breaker>,
    /// What was missed while nothing ran is seen to with it.
    pub(super) is_catch_up: bool,
    /// An operator waits for it.
    pub(super) answer: Option<Answer>,
}

pub(super) struct Planned {
    pub(super) entry: Entry,
    pub(super) record: Option<Record>,
    /// Its jobs that are queued or running.
    outstanding: HashSet<JobId>,
    wake: Option<Timestamp>,
    /// Something other than time stands in its way.
    is_blocked: bool,
    /// A look is on its way into the database.
    pub(super) is_writing: bool,
    /// It has jobs.
    is_firing: bool,
    /// What was missed while nothing ran has been seen to.
    is_caught_up: bool,
    /// It was looked at since the start.
    is_seen: bool,
    /// Its slots that became jobs, as far as they may come again.
    pub(super) ran: Ran,
}

impl Schedules {
    /// The earliest time at which an entry is to be looked at.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    fn wake_at(&mut self, index: usize, at: Option<Timestamp>) {
        let planned = &mut self.entries[index];
        if let Some(old) = std::mem::replace(&mut planned.wake, at) {
            self.wakes.remove(&(old, index));
        }
        if let Some(at) = at {
            self.wakes.insert((at, index));
        }
    }

    /// Every entry with what is stored of it.
    ///
    /// # Errors
    /// The database can not be read.
    pub(super) fn read(
        entries: Vec<Entry>,
        service_name: &str,
        reader: &crate::store::read::Reader,
    ) -> Result<Self, StoreError> {
        let mut schedules = Self::default();
        for ((plugin, command), breaker) in reader.breakers()? {
            if let (Ok(plugin), Ok(command)) = (PluginName::parse(&plugin), CommandName::parse(&command)) {
                schedules.breakers.insert((plugin, command), breaker);
            }
        }
        let mut records = reader.schedule_entries(now())?;
        for (index, entry) in entries.into_iter().enumerate() {
            let key = entry.key();
            schedules.entries.push(Planned {
                record: records.remove(&(entry.plugin.to_string(), entry.id.clone())),
                outstanding: reader.outstanding_of(&key, service_name)?.into_iter().collect(),
                entry,
                wake: None,
                is_blocked: false,
                is_writing: false,
                is_firing: false,
                is_caught_up: false,
                is_seen: false,
                ran: Ran::default(),
            });
            schedules.by_key.insert(key, index);
            schedules.fresh.insert(index);
        }
        Ok(schedules)
    }

    /// The entry that a job's key names, of a catch-up too.
    fn index_of(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).or_else(|| self.by_key.get(key.split_once(":catchup:")?.0)).copied()
    }

    /// Breakers that are open.
    pub(super) fn open_breakers(&self) -> u64 {
        self.breakers.values().filter(|breaker| breaker.state == State::Open).count() as u64
    }

    /// Everything that waits for something else than time, of one plugin and command.
    pub(super) fn look_at_blocked(&mut self, plugin: &PluginName, command: &CommandName) {
        for (index, planned) in self.entries.iter().enumerate() {
            if planned.is_blocked && (&planned.entry.plugin, &planned.entry.command) == (plugin, command) {
                self.fresh.insert(index);
            }
        }
    }
}

impl Dispatcher {
    /// Looks at every entry whose time has come.
    pub(super) fn look_at_schedules(&mut self, time: Timestamp) {
        // With no workers the scheduler is gated as well.
        if self.rests() || self.max_workers == 0 {
            return;
        }
        while let Some((at, index)) = self.schedules.wakes.first().copied()
            && at <= time
        {
            self.schedules.wake_at(index, None);
            self.schedules.fresh.insert(index);
        }
        for index in std::mem::take(&mut self.schedules.fresh) {
            self.look(index, time);
        }
        self.schedules.is_stepped = false;
    }

    /// The clock was set: every entry is looked at anew.
    pub(super) fn schedules_stepped(&mut self, time: Timestamp, is_forward: bool) {
        self.schedules.is_stepped = true;
        if is_forward {
            // What was passed over is caught up with as after a start.
            self.schedules.entries.iter_mut().for_each(|planned| planned.is_caught_up = false);
        }
        self.read_ran(time);
        self.schedules.fresh.extend(0..self.schedules.entries.len());
    }

    /// Finds what every entry has run and may come upon again.
    pub(super) fn read_ran(&mut self, time: Timestamp) {
        for Planned { entry, record, ran, .. } in &mut self.schedules.entries {
            let floor = Ran::floor(entry, record.as_ref(), time);
            match self.reader.slots_run(entry.plugin.as_str(), &entry.id, floor) {
                Ok(slots) => *ran = slots,
                Err(error) => {
                    log(Level::Error, "schedule read failed", &[("error", (&shared::log::chain(&error)).into())]);
                }
            }
        }
    }

    fn look(&mut self, index: usize, time: Timestamp) {
        let planned = &self.schedules.entries[index];
        if planned.is_writing {
            return;
        }
        let look = if planned.is_caught_up { step } else { catch_up };
        let step = look(&planned.entry, planned.record.clone(), &self.situation(planned, time));
        self.carry_out(index, step, time);
    }

    fn situation(&self, planned: &Planned, time: Timestamp) -> Situation {
        let Entry { plugin, command, .. } = &planned.entry;
        let probes = |other: &Planned| {
            (&other.entry.plugin, &other.entry.command) == (plugin, command)
                && (other.is_firing || !other.outstanding.is_empty())
        };
        let breaker = self.schedules.breakers.get(&(plugin.clone(), command.clone()));
        let gate = breaker
            .zip(self.rule_of(plugin))
            .map_or(Gate::Pass, |(breaker, rule)| breaker.gate(rule, time, self.schedules.entries.iter().any(probes)));
        Situation {
            now: time,
            outstanding: u32::try_from(planned.outstanding.len()).unwrap_or(u32::MAX),
            gate,
            is_supported: self.catalog.usable(plugin).is_some_and(|known| known.command(command).is_some()),
            jitter: random_fraction(),
            ran: planned.ran.clone(),
            missed: self.missed_reason(planned),
        }
    }

    fn missed_reason(&self, planned: &Planned) -> &'static str {
        match (planned.is_seen, self.schedules.is_stepped) {
            (false, _) => catch_up::DOWN,
            (true, true) => "clock_step",
            (true, false) => "not_looked_at_in_time",
        }
    }

    /// Hands what a look came to to the writer; nothing of it holds before the commit.
    fn carry_out(&mut self, index: usize, step: Step, time: Timestamp) {
        self.schedules.wake_at(index, step.wake_at);
        let planned = &mut self.schedules.entries[index];
        planned.is_blocked = step.is_blocked;
        if !step.is_changed {
            if !std::mem::replace(&mut planned.is_caught_up, true) {
                return self.look(index, time);
            }
            planned.is_seen = true;
            return;
        }
        planned.is_writing = true;
        planned.is_firing = !step.fires.is_empty();
        let is_catch_up = !planned.is_caught_up;
        let entry = planned.entry.clone();
        let known = self.catalog.usable(&entry.plugin);
        let window = match entry.timing {
            Timing::Every { interval, .. } => interval,
            _ => Millis(0),
        };
        let max_attempts = known.map_or(DEFAULT_MAX_ATTEMPTS, |known| known.conf.retry.max_attempts);
        let mut occurrences = step.occurrences;
        let mut jobs: Vec<(Timestamp, Queued)> = Vec::new();
        let mut rows: Vec<(NewJob, Option<Check>)> = Vec::new();
        for fire in step.fires {
            let check = if fire.is_catch_up { Check::new(Some(&fire.key), window, time) } else { None };
            let queued = Queued {
                job_id: new_job_id(time),
                plugin: entry.plugin.clone(),
                command: entry.command.clone(),
                payload: Some(entry.payload.clone()),
                attempt: 1,
                max_attempts,
                submitted_by: self.service_name.clone(),
                dedupe_key: Some(fire.key),
                created_at: time,
                parent_job_id: None,
                event_context_id: None,
            };
            let outcome = Outcome::Enqueued { job_id: queued.job_id.clone() };
            occurrences.push(Occurrence { slot_at: fire.slot_at, until_at: fire.slot_at, slots: 1, outcome });
            rows.push((new_job(&queued, self.snapshot.as_ref()), check));
            jobs.push((fire.slot_at, queued));
        }
        occurrences.sort_by_key(|occurrence| occurrence.slot_at);
        let ending = if step.cancel_outstanding { self.end_own(index) } else { Vec::new() };
        let mut probe_of = None;
        let breaker = step.probe.map(|(breaker, transition)| {
            let target = (entry.plugin.clone(), entry.command.clone());
            probe_of = self.schedules.breakers.insert(target, breaker.clone());
            BreakerChange {
                plugin: entry.plugin.to_string(),
                command: entry.command.to_string(),
                breaker,
                transition: Some(transition),
                at: time,
            }
        });
        let scheduling = Scheduling {
            plugin: entry.plugin.to_string(),
            schedule_id: entry.id.clone(),
            at: time,
            record: step.record.clone(),
            occurrences,
            jobs: rows,
            cancel: step.cancel_outstanding.then(|| CancelOwn {
                dedupe_key: entry.key(),
                submitted_by: self.service_name.clone(),
                reason: CANCELLED.to_owned(),
            }),
            breaker,
        };
        let (record, skipped) = (step.record, step.skipped);
        let looked = Looked { index, record, jobs, ending, skipped, probe_of, is_catch_up, answer: None };
        self.submit_look(looked, scheduling);
    }

    pub(super) fn submit_look(&mut self, looked: Looked, scheduling: Scheduling) {
        let ticket = self.number();
        self.pending.insert(ticket, Pending::Look(Box::new(looked)));
        self.writer.submit(ticket, Write::Schedule(Box::new(scheduling)), Urgency::Now);
    }

    /// The jobs of an entry make room for its next.
    fn end_own(&mut self, index: usize) -> Vec<(JobId, Option<Queued>)> {
        let outstanding: Vec<JobId> = self.schedules.entries[index].outstanding.iter().cloned().collect();
        let cancel = |job_id: JobId| {
            let waiting = self.begin_cancel(&job_id);
            (job_id, waiting)
        };
        outstanding.into_iter().map(cancel).collect()
    }

    /// A look is in the database.
    pub(super) fn looked(&mut self, looked: Looked, cancelled: &[JobId], duplicates: &[(JobId, Duplicate)]) {
        let Looked { index, record, jobs, ending, skipped, probe_of, is_catch_up, answer } = looked;
        let planned = &mut self.schedules.entries[index];
        let next_run_at = record.next_run_at;
        planned.ran.forget_before(Ran::floor(&planned.entry, Some(&record), now()));
        planned.record = Some(record);
        planned.is_writing = false;
        planned.is_firing = false;
        planned.is_seen |= planned.is_caught_up;
        planned.is_caught_up |= is_catch_up;
        let entry = planned.entry.clone();
        for job_id in cancelled {
            planned.outstanding.remove(job_id);
        }
        self.schedules.fresh.insert(index);
        if let Some(reason) = skipped {
            self.publish_skipped(&entry, reason, next_run_at);
        }
        if probe_of.is_some() {
            self.publish_half_open(&entry);
        }
        for job_id in cancelled {
            self.ended_from_outside(job_id, CANCELLED);
        }
        for (job_id, waiting) in ending.into_iter().filter(|(job_id, _)| !cancelled.contains(job_id)) {
            self.abandon_cancel(&job_id, waiting);
        }
        for (slot, job) in jobs {
            if let Some((_, found)) = duplicates.iter().find(|(id, _)| *id == job.job_id) {
                log_duplicate(found);
                continue;
            }
            let planned = &mut self.schedules.entries[index];
            planned.ran.add(slot);
            planned.outstanding.insert(job.job_id.clone());
            self.publish_scheduled(&job, &entry.id);
            self.depth += 1;
            self.enqueue(job);
        }
        if let Some(answer) = answer {
            answer.send(Reply::Done);
        }
    }

    /// A look can never be stored: nothing of it holds, and the entry rests until its next time.
    pub(super) fn look_refused(&mut self, looked: Looked) {
        let planned = &mut self.schedules.entries[looked.index];
        planned.is_writing = false;
        planned.is_firing = false;
        if let Some(breaker) = looked.probe_of {
            let target = (planned.entry.plugin.clone(), planned.entry.command.clone());
            self.schedules.breakers.insert(target, breaker);
        }
        for (job_id, waiting) in looked.ending {
            self.abandon_cancel(&job_id, waiting);
        }
        self.schedules.wake_at(looked.index, Some(now().plus(Millis::from_secs(60))));
        if let Some(answer) = looked.answer {
            answer.refuse(RefusalKind::Internal, "failed to store the schedule entry");
        }
    }

    /// A job has ended for good, whoever's it was: what it stood in the way of is looked at.
    pub(super) fn schedule_job_ended(&mut self, job_id: &JobId, submitted_by: &str, key: Option<&str>) {
        if submitted_by != self.service_name {
            return;
        }
        let Some(index) = key.and_then(|key| self.schedules.index_of(key)) else { return };
        let planned = &mut self.schedules.entries[index];
        planned.outstanding.remove(job_id);
        let (plugin, command) = (planned.entry.plugin.clone(), planned.entry.command.clone());
        self.schedules.look_at_blocked(&plugin, &command);
    }

    /// A job has ended of which nothing else is known.
    pub(super) fn forget_outstanding(&mut self, job_id: &JobId) {
        for (index, planned) in self.schedules.entries.iter_mut().enumerate() {
            if planned.outstanding.remove(job_id) {
                self.schedules.fresh.insert(index);
            }
        }
    }

    /// The entry whose job this is: plugin and schedule id.
    pub(super) fn entry_of(&self, job: &Queued) -> Option<(String, String)> {
        if job.submitted_by != self.service_name {
            return None;
        }
        let index = self.schedules.index_of(job.dedupe_key.as_deref()?)?;
        let entry = &self.schedules.entries[index].entry;
        Some((entry.plugin.to_string(), entry.id.clone()))
    }
}
