//! Test support: a directory of the test's own, removed at its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh directory, its path resolved, so that no component of it is a symlink.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let name = format!("ductile-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let base = fs::canonicalize(std::env::temp_dir()).expect("a temporary directory");
        let path = base.join(name);
        fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        if relative.is_empty() { self.0.clone() } else { self.0.join(relative) }
    }

    /// Writes a file, its directories too.
    pub(crate) fn file(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("inside the directory")).expect("directories");
        fs::write(&path, text).expect("written");
        path
    }

    /// A plugin directory that passes every check.
    pub(crate) fn plugin(&self, relative: &str, manifest: &str) -> PathBuf {
        self.file(&format!("{relative}/manifest.yaml"), manifest);
        let entrypoint = self.file(&format!("{relative}/run.sh"), "#!/bin/sh\n");
        set_mode(&entrypoint, 0o755);
        self.path(relative)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
}
