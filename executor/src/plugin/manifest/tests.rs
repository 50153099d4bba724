use std::time::Instant;

use super::*;

const BEGIN: &str = "manifest_spec: ductile.plugin\nmanifest_version: 1\nname: p\nprotocol: 2\nentrypoint: run.sh\n";
const COMMANDS: &str = "commands: [{name: poll, type: read}]\n";

fn valid(text: &str) -> Manifest {
    parse(text.as_bytes()).expect("valid")
}

fn complaint(text: &str) -> String {
    parse(text.as_bytes()).expect_err("must be refused").to_string()
}

#[test]
fn the_chapters_example_is_read() {
    let manifest = valid(
        "manifest_spec: ductile.plugin
manifest_version: 1
name: disk_watch
version: 1.2.0
protocol: 2
entrypoint: run.py
description: \"Reports when a mount passes a fill threshold.\"
concurrency_safe: false
unknown: {is: passed over}
commands:
  - name: poll
    type: read
    values: { consume: [], emit: [{ event: disk.high, values: [payload.mount, payload.pct] }] }
    input_schema: { mount: string, depth: {type: integer}, level: 1.50 }
    output_schema: { type: object }
  - { name: health, type: read }
  - { name: grow, type: write, idempotent: true, retry_safe: yes }
fact_outputs:
  - when: { command: poll }
    from: state_updates
    fact_type: disk_watch.snapshot
    compatibility_view: mirror_object
config_keys: { required: [mount], optional: [threshold] }
stopwatch: { max_subs: 64 }
",
    );
    assert_eq!(manifest.name.as_str(), "disk_watch");
    assert_eq!(manifest.version, "1.2.0");
    assert_eq!(manifest.entrypoint, "run.py");
    assert!(!manifest.concurrency_safe);
    let commands: Vec<(&str, bool)> = manifest.commands.iter().map(|c| (c.name.as_str(), c.writes)).collect();
    assert_eq!(commands, [("poll", false), ("health", false), ("grow", true)]);
    let poll = manifest.command("poll").expect("poll");
    assert_eq!(
        poll.input_schema.as_deref(),
        Some(r#"{"type":"object","properties":{"mount":{"type":"string"},"depth":{"type":"integer"},"level":1.50}}"#)
    );
    assert_eq!(poll.output_schema.as_deref(), Some(r#"{"type":"object"}"#));
    assert_eq!(poll.values.emit[0].values, ["payload.mount", "payload.pct"]);
    assert!(manifest.command("grow").is_some_and(|grow| grow.idempotent && grow.retry_safe));
    assert!(manifest.fact_outputs[0].mirrors);
    assert_eq!(manifest.config_keys.required, ["mount"]);
    assert_eq!(manifest.max_subs, 64);
}

#[test]
fn what_is_left_out_has_its_default() {
    let manifest = valid(&format!("{BEGIN}{COMMANDS}"));
    assert!(manifest.concurrency_safe);
    assert_eq!((manifest.max_subs, manifest.version.as_str()), (32, ""));
    assert_eq!(manifest.config_keys, ConfigKeys::default());
    assert_eq!(manifest.commands[0].input_schema, None);
}

#[test]
fn every_rule_has_its_text() {
    let without = |key: &str| {
        let lines: Vec<&str> = BEGIN.lines().filter(|line| !line.starts_with(&format!("{key}:"))).collect();
        format!("{}\n{COMMANDS}", lines.join("\n"))
    };
    let check = |text: &str, rule: &str| assert_eq!(complaint(text), format!("invalid manifest: {rule}"), "{text}");
    let with = |key: &str, line: &str| format!("{}{line}\n", without(key));
    check(&without("manifest_spec"), "manifest_spec is required");
    check(&with("manifest_spec", "manifest_spec: ' '"), "manifest_spec is required");
    check(
        &with("manifest_spec", "manifest_spec: other"),
        "unsupported manifest_spec \"other\" (supported: \"ductile.plugin\")",
    );
    check(&without("manifest_version"), "manifest_version is required");
    check(&with("manifest_version", "manifest_version: 99"), "unsupported manifest_version 99 (supported: 1)");
    check(&without("name"), "name is required");
    check(&with("name", "name: a/b"), "name \"a/b\" can not be used (no '/', control characters or blanks around it)");
    check(&without("protocol"), "protocol version is required");
    check(&with("protocol", "protocol: 99"), "unsupported protocol version 99 (supported: 2)");
    check(&without("entrypoint"), "entrypoint is required");
    check(&with("entrypoint", "entrypoint: ../evil/run.sh"), "entrypoint contains path traversal: ../evil/run.sh");
    check(&with("entrypoint", "entrypoint: a..b"), "entrypoint contains path traversal: a..b");
    check(
        &with("entrypoint", "entrypoint: /bin/sh"),
        "entrypoint must be relative to the plugin directory: \"/bin/sh\"",
    );
    check(BEGIN, "at least one command must be declared");
    check(&format!("{BEGIN}commands: []"), "at least one command must be declared");
    check(&format!("{BEGIN}commands: {{poll: {{type: read}}}}"), "commands must be a sequence");
    check(&format!("{BEGIN}commands: [poll]"), "invalid command entry (must be object with name/type)");
    check(
        &format!("{BEGIN}commands: [{{name: [a], type: read}}]"),
        "invalid command object: line 6: commands[0].name: expected text, got a list",
    );
    check(&format!("{BEGIN}commands: [{{type: read}}]"), "command name is required");
    check(&format!("{BEGIN}commands: [{{name: x}}]"), "command \"x\" is missing required type");
    check(&format!("{BEGIN}commands: [{{name: x, type: y}}]"), "command \"x\" has invalid type \"y\"");
    check(
        &format!("{BEGIN}commands: [{{name: bad command!, type: read}}]"),
        "invalid command \"bad command!\" (must start with a letter and contain only letters, digits, '_' or '-')",
    );
    // The protocol is compared last.
    check(
        &format!("{}commands: []\n", BEGIN.replace("protocol: 2", "protocol: 9")),
        "at least one command must be declared",
    );
}

#[test]
fn values_facts_and_the_stopwatch_have_their_texts() {
    let check = |more: &str, rule: &str| {
        assert_eq!(complaint(&format!("{BEGIN}{more}")), format!("invalid manifest: {rule}"), "{more}");
    };
    let values = |values: &str| format!("commands: [{{name: x, type: read, values: {{{values}}}}}]");
    for bad in ["context.url", "payload.", "payload", "payload.a..b", "payload.a b", "'payload.{x}'", "'payload.a[0]'"]
    {
        check(
            &values(&format!("consume: [{bad}]")),
            &format!(
                "command \"x\" values: invalid consume value \"{}\" (expected payload.<name> or payload.*)",
                bad.trim_matches('\'')
            ),
        );
    }
    check(&values("emit: [{values: []}]"), "command \"x\" values: emit event is required");
    check(
        &values("emit: [{event: e, values: [x]}]"),
        "command \"x\" values: invalid emit value \"x\" for event \"e\" (expected payload.<name> or payload.*)",
    );
    valid(&format!("{BEGIN}{}", values("consume: ['payload.*', payload.a_b.c-1], emit: [{event: <any event>}]")));
    let facts = |rule: &str| format!("{COMMANDS}fact_outputs: [{{{rule}}}]");
    check(&facts("from: state_updates"), "fact_outputs[0]: when.command is required");
    check(
        &facts("when: {command: x}, from: state_updates, fact_type: t"),
        "fact_outputs[0]: when.command \"x\" is not declared in commands",
    );
    check(&facts("when: {command: poll}, fact_type: t"), "fact_outputs[0]: from is required");
    check(&facts("when: {command: poll}, from: x, fact_type: t"), "fact_outputs[0]: unsupported from \"x\"");
    check(&facts("when: {command: poll}, from: state_updates"), "fact_outputs[0]: fact_type is required");
    check(
        &facts("when: {command: poll}, from: state_updates, fact_type: t, compatibility_view: x"),
        "fact_outputs[0]: unsupported compatibility_view \"x\"",
    );
    for (written, kept) in [(0, 32), (1, 1), (256, 256)] {
        assert_eq!(valid(&format!("{BEGIN}{COMMANDS}stopwatch: {{max_subs: {written}}}")).max_subs, kept);
    }
    for bad in [-1, 257, 300, 10_000] {
        check(
            &format!("{COMMANDS}stopwatch: {{max_subs: {bad}}}"),
            &format!("stopwatch.max_subs {bad} out of range [1, 256]"),
        );
    }
}

#[test]
fn hostile_manifests_are_refused() {
    let begun = Instant::now();
    let check = |text: &[u8], expected: &str| {
        let error = parse(text).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "invalid manifest: manifest_spec is required");
    check(b"[1, 2]", "manifest_spec is required");
    check(b"name: [", "failed to parse manifest YAML: manifest.yaml: did not find");
    check(b"\xff", "failed to parse manifest YAML: manifest.yaml: not UTF-8 at line 1");
    check(b"a: \0", "control characters");
    check(b"name: a\nname: b", "already defined");
    check(&vec![b'x'; MAX_MANIFEST + 1], "larger than");
    check(&vec![b'['; MAX_MANIFEST], "nested too deeply");
    check(
        b"manifest_spec: {a: b}",
        "failed to parse manifest YAML: line 1: manifest_spec: expected text, got a mapping",
    );
    check(b"manifest_spec: ductile.plugin\nmanifest_version: x", "expected a whole number, got text");
    let long = "n".repeat(200);
    check(format!("manifest_spec: ductile.plugin\nmanifest_version: 1\nname: {long}").as_bytes(), "can not be used");
    assert!(begun.elapsed().as_secs() < 5);
}
