//! What must mean the same in two Ductile processes, and nothing else.
//!
//! Owns the wire messages, their framing, the ids and times in them, the hardening that every
//! program begins with, the log line and the exit codes. Never opens a socket or a file, never
//! reads a clock, never holds configuration.
#![forbid(unsafe_code)]

pub mod exit;
pub mod harden;
pub mod id;
pub mod log;
pub mod secret;
pub mod time;
pub mod wire;

/// Version of all five programs; peers of another version are refused (design, section 2).
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
