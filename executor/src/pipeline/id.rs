//! Ids of what a job's events make. They follow from the job's own id, never from a clock, chance
//! or the attempt: routing that runs again after a crash, or after a retry, names the same rows,
//! and the store finds them there.

use shared::time::Timestamp;
use uuid::{Uuid, Variant};

/// What an id is for; its name keeps equal inputs of two kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Event,
    Instance,
    Root,
    Context,
    Job,
}

impl Kind {
    /// Never changed: an id that was stored must come out again.
    fn domain(self) -> &'static str {
        match self {
            Self::Event => "ductile pipeline event id v1",
            Self::Instance => "ductile pipeline instance id v1",
            Self::Root => "ductile pipeline root context id v1",
            Self::Context => "ductile pipeline context id v1",
            Self::Job => "ductile pipeline job id v1",
        }
    }
}

/// A UUIDv7 that follows from `parent` and `parts`. It keeps the parent's time; `else_at` stands in
/// for parents that are no UUIDv7 and so must itself be the same each time.
pub(super) fn derive(kind: Kind, parent: &str, parts: &[&str], else_at: Timestamp) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(kind.domain());
    for part in std::iter::once(&parent).chain(parts) {
        // With its length in front, no text can pass for a part's end.
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes[..6].copy_from_slice(&time_of(parent).unwrap_or_else(|| prefix(else_at)));
    uuid::Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(Variant::RFC4122)
        .into_uuid()
        .to_string()
}

fn time_of(parent: &str) -> Option<[u8; 6]> {
    let parent = Uuid::parse_str(parent).ok()?;
    let is_v7 = parent.get_version_num() == 7 && parent.get_variant() == Variant::RFC4122;
    let [a, b, c, d, e, f, ..] = parent.into_bytes();
    is_v7.then_some([a, b, c, d, e, f])
}

/// Milliseconds since 1970, in 48 bits.
fn prefix(at: Timestamp) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = (at.unix_nanos().max(0) / 1_000_000).to_be_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "0198c2f1-7a3b-7def-8123-456789abcdef";

    fn at() -> Timestamp {
        Timestamp::from_unix_nanos(1_780_650_000_123_456_789)
    }

    #[test]
    fn ids_are_uuids_of_version_7_with_the_parents_time() {
        for (parent, time) in [
            (PARENT, "0198c2f1-7a3b"),
            ("42", "019e9702-befb"),
            ("7d444840-9dc0-41d1-b245-5ffdce74fad2", "019e9702-befb"),
        ] {
            let text = derive(Kind::Event, parent, &["0"], at());
            let id = Uuid::parse_str(&text).expect("a UUID");
            assert_eq!((id.get_version_num(), id.get_variant()), (7, Variant::RFC4122), "{text}");
            assert_eq!(&text[..13], time);
        }
    }

    /// A changed text here would make second children of jobs that are already stored.
    #[test]
    fn ids_stay_what_they_are() {
        assert_eq!(derive(Kind::Event, PARENT, &["0"], at()), "0198c2f1-7a3b-75eb-8d62-4cf2c3e99113");
        assert_eq!(
            derive(Kind::Job, PARENT, &["instance", "pipeline", "step"], at()),
            "0198c2f1-7a3b-75c2-90b4-d1d6bf9aea19"
        );
    }

    #[test]
    fn every_kind_and_every_cut_of_the_parts_gives_another_id() {
        let mut ids: Vec<String> = [Kind::Event, Kind::Instance, Kind::Root, Kind::Context, Kind::Job]
            .into_iter()
            .flat_map(|kind| {
                [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""]].map(|parts| derive(kind, PARENT, parts, at()))
            })
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 20);
    }
}
