use shared::id::PluginName;
use shared::time::Millis;

use crate::config::scratch::Scratch;
use crate::config::{Environment, LoadError, Loaded, load, locate};
use crate::schedule::entry::{CatchUp, Entry, IfRunning, Timing};

/// Loads a configuration whose plugin `x` has these entries, indented by four.
fn load_entries(entries: &str) -> Result<Loaded, LoadError> {
    let scratch = Scratch::new();
    scratch.file("config.yaml", "plugin_roots: [/p]\ninclude: [plugins.yaml]\n");
    scratch.file("plugins.yaml", &format!("plugins:\n  x:\n    enabled: true\n    schedules:\n{entries}"));
    let environment = Environment::of([]);
    load(&locate(Some(&scratch.path("config.yaml")), &environment)?, &environment)
}

fn entries(text: &str) -> Vec<Entry> {
    let loaded = load_entries(text).expect("valid");
    loaded.config.plugins[&PluginName::parse("x").expect("a name")].schedules.clone()
}

fn entry(fields: &str) -> Entry {
    entries(&format!("      - {{{fields}}}\n")).remove(0)
}

/// The only complaint about an entry with these fields.
fn check(fields: &str, complaint: &str) {
    let error = load_entries(&format!("      - {{{fields}}}\n")).expect_err("must be refused").to_string();
    let expected = complaint.replace("HERE", "plugins.yaml: line 5");
    assert_eq!(error, format!("invalid configuration: plugin \"x\": {expected}"), "{fields}");
}

#[test]
fn an_entry_has_its_defaults() {
    let plain = entry("every: 5m");
    assert_eq!((plain.id.as_str(), plain.command.as_str(), plain.payload.as_str()), ("default", "poll", "{}"));
    assert_eq!((plain.catch_up, plain.if_running, plain.max_outstanding), (CatchUp::Skip, IfRunning::Skip, 1));
    assert!(matches!(plain.timing, Timing::Every { interval: Millis(300_000), jitter: Millis(0) }));
    assert_eq!(plain.key(), "x:poll:default");
    let full = entry(
        "id: a, every: 1.5d, jitter: 10s, command: health, payload: {n: 1.50}, catch_up: run_all, if_running: cancel, \
         timezone: Europe/Berlin, only_between: '22:00-06:00', not_on: [sat, 7, Tues], preferred_window: anything",
    );
    assert!(matches!(full.timing, Timing::Every { interval: Millis(129_600_000), jitter: Millis(10_000) }));
    assert_eq!((full.payload.as_str(), full.zone_name.as_deref()), ("{\"n\":1.50}", Some("Europe/Berlin")));
    assert_eq!((full.catch_up, full.if_running), (CatchUp::RunAll, IfRunning::Cancel));
}

#[test]
fn intervals_have_words_and_units() {
    for (text, hours) in [("Hourly", 1), ("daily", 24), ("WEEKLY", 168), ("monthly", 720), ("2w", 336), ("1h", 1)] {
        let Timing::Every { interval, .. } = entry(&format!("every: {text}")).timing else { panic!("every") };
        assert_eq!(interval, Millis::from_secs(hours * 3600), "{text}");
    }
}

#[test]
fn exactly_one_mode() {
    check("id: a", "schedules[0] requires one of every, cron, at, or after (HERE)");
    check("every: ''", "schedules[0] requires one of every, cron, at, or after (HERE)");
    check("every: 1h, after: 2h", "schedules[0] must set exactly one of every, cron, at, or after (HERE)");
    assert!(matches!(entry("after: 2h").timing, Timing::After(Millis(7_200_000))));
    assert!(matches!(entry("at: '2027-01-01T00:00:00+01:00'").timing, Timing::At(_)));
    assert!(matches!(entry("cron: '*/5 * * * *', timezone: UTC").timing, Timing::Cron(_)));
}

#[test]
fn each_field_says_what_is_wrong_with_it() {
    check("every: soon", "invalid schedule interval \"soon\": invalid duration \"soon\" (HERE)");
    check("every: 0s", "schedule interval must be positive: \"0s\" (HERE)");
    check("every: -5m", "schedule interval must be positive: \"-5m\" (HERE)");
    check(
        "every: 99999999999999999999w",
        "invalid schedule interval \"99999999999999999999w\": invalid duration \"99999999999999999999w\" (HERE)",
    );
    check("cron: 61 * * * *", "invalid schedules[0].cron \"61 * * * *\": number out of bounds (HERE)");
    check("cron: 0 0 30 2 *", "invalid schedules[0].cron \"0 0 30 2 *\": never occurs (HERE)");
    check(
        "cron: '* * * * * *'",
        "invalid schedules[0].cron \"* * * * * *\": expected five fields: minute hour day-of-month month day-of-week \
         (HERE)",
    );
    check("at: tomorrow", "invalid schedules[0].at \"tomorrow\": expected RFC3339 timestamp (HERE)");
    check("after: -2h", "invalid schedules[0].after \"-2h\": must be positive, got -2h0m0s from -2h (HERE)");
    check(
        "every: 1h, timezone: Mars/Olympus",
        "invalid schedules[0].timezone \"Mars/Olympus\": unknown time zone (HERE)",
    );
    check(
        "every: 1h, timezone: '../../etc/passwd'",
        "invalid schedules[0].timezone \"../../etc/passwd\": unknown time zone (HERE)",
    );
    check("every: 1h, jitter: -1s", "invalid schedules[0].jitter \"-1s\": must not be negative (HERE)");
    check("after: 1h, jitter: 1s", "invalid schedules[0].jitter \"1s\": only supported for every schedules (HERE)");
    check("every: 1h, only_between: 8-9", "invalid schedules[0].only_between \"8-9\": expected HH:MM (HERE)");
    check(
        "every: 1h, only_between: '08:00'",
        "invalid schedules[0].only_between \"08:00\": expected HH:MM-HH:MM (HERE)",
    );
    check(
        "every: 1h, only_between: '08:00-08:00'",
        "invalid schedules[0].only_between \"08:00-08:00\": start and end cannot be equal (HERE)",
    );
    check("every: 1h, not_on: [mon, noday]", "schedules[0].not_on[1]: unknown weekday \"noday\" (HERE)");
    check(
        "every: 1h, not_on: [8]",
        "schedules[0].not_on[0]: weekday number 8 out of range [0,6] or 7 for sunday \"8\" (HERE)",
    );
    check(
        "every: 1h, catch_up: often",
        "invalid schedules[0].catch_up \"often\": expected skip, run_once, or run_all (HERE)",
    );
    check(
        "after: 1h, catch_up: run_all",
        "schedules[0].catch_up \"run_all\" is only supported for every schedules (HERE)",
    );
    check(
        "every: 1h, if_running: wait",
        "invalid schedules[0].if_running \"wait\": expected skip, queue, or cancel (HERE)",
    );
    check("every: 1h, command: handle", "schedules[0].command \"handle\" cannot be scheduled (plugins.yaml: line 5)");
}

