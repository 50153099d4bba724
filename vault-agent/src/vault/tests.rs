//! Blob and journal in step: the start-up table row by row, rollback, failures in between.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::document::Value;
use crate::identity::Candidate;
use crate::random;
use crate::scratch::Scratch;

struct Bench {
    dir: Scratch,
}

impl Bench {
    /// A directory with a key.
    fn bare() -> Self {
        let dir = Scratch::new();
        let key = age::x25519::Identity::generate();
        dir.file("age.key", age::secrecy::ExposeSecret::expose_secret(&key.to_string()), 0o600);
        Self { dir }
    }

    /// And a vault of generation 1.
    fn new() -> Self {
        let bench = Self::bare();
        let nonce = Value::new(random::mint());
        let document = Document::genesis(nonce, Value::new(random::mint()), "2026-06-05T09:00:00Z");
        create(&bench.path(), bench.identity(), document, now()).expect("created");
        bench
    }

    fn path(&self) -> PathBuf {
        self.dir.path("vault.age")
    }

    fn journal(&self) -> PathBuf {
        self.dir.path("vault.age.audit")
    }

    fn identity(&self) -> Identity {
        let path = self.dir.path("age.key");
        let candidate = Candidate { path, source: "--key", explicit: true, credential: false };
        Identity::find(&[candidate]).expect("usable").expect("there")
    }

    fn open(&self) -> Vault {
        Vault::open(&self.path(), Some(self.identity()), false, now()).expect("opens").expect("there")
    }

    fn refused(&self) -> String {
        match Vault::open(&self.path(), Some(self.identity()), false, now()) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    }

    fn facts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.journal()).expect("journal");
        let member = |line: &serde_json::Value, name: &str| line[name].as_str().map(str::to_owned).expect("text");
        text.lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                format!(
                    "{} {} {} {}",
                    line["generation"],
                    member(&line, "op"),
                    member(&line, "outcome"),
                    member(&line, "detail")
                )
            })
            .collect()
    }
}

fn now() -> Timestamp {
    Timestamp::parse("2026-06-05T09:12:00Z").expect("a time")
}

fn register(vault: &mut Vault, name: &str) -> Result<(), VaultError> {
    let fact = Fact { op: "register", principal: name, actor: "core-admin-token", ..Fact::default() };
    vault.change(&fact, now(), |document| document.register_principal(name, "plugin"), |()| "kind=plugin".to_owned())
}

#[test]
fn changes_are_saved_then_journalled() {
    let bench = Bench::new();
    let mut vault = bench.open();
    register(&mut vault, "one").expect("new");
    register(&mut vault, "two").expect("new");
    assert!(register(&mut vault, "two").is_err());
    let expected = [
        "1 genesis ok ",
        "2 register ok kind=plugin",
        "3 register ok kind=plugin",
        "3 register denied vault: principal already registered: \"two\"",
    ];
    assert_eq!(bench.facts(), expected);
    drop(vault);
    let again = bench.open();
    assert_eq!((again.document().generation, again.document().journal_head.as_ref().expect("a head").seq), (3, 2));
    assert_eq!(again.document().principal_names(), ["core", "one", "two"]);
    assert_eq!(bench.facts().len(), 4, "a good start writes nothing");
}

#[test]
fn a_vault_of_the_reference_starts_at_generation_0_with_an_empty_journal() {
    let bench = Bench::bare();
    let document = Document::genesis(Value::new(random::mint()), Value::new(random::mint()), "");
    Sealed::new(bench.path(), bench.identity()).save(&document).expect("saved");
    let mut vault = bench.open();
    assert_eq!((vault.document().generation, bench.facts().len()), (0, 0));
    register(&mut vault, "one").expect("new");
    drop(vault);
    assert_eq!(bench.open().document().generation, 1);
}

#[test]
fn a_missing_vault_is_none_but_never_without_its_key() {
    let bench = Bench::bare();
    assert!(Vault::open(&bench.path(), Some(bench.identity()), false, now()).expect("absent").is_none());
    assert!(Vault::open(&bench.path(), None, false, now()).expect("absent").is_none());
    let bench = Bench::new();
    let Err(error) = Vault::open(&bench.path(), None, false, now()) else { panic!("opened") };
    assert_eq!(error.to_string(), "no age key file resolved (set secrets.age_key_file or DUCTILE_AGE_KEY_FILE)");
}

#[test]
fn a_crash_between_blob_and_line_is_recovered() {
    let bench = Bench::new();
    let mut vault = bench.open();
    let before = std::fs::read(bench.journal()).expect("journal");
    register(&mut vault, "one").expect("new");
    drop(vault);
    std::fs::write(bench.journal(), before).expect("the line is lost");
    drop(bench.open());
    assert_eq!(bench.facts()[1..], ["2 recovered ok generation 2 was saved without its line"]);
    drop(bench.open());
    assert_eq!(bench.facts().len(), 2);
}

#[test]
fn a_crash_inside_a_line_is_recovered() {
    let bench = Bench::new();
    register(&mut bench.open(), "one").expect("new");
    let whole = std::fs::read(bench.journal()).expect("journal");
    std::fs::write(bench.journal(), &whole[..whole.len() - 5]).expect("cut");
    drop(bench.open());
    assert_eq!(bench.facts()[1..], ["2 recovered ok generation 2 was saved without its line"]);
    std::fs::write(bench.journal(), [&whole[..], b"{\"seq\":3"].concat()).expect("cut");
    drop(bench.open());
    assert_eq!(bench.facts()[2..], ["2 recovered ok an unfinished last line was removed"]);
}

