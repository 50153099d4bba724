//! The bytes of every message, as they were when the protocol number was given. A change here is
//! a change of the protocol: it raises `PROTOCOL`, or it is a mistake.

mod framing;
mod gateway;
mod hello;
mod launch;
mod spawner;
mod vault;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::wire::codec::{decode, encode};

const LIMIT: usize = 64 * 1024;

/// One message and its bytes in hex.
type Sample<T> = (T, &'static str);

/// Holds one enum's samples against their golden bytes, and knows from the decoder itself how many
/// variants there are: each must have a sample.
fn check<T: Serialize + DeserializeOwned>(samples: &[Sample<T>]) {
    let mut variants = std::collections::BTreeSet::new();
    for (message, golden) in samples {
        let bytes = encode(message);
        assert_eq!(hex(&bytes), *golden, "encoding of variant {}", bytes[0]);
        let back: T = decode::<T, LIMIT>(&bytes).expect("what we encode can be decoded");
        assert_eq!(encode(&back), bytes, "variant {} does not survive the round trip", bytes[0]);
        hostile::<T>(&bytes);
        variants.insert(bytes[0]);
    }
    let count = u8::try_from(variants.len()).expect("fewer than 251 variants");
    assert_eq!(variants, (0..count).collect(), "variants without a sample");
    let Err(error) = decode::<T, LIMIT>(&[count]) else { panic!("variant {count} has no sample") };
    let expected = format!("0 <= i < {count}");
    assert!(error.to_string().contains(&expected), "there are variants without a sample: {error}");
}

/// Bytes cut short anywhere, followed by more, or with any one of them changed: an error or
/// another valid message, never a panic, and never a message out of a cut one.
fn hostile<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    for end in 0..bytes.len() {
        assert!(decode::<T, LIMIT>(&bytes[..end]).is_err(), "decoded although cut at {end}: {}", hex(bytes));
    }
    let longer = [bytes, &[0]].concat();
    assert!(decode::<T, LIMIT>(&longer).is_err(), "decoded with a byte too many");
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff] {
            let mut changed = bytes.to_vec();
            changed[at] = value;
            if let Ok(message) = decode::<T, LIMIT>(&changed) {
                encode(&message);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ids for samples.
fn id<T: TryFrom<String>>(text: &str) -> T {
    T::try_from(text.to_owned()).ok().expect("a sample's id is valid")
}
