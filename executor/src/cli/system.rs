//! `ductile system` (`spec/cli.md` 4). Who stops and restarts the gateway is the service manager.

use super::args::{Flag, Shape};
use super::{Action, Help, Noun, start};

pub(super) static NOUN: Noun = Noun {
    name: "system",
    actions: &[Action {
        name: "start",
        usage: "[--config PATH] [--accept-older]",
        about: "Start agent, executor and front, and stay in the foreground",
        shape: Shape {
            flags: &[Flag::switch("accept-older", "Accept a vault or journal older than the last one seen, once")],
            positionals: 0,
        },
        run: start::run,
    }],
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
