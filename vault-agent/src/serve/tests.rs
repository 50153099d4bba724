//! Connections: hello, the table, tokens, replacement, notices, hostile frames.

use std::io::Write as _;

use shared::wire::frame::to_frame;
use shared::wire::vault::{PreparedPlugin, TokenDigest, VaultState};

use super::*;
use crate::bench::{Bench, VALUE, asked, delivery, eventually, is_refused, pipe};

fn secret(text: &str) -> shared::secret::Secret {
    shared::secret::Secret::new(text.as_bytes().to_vec())
}

/// One of each request, in the order of the enum.
fn every_request() -> Vec<Request> {
    let (name, token) = (String::new, || secret("no token"));
    vec![
        Request::Status,
        Request::Prepare { token_refs: vec![], plugins: vec![] },
        Request::Commit,
        Request::Discard,
        Request::Deliver(delivery(1, asked("fabric"))),
        Request::Attest(asked("fabric")),
        Request::Scrub { delivery_id: 1, text: None },
        Request::CloseDelivery { delivery_id: 1 },
        Request::TokenExposed,
        Request::RegisterPrincipal { token: token(), name: name(), kind: name() },
        Request::RevokePrincipal { token: token(), name: name() },
        Request::SetSecret {
            token: token(),
            name: name(),
            value: token(),
            pattern: None,
            principals: None,
            scope: None,
        },
        Request::List { token: token() },
        Request::Fingerprint { token: token(), attestation: asked("fabric") },
    ]
}

#[test]
fn the_table_holds_for_every_role_and_request() {
    let bench = Bench::new();
    for (role, permitted) in [
        (Role::Admin, vec!["register_principal", "revoke_principal", "set_secret", "list", "fingerprint"]),
        (
            Role::Executor,
            vec!["status", "prepare", "commit", "discard", "attest", "scrub", "close_delivery", "token_exposed"],
        ),
        (Role::Spawner, vec!["deliver"]),
    ] {
        for request in every_request() {
            let name = permit(&request).0;
            let mut client = bench.connect(role);
            if name == "close_delivery" && role == Role::Executor {
                client.send(&Envelope { call: 1, body: request }, &[]);
                client.reply(Request::Status);
                continue;
            }
            let answered = client.ask(request, &[]).is_some();
            assert_eq!(answered, permitted.contains(&name), "{role:?} {name}");
        }
    }
}

#[test]
fn hello_comes_first_and_must_fit() {
    let bench = Bench::new();
    let refused = |hello: Hello| {
        let mut client = bench.dial(Role::Admin);
        client.send(&hello, &[]);
        let reply = client.receive::<HelloReply, HELLO_MAX>().expect("an answer").0;
        assert!(client.receive::<HelloReply, HELLO_MAX>().is_none(), "closed");
        match reply {
            HelloReply::Refused(refusal) => refusal.kind,
            HelloReply::Welcome(hello) => panic!("{hello:?}"),
        }
    };
    let other = Hello { version: "0.0.0".to_owned(), ..Hello::ours(None) };
    assert_eq!(refused(other), RefusalKind::VersionMismatch);
    assert_eq!(refused(Hello::ours(Some("/other".to_owned()))), RefusalKind::InstanceMismatch);
    let mut client = bench.dial(Role::Admin);
    client.send(&Envelope { call: 1, body: Request::List { token: bench.token() } }, &[]);
    assert!(client.receive::<HelloReply, HELLO_MAX>().is_none(), "no hello");
    let mut client = bench.dial(Role::Executor);
    client.send(&Hello::ours(Some("/other".to_owned())), &[]);
    let Some((HelloReply::Welcome(hello), _)) = client.receive::<HelloReply, HELLO_MAX>() else { panic!("refused") };
    assert_eq!(hello.instance, None, "nothing on the inner lines");
}

