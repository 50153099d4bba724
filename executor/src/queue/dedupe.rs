//! What counts as a duplicate (`spec/queue-and-scheduler.md` 3). The two look-ups that this needs
//! are made by the store in the transaction of the insert, so that no other producer can pass
//! between them.

use std::fmt;

use shared::time::{Millis, Timestamp};

/// `service.dedupe_ttl` of a configuration that says nothing else.
pub const DEFAULT_WINDOW: Millis = Millis::from_secs(24 * 60 * 60);

/// A look for duplicates. The store compares jobs of the same key, plugin and command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    key: String,
    since: Option<Timestamp>,
}

impl Check {
    /// `None` when the key is blank: such a job is never a duplicate. A window of 0 looks only at
    /// outstanding jobs.
    pub fn new(key: Option<&str>, window: Millis, now: Timestamp) -> Option<Self> {
        let key = key.filter(|key| !key.trim().is_empty())?;
        let since = (window.0 > 0).then(|| now.minus(window));
        Some(Self { key: key.to_owned(), since })
    }

    /// As it was given and as it is stored.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A success that ended at this time or later makes the job a duplicate; `None`: none does.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }
}

/// Which rule found the duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Outstanding,
    RecentSuccess,
}

impl Reason {
    /// The log field `dedupe_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outstanding => "outstanding",
            Self::RecentSuccess => "recent_success",
        }
    }
}

/// A job that was not admitted because another stands for it. Its text is the error of the
/// chapter, which the producer sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    pub key: String,
    /// The job that stands for it, as the ledger names it.
    pub existing_job_id: String,
    pub reason: Reason,
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job deduplicated for key \"{}\" (existing job {})", self.key, self.existing_job_id)
    }
}

impl std::error::Error for Duplicate {}

/// The verdict on what the look-ups found; an outstanding job comes first.
pub fn judge(check: &Check, outstanding: Option<String>, recent_success: Option<String>) -> Option<Duplicate> {
    let (existing_job_id, reason) = match (outstanding, recent_success) {
        (Some(id), _) => (id, Reason::Outstanding),
        (None, Some(id)) if check.since.is_some() => (id, Reason::RecentSuccess),
        _ => return None,
    };
    Some(Duplicate { key: check.key.clone(), existing_job_id, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_nanos(10_000_000_000);

    #[test]
    fn a_blank_key_is_no_key_and_others_stay_as_given() {
        for blank in [None, Some(""), Some(" \t")] {
            assert_eq!(Check::new(blank, DEFAULT_WINDOW, NOW), None);
        }
        let check = Check::new(Some(" k "), Millis(1000), NOW).expect("a key");
        assert_eq!(check.key(), " k ");
        assert_eq!(check.since(), Some(Timestamp::from_unix_nanos(9_000_000_000)));
    }

    #[test]
    fn outstanding_comes_first_and_a_window_of_zero_ignores_successes() {
        let judged = |window: u64, outstanding: Option<&str>, recent: Option<&str>| {
            let check = Check::new(Some("k"), Millis(window), NOW).expect("a key");
            judge(&check, outstanding.map(str::to_owned), recent.map(str::to_owned))
                .map(|found| (found.to_string(), found.reason.as_str()))
        };
        assert_eq!(judged(1, None, None), None);
        let text = "job deduplicated for key \"k\" (existing job a)".to_owned();
        assert_eq!(judged(1, Some("a"), Some("b")), Some((text.clone(), "outstanding")));
        assert_eq!(judged(1, None, Some("a")), Some((text, "recent_success")));
        assert_eq!(judged(0, None, Some("a")), None);
        assert!(Check::new(Some("k"), Millis(u64::MAX), NOW).expect("a key").since().is_some());
    }
}
