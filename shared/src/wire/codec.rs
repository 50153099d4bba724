//! Bytes of a message: the only file that names bincode, so that replacing it is one change.
//! Integers are variable-length little-endian, enums carry the index of their variant.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no message of the kind expected, or one that claims more than its limit.
#[derive(Debug)]
pub struct DecodeError(String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for DecodeError {}

/// Encodes a message of ours.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard())
        .expect("our own message types have no map, float or length that bincode refuses")
}

/// Decodes exactly one message; `LIMIT` bounds in bytes what its lengths may claim.
///
/// # Errors
/// `DecodeError` for an unknown variant, a length over the limit, bytes cut short, bytes left
/// over, text that is not UTF-8, or an id that is not valid.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (message, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| DecodeError(error.to_string()))?;
    if used == bytes.len() {
        Ok(message)
    } else {
        Err(DecodeError(format!("{} bytes after the message", bytes.len() - used)))
    }
}
