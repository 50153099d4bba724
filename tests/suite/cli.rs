//! `ductile` by itself, with no Ductile running: its shape, texts, streams and exit codes
//! (`spec/cli.md` 1, 2, 4, 7).

use std::path::Path;
use std::process::{Command, Output};

use tests::command::{command, run_with};
use tests::paths;
use tests::scratch::Scratch;

/// `ductile` in an environment without any configuration.
fn ductile(home: &Path) -> Command {
    let mut ductile = command(paths::profile().join("ductile"));
    ductile.env_clear().env("HOME", home).env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(home);
    ductile
}

fn run(arguments: &[&str]) -> Output {
    let home = Scratch::new();
    run_with(ductile(home.path()).args(arguments), b"")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the CLI prints UTF-8")
}

/// Exit code, and what stdout and stderr must contain; an empty one must be empty.
fn check(arguments: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = run(arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let fits =
        |found: &str, expected: &str| if expected.is_empty() { found.is_empty() } else { found.contains(expected) };
    assert!(
        output.status.code() == Some(code) && fits(out, stdout) && fits(err, stderr),
        "{arguments:?}: {}\n--- stdout\n{out}--- stderr\n{err}",
        output.status
    );
}

#[test]
fn usage_is_on_stdout_and_knows_no_verbs() {
    check(&[], 1, "  ductile <noun> <action> [flags]\n", "");
    for help in ["help", "--help", "-h"] {
        check(&[help], 0, "  ductile <noun> <action> [flags]\n", "");
    }
    let usage = run(&["help"]);
    let usage = text(&usage.stdout);
    assert!(!usage.contains("verb"), "{usage}");
    for command in [
        "system start",
        "system breaker",
        "job retry",
        "job cancel",
        "config check",
        "config lock",
        "plugin lock",
        "vault init",
        "secrets keygen",
    ] {
        assert!(usage.contains(&format!("  {command} ")), "{command} in\n{usage}");
    }
}

#[test]
fn what_is_unknown_is_named() {
    check(&["nonsense"], 1, "  ductile <noun> <action> [flags]\n", "Unknown command: nonsense\n\n");
    check(&["system", "watch"], 1, "", "Unknown system action: watch\n");
    check(&["job", "watch"], 1, "", "Unknown job action: watch\n");
    check(&["config", "token"], 1, "", "Unknown config action: token\n");
    check(&["vault", "nonsense"], 1, "", "Unknown vault action: nonsense\nUsage: ductile vault <action> [flags]\n");
    check(&["secrets", "nonsense"], 1, "", "Unknown secrets action: nonsense\nUsage: ductile secrets <action>\n");
    check(&["system", "start", "--nonsense"], 1, "", "Flag error: unknown flag --nonsense\n");
    check(&["config", "check", "--config"], 1, "", "Flag error: --config needs a value\n");
}

#[test]
fn nouns_and_actions_explain_themselves() {
    check(&["system"], 1, "", "Usage: ductile system <action>\nActions: start");
    check(&["system", "help"], 0, "(no stop/restart: the service manager owns the daemon lifecycle)\n", "");
    check(&["job"], 1, "", "Usage: ductile job <action>\nActions: retry, cancel\n");
    check(&["job", "retry", "x", "--help"], 0, "Usage: ductile job retry <job_id> [--payload JSON ", "");
    check(&["job", "cancel", "-h"], 0, "Usage: ductile job cancel <job_id> [--json]\n", "");
    check(&["system", "reset", "--help"], 0, "Usage: ductile system reset <plugin> [--command COMMAND]\n", "");
    check(&["system", "breaker", "--help"], 0, "Usage: ductile system breaker <plugin> ", "");
    check(&["system", "scheduler", "--help"], 0, "  --rearm PLUGIN:ID ", "");
    check(&["config", "--help"], 0, "Usage: ductile config <action> [flags]\nActions: check, lock", "");
    check(&["vault"], 1, "", "Usage: ductile vault <action> [flags]\n  init ");
    check(&["vault", "-h"], 0, "Usage: ductile vault <action> [flags]\n  init ", "");
    check(&["system", "start", "--help"], 0, "Usage: ductile system start [--config PATH] [--accept-older]\n", "");
    check(&["vault", "set", "--name", "x", "-h"], 0, "Usage: ductile vault set ", "");
    check(&["plugin", "lock", "--all", "-help"], 0, "Usage: ductile plugin lock ", "");
}

#[test]
fn version_has_both_forms() {
    let first = format!("ductile {}\ncommit: ", env!("CARGO_PKG_VERSION"));
    check(&["version"], 0, &first, "");
    check(&["--version"], 0, &first, "");
    check(
        &["--version", "--json"],
        0,
        &format!("{{\n  \"version\": \"{}\",\n  \"commit\": ", env!("CARGO_PKG_VERSION")),
        "",
    );
    check(&["version", "more"], 1, "", "Usage: ductile version [--json]\n");
}

#[test]
fn the_service_manager_stops_and_restarts() {
    for action in ["stop", "restart"] {
        let output = run(&["system", action]);
        let err = text(&output.stderr);
        let first =
            format!("ductile system {action} does not exist — the service manager owns the daemon lifecycle.\n");
        assert!(err.starts_with(&first), "{err}");
        assert!(err.contains("Use: systemctl --user ") && err.contains("Ctrl-C (foreground)"), "{err}");
        assert!(err.ends_with("For an in-process config swap use: ductile system reload\n"), "{err}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn start_says_what_is_missing() {
    let none = "no config found (checked: $DUCTILE_CONFIG_DIR, ~/.config/ductile, /etc/ductile)\n\
                Hint: create ~/.config/ductile/config.yaml or use --config\n";
    if !Path::new("/etc/ductile").exists() {
        check(&["system", "start"], 1, "", none);
    }
    check(
        &["system", "start", "--config", "/nonexistent"],
        1,
        "",
        "Failed to load config: config file not found: /nonexistent\n",
    );
    check(
        &["system", "start", "--config", "a", "--config-dir", "b"],
        1,
        "",
        "use only one of --config or --config-dir\n",
    );
}

#[test]
fn vault_clients_refuse_what_they_can_see_themselves() {
    check(&["vault", "init"], 1, "", "vault init: --vault and --key are required\n");
    check(&["vault", "set"], 1, "", "vault set: --name is required\n");
    check(&["vault", "get"], 1, "", "vault get: --name is required\n");
    check(
        &["vault", "set", "--name", "a"],
        1,
        "",
        "vault set: vault admin token required (--token or DUCTILE_VAULT_TOKEN)\n",
    );
    let mode = ["vault", "set", "--name", "a", "--vault", "v"];
    let text = "vault set: offline mode requires BOTH --vault and --key (the daemon must be stopped)\n";
    check(&mode, 1, "", text);
    let both = [&mode[..], &["--key", "k", "--api-url", "unix:///s"]].concat();
    check(&both, 1, "", "vault set: choose one mode — offline (--vault + --key) OR daemon (--api-url), not both\n");
    let with_token = |more: &[&'static str]| {
        let mut all = vec!["vault", "register-principal", "--name", "a", "--token", "t"];
        all.extend(more);
        all
    };
    let over_http = "vault register-principal: managed only over the vault agent socket: use ductile vault\n";
    check(&with_token(&["--api-url", "http://localhost:8080"]), 1, "", over_http);
    check(&with_token(&["--api-url", "https://x"]), 1, "", over_http);
    check(&with_token(&["--api-url", "unix://"]), 1, "", "vault register-principal: unix:// requires a socket path");
    let nobody = "vault register-principal: nobody answers on /nonexistent/s: is ductile running?\n";
    check(&with_token(&["--api-url", "unix:///nonexistent/s"]), 1, "", nobody);
    check(&with_token(&["--api-url", "unix:///nonexistent/s"]), 1, "", "warning: --token can be read by other users");
}

#[test]
fn the_admin_token_is_read_from_private_files_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = Scratch::new();
    let file = home.path().join("token");
    std::fs::write(&file, "secret-admin-token\n").expect("write the token");
    let list = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set the mode");
        let arguments = ["vault", "list", "--json", "--api-url", "unix:///nonexistent/s", "--token-file"];
        let output = run_with(ductile(home.path()).args(arguments).arg(&file), b"");
        assert_eq!(output.status.code(), Some(1));
        let err = text(&output.stderr).to_owned();
        assert!(!err.contains("secret-admin-token"), "{err}");
        (text(&output.stdout).to_owned(), err)
    };
    let (_, err) = list(0o644);
    assert!(err.contains("can be read by others (mode 0644): chmod 600 it"), "{err}");
    let (out, err) = list(0o600);
    assert_eq!(err, "vault list: nobody answers on /nonexistent/s: is ductile running?\n");
    assert_eq!(
        out,
        "{\n  \"error\": \"vault list: nobody answers on /nonexistent/s: is ductile running?\",\n  \"code\": 1\n}\n"
    );
}

#[test]
fn plugin_run_checks_its_payload_first() {
    check(&["plugin", "run", "echo", "--payload", "{"], 1, "", "Error: payload must be valid JSON\n");
    check(&["plugin", "run", "echo", "--payload", "[1]"], 1, "", "Error: payload must be a JSON object\n");
    let both = ["plugin", "run", "echo", "--payload", "{}", "--payload-file", "x"];
    check(&both, 1, "", "Error: use only one of --payload or --payload-file\n");
    check(&["plugin", "run"], 1, "", "Usage: ductile plugin run <name>");
}

#[test]
fn what_asks_the_executor_says_what_to_do_without_one() {
    for arguments in [
        &["job", "retry", "0198-a"][..],
        &["job", "cancel", "0198-a"],
        &["system", "breaker", "echo"],
        &["system", "reset", "echo"],
        &["system", "scheduler"],
        &["system", "scheduler", "--next", "3", "--tz", "Asia/Tokyo"],
        &["system", "scheduler", "--rearm", "echo:default"],
    ] {
        let output = run(arguments);
        let err = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{arguments:?}");
        let mut lines = err.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("Error: nobody answers on ") && first.ends_with(": is ductile running?"), "{err}");
        assert!(lines.next().is_some_and(|line| line.contains("start it with 'ductile system start'")), "{err}");
        assert_eq!(lines.next(), None, "{err}");
    }
    let nobody = "Error: nobody answers on ";
    check(&["job", "cancel", "x", "--json"], 1, &format!("{{\n  \"error\": \"{nobody}"), nobody);
}

