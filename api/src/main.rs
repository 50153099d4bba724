//! `ductile-api`, the HTTP front: HTTP in, gateway requests out.
//!
//! Owns the TCP listeners, the shapes of HTTP requests and answers, and the digests of API tokens.
//! Its only peer is the executor, over one connection. It never opens a file or a database, never
//! starts a process, never holds a secret: a token is a digest here, and what the front knows of
//! the configuration it was told on that connection.
//!
//! `routes` has every route and what it asks for; `front` is what each request passes through
//! before its route, `http` the routes themselves, `auth` the tokens and scopes. `executor` is the
//! line to the only peer, `serve` the connections and their limits, `listen` the addresses, `start`
//! the two forms, and `log` the lines on stdout.
//!
//! Two forms (`spec/operations.md` 16): `--line` is a child of the launcher, with its parent on
//! stdin; else it is a service of the unit set with activated sockets.
#![forbid(unsafe_code)]

mod auth;
mod executor;
mod front;
mod http;
mod listen;
mod log;
mod routes;
mod serve;
mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    start::run(std::env::args_os().skip(1))
}
