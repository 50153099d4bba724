//! Where a secret is and where it is not, and what is refused before a child exists.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::secret::Secret;
use shared::wire::frame::AGENT_MAX;
use shared::wire::hello::Hello;
use shared::wire::refusal::RefusalKind;
use shared::wire::vault::{Attestation, Delivery, PreparedPlugin, Reply, Request};
use tests::instance::random_text;
use tests::peer::{Outcome, Peer, as_user, connect_as};
use tests::site::{PATIENCE, Setup, Site};
use tests::unit_set::{under_systemd, user};
use tests::{procs, scan, wait};

/// A value of this run alone: what is found of it was not there before.
fn value() -> String {
    random_text()
}

#[test]
fn a_hundred_secrets_later_only_the_agent_knows_the_value() {
    let value = value();
    let instance = Setup::new().plugin("canary").secret("canary_key", &value, &["canary"]).start();
    run_a_hundred(&instance);
    let launcher = instance.launcher();
    let pid = |program| instance.pid(program);
    only_the_agent_knows(
        &value,
        pid("ductile-vault-agent"),
        &[launcher, pid("ductile-executor"), pid("ductile-spawner"), pid("ductile-api")],
        &instance,
    );
    let scan = scan::files(&[instance.root().to_owned()], value.as_bytes());
    assert!(scan.bytes > 0 && scan.hits.is_empty(), "{:?}", scan.hits);
}

#[test]
fn under_systemd_only_the_agent_knows_the_value() {
    under_systemd("secrets::under_systemd_only_the_agent_knows_the_value", || {
        let value = value();
        let set = Setup::new().plugin("canary").secret("canary_key", &value, &["canary"]).start_units();
        run_a_hundred(&set);
        let pid = |program| set.pid(program);
        only_the_agent_knows(
            &value,
            pid("ductile-vault-agent"),
            &[pid("ductile-executor"), pid("ductile-spawner"), pid("ductile-api")],
            &set,
        );
        let folders = ["/etc/ductile", "/var/lib/ductile", "/var/lib/ductile-vault", "/run/ductile"];
        let scan = scan::files(&folders.map(PathBuf::from), value.as_bytes());
        assert!(scan.bytes > 0 && scan.hits.is_empty(), "{:?}", scan.hits);
        assert!(!set.journal().contains(&value), "the journal holds the value");
    });
}

#[test]
fn a_printed_secret_is_in_no_memory_but_the_agents_after_its_scrub() {
    let value = value();
    let instance = Setup::new().plugin("canary").secret("canary_key", &value, &["canary"]).start();
    let jobs: Vec<_> = (0..20).map(|_| instance.trigger("canary", "handle", "{}")).collect();
    for job in jobs {
        let job = instance.finished(&job);
        assert_eq!(job["result"]["result"], "[secret:canary_key]", "{job}");
    }
    let found = scan::memory(instance.pid("ductile-executor"), value.as_bytes());
    assert!(found.bytes > 1 << 16 && found.hits.is_empty(), "{:?}", found.hits);
}

#[test]
fn the_first_secret_may_be_asked_for_long_after_the_start() {
    let instance = Setup::new().plugin("canary").secret("canary_key", &value(), &["canary"]).start();
    // Silence is what is tested: longer than any frame may take once it has begun (10 s).
    std::thread::sleep(Duration::from_secs(12));
    let job = instance.run_job("canary", "");
    assert_eq!(job["status"], "succeeded", "{job}\n{}", instance.log());
}

fn run_a_hundred(site: &Site) {
    let jobs: Vec<_> = (0..100).map(|_| site.trigger("canary", "poll", "")).collect();
    for job in jobs {
        let job = site.finished(&job);
        assert_eq!(job["status"], "succeeded", "{job}");
        assert_eq!(job["result"]["result"], "a secret of 64 bytes");
    }
}

