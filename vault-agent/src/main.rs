//! ductile-vault-agent: the only program that opens the vault. Resident, it answers the executor,
//! the spawner and the CLI; one-shot, it does one key-touching verb. Never speaks TCP, never starts
//! a process, never lets a secret value out but into a plugin's stdin and, by `get`, to the key's
//! holder.
#![forbid(unsafe_code)]

mod args;
mod resident;
mod verbs;

mod fingerprint;
mod listen;
mod permit;
mod serve;

mod admin;
mod deliver;
mod prepare;
mod scrub;

mod agent;
mod compose;
mod document;
mod needles;
mod rules;
mod vault;

mod attest;
mod checksums;
mod identity;
mod journal;
mod sealed;
mod settings;

mod failure;
mod files;
mod harden;
mod line;
mod log;
mod random;
mod stamp;
mod yaml;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod scratch;

use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;

use shared::exit;
use zeroizing_alloc::ZeroAlloc;

/// YAML, age and the frames leave copies that no wrapper reaches: all memory is wiped when freed.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let code = match shared::harden::first_statements() {
        Ok(()) => run(),
        Err(error) => wrong(&format!("hardening failed: {error}")),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run() -> i32 {
    let args = match args::parse(std::env::args_os().skip(1)) {
        args::Asked::Run(args) => args,
        args::Asked::Help => return print(args::USAGE),
        args::Asked::Wrong(text) => return wrong(&format!("{text}\n\n{}", args::USAGE.trim_end())),
    };
    if let Some(launcher) = args.value("launcher-version")
        && let Err(text) = shared::wire::launch::check_launcher("ductile-vault-agent", launcher)
    {
        return wrong(&text);
    }
    match args.verb.as_str() {
        "version" => print(&format!("ductile-vault-agent {}\n", shared::VERSION)),
        "" => resident::run(&args),
        _ => verbs::run(&args),
    }
}

fn print(text: &str) -> i32 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => exit::OK,
        Err(_) => exit::FAILURE,
    }
}

fn wrong(text: &str) -> i32 {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
    exit::FAILURE
}
