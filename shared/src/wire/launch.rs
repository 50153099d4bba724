//! A parent's line to a child that it starts with `--line`: a SEQPACKET pair, the child's stdin.
//! One message a packet, at most `LINE_MAX` bytes.
//!
//! The parent sends `Start`, the child answers `Ready` or `Failed`. End of file on the line means
//! that the parent is gone: the child stops in good order.

use serde::{Deserialize, Serialize};

/// The role, the instance, and in the message the descriptors in the order given here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// `ductile-vault-agent`: the executor's line (stream), the spawner's line (stream), the
    /// listener of `vault-admin.sock`.
    Agent { instance: String },
    /// `ductile-executor`: the front's line (stream), the listener of `executor-admin.sock`, its
    /// line to the agent (stream), and the spawner's line to the agent, which it hands on.
    Executor { instance: String },
    /// `ductile-api`: its line to the executor (stream).
    Front { instance: String },
    /// A one-shot agent for `plugin lock`: no descriptor; after `Ready` the same line carries
    /// `wire::vault` envelopes, one a packet.
    OneShot,
}

/// The child's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Started {
    Ready,
    /// The whole text for stderr, as the chapters have it.
    Failed {
        text: String,
    },
}

/// What a program answers to `--launcher-version` of a launcher that is not of its own version:
/// the text of its refusal, naming both (design, section 2).
///
/// # Errors
/// The refusal.
pub fn check_launcher(program: &str, launcher: &str) -> Result<(), String> {
    if launcher == crate::VERSION {
        return Ok(());
    }
    let own = crate::VERSION;
    Err(format!("{program} is version {own}, the launcher is version {launcher}: install all five programs together"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_launcher_is_refused_by_name() {
        assert_eq!(check_launcher("ductile-api", crate::VERSION), Ok(()));
        let text = check_launcher("ductile-api", "9.9.9").expect_err("another version");
        assert!(text.contains("ductile-api is version") && text.contains("9.9.9"), "{text}");
    }
}
