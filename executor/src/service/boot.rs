//! The steps of the start before anything serves (`spec/operations.md` 9).

use std::io::{self, Write};
use std::path::Path;

use rustix::thread::CapabilitySet;
use shared::log::{Level, chain};
use shared::wire::spawner::Account;

use super::taken::{self, Sockets};
use super::{Arguments, StartError, refuse};
use crate::config::{self, Config, Environment, Loaded};
use crate::harden;
use crate::logging::{self, log, now};
use crate::plugin::privsep::{self, Mode, Situation};
use crate::plugin::registry::{self, Registry};
use crate::plugin::spawn::SpawnerLine;
use crate::queue::retry;
use crate::store::recover::{Recovered, RecoveredEnd};
use crate::store::snapshot::ConfigSnapshot;
use crate::store::{self, StoreError};

/// Everything that is ready to serve.
pub(super) struct Ready {
    pub(super) loaded: Loaded,
    pub(super) registry: Registry,
    pub(super) spawner: SpawnerLine,
    pub(super) mode: Mode,
    pub(super) lock: std::fs::File,
    pub(super) writer_connection: store::WriteConnection,
    pub(super) store: store::Store,
    pub(super) snapshot: Option<String>,
    pub(super) recovered: Vec<Recovered>,
}

/// Every step after the sockets were taken.
pub(super) fn boot(arguments: &Arguments, sockets: &Sockets) -> Result<Ready, StartError> {
    let held = rustix::thread::capabilities(None).map_err(|error| StartError::Harden(error.to_string()))?.effective;
    let mut spawner = taken::start_spawner(arguments, sockets)?;
    harden::give_up().map_err(|error| StartError::Harden(chain(&error)))?;

    let environment = Environment::of_process();
    let located = config::locate(arguments.config.as_deref(), &environment)
        .map_err(|error| StartError::Locate(error.to_string()))?;
    let loaded = config::load(&located, &environment).map_err(|error| StartError::Config(error.to_string()))?;
    let config = &loaded.config;
    logging::set_level(config.service.log_level);
    let lock = lock_pid(&config.pid_path())?;
    log_config(&loaded);

    let registry = discover(config)?;
    let situation = Situation {
        can_drop: held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID),
        can_kill: held.contains(CapabilitySet::KILL),
        has_accounts: !config.accounts.is_empty(),
        has_default: config.accounts.keys().any(|name| name.as_str() == "default"),
        unconfined: config.service.unconfined,
    };
    let mode = privsep::decide(situation).map_err(refuse)?;
    let accounts = if mode == Mode::Enforcing { accounts_of(config) } else { Vec::new() };
    let configured = spawner.configure(accounts).map_err(|error| StartError::Spawner(error.to_string()))?;
    if configured.enforcing != (mode == Mode::Enforcing) {
        return Err(refuse("the spawner and the executor disagree on whether plugins are dropped"));
    }
    tell_of_mode(mode, configured.landlock, config.service.unconfined);

    let (store, mut writer_connection) =
        store::open(&config.state_path, &config.path).map_err(|error| refuse(chain(&error)))?;
    log(Level::Info, "database opened", &[("path", (&config.state_path.display().to_string()).into())]);
    let recovered = recover(&mut writer_connection, config).map_err(|error| refuse(chain(&error)))?;
    let snapshot = record_snapshot(&writer_connection, &loaded).map_err(|error| refuse(chain(&error)))?;
    let snapshot = Some(snapshot);
    Ok(Ready { loaded, registry, spawner, mode, lock, writer_connection, store, snapshot, recovered })
}

/// Takes the PID lock for life; the kernel frees it at death.
fn lock_pid(path: &Path) -> Result<std::fs::File, StartError> {
    let fail = |error: io::Error| StartError::Lock(format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let mut file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(fail)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail)?;
    log(Level::Info, "acquired PID lock", &[("path", (&path.display().to_string()).into())]);
    Ok(file)
}

fn log_config(loaded: &Loaded) {
    let config = &loaded.config;
    let path = config.path.display().to_string();
    log(Level::Info, "config loaded", &[("path", (&path).into()), ("source", (&loaded.source.to_string()).into())]);
    for file in &loaded.files {
        let file = file.strip_prefix(&config.dir).unwrap_or(file).display().to_string();
        log(Level::Info, "config file", &[("file", (&file).into())]);
    }
    if let Some(note) = &config.state_note {
        log(Level::Info, note, &[]);
    }
    for warning in &loaded.warnings {
        log(Level::Warn, warning, &[]);
    }
    for key in &loaded.ignored {
        log(Level::Warn, "config: key ignored (not a known field)", &[("detail", (&key.to_string()).into())]);
    }
    let version = [("version", shared::VERSION.into()), ("config", (&path).into())];
    log(Level::Info, "ductile starting", &version);
}

