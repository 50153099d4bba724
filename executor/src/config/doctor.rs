//! `ductile config check` (`spec/config.md` 7.3, 7.4): what is wrong or worth a look in a
//! configuration that loads, against the plugins that are there. The rows for webhooks
//! and routes belong to those who read those sections.

use std::fmt::Write as _;

use serde::Serialize;
use shared::id::CommandName;
use shared::time::Millis;

use super::{Config, Loaded, TokenSource};
use crate::plugin::registry::Registry;
use crate::schedule::entry::Timing;
use crate::yaml::quoted;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    pub category: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// All findings, in the chapter's order of groups.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub valid: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Issue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Issue>,
}

/// Key names whose value is taken for a credential (`spec/api.md` 7.3).
const CREDENTIAL: [&str; 8] = ["secret", "key", "token", "password", "api_key", "credential", "auth", "passwd"];
/// First parts of a scope that name no plugin.
const RESOURCES: [&str; 6] = ["jobs", "events", "healthz", "queue", "system", "plugin"];

/// Looks at everything.
pub fn check(loaded: &Loaded, registry: &Registry) -> Report {
    let config = &loaded.config;
    let mut report = Report::default();
    service(config, &mut report);
    plugin_refs(config, registry, &mut report);
    api(config, registry, &mut report);
    for message in config.pipelines.unknown_plugins(|name| registry.get(name).is_some()) {
        report.error("pipelines", "", message);
    }
    for entry in registry.iter().filter(|entry| !config.plugins.contains_key(&entry.name)) {
        let message = format!("plugin {} discovered but not referenced in config", quoted(entry.name.as_str()));
        report.warn("unused", "", message);
    }
    schedules(config, registry, &mut report);
    tokens(config, &mut report);
    accounts_and_secrets(config, &mut report);
    if !config.service.admission.verify_integrity_on_boot {
        let message = "integrity not checked: verify_integrity_on_boot is false, so the daemon does not verify \
                       .checksums at boot either";
        report.warn("integrity", "service.admission.verify_integrity_on_boot", message);
    }
    for key in &loaded.ignored {
        let message = format!("ignored config key: {key}");
        if config.service.admission.validate_config_on_boot {
            report.error("config_keys", "", message);
        } else {
            report.warn("config_keys", "", message);
        }
    }
    report.valid = report.errors.is_empty();
    report
}

fn service(config: &Config, report: &mut Report) {
    let tick = config.service.tick_interval;
    if tick.0 < 1000 {
        let message =
            format!("tick_interval {tick} is below recommended (1s); chatty service polls can flood dispatch");
        report.warn("service", "service.tick_interval", message);
    }
}

fn plugin_refs(config: &Config, registry: &Registry, report: &mut Report) {
    for (name, plugin) in &config.plugins {
        let field = match &plugin.uses {
            Some(_) => format!("plugins.{name}.uses"),
            None => format!("plugins.{name}"),
        };
        let Some(entry) = registry.get(name) else {
            if plugin.enabled {
                let quoted = quoted(name.as_str());
                let message = format!("plugin {quoted} in config but not found in configured plugin roots");
                report.error("plugin_refs", field, message);
            }
            continue;
        };
        if plugin.enabled {
            for key in entry.missing_keys(&plugin.config_keys) {
                let base = quoted(entry.manifest.name.as_str());
                let message = format!("plugin {base} requires config key {}", quoted(key));
                report.error("plugin_refs", format!("plugins.{name}.config.{key}"), message);
            }
        }
    }
}

fn api(config: &Config, registry: &Registry, report: &mut Report) {
    if config.api.enabled && config.api.listen.is_none() {
        report.error("api", "api.listen", "api.listen is required when API is enabled");
    }
    if config.api.enabled && config.api.tokens.is_empty() && !config.secrets.vault_exists() {
        report.error("api", "api.auth.tokens", "api.auth.tokens must be configured when API is enabled");
    }
    for (token, entry) in config.api.tokens.iter().enumerate() {
        for (index, scope) in entry.scopes.iter().enumerate() {
            let field = format!("api.auth.tokens[{token}].scopes[{index}]");
            match judge_scope(scope, config, registry) {
                Scope::Good => {}
                Scope::Odd(message) => report.warn("token_scopes", field, message),
                Scope::Bad(message) => report.error("token_scopes", field, message),
            }
        }
    }
}

enum Scope {
    Good,
    Odd(String),
    Bad(String),
}

/// `spec/config.md` 6.3.
fn judge_scope(scope: &str, config: &Config, registry: &Registry) -> Scope {
    if scope == "*" {
        return Scope::Good;
    }
    let Some((resource, access)) = scope.split_once(':') else {
        let expected = "expected format: resource:access or action:resource:command";
        return Scope::Bad(format!("invalid scope {} ({expected})", quoted(scope)));
    };
    if matches!(scope, "vault:ro" | "vault:revoke") {
        return if config.api.vault_over_http {
            Scope::Good
        } else {
            Scope::Odd(format!("scope {} has no effect while api.vault_over_http is off", quoted(scope)))
        };
    }
    if RESOURCES.contains(&resource) || matches!(resource, "read" | "trigger" | "admin") {
        return Scope::Good;
    }
    let Some(entry) = registry.iter().find(|entry| entry.name.as_str() == resource) else {
        return Scope::Bad(format!("scope {} references unknown plugin {}", quoted(scope), quoted(resource)));
    };
    let known = |command: &str| {
        command == "*" || CommandName::parse(command).is_ok_and(|name| entry.manifest.command(name.as_str()).is_some())
    };
    match access.split_once(':') {
        None if matches!(access, "ro" | "rw") => Scope::Good,
        Some(("allow" | "deny", command)) if known(command) => Scope::Good,
        Some(("deny", command)) => {
            Scope::Odd(format!("scope {} names unknown command {}", quoted(scope), quoted(command)))
        }
        Some(("allow", command)) => {
            Scope::Bad(format!("scope {} names unknown command {}", quoted(scope), quoted(command)))
        }
        _ => Scope::Bad(format!("invalid scope {} (a plugin has ro, rw, allow:<cmd> and deny:<cmd>)", quoted(scope))),
    }
}

