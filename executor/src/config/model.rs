//! The checked configuration: every default filled in, every path absolute, every name parsed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use shared::id::{AccountName, PluginName};
use shared::log::Level;
use shared::time::Millis;

use super::section::Kept;
use crate::pipeline::Graph;
use crate::schedule::entry::Entry;

/// A configuration that keeps its rules.
#[derive(Debug)]
pub struct Config {
    /// The root file.
    pub path: PathBuf,
    /// The directory of the root file.
    pub dir: PathBuf,
    pub service: Service,
    /// The SQLite file.
    pub state_path: PathBuf,
    /// What to log when `state.path` was taken to lie beside the configuration directory.
    pub state_note: Option<String>,
    pub secrets: Secrets,
    pub api: Api,
    /// Absolute, in order, none twice, at least one.
    pub plugin_roots: Vec<PathBuf>,
    pub plugins: BTreeMap<PluginName, PluginConf>,
    pub accounts: BTreeMap<AccountName, Account>,
    pub pipelines: Graph,
    /// Sections that their own parts of the executor read.
    pub kept: KeptSections,
}

/// `service` (`spec/config.md` 6.2).
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub log_level: Level,
    pub tick_interval: Millis,
    pub max_workers: usize,
    pub dedupe_ttl: Millis,
    pub retention: Retention,
    pub plugin_env_passthrough: Vec<String>,
    pub admission: Admission,
    pub allow_symlinks: bool,
    pub unconfined: bool,
    pub hook_max_depth: u32,
    pub max_causal_hops: u32,
}

/// How long rows are kept; 0: for ever.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub job_log: Millis,
    pub job_queue: Millis,
    pub job_transitions: Millis,
    pub job_attempts: Millis,
    pub breaker_transitions: Millis,
    pub schedule_occurrences: Millis,
    pub event_context: Millis,
    pub plugin_facts: Millis,
    pub config_snapshots: Millis,
    pub stopwatch: Millis,
}

/// `service.admission`: gates of the start, each alone (`spec/config.md` 8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Admission {
    pub verify_integrity_on_boot: bool,
    pub fail_on_drift: bool,
    pub validate_config_on_boot: bool,
    pub require_api_auth: bool,
    pub fail_on_sidedoor: bool,
}

/// `secrets`. The executor never opens either file.
#[derive(Debug)]
pub struct Secrets {
    pub age_key_file: Option<PathBuf>,
    pub vault_file: PathBuf,
}

impl Secrets {
    /// Whether there is a vault, as far as the directory tells.
    pub fn vault_exists(&self) -> bool {
        self.vault_file.exists()
    }
}

/// `api` (`spec/config.md` 6.3).
#[derive(Debug)]
pub struct Api {
    pub enabled: bool,
    /// `host:port`. `None` only while the API is enabled and none is written, which
    /// `config check` reports.
    pub listen: Option<String>,
    pub tokens: Vec<ApiToken>,
    pub max_concurrent_sync: u32,
    pub max_sync_timeout: Millis,
    /// Bytes.
    pub max_body_size: u64,
    pub idempotency_ttl: Millis,
    pub trusted_proxies: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub vault_over_http: bool,
    pub management_socket: PathBuf,
}

/// One entry of `api.auth.tokens`.
#[derive(Debug)]
pub struct ApiToken {
    pub scopes: Vec<String>,
    pub source: TokenSource,
}

/// Where a token's text comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Stands in the configuration. Empty only while the API is disabled.
    Literal(String),
    /// Names a secret of the vault.
    SecretRef(String),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::SecretRef(name) => f.debug_tuple("SecretRef").field(name).finish(),
        }
    }
}

/// `plugins.<name>` (`spec/config.md` 6.5).
#[derive(Clone)]
pub struct PluginConf {
    pub enabled: bool,
    pub uses: Option<PluginName>,
    pub run_as: Option<AccountName>,
    pub requires_vault: bool,
    pub vault_principal: Option<String>,
    /// `config` as JSON, its numbers digit for digit; `{}` when there is none.
    pub config_json: String,
    /// The keys at the top of `config`.
    pub config_keys: Vec<String>,
    /// Those of them whose value holds something that came from a variable.
    pub from_environment: Vec<String>,
    pub retry: Retry,
    pub timeouts: BTreeMap<String, Millis>,
    pub circuit_breaker: CircuitBreaker,
    /// `None` where nothing is written; the queue decides then.
    pub parallelism: Option<u32>,
    pub max_outstanding_polls: u32,
    pub notify_on_complete: bool,
    pub env_passthrough: Vec<String>,
    pub shared_account: bool,
    pub attest: Attest,
    pub skip_identical_facts: bool,
    /// In their order; none while the plugin is disabled.
    pub schedules: Vec<Entry>,
}

impl PluginConf {
    /// How long a command may run.
    pub fn timeout(&self, command: &str) -> Millis {
        self.timeouts.get(command).copied().unwrap_or(match command {
            "handle" => Millis::from_secs(120),
            "health" => Millis::from_secs(10),
            "init" => Millis::from_secs(30),
            _ => Millis::from_secs(60),
        })
    }

    /// The vault identity of the plugin called `name`.
    pub fn principal<'a>(&'a self, name: &'a PluginName) -> &'a str {
        self.vault_principal.as_deref().unwrap_or(name.as_str())
    }
}

impl fmt::Debug for PluginConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginConf")
            .field("enabled", &self.enabled)
            .field("uses", &self.uses)
            .field("run_as", &self.run_as)
            .field("config_keys", &self.config_keys)
            .finish_non_exhaustive()
    }
}

/// `retry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    pub max_attempts: u32,
    pub backoff_base: Millis,
}

/// `circuit_breaker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    pub threshold: u32,
    pub reset_after: Millis,
}

/// What of a plugin is attested (`spec/vault.md` 20.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attest {
    Files,
    Tree,
}

/// `accounts.<name>`: an identity that plugins are dropped to (`spec/plugins.md` 9.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// There is one where `home` is not.
    pub state_dir: Option<PathBuf>,
    /// Makes the account a credentialed one.
    pub home: Option<PathBuf>,
}

/// Sections kept as they are written.
#[derive(Debug, Default)]
pub struct KeptSections {
    pub routes: Kept,
    pub webhooks: Kept,
    pub instances: Kept,
    pub remote_ingress: Kept,
    pub relay: Kept,
    pub tokens: Kept,
}

impl Config {
    /// The lock that says which executor runs on this state.
    pub fn pid_path(&self) -> PathBuf {
        self.state_path.with_extension("pid")
    }

    /// Every reference to a secret that the gateway itself resolves, with where it stands.
    pub fn secret_refs(&self) -> Vec<(String, &str)> {
        self.api
            .tokens
            .iter()
            .enumerate()
            .filter_map(|(index, token)| match &token.source {
                TokenSource::SecretRef(name) => Some((format!("api.auth.tokens[{index}]"), name.as_str())),
                TokenSource::Literal(_) => None,
            })
            .collect()
    }
}
