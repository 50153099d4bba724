//! The rules of `plugins.<name>.schedules` (`spec/queue-and-scheduler.md` 7.2, `spec/config.md`
//! 7.1): every complaint names plugin, entry and field, and where the value stands.

use std::collections::HashSet;
use std::fmt::Display;

use jiff::tz::TimeZone;
use shared::id::{CommandName, PluginName};
use shared::time::{Millis, Timestamp};

use super::check::Problems;
use super::raw;
use super::section::Placed;
use super::units::Span;
use crate::schedule::cron::Cron;
use crate::schedule::entry::{CatchUp, Entry, IfRunning, Timing};
use crate::schedule::window::{Weekdays, Window};
use crate::yaml::quoted;

type Text = Option<Placed<String>>;

/// The entries that keep their rules; the others are complained of.
pub(super) fn check(
    plugin: &PluginName,
    written: Vec<Placed<raw::Schedule>>,
    max_outstanding: u32,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(written.len());
    let mut ids = HashSet::new();
    for (index, Placed { place, value }) in written.into_iter().enumerate() {
        let mut reader = Reader { plugin, index, place, problems, warnings };
        let id = value.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned());
        if !ids.insert(id.clone()) {
            let (name, place) = (reader.name(), reader.place.clone());
            reader.problems.push(format!("plugin {name}: duplicate schedule id {} ({place})", quoted(&id)));
        }
        entries.extend(reader.entry(id, value, max_outstanding));
    }
    entries
}

