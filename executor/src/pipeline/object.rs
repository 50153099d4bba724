//! JSON objects as text: looked into at their top alone, and added to without touching what they
//! hold, so that numbers keep their digits and keys their order.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use shared::log::push_json_text;

/// A key and its value as JSON text.
pub type Member<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Whether valid JSON text is an object.
pub fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The keys at the top of an object with their values, in order.
///
/// # Errors
/// What is no JSON object.
pub fn members(text: &str) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut text = serde_json::Deserializer::from_str(text);
    let members = text.deserialize_map(Members)?;
    text.end().map(|()| members)
}

/// Appends an object that has these members, whose keys are different ones.
pub fn push(out: &mut String, members: &[Member<'_>]) {
    out.push('{');
    push_members(out, members, true);
    out.push('}');
}

/// Appends an object as it is, and behind what it holds those of `members` whose key it lacks.
///
/// # Errors
/// What is no JSON object; `out` then ends anywhere.
pub fn push_with_missing(out: &mut String, object: &str, members: &[Member<'_>]) -> Result<(), serde_json::Error> {
    let mut missing: HashSet<&str> = members.iter().map(|(key, _)| &**key).collect();
    let mut text = serde_json::Deserializer::from_str(object);
    let is_empty = text.deserialize_map(Keys(&mut missing))?;
    text.end()?;
    let Some(open) = object.trim().strip_suffix('}') else { return Err(Error::custom("expected an object")) };
    out.push_str(open);
    if missing.len() == members.len() {
        push_members(out, members, is_empty);
    } else {
        let lacked: Vec<Member<'_>> = members.iter().filter(|(key, _)| missing.contains(&**key)).cloned().collect();
        push_members(out, &lacked, is_empty);
    }
    out.push('}');
    Ok(())
}

fn push_members(out: &mut String, members: &[Member<'_>], mut is_first: bool) {
    for (key, value) in members {
        if !std::mem::replace(&mut is_first, false) {
            out.push(',');
        }
        push_json_text(out, key);
        out.push(':');
        out.push_str(value);
    }
}

/// A text as JSON.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_json_text(&mut out, text);
    out
}

/// Strikes out every key that an object has, and says whether it has none.
struct Keys<'m, 'k>(&'m mut HashSet<&'k str>);

impl<'de> Visitor<'de> for Keys<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_empty = true;
        while map.next_key_seed(Strike(self.0))?.is_some() {
            is_empty = false;
            map.next_value::<IgnoredAny>()?;
        }
        Ok(is_empty)
    }
}

struct Strike<'m, 'k>(&'m mut HashSet<&'k str>);

impl<'de> DeserializeSeed<'de> for Strike<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Strike<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.0.remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_only_where_their_key_is_lacking() {
        let check = |object: &str, expected: &str| {
            let members = [("a".into(), "1".into()), ("b\"".into(), "[2]".into())];
            let mut out = String::new();
            push_with_missing(&mut out, object, &members).expect(object);
            assert_eq!(out, expected);
        };
        check("{}", r#"{"a":1,"b\"":[2]}"#);
        check(" { } ", r#"{ "a":1,"b\"":[2]}"#);
        check(r#"{"z": 1.50e400}"#, r#"{"z": 1.50e400,"a":1,"b\"":[2]}"#);
        check(r#"{"a":null}"#, r#"{"a":null,"b\"":[2]}"#);
        check(r#"{"\u0061":{"b\"":0}}"#, r#"{"\u0061":{"b\"":0},"b\"":[2]}"#);
        check(r#"{"b\"":0,"a":{"n":12345678901234567890123}}"#, r#"{"b\"":0,"a":{"n":12345678901234567890123}}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["", "[]", "1", "{\"a\":}", "{} {}", "{1:2}", "null", "{"] {
            assert!(push_with_missing(&mut String::new(), bad, &[]).is_err(), "{bad}");
            assert!(members(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn members_are_read_as_they_are_spelled() {
        let read = members(" {\"a\" : 1.0 , \"\\u0062\":{ \"c\":2}} ").expect("an object");
        let read: Vec<_> = read.iter().map(|(key, value)| (key.as_str(), value.get())).collect();
        assert_eq!(read, [("a", "1.0"), ("b", "{ \"c\":2}")]);
    }

    /// As deep and as wide as a plugin may print.
    #[test]
    fn hostile_objects_cost_no_stack_and_little_time() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
        let mut out = String::new();
        push_with_missing(&mut out, &deep, &[("b".into(), "1".into())]).expect("an object");
        assert!(out.ends_with("],\"b\":1}") || out.ends_with("]],\"b\":1}"));
        let wide: Vec<String> = (0..50_000).map(|n| format!("\"k{n}\":0")).collect();
        let members: Vec<Member<'_>> = (0..50_000).map(|n| (format!("m{n}").into(), "0".into())).collect();
        let mut out = String::new();
        push_with_missing(&mut out, &format!("{{{}}}", wide.join(",")), &members).expect("an object");
        assert_eq!(super::members(&out).expect("an object").len(), 100_000);
    }
}
