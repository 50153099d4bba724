//! Retry, cancel and schedule entries, from the caller to the executor and back.

use shared::time::Timestamp;
use shared::wire::gateway::{Job, Reply, Request, Schedule};
use shared::wire::refusal::{Refusal, RefusalKind};
use tests::front_peer::Launched;
use tests::http::{Connection, Response, request};

use super::{RW, check, error, finished, get, job_id, post, refused, through, with_tokens};

const RETRY: &str = "/job/0198-old/retry";
const CANCEL: &str = "/job/0198-old/cancel";
const RW_WRITE: (&str, &str) = ("rw-token", "write");

/// Sends a retry, plays the executor for both of its questions, and gives the second.
fn retried(
    launched: &mut Launched,
    (caller, command): (&str, &str),
    body: Option<&str>,
    reply: Reply,
) -> (Request, Response) {
    let caller = format!("Bearer {caller}");
    let mut connection = Connection::open(launched.front.address);
    connection.send("POST", RETRY, &[("Authorization", &caller)], body.map(str::as_bytes));
    let (call, asked) = launched.executor.request();
    assert!(matches!(&asked, Request::GetJob { job_id } if job_id.as_str() == "0198-old"), "{asked:?}");
    launched.executor.answer(call, Reply::Job(Job { command: command.to_owned(), ..finished() }));
    let (call, asked) = launched.executor.request();
    launched.executor.answer(call, reply);
    (asked, connection.response())
}

#[test]
fn a_retry_reaches_the_executor_with_what_its_caller_may() {
    let mut launched = Launched::start(&with_tokens());
    let accepted =
        "{\"job_id\":\"0198c0de-0000-7000-8000-000000000001\",\"status\":\"queued\",\"plugin\":\"echo\",\"command\":";
    let given = "{ \"n\": 1e400 }";
    let body = format!("{{\"payload\":{given}}}");
    for (caller, command, body, writes) in [
        ("rw-token", "write", None, true),
        ("star-token", "poll", Some(body.as_str()), true),
        ("reader-token", "poll", Some("{}"), false),
        // Of this one the executor may know more than the front.
        ("reader-token", "newer", Some("{\"payload\":{}}"), false),
    ] {
        let reply = Reply::Accepted { job_id: job_id() };
        let (asked, response) = retried(&mut launched, (caller, command), body, reply);
        let Request::RetryJob { job_id: old, payload, may_write, may_read } = asked else { panic!("{asked:?}") };
        assert_eq!((old.as_str(), may_read, may_write), ("0198-old", true, writes), "{caller}");
        let expected = body.and_then(|body| body.strip_prefix("{\"payload\":")?.strip_suffix('}'));
        assert_eq!(payload.as_deref(), expected, "{caller}");
        check(&response, 202, &format!("{accepted}\"{command}\"}}"));
    }
}

#[test]
fn what_may_not_be_retried_is_told_in_the_chapters_words() {
    let mut launched = Launched::start(&with_tokens());
    for (kind, status, text) in [
        (RefusalKind::JobUnknown, 404, "job not found"),
        (RefusalKind::JobNotFinished, 409, "job is not finished"),
        (RefusalKind::PluginUnknown, 400, "plugin not found"),
        (RefusalKind::CommandUnknown, 400, "command not supported by plugin"),
        (RefusalKind::WriteScope, 403, "insufficient scope"),
        (RefusalKind::PayloadNotObject, 400, "payload must be a JSON object"),
        (RefusalKind::Storage, 503, "failed to enqueue job"),
        (RefusalKind::Internal, 500, "failed to enqueue job"),
        (RefusalKind::Unavailable, 503, "executor unavailable"),
    ] {
        let (_, response) = retried(&mut launched, RW_WRITE, None, refused(kind));
        check(&response, status, &error(text));
        assert_eq!(response.header("retry-after").is_some(), status == 503, "{kind:?}");
    }
    // The one text of the executor's that callers see: it names the job that stands for this one.
    let text = "job deduplicated for key \"k\" (existing job 0198-b)";
    let duplicate = Reply::Refused(Refusal::new(RefusalKind::Duplicate, text));
    let (_, response) = retried(&mut launched, RW_WRITE, None, duplicate);
    check(&response, 409, &error(&text.replace('"', "\\\"")));
}

