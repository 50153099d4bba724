//! `ductile system` (`spec/cli.md` 4). Who stops and restarts the gateway is the service manager.

mod breaker;
mod preview;
mod reset;
mod scheduler;

use super::args::{Flag, Shape};
use super::{Action, Help, Noun, start};

const JSON: Flag = Flag::switch("json", "Answer as JSON");
const COMMAND: Flag = Flag::value("command", "COMMAND", "The command that the breaker stands before: poll (default)");

pub(super) static NOUN: Noun = Noun {
    name: "system",
    actions: &[
        Action {
            name: "start",
            usage: "[--config PATH] [--accept-older]",
            about: "Start agent, executor and front, and stay in the foreground",
            shape: Shape {
                flags: &[Flag::switch("accept-older", "Accept a vault or journal older than the last one seen, once")],
                positionals: 0,
            },
            run: start::run,
        },
        Action {
            name: "breaker",
            usage: breaker::USAGE,
            about: "A circuit breaker and its last changes",
            shape: Shape {
                flags: &[COMMAND, Flag::value("limit", "N", "So many changes at most: 20 (default)"), JSON],
                positionals: 1,
            },
            run: breaker::run,
        },
        Action {
            name: "scheduler",
            usage: scheduler::USAGE,
            about: "Scheduled jobs under way, the next starts of every entry, or an entry made active again",
            shape: Shape {
                flags: &[
                    Flag::value("next", "N", "The next N starts of every entry, at most 100"),
                    Flag::value("tz", "ZONE", "Show them in this time zone instead of the entry's own"),
                    Flag::value("rearm", "PLUGIN:ID", "Make an exhausted or invalid entry active again"),
                    JSON,
                ],
                positionals: 0,
            },
            run: scheduler::run,
        },
        Action {
            name: "reset",
            usage: reset::USAGE,
            about: "Close a circuit breaker",
            shape: Shape { flags: &[COMMAND], positionals: 1 },
            run: reset::run,
        },
    ],
    help: Help::List { flags: false },
    absent: &[("stop", STOP), ("restart", RESTART)],
    footer: "(no stop/restart: the service manager owns the daemon lifecycle)",
};

const STOP: &str = "ductile system stop does not exist — the service manager owns the daemon lifecycle.
Use: systemctl --user stop <unit> | launchctl bootout gui/$UID/<label> | Ctrl-C (foreground).
For an in-process config swap use: ductile system reload";

const RESTART: &str = "ductile system restart does not exist — the service manager owns the daemon lifecycle.
Use: systemctl --user restart <unit> | launchctl kickstart -k gui/$UID/<label> | Ctrl-C (foreground).
For an in-process config swap use: ductile system reload";
