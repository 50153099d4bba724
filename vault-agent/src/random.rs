//! Randomness from the kernel: minted values and ids.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};
use shared::time::Timestamp;
use zeroize::Zeroizing;

/// `N` random bytes, at most 256.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let got = getrandom(&mut out, GetRandomFlags::empty()).expect("the kernel's generator is ready after boot");
    assert_eq!(got, N, "getrandom gives up to 256 bytes whole");
    out
}

/// A minted value: 32 random bytes as 43 characters.
pub(crate) fn mint() -> Zeroizing<String> {
    Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(Zeroizing::new(bytes::<32>()).as_slice()))
}

/// A UUIDv7.
pub(crate) fn uuid(now: Timestamp) -> String {
    let mut id: [u8; 16] = bytes();
    let millis = u64::try_from(now.unix_nanos() / 1_000_000).unwrap_or(0).to_be_bytes();
    id[..6].copy_from_slice(&millis[2..]);
    id[6] = 0x70 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    let hex = hex(&id);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(b"0123456789abcdef"[usize::from(n)])).collect()
}

/// Bytes of lower-case hex, exactly `N` of them.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_values_are_43_characters_and_differ() {
        let (a, b) = (mint(), mint());
        assert_eq!(a.len(), 43);
        assert_ne!(*a, *b);
    }

    #[test]
    fn ids_have_the_shape_of_a_uuid_v7() {
        let id = uuid(Timestamp::from_unix_nanos(1_700_000_000_000_000_000));
        assert_eq!(id.len(), 36);
        assert!(id.starts_with("018bcfe5-6800-7"), "{id}");
    }

    #[test]
    fn hex_goes_both_ways_and_refuses_the_rest() {
        assert_eq!(from_hex::<2>(&hex(&[0, 255])), Some([0, 255]));
        for text in ["", "00f", "00fg", "00FF", "00ff00"] {
            assert_eq!(from_hex::<2>(text), None, "{text}");
        }
    }
}
