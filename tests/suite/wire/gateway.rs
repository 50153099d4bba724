use shared::time::{Millis, Timestamp};
use shared::wire::frame::Envelope;
use shared::wire::gateway::{
    ActivePoll, ActivePolls, Breaker, BreakerTransition, Command, FrontConfig, Health, HubEvent, Job, JobStatus,
    Plugin, Posture, Reply, Request, Schedule, Token,
};
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

fn schedule() -> Schedule {
    Schedule {
        plugin: "echo".to_owned(),
        schedule_id: "s".to_owned(),
        command: "poll".to_owned(),
        mode: "every".to_owned(),
        status: "active".to_owned(),
        reason: None,
        timezone: Some("UTC".to_owned()),
        next: vec![Timestamp::from_unix_nanos(1)],
    }
}

fn breaker() -> Breaker {
    Breaker {
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        state: Some("open".to_owned()),
        failure_count: 3,
        opened_at: Some("o".to_owned()),
        last_failure_at: Some("f".to_owned()),
        last_job_id: Some("j".to_owned()),
        updated_at: None,
        transitions: vec![BreakerTransition {
            id: "t".to_owned(),
            from_state: None,
            to_state: "open".to_owned(),
            failure_count: 3,
            reason: "r".to_owned(),
            job_id: Some("j".to_owned()),
            created_at: "c".to_owned(),
        }],
    }
}

fn polls() -> ActivePolls {
    ActivePolls {
        service_name: "d".to_owned(),
        polls: vec![ActivePoll {
            job_id: id("0198-a"),
            plugin: "echo".to_owned(),
            dedupe_key: Some("k".to_owned()),
            status: JobStatus::Running,
            attempt: 1,
            created_at: "c".to_owned(),
            started_at: None,
        }],
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
    let retry =
        Request::RetryJob { job_id: id("0198-a"), payload: Some("{}".to_owned()), may_write: true, may_read: false };
    check(&[
        (Request::FrontConfig, "00"),
        (Request::Health, "01"),
        (trigger, "02046563686f04706f6c6c01027b7d01fbe803"),
        (Request::GetJob { job_id: id("0198-a") }, "0306303139382d61"),
        (Request::TokenExposed, "04"),
        (retry, "0506303139382d6101027b7d0100"),
        (Request::CancelJob { job_id: id("0198-a") }, "0606303139382d61"),
        (Request::Schedules { count: 100 }, "0764"),
        (Request::Rearm { plugin: id("echo"), schedule_id: "s".to_owned() }, "08046563686f0173"),
        (Request::ResetBreaker { plugin: id("echo"), command: id("poll") }, "09046563686f04706f6c6c"),
        (Request::Breaker { plugin: id("echo"), command: id("poll"), limit: 20 }, "0a046563686f04706f6c6c14"),
        (Request::ActivePolls, "0b"),
        (Request::Events { after: 300, wait: Millis(15_000) }, "0cfb2c01fb983a"),
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
        (Reply::Cancelled { job_id: id("0198-a") }, "0706303139382d61"),
        (Reply::Schedules(vec![schedule()]), "0801046563686f017304706f6c6c056576657279066163746976650001035554430102"),
        (
            Reply::Breaker(breaker()),
            "09046563686f04706f6c6c01046f70656e0301016f01016601016a0001017400046f70656e03017201016a0163",
        ),
        (Reply::ActivePolls(polls()), "0a01640106303139382d61046563686f01016b0101016300"),
        (
            Reply::Events(vec![HubEvent { id: 300, kind: "k".to_owned(), data: "{}".to_owned() }]),
            "0b01fb2c01016b027b7d",
        ),
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
