//! Budgets, and the places where a thing may be named.

use std::path::Path;

use tests::paths;

use super::{Source, code, names, rust, sources};

#[test]
fn the_agent_keeps_to_its_budget() {
    budget(rust("vault-agent/src"), 4200, 300);
}

#[test]
fn the_spawner_keeps_to_its_budget() {
    let mut files = rust("executor/src/spawner");
    files.extend(rust("executor/src/bin").into_iter().filter(|file| file.path.ends_with("ductile-spawner.rs")));
    budget(files, 1250, 400);
}

#[test]
fn no_file_holds_two_concerns() {
    for folder in ["shared/src", "api/src", "executor/src", "tests/src"] {
        budget(rust(folder), usize::MAX, 400);
    }
}

fn budget(files: Vec<Source>, whole: usize, single: usize) {
    assert!(!files.is_empty());
    let mut sum: usize = 0;
    for file in &files {
        let lines = code(file).len();
        sum = sum.saturating_add(lines);
        assert!(lines <= single, "{} has {lines} code lines, its budget is {single}", file.path.display());
    }
    assert!(sum <= whole, "{sum} code lines, the budget is {whole}");
}

#[test]
fn unsafe_stands_in_one_file() {
    for folder in ["shared", "api", "executor", "vault-agent", "tests/src"] {
        only_in(folder, "unsafe", |path| path == Path::new("executor/src/spawner/sys.rs"));
    }
    for root in
        ["shared/src/lib.rs", "api/src/main.rs", "vault-agent/src/main.rs", "tests/src/lib.rs", "tests/suite/main.rs"]
    {
        let text = std::fs::read_to_string(paths::sources().join(root)).expect("a root of a crate");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root} does not forbid unsafe code");
    }
}

#[test]
fn what_may_have_to_be_replaced_is_named_in_one_place() {
    only_in("shared", "bincode", |path| path == Path::new("shared/src/wire/codec.rs"));
    for folder in ["api", "executor", "vault-agent"] {
        only_in(folder, "bincode", |_| false);
    }
    only_in("shared", "rustix", |path| path.ends_with("wire/fds.rs") || path.ends_with("shared/src/harden.rs"));
    only_in("executor", "rusqlite", |path| path.starts_with("executor/src/store"));
    only_in("executor", "serde_yaml", |path| path.starts_with("executor/src/yaml") || path.ends_with("src/yaml.rs"));
    only_in("api", "serde_yaml", |_| false);
    let files = rust("vault-agent/src");
    let yaml: Vec<_> = files.iter().filter(|file| code(file).iter().any(|line| names(line, "serde_yaml"))).collect();
    assert!(yaml.len() <= 1, "the agent names serde_yaml in {} files", yaml.len());
}

#[test]
fn the_spawner_names_nothing_but_what_it_may() {
    let allowed = ["std", "core", "shared", "rustix", "seccompiler", "landlock", "libc", "crate", "super", "self"];
    let mut files = rust("executor/src/spawner");
    files.extend(rust("executor/src/bin").into_iter().filter(|file| file.path.ends_with("ductile-spawner.rs")));
    let modules: Vec<String> =
        files.iter().filter_map(|file| Some(file.path.file_stem()?.to_str()?.to_owned())).collect();
    for file in &files {
        for line in code(file) {
            let Some(path) = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use ")) else { continue };
            let first = path.split([':', ';', ' ']).next().unwrap_or_default();
            assert!(
                allowed.contains(&first) || modules.iter().any(|module| module == first),
                "{} uses {first}",
                file.path.display()
            );
        }
    }
}

/// Names `word` in code only where `may` says so; tests beside the code count too.
fn only_in(folder: &str, word: &str, may: impl Fn(&Path) -> bool) {
    for file in rust(folder) {
        if may(&file.path) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim();
            assert!(
                line.starts_with("//") || !names(line, word),
                "{}:{} names {word}",
                file.path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn every_request_stands_in_the_protocols_document() {
    let path = paths::sources().join("docs/ipc.md");
    let document = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (file, enumeration) in [
        ("shared/src/wire/gateway.rs", "Request"),
        ("shared/src/wire/vault.rs", "Request"),
        ("shared/src/wire/spawner.rs", "Request"),
        ("shared/src/wire/spawner.rs", "Reply"),
    ] {
        let text = std::fs::read_to_string(paths::sources().join(file)).expect("a file of the protocol");
        let variants = variants(&text, enumeration);
        assert!(variants.len() >= 3, "{file}: {enumeration} was not understood");
        for variant in variants {
            assert!(document.contains(&format!("`{variant}`")), "docs/ipc.md does not name `{variant}` of {file}");
        }
    }
}

/// The variants of an enum as rustfmt lays it out: one level in, beginning with a capital.
fn variants(text: &str, name: &str) -> Vec<String> {
    let head = format!("pub enum {name} {{");
    let body = text.lines().skip_while(|line| *line != head).skip(1).take_while(|line| *line != "}");
    body.filter_map(|line| {
        let variant = line.strip_prefix("    ")?;
        let end = variant.find(|c: char| !c.is_alphanumeric()).unwrap_or(variant.len());
        variant.starts_with(char::is_uppercase).then(|| variant[..end].to_owned())
    })
    .collect()
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let mut paths_of_this_machine = vec![paths::sources().to_owned(), paths::profile()];
    paths_of_this_machine.extend(std::env::var_os("CARGO_HOME").map(Into::into));
    for file in sources(".") {
        for path in &paths_of_this_machine {
            let path = path.display().to_string();
            assert!(!file.text.contains(&path), "{} names {path}", file.path.display());
        }
    }
}

#[test]
fn every_process_begins_with_what_it_owns_and_must_never_do() {
    for folder in ["shared/src", "api/src", "executor/src", "vault-agent/src", "tests/src"] {
        for file in rust(folder) {
            let is_tests = file.path.file_name().is_some_and(|name| name == "tests.rs");
            assert!(is_tests || file.text.starts_with("//!"), "{} does not open with //!", file.path.display());
        }
    }
}
