//! From what is written to what holds: defaults (each written once, here and in `plugins`),
//! paths, and every rule of `spec/config.md` 7.1, all complaints at once and in its order.

use std::path::{Path, PathBuf};

use shared::log::Level;
use shared::time::Millis;

use super::accounts::{self, ServiceUser};
use super::environment::{Environment, first_placeholder};
use super::model::{Admission, Api, ApiToken, Config, KeptSections, Retention, Secrets, Service, TokenSource};
use super::paths::{Located, resolve, resolve_state};
use super::units::Span;
use super::{child, pipelines, plugins, raw};
use crate::yaml::quoted;

/// Complaints in the order they are made.
pub(super) type Problems = Vec<String>;

const DEFAULT_TICK: Span = Span::from_secs(60);
const SHORTEST_TICK: Span = Span::from_millis(100);

/// Checks everything. With the configuration come the warnings for the log.
pub(super) fn check(
    raw: raw::Config,
    located: &Located,
    environment: &Environment,
    service_users: &[ServiceUser],
) -> Result<(Config, Vec<String>), Problems> {
    let mut problems = Problems::new();
    let mut warnings = Vec::new();
    let dir = located.dir();
    let service = service(raw.service.unwrap_or_default(), &mut problems, &mut warnings);

    let filled = |path: Option<String>| path.filter(|path| !path.is_empty());
    let written = filled(raw.state.unwrap_or_default().path).or_else(|| filled(raw.database.unwrap_or_default().path));
    let (state_path, state_note) = resolve_state(written.as_deref().unwrap_or("./data/state.db"), dir, environment);

    let plugin_roots = plugin_roots(&raw.plugin_roots, dir, environment);
    if plugin_roots.is_empty() {
        problems.push("plugin_roots is required".into());
    }
    let secrets = raw.secrets.unwrap_or_default();
    let secrets = Secrets {
        age_key_file: filled(secrets.age_key_file).map(|path| resolve(&path, dir, environment)),
        vault_file: resolve(filled(secrets.vault_file).as_deref().unwrap_or("vault.age"), dir, environment),
    };
    let management_socket = |written: Option<String>| match filled(written) {
        Some(path) => resolve(&path, dir, environment),
        None => state_path.with_file_name("management.sock"),
    };
    let api = api(raw.api.unwrap_or_default(), &secrets, management_socket, &mut problems);
    let plugins = plugins::check(raw.plugins, service.max_workers, &mut problems, &mut warnings);
    passthrough(&service.plugin_env_passthrough, "service.plugin_env_passthrough", &mut problems);
    for (name, plugin) in &plugins {
        passthrough(&plugin.env_passthrough, &format!("plugins.{name}.env_passthrough"), &mut problems);
    }
    let accounts = accounts::check(raw.accounts, service_users, &mut problems);
    for (name, plugin) in &plugins {
        if let Some(account) = plugin.run_as.as_ref().filter(|account| !accounts.contains_key(*account)) {
            let account = quoted(account.as_str());
            problems.push(format!("plugins.{name}: run_as names an undefined account {account} (not in accounts)"));
        }
    }
    let pipelines = pipelines::check(raw.pipelines, service.max_causal_hops, &mut problems);
    let config = Config {
        path: located.path.clone(),
        dir: dir.to_path_buf(),
        service,
        state_path,
        state_note,
        secrets,
        api,
        plugin_roots,
        plugins,
        accounts,
        pipelines,
        kept: KeptSections {
            routes: raw.routes,
            webhooks: raw.webhooks,
            instances: raw.instances,
            remote_ingress: raw.remote_ingress,
            relay: raw.relay,
            tokens: raw.tokens,
        },
    };
    child::check_sizes(&config, environment, &mut problems);
    if problems.is_empty() { Ok((config, warnings)) } else { Err(problems) }
}

