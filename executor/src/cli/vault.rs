//! `ductile vault` (`spec/cli.md` 7): the key-touching verbs run the vault agent's one-shot form,
//! the others ask the running agent on `vault-admin.sock` with the admin token. Values come from
//! stdin alone; success is told on stderr.

mod admin;
mod list;
mod token;

use std::ffi::OsStr;
use std::path::Path;

use shared::exit;
use shared::wire::frame::AGENT_MAX;
use shared::wire::vault::{Reply, Request};

use super::args::{Args, Flag, Shape};
use super::client::ClientError;
use super::launch::{Programs, User};
use super::output::{self, Failure, Outcome};
use super::{Action, Help, Noun, client, instance};
use admin::Admin;

pub(super) use token::{VARIABLE as TOKEN_VARIABLE, given as given_token};

/// A connection to the running agent.
pub(super) type AgentClient = client::Client<AGENT_MAX>;

const API_URL: Flag = Flag::value("api-url", "unix:///PATH", "Another path of vault-admin.sock");
const TOKEN_FILE: Flag = Flag::value("token-file", "FILE", "File with the admin token, mode 0600");
const TOKEN: Flag = Flag::value("token", "TOKEN", "The admin token itself; others can see it, prefer --token-file");
const NAME: Flag = Flag::value("name", "NAME", "Name of the secret or principal");
const VAULT: Flag = Flag::value("vault", "FILE", "The vault");
const KEY: Flag = Flag::value("key", "FILE", "The age identity that opens it");

pub(super) static NOUN: Noun = Noun {
    name: "vault",
    actions: &[
        Action {
            name: "init",
            usage: "--vault FILE --key FILE",
            about: "Make a new vault and print its admin token, once",
            shape: Shape { flags: &[VAULT, KEY], positionals: 0 },
            run: init,
        },
        Action {
            name: "set",
            usage: "--name NAME [--pattern manual|auto] [--principal A,B] [--scope plugin|gateway] < VALUE",
            about: "Create a secret from stdin, or change its grants",
            shape: Shape {
                flags: &[
                    NAME,
                    Flag::value("pattern", "PATTERN", "manual (you give values) or auto (the vault mints them)"),
                    Flag::value("principal", "A,B", "Who may receive it; an empty list clears the grants"),
                    Flag::value("scope", "SCOPE", "plugin or gateway"),
                    TOKEN_FILE,
                    TOKEN,
                    API_URL,
                    VAULT,
                    KEY,
                ],
                positionals: 0,
            },
            run: set,
        },
        Action {
            name: "get",
            usage: "--name NAME",
            about: "Print one value, with the key",
            shape: Shape { flags: &[NAME], positionals: 0 },
            run: get,
        },
        Action {
            name: "list",
            usage: "[--principals] [--json]",
            about: "Secrets and principals, without values",
            shape: Shape {
                flags: &[
                    Flag::switch("principals", "Show principals in the place of secrets"),
                    Flag::switch("json", "Answer as JSON"),
                    TOKEN_FILE,
                    TOKEN,
                    API_URL,
                ],
                positionals: 0,
            },
            run: list::run,
        },
        Action {
            name: "register-principal",
            usage: "--name NAME [--kind plugin|consumer|gateway]",
            about: "Register an identity that secrets can be granted to",
            shape: Shape {
                flags: &[
                    NAME,
                    Flag::value("kind", "KIND", "plugin (default), consumer or gateway"),
                    TOKEN_FILE,
                    TOKEN,
                    API_URL,
                ],
                positionals: 0,
            },
            run: register_principal,
        },
        Action {
            name: "revoke-principal",
            usage: "--name NAME",
            about: "Deny a principal every secret from now on",
            shape: Shape { flags: &[NAME, TOKEN_FILE, TOKEN, API_URL], positionals: 0 },
            run: revoke_principal,
        },
    ],
    help: Help::Table { flags: true },
    absent: &[],
    footer: "",
};

fn init(args: &Args) -> Outcome {
    let (Some(vault), Some(key)) = (args.path("vault"), args.path("key")) else {
        return Err(Failure::new("vault init: --vault and --key are required"));
    };
    run_agent("vault init", "init", vault, &[("--vault", vault.as_os_str()), ("--key", key.as_os_str())])
}

