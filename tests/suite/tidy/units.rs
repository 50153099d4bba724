//! The units as they are installed, held against the manager's own checker and the tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tests::command::{command, run_with};
use tests::paths;
use tests::scratch::Scratch;

/// Name, descriptor's name, address, owner, service.
const SOCKETS: [(&str, &str, &str, &str, &str); 7] = [
    ("ductile-api", "api", "127.0.0.1:8081", "", "ductile-api"),
    ("ductile-webhooks", "webhooks", "127.0.0.1:8091", "", "ductile-api"),
    ("ductile-executor", "executor", "executor.sock", "ductile-api", "ductile-executor"),
    ("ductile-executor-admin", "executor-admin", "executor-admin.sock", "root", "ductile-executor"),
    ("ductile-vault-agent", "vault-admin", "vault-admin.sock", "root", "ductile-vault-agent"),
    ("ductile-vault-executor", "vault-executor", "vault-executor.sock", "ductile", "ductile-vault-agent"),
    ("ductile-vault-spawner", "vault-spawner", "vault-spawner.sock", "ductile-spawner", "ductile-vault-agent"),
];

const SERVICES: [&str; 3] = ["ductile-vault-agent", "ductile-executor", "ductile-api"];

#[test]
fn the_manager_finds_nothing_to_say_about_the_units() {
    for (variant, arguments) in [("system", ["--system"]), ("user", ["--user"])] {
        let scratch = Scratch::new();
        let units = rendered(variant, scratch.path());
        let output = run_with(
            command("systemd-analyze")
                .args(arguments)
                .arg("verify")
                .args(&units)
                .env("XDG_RUNTIME_DIR", scratch.path()),
            b"",
        );
        // It exits 0 on unknown keys and bad values: any word of it is a failure.
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{variant}:\n{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn the_services_stay_below_their_exposure() {
    let scratch = Scratch::new();
    rendered("system", scratch.path());
    for (service, threshold) in [("ductile-vault-agent", "10"), ("ductile-api", "15"), ("ductile-executor", "42")] {
        let output = run_with(
            command("systemd-analyze")
                .args(["security", "--offline=true", "--no-pager", &format!("--threshold={threshold}")])
                .arg(scratch.path().join(format!("{service}.service"))),
            b"",
        );
        assert!(output.status.success(), "{service}:\n{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_sockets_are_those_of_the_table() {
    for variant in ["system", "user"] {
        let folder = paths::sources().join("systemd").join(variant);
        let present: Vec<_> = fs::read_dir(&folder)
            .expect("a folder of units")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".socket"))
            .collect();
        assert_eq!(present.len(), SOCKETS.len(), "{variant}: {present:?}");
        for (name, descriptor, address, owner, service) in SOCKETS {
            let unit = Unit::read(&folder.join(format!("{name}.socket")));
            let is_path = address.ends_with(".sock");
            let address = match (is_path, variant) {
                (true, "system") => format!("/run/ductile/{address}"),
                (true, _) => format!("%t/ductile/{address}"),
                (false, _) => address.to_owned(),
            };
            unit.has("ListenStream", &[&address]);
            unit.has("FileDescriptorName", &[descriptor]);
            unit.has("Service", &[&format!("{service}.service")]);
            unit.has("Accept", &["no"]);
            unit.has("WantedBy", &["sockets.target"]);
            unit.has("PartOf", &["ductile.target"]);
            let (mode, folder): (&[_], &[_]) = if is_path { (&["0600"], &["0755"]) } else { (&[], &[]) };
            unit.has("SocketMode", mode);
            unit.has("DirectoryMode", folder);
            let owner: &[_] = if is_path && variant == "system" { &[owner] } else { &[] };
            unit.has("SocketUser", owner);
        }
    }
}

#[test]
fn every_service_has_what_all_must_have() {
    let everywhere = [
        ("Type", "notify"),
        ("Restart", "always"),
        ("RestartSec", "100ms"),
        ("RestartPreventExitStatus", "78"),
        ("StartLimitIntervalSec", "0"),
        ("TimeoutStopSec", "45"),
        ("LimitCORE", "1"),
        ("UMask", "0077"),
        ("PartOf", "ductile.target"),
    ];
    let system = [
        ("KeyringMode", "private"),
        ("LockPersonality", "yes"),
        ("NoNewPrivileges", "yes"),
        ("PrivateMounts", "yes"),
        ("PrivateTmp", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectHostname", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectSystem", "strict"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("SystemCallArchitectures", "native"),
    ];
    let front_and_agent = [
        ("AmbientCapabilities", ""),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("PrivateDevices", "yes"),
        ("ProtectControlGroups", "yes"),
        ("ProtectHome", "yes"),
        ("ProtectProc", "invisible"),
    ];
    for variant in ["system", "user"] {
        for service in SERVICES {
            let unit = Unit::read(&paths::sources().join(format!("systemd/{variant}/{service}.service")));
            let holds = |wanted: &[(&str, &str)]| wanted.iter().for_each(|(key, value)| unit.has(key, &[value]));
            holds(&everywhere);
            assert!(unit.0.contains_key("WatchdogSec"), "{service} has no watchdog");
            assert!(!unit.0.contains_key("BindsTo"), "{service} is bound to another");
            if variant == "system" {
                holds(&system);
                if service == "ductile-executor" {
                    holds(&[
                        ("AmbientCapabilities", "CAP_SETUID CAP_SETGID CAP_KILL CAP_SETPCAP"),
                        ("CapabilityBoundingSet", "CAP_SETUID CAP_SETGID CAP_KILL CAP_SETPCAP"),
                        ("Delegate", "yes"),
                        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
                        ("User", "ductile"),
                    ]);
                    unit.has("ProtectControlGroups", &[]);
                    unit.has("MemoryDenyWriteExecute", &[]);
                } else {
                    holds(&front_and_agent);
                }
            }
        }
        let text =
            |file: &str| fs::read_to_string(paths::sources().join("systemd").join(file)).expect("a shipped file");
        assert!(text("user/ductile-api.service").contains("%t/ductile/executor.sock"));
        let users: Vec<_> =
            text("sysusers.conf").lines().filter(|line| line.starts_with("u ")).map(str::to_owned).collect();
        assert_eq!(users.len(), 5);
        assert!(users.iter().all(|line| line.split_whitespace().nth(2) == Some("-")), "an id is fixed: {users:?}");
    }
}

/// The units of a variant with the programs' folder filled in.
fn rendered(variant: &str, into: &Path) -> Vec<PathBuf> {
    let binaries = paths::binaries().display().to_string();
    let folder = paths::sources().join("systemd").join(variant);
    let mut units = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of units") {
        let entry = entry.expect("an entry of a directory");
        let text = fs::read_to_string(entry.path()).expect("a unit");
        let path = into.join(entry.file_name());
        fs::write(&path, text.replace("@BINDIR@", &binaries)).expect("write the unit");
        units.push(path);
    }
    units.sort();
    units
}

/// Keys and their values, of all sections together.
struct Unit(BTreeMap<String, Vec<String>>, PathBuf);

impl Unit {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once('=') {
                keys.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Self(keys, path.to_owned())
    }

    fn has(&self, key: &str, values: &[&str]) {
        let found = self.0.get(key).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(found, values, "{} of {}", key, self.1.display());
    }
}
