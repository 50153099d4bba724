//! `ductile plugin lock` (`spec/cli.md` 5.3, `spec/vault.md` 13.3): what the bytes of a plugin are
//! bound to, computed by whoever holds the key, written by the CLI.

use std::collections::BTreeMap;

use shared::exit;
use shared::id::PluginName;
use shared::wire::vault::Attestation;

use super::fingerprint::Hasher;
use crate::cli::args::Args;
use crate::cli::output::{self, Failure, Outcome};
use crate::cli::vault::{AgentClient, TOKEN_VARIABLE, given_token};
use crate::cli::{client, instance};
use crate::config::Loaded;
use crate::config::seal::{Fingerprint, Seal, confirm_code};
use crate::plugin::registry::{Entry, Registry};

pub(super) const USAGE: &str = "<name> | --all [CODE] [--config PATH | --config-dir DIR] [--dry-run]";

pub(super) fn run(args: &Args) -> Outcome {
    let positionals = args.positionals()?;
    let all = args.switch("all");
    let (name, code) = match (all, positionals.as_slice()) {
        (false, [name]) => (Some(*name), None),
        (true, []) => (None, None),
        (true, [code]) => (None, Some(*code)),
        _ => return Err(Failure::new(format!("Usage: ductile plugin lock {USAGE}"))),
    };
    let prefix = if all { "plugin lock --all" } else { "plugin lock" };
    let loaded = instance::required(args)?;
    let seal = Seal::read(&loaded.config.dir).map_err(|error| {
        let hint = "; run 'ductile config lock' first to lock the config files";
        Failure::new(format!("{prefix}: {}{hint}", shared::log::chain(&error)))
    })?;
    let registry = super::discover(&loaded.config)?;
    let mut lock = Lock { loaded: &loaded, registry: &registry, hasher: hasher(prefix, args, &loaded)?, seal };
    match name {
        Some(name) => lock.one(name, args.switch("dry-run")),
        None => lock.all(code, args.switch("dry-run")),
    }
}

/// The one-shot agent where the key can be read, else the running agent with the admin token.
fn hasher(prefix: &str, args: &Args, loaded: &Loaded) -> Result<Hasher, Failure> {
    let config = &loaded.config;
    let keyed = match instance::key(config) {
        Ok(keyed) if std::fs::File::open(&keyed.key).is_ok() => keyed,
        unreadable => {
            let Some(token) = given_token(prefix, args)? else {
                let why = unreadable.err().map_or_else(|| "the age key can not be read".to_owned(), str::to_owned);
                let ways =
                    format!("run it as the key's owner, or give the admin token (--token-file or {TOKEN_VARIABLE})");
                return Err(Failure::new(format!("{prefix}: {why}; {ways}")));
            };
            let places = instance::places(client::VAULT_ADMIN, Some(loaded));
            let client = AgentClient::connect(&places, Some(instance::vault_identity(config)));
            let client = client.map_err(|error| Failure::because(prefix, &error))?;
            return Ok(Hasher::Running { client, token });
        }
    };
    if !keyed.vault.exists() {
        return Err(Failure::new(format!(
            "plugin attestation requires the vault, but none is loaded for {:?} (run 'ductile vault init'); \
             attestation is keyed-or-nothing",
            config.dir.display().to_string()
        )));
    }
    Hasher::one_shot(&keyed, &config.dir).map_err(|error| Failure::because(prefix, &error))
}

struct Lock<'a> {
    loaded: &'a Loaded,
    registry: &'a Registry,
    hasher: Hasher,
    seal: Seal,
}

