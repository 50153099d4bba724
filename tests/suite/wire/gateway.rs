use shared::time::{Millis, Timestamp};
use shared::wire::frame::Envelope;
use shared::wire::gateway::{Command, FrontConfig, Health, Job, JobStatus, Plugin, Posture, Reply, Request, Token};
use shared::wire::refusal::{Refusal, RefusalKind};

use super::{check, encode, hex, id};

fn job() -> Job {
    Job {
        job_id: id("0198-a"),
        status: JobStatus::Succeeded,
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        attempt: 1,
        result: Some("{}".to_owned()),
        last_error: None,
        started_at: Some("s".to_owned()),
        completed_at: Some("c".to_owned()),
    }
}

#[test]
fn request() {
    let trigger = Request::Trigger {
        plugin: id("echo"),
        command: id("poll"),
        payload: Some("{}".to_owned()),
        may_write: true,
        wait: Millis(1000),
    };
    check(&[
        (Request::FrontConfig, "00"),
        (Request::Health, "01"),
        (trigger, "02046563686f04706f6c6c01027b7d01fbe803"),
        (Request::GetJob { job_id: id("0198-a") }, "0306303139382d61"),
        (Request::TokenExposed, "04"),
    ]);
}

#[test]
fn reply() {
    let config = FrontConfig {
        listen: Some("h:1".to_owned()),
        posture: Posture::Gateway,
        max_body: 1 << 20,
        max_waiting: 10,
        max_wait: Millis(300_000),
        allowed_origins: vec!["o".to_owned()],
        token_key: [7; 32],
        tokens: vec![Token { digest: [9; 32], scopes: vec!["*".to_owned()], is_admin: false }],
        plugins: vec![Plugin {
            name: id("echo"),
            version: "1".to_owned(),
            description: String::new(),
            commands: vec![Command { name: id("poll"), writes: false }],
            usable: true,
        }],
        log_level: "info".to_owned(),
    };
    let health = Health {
        queue_depth: 3,
        plugins_loaded: 300,
        plugins_circuit_open: 0,
        started_at: Timestamp::from_unix_nanos(1_780_650_000_123_456_789),
    };
    check(&[
        (Reply::Refused(Refusal::new(RefusalKind::JobUnknown, "no")), "000c026e6f"),
        (Reply::Done, "01"),
        (
            Reply::FrontConfig(config),
            "020103683a3100fc000010000afce093040001016f070707070707070707070707070707070707070707070707070707070707070701090909090909090909090909090909090909090909090909090909090909090901012a0001046563686f0131000104706f6c6c000104696e666f",
        ),
        (Reply::Health(health), "0303fb2c0100fd2ada504d7b476c31"),
        (Reply::Accepted { job_id: id("0198-a") }, "0406303139382d61"),
        (Reply::Finished(job()), "0506303139382d6102046563686f04706f6c6c0101027b7d00010173010163"),
        (Reply::Job(job()), "0606303139382d6102046563686f04706f6c6c0101027b7d00010173010163"),
    ]);
}

#[test]
fn job_status() {
    use JobStatus::*;
    check(&[
        (Queued, "00"),
        (Running, "01"),
        (Succeeded, "02"),
        (Skipped, "03"),
        (Failed, "04"),
        (TimedOut, "05"),
        (Dead, "06"),
    ]);
}

#[test]
fn posture() {
    check(&[(Posture::Gateway, "00"), (Posture::ManagementOnly, "01"), (Posture::Closed, "02")]);
}

#[test]
fn an_envelope_is_its_number_and_its_body() {
    assert_eq!(hex(&encode(&Envelope { call: 1, body: Request::Health })), "0101");
    assert_eq!(hex(&encode(&Envelope { call: 251, body: Request::Health })), "fbfb0001");
}