#[test]
fn hostile_frames_end_the_connection_and_nothing_else() {
    let bench = Bench::new();
    let long = (u32::try_from(AGENT_MAX).expect("small") + 1).to_le_bytes();
    let envelope = to_frame(&Envelope { call: 1, body: Request::Status }, AGENT_MAX).expect("fits");
    let trailing = [&[u8::try_from(envelope.len() - 3).expect("small"), 0, 0, 0][..], &envelope[4..], b"x"].concat();
    for bytes in [&long[..], &[1, 0, 0, 0, 200], &[2, 0, 0, 0, 1, 99], &trailing, b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = bench.connect(Role::Executor);
        client.stream.write_all(bytes).expect("written");
        assert!(client.receive::<Envelope<Reply>, AGENT_MAX>().is_none(), "{bytes:?}");
    }
    let mut client = bench.connect(Role::Executor);
    client.stream.write_all(&envelope[..5]).expect("written");
    drop(client);
    assert!(matches!(bench.connect(Role::Executor).reply(Request::Status), Reply::Status(_)));
}

#[test]
fn frames_may_come_in_pieces_or_together() {
    let bench = Bench::new();
    let mut client = bench.connect(Role::Executor);
    let frame = to_frame(&Envelope { call: 9, body: Request::Commit }, AGENT_MAX).expect("fits");
    for byte in &frame {
        client.stream.write_all(&[*byte]).expect("written");
    }
    client.stream.write_all(&frame.repeat(3)).expect("written");
    for _ in 0..4 {
        let (envelope, _) = client.receive::<Envelope<Reply>, AGENT_MAX>().expect("an answer");
        assert!(envelope.call == 9 && matches!(envelope.body, Reply::Done));
    }
}

#[test]
fn only_the_admin_token_opens_the_management_verbs() {
    let bench = Bench::new();
    let mut admin = bench.connect(Role::Admin);
    let register = |token| Request::RegisterPrincipal { token, name: "fresh".to_owned(), kind: "plugin".to_owned() };
    for wrong in ["", "wrong", VALUE] {
        is_refused(admin.reply(register(secret(wrong))), RefusalKind::AdminToken, "invalid vault admin token");
    }
    assert_eq!(bench.facts().len(), 2, "one line for three failures: {:?}", bench.facts());
    assert!(bench.facts()[1].starts_with("auth_failure|||uid "));
    assert!(bench.facts()[1].ends_with("|denied|count=1"));
    assert!(matches!(admin.reply(register(bench.token())), Reply::Done));
    assert_eq!(bench.facts()[2], "register|fresh||core-admin-token|ok|kind=plugin");
    let again = admin.reply(register(bench.token()));
    is_refused(again, RefusalKind::PrincipalExists, "vault: principal already registered: \"fresh\"");
}

#[test]
fn set_and_list_show_everything_but_values() {
    let bench = Bench::new();
    let mut admin = bench.connect(Role::Admin);
    let set = |name: &str, value: &[u8]| Request::SetSecret {
        token: bench.token(),
        name: name.to_owned(),
        value: shared::secret::Secret::new(value.to_vec()),
        pattern: None,
        principals: Some(vec!["bare".to_owned()]),
        scope: Some("plugin".to_owned()),
    };
    assert!(matches!(admin.reply(set("fresh", b"fresh-value")), Reply::Done));
    assert_eq!(bench.facts()[1], "set||fresh|core-admin-token|ok|pattern=manual");
    assert_eq!(
        &bench.agent.snapshot().principal("bare").expect("there").prefix[..],
        br#"{"secrets":{"fresh":"fresh-value"},"#
    );
    let binary = admin.reply(set("binary", b"\xff\xfe"));
    is_refused(binary, RefusalKind::Invalid, "vault: secret value is not valid UTF-8");
    assert_eq!(admin.refused(set("fresh", b"other-value")).kind, RefusalKind::ValueImmutable);
    let Reply::Listing { secrets, principals, issues } = admin.reply(Request::List { token: bench.token() }) else {
        panic!("no listing")
    };
    let names: Vec<_> = secrets.iter().map(|entry| (entry.name.as_str(), entry.scope.as_str())).collect();
    assert_eq!(names, [("api", ""), ("core-admin-token", ""), ("fresh", "plugin")]);
    assert_eq!((principals.len(), issues.len()), (4, 0));
    let everything = format!("{secrets:?}{principals:?}{:?}", bench.facts());
    assert!(!everything.contains(VALUE) && !everything.contains("-value"));
}

