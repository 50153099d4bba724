//! What the executor told of the configuration, made ready for requests.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use shared::log::{Level, push_json_text};
use shared::wire::gateway::{Command, FrontConfig, Plugin, Posture};

use crate::auth::Tokens;

/// One configuration; a request keeps the one that it began with.
pub(crate) struct Config {
    listen: Option<String>,
    pub(crate) posture: Posture,
    pub(crate) max_body: usize,
    pub(crate) max_wait: Duration,
    pub(crate) tokens: Tokens,
    pub(crate) log_level: Level,
    /// The answer of `GET /plugins`.
    pub(crate) plugins_body: Bytes,
    origins: Vec<HeaderValue>,
    /// By name.
    plugins: Vec<Plugin>,
}

impl Config {
    /// An origin that is no header value, or a log level without meaning, is passed over: the
    /// executor has checked both.
    pub(crate) fn new(told: FrontConfig) -> Self {
        let mut plugins = told.plugins;
        plugins.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            listen: told.listen,
            posture: told.posture,
            max_body: usize::try_from(told.max_body).unwrap_or(usize::MAX),
            max_wait: told.max_wait.as_duration(),
            tokens: Tokens::new(told.token_key, told.tokens),
            log_level: Level::parse(&told.log_level).unwrap_or(Level::Info),
            plugins_body: render(&plugins).into(),
            origins: told.allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(),
            plugins,
        }
    }

    /// `api.listen`, while the API is enabled.
    pub(crate) fn address(&self) -> Option<&str> {
        self.listen.as_deref().filter(|_| self.posture != Posture::Closed)
    }

    /// A plugin that can be triggered: known, configured and enabled.
    pub(crate) fn usable(&self, name: &str) -> Option<&Plugin> {
        let at = self.plugins.binary_search_by(|plugin| plugin.name.as_str().cmp(name)).ok()?;
        self.plugins.get(at).filter(|plugin| plugin.usable)
    }

    /// The origin as it is answered, when it is one of `api.allowed_origins`.
    pub(crate) fn origin(&self, origin: &HeaderValue) -> Option<&HeaderValue> {
        self.origins.iter().find(|allowed| *allowed == origin)
    }
}

/// A command of a plugin by its name.
pub(crate) fn command<'a>(plugin: &'a Plugin, name: &str) -> Option<&'a Command> {
    plugin.commands.iter().find(|command| command.name.as_str() == name)
}

fn render(plugins: &[Plugin]) -> String {
    let mut out = String::from("{\"plugins\":[");
    for (at, plugin) in plugins.iter().enumerate() {
        out.push_str(if at == 0 { "{\"name\":" } else { ",{\"name\":" });
        push_json_text(&mut out, plugin.name.as_str());
        out.push_str(",\"version\":");
        push_json_text(&mut out, &plugin.version);
        if !plugin.description.is_empty() {
            out.push_str(",\"description\":");
            push_json_text(&mut out, &plugin.description);
        }
        out.push_str(",\"commands\":[");
        for (at, command) in plugin.commands.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            push_json_text(&mut out, command.name.as_str());
        }
        out.push_str("]}");
    }
    out.push_str("]}");
    out
}

#[cfg(test)]
mod tests {
    use shared::id::{CommandName, PluginName};

    use super::*;

    fn plugin(name: &str, description: &str, commands: &[&str], usable: bool) -> Plugin {
        Plugin {
            name: PluginName::parse(name).expect("a name"),
            version: "1.0.0".to_owned(),
            description: description.to_owned(),
            commands: commands
                .iter()
                .map(|name| Command { name: CommandName::parse(name).expect("a name"), writes: false })
                .collect(),
            usable,
        }
    }

    #[test]
    fn the_list_has_what_the_chapter_says() {
        assert_eq!(render(&[]), "{\"plugins\":[]}");
        assert_eq!(
            render(&[plugin("a\"b", "", &[], true), plugin("echo", "Says it\nback", &["poll", "handle"], true)]),
            "{\"plugins\":[{\"name\":\"a\\\"b\",\"version\":\"1.0.0\",\"commands\":[]},\
             {\"name\":\"echo\",\"version\":\"1.0.0\",\"description\":\"Says it\\nback\",\"commands\":[\"poll\",\"handle\"]}]}"
        );
    }
}
