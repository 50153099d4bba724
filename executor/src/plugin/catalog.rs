//! Plugins with everything that a job needs of them, worked out once per load: which commands they
//! have, what they are given, who they run as.

use std::collections::{BTreeMap, HashMap};

use shared::id::{AccountName, CommandName, PluginName};
use shared::time::Millis;
use shared::wire::gateway;
use shared::wire::spawner::Deliver;
use shared::wire::vault::PreparedPlugin;

use super::manifest::FactOutput;
use super::registry::Registry;
use crate::config::{Config, Environment, PluginConf};

/// One plugin or alias that a job can be run by.
pub struct Plugin {
    pub name: PluginName,
    pub manifest: String,
    pub entrypoint: String,
    pub account: Option<AccountName>,
    /// `NAME=value`, the whole environment of a child.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    /// How many runs at one time.
    pub cap: usize,
    pub conf: PluginConf,
    /// Rules of `fact_outputs`, in manifest order.
    pub fact_outputs: Vec<FactOutput>,
    pub max_subs: usize,
    uses: String,
    account_uid: Option<u32>,
    commands: HashMap<CommandName, bool>,
}

impl Plugin {
    /// Whether the command writes; `None` when the plugin has no such command.
    pub fn command(&self, command: &CommandName) -> Option<bool> {
        self.commands.get(command).copied()
    }

    pub fn timeout(&self, command: &CommandName) -> Millis {
        self.conf.timeout(command.as_str())
    }

    pub fn principal(&self) -> &str {
        self.conf.principal(&self.name)
    }

    /// What the agent is asked for this run; `None` for a plugin that no vault knows and none is
    /// asked for (`spec/vault.md` 17.3, step 8).
    pub fn deliver(&self, run: u64, is_registered: impl Fn(&str) -> bool) -> Option<Deliver> {
        let principal = self.principal();
        let asks = self.conf.requires_vault || self.conf.vault_principal.is_some() || is_registered(principal);
        asks.then(|| Deliver {
            delivery_id: run,
            uses: self.uses.clone(),
            principal: principal.to_owned(),
            requires_vault: self.conf.requires_vault,
        })
    }
}

/// All plugins of one load.
pub struct Catalog {
    usable: BTreeMap<PluginName, Plugin>,
    shown: Vec<gateway::Plugin>,
}

impl Catalog {
    /// `enforcing`: the spawner drops every child to its account; else no account counts.
    pub fn new(config: &Config, registry: &Registry, environment: &Environment, enforcing: bool) -> Self {
        let mut usable = BTreeMap::new();
        let mut shown = Vec::new();
        for entry in registry.iter() {
            let conf = config.plugins.get(&entry.name).filter(|conf| conf.enabled);
            shown.push(gateway::Plugin {
                name: entry.name.clone(),
                version: entry.manifest.version.clone(),
                description: entry.manifest.description.clone(),
                commands: entry
                    .manifest
                    .commands
                    .iter()
                    .map(|command| gateway::Command { name: command.name.clone(), writes: command.writes })
                    .collect(),
                usable: conf.is_some(),
            });
            let Some(conf) = conf else { continue };
            let default_cap = if entry.manifest.concurrency_safe { config.service.max_workers } else { 1 };
            let cap = conf.parallelism.map_or(default_cap, |n| n as usize);
            let account = config.account_of(&entry.name).filter(|_| enforcing);
            let plugin = Plugin {
                name: entry.name.clone(),
                manifest: entry.manifest_path.to_string_lossy().into_owned(),
                entrypoint: entry.entrypoint_path.to_string_lossy().into_owned(),
                account: account.map(|(name, _)| name.clone()),
                account_uid: account.map(|(_, account)| account.uid),
                env: config.environment_for(&entry.name, environment),
                cwd: config.cwd_for(&entry.name).map(|path| path.to_string_lossy().into_owned()),
                cap,
                conf: conf.clone(),
                fact_outputs: entry.manifest.fact_outputs.clone(),
                max_subs: entry.manifest.max_subs as usize,
                uses: entry.uses.as_ref().map(ToString::to_string).unwrap_or_default(),
                commands: entry.manifest.commands.iter().rev().map(|c| (c.name.clone(), c.writes)).collect(),
            };
            usable.insert(entry.name.clone(), plugin);
        }
        Self { usable, shown }
    }

    /// A plugin that is known, configured and enabled.
    pub fn usable(&self, name: &PluginName) -> Option<&Plugin> {
        self.usable.get(name)
    }

    /// Every plugin of the registry, as a caller may see it.
    pub fn shown(&self) -> &[gateway::Plugin] {
        &self.shown
    }

    /// What the agent learns of the enabled plugins (`spec/vault.md` 12, shared accounts).
    pub fn prepared(&self) -> Vec<PreparedPlugin> {
        self.usable
            .values()
            .map(|plugin| PreparedPlugin {
                plugin: plugin.name.clone(),
                principal: plugin.principal().to_owned(),
                account: plugin.account.as_ref().map(ToString::to_string).zip(plugin.account_uid),
                shared_account: plugin.conf.shared_account,
            })
            .collect()
    }
}
