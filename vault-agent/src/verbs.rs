//! The one-shot forms: one verb by whoever holds the key, and out. Results on stdout, all else on
//! stderr.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use age::x25519;
use shared::exit;
use shared::log::chain;
use zeroize::Zeroizing;

use crate::admin::{seconds, set_detail, to_value};
use crate::args::Args;
use crate::document::{ADMIN_TOKEN, Document, Pattern, Status, Value};
use crate::failure::Failure;
use crate::files::sync_directory;
use crate::identity::Identity;
use crate::journal::{self, Fact, Journal};
use crate::log::now;
use crate::random;
use crate::rules::{SecretChange, VALUE_MAX};
use crate::sealed::Sealed;
use crate::settings::{Places, places};
use crate::vault::{self, Lock, Vault, VaultError};

fn refused<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(text))
}

/// Runs one verb; its exit code.
pub(crate) fn run(args: &Args) -> i32 {
    let (prefix, outcome) = match args.verb.as_str() {
        "init" => ("vault init", init(args)),
        "keygen" => ("keygen", keygen(args)),
        "set" => ("vault set", set(args)),
        "register-principal" => ("vault register-principal", register_principal(args)),
        "get" => ("vault get", get(args)),
        _ => ("fingerprint", crate::fingerprint::serve(args)),
    };
    match outcome {
        Ok(()) => exit::OK,
        Err(failure) => {
            note(&format!("{prefix}: {}", failure.text));
            exit::FAILURE
        }
    }
}

/// One line on stderr. Nobody is left to tell when that fails.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn result(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Places and key by the flags or the configuration.
pub(crate) fn resolve(args: &Args) -> Result<(Places, Identity), Failure> {
    let places = places(args.named(), &|name| std::env::var(name).ok())?;
    match Identity::find(&places.keys)? {
        Some(identity) => Ok((places, identity)),
        None => Err(VaultError::NoKey.into()),
    }
}

/// The lock of the vault, with the hint of what to do when it is held.
fn hold(vault: &Path, verb: &str) -> Result<Lock, Failure> {
    match Lock::take(vault) {
        Err(error @ VaultError::Held { .. }) => refused(format!("{error}\nStop the daemon before vault {verb}.")),
        other => Ok(other?),
    }
}

fn init(args: &Args) -> Result<(), Failure> {
    if args.value("vault").is_none() || args.value("key").is_none() {
        return refused("--vault and --key are required");
    }
    let (Places { vault: path, .. }, identity) = resolve(args)?;
    match path.symlink_metadata() {
        Ok(_) => return refused(format!("vault: refusing to init — {path:?} already exists")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return refused(format!("vault: refusing to init — {path:?}: {error}")),
    }
    let _lock = hold(&path, "init")?;
    let journal = journal::path_of(&path);
    if journal.symlink_metadata().is_ok() {
        return refused(format!("vault: refusing to init — {journal:?} is the journal of an earlier vault"));
    }
    let token = random::mint();
    let document = Document::genesis(Value::new(random::mint()), Value::new(token.clone()), &seconds());
    let tell = || {
        note(&format!("Wrote vault to {} (encrypted; core principal + fingerprint nonce seeded).", path.display()));
        note("Initial admin token (shown once — store it now, it is not recoverable in plaintext):");
        Ok(result(&token)?)
    };
    let outcome = vault::create(&path, identity, document, now()).map_err(Failure::from).and_then(|()| tell());
    if outcome.is_err() {
        // A vault whose token nobody has seen is of no use; both files are ours, made just now.
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(&journal);
    }
    outcome
}

fn keygen(args: &Args) -> Result<(), Failure> {
    let key = x25519::Identity::generate();
    let public = key.to_public();
    let text = key.to_string();
    let text = Zeroizing::new(format!(
        "# created by ductile secrets keygen\n# public key: {public}\n{}",
        text.expose_secret()
    ));
    match args.value("out").map(Path::new) {
        None => result(&text)?,
        Some(path) => {
            write_key(path, &text).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Failure::new(format!("{path:?} already exists: not overwriting a key")),
                _ => Failure::new(format!("write {path:?}: {error}")),
            })?;
            note(&format!("Wrote identity to {} (mode 0600)", path.display()));
        }
    }
    note(&format!("Public recipient: {public}"));
    Ok(())
}