impl Lock<'_> {
    fn one(&mut self, name: &str, dry: bool) -> Outcome {
        let not_configured =
            || Failure::new(format!("plugin {name:?} is not configured; add it to config.yaml before attesting it"));
        let name = PluginName::parse(name).map_err(|_| not_configured())?;
        if !self.loaded.config.plugins.contains_key(&name) {
            return Err(not_configured());
        }
        let entry = self.registry.get(&name).ok_or_else(|| missing(&[name.as_str()]))?;
        let fingerprint = self.fingerprint(entry)?;
        let (entrypoint, manifest) =
            (short(&fingerprint.entrypoint_hash).to_owned(), short(&fingerprint.manifest_hash).to_owned());
        if dry {
            output::line(&format!("DRY-RUN: would attest plugin {:?} (entrypoint {entrypoint})", name.as_str()));
            return Ok(exit::OK);
        }
        self.seal.record(fingerprint);
        self.write()?;
        output::line(&format!("Attested plugin {:?} (entrypoint {entrypoint}, manifest {manifest}).", name.as_str()));
        Ok(exit::OK)
    }

    fn all(&mut self, code: Option<&str>, dry: bool) -> Outcome {
        let names: Vec<&PluginName> = self.loaded.config.plugins.keys().collect();
        let absent: Vec<&str> =
            names.iter().filter(|name| self.registry.get(name).is_none()).map(|name| name.as_str()).collect();
        if !absent.is_empty() {
            return Err(missing(&absent));
        }
        let mut fresh = Vec::new();
        for entry in names.into_iter().filter_map(|name| self.registry.get(name)) {
            fresh.push(self.fingerprint(entry)?);
        }
        let changes = Changes::between(&self.seal.plugin_fingerprints, &fresh);
        if changes.is_empty() {
            output::line("Nothing to attest: every configured plugin already matches its recorded fingerprint.");
            return Ok(exit::OK);
        }
        let expected = confirm_code(&fresh);
        let Some(code) = code else {
            changes.preview(&expected);
            return Ok(exit::OK);
        };
        if code != expected {
            return Err(Failure::new(format!(
                "confirmation code {code:?} does not match the current change set: the plugins on disk changed since \
                 you previewed — re-run 'ductile plugin lock --all' and confirm the new code"
            )));
        }
        let count = fresh.len();
        let Changes { added, changed, removed } = &changes;
        let tally = [("changed", changed.len()), ("added", added.len()), ("removed", removed.len())];
        let tally = tally.map(|(name, count)| format!("{name}={count}")).join(" ");
        if dry {
            output::line(&format!("DRY-RUN: would attest {count} plugin(s) ({tally})."));
            return Ok(exit::OK);
        }
        self.seal.plugin_fingerprints = fresh;
        self.write()?;
        output::line(&format!("Attested {count} plugin(s): {tally}."));
        Ok(exit::OK)
    }

    fn fingerprint(&mut self, entry: &Entry) -> Result<Fingerprint, Failure> {
        let config = &self.loaded.config;
        let (name, conf) = config
            .plugins
            .get_key_value(&entry.name)
            .ok_or_else(|| Failure::new(format!("plugin {:?} is not configured", entry.name.as_str())))?;
        let uses = entry.uses.as_ref().map(ToString::to_string).unwrap_or_default();
        let account = config.account_of(name).filter(|_| !config.service.unconfined);
        let attestation = Attestation {
            plugin: name.clone(),
            uses: uses.clone(),
            principal: conf.principal(name).to_owned(),
            requires_vault: conf.requires_vault,
            account: account.map(|(_, account)| (account.uid, account.gid)),
        };
        let hashed = self
            .hasher
            .fingerprint(attestation, &entry.manifest_path, &entry.entrypoint_path)
            .map_err(|error| Failure::because(&format!("plugin lock: {}", name.as_str()), &error))?;
        let (manifest, entrypoint) =
            (entry.manifest_path.display().to_string(), entry.entrypoint_path.display().to_string());
        Ok(Fingerprint {
            name: name.to_string(),
            enabled: conf.enabled,
            uses,
            manifest_path: manifest.clone(),
            manifest_resolved_path: manifest,
            manifest_hash: hashed.manifest_hash,
            entrypoint_path: entrypoint.clone(),
            entrypoint_resolved_path: entrypoint,
            entrypoint_hash: hashed.entrypoint_hash,
            binding_mac: Some(hashed.binding_mac),
        })
    }

    fn write(&self) -> Result<(), Failure> {
        self.seal.write(&self.loaded.config.dir).map_err(|error| Failure::because("plugin lock", &error))
    }
}

fn missing(names: &[&str]) -> Failure {
    Failure::new(format!("configured plugins not found in any plugin_root: {}", names.join(", ")))
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// What a commit of `--all` would change.
struct Changes {
    added: Vec<String>,
    /// With the reason, where it is not the bytes.
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    fn between(before: &[Fingerprint], fresh: &[Fingerprint]) -> Self {
        let known: BTreeMap<&str, &Fingerprint> = before.iter().map(|known| (known.name.as_str(), known)).collect();
        let mut changes = Self { added: Vec::new(), changed: Vec::new(), removed: Vec::new() };
        for new in fresh {
            match known.get(new.name.as_str()) {
                None => changes.added.push(new.name.clone()),
                Some(old) => changes.changed.extend(reason(old, new).map(|reason| format!("{}{reason}", new.name))),
            }
        }
        let removed = before.iter().filter(|old| !fresh.iter().any(|new| new.name == old.name));
        changes.removed.extend(removed.map(|old| old.name.clone()));
        changes
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    fn preview(&self, code: &str) {
        output::line("Plugin attestation preview — the following fingerprints would change:");
        for (mark, names, note) in [
            ("+ new    ", &self.added, ""),
            ("~ changed", &self.changed, ""),
            ("- removed", &self.removed, " (no longer configured)"),
        ] {
            for name in names {
                output::line(&format!("  {mark}  {name}{note}"));
            }
        }
        output::line("\nReview the changes above, then commit with:");
        output::line(&format!("  ductile plugin lock --all {code}"));
    }
}

/// Why an entry is not as recorded; `None` when it is.
fn reason(old: &Fingerprint, new: &Fingerprint) -> Option<&'static str> {
    if (&old.manifest_hash, &old.entrypoint_hash) != (&new.manifest_hash, &new.entrypoint_hash) {
        return Some("");
    }
    match (&old.binding_mac, &new.binding_mac) {
        (None, Some(_)) => Some(" (no binding)"),
        (old_mac, new_mac) if old_mac != new_mac => Some(" (principal or account)"),
        _ if old.enabled != new.enabled => Some(" (enabled)"),
        _ if old.uses != new.uses => Some(" (uses)"),
        _ => None,
    }
}
