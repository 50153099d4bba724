//! Every role and request on every socket: what is permitted is answered, all else closes the
//! connection and is logged. So does every frame that is none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::secret::Secret;
use shared::time::Millis;
use shared::wire::frame::{self, AGENT_MAX, EXECUTOR_MAX, Envelope};
use shared::wire::hello::{Hello, PROTOCOL};
use shared::wire::refusal::RefusalKind;
use shared::wire::vault::{Attestation, Delivery};
use shared::wire::{codec, gateway, vault};
use tests::peer::{Outcome, Peer, connect_as};
use tests::site::{PATIENCE, Setup, Site};
use tests::unit_set::{UnitSet, under_systemd, user};
use tests::wait;

const GATEWAY: [&str; 13] = [
    "FrontConfig",
    "Health",
    "Trigger",
    "GetJob",
    "TokenExposed",
    "RetryJob",
    "CancelJob",
    "Schedules",
    "Rearm",
    "ResetBreaker",
    "Breaker",
    "ActivePolls",
    "Events",
];
const VAULT: [&str; 14] = [
    "Status",
    "Prepare",
    "Commit",
    "Discard",
    "Deliver",
    "Attest",
    "Scrub",
    "CloseDelivery",
    "TokenExposed",
    "RegisterPrincipal",
    "RevokePrincipal",
    "SetSecret",
    "List",
    "Fingerprint",
];

/// The table: what each socket's role may ask.
const FRONT: &[&str] =
    &["FrontConfig", "Health", "Trigger", "GetJob", "TokenExposed", "RetryJob", "CancelJob", "Schedules", "Events"];
const EXECUTOR_ADMIN: &[&str] = &[
    "Health",
    "Trigger",
    "GetJob",
    "RetryJob",
    "CancelJob",
    "Schedules",
    "Rearm",
    "ResetBreaker",
    "Breaker",
    "ActivePolls",
    "Events",
];
const EXECUTOR: &[&str] =
    &["Status", "Prepare", "Commit", "Discard", "Attest", "Scrub", "CloseDelivery", "TokenExposed"];
const SPAWNER: &[&str] = &["Deliver"];
const VAULT_ADMIN: &[&str] = &["RegisterPrincipal", "RevokePrincipal", "SetSecret", "List", "Fingerprint"];

#[test]
fn the_tables_of_this_test_name_every_request() {
    fn last<T: DeserializeOwned>(count: usize) -> bool {
        let byte = |index: usize| [u8::try_from(index).expect("few variants")];
        let unknown = |index| match codec::decode::<T, 64>(&byte(index)) {
            Ok(_) => false,
            Err(error) => error.to_string().contains("variant index"),
        };
        !unknown(count - 1) && unknown(count)
    }
    assert!(last::<gateway::Request>(GATEWAY.len()));
    assert!(last::<vault::Request>(VAULT.len()));
    for (request, name) in VAULT.iter().enumerate() {
        assert_eq!(usize::from(codec::encode(&vault_request(name, &Files::none()))[0]), request, "{name}");
    }
    for (request, name) in GATEWAY.iter().enumerate() {
        assert_eq!(usize::from(codec::encode(&gateway_request(name))[0]), request, "{name}");
    }
}

