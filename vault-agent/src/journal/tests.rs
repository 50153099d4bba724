//! The chain against tampering, cuts and a second writer.

use super::*;
use crate::scratch::Scratch;

const NONCE: [u8; 32] = [7; 32];

fn now() -> Timestamp {
    Timestamp::from_unix_nanos(1_780_650_720_100_000_000)
}

fn open(dir: &Scratch, head: Option<&JournalHead>) -> Journal {
    Journal::open(&dir.path("vault.age"), &NONCE, head).expect("opens")
}

fn append(journal: &mut Journal, op: &str, generation: u64) {
    let fact = Fact { op, actor: "cli", outcome: "ok", detail: "two\n\"words\"", ..Fact::default() };
    journal.begin(|journal| journal.append(&fact, generation, now())).expect("appended");
}

fn text(dir: &Scratch) -> String {
    std::fs::read_to_string(dir.path("vault.age.audit")).expect("text")
}

#[test]
fn a_line_has_the_members_of_the_chapter_in_order() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    append(&mut journal, "genesis", 1);
    let line = text(&dir);
    let id = &line[r#"{"seq":1,"event_id":""#.len()..][..36];
    let covered = format!(
        r#"{{"seq":1,"event_id":"{id}","generation":1,"op":"genesis","principal":"","secret_name":"","actor":"cli","outcome":"ok","detail":"two\n\"words\"","created_at":"2026-06-05T09:12:00.100000000Z""#
    );
    let key = blake3::derive_key("ductile audit journal v1", &NONCE);
    let mac = blake3::Hasher::new_keyed(&key).update(&[0; 32]).update(covered.as_bytes()).finalize();
    assert_eq!(line, format!("{covered},\"mac\":\"{mac}\"}}\n"));
}

#[test]
fn a_chain_holds_over_openings_and_finds_its_head() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    append(&mut journal, "genesis", 1);
    let head = journal.tail().head().expect("a line");
    append(&mut journal, "set", 2);
    append(&mut journal, "read", 2);
    let again = open(&dir, Some(&head));
    assert_eq!((again.tail().seq, again.tail().generation, again.tail().head_found), (3, 2, true));
    assert_eq!((again.tail().broken, again.tail().cut), (None, false));
    let other = JournalHead { mac: "0".repeat(64), ..head };
    assert!(!open(&dir, Some(&other)).tail().head_found);
}

#[test]
fn two_writers_share_one_chain() {
    let dir = Scratch::new();
    let (mut one, mut two) = (open(&dir, None), open(&dir, None));
    append(&mut one, "genesis", 1);
    append(&mut two, "read", 1);
    append(&mut one, "set", 2);
    append(&mut two, "read", 2);
    let tail = open(&dir, None).tail().clone();
    assert_eq!((tail.seq, tail.generation, tail.broken), (4, 2, None));
}

#[test]
fn every_change_to_a_line_breaks_the_chain_there() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    for op in ["genesis", "set", "roll"] {
        append(&mut journal, op, 1);
    }
    let whole = text(&dir);
    let lines: Vec<&str> = whole.lines().collect();
    let check = |changed: String, broken: Option<u64>| {
        std::fs::write(dir.path("vault.age.audit"), &changed).expect("write");
        assert_eq!(open(&dir, None).tail().broken, broken, "{changed}");
    };
    check(whole.replace("\"set\"", "\"get\""), Some(2));
    check(format!("{}\n{}\n", lines[0], lines[2]), Some(2));
    check(format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2]), Some(1));
    check(format!("{whole}{}\n", lines[2]), Some(4));
    check(format!("{whole}\n"), Some(4));
    check(format!("{whole}{{}}\n"), Some(4));
    check(format!("{whole}{}\n", "x".repeat(100_000)), Some(4));
    check(format!("{whole}{}", "x".repeat(100_000)), Some(4));
    check(whole.clone(), None);
    std::fs::write(dir.path("vault.age.audit"), b"\xff\xfe\n").expect("write");
    assert_eq!(open(&dir, None).tail().broken, Some(1));
    std::fs::write(dir.path("vault.age.audit"), &whole).expect("write");
    let other = Journal::open(&dir.path("vault.age"), &[8; 32], None).expect("opens");
    assert_eq!(other.tail().broken, Some(1), "a chain of another nonce");
}

#[test]
fn a_cut_last_line_is_told_and_overwritten_by_the_next() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    append(&mut journal, "genesis", 1);
    append(&mut journal, "set", 2);
    let whole = text(&dir);
    std::fs::write(dir.path("vault.age.audit"), &whole[..whole.len() - 20]).expect("write");
    let mut again = open(&dir, None);
    assert_eq!((again.tail().seq, again.tail().cut, again.tail().broken), (1, true, None));
    append(&mut again, "recovered", 2);
    let tail = open(&dir, None).tail().clone();
    assert_eq!((tail.seq, tail.cut, tail.broken), (2, false, None));
}

#[test]
fn a_running_writer_notices_a_shortened_or_forged_file() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    append(&mut journal, "genesis", 1);
    let whole = text(&dir);
    let outcome = |journal: &mut Journal| journal.begin(|journal| journal.append(&Fact::default(), 1, now()));
    std::fs::write(dir.path("vault.age.audit"), "").expect("write");
    assert!(matches!(outcome(&mut journal), Err(JournalError::Shorter)));
    std::fs::write(dir.path("vault.age.audit"), format!("{whole}{{\"seq\":2}}\n")).expect("write");
    assert!(matches!(outcome(&mut journal), Err(JournalError::Broken { seq: 2 })));
}

#[test]
fn a_link_in_the_journals_place_is_refused() {
    let dir = Scratch::new();
    let target = dir.file("target", "", 0o600);
    std::os::unix::fs::symlink(target, dir.path("vault.age.audit")).expect("link");
    assert!(Journal::open(&dir.path("vault.age"), &NONCE, None).is_err());
}

#[test]
fn a_long_text_is_cut_and_the_chain_goes_on() {
    let dir = Scratch::new();
    let mut journal = open(&dir, None);
    let long = "\u{1}".repeat(100_000);
    let fact = Fact { op: &long, principal: &long, secret: &long, actor: &long, outcome: &long, detail: &long };
    journal.begin(|journal| journal.append(&fact, 1, now())).expect("appended");
    append(&mut journal, "set", 2);
    let tail = open(&dir, None).tail().clone();
    assert_eq!((tail.seq, tail.broken), (2, None));
}
