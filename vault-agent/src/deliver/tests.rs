//! Every check of a delivery, by the real code over real pipes and files.

use std::io::Read as _;

use shared::wire::vault::{PreparedPlugin, Request};

use super::*;
use crate::bench::{Bench, asked, delivery, pipe};
use crate::permit::Role;

/// What the plugin's stdin holds once the write end is gone.
fn start_of(mut read: std::fs::File) -> String {
    let mut text = String::new();
    read.read_to_string(&mut text).expect("UTF-8");
    text
}

fn attempt_with(bench: &Bench, asked: Attestation, pipe: OwnedFd) -> Result<u32, Refusal> {
    let [manifest, entrypoint] = bench.files();
    deliver(&bench.agent, &delivery(1, asked), vec![pipe, manifest, entrypoint])
}

/// The outcome and what was written.
fn attempt(bench: &Bench, asked: Attestation) -> (Result<u32, Refusal>, String) {
    let (read, write) = pipe();
    let outcome = attempt_with(bench, asked, write);
    (outcome, start_of(read))
}

#[track_caller]
fn refused(bench: &Bench, asked: Attestation, kind: RefusalKind, text: &str) {
    let (outcome, written) = attempt(bench, asked);
    let refusal = outcome.expect_err("refused");
    assert_eq!((refusal.kind, refusal.message.as_str()), (kind, text));
    assert_eq!(written, "", "a refusal writes nothing");
    assert!(lock(&bench.agent.open).is_empty(), "and keeps nothing");
}

#[test]
fn a_locked_plugin_of_a_granted_principal_gets_its_secrets() {
    let bench = Bench::new();
    let (outcome, written) = attempt(&bench, asked("fabric"));
    assert_eq!(outcome, Ok(1));
    assert_eq!(written, r#"{"secrets":{"api":"hunter2-hunter2"},"#);
    assert!(lock(&bench.agent.open).contains_key(&1));
    bench.agent.flush_deliveries();
    assert_eq!(bench.facts().last().expect("a line"), "deliveries|fabric||core|ok|count=1 first=job1 last=job1");
    bench.agent.flush_deliveries();
    assert_eq!(bench.facts().len(), 2, "nothing new, no line");
}

#[test]
fn who_gets_nothing_gets_a_brace() {
    let bench = Bench::new();
    assert_eq!(attempt(&bench, asked("bare")), (Ok(0), "{".to_owned()));
    assert_eq!(attempt(&bench, asked("stranger")), (Ok(0), "{".to_owned()));
    assert_eq!(attempt(&Bench::absent(), asked("fabric")), (Ok(0), "{".to_owned()));
    assert!(lock(&bench.agent.open).is_empty());
}

#[test]
fn policy_refuses_with_the_texts_of_the_chapter() {
    let bench = Bench::new();
    let required = |plugin: &str| Attestation { requires_vault: true, ..asked(plugin) };
    let text = "vault: plugin requires vault secrets but its principal is unknown/unregistered";
    refused(&bench, required("stranger"), RefusalKind::VaultRequired, text);
    refused(&Bench::absent(), required("fabric"), RefusalKind::VaultRequired, text);
    let inactive = "vault: principal is not active: \"gone\"";
    refused(&bench, asked("gone"), RefusalKind::PrincipalInactive, inactive);
    assert_eq!(
        bench.facts()[1..],
        [
            format!("compose_denial|stranger||core|denied|{text}"),
            format!("compose_denial|gone||core|denied|{inactive}")
        ]
    );
}

#[test]
fn other_bytes_another_name_or_another_principal_get_nothing() {
    let bench = Bench::new();
    let bound = "plugin \"bare\": its principal, account, uses or requires_vault is not what was locked; run 'ductile plugin lock bare' after reviewing the change";
    let stolen = Attestation { principal: "fabric".to_owned(), ..asked("bare") };
    refused(&bench, stolen, RefusalKind::FingerprintMismatch, bound);
    assert_eq!(bench.facts()[1], format!("fingerprint_mismatch|bare||core|security_alert|{bound}"));
    bench.dir.file("run", "#!/bin/sh\nevil\n", 0o755);
    let text =
        "plugin \"fabric\": entrypoint hash mismatch; run 'ductile plugin lock fabric' after reviewing the change";
    refused(&bench, asked("fabric"), RefusalKind::FingerprintMismatch, text);
    std::fs::remove_file(bench.dir.path(".checksums")).expect("there");
    let (outcome, _) = attempt(&bench, asked("fabric"));
    let text = outcome.expect_err("refused").message;
    assert!(text.starts_with("plugin \"fabric\": checksums file not found (run 'ductile config lock'): "), "{text}");
    assert!(!bench.facts().iter().any(|fact| fact.contains(crate::bench::VALUE)));
}

#[test]
fn pipes_of_another_shape_are_refused() {
    let bench = Bench::new();
    let pipe_refused = |fd: OwnedFd, text: &str| {
        let refusal = attempt_with(&bench, asked("fabric"), fd).expect_err("refused");
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Pipe, text));
        assert!(lock(&bench.agent.open).is_empty());
    };
    let file = || std::fs::File::create(bench.dir.path("file")).expect("create");
    pipe_refused(file().into(), "stdin is not a pipe");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
    pipe_refused(socket.into(), "stdin is not a pipe");
    let (read, _write) = pipe();
    pipe_refused(read.into(), "stdin is not the write end of a pipe");
    let (_read, write) = pipe();
    rustix::io::ioctl_fionbio(&write, false).expect("blocking");
    pipe_refused(write, "stdin is not set to O_NONBLOCK");
    let (_read, write) = pipe();
    rustix::io::write(&write, b"{\"secrets\":{\"api\":\"forged\"},").expect("written");
    pipe_refused(write, "stdin is not empty");
    let both = rustix::fs::open(
        fifo(&bench),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK,
        rustix::fs::Mode::empty(),
    );
    pipe_refused(both.expect("opens"), "stdin is not the write end of a pipe");
    let (read, write) = pipe();
    drop(read);
    let refusal = attempt_with(&bench, asked("fabric"), write).expect_err("nobody reads");
    assert!(refusal.message.starts_with("stdin did not take the request's start"), "{}", refusal.message);
    let two = deliver(&bench.agent, &delivery(1, asked("fabric")), bench.files().into());
    assert_eq!(two.expect_err("refused").kind, RefusalKind::Invalid);
}

