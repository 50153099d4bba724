//! Requests against a running instance, over kept connections.

use std::time::{Duration, Instant};

use tests::http::{Connection, Response};
use tests::site::{Site, json};

use crate::crowd::Crowd;

/// A payload of about 1 KiB.
pub(crate) fn payload() -> String {
    format!("{{\"payload\":{{\"text\":\"{}\"}}}}", "a".repeat(960))
}

/// One connection with the instance's token.
pub(crate) struct Caller {
    connection: Connection,
    bearer: String,
}

impl Caller {
    pub(crate) fn new(site: &Site) -> Self {
        Self { connection: Connection::open(site.address), bearer: format!("Bearer {}", site.token) }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Response {
        let mut all = vec![("authorization", self.bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.connection.send(method, path, &all, body.map(str::as_bytes));
        self.connection.response()
    }

    /// Triggers a job and waits for its result; how long that took.
    pub(crate) fn run(&mut self, plugin: &str, body: &str) -> Duration {
        let at = Instant::now();
        let response = self.ask("POST", &format!("/plugin/{plugin}/poll"), &[("prefer", "wait=20")], Some(body));
        let took = at.elapsed();
        assert!(response.status == 200 && json(&response)["status"] == "succeeded", "{}", response.body);
        took
    }

    /// Admits a job.
    pub(crate) fn trigger(&mut self, plugin: &str, command: &str, body: &str) {
        let response = self.ask("POST", &format!("/plugin/{plugin}/{command}"), &[], Some(body));
        assert!(response.status == 202, "{}", response.body);
    }

    /// Jobs queued or running; the front's answer may be 100 ms old.
    pub(crate) fn depth(&mut self) -> u64 {
        json(&self.ask("GET", "/healthz", &[], None))["queue_depth"].as_u64().expect("a number")
    }

    /// Waits until nothing is queued or running; looks seldom, since looking costs what is measured.
    pub(crate) fn drained(&mut self) {
        let end = Instant::now() + Duration::from_secs(120);
        while self.depth() > 0 {
            assert!(Instant::now() < end, "the queue does not drain");
            std::thread::sleep(Duration::from_millis(25));
        }
    }
}

/// Admits `count` jobs over `connections`; how many a second.
pub(crate) fn admit(site: &Site, plugin: &str, connections: usize, count: usize) -> f64 {
    let mut crowd = Crowd::new(site, plugin, connections);
    let start = Instant::now();
    crowd.admit(count);
    per_second(count, start.elapsed())
}

/// A count over a span.
pub(crate) fn per_second(count: usize, span: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of one run")]
    let count = count as f64;
    count / span.as_secs_f64()
}
