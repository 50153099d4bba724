//! Rules about the code itself, which no compiler checks.

mod crates;
mod sources;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

use tests::paths;

/// One file of ours: its path from the root, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

/// All text files below a folder of the sources, without what is built or fetched.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&paths::sources().join(folder), &mut found);
    found.sort_by(|a: &Source, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of a directory").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                collect(&path, found);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(paths::sources()).expect("below the root").to_owned();
            found.push(Source { path, text });
        }
    }
}

fn rust(folder: &str) -> Vec<Source> {
    sources(folder).into_iter().filter(|source| source.path.extension().is_some_and(|kind| kind == "rs")).collect()
}

/// The lines that count as code: not blank, no comment, and nothing of the tests at the foot.
fn code(source: &Source) -> Vec<&str> {
    if source.path.file_name().is_some_and(|name| name == "tests.rs")
        || source.path.components().any(|c| c.as_os_str() == "tests")
    {
        return Vec::new();
    }
    let mut lines = source.text.lines().map(str::trim).peekable();
    let mut code = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{')) {
            break;
        }
        if !line.is_empty() && !line.starts_with("//") {
            code.push(line);
        }
    }
    code
}

/// Whether a line holds `word` as a word of its own, outside of a comment behind the code.
fn names(line: &str, word: &str) -> bool {
    let line = line.split(" // ").next().unwrap_or(line);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

#[test]
fn lines_are_counted_as_the_budgets_mean_it() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let text = "//! Doc.\n\nfn a() {\n    // Why.\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    assert_eq!(code(&source("x/src/a.rs", text)), ["fn a() {", "b();", "}"]);
    assert_eq!(code(&source("x/src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n")).len(), 3);
    assert!(code(&source("x/src/tests.rs", text)).is_empty());
    assert!(names("unsafe { x }", "unsafe") && !names("#![forbid(unsafe_code)]", "unsafe"));
    assert!(!names("x(); // nothing unsafe", "unsafe"));
}
