//! One configured Ductile, however it is started: its directories, its command line, its API.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::command::{command, run_with};
use crate::event_stream::EventStream;
use crate::http::{self, Response};
use crate::{plugins, wait};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a test wants configured; reads as a sentence:
/// `Setup::new().plugin("tiny").secret("canary_key", VALUE, &["canary"]).start()`.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub(crate) plugins: Vec<(String, String)>,
    pub(crate) secrets: Vec<Granted>,
    pub(crate) service: String,
    pub(crate) workers: Option<usize>,
    pub(crate) without_vault: bool,
    pub(crate) tokens: Vec<(String, Vec<String>)>,
    pub(crate) pipelines: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) principals: Vec<String>,
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    /// A plugin of `tests/plugins/`, enabled, with one attempt.
    #[must_use]
    pub fn plugin(self, name: &str) -> Self {
        self.plugin_with(name, "")
    }

    /// The same, with more keys of its stanza: YAML lines without indentation.
    #[must_use]
    pub fn plugin_with(mut self, name: &str, keys: &str) -> Self {
        self.plugins.push((name.to_owned(), keys.to_owned()));
        self
    }

    /// A secret of the vault, granted to principals, which are registered.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str, principals: &[&str]) -> Self {
        let principals = principals.iter().map(|name| (*name).to_owned()).collect();
        self.secrets.push(Granted { name: name.to_owned(), value: value.to_owned(), principals });
        self
    }

    /// `service.max_workers`, in the place of 4.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// More keys of `service:`, YAML lines without indentation.
    #[must_use]
    pub fn service(mut self, keys: &str) -> Self {
        self.service.push_str(keys);
        self.service.push('\n');
        self
    }

    /// One more API token, besides the site's own.
    #[must_use]
    pub fn token(mut self, token: &str, scopes: &[&str]) -> Self {
        self.tokens.push((token.to_owned(), scopes.iter().map(|&scope| scope.to_owned()).collect()));
        self
    }

    /// The entries of `pipelines:`, YAML lines without indentation.
    #[must_use]
    pub fn pipelines(mut self, entries: &str) -> Self {
        self.pipelines = entries.to_owned();
        self
    }

    /// No key, no vault, no lock.
    #[must_use]
    pub fn without_vault(mut self) -> Self {
        self.without_vault = true;
        self
    }

    /// The entries of `api.auth.tokens` besides the site's own.
    pub(crate) fn tokens_yaml(&self) -> String {
        let mut text = String::new();
        for (token, scopes) in &self.tokens {
            let _ = writeln!(text, "      - token: {token}\n        scopes: {scopes:?}");
        }
        text
    }

    /// The plugins' half of the configuration.
    pub(crate) fn plugins_yaml(&self) -> String {
        let mut text = String::from("plugins:\n");
        for (name, keys) in &self.plugins {
            let _ = writeln!(text, "  {name}:\n    enabled: true");
            if !keys.contains("retry:") {
                text.push_str("    retry: { max_attempts: 1 }\n");
            }
            for line in keys.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        if !self.pipelines.is_empty() {
            text.push_str("pipelines:\n");
            for line in self.pipelines.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

/// A configured Ductile.
#[derive(Debug)]
pub struct Site {
    /// Where the five programs are.
    pub programs: PathBuf,
    /// The directory of `config.yaml`.
    pub config: PathBuf,
    pub database: PathBuf,
    pub plugin_root: PathBuf,
    pub vault: PathBuf,
    pub key: PathBuf,
    pub address: SocketAddr,
    /// The API's bearer token, with all scopes.
    pub token: String,
    /// A file, 0600, with the vault's admin token.
    pub admin_token_file: PathBuf,
}

impl Site {
    /// Runs `ductile` with arguments and input to its end.
    ///
    /// # Panics
    /// When it can not be started.
    pub fn cli(&self, arguments: &[&str], input: &[u8]) -> Output {
        run_with(command(self.programs.join("ductile")).args(arguments), input)
    }

    /// The same, with `--config`, and gives stdout.
    ///
    /// # Panics
    /// When it does not exit 0, with what it printed.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> String {
        succeeded(arguments, &self.configured(arguments, input))
    }

    /// The same, and gives the exit code, stdout and stderr.
    ///
    /// # Panics
    /// When it can not be started.
    pub fn told(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.configured(arguments, b"");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Runs a command that must be refused with this text alone.
    ///
    /// # Panics
    /// When it is not.
    pub fn refuses(&self, arguments: &[&str], text: &str) {
        assert_eq!(self.told(arguments), (Some(1), String::new(), format!("{text}\n")), "{arguments:?}");
    }

    fn configured(&self, arguments: &[&str], input: &[u8]) -> Output {
        let config = self.config.display().to_string();
        self.cli(&[arguments, &["--config", &config]].concat(), input)
    }

    /// A fresh key and a fresh vault; keeps the admin token.
    ///
    /// # Panics
    /// When either is refused.
    pub fn make_vault(&self) {
        let (key, vault) = (self.key.display().to_string(), self.vault.display().to_string());
        let keygen = ["secrets", "keygen", "--out", &key];
        succeeded(&keygen, &self.cli(&keygen, b""));
        let init = ["vault", "init", "--vault", &vault, "--key", &key];
        let token = succeeded(&init, &self.cli(&init, b""));
        write_private(&self.admin_token_file, token.trim().as_bytes());
    }

    /// Seals the configuration and attests all plugins.
    ///
    /// # Panics
    /// When either is refused.
    pub fn lock(&self) {
        self.run(&["config", "lock"], b"");
        let preview = self.run(&["plugin", "lock", "--all"], b"");
        if let Some(code) =
            preview.trim_end().lines().last().and_then(|line| line.trim().strip_prefix("ductile plugin lock --all "))
        {
            self.run(&["plugin", "lock", "--all", code], b"");
        }
    }

    /// An online verb of `ductile vault`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn vault(&self, arguments: &[&str], input: &[u8]) -> String {
        let token = self.admin_token_file.display().to_string();
        self.run(&[&["vault"], arguments, &["--token-file", &token]].concat(), input)
    }

    /// Registers principals and sets secrets through the running agent.
    ///
    /// # Panics
    /// When any is refused.
    pub(crate) fn grant(&self, secrets: &[Granted]) {
        let mut principals: Vec<&String> = secrets.iter().flat_map(|secret| &secret.principals).collect();
        principals.sort_unstable();
        principals.dedup();
        for principal in principals {
            self.vault(&["register-principal", "--name", principal], b"");
        }
        for secret in secrets {
            let principals = secret.principals.join(",");
            let arguments = ["set", "--name", &secret.name, "--principal", &principals];
            self.vault(&arguments, secret.value.as_bytes());
        }
    }

    /// A request with the site's own token.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Response {
        self.request_as(&self.token, method, path, body)
    }

    /// The same with another token.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn request_as(&self, token: &str, method: &str, path: &str, body: &str) -> Response {
        let bearer = format!("Bearer {token}");
        let body = (!body.is_empty()).then_some(body.as_bytes());
        http::request(self.address, method, path, &[("authorization", &bearer)], body)
    }

    /// Triggers a job with a payload (JSON text; empty for none) and gives its id.
    ///
    /// # Panics
    /// When it is not accepted.
    pub fn trigger(&self, plugin: &str, command: &str, payload: &str) -> String {
        let body = if payload.is_empty() { String::new() } else { format!("{{\"payload\":{payload}}}") };
        let response = self.request("POST", &format!("/plugin/{plugin}/{command}"), &body);
        assert_eq!(response.status, 202, "{}", response.body);
        json(&response)["job_id"].as_str().expect("a job id").to_owned()
    }

    /// A job as the API shows it.
    ///
    /// # Panics
    /// When it is unknown.
    pub fn job(&self, id: &str) -> Value {
        let response = self.request("GET", &format!("/job/{id}"), "");
        assert_eq!(response.status, 200, "{}", response.body);
        json(&response)
    }

    /// Waits until a job has ended and shows it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finished(&self, id: &str) -> Value {
        wait::until(&format!("the end of job {id}"), PATIENCE, || {
            let job = self.job(id);
            is_terminal(job["status"].as_str().unwrap_or_default()).then_some(job)
        })
    }

    /// Triggers a job and waits for its end.
    ///
    /// # Panics
    /// When it is not accepted or does not end.
    pub fn run_job(&self, plugin: &str, payload: &str) -> Value {
        let id = self.trigger(plugin, "poll", payload);
        self.finished(&id)
    }

    /// What the ledger holds as a job's last error.
    ///
    /// # Panics
    /// When the ledger can not be read or has no such job.
    pub fn last_error(&self, id: &str) -> String {
        self.ledger()
            .query_row("SELECT coalesce(last_error, '') FROM job_queue WHERE id = ?1", [id], |row| row.get(0))
            .expect("the job stands in the ledger")
    }

    /// The database, opened read-only.
    ///
    /// # Panics
    /// When it can not be opened.
    pub fn ledger(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = rusqlite::Connection::open_with_flags(&self.database, flags).expect("open the ledger");
        ledger.busy_timeout(PATIENCE).expect("set the time-out");
        ledger
    }

    /// The one number of a query over the ledger.
    ///
    /// # Panics
    /// When it gives none.
    pub fn count(&self, query: &str) -> i64 {
        self.ledger().query_row(query, [], |row| row.get(0)).expect("a count")
    }

    /// The stream of events from behind one, with the site's own token.
    ///
    /// # Panics
    /// When it is refused.
    pub fn events(&self, after: Option<u64>) -> EventStream {
        let bearer = format!("Bearer {}", self.token);
        let after = after.map(|id| id.to_string());
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(after.iter().map(|id| ("Last-Event-ID", id.as_str())));
        EventStream::open(self.address, "/events", &headers).unwrap_or_else(|response| panic!("{response:?}"))
    }

    /// Lets every run of the plugin `holder` end.
    ///
    /// # Panics
    /// When it can not be told.
    pub fn release_holders(&self) {
        fs::write(self.plugin_root.join("holder/release"), "").expect("release the plugin");
    }

    /// Database, its side files, vault and journal: what lies on the disk.
    pub fn files(&self) -> Vec<PathBuf> {
        let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let database = ["", "-wal", "-shm"].map(|suffix| beside(&self.database, suffix));
        let vault = ["", ".audit"].map(|suffix| beside(&self.vault, suffix));
        database.into_iter().chain(vault).filter(|path| path.exists()).collect()
    }

    /// Whether `/healthz` says ok. No connection, or one that ends early, is an ordinary no.
    pub fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Changes one byte of a plugin's entrypoint, in its padding at the end.
    ///
    /// # Panics
    /// When the file can not be written.
    pub fn tamper(&self, plugin: &str) {
        let path = self.plugin_root.join(plugin).join(plugin);
        let mut bytes = fs::read(&path).expect("read the entrypoint");
        bytes.push(b'\n');
        // By rename: a program that runs can not be written to.
        let fresh = path.with_extension("new");
        fs::write(&fresh, bytes).expect("write the entrypoint");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("set the mode");
        fs::rename(&fresh, &path).expect("put the entrypoint in place");
    }

    /// Puts the plugins of a setup below the plugin root.
    pub(crate) fn install_plugins(&self, setup: &Setup) {
        for (name, _) in &setup.plugins {
            if crate::paths::sources().join("tests/plugins").join(name).join(format!("{name}.c")).exists() {
                plugins::install(name, &self.plugin_root);
            }
        }
    }
}

/// The body of an answer.
///
/// # Panics
/// When it is no JSON.
pub fn json(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.body))
}

/// Whether a status never changes again.
pub fn is_terminal(status: &str) -> bool {
    shared::wire::gateway::JobStatus::parse(status).is_some_and(|status| status.is_terminal())
}

/// Writes a file that only its owner can read, from its first moment on.
///
/// # Panics
/// When it exists or can not be written.
pub fn write_private(path: &Path, bytes: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn succeeded(arguments: &[&str], output: &Output) -> String {
    assert!(
        output.status.success(),
        "ductile {} ended with {}\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
