//! Ductile in the launcher's form: `ductile system start` in a fresh directory.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::command::command;
use crate::scratch::Scratch;
use crate::site::{PATIENCE, Setup, Site};
use crate::{paths, procs, wait};

/// Configured, with its key, vault and locks, and not started.
#[derive(Debug)]
pub struct Prepared {
    site: Site,
    setup: Setup,
    scratch: Scratch,
}

/// A running launcher with its children.
#[derive(Debug)]
pub struct Instance {
    launcher: Child,
    prepared: Prepared,
    /// Everything that ever ran below the launcher, as far as it was looked at.
    seen: Vec<u32>,
}

/// How a launcher ended that was not meant to stay.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
    pub log: String,
}

impl Setup {
    /// Makes the directory, the configuration in the seed's layout, key, vault and locks.
    ///
    /// # Panics
    /// When any step is refused.
    pub fn prepare(self) -> Prepared {
        let scratch = Scratch::new();
        let root = scratch.path();
        let at = |path: &str| root.join(path);
        for folder in ["config", "data", "secrets", "plugins"] {
            fs::create_dir(at(folder)).expect("make a folder of the instance");
        }
        let site = Site {
            programs: paths::binaries(),
            config: at("config"),
            database: at("data/ductile.db"),
            plugin_root: at("plugins"),
            vault: at("config/vault.age"),
            key: at("secrets/age.key"),
            address: free_address(),
            token: random_text(),
            admin_token_file: at("secrets/admin.token"),
        };
        let prepared = Prepared { site, setup: self, scratch };
        prepared.write_config();
        prepared.site.install_plugins(&prepared.setup);
        if !prepared.setup.without_vault {
            prepared.site.make_vault();
            prepared.site.lock();
        }
        prepared
    }

    /// Prepares and starts, with all secrets in the vault.
    ///
    /// # Panics
    /// When any step is refused.
    pub fn start(self) -> Instance {
        self.prepare().start()
    }
}

impl Prepared {
    fn write_config(&self) {
        let site = &self.site;
        let mut service = format!("service:\n  max_workers: {}\n", self.setup.workers.unwrap_or(4));
        for line in self.setup.service.lines() {
            service += &format!("  {line}\n");
        }
        let secrets = if self.setup.without_vault {
            String::new()
        } else {
            format!("secrets:\n  age_key_file: {}\n", site.key.display())
        };
        let config = format!(
            "{service}state:\n  path: ./data/ductile.db\nplugin_roots:\n  - {}\n{secrets}include:\n  - api.yaml\n  - plugins.yaml\n",
            site.plugin_root.display()
        );
        let api = format!(
            "api:\n  enabled: true\n  listen: {}\n  auth:\n    tokens:\n      - token: {}\n        scopes: [\"*\"]\n{}",
            site.address,
            site.token,
            self.setup.tokens_yaml()
        );
        for (name, text) in [("config.yaml", config), ("api.yaml", api), ("plugins.yaml", self.setup.plugins_yaml())] {
            fs::write(site.config.join(name), text).expect("write the configuration");
        }
    }

    /// Starts the launcher, waits until it serves, and grants the secrets.
    ///
    /// # Panics
    /// When it does not come up, with what it printed.
    pub fn start(self) -> Instance {
        let launcher = self.spawn();
        let mut instance = Instance { launcher, prepared: self, seen: Vec::new() };
        instance.serving();
        instance.grant(&instance.prepared.setup.secrets);
        instance
    }

    /// From the start of the launcher to the first `ok` of `/healthz`; then it is stopped.
    ///
    /// # Panics
    /// When it does not come up, or does not end.
    pub fn time_to_ready(&self) -> Duration {
        let start = Instant::now();
        let mut launcher = self.spawn();
        while !self.is_healthy() {
            assert!(start.elapsed() < PATIENCE, "the launcher does not come up\n{}{}", self.stderr(), self.log());
            std::thread::yield_now();
        }
        let took = start.elapsed();
        procs::signal(launcher.id(), Signal::TERM);
        launcher.wait().expect("a child of ours can be waited for");
        took
    }

    /// Starts the launcher and waits for it to end by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn run_to_end(&self) -> Ended {
        let mut launcher = self.spawn();
        let status = wait::until("the launcher to end", PATIENCE, || {
            let ended = launcher.try_wait().expect("a child of ours can be waited for");
            // A start that was to be refused and was not must leave nothing behind.
            if ended.is_none() && self.is_healthy() {
                kill_tree(launcher.id(), &[]);
                panic!("the launcher serves, and should have refused its start");
            }
            ended
        });
        Ended { status, stderr: self.stderr(), log: self.log() }
    }

    /// What the launcher and its children logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// What they printed on stderr.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.scratch.path().join("stderr")).unwrap_or_default()
    }

    /// The directory that all of it lies in.
    pub fn root(&self) -> &std::path::Path {
        self.scratch.path()
    }

    fn spawn(&self) -> Child {
        let output = |name: &str| File::create(self.scratch.path().join(name)).expect("make a file for the output");
        command(self.site.programs.join("ductile"))
            .args(["system", "start", "--config"])
            .arg(&self.site.config)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(output("log"))
            .stderr(output("stderr"))
            .spawn()
            .expect("start the launcher")
    }
}

