//! The open vault: document, sealed file and journal kept in step. Every change is saved, then
//! journalled, then answered (`spec/vault.md` 15.4); a start compares what the three say.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use shared::time::Timestamp;
use shared::wire::refusal::{Refusal, RefusalKind};
use zeroize::Zeroizing;

use crate::document::Document;
use crate::files::sync_directory;
use crate::identity::Identity;
use crate::journal::{Fact, Journal, JournalError, Tail};
use crate::rules::DocumentError;
use crate::sealed::{SealError, Sealed};

/// The vault of one running program, sole writer while it holds the lock.
pub(crate) struct Vault {
    document: Document,
    canonical: Zeroizing<String>,
    sealed: Sealed,
    journal: Journal,
}

/// Why the vault does not open or a change does not happen.
#[derive(Debug)]
pub(crate) enum VaultError {
    NoKey,
    Seal(SealError),
    Journal(JournalError),
    Document(DocumentError),
    Older { generation: u64, journalled: u64 },
    Keep { path: PathBuf, source: io::Error },
    Lock { path: PathBuf, source: io::Error },
    Held { path: PathBuf },
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("no age key file resolved (set secrets.age_key_file or DUCTILE_AGE_KEY_FILE)"),
            Self::Seal(error) => error.fmt(f),
            Self::Journal(error) => error.fmt(f),
            Self::Document(error) => error.fmt(f),
            Self::Older { generation, journalled } => {
                write!(f, "vault: blob is older than its journal (generation {generation} < {journalled})")
            }
            Self::Keep { path, .. } => write!(f, "keep the old journal {path:?}"),
            Self::Lock { path, .. } => write!(f, "open vault lock {path:?}"),
            Self::Held { path } => {
                write!(f, "the daemon appears to be running (could not take the lock): {}", path.display())
            }
        }
    }
}

impl std::error::Error for VaultError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Seal(error) => error.source(),
            Self::Journal(error) => error.source(),
            Self::Keep { source, .. } | Self::Lock { source, .. } => Some(source),
            Self::NoKey | Self::Document(_) | Self::Older { .. } | Self::Held { .. } => None,
        }
    }
}

impl From<SealError> for VaultError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<JournalError> for VaultError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<DocumentError> for VaultError {
    fn from(error: DocumentError) -> Self {
        Self::Document(error)
    }
}

impl From<&VaultError> for Refusal {
    /// What the peer hears; the log has the whole.
    fn from(error: &VaultError) -> Self {
        match error {
            VaultError::Document(error) => error.into(),
            VaultError::Seal(SealError::ModifiedExternally { .. }) => {
                Self::new(RefusalKind::ModifiedExternally, error.to_string())
            }
            _ => Self::new(RefusalKind::Storage, "vault: could not be written; the agent's log says why"),
        }
    }
}

/// The exclusive lock of whoever may write the vault; freed when dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `<vault_file>.lock` without waiting.
    ///
    /// # Errors
    /// `Held` by another program, or the file can not be made.
    pub(crate) fn take(vault: &Path) -> Result<Self, VaultError> {
        let mut path = vault.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let opened =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(VaultError::Lock { path, source }),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(VaultError::Held { path }),
            Err(error) => Err(VaultError::Lock { path, source: error.into() }),
        }
    }
}

/// A new vault, which must not exist yet.
///
/// # Errors
/// The file can not be written; the caller has looked that there is none.
pub(crate) fn create(path: &Path, identity: Identity, document: Document, now: Timestamp) -> Result<(), VaultError> {
    let nonce = document.nonce()?;
    let mut sealed = Sealed::new(path.to_owned(), identity);
    let document = Document { generation: 1, ..document };
    sealed.save(&document)?;
    let mut journal = Journal::open(path, &nonce, None)?;
    let fact = Fact { op: "genesis", actor: "cli", outcome: "ok", ..Fact::default() };
    Ok(journal.begin(|journal| journal.append(&fact, 1, now))?)
}