fn only_the_agent_knows(value: &str, agent: u32, others: &[u32], site: &Site) {
    let found = scan::memory(agent, value.as_bytes());
    assert!(!found.hits.is_empty(), "the scan of {} bytes does not find what the agent holds", found.bytes);
    for pid in others {
        let name = procs::name(*pid).unwrap_or_default();
        let found = scan::memory(*pid, value.as_bytes());
        assert!(found.bytes > 1 << 16, "hardly anything of {name} was read");
        assert!(found.hits.is_empty(), "{name} holds the value: {:?}", found.hits);
    }
    for pid in others.iter().chain(&[agent]) {
        let text = procs::arguments_and_environment(*pid);
        assert!(!text.is_empty() && !contains(&text, value), "arguments or environment of {pid}");
    }
    let found = scan::files(&site.files(), value.as_bytes());
    assert!(found.bytes > 0 && found.hits.is_empty(), "{:?}", found.hits);
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_changed_plugin_is_refused_before_it_runs() {
    let instance = Setup::new().plugin("canary").secret("canary_key", &value(), &["canary"]).start();
    assert_eq!(instance.run_job("canary", "")["status"], "succeeded");
    instance.tamper("canary");
    let why = refused_without_a_child(&instance, instance.pid("ductile-spawner"), "canary");
    assert!(why.contains("fingerprint"), "{why}");
    assert!(instance.log().contains("SECURITY:"), "{}", instance.log());
}

#[test]
fn a_plugin_that_was_never_locked_gets_nothing() {
    // Locked before the plugin lies there: it is discovered at the next start, and unrecorded.
    let prepared = Setup::new().plugin("canary").secret("canary_key", &value(), &["canary"]).prepare();
    let seal = prepared.config.join(".checksums");
    let text = std::fs::read_to_string(&seal).expect("read the seal");
    let without = text.split("plugin_fingerprints:").next().expect("a first part");
    std::fs::write(&seal, without).expect("write the seal");
    let instance = prepared.start();
    let why = refused_without_a_child(&instance, instance.pid("ductile-spawner"), "canary");
    assert!(why.contains("fingerprint"), "{why}");
}

#[test]
fn a_revoked_principal_is_refused_before_it_runs() {
    let instance = Setup::new().plugin("canary").secret("canary_key", &value(), &["canary"]).start();
    assert_eq!(instance.run_job("canary", "")["status"], "succeeded");
    let token = std::fs::read(&instance.admin_token_file).expect("read the admin token");
    let stream = UnixStream::connect(instance.database.with_file_name("vault-admin.sock")).expect("connect");
    let mut admin = Peer::hello(stream, &Hello::ours(None)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let revoke = Request::RevokePrincipal { token: Secret::new(token), name: "canary".to_owned() };
    match admin.ask::<_, Reply, AGENT_MAX>(revoke, &[]) {
        Outcome::Answered(Reply::Done) => {}
        other => panic!("{other:?}"),
    }
    let why = refused_without_a_child(&instance, instance.pid("ductile-spawner"), "canary");
    assert!(why.contains("principal is not active"), "{why}");
}

#[test]
fn an_unknown_principal_is_refused_only_where_secrets_are_required() {
    let instance = Setup::new()
        .plugin_with("canary", "requires_vault: true")
        .plugin("tiny")
        .secret("other_key", &value(), &["other"])
        .start();
    let why = refused_without_a_child(&instance, instance.pid("ductile-spawner"), "canary");
    assert!(why.contains("vault: plugin requires vault secrets but its principal is unknown/unregistered"), "{why}");
    // Without the requirement an unknown one runs keyless …
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    // … and a registered one that was granted nothing runs with an empty map.
    instance.vault(&["register-principal", "--name", "tiny"], b"");
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

#[test]
fn an_ungranted_plugin_runs_without_the_secrets_of_others() {
    let instance = Setup::new().plugin("canary").secret("canary_key", &value(), &["other"]).start();
    instance.vault(&["register-principal", "--name", "canary"], b"");
    let id = instance.trigger("canary", "poll", "");
    assert_eq!(instance.finished(&id)["status"], "failed");
    assert_eq!(instance.last_error(&id), "no canary_key came");
}

#[test]
fn under_systemd_without_an_agent_secrets_wait_and_the_rest_runs() {
    under_systemd("secrets::under_systemd_without_an_agent_secrets_wait_and_the_rest_runs", || {
        let set = Setup::new()
            .plugin_with("canary", "shared_account: true")
            .plugin("tiny")
            .secret("canary_key", &value(), &["canary"])
            .start_units();
        assert_eq!(set.run_job("canary", "")["status"], "succeeded");
        // Whoever connects meanwhile would have the service started again, and the stop cancelled.
        set.systemctl(&[
            "--job-mode=replace-irreversibly",
            "stop",
            "ductile-vault-agent.socket",
            "ductile-vault-executor.socket",
            "ductile-vault-spawner.socket",
            "ductile-vault-agent.service",
        ]);
        let executor = set.pid("ductile-executor");
        let why = refused_without_a_child(&set, set.pid("ductile-spawner"), "canary");
        assert!(why.contains("vault agent unavailable"), "{why}");
        assert_eq!(set.run_job("tiny", "")["status"], "succeeded");
        set.start();
        wait::until_true("secrets to be delivered again", PATIENCE, || {
            set.run_job("canary", "")["status"] == "succeeded"
        });
        assert_eq!(set.pid("ductile-executor"), executor, "the executor did not live through it");
    });
}

#[test]
fn under_systemd_a_shared_account_is_refused_unless_the_operator_says_so() {
    under_systemd("secrets::under_systemd_a_shared_account_is_refused_unless_the_operator_says_so", || {
        let set =
            Setup::new().plugin("canary").plugin("tiny").secret("canary_key", &value(), &["canary"]).start_units();
        let why = refused_without_a_child(&set, set.pid("ductile-spawner"), "canary");
        assert!(why.contains("shares account default with tiny"), "{why}");
        let path = set.config.join("plugins.yaml");
        let text = std::fs::read_to_string(&path).expect("read plugins.yaml");
        std::fs::write(&path, text.replacen("enabled: true", "enabled: true\n    shared_account: true", 1))
            .expect("write plugins.yaml");
        set.run(&["config", "lock"], b"");
        set.systemctl(&["restart", "ductile-executor.service"]);
        wait::until_true("the executor to serve again", PATIENCE, || set.is_healthy());
        let job = set.run_job("canary", "");
        assert_eq!(job["status"], "succeeded", "{job}\n{}", set.log());
    });
}

#[test]
fn under_systemd_a_pipe_that_is_too_small_is_refused() {
    under_systemd("secrets::under_systemd_a_pipe_that_is_too_small_is_refused", || {
        // More than the two pages that a pipe gets once its user has used up the soft limit.
        let value = "v".repeat(12_000);
        let set = Setup::new().plugin("canary").secret("canary_key", &value, &["canary"]).start_units();
        assert_eq!(set.run_job("canary", "")["status"], "succeeded");
        {
            let _pages = use_up_the_pipes_of("ductile-spawner");
            let why = refused_without_a_child(&set, set.pid("ductile-spawner"), "canary");
            assert!(why.contains("pipe"), "{why}");
        }
        wait::until_true("pipes to be whole again", PATIENCE, || set.run_job("canary", "")["status"] == "succeeded");
    });
}

/// Holds as many pages of pipes as `pipe-user-pages-soft` allows a user.
fn use_up_the_pipes_of(name: &str) -> Vec<(io::PipeReader, io::PipeWriter)> {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("read the limit");
    let limit: usize = limit.trim().parse().expect("a number");
    assert!(limit > 0, "pipe-user-pages-soft is off: nothing can be used up");
    let largest = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").expect("read the limit");
    let largest: usize = largest.trim().parse().expect("a number");
    let (uid, gid) = user(name);
    as_user(uid, gid, || {
        let mut held = Vec::new();
        let mut pages = 0;
        while pages <= limit {
            let pipe = io::pipe().expect("make a pipe");
            let size = rustix::pipe::fcntl_getpipe_size(&pipe.1).expect("ask for its size");
            // Beyond the limit each new one is down to two pages, and none grows.
            if size <= 2 * rustix::param::page_size() {
                held.push(pipe);
                break;
            }
            // As large as it can be: few descriptors then hold all the pages.
            let _ = rustix::pipe::fcntl_setpipe_size(&pipe.1, largest);
            pages += rustix::pipe::fcntl_getpipe_size(&pipe.1).expect("ask for its size") / rustix::param::page_size();
            held.push(pipe);
        }
        held
    })
}

#[test]
fn under_systemd_what_is_no_empty_pipe_is_refused_at_the_agents_socket() {
    under_systemd("secrets::under_systemd_what_is_no_empty_pipe_is_refused_at_the_agents_socket", || {
        let value = value();
        let set = Setup::new().plugin("canary").secret("canary_key", &value, &["canary"]).start_units();
        set.systemctl(&[
            "stop",
            "ductile-executor.socket",
            "ductile-executor-admin.socket",
            "ductile-executor.service",
        ]);
        let connect = |socket: &str, name: &str| {
            let (uid, gid) = user(name);
            let stream = connect_as(Path::new(&format!("/run/ductile/{socket}.sock")), uid, gid).expect("connect");
            Peer::hello(stream, &Hello::ours(None)).unwrap_or_else(|refusal| panic!("{socket}: {refusal:?}"))
        };
        // In the executor's place: the configuration that is in force.
        let account = user("ductile-plugin");
        let mut executor = connect("vault-executor", "ductile");
        let plugin = PreparedPlugin {
            plugin: "canary".to_owned().try_into().expect("a valid name"),
            principal: "canary".to_owned(),
            account: Some(("default".to_owned(), account.0)),
            shared_account: false,
        };
        let prepare = Request::Prepare { token_refs: Vec::new(), plugins: vec![plugin] };
        assert!(matches!(ask(&mut executor, prepare, &[]), Reply::Prepared { .. }));
        assert!(matches!(ask(&mut executor, Request::Commit, &[]), Reply::Done));

        // And in the spawner's.
        let mut spawner = connect("vault-spawner", "ductile-spawner");
        let open = |file: &str| File::open(set.plugin_root.join("canary").join(file)).expect("open a file");
        let (manifest, entrypoint) = (open("manifest.yaml"), open("canary"));
        let mut number = 0;
        let mut deliver = |target: BorrowedFd<'_>| {
            number += 1;
            let delivery = Delivery {
                delivery_id: number,
                job_id: "0198-a".to_owned().try_into().expect("a valid id"),
                attestation: Attestation {
                    plugin: "canary".to_owned().try_into().expect("a valid name"),
                    uses: String::new(),
                    principal: "canary".to_owned(),
                    requires_vault: false,
                    account: Some(account),
                },
            };
            ask(&mut spawner, Request::Deliver(delivery), &[target, manifest.as_fd(), entrypoint.as_fd()])
        };
        let pipe = || as_user(account.0, account.1, || io::pipe().expect("make a pipe"));
        let without_waiting = |fd: BorrowedFd<'_>| rustix::io::ioctl_fionbio(fd, true).expect("make it non-blocking");

        // So the checks below fail for their own reason: the right pipe is filled.
        let (mut reader, writer) = pipe();
        without_waiting(writer.as_fd());
        assert!(matches!(deliver(writer.as_fd()), Reply::Delivered { secret_names_count: 1 }));
        drop(writer);
        let mut prefix = String::new();
        reader.read_to_string(&mut prefix).expect("read the pipe");
        assert_eq!(prefix, format!("{{\"secrets\":{{\"canary_key\":\"{value}\"}},"));

        let mut refused = |what: &str, target: OwnedFd| match deliver(target.as_fd()) {
            Reply::Refused(refusal) => assert_eq!(refusal.kind, RefusalKind::Pipe, "{what}: {refusal}"),
            other => panic!("{what}: {other:?}"),
        };
        let (_full, writer) = pipe();
        without_waiting(writer.as_fd());
        rustix::io::write(&writer, b"x").expect("write a byte");
        refused("not empty", writer.into());
        let (_blocking, writer) = pipe();
        refused("blocking", writer.into());
        let (reader, _writer) = pipe();
        without_waiting(reader.as_fd());
        refused("a read end", reader.into());
        let (_foreign, writer) = io::pipe().expect("make a pipe");
        without_waiting(writer.as_fd());
        refused("of another user", writer.into());
        let (_end, socket) = UnixStream::pair().expect("make a pair");
        socket.set_nonblocking(true).expect("make it non-blocking");
        refused("a socket", socket.into());
        let file = tests::scratch::Scratch::new();
        refused("a file", File::create(file.path().join("file")).expect("make a file").into());
        refused("/dev/null", File::options().write(true).open("/dev/null").expect("open it").into());
    });
}

fn ask(peer: &mut Peer, request: Request, descriptors: &[BorrowedFd<'_>]) -> Reply {
    match peer.ask::<_, Reply, AGENT_MAX>(request, descriptors) {
        Outcome::Answered(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// Runs a job that is to fail before any child exists, and gives the ledger's reason. The executor
/// and its spawner live through it.
fn refused_without_a_child(site: &Site, spawner: u32, plugin: &str) -> String {
    // What ran before is gone, so that only this job could add anything.
    wait::until_true("earlier children to end", Duration::from_secs(10), || procs::children(spawner).is_empty());
    let before = procs::faults_of_reaped_children(spawner).expect("the spawner runs");
    let id = site.trigger(plugin, "poll", "");
    let job = site.finished(&id);
    assert_eq!(job["status"], "failed", "{job}");
    assert_eq!(procs::faults_of_reaped_children(spawner), Some(before), "a child came and went");
    assert!(procs::children(spawner).is_empty());
    assert!(site.is_healthy());
    let why = site.last_error(&id);
    assert!(why.starts_with("secret composition failed: "), "{why}");
    why
}

#[test]
fn a_child_that_came_and_went_would_be_seen() {
    let instance = Setup::new().plugin("tiny").start();
    let spawner = instance.pid("ductile-spawner");
    let before = procs::faults_of_reaped_children(spawner).expect("the spawner runs");
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    wait::until_true("the child to be reaped", PATIENCE, || {
        procs::faults_of_reaped_children(spawner).is_some_and(|now| now > before)
    });
}
