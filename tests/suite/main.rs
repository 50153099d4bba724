//! The process-level suite: real programs, real sockets, a real systemd.
#![forbid(unsafe_code)]

mod boot;
mod cli;
mod clock;
mod crash;
mod demo;
mod dispatch;
mod echo;
mod events;
mod faults;
mod front;
mod jobs;
mod keys;
mod kill;
mod locked;
mod permits;
mod pipelines;
mod privileges;
mod retention;
mod scheduler_cli;
mod schedules;
mod secrets;
mod spawner;
mod tidy;
mod units;
mod wire;
