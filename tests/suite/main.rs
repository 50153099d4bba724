//! The process-level suite: real programs, real sockets, a real systemd.
#![forbid(unsafe_code)]

mod boot;
mod cli;
mod demo;
mod dispatch;
mod echo;
mod front;
mod kill;
mod permits;
mod privileges;
mod secrets;
mod spawner;
mod tidy;
mod units;
mod wire;
