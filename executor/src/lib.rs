//! The executor's library: what `ductile-executor` and the CLI `ductile` share. Configuration, the
//! queue, the store, plugins as the executor sees them, and the dispatcher that drives them.

pub mod cli;
pub mod config;
pub mod dispatch;
pub mod harden;
pub mod hub;
pub mod ipc;
pub mod logging;
pub mod pipeline;
pub mod plugin;
pub mod queue;
pub mod schedule;
pub mod service;
pub mod sockets;
pub mod store;
pub mod text;
pub mod vault;
pub mod yaml;