impl Deref for Prepared {
    type Target = Site;
    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Instance {
    /// The launcher's pid.
    pub fn launcher(&self) -> u32 {
        self.launcher.id()
    }

    /// The pid of a program, or of a plugin, below the launcher.
    pub fn pid_now(&self, program: &str) -> Option<u32> {
        self.pids(program).first().copied()
    }

    /// Those of all its processes.
    pub fn pids(&self, program: &str) -> Vec<u32> {
        // The kernel keeps 15 bytes of a name.
        let name = &program[..program.len().min(15)];
        let tree = procs::tree(self.launcher.id());
        tree.into_iter().filter(|pid| procs::name(*pid).as_deref() == Some(name)).collect()
    }

    /// The same of one that must be there.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self, program: &str) -> u32 {
        self.pid_now(program).unwrap_or_else(|| panic!("{program} does not run below the launcher"))
    }

    pub fn log(&self) -> String {
        self.prepared.log()
    }

    pub fn stderr(&self) -> String {
        self.prepared.stderr()
    }

    pub fn root(&self) -> &std::path::Path {
        self.prepared.root()
    }

    /// Waits until it serves.
    fn serving(&mut self) {
        wait::until_true("the instance to serve", PATIENCE, || {
            if let Ok(Some(status)) = self.launcher.try_wait() {
                panic!("the launcher ended with {status}\n{}{}", self.stderr(), self.log());
            }
            self.is_healthy()
        });
        self.seen.extend(procs::tree(self.launcher.id()));
    }

    /// Ends it, by a signal to one of its programs, and starts it anew after `meanwhile`.
    ///
    /// # Panics
    /// When it does not end, leaves a process, or does not come up.
    pub fn restart(&mut self, program: &str, signal: Signal, meanwhile: impl FnOnce()) {
        let pid = if program == "ductile" { self.launcher() } else { self.pid(program) };
        procs::signal(pid, signal);
        self.wait(Duration::from_secs(45), Duration::from_secs(5));
        meanwhile();
        self.launcher = self.prepared.spawn();
        self.serving();
    }

    /// Asks the launcher to stop and waits for it; then nothing of it may be left.
    ///
    /// # Panics
    /// When it does not end, or leaves a process.
    pub fn stop(mut self) -> Ended {
        procs::signal(self.launcher.id(), Signal::TERM);
        self.wait(Duration::from_secs(45), Duration::ZERO)
    }

    /// Waits for the launcher to end by itself, and looks that it leaves no process.
    ///
    /// # Panics
    /// When it does not end, or leaves a process.
    pub fn ended(mut self) -> Ended {
        self.wait(PATIENCE, Duration::from_secs(5))
    }

    /// As `ended`, and what `look` sees then, before the directory is removed.
    ///
    /// # Panics
    /// As `ended`.
    pub fn ended_keeping<T>(mut self, look: impl FnOnce() -> T) -> (Ended, T) {
        let ended = self.wait(Duration::from_secs(45), Duration::ZERO);
        (ended, look())
    }

    /// `linger`: how long its processes may go on after it.
    fn wait(&mut self, patience: Duration, linger: Duration) -> Ended {
        self.seen.extend(procs::tree(self.launcher.id()));
        let status = wait::until("the launcher to end", patience, || {
            self.launcher.try_wait().expect("a child of ours can be waited for")
        });
        let left = || self.seen.iter().filter(|pid| procs::lives(**pid)).collect::<Vec<_>>();
        let end = Instant::now() + linger;
        while !left().is_empty() && Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(left().is_empty(), "processes {:?} outlive the launcher\n{}", left(), self.log());
        Ended { status, stderr: self.stderr(), log: self.log() }
    }
}

impl Deref for Instance {
    type Target = Site;
    fn deref(&self) -> &Site {
        &self.prepared.site
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if matches!(self.launcher.try_wait(), Ok(None)) {
            kill_tree(self.launcher.id(), &self.seen);
        } else {
            kill_tree(0, &self.seen);
        }
        let _ = self.launcher.wait();
    }
}

/// Ends a launcher and all below it that is still what it was: pids of `seen` count only while
/// they bear a name of ours.
fn kill_tree(root: u32, seen: &[u32]) {
    let mut all = if root == 0 { Vec::new() } else { procs::tree(root) };
    all.extend(seen.iter().filter(|pid| procs::name(**pid).is_some_and(|name| name.starts_with("ductile"))));
    for pid in all {
        procs::signal(pid, Signal::KILL);
    }
}

/// An address that nobody listens on now. Between this and the front's own bind somebody else
/// could take it; the kernel hands the same port out again only after many others.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
    listener.local_addr().expect("a bound socket has an address")
}

/// 32 random bytes in hex.
///
/// # Panics
/// When the kernel gives none.
pub fn random_text() -> String {
    use std::io::Read;
    let mut bytes = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("read random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
