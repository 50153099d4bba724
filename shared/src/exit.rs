//! Exit codes of all five programs (`spec/cli.md` 1.3).

/// The work was done.
pub const OK: i32 = 0;
/// Any failure: usage, load, I/O, a failed check, a service whose part died.
pub const FAILURE: i32 = 1;
/// Valid, but with warnings; only commands that say so.
pub const WARNINGS: i32 = 2;
/// A service of the unit set refuses its start for configuration or a gate; its unit does not
/// start it again (`spec/operations.md` 16.2).
pub const REFUSED: i32 = 78;
