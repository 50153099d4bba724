//! What is hashed, what is bound, and what is refused.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::scratch::Scratch;

const NONCE: [u8; 32] = [9; 32];

fn asked() -> Attestation {
    Attestation {
        plugin: PluginName::parse("fabric").expect("valid"),
        uses: String::new(),
        principal: "fabric".to_owned(),
        requires_vault: true,
        account: None,
    }
}

struct Bench {
    dir: Scratch,
    attestor: Attestor,
}

impl Bench {
    fn new() -> Self {
        let dir = Scratch::new();
        dir.file("manifest.yaml", "name: fabric\n", 0o644);
        dir.file("run", "#!/bin/sh\n", 0o755);
        let attestor = Attestor::new(Zeroizing::new(NONCE), Some(dir.path(".checksums")));
        Self { dir, attestor }
    }

    fn files(&self) -> Files<File, File> {
        let open = |name: &str| File::open(self.dir.path(name)).expect("opens");
        Files { manifest: open("manifest.yaml"), entrypoint: open("run") }
    }

    fn record(&self, asked: &Attestation, binding: bool) {
        let found = self.attestor.fingerprint(asked, &self.files(), false).expect("hashes");
        let mut text = format!(
            "version: 2\nplugin_fingerprints:\n  - name: {}\n    manifest_hash: {}\n    entrypoint_hash: {}\n",
            asked.plugin, found.manifest_hash, found.entrypoint_hash
        );
        if binding {
            text.push_str(&format!("    binding_mac: {}\n", found.binding_mac));
        }
        self.dir.file(".checksums", &text, 0o600);
    }

    fn verdict(&self, asked: &Attestation) -> Verdict {
        self.attestor.examine(asked, &self.files()).expect("hashable")
    }

    #[track_caller]
    fn mismatch(&self, asked: &Attestation, words: &str) {
        match self.verdict(asked) {
            Verdict::Mismatch(text) => assert!(text.contains(words), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn digests_are_keyed_and_cover_the_whole_file_from_its_beginning() {
    let bench = Bench::new();
    let files = bench.files();
    std::io::Read::read(&mut &files.manifest, &mut [0; 4]).expect("the offset moves");
    let found = bench.attestor.fingerprint(&asked(), &files, false).expect("hashes");
    assert_eq!(found.manifest_hash, blake3::keyed_hash(&NONCE, b"name: fabric\n").to_hex().as_str());
    assert_eq!(found.entrypoint_hash, blake3::keyed_hash(&NONCE, b"#!/bin/sh\n").to_hex().as_str());
}

#[test]
fn the_binding_has_the_layout_of_the_chapter() {
    let asked = Attestation { uses: "base".to_owned(), account: Some((1001, 1002)), ..asked() };
    let mut bytes = Vec::new();
    for field in ["fabric", "base", "fabric", "\u{1}", "1001:1002", "aa", "bb", ""] {
        bytes.extend_from_slice(&u32::try_from(field.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    let key = blake3::derive_key("ductile plugin binding v1", &NONCE);
    assert_eq!(binding(&key, &asked, "aa", "bb"), blake3::keyed_hash(&key, &bytes).to_hex().as_str());
}

#[test]
fn only_what_was_locked_matches() {
    let bench = Bench::new();
    assert!(matches!(bench.verdict(&asked()), Verdict::Unrecorded(_)), "no file");
    bench.record(&asked(), true);
    assert_eq!(bench.verdict(&asked()), Verdict::Match);
    let other = Attestation { plugin: PluginName::parse("other").expect("valid"), ..asked() };
    assert!(matches!(bench.verdict(&other), Verdict::Unrecorded(text) if text.contains("plugin lock other")));
    let bound = "is not what was locked; run 'ductile plugin lock fabric'";
    bench.mismatch(&Attestation { principal: "core".to_owned(), ..asked() }, bound);
    bench.mismatch(&Attestation { uses: "base".to_owned(), ..asked() }, bound);
    bench.mismatch(&Attestation { requires_vault: false, ..asked() }, bound);
    bench.dir.file("run", "#!/bin/sh\nevil\n", 0o755);
    bench.mismatch(&asked(), "plugin \"fabric\": entrypoint hash mismatch; run 'ductile plugin lock fabric'");
    bench.dir.file("manifest.yaml", "name: evil\n", 0o644);
    bench.mismatch(&asked(), "plugin \"fabric\": manifest hash mismatch");
    bench.dir.file(".checksums", "version: 1\n", 0o600);
    bench.mismatch(&asked(), "unsupported checksums version: 1");
}

#[test]
fn an_entry_of_the_reference_matches_by_its_hashes_unless_an_account_is_named() {
    let bench = Bench::new();
    bench.record(&asked(), false);
    assert_eq!(bench.verdict(&asked()), Verdict::Match);
    assert!(bench.attestor.warned.lock().expect("free").contains("fabric"));
    if rustix::process::geteuid().is_root() {
        let enforcing = Attestation { account: Some((1001, 1001)), ..asked() };
        bench.mismatch(&enforcing, "plugin \"fabric\" has no binding; run 'ductile plugin lock --all'");
    }
}

#[test]
fn while_enforcing_nobody_but_root_may_change_the_files() {
    let bench = Bench::new();
    let enforcing = Attestation { account: Some((1001, 1001)), ..asked() };
    bench.record(&enforcing, true);
    std::fs::set_permissions(bench.dir.path("run"), Permissions::from_mode(0o775)).expect("chmod");
    let refused = bench.attestor.examine(&enforcing, &bench.files()).expect_err("group may write");
    assert!(matches!(refused, AttestError::Unsafe { .. }), "{refused}");
}

#[test]
fn only_regular_executable_files_are_hashed() {
    let bench = Bench::new();
    let refused = |files: &Files<File, File>| {
        bench.attestor.fingerprint(&asked(), files, false).expect_err("refused").to_string()
    };
    let directory = File::open(bench.dir.path(".")).expect("opens");
    assert_eq!(refused(&Files { manifest: directory, ..bench.files() }), "manifest is not a regular file");
    let device = File::open("/dev/zero").expect("opens");
    assert_eq!(refused(&Files { entrypoint: device, ..bench.files() }), "entrypoint is not a regular file");
    let manifest = File::open(bench.dir.path("manifest.yaml")).expect("opens");
    assert_eq!(refused(&Files { entrypoint: manifest, ..bench.files() }), "entrypoint is not executable");
    let long = File::create(bench.dir.path("long")).expect("create");
    long.set_len(FILE_MAX.unsigned_abs() + 1).expect("sparse");
    assert_eq!(refused(&Files { manifest: long, ..bench.files() }), "manifest is over 67108864 bytes");
    let unreadable = File::options().append(true).open(bench.dir.path("run")).expect("opens");
    assert_eq!(refused(&Files { entrypoint: unreadable, ..bench.files() }), "cannot read entrypoint");
}

#[test]
fn a_file_is_cached_only_after_it_has_settled() {
    let bench = Bench::new();
    let cached = || bench.attestor.digests.lock().expect("free").len();
    let first = bench.attestor.fingerprint(&asked(), &bench.files(), false).expect("hashes");
    assert_eq!(cached(), 0, "changed just now");
    crate::bench::eventually(|| {
        assert_eq!(bench.attestor.fingerprint(&asked(), &bench.files(), false).expect("hashes"), first);
        cached() == 2
    });
    bench.dir.file("run", "#!/bin/sh\nevil\n", 0o755);
    let changed = bench.attestor.fingerprint(&asked(), &bench.files(), false).expect("hashes");
    assert_ne!(changed.entrypoint_hash, first.entrypoint_hash);
}
