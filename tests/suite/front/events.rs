//! The event stream, with the test as the executor that has the events.

use std::time::{Duration, Instant};

use shared::time::Millis;
use shared::wire::gateway::{HubEvent, Reply, Request};
use shared::wire::refusal::RefusalKind;
use tests::event_stream::EventStream;
use tests::front_peer::Launched;
use tests::http::request;

use super::{check, error, get, refused, through, with_tokens};

const EVENTS: (&str, &str) = ("Authorization", "Bearer events-token");

fn events(ids: std::ops::RangeInclusive<u64>) -> Reply {
    Reply::Events(
        ids.map(|id| HubEvent { id, kind: "job.started".to_owned(), data: format!("{{\"n\":{id}}}") }).collect(),
    )
}

/// Opens a stream whose first question is answered with `first`.
fn open(launched: &mut Launched, headers: &[(&str, &str)], first: Reply) -> (u64, EventStream) {
    let mut stream = EventStream::ask(launched.front.address, "/events", headers);
    let (call, asked) = launched.executor.request();
    let Request::Events { after, wait: Millis(0) } = asked else { panic!("{asked:?}") };
    launched.executor.answer(call, first);
    stream.answered().expect("the stream is opened");
    (after, stream)
}

/// The front's next question for events: its call and its cursor.
fn asked(launched: &mut Launched) -> (u64, u64) {
    let (call, asked) = launched.executor.request();
    let Request::Events { after, wait } = asked else { panic!("{asked:?}") };
    assert!(wait > Millis(0) && wait <= Millis::from_secs(15), "{wait:?}");
    (call, after)
}

#[test]
fn a_stream_replays_and_goes_on_without_gap_or_repetition() {
    let mut launched = Launched::start(&with_tokens());
    let headers = [EVENTS, ("Last-Event-ID", "7")];
    let (after, mut stream) = open(&mut launched, &headers, events(8..=9));
    assert_eq!(after, 7);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(stream.head.header(name).as_deref(), Some(value));
    }
    let event = stream.next_event().expect("an event");
    assert_eq!((event.id, event.kind.as_str(), &event.data["n"]), (8, "job.started", &8.into()));
    assert_eq!(stream.next_event().map(|event| event.id), Some(9));
    let (call, after) = asked(&mut launched);
    assert_eq!(after, 9);
    // What was told before is not told again, whoever says it.
    launched.executor.answer(call, events(6..=11));
    assert_eq!([10, 11].map(|_| stream.next_event().map(|event| event.id)), [Some(10), Some(11)]);
    let (call, after) = asked(&mut launched);
    assert_eq!(after, 11);
    launched.executor.answer(call, Reply::Events(Vec::new()));
    assert_eq!(asked(&mut launched).1, 11);
}

#[test]
fn a_cursor_that_was_never_given_out_holds_nothing_back() {
    let mut launched = Launched::start(&with_tokens());
    for cursor in ["1000", "18446744073709551615"] {
        let (_, mut stream) = open(&mut launched, &[EVENTS, ("Last-Event-ID", cursor)], events(1..=2));
        assert_eq!([1, 2].map(|_| stream.next_event().map(|event| event.id)), [Some(1), Some(2)]);
        let (call, after) = asked(&mut launched);
        assert_eq!(after, 2);
        launched.executor.answer(call, events(3..=3));
        assert_eq!(stream.next_event().map(|event| event.id), Some(3));
        assert_eq!(asked(&mut launched).1, 3);
    }
}

#[test]
fn the_cursor_is_read_with_leniency() {
    let mut launched = Launched::start(&with_tokens());
    for (header, cursor) in [("", 0), ("-4", 0), ("x", 0), ("0", 0), (" 12 ", 12)] {
        let (after, _) = open(&mut launched, &[EVENTS, ("Last-Event-ID", header)], events(100..=100));
        assert_eq!(after, cursor, "{header:?}");
        // The question of the stream that is given up with this turn of the loop.
        assert_eq!(asked(&mut launched).1, 100);
    }
}

#[test]
fn the_query_holds_a_token_on_this_route_alone() {
    let mut launched = Launched::start(&with_tokens());
    let address = launched.front.address;
    let refuse = |path: &str, headers: &[(&str, &str)], status: u16, text: &str| {
        let response = request(address, "GET", path, headers, None);
        assert_eq!((response.status, response.body), (status, error(text)), "{path} {headers:?}");
    };
    refuse("/plugins?token=star-token", &[], 401, "missing or invalid Authorization header");
    refuse("/job/x?token=star-token", &[], 401, "missing or invalid Authorization header");
    refuse("/events", &[], 401, "missing or invalid Authorization header");
    refuse("/events?token=", &[], 401, "missing or invalid Authorization header");
    refuse("/events?token=nobody", &[], 401, "invalid token");
    refuse("/events?token=status-token", &[], 403, "insufficient scope");
    refuse("/events?token=events-token", &[("Authorization", "Bearer nobody")], 401, "invalid token");
    refuse("/events?token=star-token", &[("Authorization", "Bearer rw-token")], 403, "insufficient scope");
    refuse("/events", &[("Authorization", "Basic eA==")], 401, "invalid Authorization header format");
    for (path, headers) in [
        ("/events?token=events-token", &[][..]),
        ("/events?since=1&token=%65vents-token&token=nobody", &[]),
        ("/events?token=nobody", &[EVENTS]),
        ("/events?token=star-token", &[("Authorization", "Basic eA==")]),
    ] {
        let mut stream = EventStream::ask(address, path, headers);
        let (call, asked) = launched.executor.request();
        assert!(matches!(asked, Request::Events { .. }), "{asked:?}");
        launched.executor.answer(call, events(1..=1));
        stream.answered().unwrap_or_else(|response| panic!("{path}: {response:?}"));
        assert_eq!(stream.next_event().map(|event| event.id), Some(1));
        self::asked(&mut launched);
    }
    assert!(launched.front.log().iter().all(|line| !line.contains("-token")), "a token stands in the log");
    // The vault's admin token is no less exposed in a query.
    refuse("/events?token=admin-token", &[], 401, "invalid token");
    let (call, asked) = launched.executor.request();
    assert_eq!(asked, Request::TokenExposed);
    launched.executor.answer(call, Reply::Done);
}

