//! The command line (`spec/cli.md`): `ductile <noun> <action> [flags] [positionals]`.
//!
//! A client of the sockets, the launcher of the single-command form, and what the operator runs on
//! a configuration at rest. It decrypts nothing: what touches the key is done by
//! `ductile-vault-agent` in its one-shot form. It never opens the database.

mod args;
mod output;
mod usage;

mod config;
mod job;
mod plugin;
mod secrets;
mod system;
mod vault;
mod version;

mod client;
mod executor;
mod instance;
mod launch;
mod listen;
mod payload;
mod privileges;
#[cfg(test)]
mod scratch;
mod start;

use std::ffi::OsString;
use std::process::ExitCode;

use shared::exit;

use args::{Args, Flag, Read, Shape};
use output::Outcome;

/// A noun and what can be done with it.
struct Noun {
    name: &'static str,
    actions: &'static [Action],
    help: Help,
    /// Actions that do not exist and say why.
    absent: &'static [(&'static str, &'static str)],
    /// Ends the noun's help.
    footer: &'static str,
}

/// The two shapes of a noun's help (`spec/cli.md` 1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Help {
    List { flags: bool },
    Table { flags: bool },
}

/// One command.
struct Action {
    name: &'static str,
    /// What follows `ductile <noun> <action>` in its usage.
    usage: &'static str,
    about: &'static str,
    shape: Shape,
    run: fn(&Args) -> Outcome,
}

static NOUNS: [&Noun; 6] = [&system::NOUN, &config::NOUN, &job::NOUN, &plugin::NOUN, &vault::NOUN, &secrets::NOUN];

/// What every action of every noun takes: which instance is meant.
const INSTANCE_FLAGS: [Flag; 2] = [
    Flag::value("config", "PATH", "Configuration file or directory of the instance"),
    Flag::value("config-dir", "DIR", "Configuration directory of the instance"),
];

/// All of `ductile`: hardens the process, runs one command, answers its exit code.
pub fn main() -> ExitCode {
    if let Err(error) = shared::harden::first_statements() {
        output::notice(&format!("ductile: this process can not be hardened: {error}"));
        return code(exit::FAILURE);
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    code(run(&arguments))
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Runs one command; its exit code.
fn run(arguments: &[OsString]) -> i32 {
    let Some((noun, rest)) = arguments.split_first() else {
        output::result(&usage::of_all(&NOUNS));
        return exit::FAILURE;
    };
    match noun.to_str() {
        Some("help" | "--help" | "-h") => {
            output::result(&usage::of_all(&NOUNS));
            return exit::OK;
        }
        Some("version" | "--version" | "-version") => {
            return finish(version::SHAPE, rest, version::USAGE, version::run);
        }
        _ => {}
    }
    match NOUNS.iter().find(|known| noun == known.name) {
        Some(known) => run_action(known, rest),
        None => {
            output::notice(&format!("Unknown command: {}\n", noun.to_string_lossy()));
            output::result(&usage::of_all(&NOUNS));
            exit::FAILURE
        }
    }
}

fn run_action(noun: &Noun, arguments: &[OsString]) -> i32 {
    let Some((action, rest)) = arguments.split_first() else {
        output::notice(usage::of_noun(noun).trim_end());
        return exit::FAILURE;
    };
    if matches!(action.to_str(), Some("help" | "--help" | "-h")) {
        output::result(&usage::of_noun(noun));
        return exit::OK;
    }
    if let Some((_, text)) = noun.absent.iter().find(|(name, _)| action == name) {
        output::notice(text);
        return exit::FAILURE;
    }
    if let Some(known) = noun.actions.iter().find(|known| action == known.name) {
        return finish(known.shape, rest, &usage::of_action(noun, known), known.run);
    }
    output::notice(&format!("Unknown {} action: {}", noun.name, action.to_string_lossy()));
    if matches!(noun.help, Help::Table { .. }) {
        output::notice(usage::of_noun(noun).trim_end());
    }
    exit::FAILURE
}

fn finish(shape: Shape, arguments: &[OsString], usage: &str, run: fn(&Args) -> Outcome) -> i32 {
    let takes_json = shape.flags.iter().any(|flag| flag.name == "json");
    match args::read(shape, &INSTANCE_FLAGS, arguments) {
        Ok(Read::Help) => {
            output::result(usage);
            exit::OK
        }
        Ok(Read::Args(args)) => match run(&args) {
            Ok(code) => code,
            Err(failure) => output::failure(&failure, args.wants_json()),
        },
        Err(failure) => {
            let wanted = arguments.iter().any(|argument| argument == "--json" || argument == "-json");
            output::failure(&failure, takes_json && wanted)
        }
    }
}
