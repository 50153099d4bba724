//! The protocols between Ductile's processes. `docs/ipc.md` names every request.
//!
//! A message is a flat enum, encoded by position: variants and fields are added at the end and
//! never reordered. Every frame, every decode and every list of descriptors has a limit.

pub mod codec;
pub mod fds;
pub mod frame;
pub mod gateway;
pub mod hello;
pub mod launch;
pub mod refusal;
pub mod spawner;
pub mod vault;
