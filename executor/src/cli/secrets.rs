//! `ductile secrets` (`spec/cli.md` 8): keys and encrypted files, done by the one-shot agent.

use std::ffi::OsStr;
use std::path::Path;

use super::args::{Args, Flag, Shape};
use super::output::Outcome;
use super::{Action, Help, Noun, vault};

pub(super) static NOUN: Noun = Noun {
    name: "secrets",
    actions: &[Action {
        name: "keygen",
        usage: "[--out FILE]",
        about: "Make an age identity, on stdout or in a new file",
        shape: Shape {
            flags: &[Flag::value("out", "FILE", "Where it is written, mode 0600; never over another")],
            positionals: 0,
        },
        run: keygen,
    }],
    help: Help::Table { flags: false },
    absent: &[],
    footer: "",
};

fn keygen(args: &Args) -> Outcome {
    match args.path("out") {
        Some(path) => vault::run_agent("keygen", "keygen", path, &[("--out", path.as_os_str())]),
        None => vault::run_agent("keygen", "keygen", Path::new("/"), &[] as &[(&str, &OsStr)]),
    }
}
