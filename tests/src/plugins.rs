//! The suite's own plugins, compiled: a job then costs little, and tests need no interpreter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command;
use crate::paths;

/// Puts the plugin `name` of `tests/plugins/` below `root`, in a directory of its own.
///
/// # Panics
/// When it can not be compiled or put there.
pub fn install(name: &str, root: &Path) {
    let source = paths::sources().join("tests/plugins").join(name);
    let target = root.join(name);
    make_dir(&target);
    fs::copy(source.join("manifest.yaml"), target.join("manifest.yaml")).expect("copy the manifest");
    let compiled = compile(name, &source.join(format!("{name}.c")));
    fs::copy(&compiled, target.join(name)).expect("copy the entrypoint");
    for (file, mode) in [("manifest.yaml", 0o644), (name, 0o755)] {
        fs::set_permissions(target.join(file), fs::Permissions::from_mode(mode)).expect("set the mode");
    }
}

/// A directory that others can read, whatever the umask.
///
/// # Panics
/// When it can not be made.
pub fn make_dir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set the mode");
}

/// Compiles once and keeps the result beside the programs; a newer source is compiled again.
fn compile(name: &str, source: &Path) -> PathBuf {
    let folder = paths::profile().join("test-plugins");
    fs::create_dir_all(&folder).expect("make a folder for compiled plugins");
    let compiled = folder.join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let shared = paths::sources().join("tests/plugins/beside.h");
    if modified(&compiled) > modified(source).max(modified(&shared)) {
        return compiled;
    }
    // By rename: tests, and threads of one, run beside each other and must never see half a program.
    static COMPILED: AtomicU64 = AtomicU64::new(0);
    let number = COMPILED.fetch_add(1, Ordering::Relaxed);
    let fresh = folder.join(format!("{name}.{}.{number}", std::process::id()));
    command::succeed(command::command("cc").args(["-O2", "-static", "-Wall", "-Werror", "-o"]).arg(&fresh).arg(source));
    fs::rename(&fresh, &compiled).expect("put the program in place");
    compiled
}
