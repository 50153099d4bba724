//! Circuit breakers: what a scheduled job's end does to them, and what an operator does
//! (`spec/queue-and-scheduler.md` 8).

use shared::id::{CommandName, PluginName};
use shared::log::Level;
use shared::time::Timestamp;
use shared::wire::gateway::Reply;
use shared::wire::refusal::RefusalKind;

use super::Dispatcher;
use super::written::Pending;
use crate::ipc::Answer;
use crate::logging::{log, now};
use crate::queue::breaker::{Breaker, Rule};
use crate::queue::ready::Queued;
use crate::store::recover::{Recovered, RecoveredEnd};
use crate::store::write::{BreakerChange, Urgency, Write};

/// A change that holds in memory and is on its way into the database.
pub(super) struct Counted {
    pub(super) change: BreakerChange,
    /// `None`: there was no row.
    before: Option<Breaker>,
}

impl Dispatcher {
    /// A scheduled job whose last attempt a crash has spent counts like one that failed.
    pub(super) fn count_recovered(&mut self, recovered: &Recovered) {
        if !matches!(recovered.end, RecoveredEnd::Dead { .. }) || recovered.submitted_by != self.service_name {
            return;
        }
        let (Ok(plugin), Ok(command)) = (PluginName::parse(&recovered.plugin), CommandName::parse(&recovered.command))
        else {
            return;
        };
        if let Some(change) = self.count_end(plugin, command, recovered.job_id.as_str(), false, now()) {
            let ticket = self.number();
            self.pending.insert(ticket, Pending::Counted { change: Box::new(change.clone()) });
            self.writer.submit(ticket, Write::Breaker(Box::new(change)), Urgency::Lazy);
        }
    }

    /// `None` for a plugin that is not run.
    pub(super) fn rule_of(&self, plugin: &PluginName) -> Option<Rule> {
        let conf = self.catalog.usable(plugin)?.conf.circuit_breaker;
        Some(Rule { threshold: conf.threshold, reset_after: conf.reset_after })
    }

    /// The breaker's part in a completion: counted here, stored with it.
    pub(super) fn count_for_breaker(&mut self, job: &Queued, succeeded: bool, at: Timestamp) -> Option<Counted> {
        if job.submitted_by != self.service_name {
            return None;
        }
        let target = (job.plugin.clone(), job.command.clone());
        let before = self.schedules.breakers.get(&target).cloned();
        let change = self.count_end(target.0, target.1, job.job_id.as_str(), succeeded, at)?;
        Some(Counted { change, before })
    }

    /// The change was not stored. What was counted since stands on it and stays.
    pub(super) fn uncount(&mut self, counted: Counted) {
        let Counted { change, before } = counted;
        let (Ok(plugin), Ok(command)) = (PluginName::parse(&change.plugin), CommandName::parse(&change.command)) else {
            return;
        };
        let target = (plugin, command);
        if self.schedules.breakers.get(&target) == Some(&change.breaker) {
            match before {
                Some(before) => self.schedules.breakers.insert(target, before),
                None => self.schedules.breakers.remove(&target),
            };
        }
    }

    fn count_end(
        &mut self,
        plugin: PluginName,
        command: CommandName,
        job_id: &str,
        succeeded: bool,
        at: Timestamp,
    ) -> Option<BreakerChange> {
        let rule = self.rule_of(&plugin)?;
        let target = (plugin, command);
        let known = self.schedules.breakers.get(&target);
        let before = known.cloned().unwrap_or_default();
        let (breaker, transition) = before.completed(rule, known.is_some(), job_id, succeeded, at);
        let (plugin, command) = (target.0.to_string(), target.1.to_string());
        self.schedules.breakers.insert(target, breaker.clone());
        Some(BreakerChange { plugin, command, breaker, transition, at })
    }

    /// `ductile system reset`.
    pub(super) fn reset_breaker(&mut self, plugin: PluginName, command: CommandName, answer: Answer) {
        let target = (plugin, command);
        let known = self.schedules.breakers.get(&target);
        if known.is_none() && !self.is_discovered(&target.0) {
            return answer.refuse(RefusalKind::PluginUnknown, format!("Unknown plugin: {}", target.0));
        }
        let at = now();
        let (breaker, transition) = known.cloned().unwrap_or_default().reset(known.is_some(), at);
        let change = BreakerChange {
            plugin: target.0.to_string(),
            command: target.1.to_string(),
            breaker,
            transition: Some(transition),
            at,
        };
        // From now on: what is counted until the commit is stored after it.
        let before = self.schedules.breakers.insert(target, change.breaker.clone());
        let ticket = self.number();
        let counted = Counted { change: change.clone(), before };
        self.pending.insert(ticket, Pending::Reset { counted: Box::new(counted), answer });
        self.writer.submit(ticket, Write::Breaker(Box::new(change)), Urgency::Now);
    }

    pub(super) fn breaker_reset(&mut self, change: &BreakerChange, answer: Answer) {
        self.publish_breaker(change);
        let (plugin, command) = (PluginName::parse(&change.plugin), CommandName::parse(&change.command));
        if let (Ok(plugin), Ok(command)) = (plugin, command) {
            self.schedules.look_at_blocked(&plugin, &command);
        }
        answer.send(Reply::Done);
    }

    pub(super) fn breaker_not_reset(&mut self, counted: Counted, answer: Answer, kind: RefusalKind) {
        self.uncount(counted);
        answer.refuse(kind, "failed to reset the circuit breaker");
    }

    /// Disabled ones too.
    fn is_discovered(&self, plugin: &PluginName) -> bool {
        self.catalog.shown().iter().any(|shown| shown.name == *plugin)
    }

    /// `ductile system breaker`.
    pub(super) fn show_breaker(&self, plugin: &PluginName, command: &CommandName, limit: u32, answer: Answer) {
        match self.reader.breaker(plugin.as_str(), command.as_str(), limit.min(1000)) {
            Ok(breaker) if breaker.state.is_none() && !self.is_discovered(plugin) => {
                answer.refuse(RefusalKind::PluginUnknown, format!("Unknown plugin: {plugin}"));
            }
            Ok(breaker) => answer.send(Reply::Breaker(breaker)),
            Err(error) => {
                log(Level::Error, "breaker read failed", &[("error", (&shared::log::chain(&error)).into())]);
                answer.refuse(RefusalKind::Internal, "failed to read the circuit breaker");
            }
        }
    }
}
