//! Where the programs and the sources are.

use std::path::{Path, PathBuf};

/// The five programs.
pub const PROGRAMS: [&str; 5] =
    ["ductile", "ductile-api", "ductile-executor", "ductile-spawner", "ductile-vault-agent"];

/// The folder of the built programs, found from the running program's own path: `target/PROFILE`.
///
/// # Panics
/// When a program is missing: cargo does not build another package's binaries for a test.
pub fn binaries() -> PathBuf {
    let folder = profile();
    for program in PROGRAMS {
        assert!(
            folder.join(program).exists(),
            "{program} is not in {}: run `cargo build --workspace` first (`make test` does)",
            folder.display()
        );
    }
    folder
}

/// `target/PROFILE`, where also the harness keeps what it builds.
///
/// # Panics
/// When this is no test started by cargo.
pub fn profile() -> PathBuf {
    let this = std::env::current_exe().expect("the running program has a path");
    let folder = this.parent().expect("a program lies in a folder");
    // A test lies in target/PROFILE/deps, a program in target/PROFILE.
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

/// The root of the sources.
///
/// # Panics
/// Never: the tests' package lies below it.
pub fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' package lies below the root")
}