#[test]
fn the_operators_sockets_of_the_launcher() {
    let instance = Setup::new().plugin("tiny").start();
    let data = instance.database.parent().expect("the database lies in a directory");
    let log = || instance.log();

    let socket = data.join("executor-admin.sock");
    let connect = || UnixStream::connect(&socket).expect("connect");
    let state = Some(instance.database.display().to_string());
    walk_gateway(connect, state, EXECUTOR_ADMIN, &log);

    let socket = data.join("vault-admin.sock");
    let connect = || UnixStream::connect(&socket).expect("connect");
    let vault = Some(instance.vault.display().to_string());
    walk_vault(connect, vault, VAULT_ADMIN, &instance, &log);
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

#[test]
fn under_systemd_the_sockets_between_the_services() {
    under_systemd("permits::under_systemd_the_sockets_between_the_services", || {
        let set = Setup::new().plugin_with("tiny", "shared_account: true").start_units();
        let log = || set.log();

        // The front would take its line back, so it is stopped while the test stands in its place.
        set.systemctl(&["stop", "ductile-api.socket", "ductile-api.service"]);
        walk_gateway(|| connect_to(&set, "executor", "ductile-api"), None, FRONT, &log);

        set.systemctl(&[
            "stop",
            "ductile-executor.socket",
            "ductile-executor-admin.socket",
            "ductile-executor.service",
        ]);
        walk_vault(|| connect_to(&set, "vault-executor", "ductile"), None, EXECUTOR, &set, &log);
        walk_vault(|| connect_to(&set, "vault-spawner", "ductile-spawner"), None, SPAWNER, &set, &log);
        walk_vault(|| connect_to(&set, "vault-admin", "root"), None, VAULT_ADMIN, &set, &log);

        set.start();
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
    });
}

#[test]
fn a_frame_that_is_none_closes_the_connection_and_nothing_else() {
    let instance = Setup::new().plugin("tiny").start();
    let data = instance.database.parent().expect("the database lies in a directory");
    for (socket, program, limit) in [
        ("executor-admin.sock", "ductile-executor", EXECUTOR_MAX),
        ("vault-admin.sock", "ductile-vault-agent", AGENT_MAX),
    ] {
        let pid = instance.pid(program);
        let hello = || {
            let stream = UnixStream::connect(data.join(socket)).expect("connect");
            Peer::hello(stream, &Hello::ours(None)).unwrap_or_else(|refusal| panic!("{socket}: {refusal:?}"))
        };
        let prefix = |length: usize| u32::try_from(length).expect("a length").to_le_bytes();
        let envelope = frame::to_frame(&Envelope { call: 1, body: "x".repeat(40) }, limit).expect("fits");
        let bad: [(&str, Vec<u8>); 6] = [
            ("too long", prefix(limit + 1).to_vec()),
            ("of the greatest length", vec![0xff; 4]),
            ("of unknown kind", [&prefix(2)[..], &[1, 200]].concat()),
            ("of another kind", envelope.clone()),
            ("cut short", envelope[..20].to_vec()),
            ("empty", prefix(0).to_vec()),
        ];
        for (what, bytes) in bad {
            let before = warnings(&instance.log());
            hello().send_and_expect_close(&bytes);
            wait::until_true(&format!("{socket}: a frame {what} in the log"), PATIENCE, || {
                warnings(&instance.log()) > before
            });
            assert_eq!(instance.pid_now(program), Some(pid), "{socket}: {what}");
        }
        // The same in the place of a hello.
        for bytes in [vec![0xff; 4], prefix(0).to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let stream = UnixStream::connect(data.join(socket)).expect("connect");
            Peer::unwelcome(stream).send_and_expect_close(&bytes);
        }
        hello();
        assert_eq!(instance.pid_now(program), Some(pid));
    }
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

#[test]
fn a_peer_of_another_version_or_instance_is_refused_by_name() {
    let instance = Setup::new().plugin("tiny").start();
    let data = instance.database.parent().expect("the database lies in a directory");
    for (socket, ours) in [("executor-admin.sock", &instance.database), ("vault-admin.sock", &instance.vault)] {
        let refusal = |hello: &Hello| {
            let stream = UnixStream::connect(data.join(socket)).expect("connect");
            match Peer::hello(stream, hello) {
                Err(Some(refusal)) => refusal,
                Err(None) => panic!("{socket}: closed without a word"),
                Ok(_) => panic!("{socket}: welcomed"),
            }
        };
        let other = refusal(&Hello { version: "9.9.9".to_owned(), ..Hello::ours(None) });
        assert_eq!(other.kind, RefusalKind::VersionMismatch);
        assert!(other.message.contains("9.9.9") && other.message.contains(shared::VERSION), "{other}");
        let other = refusal(&Hello { protocol: PROTOCOL + 1, ..Hello::ours(None) });
        assert_eq!(other.kind, RefusalKind::VersionMismatch);
        let other = refusal(&Hello::ours(Some("/elsewhere".to_owned())));
        assert_eq!(other.kind, RefusalKind::InstanceMismatch);
        let ours = ours.display().to_string();
        assert!(other.message.contains("/elsewhere") && other.message.contains(&ours), "{other}");
    }
}

#[test]
fn without_the_admin_token_nothing_of_the_vault_is_told_or_changed() {
    let instance = Setup::new().plugin("tiny").start();
    let socket = instance.database.with_file_name("vault-admin.sock");
    let before = std::fs::read(&instance.vault).expect("read the vault");
    for name in VAULT_ADMIN {
        for token in ["", "wrong", &"x".repeat(43)] {
            let stream = UnixStream::connect(&socket).expect("connect");
            let mut peer = Peer::hello(stream, &Hello::ours(None)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
            let files = Files { token: token.to_owned(), ..Files::of(&instance) };
            match ask_vault(&mut peer, name, &files) {
                Outcome::Answered(vault::Reply::Refused(refusal)) => {
                    assert_eq!(refusal.kind, RefusalKind::AdminToken, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    assert!(std::fs::read(&instance.vault).expect("read the vault") == before, "the vault has changed");
}

fn connect_to(set: &UnitSet, socket: &str, name: &str) -> UnixStream {
    let (uid, gid) = user(name);
    let path = format!("/run/ductile/{socket}.sock");
    connect_as(Path::new(&path), uid, gid).unwrap_or_else(|error| panic!("{path} as {name}: {error}\n{}", set.log()))
}

fn walk_gateway(connect: impl Fn() -> UnixStream, instance: Option<String>, may: &[&str], log: &dyn Fn() -> String) {
    for name in GATEWAY {
        walk(&connect, instance.clone(), name, may.contains(&name), log, |peer| {
            described(peer.ask::<_, gateway::Reply, EXECUTOR_MAX>(gateway_request(name), &[]))
        });
    }
}

fn walk_vault(
    connect: impl Fn() -> UnixStream,
    instance: Option<String>,
    may: &[&str],
    site: &Site,
    log: &dyn Fn() -> String,
) {
    let files = Files::of(site);
    for name in VAULT {
        walk(&connect, instance.clone(), name, may.contains(&name), log, |peer| {
            // It has no answer; that the connection is still served shows that it was permitted.
            if name == "CloseDelivery" && may.contains(&name) {
                let request = Envelope { call: 99, body: vault_request(name, &files) };
                peer.send(&frame::to_frame(&request, AGENT_MAX).expect("fits"));
                return described(ask_vault(peer, "Status", &files));
            }
            described(ask_vault(peer, name, &files))
        });
    }
}

/// One pair of the table, on a connection of its own.
fn walk(
    connect: impl Fn() -> UnixStream,
    instance: Option<String>,
    request: &str,
    may: bool,
    log: &dyn Fn() -> String,
    ask: impl FnOnce(&mut Peer) -> Outcome<String>,
) {
    let before = mentions(&log(), request);
    let mut peer =
        Peer::hello(connect(), &Hello::ours(instance)).unwrap_or_else(|refusal| panic!("hello: {refusal:?}"));
    match (may, ask(&mut peer)) {
        (true, Outcome::Answered(_)) => {}
        (false, Outcome::Closed) => wait::until_true(&format!("the refused {request} in the log"), PATIENCE, || {
            mentions(&log(), request) > before
        }),
        (true, other) => panic!("{request} is permitted, and came to {other:?}\n{}", log()),
        (false, other) => panic!("{request} is not permitted, and came to {other:?}\n{}", log()),
    }
}

fn described<T: std::fmt::Debug>(outcome: Outcome<T>) -> Outcome<String> {
    match outcome {
        Outcome::Answered(reply) => Outcome::Answered(format!("{reply:?}")),
        Outcome::Closed => Outcome::Closed,
        Outcome::Silent => Outcome::Silent,
    }
}

/// Warnings and errors that name a request, however it is spelt.
fn mentions(log: &str, request: &str) -> usize {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let request = plain(request);
    log.lines().filter(|line| is_warning(line) && plain(line).contains(&request)).count()
}

fn warnings(log: &str) -> usize {
    log.lines().filter(|line| is_warning(line)).count()
}

fn is_warning(line: &str) -> bool {
    line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"")
}

fn gateway_request(name: &str) -> gateway::Request {
    let plugin = || "tiny".to_owned().try_into().expect("a valid name");
    let command = || "poll".to_owned().try_into().expect("a valid name");
    let job_id = || "0198-unknown".to_owned().try_into().expect("a valid id");
    match name {
        "FrontConfig" => gateway::Request::FrontConfig,
        "Health" => gateway::Request::Health,
        "Trigger" => gateway::Request::Trigger {
            plugin: plugin(),
            command: command(),
            payload: None,
            may_write: false,
            wait: Millis(0),
        },
        "GetJob" => gateway::Request::GetJob { job_id: job_id() },
        "TokenExposed" => gateway::Request::TokenExposed,
        "RetryJob" => gateway::Request::RetryJob { job_id: job_id(), payload: None, may_write: false, may_read: false },
        "CancelJob" => gateway::Request::CancelJob { job_id: job_id() },
        "Schedules" => gateway::Request::Schedules { count: 1 },
        "Rearm" => gateway::Request::Rearm { plugin: plugin(), schedule_id: "unknown".to_owned() },
        "ResetBreaker" => gateway::Request::ResetBreaker { plugin: plugin(), command: command() },
        "Breaker" => gateway::Request::Breaker { plugin: plugin(), command: command(), limit: 1 },
        "ActivePolls" => gateway::Request::ActivePolls,
        "Events" => gateway::Request::Events { after: 0, wait: Millis(0) },
        other => panic!("no request {other}"),
    }
}

/// What requests of the vault are made of.
struct Files {
    token: String,
    plugin: Option<[File; 2]>,
    account: Option<(u32, u32)>,
}

impl Files {
    fn none() -> Self {
        Self { token: String::new(), plugin: None, account: None }
    }

    fn of(site: &Site) -> Self {
        let open =
            |file: &str| File::open(site.plugin_root.join("tiny").join(file)).expect("open a file of the plugin");
        Self {
            token: std::fs::read_to_string(&site.admin_token_file).expect("read the admin token"),
            plugin: Some([open("manifest.yaml"), open("tiny")]),
            account: std::env::var_os("WITH_SYSTEMD").map(|_| user("ductile-plugin")),
        }
    }

    fn attestation(&self) -> Attestation {
        Attestation {
            plugin: "tiny".to_owned().try_into().expect("a valid name"),
            uses: String::new(),
            principal: "tiny".to_owned(),
            requires_vault: false,
            account: self.account,
        }
    }
}

fn ask_vault(peer: &mut Peer, name: &str, files: &Files) -> Outcome<vault::Reply> {
    let request = vault_request(name, files);
    let plugin: Vec<BorrowedFd<'_>> = files.plugin.iter().flatten().map(AsFd::as_fd).collect();
    match name {
        "Deliver" => {
            let (_reader, writer) = pipe(files.account);
            rustix::io::ioctl_fionbio(&writer, true).expect("make the pipe non-blocking");
            let descriptors: Vec<_> = std::iter::once(writer.as_fd()).chain(plugin).collect();
            ask(peer, request, &descriptors)
        }
        "Attest" | "Fingerprint" => ask(peer, request, &plugin),
        _ => ask(peer, request, &[]),
    }
}

fn ask<Q: Serialize>(peer: &mut Peer, request: Q, descriptors: &[BorrowedFd<'_>]) -> Outcome<vault::Reply> {
    peer.ask::<Q, vault::Reply, AGENT_MAX>(request, descriptors)
}

/// A pipe of the account, as the spawner makes it.
fn pipe(account: Option<(u32, u32)>) -> (io::PipeReader, io::PipeWriter) {
    let make = || io::pipe().expect("make a pipe");
    account.map_or_else(make, |(uid, gid)| tests::peer::as_user(uid, gid, make))
}

fn vault_request(name: &str, files: &Files) -> vault::Request {
    let token = || Secret::new(files.token.trim().as_bytes().to_vec());
    match name {
        "Status" => vault::Request::Status,
        "Prepare" => vault::Request::Prepare { token_refs: Vec::new(), plugins: Vec::new() },
        "Commit" => vault::Request::Commit,
        "Discard" => vault::Request::Discard,
        "Deliver" => vault::Request::Deliver(Delivery {
            delivery_id: 1,
            job_id: "0198-a".to_owned().try_into().expect("a valid id"),
            attestation: files.attestation(),
        }),
        "Attest" => vault::Request::Attest(files.attestation()),
        "Scrub" => vault::Request::Scrub { delivery_id: 1, text: Some(b"text".to_vec()) },
        "CloseDelivery" => vault::Request::CloseDelivery { delivery_id: 1 },
        "TokenExposed" => vault::Request::TokenExposed,
        "RegisterPrincipal" => {
            vault::Request::RegisterPrincipal { token: token(), name: "fresh".to_owned(), kind: "plugin".to_owned() }
        }
        "RevokePrincipal" => vault::Request::RevokePrincipal { token: token(), name: "fresh".to_owned() },
        "SetSecret" => vault::Request::SetSecret {
            token: token(),
            name: "fresh".to_owned(),
            value: Secret::new(b"value".to_vec()),
            pattern: None,
            principals: None,
            scope: None,
        },
        "List" => vault::Request::List { token: token() },
        "Fingerprint" => vault::Request::Fingerprint { token: token(), attestation: files.attestation() },
        other => panic!("no request {other}"),
    }
}
