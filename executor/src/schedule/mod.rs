//! When scheduled commands are due (`spec/queue-and-scheduler.md` 7), as pure code: an entry, its
//! record, the time and what runs go in; what to enqueue, what to record and when to look again
//! come out. No clock, no database, no randomness of its own; the dispatcher carries it out.

pub mod catch_up;
pub mod cron;
pub mod entry;
pub mod next;
pub mod preview;
pub mod ran;
pub mod record;
pub mod window;

mod slots;
mod zone;

#[cfg(test)]
mod tests;