/// One entry while it is read.
struct Reader<'a> {
    plugin: &'a PluginName,
    index: usize,
    /// Of the entry as a whole.
    place: String,
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn name(&self) -> String {
        quoted(self.plugin.as_str()).to_string()
    }

    /// `plugin "x": invalid schedules[0].cron "…": why (file: line 3)`.
    fn invalid(&mut self, field: &str, text: &Placed<String>, why: impl Display) {
        let (name, index) = (self.name(), self.index);
        let (value, place) = (quoted(&text.value), &text.place);
        self.problems.push(format!("plugin {name}: invalid schedules[{index}].{field} {value}: {why} ({place})"));
    }

    fn entry(&mut self, id: String, written: raw::Schedule, max_outstanding: u32) -> Option<Entry> {
        let before = self.problems.len();
        if id.len() > 128 || id.contains(|c: char| c.is_control()) {
            let (name, index, place) = (self.name(), self.index, self.place.clone());
            self.problems.push(format!(
                "plugin {name}: invalid schedules[{index}].id: expected up to 128 bytes without control characters ({place})"
            ));
        }
        let zone = self.zone(written.timezone.as_ref());
        let has_constraint = written.only_between.is_some() || !written.not_on.is_empty();
        if written.cron.is_some() && written.timezone.is_none() && has_constraint {
            let (name, index) = (self.name(), self.index);
            self.warnings.push(format!(
                "plugin {name}: schedules[{index}]: without a timezone cron follows the host's zone, only_between and \
                 not_on follow UTC"
            ));
        }
        let timing = self.timing(&written, zone.as_ref());
        let command = self.command(written.command.as_ref());
        let payload = match written.payload.as_ref().map(|payload| (payload.value.to_json(), &payload.place)) {
            None => Some("{}".to_owned()),
            Some((Ok(json), _)) => Some(json),
            Some((Err(error), place)) => {
                let (name, index) = (self.name(), self.index);
                self.problems.push(format!("plugin {name}: invalid schedules[{index}].payload: {error} ({place})"));
                None
            }
        };
        let only_between = written.only_between.as_ref().and_then(|text| {
            Window::parse(&text.value).map_err(|error| self.invalid("only_between", text, error)).ok()
        });
        let not_on = self.weekdays(&written.not_on);
        let is_every = matches!(timing, Some(Timing::Every { .. }));
        let catch_up = self.catch_up(written.catch_up.as_ref(), is_every || timing.is_none());
        let if_running = self.if_running(written.if_running.as_ref());
        if self.problems.len() > before {
            return None;
        }
        Some(Entry {
            plugin: self.plugin.clone(),
            id,
            command: command?,
            payload: payload?,
            timing: timing?,
            zone_name: written.timezone.map(|text| text.value),
            constraint_zone: zone.unwrap_or(TimeZone::UTC),
            only_between,
            not_on,
            catch_up,
            if_running,
            max_outstanding,
        })
    }

    fn zone(&mut self, written: Option<&Placed<String>>) -> Option<TimeZone> {
        let text = written.filter(|text| !text.value.is_empty())?;
        TimeZone::get(&text.value).map_err(|_| self.invalid("timezone", text, "unknown time zone")).ok()
    }

    /// Exactly one of the four modes.
    fn timing(&mut self, written: &raw::Schedule, zone: Option<&TimeZone>) -> Option<Timing> {
        let filled = |text: &Text| text.as_ref().is_some_and(|text| !text.value.trim().is_empty());
        let modes = [&written.every, &written.cron, &written.at, &written.after];
        let (name, index, place) = (self.name(), self.index, self.place.clone());
        let wrong = |what: &str| format!("plugin {name}: schedules[{index}] {what} one of every, cron, at, or after");
        match modes.into_iter().filter(|mode| filled(mode)).count() {
            0 => self.problems.push(format!("{} ({place})", wrong("requires"))),
            1 => {}
            _ => self.problems.push(format!("{} ({place})", wrong("must set exactly"))),
        }
        let every = written.every.as_ref().filter(|_| filled(&written.every)).and_then(|text| self.every(text));
        let jitter = self.jitter(written.jitter.as_ref(), filled(&written.every));
        let cron = written.cron.as_ref().filter(|_| filled(&written.cron)).and_then(|text| {
            let zone = zone.cloned().unwrap_or_else(|| self.host_zone());
            Cron::parse(&text.value, zone).map_err(|error| self.invalid("cron", text, error)).ok()
        });
        let at = written.at.as_ref().filter(|_| filled(&written.at)).and_then(|text| {
            let at = Timestamp::parse(text.value.trim());
            at.or_else(|| {
                self.invalid("at", text, "expected RFC3339 timestamp");
                None
            })
        });
        let after = written.after.as_ref().filter(|_| filled(&written.after)).and_then(|text| {
            self.positive("after", text, |span, text| format!("must be positive, got {span} from {text}"))
        });
        let every = every.map(|interval| Timing::Every { interval, jitter });
        every.or(cron.map(Timing::Cron)).or(at.map(Timing::At)).or(after.map(Timing::After))
    }

    fn every(&mut self, text: &Placed<String>) -> Option<Millis> {
        const MINUTE: Span = Span::from_secs(60);
        let (name, value) = (self.name(), quoted(&text.value).to_string());
        let span = match text.value.trim().to_ascii_lowercase().as_str() {
            "hourly" => Ok(Span::from_hours(1)),
            "daily" => Ok(Span::from_hours(24)),
            "weekly" => Ok(Span::from_hours(7 * 24)),
            "monthly" => Ok(Span::from_hours(30 * 24)),
            other => Span::parse(other),
        };
        let place = &text.place;
        match span {
            Ok(span) if span.is_positive() => {
                if span < MINUTE {
                    self.warnings.push(format!("plugin {name}: schedule interval {value} is very short (< 1m)"));
                }
                return Some(span.millis());
            }
            Ok(_) => {
                self.problems.push(format!("plugin {name}: schedule interval must be positive: {value} ({place})"))
            }
            Err(error) => {
                self.problems.push(format!("plugin {name}: invalid schedule interval {value}: {error} ({place})"));
            }
        }
        None
    }

    fn jitter(&mut self, written: Option<&Placed<String>>, is_every: bool) -> Millis {
        let Some(text) = written.filter(|text| !text.value.is_empty()) else { return Millis(0) };
        match Span::parse(text.value.trim()) {
            Ok(span) if span.is_negative() => self.invalid("jitter", text, "must not be negative"),
            Ok(span) if span.is_positive() && !is_every => {
                self.invalid("jitter", text, "only supported for every schedules");
            }
            Ok(span) => return span.millis(),
            Err(error) => self.invalid("jitter", text, error),
        }
        Millis(0)
    }

    fn positive(&mut self, field: &str, text: &Placed<String>, why: impl Fn(Span, &str) -> String) -> Option<Millis> {
        match Span::parse(text.value.trim()) {
            Ok(span) if span.is_positive() => return Some(span.millis()),
            Ok(span) => self.invalid(field, text, why(span, &text.value)),
            Err(error) => self.invalid(field, text, error),
        }
        None
    }

    fn host_zone(&mut self) -> TimeZone {
        TimeZone::try_system().unwrap_or_else(|error| {
            let text = format!("the host's time zone is not known and counts as UTC: {error}");
            if !self.warnings.contains(&text) {
                self.warnings.push(text);
            }
            TimeZone::UTC
        })
    }

    fn command(&mut self, written: Option<&Placed<String>>) -> Option<CommandName> {
        let Some(text) = written.filter(|text| !text.value.is_empty()) else {
            return CommandName::parse("poll").ok();
        };
        if text.value == "handle" {
            let (name, index, place) = (self.name(), self.index, &text.place);
            self.problems
                .push(format!("plugin {name}: schedules[{index}].command \"handle\" cannot be scheduled ({place})"));
            return None;
        }
        CommandName::parse(&text.value).map_err(|error| self.invalid("command", text, error)).ok()
    }

    fn weekdays(&mut self, written: &[Placed<String>]) -> Weekdays {
        let mut days = Weekdays::default();
        for (number, text) in written.iter().enumerate() {
            if let Err(error) = days.leave_out(&text.value) {
                let (name, index) = (self.name(), self.index);
                let (value, place) = (quoted(&text.value), &text.place);
                self.problems
                    .push(format!("plugin {name}: schedules[{index}].not_on[{number}]: {error} {value} ({place})"));
            }
        }
        days
    }

    fn catch_up(&mut self, written: Option<&Placed<String>>, is_every: bool) -> CatchUp {
        let Some(text) = written.filter(|text| !text.value.is_empty()) else { return CatchUp::Skip };
        let catch_up = match text.value.as_str() {
            "skip" => return CatchUp::Skip,
            "run_once" => CatchUp::RunOnce,
            "run_all" => CatchUp::RunAll,
            _ => {
                self.invalid("catch_up", text, "expected skip, run_once, or run_all");
                return CatchUp::Skip;
            }
        };
        if !is_every {
            let (name, index) = (self.name(), self.index);
            let (value, place) = (quoted(&text.value), &text.place);
            self.problems.push(format!(
                "plugin {name}: schedules[{index}].catch_up {value} is only supported for every schedules ({place})"
            ));
        }
        catch_up
    }

    fn if_running(&mut self, written: Option<&Placed<String>>) -> IfRunning {
        let Some(text) = written.filter(|text| !text.value.is_empty()) else { return IfRunning::Skip };
        match text.value.as_str() {
            "skip" => IfRunning::Skip,
            "queue" => IfRunning::Queue,
            "cancel" => IfRunning::Cancel,
            _ => {
                self.invalid("if_running", text, "expected skip, queue, or cancel");
                IfRunning::Skip
            }
        }
    }
}

#[cfg(test)]
mod tests;
