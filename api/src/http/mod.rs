//! HTTP shapes: one file per resource, and what they share.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod plugins;
pub(crate) mod prefer;
pub(crate) mod schedules;
pub(crate) mod vault;