#[test]
fn all_complaints_come_at_once_each_with_its_place() {
    let error = load_entries(
        "      - {id: a, every: 1h}\n      - {id: a, cron: never}\n      - id: c\n        every: 0s\n        timezone: \
         Nowhere\n    parallelism: 99\n    circuit_breaker: {threshold: 2}\n",
    )
    .expect_err("must be refused")
    .to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 5, "{error}");
    for (line, part) in lines.iter().zip([
        "parallelism (99) cannot exceed",
        "duplicate schedule id \"a\" (plugins.yaml: line 6)",
        "invalid schedules[1].cron \"never\"",
        "invalid schedules[2].timezone \"Nowhere\": unknown time zone (plugins.yaml: line 9)",
        "schedule interval must be positive: \"0s\" (plugins.yaml: line 8)",
    ]) {
        assert!(line.contains(part), "{line:?} has no {part:?}");
    }
}

#[test]
fn a_disabled_plugin_is_not_held_to_the_rules() {
    let scratch = Scratch::new();
    scratch.file("config.yaml", "plugin_roots: [/p]\nplugins: {x: {schedules: [{}, {every: never}]}}\n");
    let environment = Environment::of([]);
    let located = locate(Some(&scratch.path("config.yaml")), &environment).expect("found");
    let loaded = load(&located, &environment).expect("valid");
    assert!(loaded.config.plugins.values().all(|plugin| plugin.schedules.is_empty()));
}

#[test]
fn short_intervals_and_mixed_zones_are_warned_of() {
    let loaded = load_entries("      - {id: a, every: 5s}\n      - {id: b, cron: '* * * * *', not_on: [sun]}\n");
    let warnings = loaded.expect("valid").warnings.join("\n");
    assert!(warnings.contains("plugin \"x\": schedule interval \"5s\" is very short (< 1m)"), "{warnings}");
    assert!(
        warnings.contains("plugin \"x\": schedules[1]: without a timezone cron follows the host's zone"),
        "{warnings}"
    );
}

#[test]
fn the_check_shows_what_is_worth_a_look_by_its_field() {
    let loaded = load_entries("      - {id: a, every: 5s}\n      - {id: b, cron: '* * * * *', not_on: [sun]}\n");
    let empty = Scratch::new();
    let roots = [empty.path(".")];
    let registry = crate::plugin::registry::discover(&roots, false, &mut Vec::new()).expect("no plugin is needed");
    let report = crate::config::doctor::check(&loaded.expect("valid"), &registry);
    let rows: Vec<(&str, &str)> = report
        .warnings
        .iter()
        .filter(|issue| issue.category == "schedule")
        .map(|issue| (issue.field.as_str(), issue.message.as_str()))
        .collect();
    assert_eq!(rows[0], ("plugins.x.schedules[0].every", "schedule interval \"5s\" is very short (< 1m)"));
    assert_eq!((rows.len(), rows[1].0), (2, "plugins.x.schedules[1]"));
}

#[test]
fn hostile_values_are_refused_and_nothing_worse() {
    let long = "9".repeat(10_000);
    for fields in [
        format!("every: {long}h"),
        format!("cron: '{long} * * * *'"),
        format!("timezone: {long}, every: 1h"),
        format!("id: {long}, every: 1h"),
        "every: \"1h\\0\"".to_owned(),
        "cron: \"\\0 * * * *\"".to_owned(),
        "cron: '٣ * * * *'".to_owned(),
        "id: \"a\\0b\", every: 1h".to_owned(),
        "every: 1h, payload: [1]".to_owned(),
        "every: 1h, not_on: mon".to_owned(),
        "every: [1h]".to_owned(),
        "at: '0000-00-00T00:00:00Z'".to_owned(),
        "at: '9999-12-31T23:59:59Zjunk'".to_owned(),
    ] {
        let error = load_entries(&format!("      - {{{fields}}}\n")).expect_err(&fields).to_string();
        assert!(error.len() < 25_000 && error.contains("plugins.yaml"), "{}", &error[..error.len().min(300)]);
    }
}
