//! The line to the executor and the launcher's form, from start to end; hostile callers and peers.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use shared::wire::frame::{EXECUTOR_MAX, Envelope, to_frame};
use shared::wire::gateway::{FrontConfig, Job, Posture, Reply, Request};
use shared::wire::hello::Hello;
use shared::wire::launch::Started;
use tests::front_peer::{Launched, config, ductile_api, launch, seqpacket, started, token};
use tests::http::{Connection, request};

use super::{RW, check, error, finished, get, health, through, with_tokens};

#[test]
fn answers_find_their_callers_in_any_order() {
    let mut launched = Launched::start(&with_tokens());
    let mut callers = Vec::new();
    for number in 0..8 {
        let mut connection = Connection::open(launched.front.address);
        connection.send("GET", &format!("/job/job-{number}"), &[RW], None);
        callers.push(connection);
    }
    let mut calls: Vec<(u64, Request)> = (0..8).map(|_| launched.executor.request()).collect();
    calls.reverse();
    for (call, asked) in calls {
        let Request::GetJob { job_id } = asked else { panic!("{asked:?}") };
        launched.executor.answer(call, Reply::Job(Job { job_id, ..finished() }));
    }
    for (number, connection) in callers.iter_mut().enumerate() {
        assert!(connection.response().body.contains(&format!("\"job_id\":\"job-{number}\"")));
    }
}

#[test]
fn a_reload_comes_as_a_notice() {
    let mut launched = Launched::start(&with_tokens());
    assert_eq!(request(launched.front.address, "GET", "/plugins", &[RW], None).status, 200);
    let tokens = vec![token("new-token", &[])];
    launched.executor.answer(0, Reply::FrontConfig(FrontConfig { tokens, ..config() }));
    // The health call behind the notice proves that the notice was taken.
    let (_, response) = through(&mut launched, &get("/healthz", &[]), health());
    assert_eq!(response.status, 200);
    check(&request(launched.front.address, "GET", "/plugins", &[RW], None), 401, &error("invalid token"));
    let new = [("Authorization", "Bearer new-token")];
    assert_eq!(request(launched.front.address, "GET", "/plugins", &new, None).status, 200);
}

#[test]
fn requests_may_follow_each_other_on_one_connection() {
    let launched = Launched::start(&with_tokens());
    let mut connection = Connection::open(launched.front.address);
    let one = "GET /plugins HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer rw-token\r\n\r\n";
    connection.raw(format!("{one}GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n{one}").as_bytes());
    assert_eq!([200, 404, 200].map(|_| connection.response().status), [200, 404, 200]);
}

#[test]
fn what_is_no_request_is_refused_and_the_front_lives() {
    let mut launched = Launched::start(&with_tokens());
    let long = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Long: {}\r\n\r\n", "x".repeat(300_000));
    let many = format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "a: b\r\n".repeat(500));
    for (bytes, statuses) in [
        (long.as_bytes(), &[431][..]),
        (many.as_bytes(), &[431]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]),
        (b"GET /\r\n\r\n", &[400]),
        (b"POST /plugin/echo/poll HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", &[400]),
        (b"POST /plugin/echo/poll HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", &[400]),
        (b"GET /\0 HTTP/1.1\r\nHost: t\r\n\r\n", &[400]),
    ] {
        let mut connection = Connection::open(launched.front.address);
        connection.raw(bytes);
        if let Ok(response) = connection.try_response() {
            assert!(statuses.contains(&response.status), "{response:?}");
        }
        connection.wait_closed();
    }
    let (_, response) = through(&mut launched, &get("/healthz", &[]), health());
    assert_eq!(response.status, 200);
}

#[test]
fn a_slow_caller_and_a_slow_executor_are_given_up() {
    let mut launched = Launched::start(&with_tokens());
    let begun = Instant::now();
    let mut head = Connection::open(launched.front.address);
    head.raw(b"GET /healthz HTTP/1.1\r\nHost:");
    let mut body = Connection::open(launched.front.address);
    body.raw(
        b"POST /plugin/echo/poll HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer rw-token\r\nContent-Length: 9\r\n\r\n{",
    );
    let mut unanswered = Connection::open(launched.front.address);
    unanswered.send("GET", "/job/1", &[RW], None);
    let (call, _) = launched.executor.request();
    check(&unanswered.response(), 503, &error("executor unavailable"));
    assert!(begun.elapsed() >= Duration::from_secs(5));
    // An answer that comes too late is passed over.
    launched.executor.answer(call, Reply::Job(finished()));
    check(&body.response(), 408, &error("request timeout"));
    head.wait_closed();
    assert!(begun.elapsed() >= Duration::from_secs(10));
    let (_, response) = through(&mut launched, &get("/healthz", &[]), health());
    assert_eq!(response.status, 200);
}

