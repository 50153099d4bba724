use std::path::Path;
use std::time::{Duration, Instant};

use shared::id::PluginName;
use shared::log::Level;
use shared::time::Millis;

use super::scratch::Scratch;
use super::*;

const MINIMAL: &str = "plugin_roots: [/p]\n";

/// Loads the files of a scratch directory, whose root is `config.yaml`.
fn load_in(scratch: &Scratch, variables: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let environment = Environment::of(variables.iter().copied());
    load(&locate(Some(&scratch.path("config.yaml")), &environment)?, &environment)
}

fn load_text(text: &str) -> Result<Loaded, LoadError> {
    let scratch = Scratch::new();
    scratch.file("config.yaml", text);
    load_in(&scratch, &[])
}

fn valid(text: &str) -> Config {
    load_text(text).expect("valid").config
}

/// The complaints about a minimal configuration with `more` below it.
fn complaints(more: &str) -> Vec<String> {
    let error = load_text(&format!("{MINIMAL}{more}")).expect_err("must be refused").to_string();
    error.split('\n').map(|line| line.strip_prefix("invalid configuration: ").unwrap_or(line).to_owned()).collect()
}

fn plugin(name: &str) -> PluginName {
    PluginName::parse(name).expect("a name")
}

#[test]
fn the_seeds_three_files_load_in_the_seeds_layout() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("data")).expect("made");
    scratch.file(
        "config/config.yaml",
        "log_level: info\n\nstate:\n  path: ./data/ductile.db\n\nplugin_roots:\n  - /path/to/ductile/plugins\n\ninclude:\n  - api.yaml\n  - plugins.yaml\n",
    );
    scratch.file(
        "config/api.yaml",
        "api:\n  enabled: true\n  listen: localhost:8081\n  auth:\n    tokens:\n      - token: ${DUCTILE_LOCAL_TOKEN}\n        scopes: [\"*\"]\n",
    );
    scratch.file("config/plugins.yaml", SEED_PLUGINS);
    let environment = Environment::of([("HOME", "/home/op"), ("DUCTILE_LOCAL_TOKEN", "abc123")]);
    let begun = Instant::now();
    let loaded =
        load(&locate(Some(&scratch.path("config")), &environment).expect("found"), &environment).expect("valid");
    assert!(begun.elapsed() < Duration::from_millis(500));

    let config = &loaded.config;
    assert_eq!(config.state_path, scratch.path("data/ductile.db"));
    assert!(config.state_note.as_deref().is_some_and(|note| note.ends_with("data/ductile.db")));
    assert_eq!(config.pid_path(), scratch.path("data/ductile.pid"));
    assert_eq!(config.api.management_socket, scratch.path("data/management.sock"));
    assert_eq!(config.secrets.vault_file, scratch.path("config/vault.age"));
    assert_eq!(config.plugin_roots, [Path::new("/path/to/ductile/plugins")]);
    assert_eq!(config.service.log_level, Level::Info);
    assert_eq!(config.api.listen.as_deref(), Some("localhost:8081"));
    assert_eq!(config.api.tokens[0].source, TokenSource::Literal("abc123".into()));
    assert_eq!(config.api.tokens[0].scopes, ["*"]);
    assert_eq!(loaded.files, ["config", "api", "plugins"].map(|name| scratch.path(&format!("config/{name}.yaml"))));

    let file_handler = &config.plugins[&plugin("file_handler")];
    assert_eq!(
        file_handler.config_json,
        r#"{"allowed_read_paths":"/home/op","allowed_write_paths":"/home/op/ductile-local/data/outputs"}"#
    );
    assert_eq!(file_handler.from_environment, ["allowed_read_paths", "allowed_write_paths"]);
    assert_eq!(file_handler.retry.max_attempts, 4);
    assert_eq!(file_handler.timeout("poll"), Millis::from_secs(60));
    let jina = &config.plugins[&plugin("jina-reader")];
    assert_eq!(jina.config_json, "{}");
    assert_eq!(jina.circuit_breaker, CircuitBreaker { threshold: 3, reset_after: Millis::from_secs(300) });

    let ignored: Vec<String> = loaded.ignored.iter().map(ToString::to_string).collect();
    assert_eq!(
        ignored,
        [
            "config.yaml: line 1: field log_level not found in type config.Config",
            "plugins.yaml: line 4: field timeout not found in type config.PluginConf",
            "plugins.yaml: line 5: field max_attempts not found in type config.PluginConf",
            "plugins.yaml: line 10: field timeout not found in type config.PluginConf",
            "plugins.yaml: line 11: field max_attempts not found in type config.PluginConf",
            "plugins.yaml: line 17: field timeout not found in type config.PluginConf",
            "plugins.yaml: line 18: field max_attempts not found in type config.PluginConf",
        ]
    );
    assert!(!format!("{loaded:?}").contains("abc123"));
}

