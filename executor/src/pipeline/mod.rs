//! Pipelines: what is written, compiled to routes, and an event that follows them to new jobs.
//! Values in, a plan out: no clock, no database, no randomness. The dispatcher carries plans out.

pub mod definition;
pub mod graph;
pub mod route;

pub mod context;
pub mod id;
pub mod object;

pub use context::Context;
pub use graph::Graph;
