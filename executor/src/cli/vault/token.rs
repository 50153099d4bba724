//! Where the admin token and values come from: a private file, the environment or stdin. Each is
//! kept in memory that is wiped.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shared::secret::Secret;
use shared::wire::vault::INLINE_MAX;

use crate::cli::args::Args;
use crate::cli::output::{self, Failure};

/// The environment variable with the admin token; no program that the CLI starts gets it.
pub(in crate::cli) const VARIABLE: &str = "DUCTILE_VAULT_TOKEN";

/// Longer than any token.
const TOKEN_MAX: usize = 4096;

/// The admin token as given to a command, else from the environment; `None` when there is none.
///
/// # Errors
/// A file that can not be read, or that others may read too.
pub(in crate::cli) fn given(command: &str, args: &Args) -> Result<Option<Secret>, Failure> {
    if let Some(path) = args.path("token-file") {
        let token = from_file(path).map_err(|text| Failure::new(format!("{command}: {text}")))?;
        return Ok(Some(token).filter(|token| !token.is_empty()));
    }
    if let Some(token) = args.text("token")? {
        output::notice("warning: --token can be read by other users in the list of processes; prefer --token-file");
        return Ok(Some(trimmed(token.as_bytes())).filter(|token| !token.is_empty()));
    }
    let variable = std::env::var_os(VARIABLE).map(|value| trimmed(value.as_encoded_bytes()));
    Ok(variable.filter(|token| !token.is_empty()))
}

fn from_file(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("open {shown}: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("look at {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!("{shown} can be read by others (mode {:04o}): chmod 600 it", metadata.mode() & 0o7777));
    }
    match read_to_limit(file, TOKEN_MAX).map_err(|error| format!("read {shown}: {error}"))? {
        Some(bytes) => Ok(trimmed(bytes.expose())),
        None => Err(format!("{shown} is longer than any admin token")),
    }
}

/// The value of a secret: stdin to its end, without the line ends after it.
///
/// # Errors
/// A text for stderr, when it can not be read or is longer than any value may be.
pub(super) fn value_from_stdin() -> Result<Secret, String> {
    let stdin =
        File::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).map_err(|error| format!("read stdin: {error}"))?);
    match read_to_limit(stdin, INLINE_MAX).map_err(|error| format!("read stdin: {error}"))? {
        Some(bytes) => Ok(trimmed(bytes.expose())),
        None => Err(format!("the value is longer than {INLINE_MAX} bytes")),
    }
}

/// All of a stream into one buffer that never grows, so that no copy stays behind; `None` when it
/// is longer than `limit`.
fn read_to_limit(mut stream: impl Read, limit: usize) -> io::Result<Option<Secret>> {
    let mut buffer = vec![0; limit + 1];
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                drop(Secret::new(buffer));
                return Err(error);
            }
        }
    }
    buffer.truncate(length);
    let read = Secret::new(buffer);
    Ok(Some(read).filter(|_| length <= limit))
}

fn trimmed(bytes: &[u8]) -> Secret {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    Secret::new(bytes[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::scratch::Scratch;

    #[test]
    fn only_line_ends_after_a_value_are_taken_off() {
        let check = |given: &str, expected: &str| assert_eq!(trimmed(given.as_bytes()).expose(), expected.as_bytes());
        check("", "");
        check("\r\n\n", "");
        check("a\nb\r\n\r\n", "a\nb");
        check(" a \n", " a ");
    }

    #[test]
    fn a_stream_is_read_whole_or_not_at_all() {
        let check = |given: &str, expected: Option<&str>| {
            let read = read_to_limit(given.as_bytes(), 4).expect("no error");
            assert_eq!(read.as_ref().map(Secret::expose), expected.map(str::as_bytes));
        };
        check("", Some(""));
        check("1234", Some("1234"));
        check("12345", None);
    }

    #[test]
    fn a_token_file_is_private_and_small() {
        let scratch = Scratch::new("token");
        let path = scratch.join("token");
        let check = |content: &str, mode: u32, expected: Result<&str, &str>| {
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            match (from_file(&path), expected) {
                (Ok(token), Ok(expected)) => assert_eq!(token.expose(), expected.as_bytes()),
                (Err(text), Err(part)) => assert!(text.contains(part) && !text.contains("hunter2"), "{text}"),
                (read, expected) => panic!("{read:?} instead of {expected:?}"),
            }
        };
        check("hunter2\n", 0o600, Ok("hunter2"));
        check("hunter2", 0o640, Err("mode 0640"));
        check("hunter2", 0o604, Err("chmod 600"));
        check(&"x".repeat(TOKEN_MAX + 1), 0o600, Err("longer"));
        std::fs::remove_file(&path).expect("removed");
        assert!(from_file(&path).is_err() && from_file(Path::new("/")).is_err());
    }
}