#[test]
fn the_executor_hears_of_every_registration_and_revocation() {
    let bench = Bench::new();
    let mut executor = bench.connect(Role::Executor);
    let mut admin = bench.connect(Role::Admin);
    let (token, name) = (bench.token(), "fresh".to_owned());
    admin.reply(Request::RegisterPrincipal { token, name: name.clone(), kind: "plugin".to_owned() });
    admin.reply(Request::RevokePrincipal { token: bench.token(), name });
    for _ in 0..2 {
        let (notice, _) = executor.receive::<Envelope<Reply>, AGENT_MAX>().expect("a notice");
        let Reply::PrincipalsChanged { principals } = notice.body else { panic!("{notice:?}") };
        assert_eq!(
            (notice.call, principals),
            (0, ["bare", "core", "fabric", "fresh", "gone"].map(str::to_owned).to_vec())
        );
    }
}

#[test]
fn tokens_leave_as_digests_of_a_fresh_key() {
    let bench = Bench::new();
    let mut admin = bench.connect(Role::Admin);
    let set = |name: &str, value: &str, pattern: &str| Request::SetSecret {
        token: bench.token(),
        name: name.to_owned(),
        value: secret(value),
        pattern: Some(pattern.to_owned()),
        principals: None,
        scope: None,
    };
    admin.reply(set("gateway-token", "gateway-value", "manual"));
    admin.reply(set("unminted", "", "auto"));
    let mut executor = bench.connect(Role::Executor);
    let refs = ["gateway-token", "api", "core-admin-token", "unminted", "absent"].map(str::to_owned).to_vec();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let reply = executor.reply(Request::Prepare { token_refs: refs.clone(), plugins: vec![] });
        let Reply::Prepared { principals, token_key, tokens, admin_token } = reply else { panic!("{reply:?}") };
        let digest = |bytes: &[u8]| *blake3::keyed_hash(&token_key, bytes).as_bytes();
        let missing = TokenDigest::Missing;
        assert_eq!(
            tokens,
            [TokenDigest::Digest(digest(b"gateway-value")), missing, missing, TokenDigest::Empty, missing]
        );
        assert_eq!(admin_token, Some(digest(bench.token().expose())));
        assert_eq!(principals, ["bare", "core", "fabric", "gone"]);
        keys.push(token_key);
    }
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn a_new_executor_takes_the_others_place_and_its_deliveries_go() {
    let bench = Bench::new();
    let mut old = bench.connect(Role::Executor);
    let mut spawner = bench.connect(Role::Spawner);
    let (_read, write) = pipe();
    let [manifest, entrypoint] = bench.files();
    let request = Request::Deliver(delivery(1, asked("fabric")));
    let (reply, _) = spawner.ask(request, &[write, manifest, entrypoint]).expect("an answer");
    assert!(matches!(reply, Reply::Delivered { secret_names_count: 1 }), "{reply:?}");
    let mut new = bench.connect(Role::Executor);
    assert!(old.receive::<Envelope<Reply>, AGENT_MAX>().is_none(), "the old one is closed");
    let scrub = Request::Scrub { delivery_id: 1, text: Some(VALUE.into()) };
    assert_eq!(new.refused(scrub).kind, RefusalKind::DeliveryUnknown);
    let pid = std::process::id();
    let line = format!("connection_replaced|||executor|ok|old pid={pid} new pid={pid}");
    assert!(bench.facts().contains(&line), "{:?}", bench.facts());
    eventually(|| bench.facts().iter().any(|fact| fact == "deliveries|fabric||core|ok|count=1 first=job1 last=job1"));
}

