//! `ductile config` (`spec/cli.md` 3): the configuration at rest.

mod check;
mod lock;

use super::args::{Flag, Shape};
use super::{Action, Help, Noun};

pub(super) static NOUN: Noun = Noun {
    name: "config",
    actions: &[
        Action {
            name: "check",
            usage: check::USAGE,
            about: "Load the configuration and say what is wrong or worth a look",
            shape: Shape {
                flags: &[
                    Flag::value("format", "FORMAT", "human (default) or json"),
                    Flag::switch("json", "Answer as JSON"),
                    Flag::switch("fail-on-warnings", "Exit 2 when there are warnings"),
                    Flag::switch("strict", "The same, deprecated"),
                ],
                positionals: 0,
            },
            run: check::run,
        },
        Action {
            name: "lock",
            usage: lock::USAGE,
            about: "Seal the configuration's files; what is recorded of plugins stays",
            shape: Shape {
                flags: &[
                    Flag::switch("verbose", "Say what is found, kept and pruned"),
                    Flag::switch("v", "The same"),
                    Flag::switch("dry-run", "Hash everything, write nothing"),
                ],
                positionals: 0,
            },
            run: lock::run,
        },
    ],
    help: Help::List { flags: true },
    absent: &[],
    footer: "",
};