fn get(args: &Args) -> Outcome {
    let name = named("get", args)?;
    let loaded = instance::required(args)?;
    let keyed = instance::key(&loaded.config).map_err(|text| Failure::new(format!("vault get: {text}")))?;
    let arguments =
        [("--vault", keyed.vault.as_os_str()), ("--key", keyed.key.as_os_str()), ("--name", OsStr::new(name))];
    run_agent_beside("vault get", "get", &keyed.vault, Some(&loaded.config.dir), &arguments)
}

fn set(args: &Args) -> Outcome {
    let (vault, key) = (args.path("vault"), args.path("key"));
    if vault.is_none() && key.is_none() {
        return set_running(args);
    }
    if args.os("api-url").is_some() {
        let text = "vault set: choose one mode — offline (--vault + --key) OR daemon (--api-url), not both";
        return Err(Failure::new(text));
    }
    let (Some(vault), Some(key)) = (vault, key) else {
        return Err(Failure::new(
            "vault set: offline mode requires BOTH --vault and --key (the daemon must be stopped)",
        ));
    };
    let name = named("set", args)?;
    let mut arguments = vec![("--vault", vault.as_os_str()), ("--key", key.as_os_str()), ("--name", OsStr::new(name))];
    for (flag, option) in [("pattern", "--pattern"), ("principal", "--principal"), ("scope", "--scope")] {
        arguments.extend(args.os(flag).map(|value| (option, value)));
    }
    run_agent("vault set", "set", vault, &arguments)
}

fn set_running(args: &Args) -> Outcome {
    let name = named("set", args)?;
    let principals = args.text("principal")?.map(list_of);
    let (pattern, scope) = (args.text("pattern")?, args.text("scope")?);
    let admin = Admin::new("set", args)?;
    let value = token::value_from_stdin().map_err(|text| Failure::new(format!("vault set: {text}")))?;
    admin.ask(|token| Request::SetSecret {
        token,
        name: name.to_owned(),
        value,
        pattern: pattern.map(str::to_owned),
        principals,
        scope: scope.map(str::to_owned),
    })?;
    output::notice(&format!("Set secret {name:?} via the daemon."));
    Ok(exit::OK)
}

fn register_principal(args: &Args) -> Outcome {
    let name = named("register-principal", args)?;
    let kind = args.text("kind")?.unwrap_or("plugin");
    let admin = Admin::new("register-principal", args)?;
    admin.ask(|token| Request::RegisterPrincipal { token, name: name.to_owned(), kind: kind.to_owned() })?;
    output::notice(&format!("Registered principal {name:?} (kind {kind})."));
    Ok(exit::OK)
}

fn revoke_principal(args: &Args) -> Outcome {
    let name = named("revoke-principal", args)?;
    let admin = Admin::new("revoke-principal", args)?;
    admin.ask(|token| Request::RevokePrincipal { token, name: name.to_owned() })?;
    output::notice(&format!("Revoked principal {name:?}."));
    Ok(exit::OK)
}

fn named<'a>(verb: &str, args: &'a Args) -> Result<&'a str, Failure> {
    let name = args.text("name")?.filter(|name| !name.is_empty());
    name.ok_or_else(|| Failure::new(format!("vault {verb}: --name is required")))
}

/// `a,b` as a list; an empty text is the empty list.
fn list_of(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Runs a verb of the one-shot agent, as the owner of `file`'s directory when root asks.
pub(super) fn run_agent(command: &str, verb: &str, file: &Path, options: &[(&str, &OsStr)]) -> Outcome {
    run_agent_beside(command, verb, file, None, options)
}

/// The same, with the group of the configuration's directory.
fn run_agent_beside(
    command: &str,
    verb: &str,
    file: &Path,
    config_dir: Option<&Path>,
    options: &[(&str, &OsStr)],
) -> Outcome {
    let failed = |error| Failure::because(command, &error);
    let programs = Programs::beside_own().map_err(failed)?;
    let user = User::owning(file, config_dir).map_err(failed)?;
    let mut arguments = vec![OsStr::new(verb)];
    for (option, value) in options {
        arguments.extend([OsStr::new(option), value]);
    }
    programs.run_agent(user, &arguments).map_err(failed)
}

/// What the agent answered instead of what was asked for.
fn refusal(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused(refusal) => ClientError::Refused(refusal),
        _ => ClientError::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_a_list_and_an_empty_text_an_empty_one() {
        let check = |text: &str, expected: &[&str]| assert_eq!(list_of(text), expected, "{text:?}");
        check("", &[]);
        check(" , ", &[]);
        check("a", &["a"]);
        check(" a ,b,", &["a", "b"]);
    }
}
