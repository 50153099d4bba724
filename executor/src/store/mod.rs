//! The ledger: one SQLite database with a single writer thread and several readers. The only place
//! that names rusqlite; its functions speak domain types, so that a second engine could stand
//! behind them.
//!
//! Owns the schema, what is durable and in which order. Never decides what becomes of a job: the
//! dispatcher does, and the compare-and-set here only refuses what no longer holds.

pub mod error;
pub mod open;
pub mod read;
pub mod recover;
pub mod snapshot;
pub mod write;
pub mod writer;

mod admission;
mod backlog;
mod batch;
mod breaker;
mod cancel;
mod checkpoint;
mod completion;
mod ledger;
mod log;
mod place;
mod retention;
mod routed;
mod rows;
mod schedule;
mod schema;
mod state;
mod stopwatch;
mod time_text;

pub use error::{StoreError, StoreErrorKind};
pub use open::{Store, WriteConnection, open};
pub use schema::SCHEMA;
pub use snapshot::new_id;
pub use state::{check_stored, invalid_stored};

#[cfg(test)]
mod tests;