#[test]
fn a_retry_is_checked_before_the_executor_is_asked_for_it() {
    let mut launched = Launched::start(&with_tokens());
    for caller in ["invoke-token", "status-token", "events-token", "none-token"] {
        let caller = format!("Bearer {caller}");
        for path in [RETRY, CANCEL] {
            let headers = [("Authorization", caller.as_str())];
            let response = request(launched.front.address, "POST", path, &headers, Some(b"no JSON"));
            check(&response, 403, &error("insufficient scope"));
        }
    }
    for path in ["/job/a%20b/retry", "/job/%ff/retry", "/job/a%20b/cancel", "/job/%ff/cancel"] {
        check(&request(launched.front.address, "POST", path, &[RW], None), 404, &error("job not found"));
    }
    for path in [RETRY, CANCEL] {
        check(&request(launched.front.address, "GET", path, &[RW], None), 405, &error("method not allowed"));
        check(
            &request(launched.front.address, "POST", path, &[], None),
            401,
            &error("missing or invalid Authorization header"),
        );
    }
    // The scope of the job's command comes before the body, as in a trigger.
    for (caller, command) in [("jobs-token", "poll"), ("jobs-token", "gone"), ("reader-token", "write")] {
        let bearer = format!("Bearer {caller}");
        let headers = [("Authorization", bearer.as_str())];
        let old = Reply::Job(Job { command: command.to_owned(), ..finished() });
        let (_, response) = through(&mut launched, &post(RETRY, &headers, "no JSON"), old);
        check(&response, 403, &error("insufficient scope"));
    }
    let large = " ".repeat(1025);
    for (body, status, text) in [
        ("no JSON", 400, "invalid JSON body"),
        ("[]", 400, "invalid JSON body"),
        ("{\"payload\":[1]}", 400, "payload must be a JSON object"),
        ("{\"payload\":null}", 400, "payload must be a JSON object"),
        (large.as_str(), 413, "payload too large"),
    ] {
        let (asked, response) = through(&mut launched, &post(RETRY, &[RW], body), Reply::Job(finished()));
        assert!(matches!(asked, Request::GetJob { .. }), "{asked:?}");
        check(&response, status, &error(text));
    }
    let (_, response) = through(&mut launched, &post(RETRY, &[RW], "no JSON"), refused(RefusalKind::JobUnknown));
    check(&response, 404, &error("job not found"));
}

#[test]
fn a_cancel_reaches_the_executor_and_its_answer_the_caller() {
    let mut launched = Launched::start(&with_tokens());
    for caller in ["rw-token", "jobs-token", "star-token"] {
        let caller = format!("Bearer {caller}");
        let headers = [("Authorization", caller.as_str())];
        let (asked, response) =
            through(&mut launched, &post(CANCEL, &headers, "passed over"), Reply::Cancelled { job_id: job_id() });
        assert!(matches!(&asked, Request::CancelJob { job_id } if job_id.as_str() == "0198-old"), "{asked:?}");
        check(&response, 200, "{\"job_id\":\"0198c0de-0000-7000-8000-000000000001\",\"status\":\"dead\"}");
    }
    for (kind, status, text) in [
        (RefusalKind::JobUnknown, 404, "job not found"),
        (RefusalKind::JobFinished, 409, "job is already finished"),
        (RefusalKind::Storage, 503, "failed to cancel job"),
        (RefusalKind::Internal, 500, "failed to cancel job"),
        (RefusalKind::Unavailable, 503, "executor unavailable"),
    ] {
        let (_, response) = through(&mut launched, &post(CANCEL, &[RW], ""), refused(kind));
        check(&response, status, &error(text));
    }
}

#[test]
fn schedule_entries_are_shown_as_they_stand() {
    let mut launched = Launched::start(&with_tokens());
    let entry = |id: &str, status: &str, reason: Option<&str>, next: &[i64]| Schedule {
        plugin: "echo".to_owned(),
        schedule_id: id.to_owned(),
        command: "poll".to_owned(),
        mode: "every".to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        timezone: None,
        next: next.iter().map(|&nanos| Timestamp::from_unix_nanos(nanos)).collect(),
    };
    let schedules = vec![
        entry("default", "active", None, &[1_780_650_000_000_000_000]),
        entry("broken", "paused_invalid", Some("cron: bad"), &[]),
        entry("once", "exhausted", None, &[]),
    ];
    let caller = [("Authorization", "Bearer status-token")];
    let (asked, response) = through(&mut launched, &get("/scheduler/jobs", &caller), Reply::Schedules(schedules));
    assert_eq!(asked, Request::Schedules { count: 1 });
    let start = |id: &str| {
        format!("{{\"plugin\":\"echo\",\"schedule_id\":\"{id}\",\"command\":\"poll\",\"mode\":\"every\",\"status\":")
    };
    let (first, second, third) = (start("default"), start("broken"), start("once"));
    check(
        &response,
        200,
        &format!(
            "{{\"jobs\":[{first}\"scheduled\",\"next_run_at\":\"2026-06-05T09:00:00.000000000Z\"}},\
             {second}\"invalid\",\"reason\":\"cron: bad\"}},{third}\"exhausted\"}}]}}"
        ),
    );
    let (_, response) = through(&mut launched, &get("/scheduler/jobs", &[RW]), Reply::Schedules(Vec::new()));
    check(&response, 200, "{\"jobs\":[]}");
    let (_, response) = through(&mut launched, &get("/scheduler/jobs", &[RW]), refused(RefusalKind::Internal));
    check(&response, 500, &error("failed to retrieve schedules"));
    let caller = [("Authorization", "Bearer invoke-token")];
    let response = request(launched.front.address, "GET", "/scheduler/jobs", &caller, None);
    check(&response, 403, &error("insufficient scope"));
}