#[test]
fn deliveries_go_with_the_executor_and_are_counted_when_the_spawner_is_gone() {
    let bench = Bench::new();
    let executor = bench.connect(Role::Executor);
    let mut spawner = bench.connect(Role::Spawner);
    for id in 1..=3 {
        let (_read, write) = pipe();
        let [manifest, entrypoint] = bench.files();
        spawner
            .ask(Request::Deliver(delivery(id, asked("fabric"))), &[write, manifest, entrypoint])
            .expect("an answer");
    }
    assert_eq!(lock(&bench.agent.open).len(), 3);
    drop(spawner);
    eventually(|| bench.facts().iter().any(|fact| fact == "deliveries|fabric||core|ok|count=3 first=job1 last=job3"));
    assert_eq!(lock(&bench.agent.open).len(), 3, "a spawner takes none with it");
    drop(executor);
    eventually(|| lock(&bench.agent.open).is_empty());
}

#[test]
fn status_tells_of_a_vault_or_of_none() {
    let status = |bench: &Bench| match bench.connect(Role::Executor).reply(Request::Status) {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    };
    let open = status(&Bench::new());
    assert_eq!((open.vault, open.generation, open.key_source.as_str()), (VaultState::Open, 1, "--key"));
    assert_eq!(open.principals, ["bare", "core", "fabric", "gone"]);
    let bench = Bench::absent();
    let absent = status(&bench);
    assert_eq!((absent.vault, absent.generation, absent.principals.len()), (VaultState::Absent, 0, 0));
    let mut executor = bench.connect(Role::Executor);
    let reply =
        executor.reply(Request::Prepare { token_refs: vec!["a".to_owned()], plugins: Vec::<PreparedPlugin>::new() });
    assert!(matches!(reply, Reply::Prepared { tokens, admin_token: None, .. } if tokens == [TokenDigest::Missing]));
    assert_eq!(executor.refused(Request::Attest(asked("fabric"))).kind, RefusalKind::Invalid, "two descriptors");
    let reply = executor.ask(Request::Attest(asked("fabric")), &bench.files()).expect("an answer").0;
    is_refused(reply, RefusalKind::VaultAbsent, "vault not available");
    let mut admin = bench.connect(Role::Admin);
    is_refused(admin.reply(Request::List { token: secret("x") }), RefusalKind::VaultAbsent, "vault not available");
}

#[test]
fn attestation_answers_and_shows_no_digest() {
    use shared::wire::vault::AttestationOutcome::{Match, Mismatch, Unrecorded};
    let bench = Bench::new();
    let mut executor = bench.connect(Role::Executor);
    let mut check = |plugin: &str, expected| {
        let (reply, _) = executor.ask(Request::Attest(asked(plugin)), &bench.files()).expect("an answer");
        assert!(matches!(reply, Reply::Attested(outcome) if outcome == expected), "{reply:?}");
    };
    check("fabric", Match);
    check("stranger", Unrecorded);
    bench.dir.file("manifest.yaml", "name: other\n", 0o644);
    check("fabric", Mismatch);
}

#[test]
fn a_fingerprint_needs_the_token_and_makes_what_matches() {
    let bench = Bench::new();
    let mut admin = bench.connect(Role::Admin);
    let ask = |token| Request::Fingerprint { token, attestation: asked("fabric") };
    let (reply, _) = admin.ask(ask(secret("wrong")), &bench.files()).expect("an answer");
    is_refused(reply, RefusalKind::AdminToken, "invalid vault admin token");
    let (reply, _) = admin.ask(ask(bench.token()), &bench.files()).expect("an answer");
    let Reply::Fingerprint { manifest_hash, entrypoint_hash, binding_mac } = reply else { panic!("{reply:?}") };
    let recorded = std::fs::read_to_string(bench.dir.path(".checksums")).expect("there");
    for part in [manifest_hash, entrypoint_hash, binding_mac] {
        assert!(part.len() == 64 && recorded.contains(&part), "{part}");
    }
    assert_eq!(admin.refused(ask(bench.token())).kind, RefusalKind::Invalid, "no descriptor");
}

#[test]
fn an_exposed_token_is_journalled() {
    let bench = Bench::new();
    assert!(matches!(bench.connect(Role::Executor).reply(Request::TokenExposed), Reply::Done));
    assert_eq!(bench.facts()[1], "auth_failure||core-admin-token|api|security_alert|exposed, rotate");
}