fn write_key(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    sync_directory(path)
}

/// The vault of an offline verb, its lock held.
fn offline(args: &Args) -> Result<(Vault, Lock, PathBuf), Failure> {
    if args.value("vault").is_none() || args.value("key").is_none() {
        return refused("offline mode requires BOTH --vault and --key (the daemon must be stopped)");
    }
    let (Places { vault: path, .. }, identity) = resolve(args)?;
    let lock = hold(&path, &args.verb)?;
    match Vault::open(&path, Some(identity), false, now())? {
        Some(vault) => Ok((vault, lock, path)),
        None => refused(format!("vault {path:?} does not exist (run 'ductile vault init' first)")),
    }
}

fn name(args: &Args) -> Result<&str, Failure> {
    match args.value("name") {
        Some(name) if !name.is_empty() => Ok(name),
        _ => refused("--name is required"),
    }
}

fn set(args: &Args) -> Result<(), Failure> {
    let name = name(args)?;
    let (mut vault, _lock, path) = offline(args)?;
    let mut bytes = Zeroizing::new(Vec::new());
    // A value of the greatest length and what may stand after it.
    io::stdin().lock().take(VALUE_MAX as u64 + 1024).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |last| last + 1);
    let value = to_value(&bytes[..end])?;
    let principals: Option<Vec<String>> = args
        .value("principal")
        .map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect());
    let change = SecretChange {
        name,
        value: &value,
        pattern: args.value("pattern"),
        principals: principals.as_deref(),
        scope: args.value("scope"),
    };
    let fact = Fact { op: "set", secret: name, actor: "cli", ..Fact::default() };
    let time = seconds();
    vault.change(&fact, now(), |document| document.set_secret(&change, &time), set_detail)?;
    note(&format!("Set secret {name:?} in {}.", path.display()));
    Ok(())
}

fn register_principal(args: &Args) -> Result<(), Failure> {
    let name = name(args)?;
    let (mut vault, _lock, _) = offline(args)?;
    let kind = args.value("kind").unwrap_or("plugin");
    let fact = Fact { op: "register", principal: name, actor: "cli", ..Fact::default() };
    let detail = |(): &()| format!("kind={kind}");
    vault.change(&fact, now(), |document| document.register_principal(name, kind), detail)?;
    note(&format!("Registered principal {name:?} (kind {kind})."));
    Ok(())
}

fn get(args: &Args) -> Result<(), Failure> {
    let name = name(args)?;
    let (Places { vault: path, .. }, identity) = resolve(args)?;
    let Some(document) = Sealed::new(path.clone(), identity).load()? else {
        return refused(format!("vault {path:?} does not exist (run 'ductile vault init' first)"));
    };
    if name == ADMIN_TOKEN {
        record_read(&path, &document, name, "denied", "reserved");
        return refused(format!(
            "secret {name:?} is reserved (the management-API credential) and is never printed by 'vault get'"
        ));
    }
    let Some(record) = document.secrets.get(name) else { return refused(format!("unknown secret {name:?}")) };
    if record.status != Status::Active {
        return refused(format!("secret {name:?} is revoked (value cleared)"));
    }
    if record.value.is_empty() {
        let pattern = Pattern::as_str(&record.pattern);
        return refused(format!("secret {name:?} has no value yet (pattern {pattern}; run 'vault roll' to mint)"));
    }
    record_read(&path, &document, name, "ok", "local read by the key's holder");
    note(&format!("Read value of secret {name:?} locally (age key-holder)."));
    if io::stdout().is_terminal() {
        note("Warning: the value is on a terminal and may stay in its scrollback.");
    }
    Ok(result(record.value.expose())?)
}

/// Journals a read; one that can not be journalled still succeeds.
fn record_read(path: &Path, document: &Document, name: &str, outcome: &str, detail: &str) {
    let fact = Fact { op: "read", secret: name, actor: "cli", outcome, detail, ..Fact::default() };
    let recorded = document.nonce().map_err(VaultError::from).and_then(|nonce| {
        let mut journal = Journal::open(path, &nonce, None)?;
        Ok(journal.begin(|journal| journal.append(&fact, document.generation, now()))?)
    });
    if let Err(error) = recorded {
        note(&format!("Warning: the read is not in the audit journal: {}", chain(&error)));
    }
}
