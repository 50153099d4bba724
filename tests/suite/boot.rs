//! The launcher: from its start to its end, and what it refuses.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::process::Signal;
use tests::instance::Ended;
use tests::site::{PATIENCE, Setup, json};
use tests::{http, procs, wait};

const VALUE: &str = "a-value-that-is-long-enough-to-be-scrubbed";

fn setup() -> Setup {
    Setup::new().plugin("tiny").plugin("canary").secret("canary_key", VALUE, &["canary"])
}

#[test]
fn from_its_start_over_a_job_with_a_secret_to_its_end() {
    let instance = setup().start();

    let health = http::request(instance.address, "GET", "/healthz", &[], None);
    let text = health.body.clone();
    let fields = ["status", "uptime_seconds", "queue_depth", "plugins_loaded", "plugins_circuit_open"];
    let places: Vec<_> = fields.iter().map(|field| text.find(&format!("\"{field}\":")).expect(field)).collect();
    assert!(places.is_sorted(), "{text}");
    let health = json(&health);
    assert_eq!((&health["status"], &health["queue_depth"]), (&"ok".into(), &0.into()));
    assert_eq!((&health["plugins_loaded"], &health["plugins_circuit_open"]), (&2.into(), &0.into()));

    let job = instance.run_job("canary", "");
    assert_eq!(job["status"], "succeeded", "{job}\n{}", instance.log());
    assert_eq!(job["result"]["result"], format!("a secret of {} bytes", VALUE.len()));
    assert_eq!(instance.run_job("tiny", r#"{"any":1}"#)["result"]["result"], "tiny");

    let sockets = sockets_below(instance.root());
    assert_eq!(sockets.len(), 2, "{sockets:?}");
    for name in ["executor-admin.sock", "vault-admin.sock"] {
        assert_eq!(procs::mode_and_owner(instance.root().join("data").join(name)).0, 0o600, "{name}");
    }
    assert_eq!(procs::mode_and_owner(&instance.database).0, 0o600);
    assert_eq!(procs::mode_and_owner(&instance.vault).0, 0o600);

    let root = instance.root().to_owned();
    procs::signal(instance.launcher(), Signal::TERM);
    let (ended, left) = instance.ended_keeping(|| sockets_below(&root));
    assert!(left.is_empty(), "sockets are left: {left:?}");
    assert_eq!(ended.status.code(), Some(0), "{}{}", ended.stderr, ended.log);
    assert!(!ended.log.contains(VALUE) && !ended.stderr.contains(VALUE));
}

#[test]
fn says_at_its_start_that_one_uid_protects_nothing() {
    let instance = Setup::new().plugin("tiny").start();
    assert!(instance.stderr().contains("nothing here is protected from a plugin of this uid"), "{}", instance.stderr());
}

#[test]
fn every_line_of_the_log_is_one_json_object() {
    let instance = setup().start();
    instance.run_job("canary", "");
    let ended = instance.stop();
    for line in ended.log.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["time", "level", "msg", "component"] {
            assert!(record[field].is_string(), "{field}: {line}");
        }
    }
}

#[test]
fn a_dead_child_ends_the_whole() {
    for program in ["ductile-vault-agent", "ductile-executor", "ductile-spawner", "ductile-api"] {
        let instance = Setup::new().plugin("tiny").start();
        procs::signal(instance.pid(program), Signal::KILL);
        let ended = instance.ended();
        assert_eq!(ended.status.code(), Some(1), "{program}: {}", ended.stderr);
    }
}

#[test]
fn what_was_under_way_when_the_launcher_was_killed_is_ended() {
    let instance = Setup::new().plugin("holder").start();
    instance.trigger("holder", "poll", "");
    let plugin = wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    procs::signal(instance.launcher(), Signal::KILL);
    instance.ended();
    assert!(!procs::lives(plugin));
}

#[test]
fn a_stop_gives_running_jobs_their_grace() {
    let instance = Setup::new().plugin("holder").start();
    let id = instance.trigger("holder", "poll", "");
    wait::until("the plugin to run", PATIENCE, || instance.pid_now("holder"));
    procs::signal(instance.launcher(), Signal::TERM);
    wait::until_true("the executor to be asked", PATIENCE, || instance.log().contains("received shutdown signal"));
    instance.release_holders();
    let database = instance.database.clone();
    let (ended, status) = instance.ended_keeping(|| {
        let ledger = rusqlite::Connection::open(database).expect("open the ledger");
        let status = ledger.query_row("SELECT status FROM job_queue WHERE id = ?1", [&id], |row| row.get(0));
        status.unwrap_or_else(|error| error.to_string())
    });
    assert_eq!(ended.status.code(), Some(0), "{}{}", ended.stderr, ended.log);
    assert_eq!(status, "succeeded", "{}", ended.log);
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let instance = Setup::new().plugin("tiny").start();
    let config = instance.config.display().to_string();
    let second = instance.cli(&["system", "start", "--config", &config], b"");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("Failed to acquire PID lock (another instance may be running)"), "{said}");
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

#[test]
fn without_a_vault_plugins_run_and_one_that_needs_it_does_not() {
    let instance = Setup::new().without_vault().plugin("tiny").plugin_with("canary", "requires_vault: true").start();
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
    let id = instance.trigger("canary", "poll", "");
    assert_eq!(instance.finished(&id)["status"], "failed");
    let why = instance.last_error(&id);
    let expected = "vault: plugin requires vault secrets but its principal is unknown/unregistered";
    assert!(why.starts_with("secret composition failed: ") && why.contains(expected), "{why}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let prepared = Setup::new().plugin("tiny").prepare();
    fs::set_permissions(&prepared.key, fs::Permissions::from_mode(0o644)).expect("set the mode");
    let key = prepared.key.display().to_string();
    refused(&prepared.run_to_end(), &[&format!("age key file \"{key}\" has insecure permissions")]);
}

#[test]
fn a_key_that_is_not_there_is_refused() {
    let prepared = Setup::new().plugin("tiny").prepare();
    fs::remove_file(&prepared.key).expect("remove the key");
    let key = prepared.key.display().to_string();
    refused(&prepared.run_to_end(), &[&key]);
}

#[test]
fn a_vault_that_can_not_be_opened_is_refused() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(&str, Spoil); 4] = [
        ("truncated", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty", |_| Vec::new()),
        ("changed", |mut bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            bytes
        }),
        ("no vault at all", |_| b"secrets: {}\n".to_vec()),
    ];
    let prepared = Setup::new().plugin("tiny").prepare();
    let whole = fs::read(&prepared.vault).expect("read the vault");
    let vault = prepared.vault.display().to_string();
    for (what, spoil) in spoils {
        fs::write(&prepared.vault, spoil(whole.clone())).expect("write the vault");
        let ended = prepared.run_to_end();
        assert!(!ended.stderr.is_empty(), "{what}");
        refused(&ended, &[&vault]);
    }
    // And the whole one still opens: a refusal changes nothing.
    fs::write(&prepared.vault, whole).expect("write the vault");
    prepared.start();
}

