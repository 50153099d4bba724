//! What a run amounts to (`spec/plugins.md` 6): its status, the text that says why, and whether it
//! may be tried again. Pure.

use std::borrow::Cow;

use shared::time::Millis;
use shared::wire::gateway::JobStatus;
use shared::wire::refusal::RefusalKind;
use shared::wire::spawner::{Exit, RunRefusal};

use super::protocol::{self, Response, Status};
use super::supervise::STDOUT_MAX;
use crate::queue::retry::FailureReason;

/// What stands in the place of a text that the agent could not scrub (`spec/vault.md` 17.5).
pub const WITHHELD: &str = "[withheld: scrub unavailable]";

/// The exit code that asks not to be tried again.
const EXIT_DO_NOT_RETRY: i32 = 78;

/// What came back from a run, after the agent's scrub where the run had secrets.
#[derive(Debug)]
pub struct Finished<'a> {
    pub exit: Exit,
    pub timed_out: bool,
    /// `None` when it was withheld.
    pub stdout: Option<&'a [u8]>,
    pub stdout_cut: bool,
    pub timeout: Millis,
}

/// The result of one attempt.
#[derive(Debug)]
pub struct Verdict<'a> {
    pub status: JobStatus,
    pub failure: Option<Failure>,
    /// What `job_log.result` holds.
    pub result: Option<Cow<'a, str>>,
    /// The plugin's answer, when it was valid and `ok`.
    pub response: Option<Response<'a>>,
}

/// Why an attempt failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: String,
    /// `None`: never tried again, and no retry decision is made.
    pub reason: Option<FailureReason>,
    /// The agent saw other bytes than those that were locked.
    pub is_security_event: bool,
}

impl Failure {
    /// Tried again while attempts are left, as the reason says.
    pub fn with_reason(error: impl Into<String>, reason: FailureReason) -> Self {
        Self { error: error.into(), reason: Some(reason), is_security_event: false }
    }

    /// Never tried again.
    pub fn terminal(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: None, is_security_event: false }
    }
}

/// Judges a run that ended.
pub fn judge<'a>(finished: &Finished<'a>) -> Verdict<'a> {
    if let Exit::StartFailed { step, errno } = finished.exit {
        let why = std::io::Error::from_raw_os_error(errno);
        let failure = if step.is_drop() {
            Failure::terminal(format!("privsep: account uid/gid drop failed at spawn: {}: {why}", step.as_str()))
        } else {
            let text = format!("plugin spawn failed: start process: {}: {why}", step.as_str());
            Failure::with_reason(text, FailureReason::SpawnError)
        };
        return failed(JobStatus::Failed, failure, None);
    }
    if finished.timed_out {
        let text = format!("plugin execution timed out after {}", finished.timeout);
        return failed(JobStatus::TimedOut, Failure::with_reason(text, FailureReason::Timeout), None);
    }
    let Some(stdout) = finished.stdout else {
        let failure = Failure::with_reason("plugin output withheld: scrub unavailable", FailureReason::SpawnError);
        return failed(JobStatus::Failed, failure, Some(Cow::Borrowed(WITHHELD)));
    };
    let result = if stdout.is_empty() { None } else { Some(String::from_utf8_lossy(stdout)) };
    let spawn_error = |text: String| {
        let reason = unless_78(finished.exit, FailureReason::SpawnError);
        Failure::with_reason(format!("plugin spawn failed: {text}"), reason)
    };
    if finished.stdout_cut {
        return failed(JobStatus::Failed, spawn_error(format!("stdout exceeds {STDOUT_MAX} bytes")), result);
    }
    match protocol::decode(stdout) {
        Err(error) => failed(JobStatus::Failed, spawn_error(format!("decode response: {error}")), result),
        Ok(Response { status: Status::Error { message, may_retry }, .. }) => {
            let reason = if may_retry { FailureReason::PluginError } else { FailureReason::PluginRetryFalse };
            let failure = Failure::with_reason(message, unless_78(finished.exit, reason));
            failed(JobStatus::Failed, failure, result)
        }
        Ok(response) => Verdict { status: JobStatus::Succeeded, failure: None, result, response: Some(response) },
    }
}

/// Judges a run that was refused before any child existed.
pub fn judge_refusal(refusal: &RunRefusal, account: Option<&str>) -> Failure {
    match refusal {
        RunRefusal::AgentUnavailable => {
            Failure::with_reason("secret composition failed: vault agent unavailable", FailureReason::SpawnError)
        }
        RunRefusal::Denied(refusal) => {
            let is_security_event = matches!(refusal.kind, RefusalKind::FingerprintMismatch | RefusalKind::UnsafePath);
            let kind = if is_security_event { "fingerprint_mismatch: " } else { "" };
            let error = format!("secret composition failed: {kind}{}", refusal.message);
            Failure { error, reason: None, is_security_event }
        }
        RunRefusal::Pipe { text } => Failure::with_reason(
            format!("secret composition failed: the pipe will not do: {text}"),
            FailureReason::SpawnError,
        ),
        RunRefusal::NotConfigured => Failure::terminal("plugin spawn failed: the spawner has no accounts yet"),
        RunRefusal::UnknownAccount => Failure::terminal(format!(
            "privsep: account uid/gid drop failed at spawn: unknown account {:?}",
            account.unwrap_or_default()
        )),
        RunRefusal::Start { text } => {
            Failure::with_reason(format!("plugin spawn failed: start process: {text}"), FailureReason::SpawnError)
        }
    }
}

