//! `ductile plugin` (`spec/cli.md` 5): what is discovered, one run through the running executor,
//! and the attestation of plugin files.

mod fingerprint;
mod list;
mod lock;
mod run;

pub(super) use list::discover;

use super::args::{Flag, Shape};
use super::{Action, Help, Noun, payload};

const JSON: Flag = Flag::switch("json", "Answer as JSON");

pub(super) static NOUN: Noun = Noun {
    name: "plugin",
    actions: &[
        Action {
            name: "list",
            usage: "[--json]",
            about: "Discovered plugins and their commands",
            shape: Shape { flags: &[JSON], positionals: 0 },
            run: list::run,
        },
        Action {
            name: "run",
            usage: run::USAGE,
            about: "Have the running executor run one command of a plugin",
            shape: Shape {
                flags: &[
                    Flag::value("command", "COMMAND", "poll (default), handle or another of the plugin"),
                    payload::JSON,
                    payload::FILE,
                    Flag::value("wait", "DURATION", "Wait so long for the result, as 30s or 5m"),
                    JSON,
                ],
                positionals: 1,
            },
            run: run::run,
        },
        Action {
            name: "lock",
            usage: lock::USAGE,
            about: "Attest plugin files, one by name or all with the code of the preview",
            shape: Shape {
                flags: &[
                    Flag::switch("all", "All configured plugins: preview, or commit with CODE"),
                    Flag::switch("dry-run", "Hash everything, write nothing"),
                    Flag::value(
                        "token-file",
                        "FILE",
                        "File with the admin token, mode 0600, where the key is out of reach",
                    ),
                    Flag::value("token", "TOKEN", "The admin token itself; others can see it, prefer --token-file"),
                ],
                positionals: 1,
            },
            run: lock::run,
        },
    ],
    help: Help::List { flags: false },
    absent: &[],
    footer: "",
};
