//! Triggers and jobs, from the caller to the executor and back.

use shared::time::Millis;
use shared::wire::gateway::{Reply, Request};
use shared::wire::refusal::RefusalKind;
use tests::front_peer::Launched;
use tests::http::{Connection, request};

use super::{Ask, RW, check, error, finished, get, job_id, post, refused, through, with_tokens};

#[test]
fn a_trigger_is_checked_in_the_chapters_order() {
    let launched = Launched::start(&with_tokens());
    let answer = |path: &str, caller: &str, body: &str, status: u16, text: &str| {
        let caller = format!("Bearer {caller}");
        let response =
            request(launched.front.address, "POST", path, &[("Authorization", &caller)], Some(body.as_bytes()));
        assert_eq!((response.status, &response.body), (status, &error(text)), "{path} {caller} {body:.40}");
    };
    let bad = "no JSON";
    answer("/plugin/nowhere/nothing", "invoke-token", bad, 400, "plugin not found");
    answer("/plugin/off/poll", "rw-token", bad, 400, "plugin not found");
    answer("/plugin/%ff/poll", "rw-token", bad, 400, "plugin not found");
    answer("/plugin/..%2fecho/poll", "rw-token", bad, 400, "plugin not found");
    answer("/plugin/echo/nothing", "invoke-token", bad, 400, "command not supported by plugin");
    answer("/plugin/echo/write", "invoke-token", bad, 403, "insufficient scope");
    answer("/plugin/echo/poll", "invoke-token", bad, 400, "invalid JSON body");
    answer("/plugin/echo/write", "star-token", bad, 400, "invalid JSON body");
    answer("/plugin/echo/poll", "rw-token", "{\"payload\":[1]}", 400, "payload must be a JSON object");
    answer("/plugin/echo/handle", "rw-token", "{\"payload\":\"x\"}", 400, "payload must be a JSON object");
    answer("/plugin/echo/poll", "rw-token", &" ".repeat(1025), 413, "payload too large");
    answer("/plugin/echo/poll", "rw-token", &" ".repeat(8 << 20), 413, "payload too large");
}

#[test]
fn a_trigger_reaches_the_executor_as_it_came() {
    let mut launched = Launched::start(&with_tokens());
    let accepted = "{\"job_id\":\"0198c0de-0000-7000-8000-000000000001\",\"status\":\"queued\",\"plugin\":\"echo\",\"command\":\"poll\"}";
    let payload = "{ \"n\": 1e400,\"n\":-0.10, \"t\":\"\\u0000ü\" }";
    let body = format!("{{\"x\":[],\"payload\":{payload}}}");
    let (asked, response) =
        through(&mut launched, &post("/plugin/echo/poll", &[RW], &body), Reply::Accepted { job_id: job_id() });
    let Request::Trigger { plugin, command, payload: sent, may_write, wait } = asked else { panic!("{asked:?}") };
    assert_eq!((plugin.as_str(), command.as_str()), ("echo", "poll"));
    assert_eq!((sent.as_deref(), may_write, wait), (Some(payload), true, Millis(0)));
    check(&response, 202, accepted);

    let caller = [("Authorization", "Bearer invoke-token")];
    let none = Ask { method: "POST", path: "/plugin/ech%6F/poll", headers: &caller, body: None };
    let (asked, response) = through(&mut launched, &none, Reply::Accepted { job_id: job_id() });
    let Request::Trigger { payload: sent, may_write, .. } = asked else { panic!("{asked:?}") };
    assert_eq!((sent, may_write), (None, false));
    check(&response, 202, accepted);
}