fn unless_78(exit: Exit, reason: FailureReason) -> FailureReason {
    if exit == Exit::Code(EXIT_DO_NOT_RETRY) { FailureReason::ExitCode78 } else { reason }
}

fn failed<'a>(status: JobStatus, failure: Failure, result: Option<Cow<'a, str>>) -> Verdict<'a> {
    Verdict { status, failure: Some(failure), result, response: None }
}

#[cfg(test)]
mod tests {
    use shared::wire::refusal::Refusal;
    use shared::wire::spawner::Step;

    use super::*;

    fn finished(stdout: &str, exit: Exit) -> Finished<'_> {
        let stdout = Some(stdout.as_bytes());
        Finished { exit, timed_out: false, stdout, stdout_cut: false, timeout: Millis::from_secs(60) }
    }

    fn check(
        finished: &Finished<'_>,
        status: JobStatus,
        error: &str,
        reason: Option<FailureReason>,
        result: Option<&str>,
    ) {
        let verdict = judge(finished);
        assert_eq!(verdict.status, status, "{finished:?}");
        let failure = verdict.failure.expect("a failure");
        assert!(failure.error.starts_with(error), "{}", failure.error);
        assert_eq!(failure.reason, reason);
        assert_eq!(verdict.result.as_deref(), result);
    }

    const OK: &str = "{\"status\":\"ok\",\"result\":\"r\"}";

    #[test]
    fn a_valid_ok_succeeds_whatever_the_exit() {
        for exit in [Exit::Code(0), Exit::Code(78), Exit::Signal(9)] {
            let verdict = judge(&finished(OK, exit));
            assert_eq!(verdict.status, JobStatus::Succeeded);
            assert!(verdict.failure.is_none() && verdict.response.is_some());
            assert_eq!(verdict.result.as_deref(), Some(OK));
        }
    }

    #[test]
    fn failures_follow_the_matrix() {
        use FailureReason::{ExitCode78, PluginError, PluginRetryFalse, SpawnError, Timeout};
        let error = "{\"status\":\"error\",\"error\":\"boom\"}";
        check(&finished(error, Exit::Code(1)), JobStatus::Failed, "boom", Some(PluginError), Some(error));
        check(&finished(error, Exit::Code(78)), JobStatus::Failed, "boom", Some(ExitCode78), Some(error));
        let no_retry = "{\"status\":\"error\",\"error\":\"boom\",\"retry\":false}";
        check(&finished(no_retry, Exit::Code(0)), JobStatus::Failed, "boom", Some(PluginRetryFalse), Some(no_retry));
        let decode = "plugin spawn failed: decode response: plugin output is not valid JSON";
        check(
            &finished("{not-json\n", Exit::Code(0)),
            JobStatus::Failed,
            decode,
            Some(SpawnError),
            Some("{not-json\n"),
        );
        let nothing = "plugin spawn failed: decode response: plugin produced no output on stdout";
        check(&finished("", Exit::Signal(11)), JobStatus::Failed, nothing, Some(SpawnError), None);
        let late = Finished { timed_out: true, ..finished(OK, Exit::Signal(15)) };
        check(&late, JobStatus::TimedOut, "plugin execution timed out after 1m0s", Some(Timeout), None);
        let cut = Finished { stdout_cut: true, ..finished(OK, Exit::Code(0)) };
        check(
            &cut,
            JobStatus::Failed,
            "plugin spawn failed: stdout exceeds 10485760 bytes",
            Some(SpawnError),
            Some(OK),
        );
        let withheld = Finished { stdout: None, ..finished("", Exit::Code(0)) };
        let text = "plugin output withheld: scrub unavailable";
        check(&withheld, JobStatus::Failed, text, Some(SpawnError), Some(WITHHELD));
    }

    #[test]
    fn a_start_that_failed_is_told_from_a_drop_that_failed() {
        let exec = finished("", Exit::StartFailed { step: Step::Exec, errno: 8 });
        let text = "plugin spawn failed: start process: exec: ";
        check(&exec, JobStatus::Failed, text, Some(FailureReason::SpawnError), None);
        let drop = finished("", Exit::StartFailed { step: Step::Uid, errno: 1 });
        check(&drop, JobStatus::Failed, "privsep: account uid/gid drop failed at spawn", None, None);
    }

    #[test]
    fn refusals_before_the_spawn_keep_their_words() {
        let denied = Refusal::new(RefusalKind::FingerprintMismatch, "vault: other bytes");
        let failure = judge_refusal(&RunRefusal::Denied(denied), None);
        assert_eq!(failure.error, "secret composition failed: fingerprint_mismatch: vault: other bytes");
        assert!(failure.is_security_event && failure.reason.is_none());
        let failure = judge_refusal(&RunRefusal::AgentUnavailable, None);
        assert_eq!(failure.reason, Some(FailureReason::SpawnError));
    }
}