#[test]
fn a_child_of_the_launcher_ends_with_either_line() {
    let mut launched = Launched::start(&with_tokens());
    drop(launched.launcher);
    assert_eq!(launched.front.exit_code(), Some(0));

    let mut launched = Launched::start(&with_tokens());
    drop(launched.executor);
    assert_eq!(launched.front.exit_code(), Some(1));
    launched.front.logged(&["stopping", "executor gone"]);

    let job = to_frame(&Envelope { call: 999, body: Reply::Done }, EXECUTOR_MAX).expect("fits");
    let notice = to_frame(&Envelope { call: 0, body: Reply::Done }, EXECUTOR_MAX).expect("fits");
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x03\0\0\0\x01\xff\xff", b"\0\0\0\0", &job, &notice] {
        let mut launched = Launched::start(&with_tokens());
        launched.executor.raw(garbage);
        launched.executor.wait_closed();
        assert_eq!(launched.front.exit_code(), Some(1), "{garbage:?}");
    }
}

#[test]
fn an_answer_of_another_kind_closes_the_line() {
    let mut launched = Launched::start(&with_tokens());
    let (_, response) = through(&mut launched, &get("/job/1", &[RW]), Reply::Done);
    check(&response, 503, &error("executor unavailable"));
    launched.executor.wait_closed();
    assert_eq!(launched.front.exit_code(), Some(1));
}

#[test]
fn what_was_begun_is_finished_before_the_end() {
    let mut launched = Launched::start(&with_tokens());
    let mut idle = Connection::open(launched.front.address);
    idle.send("GET", "/nowhere", &[], None);
    assert_eq!(idle.response().status, 404);
    let mut asking = Connection::open(launched.front.address);
    asking.send("GET", "/job/1", &[RW], None);
    let (call, _) = launched.executor.request();
    launched.front.terminate();
    idle.wait_closed();
    launched.front.logged(&["stopping", "SIGTERM"]);
    launched.executor.answer(call, Reply::Job(finished()));
    let response = asking.response();
    assert_eq!(response.status, 200);
    asking.wait_closed();
    assert_eq!(launched.front.exit_code(), Some(0));
}

#[test]
fn a_front_that_can_not_start_says_why() {
    let failed = |config: &FrontConfig, hello: Option<Hello>, parts: &[&str]| {
        let (mut front, launcher, mut executor) = launch();
        match hello {
            Some(hello) => executor.hello(hello),
            None => executor.welcome(config),
        }
        let Started::Failed { text } = started(&launcher) else { panic!("it started") };
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(front.exit_code(), Some(1));
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let listen = |text: &str| FrontConfig { listen: Some(text.to_owned()), ..config() };
    failed(&listen(&address), None, &[&address, "bind"]);
    failed(&listen("127.0.0.1"), None, &["api.listen 127.0.0.1"]);
    let other = Hello { version: "9.9.9".to_owned(), ..Hello::ours(None) };
    failed(&config(), Some(other), &["9.9.9", shared::VERSION]);

    let (mut front, _launcher, executor) = launch();
    drop(executor);
    assert_eq!(front.exit_code(), Some(1));

    for (arguments, code) in [(&["--line"][..], 1), (&["--nonsense"], 1), (&[], 78), (&["--version"], 0)] {
        let status = ductile_api().args(arguments).stdin(std::process::Stdio::null()).status().expect("run");
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    let (parent, child) = seqpacket();
    rustix::net::send(&parent, b"\xff\xff\xff", rustix::net::SendFlags::empty()).expect("send");
    let status = ductile_api().arg("--line").stdin(child).status().expect("run");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn without_the_gateway_posture_there_is_no_listener() {
    let closed = FrontConfig { posture: Posture::ManagementOnly, ..config() };
    let mut launched = Launched::start(&closed);
    assert!(launched.front.is_running());
    assert!(launched.front.log().iter().all(|line| !line.contains("api listening")));
    drop(launched.launcher);
    assert_eq!(launched.front.exit_code(), Some(0));
}