#[test]
fn a_vault_of_another_key_is_refused() {
    let prepared = Setup::new().plugin("tiny").prepare();
    let other = Setup::new().plugin("tiny").prepare();
    fs::copy(&other.vault, &prepared.vault).expect("copy the other vault");
    let vault = prepared.vault.display().to_string();
    refused(&prepared.run_to_end(), &[&vault]);
}

#[test]
fn bad_requests_are_told_apart() {
    let instance = Setup::new().plugin("tiny").start();
    let post = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        http::request(instance.address, "POST", path, headers, Some(body)).status
    };
    let bearer = format!("Bearer {}", instance.token);
    let good = [("authorization", bearer.as_str())];
    assert_eq!(post("/plugin/tiny/poll", &[], b""), 401);
    assert_eq!(post("/plugin/tiny/poll", &[("authorization", "Bearer no")], b""), 401);
    assert_eq!(post("/plugin/unknown/poll", &good, b""), 400);
    assert_eq!(post("/plugin/tiny/unknown", &good, b""), 400);
    assert_eq!(post("/plugin/tiny/poll", &good, b"{no"), 400);
    assert_eq!(post("/plugin/tiny/handle", &good, br#"{"payload":[1]}"#), 400);
    assert_eq!(post("/plugin/tiny/poll", &good, &vec![b' '; (1 << 20) + 1]), 413);
    assert_eq!(http::request(instance.address, "GET", "/job/0198-unknown", &good, None).status, 404);
    assert_eq!(http::request(instance.address, "GET", "/plugins", &[], None).status, 401);
    let listed = json(&instance.request("GET", "/plugins", ""));
    assert_eq!(listed["plugins"][0]["name"], "tiny");
    assert_eq!(instance.run_job("tiny", "")["status"], "succeeded");
}

fn refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stderr, ended.log);
    for text in texts {
        assert!(ended.stderr.contains(text), "not in what it said: {text}\n{}{}", ended.stderr, ended.log);
    }
}

fn sockets_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the instance") {
        let entry = entry.expect("an entry of a directory");
        let kind = entry.file_type().expect("a kind of file");
        if kind.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