fn discover(config: &Config) -> Result<Registry, StartError> {
    let mut notes = Vec::new();
    let found = registry::discover(&config.plugin_roots, config.service.allow_symlinks, &mut notes);
    let found = found.map_err(refuse).and_then(|mut registry| {
        registry.alias(config, &mut notes).map_err(refuse)?;
        registry.check_usable(config).map_err(refuse)?;
        let unknown = config.pipelines.unknown_plugins(|plugin| registry.get(plugin).is_some());
        if !unknown.is_empty() {
            return Err(refuse(unknown.join("\n")));
        }
        Ok(registry)
    });
    for note in &notes {
        let fields: Vec<_> = note.fields.iter().map(|(name, value)| (*name, value.into())).collect();
        log(note.level, note.msg, &fields);
    }
    let registry = found?;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).into();
    log(Level::Info, "plugin discovery complete", &[("count", count(registry.len()))]);
    let enabled = config.plugins.values().filter(|conf| conf.enabled).count();
    let listen = config.api.listen.clone().unwrap_or_default();
    let summary = [
        ("plugins_discovered", count(registry.len())),
        ("plugins_configured", count(config.plugins.len())),
        ("plugins_enabled", count(enabled)),
        ("api_listen", (&listen).into()),
    ];
    log(Level::Info, "config summary", &summary);
    Ok(registry)
}

/// Crash recovery, before anything is scheduled (`spec/queue-and-scheduler.md` 6).
fn recover(connection: &mut store::WriteConnection, config: &Config) -> Result<Vec<Recovered>, StoreError> {
    let delay = |plugin: &str, attempt: u32| {
        let conf = config.plugins.iter().find(|(name, _)| name.as_str() == plugin);
        let base = conf.map_or(retry::DEFAULT_BACKOFF_BASE, |(_, conf)| conf.retry.backoff_base);
        retry::delay(attempt, base, 0.0)
    };
    let recovered = store::recover::recover(connection, now(), delay)?;
    for Recovered { job_id, plugin, attempt, end, .. } in &recovered {
        let ids = [("job_id", job_id.as_str().into()), ("plugin", plugin.into()), ("attempt", (*attempt).into())];
        let [job, plugin, attempt] = ids;
        match end {
            RecoveredEnd::Queued { next_retry_at, .. } => {
                let at = next_retry_at.to_string();
                let fields = [job, plugin, attempt, ("next_retry_at", (&at).into())];
                log(Level::Warn, "job was running when the executor ended; it is queued again", &fields);
            }
            RecoveredEnd::Dead { last_error } => {
                log(Level::Error, "job is dead", &[job, plugin, attempt, ("error", last_error.into())]);
            }
            RecoveredEnd::Failed(error) => {
                log(
                    Level::Error,
                    "job could not be recovered",
                    &[job, plugin, attempt, ("error", (&chain(error)).into())],
                );
            }
        }
    }
    Ok(recovered)
}

fn record_snapshot(connection: &store::WriteConnection, loaded: &Loaded) -> Result<String, StoreError> {
    let mut hash = blake3::Hasher::new();
    for file in &loaded.files {
        // A file that is gone since it was loaded changes the hash, and that is right.
        hash.update(&std::fs::read(file).unwrap_or_default());
    }
    let hash = hash.finalize().to_hex().to_string();
    let snapshot = ConfigSnapshot {
        id: store::new_id(now()),
        config_hash: hash.clone(),
        source_hash: None,
        source_path: Some(loaded.config.path.display().to_string()),
        source: Some(loaded.source.to_string()),
        reason: "startup".to_owned(),
        loaded_at: now(),
        ductile_version: Some(shared::VERSION.to_owned()),
        binary_path: std::env::current_exe().ok().map(|path| path.display().to_string()),
        snapshot_format: 1,
        semantics: None,
        plugin_fingerprints: None,
        sanitized_config: None,
        secret_fingerprints: None,
    };
    store::snapshot::record(connection, &snapshot)?;
    let fields =
        [("snapshot_id", (&snapshot.id).into()), ("reason", "startup".into()), ("config_hash", (&hash).into())];
    log(Level::Info, "config snapshot recorded", &fields);
    Ok(snapshot.id)
}

fn accounts_of(config: &Config) -> Vec<Account> {
    config
        .accounts
        .iter()
        .map(|(name, account)| Account {
            name: name.clone(),
            uid: account.uid,
            gid: account.gid,
            credentialed: account.home.is_some(),
        })
        .collect()
}

fn tell_of_mode(mode: Mode, landlock: bool, unconfined: bool) {
    match mode {
        Mode::Enforcing => {
            log(Level::Info, "privsep enforcing: plugins drop to their resolved account", &[]);
            if !landlock {
                let text = "this kernel has no Landlock: jobs of one account can read each other's memory";
                log(Level::Warn, text, &[]);
            }
        }
        Mode::Unconfined => {
            let level = if unconfined { Level::Warn } else { Level::Info };
            let text = "privsep UNCONFINED: plugins run as this user and can read what it can, key and vault included";
            log(level, text, &[]);
        }
    }
}