#[test]
fn what_asks_the_executor_checks_its_arguments_first() {
    check(&["job", "retry"], 1, "", "Usage: ductile job retry <job_id> ");
    check(&["job", "cancel", "a", "b"], 1, "", "Flag error: too many arguments\n");
    check(&["job", "retry", "a", "--payload", "{"], 1, "", "Error: payload must be valid JSON\n");
    check(&["job", "retry", "a", "--payload", "[]"], 1, "", "Error: payload must be a JSON object\n");
    let both = ["job", "retry", "a", "--payload", "{}", "--payload-file", "x"];
    check(&both, 1, "", "Error: use only one of --payload or --payload-file\n");
    check(&["job", "retry", "a", "--payload-file", "/nonexistent"], 1, "", "Error: read /nonexistent: ");
    check(&["job", "cancel", "no id"], 1, "", "Error: job not found\n");
    check(&["system", "breaker"], 1, "", "Usage: ductile system breaker <plugin> ");
    check(&["system", "reset", "no/name"], 1, "", "Unknown plugin: no/name\n");
    check(&["system", "breaker", "echo", "--limit", "0"], 1, "", "limit must be greater than zero\n");
    check(&["system", "breaker", "echo", "--limit", "x"], 1, "", "Flag error: --limit is a whole number, not \"x\"\n");
    check(&["system", "scheduler", "--next", "101"], 1, "", "next must be at most 100\n");
    check(&["system", "scheduler", "--next", "0"], 1, "", "next must be greater than zero\n");
    let zone = ["system", "scheduler", "--next", "1", "--tz", "Mars/Olympus"];
    check(&zone, 1, "", "Error: unknown time zone \"Mars/Olympus\": expected an IANA name ");
    check(&["system", "scheduler", "--tz", "UTC"], 1, "", "Error: --tz is for --next\n");
    check(&["system", "scheduler", "--rearm", "echo"], 1, "", "Error: --rearm takes PLUGIN:ID\n");
    let both = ["system", "scheduler", "--rearm", "a:b", "--next", "1"];
    check(&both, 1, "", "Error: use only one of --next or --rearm\n");
}