#[test]
fn what_the_executor_refuses_is_refused_before_the_stream_begins() {
    let mut launched = Launched::start(&with_tokens());
    for (kind, status, text) in [
        (RefusalKind::Internal, 500, "failed to read events"),
        (RefusalKind::Busy, 503, "failed to read events"),
        (RefusalKind::Unavailable, 503, "executor unavailable"),
    ] {
        let (_, response) = through(&mut launched, &get("/events", &[EVENTS]), refused(kind));
        check(&response, status, &error(text));
    }
}

#[test]
fn a_stream_ends_in_good_order() {
    // With a refusal under way, and the connection serves on.
    let mut launched = Launched::start(&with_tokens());
    let (_, mut stream) = open(&mut launched, &[EVENTS], events(1..=1));
    assert_eq!(stream.next_event().map(|event| event.id), Some(1));
    let (call, _) = asked(&mut launched);
    launched.executor.answer(call, refused(RefusalKind::Unavailable));
    assert_eq!(stream.next_event(), None);
    let mut connection = stream.into_connection();
    connection.send("GET", "/nowhere", &[], None);
    assert_eq!(connection.response().status, 404);

    // With a new configuration, under which the caller may have no rights.
    let (_, mut stream) = open(&mut launched, &[EVENTS], events(1..=1));
    assert_eq!(stream.next_event().map(|event| event.id), Some(1));
    asked(&mut launched);
    launched.executor.answer(0, Reply::FrontConfig(with_tokens()));
    assert_eq!(stream.next_event(), None);

    // With the front.
    let (_, mut stream) = open(&mut launched, &[EVENTS], events(1..=1));
    assert_eq!(stream.next_event().map(|event| event.id), Some(1));
    asked(&mut launched);
    let begun = Instant::now();
    launched.front.terminate();
    assert_eq!(stream.next_event(), None);
    assert_eq!(launched.front.exit_code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "the grace was spent on a stream");

    // With the executor.
    let mut launched = Launched::start(&with_tokens());
    let (_, mut stream) = open(&mut launched, &[EVENTS], events(1..=1));
    assert_eq!(stream.next_event().map(|event| event.id), Some(1));
    asked(&mut launched);
    drop(launched.executor);
    assert_eq!(stream.next_event(), None);
}

#[test]
fn a_reader_that_is_slow_is_not_asked_for() {
    const SIZE: usize = 12 << 20;
    let mut launched = Launched::start(&with_tokens());
    let large =
        HubEvent { id: 5, kind: "job.failed".to_owned(), data: format!("{{\"text\":\"{}\"}}", "x".repeat(SIZE)) };
    let (_, mut stream) = open(&mut launched, &[EVENTS], Reply::Events(vec![large]));
    // The executor hears of others, and not of the reader, who has not read.
    for _ in 0..3 {
        let caller = [("Authorization", "Bearer status-token")];
        let (asked, _) = through(&mut launched, &get("/job/0198-a", &caller), refused(RefusalKind::JobUnknown));
        assert!(matches!(asked, Request::GetJob { .. }), "{asked:?}");
    }
    let event = stream.next_event().expect("an event");
    assert_eq!((event.id, event.data["text"].as_str().map(str::len)), (5, Some(SIZE)));
    assert_eq!(asked(&mut launched).1, 5);
}

#[test]
fn a_quiet_stream_says_that_it_lives() {
    let mut launched = Launched::start(&with_tokens());
    let begun = Instant::now();
    let (_, mut stream) = open(&mut launched, &[EVENTS], events(1..=1));
    assert_eq!(stream.next_event().map(|event| event.id), Some(1));
    let reader = std::thread::spawn(move || {
        stream.comment();
        stream
    });
    // Answers that come too early are asked for again, without a comment for each.
    while !reader.is_finished() && begun.elapsed() < Duration::from_secs(20) {
        let (call, asked) = launched.executor.request();
        assert!(matches!(asked, Request::Events { after: 1, .. }), "{asked:?}");
        launched.executor.answer(call, Reply::Events(Vec::new()));
    }
    let stream = reader.join().expect("a comment");
    assert_eq!(stream.comments, 1);
    assert!((14..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}
