//! Who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tests::command::{command, succeed};
use tests::paths;

/// What each package may name under `[dependencies]`.
const MAY: [(&str, &[&str]); 4] = [
    ("shared", &["bincode", "rustix", "serde", "zeroize"]),
    (
        "vault-agent",
        &[
            "age",
            "base64",
            "blake3",
            "hmac",
            "interprocess",
            "libc",
            "listenfd",
            "rustix",
            "sd-notify",
            "seccompiler",
            "serde",
            "serde_json",
            "serde_yaml",
            "sha2",
            "shared",
            "subtle",
            "zeroize",
            "zeroizing-alloc",
        ],
    ),
    (
        "api",
        &[
            "axum",
            "blake3",
            "hyper",
            "hyper-util",
            "listenfd",
            "rustix",
            "sd-notify",
            "serde",
            "serde_json",
            "shared",
            "subtle",
            "tokio",
            "tokio-util",
            "tracing",
        ],
    ),
    (
        "executor",
        &[
            "blake3",
            "clap",
            "croner",
            "flate2",
            "interprocess",
            "jiff",
            "landlock",
            "libc",
            "listenfd",
            "regex",
            "rusqlite",
            "rustix",
            "sd-notify",
            "seccompiler",
            "serde",
            "serde_json",
            "serde_yaml",
            "shared",
            "tar",
            "tokio",
            "tokio-util",
            "tracing",
            "uuid",
            "zeroize",
            "zeroizing-alloc",
        ],
    ),
];

/// What must be nowhere in the agent, however far down.
const NEVER_IN_THE_AGENT: [&str; 8] =
    ["tokio", "tokio-util", "mio", "clap", "rusqlite", "libsqlite3-sys", "axum", "reqwest"];

/// Every crate that is linked into the agent, one a line.
const AGENT_CRATES: &str = include_str!("agent-crates.txt");

#[test]
fn each_package_names_only_what_it_may() {
    let packages = metadata(&["--no-deps"]);
    for (package, may) in MAY {
        let named = packages["packages"]
            .as_array()
            .expect("a list of packages")
            .iter()
            .find(|candidate| candidate["name"] == package)
            .unwrap_or_else(|| panic!("no package {package}"))["dependencies"]
            .as_array()
            .expect("a list of dependencies");
        for dependency in named.iter().filter(|dependency| dependency["kind"].is_null()) {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str()).expect("a name");
            assert!(may.contains(&name), "{package} depends on {name}: see docs/CONTRIBUTING.md before it may");
        }
    }
}

#[test]
fn the_agent_links_nothing_that_was_not_looked_at() {
    let linked = closure(&metadata(&[]), "vault-agent");
    for name in NEVER_IN_THE_AGENT {
        assert!(!linked.contains(name), "the agent links {name}");
    }
    let known: BTreeSet<&str> = AGENT_CRATES.lines().collect();
    let fresh: Vec<_> = linked.iter().filter(|name| !known.contains(name.as_str())).collect();
    let gone: Vec<_> = known.iter().filter(|name| !linked.contains(**name)).collect();
    assert!(
        fresh.is_empty() && gone.is_empty(),
        "the agent's crates changed; new: {fresh:?}, gone: {gone:?}. Look at them, then write them into \
         tests/suite/tidy/agent-crates.txt"
    );
}

#[test]
fn the_three_services_do_not_know_each_other() {
    let metadata = metadata(&[]);
    for package in ["api", "executor", "vault-agent"] {
        let linked = closure(&metadata, package);
        for other in ["api", "executor", "vault-agent", "tests"] {
            assert!(other == package || !linked.contains(other), "{package} links {other}");
        }
    }
    for name in ["rusqlite", "age", "serde_yaml", "yaml_serde"] {
        assert!(!closure(&metadata, "api").contains(name), "api links {name}");
    }
    for name in ["age", "axum"] {
        assert!(!closure(&metadata, "executor").contains(name), "executor links {name}");
    }
}

fn metadata(more: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let text = succeed(
        command(cargo)
            .args(["metadata", "--offline", "--locked", "--format-version", "1"])
            .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
            .args(more)
            .current_dir(paths::sources()),
    );
    serde_json::from_str(&text).expect("cargo's own JSON")
}

/// The names of all crates that a package links, itself included: normal dependencies of normal
/// dependencies, with the features that a build of the whole workspace unifies.
fn closure(metadata: &Value, package: &str) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let names: BTreeMap<String, String> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let procedural: BTreeSet<String> = list(&metadata["packages"])
        .iter()
        .filter(|package| {
            list(&package["targets"]).iter().any(|target| list(&target["kind"]).contains(&"proc-macro".into()))
        })
        .map(|package| text(&package["id"]))
        .collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let start = names.iter().find(|(_, name)| *name == package).expect("the package is in the workspace").0.clone();
    let mut todo = vec![start];
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        // A procedural macro runs in the compiler; nothing of it is linked.
        if procedural.contains(&id) || !seen.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                todo.push(text(&dependency["pkg"]));
            }
        }
    }
    seen.iter().map(|id| names[id].clone()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text in cargo's JSON").to_owned()
}