fn service(raw: raw::Service, problems: &mut Problems, warnings: &mut Vec<String>) -> Service {
    let tick = raw.tick_interval.filter(|tick| *tick != Span::from_millis(0)).unwrap_or(DEFAULT_TICK);
    if !tick.is_positive() {
        problems.push("service.tick_interval must be positive".into());
    } else if tick < SHORTEST_TICK {
        problems.push(format!("service.tick_interval {tick} is below the minimum allowed (100ms); see P2-10"));
    }
    let hook_max_depth = raw.hook_max_depth.unwrap_or(0);
    if hook_max_depth < 0 {
        problems
            .push(format!("service.hook_max_depth {hook_max_depth} must be >= 0 (0 means use default 4); see P2-11"));
    }
    let max_causal_hops = raw.max_causal_hops.unwrap_or(0);
    if max_causal_hops < 0 {
        problems.push(format!("service.max_causal_hops {max_causal_hops} must be >= 0 (0 means use default 20)"));
    }
    let max_workers = raw.max_workers.unwrap_or(0);
    if max_workers < 0 {
        problems.push("service.max_workers must be positive".into());
    }
    let mut kept_for = |name: &str, written: Option<Span>, hours: i64| {
        let default = Span::from_hours(hours);
        let span = written.filter(|span| *span != Span::from_millis(0)).unwrap_or(default);
        if span.is_negative() {
            problems.push(format!("service.{name} must not be negative (got {span})"));
            return default;
        }
        span
    };
    let dedupe_ttl = kept_for("dedupe_ttl", raw.dedupe_ttl, 24);
    let job_queue = kept_for("job_queue_retention", raw.job_queue_retention, 24);
    let retention = Retention {
        job_log: kept_for("job_log_retention", raw.job_log_retention, 720).millis(),
        job_queue: job_queue.millis(),
        job_transitions: kept_for("job_transitions_retention", raw.job_transitions_retention, 720).millis(),
        job_attempts: kept_for("job_attempts_retention", raw.job_attempts_retention, 720).millis(),
        breaker_transitions: kept_for("breaker_transitions_retention", raw.breaker_transitions_retention, 2160)
            .millis(),
        schedule_occurrences: kept_for("schedule_occurrences_retention", raw.schedule_occurrences_retention, 2160)
            .millis(),
        event_context: kept_for("event_context_retention", raw.event_context_retention, 2160).millis(),
        plugin_facts: kept_for("plugin_facts_retention", raw.plugin_facts_retention, 2160).millis(),
        config_snapshots: kept_for("config_snapshots_retention", raw.config_snapshots_retention, 2160).millis(),
        stopwatch: kept_for("stopwatch_retention", raw.stopwatch_retention, 2160).millis(),
    };
    if job_queue < dedupe_ttl {
        problems.push(format!(
            "service.job_queue_retention ({job_queue}) must be >= service.dedupe_ttl ({dedupe_ttl}) because dedupe checks use terminal rows in job_queue"
        ));
    }
    let written_level = raw.log_level.filter(|level| !level.is_empty()).unwrap_or_else(|| "info".into());
    let log_level = Level::parse(&written_level).unwrap_or_else(|| {
        let got = quoted(&written_level);
        problems.push(format!("service.log_level must be one of: debug, info, warn, error (got {got})"));
        Level::Info
    });
    Service {
        name: raw.name.filter(|name| !name.is_empty()).unwrap_or_else(|| "ductile".into()),
        log_level,
        tick_interval: tick.millis(),
        max_workers: usize::try_from(max_workers).ok().filter(|count| *count > 0).unwrap_or_else(default_workers),
        dedupe_ttl: dedupe_ttl.millis(),
        retention,
        plugin_env_passthrough: trimmed(&raw.plugin_env_passthrough),
        admission: admission(raw.admission, raw.strict_mode.unwrap_or(false), warnings),
        allow_symlinks: raw.allow_symlinks.unwrap_or(false),
        unconfined: raw.unconfined.unwrap_or(false),
        hook_max_depth: u32::try_from(hook_max_depth).ok().filter(|depth| *depth > 0).unwrap_or(4),
        max_causal_hops: u32::try_from(max_causal_hops).ok().filter(|hops| *hops > 0).unwrap_or(20),
    }
}

/// One fewer than the processors, so that the gateway itself has one.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().saturating_sub(1).max(1))
}

fn admission(written: Option<raw::Admission>, strict_mode: bool, warnings: &mut Vec<String>) -> Admission {
    if strict_mode {
        warnings.push(if written.is_some() {
            "service.strict_mode is deprecated and ignored because service.admission is set; remove strict_mode".into()
        } else {
            "service.strict_mode is deprecated; replace it with an explicit service.admission block".into()
        });
    }
    let all = strict_mode && written.is_none();
    let written = written.unwrap_or_default();
    Admission {
        verify_integrity_on_boot: written.verify_integrity_on_boot.unwrap_or(all),
        fail_on_drift: written.fail_on_drift.unwrap_or(all),
        validate_config_on_boot: written.validate_config_on_boot.unwrap_or(all),
        require_api_auth: written.require_api_auth.unwrap_or(all),
        fail_on_sidedoor: written.fail_on_sidedoor.unwrap_or(all),
    }
}

