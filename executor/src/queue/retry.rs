//! Whether a failed attempt is tried again, and when (`spec/queue-and-scheduler.md` 5).

use std::time::Duration;

use shared::time::Millis;

/// Back-off base of a plugin that says nothing else.
pub const DEFAULT_BACKOFF_BASE: Millis = Millis::from_secs(30);

/// The longest delay, in the nanoseconds that the reference counts durations in; more overflows.
const MAX_DELAY: u64 = 9_223_372_036_854;

/// Why an attempt failed, or why it is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    PluginError,
    /// The plugin answered `retry: false`.
    PluginRetryFalse,
    /// The plugin's own word for a configuration error.
    ExitCode78,
    Timeout,
    SpawnError,
    NilResponse,
    AttemptsExhausted,
}

impl FailureReason {
    /// As published in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PluginError => "plugin_error",
            Self::PluginRetryFalse => "plugin_retry_false",
            Self::ExitCode78 => "exit_code_78",
            Self::Timeout => "timeout",
            Self::SpawnError => "spawn_error",
            Self::NilResponse => "nil_response",
            Self::AttemptsExhausted => "attempts_exhausted",
        }
    }

    /// Whether another attempt could help at all.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::PluginRetryFalse | Self::ExitCode78 | Self::AttemptsExhausted)
    }
}

/// What becomes of a job whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Queued again as the next attempt, not before `delay` has passed.
    Retry { delay: Millis },
    /// It ends with the status of this attempt.
    Final,
}

/// Decides after attempt number `attempt`. `jitter` lies in 0..=1 and is drawn by the caller; what
/// is outside, or not a number, is moved to the nearer end.
pub fn decide(reason: FailureReason, attempt: u32, max_attempts: u32, backoff_base: Millis, jitter: f64) -> Decision {
    if reason.is_retryable() && attempt < max_attempts {
        Decision::Retry { delay: delay(attempt, backoff_base, jitter) }
    } else {
        Decision::Final
    }
}

/// base * 2^(attempt - 1) + uniform[0, base/4]. What overflows falls back to the base.
pub fn delay(attempt: u32, backoff_base: Millis, jitter: f64) -> Millis {
    let base = backoff_base.0;
    let doubled = 2u64
        .checked_pow(attempt.saturating_sub(1))
        .and_then(|factor| base.checked_mul(factor))
        .filter(|delay| *delay <= MAX_DELAY)
        .unwrap_or(base);
    let share = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    // A base of more than 292 years is already past every clock; its jitter does not matter.
    let spread = Duration::from_millis(base.min(MAX_DELAY) / 4).mul_f64(share);
    Millis(doubled.saturating_add(u64::try_from(spread.as_millis()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_jitter_adds_at_most_a_quarter() {
        let check = |attempt, jitter, millis| {
            assert_eq!(delay(attempt, DEFAULT_BACKOFF_BASE, jitter), Millis(millis), "{attempt} {jitter}");
        };
        check(1, 0.0, 30_000);
        check(1, 1.0, 37_500);
        check(2, 0.0, 60_000);
        check(2, 1.0, 67_500);
        check(3, 0.5, 123_750);
        check(0, 0.0, 30_000);
        check(1, -4.0, 30_000);
        check(1, 7.0, 37_500);
        check(1, f64::NAN, 30_000);
        check(1, f64::INFINITY, 37_500);
    }

    #[test]
    fn overflow_falls_back_to_the_base() {
        assert_eq!(delay(64, DEFAULT_BACKOFF_BASE, 0.0), DEFAULT_BACKOFF_BASE);
        assert_eq!(delay(65, Millis(1), 0.0), Millis(1));
        assert_eq!(delay(u32::MAX, Millis(1000), 0.0), Millis(1000));
        assert_eq!(delay(30, DEFAULT_BACKOFF_BASE, 0.0), DEFAULT_BACKOFF_BASE);
        assert_eq!(delay(5, Millis(0), 1.0), Millis(0));
        assert_eq!(delay(2, Millis(u64::MAX), 0.0), Millis(u64::MAX));
    }

    #[test]
    fn only_what_may_help_is_tried_again_and_only_while_attempts_are_left() {
        use FailureReason::{
            AttemptsExhausted, ExitCode78, NilResponse, PluginError, PluginRetryFalse, SpawnError, Timeout,
        };
        let check = |reason: FailureReason, retried: bool, text: &str| {
            let first = decide(reason, 1, 4, DEFAULT_BACKOFF_BASE, 0.0);
            assert_eq!(first != Decision::Final, retried, "{text}");
            assert_eq!(decide(reason, 4, 4, DEFAULT_BACKOFF_BASE, 0.0), Decision::Final, "{text}");
            assert_eq!(reason.as_str(), text);
        };
        check(PluginError, true, "plugin_error");
        check(Timeout, true, "timeout");
        check(SpawnError, true, "spawn_error");
        check(NilResponse, true, "nil_response");
        check(PluginRetryFalse, false, "plugin_retry_false");
        check(ExitCode78, false, "exit_code_78");
        check(AttemptsExhausted, false, "attempts_exhausted");
        assert_eq!(decide(PluginError, 3, 4, Millis(1000), 0.0), Decision::Retry { delay: Millis(4000) });
    }
}