#[test]
fn a_chunked_body_counts_like_any_other() {
    let mut launched = Launched::start(&with_tokens());
    let mut connection = Connection::open(launched.front.address);
    let head = "POST /plugin/echo/poll HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer rw-token\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.raw(head.as_bytes());
    for chunk in ["{\"pay", "load\":", "{\"a\":1}", "}"] {
        connection.raw(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
    }
    connection.raw(b"0\r\n\r\n");
    let (call, asked) = launched.executor.request();
    assert!(matches!(&asked, Request::Trigger { payload: Some(text), .. } if text == "{\"a\":1}"), "{asked:?}");
    launched.executor.answer(call, Reply::Accepted { job_id: job_id() });
    assert_eq!(connection.response().status, 202);

    connection.raw(head.as_bytes());
    for _ in 0..3 {
        connection.raw(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes());
    }
    check(&connection.response(), 413, &error("payload too large"));

    let mut connection = Connection::open(launched.front.address);
    connection.raw(head.as_bytes());
    connection.raw(b"zz\r\nxx\r\n");
    check(&connection.response(), 400, &error("invalid JSON body"));
}

#[test]
fn what_the_executor_refuses_is_told_in_the_chapters_words() {
    let mut launched = Launched::start(&with_tokens());
    for (kind, status, text) in [
        (RefusalKind::PluginUnknown, 400, "plugin not found"),
        (RefusalKind::CommandUnknown, 400, "command not supported by plugin"),
        (RefusalKind::WriteScope, 403, "insufficient scope"),
        (RefusalKind::PayloadNotObject, 400, "payload must be a JSON object"),
        (RefusalKind::Storage, 503, "failed to enqueue job"),
        (RefusalKind::Internal, 500, "failed to enqueue job"),
        (RefusalKind::VaultAbsent, 500, "failed to enqueue job"),
        (RefusalKind::Unavailable, 503, "executor unavailable"),
        (RefusalKind::TooManyWaiting, 503, "too many concurrent synchronous requests"),
    ] {
        let (_, response) = through(&mut launched, &post("/plugin/echo/poll", &[RW], "{}"), refused(kind));
        check(&response, status, &error(text));
        assert_eq!(response.header("retry-after").is_some(), status == 503, "{kind:?}");
    }
    for (kind, status, text) in [
        (RefusalKind::JobUnknown, 404, "job not found"),
        (RefusalKind::Storage, 503, "failed to retrieve job"),
        (RefusalKind::Internal, 500, "failed to retrieve job"),
    ] {
        let (_, response) = through(&mut launched, &get("/job/abc", &[RW]), refused(kind));
        check(&response, status, &error(text));
    }
}

#[test]
fn a_caller_may_prefer_to_wait() {
    let mut launched = Launched::start(&with_tokens());
    let whole = "{\"job_id\":\"0198c0de-0000-7000-8000-000000000001\",\"status\":\"succeeded\",\"plugin\":\"echo\",\"command\":\"poll\",\"result\":{\"status\":\"ok\",\"n\":12345678901234567890.5},\"started_at\":\"2026-01-01T00:00:00.000000001Z\",\"completed_at\":\"2026-01-01T00:00:01.000000002Z\"}";
    for (prefer, wait, applied) in
        [("wait=7", 7, "wait=7"), ("respond-async, Wait=\"5\"", 5, "wait=5"), ("wait=99999", 30, "wait=30")]
    {
        let headers = [RW, ("Prefer", prefer)];
        let ask = post("/plugin/echo/poll", &headers, "{}");
        let (asked, response) = through(&mut launched, &ask, Reply::Finished(finished()));
        assert!(matches!(&asked, Request::Trigger { wait: sent, .. } if *sent == Millis::from_secs(wait)), "{asked:?}");
        check(&response, 200, whole);
        assert_eq!(response.header("preference-applied").as_deref(), Some(applied));
    }
    for prefer in ["wait", "wait=", "wait=-1", "wait=soon", "wait=0", "waiting=5"] {
        let headers = [RW, ("Prefer", prefer)];
        let ask = post("/plugin/echo/poll", &headers, "{}");
        let (asked, response) = through(&mut launched, &ask, Reply::Accepted { job_id: job_id() });
        assert!(matches!(&asked, Request::Trigger { wait: Millis(0), .. }), "{asked:?}");
        assert_eq!((response.status, response.header("preference-applied")), (202, None));
    }
    // Not finished in that time: the ordinary answer.
    let ask = post("/plugin/echo/poll", &[RW, ("Prefer", "wait=1")], "{}");
    let (_, response) = through(&mut launched, &ask, Reply::Accepted { job_id: job_id() });
    assert_eq!((response.status, response.header("preference-applied")), (202, None));
    // Who may not see results does not see this one.
    let ask = post("/plugin/echo/poll", &[("Authorization", "Bearer invoke-token"), ("Prefer", "wait=1")], "{}");
    let (_, response) = through(&mut launched, &ask, Reply::Finished(finished()));
    assert!(response.status == 200 && !response.body.contains("result"), "{response:?}");
}

#[test]
fn a_job_is_shaped_by_what_its_reader_may_see() {
    let mut launched = Launched::start(&with_tokens());
    for (caller, sees) in [("rw-token", true), ("star-token", true), ("status-token", false)] {
        let authorization = format!("Bearer {caller}");
        let headers = [("Authorization", authorization.as_str())];
        let (asked, response) = through(&mut launched, &get("/job/0198c0de", &headers), Reply::Job(finished()));
        assert!(matches!(&asked, Request::GetJob { job_id } if job_id.as_str() == "0198c0de"), "{asked:?}");
        assert_eq!((response.status, response.body.contains("\"result\":{\"status\":\"ok\"")), (200, sees), "{caller}");
    }
    let long = format!("/job/{}", "a".repeat(129));
    for path in ["/job/a%20b", "/job/%ff", "/job/a%2fb", long.as_str()] {
        let response = request(launched.front.address, "GET", path, &[RW], None);
        check(&response, 404, &error("job not found"));
    }
}
