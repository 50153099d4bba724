//! `ductile vault list`: what the vault holds, without values (`spec/vault.md` 5.2).

use serde::Serialize;
use shared::exit;
use shared::wire::vault::{Issue, PrincipalEntry, Reply, Request, SecretEntry};

use super::admin::Admin;
use crate::cli::args::Args;
use crate::cli::output::{self, Failure, Outcome};

#[derive(Serialize)]
struct Shown<'a> {
    secrets: Vec<ShownSecret<'a>>,
    principals: Vec<ShownPrincipal<'a>>,
    issues: Vec<ShownIssue<'a>>,
}

#[derive(Serialize)]
struct ShownPrincipal<'a> {
    name: &'a str,
    kind: &'a str,
    status: &'a str,
}

#[derive(Serialize)]
struct ShownIssue<'a> {
    kind: &'a str,
    target: &'a str,
    detail: &'a str,
}

/// The names of the document (`spec/vault.md` 1.1).
#[derive(Serialize)]
struct ShownSecret<'a> {
    name: &'a str,
    status: &'a str,
    pattern: &'a str,
    scope: &'a str,
    roll_count: u64,
    authorized_principals: &'a [String],
    created_at: &'a str,
    updated_at: &'a str,
}

impl<'a> From<&'a SecretEntry> for ShownSecret<'a> {
    fn from(entry: &'a SecretEntry) -> Self {
        Self {
            name: &entry.name,
            status: &entry.status,
            pattern: &entry.pattern,
            scope: &entry.scope,
            roll_count: entry.roll_count,
            authorized_principals: &entry.principals,
            created_at: &entry.created_at,
            updated_at: &entry.updated_at,
        }
    }
}

impl<'a> From<&'a PrincipalEntry> for ShownPrincipal<'a> {
    fn from(entry: &'a PrincipalEntry) -> Self {
        Self { name: &entry.name, kind: &entry.kind, status: &entry.status }
    }
}

impl<'a> From<&'a Issue> for ShownIssue<'a> {
    fn from(issue: &'a Issue) -> Self {
        Self { kind: &issue.kind, target: &issue.target, detail: &issue.detail }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let reply = Admin::new("list", args)?.ask(|token| Request::List { token })?;
    let Reply::Listing { secrets, principals, issues } = reply else {
        return Err(Failure::new("vault list: list failed: the agent answered something else"));
    };
    if args.wants_json() {
        output::json(&Shown {
            secrets: secrets.iter().map(ShownSecret::from).collect(),
            principals: principals.iter().map(ShownPrincipal::from).collect(),
            issues: issues.iter().map(ShownIssue::from).collect(),
        });
        return Ok(exit::OK);
    }
    let rows: Vec<Vec<String>> = if args.switch("principals") {
        let head = ["NAME", "KIND", "STATUS"].map(str::to_owned).to_vec();
        let rows = principals.iter().map(|one| vec![one.name.clone(), one.kind.clone(), one.status.clone()]);
        std::iter::once(head).chain(rows).collect()
    } else {
        let head = ["NAME", "STATUS", "PATTERN", "SCOPE", "ROLLS", "PRINCIPALS"].map(str::to_owned).to_vec();
        let rows = secrets.iter().map(|one| {
            let grants = if one.principals.is_empty() { "-".to_owned() } else { one.principals.join(",") };
            let rolls = one.roll_count.to_string();
            vec![one.name.clone(), one.status.clone(), one.pattern.clone(), one.scope.clone(), rolls, grants]
        });
        std::iter::once(head).chain(rows).collect()
    };
    output::result(&output::table(&rows));
    for issue in &issues {
        output::notice(&format!("WARN: {} {}: {}", issue.kind, issue.target, issue.detail));
    }
    Ok(exit::OK)
}
