//! The queue's rules as pure code: which moves a job may make, when it is tried again, what counts
//! as a duplicate. Values in, a decision out; no clock, no database, no randomness of its own.

pub mod breaker;
pub mod dedupe;
pub mod job;
pub mod ready;
pub mod retry;

#[cfg(test)]
mod walk;