fn tokens(config: &Config, report: &mut Report) {
    for (index, token) in config.api.tokens.iter().enumerate() {
        let field = format!("api.auth.tokens[{index}].token");
        match &token.source {
            TokenSource::Literal(text) if text.is_empty() => {
                report.warn("env_vars", field, "token value is empty (possibly unresolved environment variable)");
            }
            TokenSource::Literal(_) if config.secrets.vault_exists() => {
                report.warn("secrets", field, "literal API token in configuration; prefer secret_ref");
            }
            TokenSource::Literal(_) | TokenSource::SecretRef(_) => {}
        }
    }
}

fn schedules(config: &Config, registry: &Registry, report: &mut Report) {
    for (name, plugin) in &config.plugins {
        for (index, entry) in plugin.schedules.iter().enumerate() {
            let field = |key: &str| format!("plugins.{name}.schedules[{index}]{key}");
            if let Some(message) = registry.unsupported(name, entry) {
                report.error("schedule", field(".command"), message);
            }
            let has_constraint = entry.only_between.is_some() || !entry.not_on.is_empty();
            match &entry.timing {
                Timing::Every { interval, .. } if *interval < Millis::from_secs(60) => {
                    let interval = quoted(&interval.to_string()).to_string();
                    let message = format!("schedule interval {interval} is very short (< 1m)");
                    report.warn("schedule", field(".every"), message);
                }
                Timing::Cron(_) if entry.zone_name.is_none() && has_constraint => {
                    let message = "without a timezone cron follows the host's zone, only_between and not_on follow UTC";
                    report.warn("schedule", field(""), message);
                }
                _ => {}
            }
        }
    }
}

fn accounts_and_secrets(config: &Config, report: &mut Report) {
    let enabled: Vec<_> = config.plugins.iter().filter(|(_, plugin)| plugin.enabled).collect();
    for (name, plugin) in &enabled {
        let Some((account, _)) = config.account_of(name) else { continue };
        let other = enabled
            .iter()
            .find(|(other, _)| other != name && config.account_of(other).is_some_and(|(theirs, _)| theirs == account));
        if let Some((other, _)) = other
            && !plugin.shared_account
            && config.secrets.vault_exists()
        {
            let message = format!(
                "plugin {} shares account {} with {}; with granted secrets its delivery is refused \
                 (shared_account: true allows it)",
                quoted(name.as_str()),
                quoted(account.as_str()),
                quoted(other.as_str())
            );
            report.warn("accounts", format!("plugins.{name}.run_as"), message);
        }
    }
    for (name, plugin) in &enabled {
        for key in &plugin.from_environment {
            let lower = key.to_lowercase();
            if CREDENTIAL.iter().any(|part| lower.contains(part)) {
                let message = format!(
                    "{} looks like a credential and comes from the environment or an encrypted include: it is not a \
                     vault secret, and output is not scrubbed of it",
                    quoted(key)
                );
                report.warn("secrets", format!("plugins.{name}.config.{key}"), message);
            }
        }
    }
}

impl Report {
    fn error(&mut self, category: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Issue { category, message: message.into(), field: field.into() });
    }

    fn warn(&mut self, category: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Issue { category, message: message.into(), field: field.into() });
    }

    /// As a person reads it (`spec/config.md` 7.4), with its last newline.
    pub fn render(&self) -> String {
        let (errors, warnings) = (self.errors.len(), self.warnings.len());
        let mut text = match (errors, warnings) {
            (0, 0) => "Configuration valid.\n".to_owned(),
            (0, _) => format!("Configuration valid ({warnings} warning(s))\n"),
            _ => format!("Configuration invalid ({errors} error(s), {warnings} warning(s))\n"),
        };
        let all = self.errors.iter().map(|issue| ("ERROR", issue));
        for (severity, Issue { category, message, field }) in all.chain(self.warnings.iter().map(|w| ("WARN ", w))) {
            let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
            let _ = writeln!(text, "  {severity} [{category}] {field}{message}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_rendered_as_the_chapter_has_them() {
        let mut report = Report { valid: true, ..Report::default() };
        assert_eq!(report.render(), "Configuration valid.\n");
        report.warn("unused", "", "plugin \"echo\" discovered but not referenced in config");
        report.warn("service", "service.tick_interval", "slow");
        assert_eq!(
            report.render(),
            "Configuration valid (2 warning(s))\n  \
             WARN  [unused] plugin \"echo\" discovered but not referenced in config\n  \
             WARN  [service] service.tick_interval: slow\n"
        );
        let json = serde_json::to_value(&report).expect("JSON");
        assert!(json.get("errors").is_none() && json["warnings"][0].get("field").is_none());
        report.error("api", "api.listen", "missing");
        assert!(
            report
                .render()
                .starts_with("Configuration invalid (1 error(s), 2 warning(s))\n  ERROR [api] api.listen: missing\n")
        );
    }
}
