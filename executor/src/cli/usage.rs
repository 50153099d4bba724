//! Help texts (`spec/cli.md` 1.1), made from the table of commands.

use std::fmt::Write as _;

use super::{Action, Help, INSTANCE_FLAGS, Noun};

/// Usage of the whole program.
pub(super) fn of_all(nouns: &[&Noun]) -> String {
    let mut out = String::from(
        "Ductile, a host-local automation gateway.\n\nUsage:\n  ductile <noun> <action> [flags]\n\nNouns: ",
    );
    for noun in nouns {
        out.push_str(noun.name);
        out.push_str(", ");
    }
    out.push_str("version, help\n\nCommands:\n");
    let mut row = |command: &str, about: &str| {
        let _ = writeln!(out, "  {command:<27} {about}");
    };
    for noun in nouns {
        for action in noun.actions {
            row(&format!("{} {}", noun.name, action.name), action.about);
        }
    }
    row("version", "Version, commit and build time");
    row("help", "This text");
    out.push_str("\nHelp on one of them: ductile <noun> <action> --help\n");
    out
}

/// Help of one noun.
pub(super) fn of_noun(noun: &Noun) -> String {
    let (Help::List { flags } | Help::Table { flags }) = noun.help;
    let mut out = format!("Usage: ductile {} <action>{}\n", noun.name, if flags { " [flags]" } else { "" });
    match noun.help {
        Help::List { .. } => {
            let names: Vec<&str> = noun.actions.iter().map(|action| action.name).collect();
            let _ = writeln!(out, "Actions: {}", names.join(", "));
        }
        Help::Table { .. } => {
            for action in noun.actions {
                let _ = writeln!(out, "  {:<19} {}", action.name, action.about);
            }
        }
    }
    if !noun.footer.is_empty() {
        let _ = writeln!(out, "{}", noun.footer);
    }
    out
}

/// Usage of one action.
pub(super) fn of_action(noun: &Noun, action: &Action) -> String {
    let blank = if action.usage.is_empty() { "" } else { " " };
    let mut out =
        format!("Usage: ductile {} {}{blank}{}\n\n{}.\n\nFlags:\n", noun.name, action.name, action.usage, action.about);
    for flag in action.shape.flags.iter().chain(&INSTANCE_FLAGS) {
        let spelled = match flag.value {
            Some(value) => format!("--{} {value}", flag.name),
            None => format!("--{}", flag.name),
        };
        let _ = writeln!(out, "  {spelled:<24} {}", flag.about);
    }
    out
}
