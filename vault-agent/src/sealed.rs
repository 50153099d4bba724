//! The age file: decrypt it, encrypt it, replace it atomically. Knows nothing of what is inside but
//! that it is YAML.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::x25519;
use zeroize::Zeroizing;

use crate::document::Document;
use crate::identity::Identity;
use crate::yaml::{self, YamlError};
use crate::{files, random};

/// The longest blob.
const BLOB_MAX: u64 = 64 * 1024 * 1024;

/// The vault's file and the key to it.
pub(crate) struct Sealed {
    path: PathBuf,
    identity: Identity,
    /// Digest of the ciphertext last read or written; what is on disk must still be that.
    baseline: Option<blake3::Hash>,
}

/// What can go wrong with the file. Nothing of its content is in any text.
#[derive(Debug)]
pub(crate) enum SealError {
    Read { path: PathBuf, source: io::Error },
    NotAge { path: PathBuf },
    Decrypt { path: PathBuf, source: age::DecryptError },
    Cut { path: PathBuf, source: io::Error },
    Malformed { path: PathBuf, source: YamlError },
    Version { path: PathBuf, version: u32 },
    Recipient { recipient: String },
    ModifiedExternally { path: PathBuf },
    Encrypt { source: io::Error },
    Write { path: PathBuf, step: &'static str, source: io::Error },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "read vault {path:?}"),
            Self::NotAge { path } => write!(f, "vault {path:?} is not age-encrypted"),
            Self::Decrypt { path, .. } => write!(f, "decrypt vault {path:?}"),
            Self::Cut { path, .. } => write!(f, "decrypt vault {path:?}: damaged or cut short"),
            Self::Malformed { path, .. } => write!(f, "parse vault {path:?}"),
            Self::Version { path, version } => {
                write!(f, "vault {path:?} has document version {version}, this program knows version 1")
            }
            Self::Recipient { recipient } => write!(f, "recovery recipient {recipient:?} is no X25519 recipient"),
            Self::ModifiedExternally { path } => write!(
                f,
                "vault: blob was modified externally: {path:?} changed underneath the daemon; restart or reload to adopt the on-disk blob"
            ),
            Self::Encrypt { .. } => f.write_str("encrypt vault"),
            Self::Write { path, step, .. } => write!(f, "{step} vault {path:?}"),
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. }
            | Self::Cut { source, .. }
            | Self::Encrypt { source }
            | Self::Write { source, .. } => Some(source),
            Self::Decrypt { source, .. } => Some(source),
            Self::Malformed { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Sealed {
    pub(crate) fn new(path: PathBuf, identity: Identity) -> Self {
        Self { path, identity, baseline: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn key_source(&self) -> &'static str {
        self.identity.source
    }

    /// Reads and opens the file; `None` when there is none. Never an empty store in place of a
    /// broken one.
    ///
    /// # Errors
    /// Anything else than a whole document of a known version.
    pub(crate) fn load(&mut self) -> Result<Option<Document>, SealError> {
        let Some(blob) = read(&self.path)? else { return Ok(None) };
        let path = || self.path.clone();
        if !files::is_sealed(&blob) {
            return Err(SealError::NotAge { path: path() });
        }
        let decrypt_error = |source| SealError::Decrypt { path: path(), source };
        let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(blob.as_slice())).map_err(decrypt_error)?;
        let mut plain = decryptor.decrypt(self.identity.keys()).map_err(decrypt_error)?;
        let mut text = Zeroizing::new(String::new());
        plain.read_to_string(&mut text).map_err(|source| SealError::Cut { path: path(), source })?;
        let document: Document = yaml::parse(&text).map_err(|source| SealError::Malformed { path: path(), source })?;
        if document.version != 1 {
            return Err(SealError::Version { path: path(), version: document.version });
        }
        self.baseline = Some(blake3::hash(&blob));
        Ok(Some(document))
    }

    /// Replaces the file by this document (`spec/vault.md` 2, save procedure).
    ///
    /// # Errors
    /// `ModifiedExternally` when somebody else wrote it; after any other error the file is the old
    /// or the new one, whole.
    pub(crate) fn save(&mut self, document: &Document) -> Result<(), SealError> {
        if let (Some(baseline), Some(blob)) = (self.baseline, read(&self.path)?)
            && blake3::hash(&blob) != baseline
        {
            return Err(SealError::ModifiedExternally { path: self.path.clone() });
        }
        let mut recipients = self.identity.recipients();
        for recipient in &document.recovery_recipients {
            let parsed = x25519::Recipient::from_str(recipient);
            recipients.push(parsed.map_err(|_| SealError::Recipient { recipient: recipient.clone() })?);
        }
        let blob =
            encrypt(yaml::print(document).as_bytes(), &recipients).map_err(|source| SealError::Encrypt { source })?;
        let failed = |step, source| SealError::Write { path: self.path.clone(), step, source };
        replace(&self.path, &blob).map_err(|(step, source)| failed(step, source))?;
        self.baseline = Some(blake3::hash(&blob));
        files::sync_directory(&self.path).map_err(|source| failed("sync the directory of", source))
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    match File::open(path).and_then(|file| files::read(&file, BLOB_MAX)) {
        Ok(blob) => Ok(Some(blob)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SealError::Read { path: path.to_owned(), source }),
    }
}

fn encrypt(plain: &[u8], recipients: &[x25519::Recipient]) -> io::Result<Vec<u8>> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let armour = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = encryptor.wrap_output(armour)?;
    writer.write_all(plain)?;
    writer.finish()?.finish()
}

/// A new file beside the old one, whole and synced, then renamed over it.
fn replace(path: &Path, blob: &[u8]) -> Result<(), (&'static str, io::Error)> {
    let temporary = path.with_file_name(format!(".vault-{}", random::hex(&random::bytes::<8>())));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(blob)?;
        file.sync_all()
    };
    let outcome = write().map_err(|error| ("write", error));
    let outcome = outcome.and_then(|()| std::fs::rename(&temporary, path).map_err(|error| ("replace", error)));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::document::Value;
    use crate::identity::for_tests;
    use crate::scratch::Scratch;

    fn document() -> Document {
        let value = |text: &str| Value::new(Zeroizing::new(text.to_owned()));
        Document::genesis(value("nonce"), value("hunter2-token"), "2026-06-05T09:00:00Z")
    }

    fn saved(dir: &Scratch) -> Sealed {
        let mut sealed = Sealed::new(dir.path("vault.age"), for_tests());
        sealed.save(&document()).expect("saved");
        sealed
    }

    #[test]
    fn a_document_comes_back_from_an_armoured_private_file() {
        let dir = Scratch::new();
        let mut sealed = saved(&dir);
        let text = std::fs::read_to_string(dir.path("vault.age")).expect("text");
        assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n") && !text.contains("hunter2"));
        assert_eq!(std::fs::metadata(dir.path("vault.age")).expect("there").mode() & 0o7777, 0o600);
        let loaded = sealed.load().expect("opens").expect("there");
        assert_eq!(*loaded.canonical(), *document().canonical());
        assert_eq!(std::fs::read_dir(dir.path(".")).expect("dir").count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_binary_blob_opens_too() {
        let dir = Scratch::new();
        let identity = for_tests();
        let blob = age::encrypt(&identity.recipients()[0], yaml::print(&document()).as_bytes()).expect("encrypts");
        std::fs::write(dir.path("vault.age"), blob).expect("write");
        assert!(Sealed::new(dir.path("vault.age"), identity).load().expect("opens").is_some());
    }

    #[test]
    fn a_missing_file_is_none_and_a_broken_one_is_never_empty() {
        let dir = Scratch::new();
        let path = dir.path("vault.age");
        assert!(Sealed::new(path.clone(), for_tests()).load().expect("absent").is_none());
        let mut sealed = saved(&dir);
        let whole = std::fs::read(&path).expect("read");
        let foreign = Sealed::new(path.clone(), for_tests()).load().expect_err("another key");
        assert!(matches!(foreign, SealError::Decrypt { .. }) && foreign.to_string().contains("vault.age"));
        let mut check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("write");
            assert!(sealed.load().is_err(), "{} bytes", bytes.len());
        };
        for cut in [0, 1, 40, whole.len() / 2, whole.len() - 60, whole.len() - 40] {
            check(&whole[..cut]);
        }
        check(b"secrets: {}\nprincipals: {}\n");
        check(b"age-encryption.org/v1\n-> X25519 nonsense\n");
        check(b"-----BEGIN AGE ENCRYPTED FILE-----\nnot base64!\n-----END AGE ENCRYPTED FILE-----\n");
        for at in (0..whole.len()).step_by(97) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            if flipped[at].is_ascii_whitespace() == whole[at].is_ascii_whitespace() {
                check(&flipped);
            }
        }
    }

    #[test]
    fn an_unknown_version_and_a_foreign_plaintext_are_refused() {
        let dir = Scratch::new();
        let mut sealed = saved(&dir);
        sealed.save(&Document { version: 2, ..document() }).expect("saved");
        assert!(matches!(sealed.load(), Err(SealError::Version { version: 2, .. })));
        let blob = encrypt(b"secrets: hunter2", &sealed.identity.recipients()).expect("encrypts");
        std::fs::write(sealed.path(), blob).expect("write");
        let error = shared::log::chain(&sealed.load().expect_err("no document"));
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_blob_of_somebody_else_is_not_overwritten() {
        let dir = Scratch::new();
        let mut sealed = saved(&dir);
        std::fs::write(sealed.path(), "intruder").expect("write");
        let text = sealed.save(&document()).expect_err("refused").to_string();
        assert!(text.starts_with("vault: blob was modified externally"), "{text}");
        assert!(text.ends_with("changed underneath the daemon; restart or reload to adopt the on-disk blob"), "{text}");
        assert_eq!(std::fs::read(sealed.path()).expect("read"), b"intruder");
        std::fs::remove_file(sealed.path()).expect("remove");
        sealed.save(&document()).expect("a missing file is made again");
        sealed.save(&document()).expect("our own write is no change of somebody else");
    }

    #[test]
    fn recovery_recipients_open_it_as_well() {
        let dir = Scratch::new();
        let mut sealed = saved(&dir);
        let recovery = for_tests();
        let mut with = document();
        with.recovery_recipients = vec![recovery.recipients()[0].to_string()];
        sealed.save(&with).expect("saved");
        assert!(Sealed::new(dir.path("vault.age"), recovery).load().expect("opens").is_some());
        with.recovery_recipients.push("age1nonsense".to_owned());
        assert!(matches!(sealed.save(&with), Err(SealError::Recipient { .. })));
    }
}
