//! Schedule entries as an operator sees them and sets them going again.

use shared::id::PluginName;
use shared::log::Level;
use shared::wire::gateway::{self, Reply};
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::schedule::{Looked, Planned};
use crate::ipc::Answer;
use crate::logging::{log, now};
use crate::schedule::next;
use crate::schedule::preview::{NOTHING_AHEAD, preview};
use crate::schedule::record::{Record, Status};
use crate::store::write::Scheduling;

impl Dispatcher {
    /// Every entry with its next starts.
    pub(super) fn show_schedules(&self, count: u32, answer: Answer) {
        let count = usize::try_from(count.min(100)).unwrap_or(100);
        let time = now();
        let shown = self.schedules.entries.iter().map(|Planned { entry, record, ran, .. }| {
            let next = preview(entry, record.as_ref(), time, count, ran);
            let status = record.as_ref().map_or(Status::Active, |record| record.status);
            let is_without = status == Status::Active && count > 0 && next.is_empty();
            let reason = record.as_ref().and_then(|record| record.reason.clone());
            gateway::Schedule {
                plugin: entry.plugin.to_string(),
                schedule_id: entry.id.clone(),
                command: entry.command.to_string(),
                mode: entry.timing.mode().to_owned(),
                status: status.as_str().to_owned(),
                reason: reason.or_else(|| is_without.then(|| NOTHING_AHEAD.to_owned())),
                timezone: entry.zone_name.clone(),
                next,
            }
        });
        answer.send(Reply::Schedules(shown.collect()));
    }

    /// `ductile system scheduler --rearm`.
    pub(super) fn rearm(&mut self, plugin: &PluginName, schedule_id: &str, answer: Answer) {
        let is_meant = |planned: &Planned| planned.entry.plugin == *plugin && planned.entry.id == schedule_id;
        let found = self.schedules.entries.iter().position(is_meant);
        let Some(index) = found else {
            return answer.refuse(RefusalKind::ScheduleUnknown, format!("no schedule {plugin}:{schedule_id}"));
        };
        let planned = &mut self.schedules.entries[index];
        if std::mem::replace(&mut planned.is_writing, true) {
            return answer
                .refuse(RefusalKind::Busy, format!("schedule {plugin}:{schedule_id} is being written: try again"));
        }
        let entry = planned.entry.clone();
        let record = planned.record.clone().unwrap_or_else(|| Record::new(entry.command.as_str()));
        let record = next::rearm(&entry, record, now());
        let scheduling = Scheduling {
            plugin: entry.plugin.to_string(),
            schedule_id: entry.id,
            at: now(),
            record: record.clone(),
            occurrences: Vec::new(),
            jobs: Vec::new(),
            cancel: None,
            breaker: None,
        };
        let looked = Looked {
            index,
            record,
            jobs: Vec::new(),
            ending: Vec::new(),
            skipped: None,
            probe_of: None,
            is_catch_up: false,
            answer: Some(answer),
        };
        self.submit_look(looked, scheduling);
    }

    /// `ductile system scheduler`.
    pub(super) fn show_polls(&self, answer: Answer) {
        match self.reader.active_of(&self.service_name) {
            Ok(polls) => {
                let service_name = self.service_name.clone();
                answer.send(Reply::ActivePolls(gateway::ActivePolls { service_name, polls }));
            }
            Err(error) => {
                log(Level::Error, "queue read failed", &[("error", (&shared::log::chain(&error)).into())]);
                answer.refuse(RefusalKind::Internal, "failed to read scheduled jobs");
            }
        }
    }
}