fn plugin_roots(written: &[String], dir: &Path, environment: &Environment) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in written.iter().map(|root| root.trim()).filter(|root| !root.is_empty()) {
        let root = resolve(root, dir, environment);
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

fn api(
    raw: raw::Api,
    secrets: &Secrets,
    management_socket: impl FnOnce(Option<String>) -> PathBuf,
    problems: &mut Problems,
) -> Api {
    let enabled = raw.enabled.unwrap_or(false);
    let written_tokens = raw.auth.unwrap_or_default().tokens;
    if enabled && written_tokens.is_empty() && !secrets.vault_exists() {
        problems.push(
            "api.auth.tokens must be configured when API is enabled (or genesis a vault to bootstrap one with 'ductile vault init')".into(),
        );
    }
    let tokens: Vec<ApiToken> = written_tokens
        .into_iter()
        .enumerate()
        .filter_map(|(index, token)| api_token(index, token, enabled, problems))
        .collect();
    let listen = raw.listen.filter(|listen| !listen.is_empty());

    Api {
        enabled,
        listen: if enabled { listen } else { Some(listen.unwrap_or_else(|| "127.0.0.1:8080".into())) },
        tokens,
        max_concurrent_sync: counted(raw.max_concurrent_sync, 10),
        max_sync_timeout: lasting(raw.max_sync_timeout, Span::from_secs(300)),
        max_body_size: raw.max_body_size.map(|size| size.0).filter(|size| *size > 0).unwrap_or(1024 * 1024),
        idempotency_ttl: lasting(raw.idempotency_ttl, Span::from_hours(24)),
        trusted_proxies: trimmed(&raw.trusted_proxies),
        allowed_origins: raw.allowed_origins,
        vault_over_http: raw.vault_over_http.unwrap_or(false),
        management_socket: management_socket(raw.management_socket),
    }
}

fn api_token(index: usize, token: raw::ApiToken, enabled: bool, problems: &mut Problems) -> Option<ApiToken> {
    let here = format!("api.auth.tokens[{index}]");
    let secret_ref = token.secret_ref.filter(|name| !name.is_empty());
    let source = match (token.token, secret_ref) {
        (Some(literal), Some(_)) if !literal.is_empty() => {
            problems.push(format!("{here}: set exactly one of token or secret_ref, not both"));
            return None;
        }
        (_, Some(name)) => TokenSource::SecretRef(name),
        (Some(literal), None) => {
            if let Some(name) = first_placeholder(&literal).filter(|_| enabled) {
                problems.push(format!("{here}.token: environment variable ${{{name}}} is not set"));
            } else if literal.is_empty() && enabled {
                problems.push(format!("{here}.token: token value is empty (possibly unresolved environment variable)"));
            }
            TokenSource::Literal(literal)
        }
        (None, None) => {
            problems.push(format!("{here}: must set token or secret_ref"));
            return None;
        }
    };
    Some(ApiToken { scopes: token.scopes, source })
}

/// Names that make a plugin run other code than its own are never passed on.
fn passthrough(names: &[String], path: &str, problems: &mut Problems) {
    for (index, name) in names.iter().enumerate() {
        let chooses_code = ["LD_", "PYTHON", "PERL5"].iter().any(|prefix| name.starts_with(prefix))
            || matches!(name.as_str(), "BASH_ENV" | "ENV" | "NODE_OPTIONS" | "RUBYOPT" | "GCONV_PATH");
        if chooses_code {
            let name = quoted(name);
            problems.push(format!("{path}[{index}]: {name} chooses the code that runs and is never passed on"));
        }
    }
}

pub(super) fn trimmed(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// A count where nothing, 0 and less mean the default; cut at what a `u32` holds.
pub(super) fn counted(written: Option<i64>, default: u32) -> u32 {
    written.filter(|count| *count > 0).map_or(default, |count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// A span where nothing, 0 and less mean the default.
pub(super) fn lasting(written: Option<Span>, default: Span) -> Millis {
    written.filter(|span| span.is_positive()).unwrap_or(default).millis()
}
