//! Plugins as the executor sees them: what is on disk, what is said to them, who starts them.

pub mod catalog;
pub mod manifest;
pub mod outcome;
pub mod privsep;
pub mod protocol;
pub mod registry;
pub mod spawn;
pub mod supervise;
