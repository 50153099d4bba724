//! What a job is and how it may move (`spec/queue-and-scheduler.md` 2). The store's
//! compare-and-set makes a legal move hold against everyone else's.

use std::fmt;

use shared::wire::gateway::JobStatus;

/// Total attempts of a job whose plugin says nothing else.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 4;

/// A move that the table of chapter 2.1 does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IllegalMove {
    /// No operation leads from here to there.
    NotInTable { from: Option<JobStatus>, to: JobStatus },
    /// A completion must end the job.
    NotTerminal(JobStatus),
}

impl fmt::Display for IllegalMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInTable { from: Some(from), to } => {
                write!(f, "illegal move from {} to {}", from.as_str(), to.as_str())
            }
            Self::NotInTable { from: None, to } => write!(f, "a job can not begin as {}", to.as_str()),
            Self::NotTerminal(status) => write!(f, "invalid terminal status: \"{}\"", status.as_str()),
        }
    }
}

impl std::error::Error for IllegalMove {}

/// Whether any operation may move a job from `from` (`None`: it does not exist yet) to `to`.
///
/// # Errors
/// `IllegalMove::NotInTable`.
pub fn check_move(from: Option<JobStatus>, to: JobStatus) -> Result<(), IllegalMove> {
    use JobStatus::{Dead, Queued, Running};
    let legal = match from {
        None => to == Queued,
        Some(Queued) => matches!(to, Running | Dead),
        Some(Running) => to != Running,
        Some(_) => false,
    };
    if legal { Ok(()) } else { Err(IllegalMove::NotInTable { from, to }) }
}

/// Whether a running job may be completed as `to`: only a terminal status ends it.
///
/// # Errors
/// `IllegalMove::NotTerminal`.
pub fn check_completion(to: JobStatus) -> Result<(), IllegalMove> {
    if to.is_terminal() { Ok(()) } else { Err(IllegalMove::NotTerminal(to)) }
}

/// A field that no job may be admitted without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyField(&'static str);

impl fmt::Display for EmptyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is empty", self.0)
    }
}

impl std::error::Error for EmptyField {}

/// Checks what every job needs, in the chapter's order.
///
/// # Errors
/// `EmptyField`, naming the first that is blank.
pub fn check_admission(plugin: &str, command: &str, submitted_by: &str) -> Result<(), EmptyField> {
    for (name, text) in [("plugin", plugin), ("command", command), ("submitted_by", submitted_by)] {
        if text.trim().is_empty() {
            return Err(EmptyField(name));
        }
    }
    Ok(())
}

/// What is stamped on a job at admission: the plugin's own number when it is positive.
pub fn max_attempts(configured: i64) -> u32 {
    match u32::try_from(configured) {
        Ok(0) | Err(_) => DEFAULT_MAX_ATTEMPTS,
        Ok(number) => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use JobStatus::{Dead, Failed, Queued, Running, Skipped, Succeeded, TimedOut};

    const ALL: [JobStatus; 7] = [Queued, Running, Succeeded, Skipped, Failed, TimedOut, Dead];

    #[test]
    fn the_table_holds_edge_by_edge() {
        let legal = [
            (None, Queued),
            (Some(Queued), Running),
            (Some(Queued), Dead),
            (Some(Running), Queued),
            (Some(Running), Succeeded),
            (Some(Running), Skipped),
            (Some(Running), Failed),
            (Some(Running), TimedOut),
            (Some(Running), Dead),
        ];
        for from in std::iter::once(None).chain(ALL.map(Some)) {
            for to in ALL {
                assert_eq!(check_move(from, to).is_ok(), legal.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn terminal_statuses_absorb_and_only_they_complete() {
        for status in ALL {
            assert_eq!(check_completion(status).is_ok(), status.is_terminal(), "{status:?}");
            let goes_on = ALL.iter().any(|to| check_move(Some(status), *to).is_ok());
            assert_eq!(goes_on, !status.is_terminal(), "{status:?}");
        }
    }

    #[test]
    fn refusals_use_the_chapters_words() {
        assert_eq!(
            check_completion(Running).map_err(|e| e.to_string()),
            Err("invalid terminal status: \"running\"".into())
        );
        let check = |plugin, command, by, text: &str| {
            assert_eq!(check_admission(plugin, command, by).map_err(|e| e.to_string()), Err(text.to_owned()));
        };
        check("", "", "", "plugin is empty");
        check("p", " ", "", "command is empty");
        check("p", "c", "", "submitted_by is empty");
        assert_eq!(check_admission("p", "c", "api"), Ok(()));
    }

    #[test]
    fn attempts_that_are_not_positive_become_four() {
        for (configured, stamped) in [(0, 4), (-3, 4), (1, 1), (9, 9), (i64::MAX, 4)] {
            assert_eq!(max_attempts(configured), stamped, "{configured}");
        }
    }
}
