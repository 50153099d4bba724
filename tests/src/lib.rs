//! The harness of the process-level suite: it starts the real programs, in the launcher's form in
//! a fresh directory or as the unit set under a systemd of its own, and leaves nothing behind.
//!
//! It has no stand-in for any part of the product, never sleeps but between two looks of a poll
//! with a deadline, and panics with what it saw when something does not come to pass.
#![forbid(unsafe_code)]

pub mod instance;
pub mod ledger;
pub mod lone;
pub mod site;
pub mod unit_set;

pub mod event_stream;
pub mod front_peer;
pub mod http;
pub mod load;
pub mod peer;
pub mod procs;
pub mod scan;
pub mod spawner_line;
pub mod trap;
pub mod undo;
pub mod wall;

pub mod command;
pub mod dice;
pub mod paths;
pub mod plugins;
pub mod scratch;
pub mod wait;
