//! Names and places of Ductile's sockets (design, section 2), and users by name.

use std::path::{Path, PathBuf};

pub const EXECUTOR_ADMIN: &str = "executor-admin.sock";
pub const VAULT_ADMIN: &str = "vault-admin.sock";
pub const VAULT_EXECUTOR: &str = "vault-executor.sock";
pub const VAULT_SPAWNER: &str = "vault-spawner.sock";

/// The longest path of a socket that is used, in bytes.
pub const PATH_MAX: usize = 104;

/// Where the unit set has its sockets: `$XDG_RUNTIME_DIR/ductile` under a user manager, else
/// `/run/ductile`.
pub fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new(&dir).join("ductile"),
        None => PathBuf::from("/run/ductile"),
    }
}

/// uid and gid of a user, from `/etc/passwd`, where sysusers writes (`spec/operations.md` 16.3).
pub fn user(name: &str) -> Result<(u32, u32), String> {
    let text = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .ok_or_else(|| format!("no user {name:?} in /etc/passwd"))
}
