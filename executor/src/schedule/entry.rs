//! One entry of `plugins.<name>.schedules`, checked.

use jiff::tz::TimeZone;
use shared::id::{CommandName, PluginName};
use shared::time::{Millis, Timestamp};

use super::cron::Cron;
use super::window::{Weekdays, Window};

/// What is run, when, and when not.
#[derive(Debug, Clone)]
pub struct Entry {
    pub plugin: PluginName,
    /// Unique within the plugin.
    pub id: String,
    pub command: CommandName,
    /// A JSON object, as text.
    pub payload: String,
    pub timing: Timing,
    /// As written in `timezone`.
    pub zone_name: Option<String>,
    /// For `only_between` and `not_on`: as written, else UTC.
    pub constraint_zone: TimeZone,
    pub only_between: Option<Window>,
    pub not_on: Weekdays,
    pub catch_up: CatchUp,
    pub if_running: IfRunning,
    /// `max_outstanding_polls` of the plugin, for `IfRunning::Queue`.
    pub max_outstanding: u32,
}

/// The four modes; an entry has exactly one.
#[derive(Debug, Clone)]
pub enum Timing {
    Every {
        interval: Millis,
        /// Each start is delayed within its slot by up to this much.
        jitter: Millis,
    },
    /// With its own zone, which is the host's where none is written.
    Cron(Cron),
    At(Timestamp),
    /// From the first time that this entry is seen.
    After(Millis),
}

impl Timing {
    /// As the API names it.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Every { .. } => "every",
            Self::Cron(_) => "cron",
            Self::At(_) => "at",
            Self::After(_) => "after",
        }
    }
}

/// What becomes of the slots that passed while nothing ran; more than `Skip` only with `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    Skip,
    RunOnce,
    RunAll,
}

/// What a slot does when a job of the entry is queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRunning {
    Skip,
    Queue,
    Cancel,
}

impl Entry {
    /// Names the entry on its jobs; dedupe does not check it.
    pub fn key(&self) -> String {
        format!("{}:{}:{}", self.plugin.as_str(), self.command.as_str(), self.id)
    }
}