#[test]
fn older_blobs_and_shorter_or_broken_journals_refuse_to_start() {
    let bench = Bench::new();
    let mut vault = bench.open();
    let (old_blob, first) =
        (std::fs::read(bench.path()).expect("blob"), std::fs::read(bench.journal()).expect("journal"));
    register(&mut vault, "one").expect("new");
    register(&mut vault, "two").expect("new");
    drop(vault);
    let (blob, journal) =
        (std::fs::read(bench.path()).expect("blob"), std::fs::read(bench.journal()).expect("journal"));
    std::fs::write(bench.path(), &old_blob).expect("an older blob");
    assert_eq!(bench.refused(), "vault: blob is older than its journal (generation 1 < 3)");
    std::fs::write(bench.path(), &blob).expect("put back");
    std::fs::write(bench.journal(), &first).expect("a shorter journal");
    assert_eq!(bench.refused(), "vault: journal is shorter than the vault knows");
    std::fs::remove_file(bench.journal()).expect("no journal");
    assert_eq!(bench.refused(), "vault: journal is shorter than the vault knows");
    let changed = String::from_utf8(journal.clone()).expect("text").replacen("register", "registre", 1);
    std::fs::write(bench.journal(), changed).expect("a changed line");
    assert_eq!(bench.refused(), "vault: journal line 2 does not verify");
    std::fs::write(bench.journal(), journal).expect("put back");
    drop(bench.open());
}

#[test]
fn accept_older_takes_what_is_there_and_says_so() {
    let bench = Bench::new();
    let old_blob = std::fs::read(bench.path()).expect("blob");
    register(&mut bench.open(), "one").expect("new");
    register(&mut bench.open(), "two").expect("new");
    std::fs::write(bench.path(), &old_blob).expect("an older blob");
    let accepted = Vault::open(&bench.path(), Some(bench.identity()), true, now()).expect("taken").expect("there");
    assert_eq!((accepted.document().generation, accepted.document().principal_names()), (4, vec!["core".to_owned()]));
    drop(accepted);
    assert_eq!(
        bench.facts(),
        [
            "4 accept_older ok vault: blob is older than its journal (generation 1 < 3); blob generation 1, journal generation 3"
        ]
    );
    let kept = std::fs::read_to_string(bench.dir.path("vault.age.audit.20260605T091200Z")).expect("kept");
    assert_eq!(kept.lines().count(), 3);
    register(&mut bench.open(), "three").expect("goes on");
    assert_eq!(bench.open().document().generation, 5);
}

#[test]
fn a_failed_save_leaves_memory_and_file_as_they_were() {
    let bench = Bench::new();
    let mut vault = bench.open();
    std::fs::write(bench.path(), "intruder").expect("write");
    let error = register(&mut vault, "one").expect_err("refused");
    assert_eq!(Refusal::from(&error).kind, RefusalKind::ModifiedExternally);
    assert_eq!((vault.document().generation, vault.document().principal_names()), (1, vec!["core".to_owned()]));
    assert!(bench.facts()[1].starts_with("1 register error vault: blob was modified externally"));
}

#[test]
fn a_change_that_was_saved_but_not_told_is_told_by_the_next() {
    let bench = Bench::new();
    let mut vault = bench.open();
    // As if the append had failed after the save: the blob is ahead of the journal by one.
    let mut changed = vault.document.clone();
    changed.register_principal("silent", "plugin").expect("new");
    changed.generation += 1;
    changed.journal_head = vault.journal.tail().head();
    vault.sealed.save(&changed).expect("saved");
    vault.canonical = changed.canonical();
    vault.document = changed;
    register(&mut vault, "one").expect("new");
    assert_eq!(
        bench.facts()[1..],
        ["2 recovered ok generation 2 was saved without its line", "3 register ok kind=plugin"]
    );
    drop(vault);
    assert_eq!(bench.open().document().generation, 3);
}

#[test]
fn an_unchanged_document_is_journalled_and_not_saved() {
    let bench = Bench::new();
    let mut vault = bench.open();
    let blob = std::fs::read(bench.path()).expect("blob");
    let fact = Fact { op: "revoke_principal", principal: "core", actor: "cli", ..Fact::default() };
    vault.change(&fact, now(), |_| Ok(()), |()| String::new()).expect("nothing to do");
    assert_eq!(std::fs::read(bench.path()).expect("blob"), blob);
    assert_eq!(bench.facts()[1..], ["1 revoke_principal ok "]);
}

#[test]
fn one_writer_holds_the_lock() {
    let bench = Bench::new();
    let lock = Lock::take(&bench.path()).expect("free");
    let Err(error) = Lock::take(&bench.path()) else { panic!("taken twice") };
    let path = bench.dir.path("vault.age.lock");
    assert_eq!(
        error.to_string(),
        format!("the daemon appears to be running (could not take the lock): {}", path.display())
    );
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
    drop(lock);
    drop(Lock::take(&bench.path()).expect("free again"));
}