pub(super) const SEED_PLUGINS: &str = r#"plugins:
  fabric:
    enabled: true
    timeout: 120s
    max_attempts: 2
    config:
      FABRIC_DEFAULT_PATTERN: "summarize"
  file_handler:
    enabled: true
    timeout: 30s
    max_attempts: 1
    config:
      allowed_read_paths: "${HOME}"
      allowed_write_paths: "${HOME}/ductile-local/data/outputs"
  jina-reader:
    enabled: true
    timeout: 30s
    max_attempts: 3
    circuit_breaker:
      threshold: 3
      reset_after: 5m
    config: {}
"#;

#[test]
fn defaults_are_the_chapters() {
    let config = valid("plugin_roots: [plugins]\nplugins: {a: {enabled: true}, b: }\n");
    let service = &config.service;
    assert_eq!(service.name, "ductile");
    assert_eq!(service.tick_interval, Millis::from_secs(60));
    assert_eq!(service.dedupe_ttl.to_string(), "24h0m0s");
    assert_eq!(service.retention.job_log.to_string(), "720h0m0s");
    assert_eq!(service.retention.breaker_transitions.to_string(), "2160h0m0s");
    assert!(service.max_workers >= 1);
    assert_eq!((service.hook_max_depth, service.max_causal_hops), (4, 20));
    assert_eq!(service.admission, Admission::default());
    assert_eq!(config.state_path, config.dir.join("data/state.db"));
    assert_eq!(config.plugin_roots, [config.dir.join("plugins")]);
    assert_eq!(config.api.listen.as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(config.api.max_body_size, 1024 * 1024);
    assert_eq!(config.api.max_concurrent_sync, 10);
    assert_eq!(config.api.max_sync_timeout, Millis::from_secs(300));
    let a = &config.plugins[&plugin("a")];
    assert_eq!((a.retry.max_attempts, a.retry.backoff_base), (4, Millis::from_secs(30)));
    assert_eq!((a.parallelism, a.max_outstanding_polls), (None, 1));
    assert_eq!(a.circuit_breaker.reset_after.to_string(), "30m0s");
    assert_eq!(a.principal(&plugin("a")), "a");
    assert!(!config.plugins[&plugin("b")].enabled);
}

#[test]
fn what_is_written_is_taken() {
    let config = valid(
        "plugin_roots: [/p]\nservice: {tick_interval: 500ms, max_workers: 4, job_log_retention: 30d, log_level: warn}\n\
         database: {path: /var/x.db}\n\
         plugins:\n  a:\n    enabled: yes\n    vault_principal: a-b\n    retry: {max_attempts: 2, backoff_base: 0}\n    \
         timeouts: {poll: 5m, reindex: 1h, handle: 0s}\n    parallelism: 3\n    uses: base\n    \
         config: {big: 9007199254740993, f: 1.10, list: [\"${X}\"]}\n",
    );
    assert_eq!(config.state_path, Path::new("/var/x.db"));
    assert_eq!(config.service.log_level, Level::Warn);
    let a = &config.plugins[&plugin("a")];
    assert_eq!(a.principal(&plugin("a")), "a-b");
    assert_eq!(a.timeout("poll").to_string(), "5m0s");
    assert_eq!(a.timeout("reindex").to_string(), "1h0m0s");
    assert_eq!(a.timeout("handle").to_string(), "2m0s");
    assert_eq!(a.timeout("health").to_string(), "10s");
    assert_eq!(a.timeout("init").to_string(), "30s");
    assert_eq!((a.retry.max_attempts, a.retry.backoff_base), (2, Millis::from_secs(30)));
    assert_eq!(a.config_json, r#"{"big":9007199254740993,"f":1.10,"list":["${X}"]}"#);
    assert_eq!(a.parallelism, Some(3));
}

#[test]
fn every_rule_has_its_text() {
    let check = |more: &str, expected: &str| assert_eq!(complaints(more), [expected], "{more}");
    check("service: {tick_interval: -5s}", "service.tick_interval must be positive");
    check(
        "service: {tick_interval: 50ms}",
        "service.tick_interval 50ms is below the minimum allowed (100ms); see P2-10",
    );
    check("service: {hook_max_depth: -1}", "service.hook_max_depth -1 must be >= 0 (0 means use default 4); see P2-11");
    check("service: {max_workers: -2}", "service.max_workers must be positive");
    check(
        "service: {dedupe_ttl: 48h}",
        "service.job_queue_retention (24h0m0s) must be >= service.dedupe_ttl (48h0m0s) because dedupe checks use terminal rows in job_queue",
    );
    check("service: {log_level: loud}", "service.log_level must be one of: debug, info, warn, error (got \"loud\")");
    check(
        "plugins: {a: {enabled: true, schedule: {every: 1h}}}",
        "plugin \"a\": schedule is no longer supported; use schedules[]",
    );
    check("plugins: {a: {enabled: true, parallelism: -1}}", "plugin \"a\": parallelism must be >= 1");
    check(
        "service: {max_workers: 2}\nplugins: {a: {enabled: true, parallelism: 3}}",
        "plugin \"a\": parallelism (3) cannot exceed service.max_workers (2)",
    );
    check(
        "plugins: {a: {enabled: true, config: {x: {y: 'k=${NOT_SET}'}}}}",
        "plugin \"a\": environment variable ${NOT_SET} is not set",
    );
    check(
        "plugins: {a: {run_as: nobody}}",
        "plugins.a: run_as names an undefined account \"nobody\" (not in accounts)",
    );
    check("plugins: {a/b: {}}", "plugins: \"a/b\": not a valid plugin");
    check("plugins: {a: {attest: all}}", "plugins.a.attest: expected files or tree (got \"all\")");
    check("plugins: {a: {config: {x: .inf}}}", "plugins.a.config: line 2: not a number that JSON can carry");
    for name in ["LD_PRELOAD", "BASH_ENV", "ENV", "PYTHONPATH", "NODE_OPTIONS", "PERL5LIB", "RUBYOPT", "GCONV_PATH"] {
        check(
            &format!("service: {{plugin_env_passthrough: [OK, {name}]}}"),
            &format!("service.plugin_env_passthrough[1]: \"{name}\" chooses the code that runs and is never passed on"),
        );
        check(
            &format!("plugins: {{a: {{env_passthrough: [' {name} ']}}}}"),
            &format!("plugins.a.env_passthrough[0]: \"{name}\" chooses the code that runs and is never passed on"),
        );
    }
    check("api: {enabled: true, auth: {tokens: [{scopes: []}]}}", "api.auth.tokens[0]: must set token or secret_ref");
    check(
        "api: {auth: {tokens: [{token: a, secret_ref: b}]}}",
        "api.auth.tokens[0]: set exactly one of token or secret_ref, not both",
    );
    check(
        "api: {enabled: true, auth: {tokens: [{token: '${NOT_SET}'}]}}",
        "api.auth.tokens[0].token: environment variable ${NOT_SET} is not set",
    );
    check(
        "api: {enabled: true, auth: {tokens: [{token: ''}]}}",
        "api.auth.tokens[0].token: token value is empty (possibly unresolved environment variable)",
    );
    check(
        "api: {enabled: true}",
        "api.auth.tokens must be configured when API is enabled (or genesis a vault to bootstrap one with 'ductile vault init')",
    );
    check(
        "accounts: {a: {uid: 0, gid: 5, state_dir: /s}}",
        "accounts.a: uid must be a positive uid within range (got 0)",
    );
    let roots = load_text("plugin_roots: ['', '  ']\n").expect_err("no roots");
    assert_eq!(roots.to_string(), "invalid configuration: plugin_roots is required");
}

#[test]
fn all_complaints_come_at_once_and_in_order() {
    let error = load_text(
        "service: {tick_interval: 1ms, max_workers: -1, log_level: x}\nplugins: {b: {run_as: n}, a: {enabled: true, parallelism: -1}}\n",
    )
    .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "invalid configuration: service.tick_interval 1ms is below the minimum allowed (100ms); see P2-10\n\
         invalid configuration: service.max_workers must be positive\n\
         invalid configuration: service.log_level must be one of: debug, info, warn, error (got \"x\")\n\
         invalid configuration: plugin_roots is required\n\
         invalid configuration: plugin \"a\": parallelism must be >= 1\n\
         invalid configuration: plugins.b: run_as names an undefined account \"n\" (not in accounts)"
    );
}

#[test]
fn values_of_the_wrong_type_are_all_named_with_file_line_and_key() {
    let scratch = Scratch::new();
    scratch.file(
        "config.yaml",
        "plugin_roots: /p\nservice:\n  max_workers: many\n  tick_interval: 60\n  allow_symlinks: maybe\ninclude: [b.yaml]\n",
    );
    scratch.file(
        "b.yaml",
        "api:\n  auth:\n    tokens:\n      - token: [hunter2]\n      - nonsense\n  max_body_size: 1TB\nplugins: [a]\naccounts: {a: {uid: \"5\"}}\n",
    );
    let error = load_in(&scratch, &[]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "config.yaml: line 1: plugin_roots: expected a list, got text\n\
         config.yaml: line 3: service.max_workers: expected a whole number, got text\n\
         config.yaml: line 4: service.tick_interval: missing unit in duration \"60\"\n\
         config.yaml: line 5: service.allow_symlinks: expected true or false, got text\n\
         b.yaml: line 4: api.auth.tokens[0].token: expected text, got a list\n\
         b.yaml: line 5: api.auth.tokens[1]: expected a mapping, got text\n\
         b.yaml: line 6: api.max_body_size: invalid size \"1TB\" (expected <n>, <n>KB, <n>MB or <n>GB)\n\
         b.yaml: line 7: plugins: expected a mapping, got a list\n\
         b.yaml: line 8: accounts.a.uid: expected a whole number, got text"
    );
    assert!(
        load_text("just text")
            .expect_err("refused")
            .to_string()
            .ends_with("config.yaml: line 1: expected a mapping, got text")
    );
}

#[test]
fn disabled_plugins_and_a_disabled_api_are_not_held_to_running() {
    let config = valid(
        "plugin_roots: [/p]\napi: {auth: {tokens: [{token: ''}, {secret_ref: s}]}}\n\
         plugins: {a: {parallelism: 99999, schedule: {}, config: {x: '${NOT_SET}'}}}\n",
    );
    assert_eq!(config.api.tokens.len(), 2);
    assert_eq!(config.secret_refs(), [("api.auth.tokens[1]".to_owned(), "s")]);
    assert_eq!(config.plugins[&plugin("a")].config_json, r#"{"x":"${NOT_SET}"}"#);
}

#[test]
fn an_api_without_tokens_needs_a_vault() {
    let scratch = Scratch::new();
    scratch.file("config.yaml", "plugin_roots: [/p]\napi: {enabled: true, listen: ':1'}\n");
    assert!(load_in(&scratch, &[]).is_err());
    scratch.file("vault.age", "age-encryption.org/v1\n");
    assert!(load_in(&scratch, &[]).expect("bootstrap").config.api.tokens.is_empty());
}

#[test]
fn later_files_win_by_presence_and_lists_are_appended() {
    let scratch = Scratch::new();
    scratch.file(
        "config.yaml",
        "plugin_roots: [/a]\nservice: {name: one, admission: {fail_on_drift: true}}\napi: {enabled: true, listen: ':1', auth: {tokens: [{secret_ref: a}]}}\n\
         plugins: {p: {enabled: true, parallelism: 1}, q: {enabled: true}}\ninclude: [conf.d, last.yaml]\n",
    );
    scratch.file("conf.d/20.yaml", "service: {name: three}\n");
    scratch.file(
        "conf.d/10.yaml",
        "service: {name: two, max_workers: 3}\nplugin_roots: [/b, /a]\npipelines: [{name: x, on: t, steps: [{uses: p}]}]\n",
    );
    scratch.file("conf.d/ignored.yml", "service: {name: no}\n");
    scratch.file(
        "last.yaml",
        "service: {admission: {require_api_auth: true}}\napi: {enabled: false, auth: {tokens: [{secret_ref: b}]}}\nplugins: {p: {}}\npipelines: [{name: y, on: t, steps: [{uses: p}]}]\n\
         accounts: {default: {uid: 5, gid: 5, state_dir: /s}}\nsecrets: {vault_file: v.age}\n",
    );
    let loaded = load_in(&scratch, &[]).expect("valid");
    let config = loaded.config;
    assert_eq!(config.service.name, "three");
    assert_eq!(config.service.max_workers, 3);
    assert!(config.service.admission.fail_on_drift && config.service.admission.require_api_auth);
    assert!(!config.api.enabled);
    assert_eq!(config.api.tokens.len(), 2);
    assert_eq!(config.plugin_roots, [Path::new("/a"), Path::new("/b")]);
    assert!(!config.plugins[&plugin("p")].enabled && config.plugins[&plugin("q")].enabled);
    assert_eq!(config.accounts.len(), 1);
    assert_eq!(config.secrets.vault_file, scratch.path("v.age"));
    let pipelines: Vec<_> = config.pipelines.pipelines().iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(pipelines, ["x", "y"]);
    assert_eq!(loaded.ignored, []);
    assert_eq!(
        loaded.files,
        ["config.yaml", "conf.d/10.yaml", "conf.d/20.yaml", "last.yaml"].map(|file| scratch.path(file))
    );
}

#[test]
fn includes_that_fail_say_which_and_why() {
    let scratch = Scratch::new();
    scratch.file(
        "config.yaml",
        "include: [no.yaml, sub/a.yaml, sub/a.yaml, bad.yaml, sealed.yaml, '${WHERE}.yaml', fifo]\n",
    );
    scratch.file("sub/a.yaml", "include: [../config.yaml, gone.yaml]\n");
    scratch.file("bad.yaml", "a: [\n");
    scratch.file("sealed.yaml", "-----BEGIN AGE ENCRYPTED FILE-----\nxyz\n");
    scratch.file("there.yaml", "service: {name: x}\n");
    std::os::unix::net::UnixListener::bind(scratch.path("fifo")).expect("a file that is not regular");
    let error = load_in(&scratch, &[("WHERE", "there")]).expect_err("refused").to_string();
    let at = |file: &str| scratch.path(file).display().to_string();
    let expected = [
        format!(
            "include[0]: file not found: {}\nReferenced from: {}\nHint: Check the path is correct and the file exists",
            at("no.yaml"),
            scratch.path("").display()
        ),
        format!("include[0]: circular dependency detected: {}", at("config.yaml")),
        format!(
            "include[1]: file not found: {}\nReferenced from: {}\nHint: Check the path is correct and the file exists",
            at("sub/gone.yaml"),
            at("sub")
        ),
        format!("include[2]: circular dependency detected: {}", at("sub/a.yaml")),
        "include[3] (bad.yaml): failed to parse YAML: bad.yaml: did not find expected node content at line 2 column 1, while parsing a flow node".to_owned(),
        format!("decrypt \"{}\": the file is age-encrypted, which only the vault agent can open", at("sealed.yaml")),
        "include[6] (fifo): failed to read file: not a regular file".to_owned(),
    ];
    assert_eq!(error, expected.join("\n"));
}

#[test]
fn env_files_lie_beneath_the_process_environment() {
    let scratch = Scratch::new();
    scratch.file("env/a.env", "NAME=from-file\nROOT=/r\n");
    scratch.file("config.yaml", "environment_vars: {include: [env/a.env, '~/b.env']}\nplugin_roots: ['${ROOT}']\nservice: {name: '${NAME}-${MORE}'}\n");
    scratch.file("home/b.env", "MORE=2\n");
    let home = scratch.path("home").display().to_string();
    let loaded = load_in(&scratch, &[("NAME", "process"), ("HOME", &home)]).expect("valid");
    assert_eq!(loaded.config.service.name, "process-2");
    assert_eq!(loaded.config.plugin_roots, [Path::new("/r")]);
    assert_eq!(loaded.env_files, [scratch.path("env/a.env"), scratch.path("home/b.env")]);
    assert_eq!(loaded.environment.get("ROOT"), Some("/r"));

    scratch.file("env/a.env", "oops\n");
    std::fs::remove_file(scratch.path("home/b.env")).expect("removed");
    assert_eq!(
        load_in(&scratch, &[("HOME", &home), ("ROOT", "/r")]).expect_err("refused").to_string(),
        format!(
            "invalid env line 1 in {}\nenvironment_vars.include[1]: file not found: {}",
            scratch.path("env/a.env").display(),
            scratch.path("home/b.env").display()
        )
    );
}

#[test]
fn strict_mode_is_all_gates_unless_they_are_written() {
    let loaded = load_text(&format!("{MINIMAL}service: {{strict_mode: true}}\n")).expect("valid");
    assert!(loaded.config.service.admission.fail_on_sidedoor);
    assert_eq!(
        loaded.warnings,
        ["service.strict_mode is deprecated; replace it with an explicit service.admission block"]
    );
    let loaded = load_text(&format!("{MINIMAL}service: {{strict_mode: true, admission: {{}}}}\n")).expect("valid");
    assert_eq!(loaded.config.service.admission, Admission::default());
    assert_eq!(
        loaded.warnings,
        ["service.strict_mode is deprecated and ignored because service.admission is set; remove strict_mode"]
    );
}

#[test]
fn sections_of_other_parts_are_kept_and_never_ignored() {
    let loaded = load_text(
        "plugin_roots: [/p]\nroutes: []\nwebhooks: {listen: ':1', endpoints: [{path: /x, plugin: p}]}\ninstances: []\n\
         remote_ingress: {peers: []}\nrelay: {max_age: 1h}\npipelines: []\ntokens: [{name: a, key: b}]\ntcc_paths: [/t]\n\
         plugins: {a: {schedules: [{every: 1h}], config: {anything: {goes: 1}}, timeouts: {any_command: 1s}}}\n",
    )
    .expect("valid");
    assert_eq!(loaded.ignored, []);
    assert_eq!(loaded.config.plugins[&plugin("a")].schedules.len(), 0);
    assert_eq!(loaded.config.kept.webhooks.0.len(), 1);
}

#[test]
fn a_child_gets_a_short_environment_and_its_accounts_directory() {
    let config = valid(
        "plugin_roots: [/p]\nservice: {plugin_env_passthrough: [EXTRA, ' TZ ']}\n\
         accounts:\n  default: {uid: 5, gid: 5, state_dir: /s}\n  op: {uid: 6, gid: 6, home: /home/op}\n\
         plugins: {a: {enabled: true}, b: {run_as: op, env_passthrough: [MINE, XDG_CACHE_HOME]}}\n",
    );
    let environment = Environment::of([
        ("PATH", "/daemon/bin"),
        ("HOME", "/daemon"),
        ("TZ", "UTC"),
        ("EXTRA", "1"),
        ("MINE", "2"),
        ("USER", "x"),
        ("XDG_CACHE_HOME", "/cache"),
        ("DUCTILE_API_KEY", "k"),
    ]);
    assert_eq!(
        config.environment_for(&plugin("a"), &environment),
        ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/s", "XDG_CACHE_HOME=/s", "TZ=UTC", "EXTRA=1"]
    );
    assert_eq!(
        config.environment_for(&plugin("b"), &environment),
        ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/op", "TZ=UTC", "EXTRA=1", "MINE=2", "XDG_CACHE_HOME=/cache"]
    );
    assert_eq!(config.cwd_for(&plugin("a")), Some("/s".into()));
    assert_eq!(config.account_of(&plugin("b")).map(|(name, account)| (name.as_str(), account.uid)), Some(("op", 6)));

    let unconfined = valid("plugin_roots: [/p]\nplugins: {a: {enabled: true}}\n");
    assert_eq!(unconfined.environment_for(&plugin("a"), &environment), ["PATH=/daemon/bin", "HOME=/daemon", "TZ=UTC"]);
    assert_eq!(unconfined.cwd_for(&plugin("a")), None);
}

#[test]
fn an_environment_too_large_for_the_spawner_is_refused() {
    let scratch = Scratch::new();
    scratch.file("config.yaml", "plugin_roots: [/p]\nplugins: {a: {enabled: true, env_passthrough: [BIG]}}\n");
    let big = "x".repeat(120_000);
    assert_eq!(
        load_in(&scratch, &[("BIG", &big)]).expect_err("refused").to_string(),
        "invalid configuration: environment for plugin \"a\" is 120013 bytes, more than the spawner takes (114688)"
    );
}

#[test]
fn hostile_roots_are_refused_quickly() {
    let begun = Instant::now();
    let scratch = Scratch::new();
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(scratch.path("config.yaml"), bytes).expect("written");
        let error = load_in(&scratch, &[]).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&vec![b'a'; 10_000_000], "more than the");
    check(b"\xff\xfe", "not UTF-8 at line 1");
    check(b"a: \0", "control characters");
    check("a: ".repeat(3000).as_bytes(), "mapping values are not allowed");
    check("{a: ".repeat(900).as_bytes(), "recursion limit");
    check(b"service: {name: a}\nservice: {name: b}\n", "mapping key \"service\" of line 2 already defined at line 1");
    check(b"age-encryption.org/v1\n-> X25519 abc\n", "only the vault agent can open");
    check("\u{feff}plugins: 3".as_bytes(), "plugins: expected a mapping");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_survey_reads_what_would_not_pass_its_checks() {
    let scratch = Scratch::new();
    scratch.file("config.yaml", "service: {max_workers: -1}\nplugins: {b: {}, a: {}}\n");
    let environment = Environment::default();
    let located = locate(Some(&scratch.path("")), &environment).expect("found");
    let survey = survey(&located, &environment).expect("read");
    assert_eq!(survey.plugins, ["a", "b"]);
    assert_eq!(survey.files, [scratch.path("config.yaml")]);
}
