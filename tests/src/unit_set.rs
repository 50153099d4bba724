//! Ductile as its unit set, under a real systemd manager that runs beside the machine's own.
//!
//! A test that wants one runs itself again inside `tests/with-systemd.sh`, whose root is a
//! throw-away overlay of the machine's: what it installs there as root is gone with it.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use crate::command::{command, run_with, succeed};
use crate::scratch::Scratch;
use crate::site::{PATIENCE, Setup, Site};
use crate::{paths, procs, wait};

/// The three services.
pub const SERVICES: [&str; 3] = ["ductile-vault-agent", "ductile-executor", "ductile-api"];

/// The unit set, installed and started.
#[derive(Debug)]
pub struct UnitSet {
    site: Site,
}

/// Runs `body` under a systemd of its own. `test` is the test's full name, as `--exact` takes it;
/// it must contain `under_systemd`, by which the runner knows to run it alone.
///
/// # Panics
/// When the manager does not come up, or the test fails inside.
pub fn under_systemd(test: &str, body: impl FnOnce()) {
    assert!(test.contains("under_systemd"), "{test} is to contain under_systemd");
    if is_inside() {
        body();
        return;
    }
    let printed = again_under_systemd(&["--exact", test, "--nocapture", "--test-threads=1"]);
    // A name that fits no test runs none, and succeeds.
    assert!(printed.contains("1 passed"), "{test} did not run inside:\n{printed}");
}

/// Runs this program once more with these arguments, inside, where `is_inside`; gives what it
/// printed.
///
/// # Panics
/// When the manager does not come up, or the program fails.
pub fn again_under_systemd(arguments: &[&str]) -> String {
    let no_units = Scratch::new();
    let this = std::env::current_exe().expect("the running program has a path");
    let mut outer = command(paths::sources().join("tests/with-systemd.sh"));
    outer
        .arg(no_units.path())
        .arg("--")
        .arg(&this)
        .args(arguments)
        .current_dir(paths::sources())
        .env("WITH_SYSTEMD_BIND", paths::profile());
    let Output { status, stdout, stderr } = run_with(&mut outer, b"");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "inside: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Whether this is the run inside.
pub fn is_inside() -> bool {
    std::env::var_os("WITH_SYSTEMD").is_some()
}

impl Setup {
    /// Installs programs, units, users, directories and the shipped configuration as `make
    /// install` does, with this setup's plugins; makes key, vault and locks; starts nothing.
    ///
    /// # Panics
    /// When any step is refused, or outside `under_systemd`.
    pub fn install_units(&self) -> UnitSet {
        assert!(is_inside(), "only under_systemd may install the unit set");
        succeed(
            command(paths::sources().join("systemd/install.sh"))
                .env("BINS", paths::binaries())
                .env("PREFIX", "/usr/local"),
        );
        let config = PathBuf::from("/etc/ductile");
        let api = fs::read_to_string(config.join("api.yaml")).expect("read the shipped api.yaml");
        let token = api.lines().find_map(|line| line.trim().strip_prefix("- token: ")).expect("a token in api.yaml");
        let site = Site {
            programs: PathBuf::from("/usr/local/bin"),
            database: PathBuf::from("/var/lib/ductile/ductile.db"),
            plugin_root: PathBuf::from("/opt/ductile/plugins"),
            vault: PathBuf::from("/var/lib/ductile-vault/vault.age"),
            key: PathBuf::from("/var/lib/ductile-vault/age.key"),
            address: "127.0.0.1:8081".parse().expect("the address that is shipped"),
            token: token.trim_matches('"').to_owned(),
            admin_token_file: PathBuf::from("/root/ductile-admin.token"),
            config,
        };
        // Written over, not replaced: owner and mode stay those of the installation.
        fs::write(site.config.join("plugins.yaml"), self.plugins_yaml()).expect("write plugins.yaml");
        if !self.service.is_empty() {
            let path = site.config.join("config.yaml");
            let text = fs::read_to_string(&path).expect("read the shipped config.yaml");
            let service: String = self.service.lines().map(|line| format!("  {line}\n")).collect();
            fs::write(&path, text.replacen("service:\n", &format!("service:\n{service}"), 1)).expect("write it");
        }
        let unit_set = UnitSet { site };
        unit_set.install_plugins(self);
        unit_set.make_vault();
        unit_set.lock();
        unit_set
    }

    /// Installs and starts the unit set, with all secrets in the vault.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_units(self) -> UnitSet {
        let unit_set = self.install_units();
        unit_set.start();
        unit_set.grant(&self.secrets);
        unit_set
    }
}

impl UnitSet {
    /// Starts the target and waits until all three services are ready and `/healthz` says ok.
    ///
    /// # Panics
    /// When they do not become so.
    pub fn start(&self) {
        self.systemctl(&["start", "ductile.target"]);
        wait::until_true("the unit set to serve", PATIENCE, || SERVICES.iter().all(|unit| is_active(unit)));
        wait::until_true("the unit set to be healthy", PATIENCE, || self.is_healthy());
    }

    /// From the start of the target to the first `ok` of `/healthz`; then everything is stopped.
    ///
    /// # Panics
    /// When it does not come up, or does not stop.
    pub fn time_to_ready(&self) -> Duration {
        let start = Instant::now();
        self.systemctl(&["start", "ductile.target"]);
        while !self.is_healthy() {
            assert!(start.elapsed() < PATIENCE, "the unit set does not come up");
            std::thread::yield_now();
        }
        let took = start.elapsed();
        self.systemctl(&["stop", "ductile.target", "ductile-*"]);
        took
    }

    /// Runs systemctl and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        succeed(command("systemctl").args(arguments))
    }

    /// The pid of a program of the set; `None` while it does not run.
    pub fn pid_now(&self, program: &str) -> Option<u32> {
        if program == "ductile-spawner" {
            let executor = self.pid_now("ductile-executor")?;
            let is_spawner = |pid: &u32| procs::name(*pid).as_deref() == Some("ductile-spawner");
            return procs::children(executor).into_iter().find(is_spawner);
        }
        let pid = show(program, "MainPID").parse().ok()?;
        (pid != 0).then_some(pid)
    }

    /// The pid of a program of the set, waiting until it runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn pid(&self, program: &str) -> u32 {
        wait::until(&format!("{program} to run"), PATIENCE, || self.pid_now(program))
    }

    /// What the set logged so far.
    pub fn log(&self) -> String {
        succeed(command("journalctl").args(["--no-pager", "-o", "cat", "-u", "ductile-*"]))
    }

    /// Everything in the journal, whoever wrote it.
    pub fn journal(&self) -> String {
        succeed(command("journalctl").args(["--no-pager", "-a", "-o", "export"]))
    }
}

impl Deref for UnitSet {
    type Target = Site;
    fn deref(&self) -> &Site {
        &self.site
    }
}

/// A property of a unit.
pub fn show(unit: &str, property: &str) -> String {
    let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    succeed(command("systemctl").args(["show", "-P", property, &unit])).trim().to_owned()
}

/// Whether a service is started and ready.
pub fn is_active(service: &str) -> bool {
    show(service, "ActiveState") == "active"
}

/// uid and gid of a user of this machine.
///
/// # Panics
/// When there is none of that name.
pub fn user(name: &str) -> (u32, u32) {
    let passwd = fs::read_to_string(Path::new("/etc/passwd")).expect("read the users");
    let entry = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut fields = entry.unwrap_or_else(|| panic!("no user {name}")).split(':').skip(1);
    let mut id = || fields.next().and_then(|text| text.parse().ok()).expect("an id in the list of users");
    (id(), id())
}
