//! The audit journal beside the vault: value-free JSON lines, each chained to the one before by a
//! MAC keyed from the nonce, each durable before anybody hears of what it tells
//! (`spec/vault.md` 15.4). Append-only; every append and every walk holds the file's `flock`, since
//! `get` may run beside the resident agent.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use serde::Deserialize;
use shared::log::push_json_text;
use shared::time::Timestamp;
use zeroize::Zeroizing;

use crate::document::JournalHead;
use crate::{files, random};

const KEY_CONTEXT: &str = "ductile audit journal v1";
const MAC_MEMBER: &str = ",\"mac\":";
/// `,"mac":"<64 hex>"}` and the newline.
const MAC_LENGTH: usize = MAC_MEMBER.len() + 1 + 64 + 3;
/// The longest text of a member, in characters; what goes beyond is cut off.
const MEMBER_MAX: usize = 1024;
/// The longest line that can be one of ours.
const LINE_MAX: u64 = 64 * 1024;

/// What a line tells.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fact<'a> {
    pub(crate) op: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) actor: &'a str,
    pub(crate) outcome: &'a str,
    pub(crate) detail: &'a str,
}

/// Where a walk over the chain stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Bytes of the lines that hold.
    offset: u64,
    pub(crate) seq: u64,
    mac: [u8; 32],
    /// The greatest that any line saw saved.
    pub(crate) generation: u64,
    /// The wanted head was met.
    pub(crate) head_found: bool,
    /// Number of the first line that does not verify.
    pub(crate) broken: Option<u64>,
    /// A last line without its newline: a crash fell into its write.
    pub(crate) cut: bool,
}

impl Tail {
    /// The last line, as the document keeps it.
    pub(crate) fn head(&self) -> Option<JournalHead> {
        (self.seq > 0).then(|| JournalHead { seq: self.seq, mac: random::hex(&self.mac) })
    }
}

/// The open journal.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    key: Zeroizing<[u8; 32]>,
    tail: Tail,
}

/// What can go wrong with the journal.
#[derive(Debug)]
pub(crate) enum JournalError {
    Open { path: PathBuf, source: io::Error },
    Read { path: PathBuf, source: io::Error },
    Append { path: PathBuf, source: io::Error },
    Broken { seq: u64 },
    Shorter,
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "open audit journal {path:?}"),
            Self::Read { path, .. } => write!(f, "read audit journal {path:?}"),
            Self::Append { path, .. } => write!(f, "append to audit journal {path:?}"),
            Self::Broken { seq } => write!(f, "vault: journal line {seq} does not verify"),
            Self::Shorter => f.write_str("vault: journal is shorter than the vault knows"),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Append { source, .. } => Some(source),
            Self::Broken { .. } | Self::Shorter => None,
        }
    }
}

/// `<vault_file>.audit`.
pub(crate) fn path_of(vault: &Path) -> PathBuf {
    let mut path = vault.as_os_str().to_owned();
    path.push(".audit");
    PathBuf::from(path)
}

