//! The circuit breaker of one plugin and command (`spec/queue-and-scheduler.md` 8). Pure: it counts
//! what scheduled jobs came to and says whether another may be enqueued.

use shared::time::{Millis, Timestamp};

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Closed, Self::Open, Self::HalfOpen].into_iter().find(|state| state.as_str() == text)
    }
}

/// One row of `circuit_breakers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    pub state: State,
    pub failure_count: u32,
    pub opened_at: Option<Timestamp>,
    pub last_failure_at: Option<Timestamp>,
    pub last_job_id: Option<String>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, failure_count: 0, opened_at: None, last_failure_at: None, last_job_id: None }
    }
}

/// Why a breaker changed its state; as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    FailureThreshold,
    Success,
    CooldownElapsed,
    ManualReset,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailureThreshold => "failure_threshold",
            Self::Success => "success",
            Self::CooldownElapsed => "cooldown_elapsed",
            Self::ManualReset => "manual_reset",
        }
    }
}

/// A change of state, for `circuit_breaker_transitions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// `None` when there was no row.
    pub from: Option<State>,
    pub to: State,
    pub failure_count: u32,
    pub reason: Reason,
    pub job_id: Option<String>,
    pub at: Timestamp,
}

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub threshold: u32,
    pub reset_after: Millis,
}

/// Whether a scheduled job may be enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Pass,
    /// One probe may: the breaker is half open from now on.
    Probe(Breaker, Transition),
    /// Not before this time; `None`: not before the probe that is under way has ended.
    Shut { until: Option<Timestamp> },
}

impl Breaker {
    /// A scheduled job has ended for good. `had_row`: this state was stored before.
    #[must_use]
    pub fn completed(
        &self,
        rule: Rule,
        had_row: bool,
        job_id: &str,
        succeeded: bool,
        at: Timestamp,
    ) -> (Self, Option<Transition>) {
        let last_job_id = Some(job_id.to_owned());
        let after = if succeeded {
            Self { last_job_id, ..Self::default() }
        } else {
            let failure_count = self.failure_count.saturating_add(1);
            let opens = failure_count >= rule.threshold;
            let (state, opened_at) = if opens { (State::Open, Some(at)) } else { (State::Closed, None) };
            Self { state, failure_count, opened_at, last_failure_at: Some(at), last_job_id }
        };
        let reason = if succeeded { Reason::Success } else { Reason::FailureThreshold };
        let is_change = after.state != self.state;
        let transition = is_change.then(|| self.transition(&after, had_row, reason, Some(job_id), at));
        (after, transition)
    }

    /// Whether a scheduled job may be enqueued. While a probe is under way no other one is.
    #[must_use]
    pub fn gate(&self, rule: Rule, now: Timestamp, probe_is_outstanding: bool) -> Gate {
        match self.state {
            State::Closed => Gate::Pass,
            State::HalfOpen if probe_is_outstanding => Gate::Shut { until: None },
            // Its probe is gone without an end, as after a cancel: another one may try.
            State::HalfOpen => Gate::Pass,
            State::Open => {
                let until = self.opened_at.map(|opened| opened.plus(rule.reset_after)).filter(|until| *until > now);
                // A breaker that opened in the future was opened before the clock went back.
                let until = until.filter(|until| *until <= now.plus(rule.reset_after));
                if until.is_some() {
                    return Gate::Shut { until };
                }
                let after = Self { state: State::HalfOpen, ..self.clone() };
                let transition = self.transition(&after, true, Reason::CooldownElapsed, None, now);
                Gate::Probe(after, transition)
            }
        }
    }

    /// An operator closes it. What was counted last is not counted again.
    #[must_use]
    pub fn reset(&self, had_row: bool, at: Timestamp) -> (Self, Transition) {
        let after = Self { last_job_id: self.last_job_id.clone(), ..Self::default() };
        let transition = self.transition(&after, had_row, Reason::ManualReset, None, at);
        (after, transition)
    }

    fn transition(
        &self,
        after: &Self,
        had_row: bool,
        reason: Reason,
        job_id: Option<&str>,
        at: Timestamp,
    ) -> Transition {
        Transition {
            from: had_row.then_some(self.state),
            to: after.state,
            failure_count: after.failure_count,
            reason,
            job_id: job_id.map(str::to_owned),
            at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { threshold: 3, reset_after: Millis::from_secs(60) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_nanos(seconds * 1_000_000_000)
    }

    fn failed(times: i64) -> Breaker {
        (1..=times).fold(Breaker::default(), |breaker, n| breaker.completed(RULE, true, "job", false, at(n)).0)
    }

    #[test]
    fn it_opens_at_the_threshold_and_a_success_closes_it() {
        assert_eq!((failed(2).state, failed(2).failure_count), (State::Closed, 2));
        let (open, transition) = failed(2).completed(RULE, true, "job-3", false, at(3));
        let transition = transition.expect("a change");
        assert_eq!((open.state, open.opened_at, open.failure_count), (State::Open, Some(at(3)), 3));
        assert_eq!((transition.from, transition.reason), (Some(State::Closed), Reason::FailureThreshold));
        let (closed, transition) = open.completed(RULE, true, "job-4", true, at(4));
        assert_eq!((closed.state, closed.failure_count, closed.opened_at), (State::Closed, 0, None));
        assert_eq!(transition.expect("a change").reason, Reason::Success);
        assert_eq!(closed.completed(RULE, true, "job-5", true, at(5)).1, None);
    }

    #[test]
    fn after_the_cool_down_one_probe_may_try_and_its_failure_opens_again() {
        let open = failed(3);
        assert_eq!(open.gate(RULE, at(62), false), Gate::Shut { until: Some(at(63)) });
        let Gate::Probe(half, transition) = open.gate(RULE, at(63), false) else { panic!("a probe") };
        assert_eq!((half.state, transition.reason), (State::HalfOpen, Reason::CooldownElapsed));
        assert_eq!(half.gate(RULE, at(64), true), Gate::Shut { until: None });
        assert_eq!(half.gate(RULE, at(64), false), Gate::Pass);
        let (again, transition) = half.completed(RULE, true, "job", false, at(65));
        assert_eq!((again.state, again.opened_at), (State::Open, Some(at(65))));
        assert_eq!(transition.expect("a change").from, Some(State::HalfOpen));
    }

    #[test]
    fn a_clock_that_went_back_does_not_keep_it_open() {
        assert!(matches!(failed(3).gate(RULE, at(-86_400), false), Gate::Probe(..)));
    }

    #[test]
    fn a_reset_keeps_the_job_that_was_counted_last() {
        let (closed, transition) = failed(3).reset(true, at(9));
        assert_eq!((closed.state, closed.failure_count), (State::Closed, 0));
        assert_eq!(closed.last_job_id.as_deref(), Some("job"));
        assert_eq!((transition.from, transition.reason), (Some(State::Open), Reason::ManualReset));
        assert_eq!(Breaker::default().reset(false, at(9)).1.from, None);
    }
}