fn fifo(bench: &Bench) -> std::path::PathBuf {
    let path = bench.dir.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0)
        .expect("fifo");
    path
}

#[test]
fn a_pipe_too_small_for_a_whole_write_is_refused() {
    let bench = Bench::new();
    let (_read, write) = pipe();
    rustix::pipe::fcntl_setpipe_size(&write, PAGE).expect("one page");
    assert_eq!(check_pipe(&write, None, PAGE), Ok(()));
    let text = check_pipe(&write, None, PAGE + 1).expect_err("refused");
    assert_eq!(text, "holds 4096 bytes, too few for the request's start");
    assert_eq!(attempt_with(&bench, asked("fabric"), write), Ok(1), "a small start fits one page");
}

#[test]
fn a_pipe_of_another_user_is_refused_where_there_is_an_account() {
    let (_read, write) = pipe();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(check_pipe(&write, Some(own), 1), Ok(()));
    assert_eq!(check_pipe(&write, Some(own + 1), 1), Err("does not belong to the plugin's account".to_owned()));
}

/// The account rules look at the owner of the plugin's files, so only root can play them.
#[test]
fn a_shared_account_is_refused_until_the_configuration_allows_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let enforced = || Attestation { account: Some((0, 0)), ..asked("fabric") };
    bench.lock_plugins(&[enforced()]);
    let nobody_knows = "vault: no configuration is committed, so nobody knows who shares the account";
    refused(&bench, enforced(), RefusalKind::Unavailable, nobody_knows);
    let commit = |shared_account: bool| {
        let plugin = |name: &str| PreparedPlugin {
            plugin: asked(name).plugin,
            principal: name.to_owned(),
            account: Some(("workers".to_owned(), 0)),
            shared_account,
        };
        let mut executor = bench.connect(Role::Executor);
        executor.reply(Request::Prepare { token_refs: vec![], plugins: vec![plugin("fabric"), plugin("other")] });
        executor.reply(Request::Commit);
    };
    commit(false);
    let text = "vault: plugin shares account workers with other";
    refused(&bench, enforced(), RefusalKind::SharedAccount, text);
    commit(true);
    assert_eq!(attempt(&bench, enforced()).0, Ok(1));
    let swapped = Attestation { account: Some((0, 1)), ..asked("fabric") };
    let text = "plugin \"fabric\": its principal, account, uses or requires_vault is not what was locked; run 'ductile plugin lock fabric' after reviewing the change";
    lock(&bench.agent.open).clear();
    refused(&bench, swapped, RefusalKind::FingerprintMismatch, text);
}

#[test]
fn open_deliveries_are_bounded() {
    let bench = Bench::new();
    let snapshot = bench.agent.snapshot();
    let grantee = snapshot.principal("fabric").expect("registered");
    for id in 0..u64::try_from(OPEN_MAX).expect("small") {
        keep(&bench.agent, id, grantee).expect("room");
    }
    keep(&bench.agent, 0, grantee).expect("the same one again");
    let refusal = keep(&bench.agent, u64::MAX, grantee).expect_err("full");
    assert_eq!(refusal.kind, RefusalKind::TooManyDeliveries);
}
