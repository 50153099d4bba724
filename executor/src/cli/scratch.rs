//! A directory of a test's own, gone when its owner is.

use std::path::{Path, PathBuf};

pub(in crate::cli) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::cli) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ductile-{name}-{}", std::process::id()));
        // What an earlier process of the same number left when it was killed.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a fresh directory can be made");
        Self(path)
    }

    pub(in crate::cli) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
