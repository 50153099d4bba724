//! The HTTP front, with the test at the executor's end of its line.

mod callers;
mod changes;
mod events;
mod jobs;
mod life;
mod unit;

use shared::id::JobId;
use shared::time::Timestamp;
use shared::wire::gateway::{FrontConfig, Health, Job, JobStatus, Reply, Request, Token};
use shared::wire::refusal::{Refusal, RefusalKind};
use tests::front_peer::{Launched, config, token};
use tests::http::{Connection, Response};

const RW: (&str, &str) = ("Authorization", "Bearer rw-token");

/// One token for each kind of caller, and the vault's admin token.
fn with_tokens() -> FrontConfig {
    let tokens = vec![
        token("rw-token", &["plugin:rw", "jobs:rw"]),
        token("invoke-token", &["plugin:invoke:ro"]),
        token("catalog-token", &["plugin:ro"]),
        token("status-token", &["jobs:status:ro"]),
        token("star-token", &["*"]),
        token("jobs-token", &["jobs:rw"]),
        token("reader-token", &["jobs:rw", "plugin:invoke:ro"]),
        token("events-token", &["events:ro"]),
        token("none-token", &[]),
        Token { is_admin: true, ..token("admin-token", &[]) },
    ];
    FrontConfig { tokens, ..config() }
}

fn job_id() -> JobId {
    JobId::parse("0198c0de-0000-7000-8000-000000000001").expect("an id")
}

fn finished() -> Job {
    Job {
        job_id: job_id(),
        status: JobStatus::Succeeded,
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        attempt: 1,
        result: Some("{\"status\":\"ok\",\"n\":12345678901234567890.5}".to_owned()),
        last_error: None,
        started_at: Some("2026-01-01T00:00:00.000000001Z".to_owned()),
        completed_at: Some("2026-01-01T00:00:01.000000002Z".to_owned()),
    }
}

fn health() -> Reply {
    Reply::Health(Health {
        queue_depth: 3,
        plugins_loaded: 2,
        plugins_circuit_open: 1,
        started_at: Timestamp::from_unix_nanos(0),
    })
}

fn refused(kind: RefusalKind) -> Reply {
    Reply::Refused(Refusal::new(kind, "words that no caller may see"))
}

fn error(text: &str) -> String {
    format!("{{\"error\":\"{text}\"}}")
}

/// Sends a request that reaches the executor, answers it there, and gives both.
fn through(launched: &mut Launched, ask: &Ask<'_>, reply: Reply) -> (Request, Response) {
    let mut connection = Connection::open(launched.front.address);
    connection.send(ask.method, ask.path, ask.headers, ask.body);
    let (call, request) = launched.executor.request();
    launched.executor.answer(call, reply);
    (request, connection.response())
}

struct Ask<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Option<&'a [u8]>,
}

fn post<'a>(path: &'a str, headers: &'a [(&'a str, &'a str)], body: &'a str) -> Ask<'a> {
    Ask { method: "POST", path, headers, body: Some(body.as_bytes()) }
}

fn get<'a>(path: &'a str, headers: &'a [(&'a str, &'a str)]) -> Ask<'a> {
    Ask { method: "GET", path, headers, body: None }
}

fn check(response: &Response, status: u16, body: &str) {
    assert_eq!((response.status, response.body.as_str()), (status, body));
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
}
