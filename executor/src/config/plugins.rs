//! The rules of `plugins:` and their defaults. Entries are taken in name order, so that complaints
//! are always in the same one; what is disabled is not held to the rules of running.

use std::collections::BTreeMap;

use shared::id::{AccountName, PluginName};

use super::check::{Problems, counted, lasting, trimmed};
use super::environment::first_placeholder;
use super::model::{Attest, CircuitBreaker, PluginConf, Retry};
use super::units::Span;
use super::{raw, schedules};
use crate::yaml::{Kind, Node, Value, quoted};

pub(super) fn check(
    written: BTreeMap<String, raw::Plugin>,
    max_workers: usize,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> BTreeMap<PluginName, PluginConf> {
    let mut plugins = BTreeMap::new();
    for (name, plugin) in written {
        match PluginName::parse(&name) {
            Ok(parsed) => {
                let conf = one(&parsed, plugin, max_workers, problems, warnings);
                plugins.insert(parsed, conf);
            }
            Err(error) => problems.push(format!("plugins: {}: {error}", quoted(&name))),
        }
    }
    plugins
}

fn one(
    plugin_name: &PluginName,
    plugin: raw::Plugin,
    max_workers: usize,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> PluginConf {
    let name = plugin_name.as_str();
    let enabled = plugin.enabled.unwrap_or(false);
    let parallelism = plugin.parallelism.filter(|parallelism| *parallelism != 0);
    let max_outstanding_polls = counted(plugin.max_outstanding_polls, 1);
    let mut schedules = Vec::new();
    if enabled {
        if !plugin.schedule.0.is_empty() {
            problems.push(format!("plugin {}: schedule is no longer supported; use schedules[]", quoted(name)));
        }
        check_parallelism(name, parallelism.unwrap_or(1), max_workers, problems);
        schedules = schedules::check(plugin_name, plugin.schedules, max_outstanding_polls, problems, warnings);
        if let Some(variable) = plugin.config.as_ref().and_then(unset_variable) {
            let name = quoted(name);
            problems.push(format!("plugin {name}: environment variable ${{{variable}}} is not set"));
        }
    }
    let uses = plugin.uses.filter(|uses| !uses.is_empty()).and_then(|uses| {
        PluginName::parse(&uses).map_err(|error| problems.push(format!("plugins.{name}.uses: {error}"))).ok()
    });
    let run_as = plugin.run_as.filter(|account| !account.is_empty()).and_then(|account| {
        AccountName::parse(&account).map_err(|error| problems.push(format!("plugins.{name}.run_as: {error}"))).ok()
    });
    let attest = match plugin.attest.as_deref() {
        None | Some("" | "files") => Attest::Files,
        Some("tree") => Attest::Tree,
        Some(other) => {
            problems.push(format!("plugins.{name}.attest: expected files or tree (got {})", quoted(other)));
            Attest::Files
        }
    };
    let config_json = match plugin.config.as_ref().map_or_else(|| Ok("{}".to_owned()), Node::to_json) {
        Ok(json) => json,
        Err(error) => {
            problems.push(format!("plugins.{name}.config: line {}: {error}", error.line));
            "{}".to_owned()
        }
    };
    let entries = plugin.config.as_ref().map(Node::entries).unwrap_or_default();
    let retry = plugin.retry.unwrap_or_default();
    let breaker = plugin.circuit_breaker.unwrap_or_default();
    PluginConf {
        enabled,
        uses,
        run_as,
        requires_vault: plugin.requires_vault.unwrap_or(false),
        vault_principal: plugin.vault_principal.filter(|principal| !principal.is_empty()),
        config_json,
        config_keys: entries.iter().map(|entry| entry.key.clone()).collect(),
        from_environment: entries
            .iter()
            .filter(|entry| has_variable(&entry.node))
            .map(|entry| entry.key.clone())
            .collect(),
        retry: Retry {
            max_attempts: counted(retry.max_attempts, 4),
            backoff_base: lasting(retry.backoff_base, Span::from_secs(30)),
        },
        timeouts: plugin
            .timeouts
            .into_iter()
            .filter(|(_, span)| span.is_positive())
            .map(|(command, span)| (command, span.millis()))
            .collect(),
        circuit_breaker: CircuitBreaker {
            threshold: counted(breaker.threshold, 3),
            reset_after: lasting(breaker.reset_after, Span::from_secs(1800)),
        },
        parallelism: parallelism.map(|parallelism| counted(Some(parallelism), 1)),
        max_outstanding_polls,
        notify_on_complete: plugin.notify_on_complete.unwrap_or(false),
        env_passthrough: trimmed(&plugin.env_passthrough),
        shared_account: plugin.shared_account.unwrap_or(false),
        attest,
        skip_identical_facts: plugin.skip_identical_facts.unwrap_or(false),
        schedules,
    }
}

fn check_parallelism(name: &str, parallelism: i64, max_workers: usize, problems: &mut Problems) {
    let name = quoted(name);
    if parallelism < 1 {
        problems.push(format!("plugin {name}: parallelism must be >= 1"));
    } else if usize::try_from(parallelism).map_or(true, |parallelism| parallelism > max_workers) {
        problems.push(format!(
            "plugin {name}: parallelism ({parallelism}) cannot exceed service.max_workers ({max_workers})"
        ));
    }
}

/// The first variable that a text of the mapping still asks for. Lists are not looked into, as in
/// the reference.
fn unset_variable(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar(scalar) if scalar.kind == Kind::Text => first_placeholder(&scalar.text),
        Value::Scalar(_) | Value::List(_) => None,
        Value::Map(entries) => entries.iter().find_map(|entry| unset_variable(&entry.node)),
    }
}

fn has_variable(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(scalar) => scalar.from_environment,
        Value::List(items) => items.iter().any(has_variable),
        Value::Map(entries) => entries.iter().any(|entry| has_variable(&entry.node)),
    }
}
