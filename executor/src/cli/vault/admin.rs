//! One question to the running agent, with the admin token.

use std::path::PathBuf;
use std::time::Duration;

use shared::secret::Secret;
use shared::wire::vault::{Reply, Request};

use super::{AgentClient, refusal, token};
use crate::cli::args::Args;
use crate::cli::output::Failure;
use crate::cli::{client, instance};

/// What a verb needs before it can ask: a token, and where to ask.
pub(super) struct Admin {
    verb: &'static str,
    token: Secret,
    places: Vec<PathBuf>,
    instance: Option<String>,
}

impl Admin {
    /// Reads the flags that all these verbs share; nothing is connected yet.
    ///
    /// # Errors
    /// The refusals of `spec/vault.md` 4, client side.
    pub(super) fn new(verb: &'static str, args: &Args) -> Result<Self, Failure> {
        let command = format!("vault {verb}");
        let named =
            args.text("api-url")?.map(|url| socket_of(url).map_err(|text| Failure::new(format!("{command}: {text}"))));
        let named = named.transpose()?;
        let Some(token) = token::given(&command, args)? else {
            let text = "vault admin token required (--token or DUCTILE_VAULT_TOKEN)";
            return Err(Failure::new(format!("{command}: {text}")));
        };
        // A path of its own may belong to any instance, unless one is named too.
        let is_configured = args.path("config").or(args.path("config-dir")).is_some();
        let loaded = if named.is_none() || is_configured { instance::optional(args)? } else { None };
        let places = named.map_or_else(|| instance::places(client::VAULT_ADMIN, loaded.as_ref()), |path| vec![path]);
        Ok(Self { verb, token, places, instance: loaded.map(|loaded| instance::vault_identity(&loaded.config)) })
    }

    /// Asks, and takes `Done` or a listing for an answer.
    ///
    /// # Errors
    /// The refusal as `<verb> failed: <text>`, or why nothing could be asked.
    pub(super) fn ask(self, request: impl FnOnce(Secret) -> Request) -> Result<Reply, Failure> {
        let command = format!("vault {}", self.verb);
        let mut client =
            AgentClient::connect(&self.places, self.instance).map_err(|error| Failure::because(&command, &error))?;
        match client.ask(request(self.token), &[], Duration::ZERO) {
            Ok(reply @ (Reply::Done | Reply::Listing { .. })) => Ok(reply),
            Ok(reply) => Err(Failure::because(&format!("{command}: {} failed", self.verb), &refusal(reply))),
            Err(error) => Err(Failure::because(&format!("{command}: {} failed", self.verb), &error)),
        }
    }
}

/// The path in `--api-url`.
fn socket_of(url: &str) -> Result<PathBuf, &'static str> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err("managed only over the vault agent socket: use ductile vault");
    }
    match url.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        Some(_) => Err("unix:// requires a socket path: unix:///absolute/path/of/vault-admin.sock"),
        None => Err("--api-url is unix:///PATH, the path of vault-admin.sock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_is_an_api_url() {
        let check = |url: &str, expected: Result<&str, &str>| match (socket_of(url), expected) {
            (Ok(path), Ok(expected)) => assert_eq!(path, PathBuf::from(expected)),
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (found, _) => panic!("{url}: {found:?}"),
        };
        check("unix:///run/a.sock", Ok("/run/a.sock"));
        check("unix://", Err("requires a socket path"));
        check("unix://a.sock", Err("requires a socket path"));
        check("http://localhost:8080", Err("managed only over the vault agent socket: use ductile vault"));
        check("https://x", Err("managed only over the vault agent socket: use ductile vault"));
        check("/run/a.sock", Err("unix:///PATH"));
    }
}
