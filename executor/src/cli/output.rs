//! The one place of the CLI that prints (`spec/cli.md` 1.3): results on stdout, everything else on
//! stderr. A reader that went away is no failure of the command.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use shared::exit;
use shared::log::{self, Level, Value};
use shared::time::Timestamp;

/// Why a command failed: the whole text for stderr, without its last newline, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Failure {
    pub(in crate::cli) text: String,
    pub(in crate::cli) code: i32,
}

/// Exit code of a command that has printed what it had to say, or what is still to be said.
pub(in crate::cli) type Outcome = Result<i32, Failure>;

impl Failure {
    pub(in crate::cli) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: exit::FAILURE }
    }

    /// `context: error: its sources`.
    pub(in crate::cli) fn because(context: &str, error: &dyn std::error::Error) -> Self {
        Self::new(format!("{context}: {}", log::chain(error)))
    }
}

/// Writes a result to stdout as it is.
pub(in crate::cli) fn result(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes one line of a result to stdout.
pub(in crate::cli) fn line(text: &str) {
    result(&format!("{text}\n"));
}

/// Writes a value as JSON, two-space indented with a newline; the keys keep the type's order.
pub(in crate::cli) fn json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("our own result types have no map with other keys than text");
    line(&text);
}

/// Rows as columns: each but the last padded to its longest cell, two blanks between.
pub(in crate::cli) fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Writes one line of diagnostics to stderr.
pub(in crate::cli) fn notice(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(format!("{text}\n").as_bytes());
}

/// Says a failure: its text on stderr, and with `--json` an object on stdout besides.
pub(in crate::cli) fn failure(failure: &Failure, as_json: bool) -> i32 {
    notice(&failure.text);
    if as_json {
        #[derive(serde::Serialize)]
        struct Shown<'a> {
            error: &'a str,
            code: i32,
        }
        json(&Shown { error: &failure.text, code: failure.code });
    }
    failure.code
}

/// One record of the launcher, the one part of the CLI that is a service: its log is on stdout,
/// beside those of its children; a warning that must not be missed goes to stderr.
pub(in crate::cli) fn record(level: Level, msg: &str, fields: &[(&str, Value<'_>)]) {
    let text = log::line(Timestamp::from_system_time(SystemTime::now()), level, "launcher", msg, fields);
    if level >= Level::Warn {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
    } else {
        result(&text);
    }
}