impl Journal {
    /// Opens or makes the journal of a vault and walks its whole chain, looking for `head`. A chain
    /// that does not hold is in the tail, not an error: the caller decides.
    ///
    /// # Errors
    /// The file can not be opened or read.
    pub(crate) fn open(vault: &Path, nonce: &[u8; 32], head: Option<&JournalHead>) -> Result<Self, JournalError> {
        let path = path_of(vault);
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path);
        let file = opened.map_err(|source| JournalError::Open { path: path.clone(), source })?;
        let key = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, nonce));
        let mut journal = Self { path, file, key, tail: Tail::default() };
        journal.tail.head_found = head.is_none();
        journal.locked(|journal| journal.walk(head))?;
        Ok(journal)
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Under the file's lock, with the lines known that somebody else has appended meanwhile.
    ///
    /// # Errors
    /// The chain no longer holds, or the file can not be read; else those of `work`.
    pub(crate) fn begin<R, E: From<JournalError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<R, E>,
    ) -> Result<R, E> {
        self.locked(|journal| {
            journal.walk(None)?;
            match journal.tail.broken {
                Some(seq) => Err(JournalError::Broken { seq }.into()),
                None => work(journal),
            }
        })
    }

    /// Appends one line and makes it durable. Only inside `begin`.
    ///
    /// # Errors
    /// `Append`; the file is as before then.
    pub(crate) fn append(&mut self, fact: &Fact<'_>, generation: u64, now: Timestamp) -> Result<(), JournalError> {
        let mut line = format!(
            "{{\"seq\":{},\"event_id\":\"{}\",\"generation\":{generation}",
            self.tail.seq + 1,
            random::uuid(now)
        );
        for (name, text) in [
            ("op", fact.op),
            ("principal", fact.principal),
            ("secret_name", fact.secret),
            ("actor", fact.actor),
            ("outcome", fact.outcome),
            ("detail", fact.detail),
            ("created_at", &now.to_string()),
        ] {
            line.push_str(&format!(",\"{name}\":"));
            push_json_text(&mut line, &text.chars().take(MEMBER_MAX).collect::<String>());
        }
        let mac = mac(&self.key, &self.tail.mac, line.as_bytes());
        line.push_str(&format!("{MAC_MEMBER}\"{}\"}}\n", random::hex(&mac)));
        let failed = |source| JournalError::Append { path: self.path.clone(), source };
        // What a crash left behind the last whole line goes with the next write.
        let written = self.file.set_len(self.tail.offset).and_then(|()| self.file.write_all(line.as_bytes()));
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            let _ = self.file.set_len(self.tail.offset);
            return Err(failed(error));
        }
        if self.tail.seq == 0 {
            files::sync_directory(&self.path).map_err(failed)?;
        }
        self.tail.offset += line.len() as u64;
        self.tail.seq += 1;
        self.tail.mac = mac;
        self.tail.generation = self.tail.generation.max(generation);
        self.tail.cut = false;
        Ok(())
    }

    fn locked<R, E: From<JournalError>>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, E>) -> Result<R, E> {
        let failed =
            |path: &Path, error: rustix::io::Errno| JournalError::Open { path: path.to_owned(), source: error.into() };
        rustix::fs::flock(&self.file, FlockOperation::LockExclusive).map_err(|error| failed(&self.path, error))?;
        let outcome = work(self);
        let unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock).map_err(|error| failed(&self.path, error));
        let done = outcome?;
        unlocked?;
        Ok(done)
    }

    /// Reads on from where the tail stands.
    fn walk(&mut self, head: Option<&JournalHead>) -> Result<(), JournalError> {
        let failed = |source| JournalError::Read { path: self.path.clone(), source };
        let length = self.file.metadata().map_err(failed)?.len();
        if length < self.tail.offset {
            return Err(JournalError::Shorter);
        }
        if length == self.tail.offset || self.tail.broken.is_some() {
            return Ok(());
        }
        let mut reader = &self.file;
        reader.seek(SeekFrom::Start(self.tail.offset)).map_err(failed)?;
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)?;
            if line.is_empty() {
                return Ok(());
            }
            if line.last() != Some(&b'\n') && (line.len() as u64) < LINE_MAX {
                self.tail.cut = true;
                return Ok(());
            }
            let Some((seq, generation, mac)) = verify(&self.key, &self.tail, &line) else {
                self.tail.broken = Some(self.tail.seq + 1);
                return Ok(());
            };
            self.tail.head_found |= head.is_some_and(|head| head.seq == seq && head.mac == random::hex(&mac));
            self.tail.offset += line.len() as u64;
            self.tail.seq = seq;
            self.tail.mac = mac;
            self.tail.generation = self.tail.generation.max(generation);
        }
    }
}

fn mac(key: &[u8; 32], before: &[u8; 32], line: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(key).update(before).update(line).finalize().as_bytes()
}

/// Number, generation and MAC of the line, if it follows the tail.
fn verify(key: &[u8; 32], tail: &Tail, line: &[u8]) -> Option<(u64, u64, [u8; 32])> {
    #[derive(Deserialize)]
    struct Line<'a> {
        seq: u64,
        generation: u64,
        #[serde(borrow)]
        mac: &'a str,
    }
    let (covered, member) = line.split_at_checked(line.len().checked_sub(MAC_LENGTH)?)?;
    let parsed: Line<'_> = serde_json::from_slice(line).ok()?;
    let expected = blake3::Hash::from(mac(key, &tail.mac, covered));
    let given: [u8; 32] = random::from_hex(parsed.mac)?;
    let holds = member.starts_with(MAC_MEMBER.as_bytes()) && expected == given && parsed.seq == tail.seq + 1;
    holds.then_some((parsed.seq, parsed.generation, given))
}

#[cfg(test)]
mod tests;