impl Vault {
    /// Opens what is there, and compares blob and journal; `None` without a vault file. With
    /// `accept_older` what is there is taken, and that is journalled.
    ///
    /// # Errors
    /// No key for an existing vault, a broken blob, a journal that does not fit it.
    pub(crate) fn open(
        path: &Path,
        identity: Option<Identity>,
        accept_older: bool,
        now: Timestamp,
    ) -> Result<Option<Self>, VaultError> {
        let Some(identity) = identity else {
            return if path.try_exists().unwrap_or(true) { Err(VaultError::NoKey) } else { Ok(None) };
        };
        let mut sealed = Sealed::new(path.to_owned(), identity);
        let Some(document) = sealed.load()? else { return Ok(None) };
        let nonce = document.nonce()?;
        let journal = Journal::open(path, &nonce, document.journal_head.as_ref())?;
        let canonical = document.canonical();
        let mut vault = Self { document, canonical, sealed, journal };
        match compare(&vault.document, vault.journal.tail()) {
            Ok(Verdict::Serve) => {}
            Ok(Verdict::Recovered(detail)) => vault.append(&recovered(&detail), now)?,
            Err(refusal) if !accept_older => return Err(refusal),
            Err(refusal) => vault.accept(&nonce, &refusal, now)?,
        }
        Ok(Some(vault))
    }

    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    pub(crate) fn key_source(&self) -> &'static str {
        self.sealed.key_source()
    }

    /// Changes the document, saves it, journals it; `detail` words what was done. Nothing changes
    /// when `work` refuses, and that is journalled too.
    ///
    /// # Errors
    /// Of the rules, the file or the journal. After `Journal` the change is saved and not told:
    /// the next one tells it first.
    pub(crate) fn change<R>(
        &mut self,
        fact: &Fact<'_>,
        now: Timestamp,
        work: impl FnOnce(&mut Document) -> Result<R, DocumentError>,
        detail: impl FnOnce(&R) -> String,
    ) -> Result<R, VaultError> {
        let mut changed = self.document.clone();
        let done = match work(&mut changed) {
            Ok(done) => done,
            Err(error) => {
                self.append(&Fact { outcome: "denied", detail: &error.to_string(), ..fact.clone() }, now)?;
                return Err(error.into());
            }
        };
        let saved = self.save(changed, now, &Fact { outcome: "ok", detail: &detail(&done), ..fact.clone() });
        if let Err(VaultError::Seal(error)) = &saved {
            // The journal is best effort here: the caller hears of the failure itself.
            let _ = self.append(&Fact { outcome: "error", detail: &error.to_string(), ..fact.clone() }, now);
        }
        saved.map(|()| done)
    }

    /// Appends a line that changes nothing.
    ///
    /// # Errors
    /// Of the journal.
    pub(crate) fn append(&mut self, fact: &Fact<'_>, now: Timestamp) -> Result<(), JournalError> {
        let generation = self.document.generation;
        self.journal.begin(|journal| journal.append(fact, generation, now))
    }

    fn save(&mut self, changed: Document, now: Timestamp, fact: &Fact<'_>) -> Result<(), VaultError> {
        let canonical = changed.canonical();
        let Self { document, sealed, journal, .. } = self;
        journal.begin(|journal| {
            if *canonical != *self.canonical {
                if let Verdict::Recovered(detail) = compare(document, journal.tail())? {
                    journal.append(&recovered(&detail), document.generation, now)?;
                }
                let generation = document.generation + 1;
                let changed = Document { generation, journal_head: journal.tail().head(), ..changed };
                sealed.save(&changed)?;
                *document = changed;
                self.canonical = canonical;
            }
            Ok::<(), VaultError>(journal.append(fact, document.generation, now)?)
        })
    }

    /// Takes a blob and a journal that do not fit together as they are.
    fn accept(&mut self, nonce: &[u8; 32], refusal: &VaultError, now: Timestamp) -> Result<(), VaultError> {
        let path = self.sealed.path().to_owned();
        let journalled = self.journal.tail().generation;
        let generation = self.document.generation.max(journalled) + 1;
        let detail =
            format!("{refusal}; blob generation {}, journal generation {journalled}", self.document.generation);
        let old = self.journal.path().to_owned();
        let kept = kept_name(&old, now);
        // A name that is taken is not written over: `hard_link` refuses it.
        let moved = std::fs::hard_link(&old, &kept).and_then(|()| std::fs::remove_file(&old));
        if let Err(source) = moved.and_then(|()| sync_directory(&old)) {
            return Err(VaultError::Keep { path: kept, source });
        }
        self.journal = Journal::open(&path, nonce, None)?;
        self.document.generation = generation;
        self.document.journal_head = None;
        self.sealed.save(&self.document)?;
        let fact = Fact { op: "accept_older", actor: "cli", outcome: "ok", detail: &detail, ..Fact::default() };
        Ok(self.append(&fact, now)?)
    }
}

/// `<vault_file>.audit.<UTC>`.
fn kept_name(journal: &Path, now: Timestamp) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(format!(".{}Z", now.to_string()[..19].replace(['-', ':'], "")));
    PathBuf::from(name)
}

fn recovered(detail: &str) -> Fact<'_> {
    Fact { op: "recovered", actor: "core", outcome: "ok", detail, ..Fact::default() }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Serve,
    /// A crash fell between two writes; with the words for the journal.
    Recovered(String),
}

/// The table of `spec/vault.md` 15.4.
fn compare(document: &Document, tail: &Tail) -> Result<Verdict, VaultError> {
    let generation = document.generation;
    if let Some(seq) = tail.broken {
        return Err(JournalError::Broken { seq }.into());
    }
    if tail.generation > generation {
        return Err(VaultError::Older { generation, journalled: tail.generation });
    }
    if !tail.head_found || generation - tail.generation > 1 {
        return Err(JournalError::Shorter.into());
    }
    if generation > tail.generation {
        return Ok(Verdict::Recovered(format!("generation {generation} was saved without its line")));
    }
    Ok(if tail.cut { Verdict::Recovered("an unfinished last line was removed".to_owned()) } else { Verdict::Serve })
}

#[cfg(test)]
mod tests;
