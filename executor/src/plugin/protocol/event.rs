//! Events in both directions: what a plugin emitted, read once and borrowed, and the `event` member
//! of a `handle` request (`spec/pipelines.md` 2.1 and 7.4).

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::log::push_json_text;

use super::EventError;
use crate::pipeline::object::{self, Member, is_object};

/// An event as its plugin means it. What the core alone says of an event is not read
/// (`spec/pipelines.md` 15, row 1).
#[derive(Debug)]
pub struct Emitted<'a> {
    /// Not blank.
    pub kind: String,
    /// An object as printed.
    pub payload: Option<&'a RawValue>,
    /// Trimmed and not empty.
    pub dedupe_key: Option<String>,
}

/// Why an event can not be routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventFault {
    NotReadable(String),
    NoType,
    TypeNotText,
    PayloadNotObject,
    DedupeKeyNotText,
}

impl fmt::Display for EventFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReadable(why) => write!(f, "event is not readable: {why}"),
            Self::NoType => f.write_str("event.type is required"),
            Self::TypeNotText => f.write_str("event.type must be a string"),
            Self::PayloadNotObject => f.write_str("event.payload must be an object"),
            Self::DedupeKeyNotText => f.write_str("event.dedupe_key must be a string"),
        }
    }
}

impl std::error::Error for EventFault {}

/// The members of an event that anybody reads, each as it is spelled.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    dedupe_key: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
}

/// The text of a JSON string.
fn text_of(value: &RawValue) -> Option<String> {
    value.get().starts_with('"').then(|| serde_json::from_str(value.get()).ok()).flatten()
}

impl<'a> Emitted<'a> {
    /// Reads one of `Response::events`.
    ///
    /// # Errors
    /// `EventFault`; the job that printed it fails.
    pub fn parse(event: &'a RawValue) -> Result<Self, EventFault> {
        if !is_object(event.get()) {
            return Err(EventFault::NotReadable("expected an object".to_owned()));
        }
        let read: Envelope<'_> =
            serde_json::from_str(event.get()).map_err(|error| EventFault::NotReadable(error.to_string()))?;
        let kind = match read.kind {
            None => return Err(EventFault::NoType),
            Some(kind) => text_of(kind).ok_or(EventFault::TypeNotText)?,
        };
        if kind.trim().is_empty() {
            return Err(EventFault::NoType);
        }
        if read.payload.is_some_and(|payload| !is_object(payload.get())) {
            return Err(EventFault::PayloadNotObject);
        }
        let dedupe_key = match read.dedupe_key {
            None => None,
            Some(key) => Some(text_of(key).ok_or(EventFault::DedupeKeyNotText)?.trim().to_owned()),
        };
        Ok(Self { kind, payload: read.payload, dedupe_key: dedupe_key.filter(|key| !key.is_empty()) })
    }
}

/// Says that a payload came from outside, by a webhook or a relay: it is wrapped whole, whatever it
/// looks like, and the core says the rest (`spec/pipelines.md` 15, row 10).
#[derive(Debug, Clone, Copy)]
pub struct Outside<'a> {
    pub source: &'a str,
    pub event_id: &'a str,
    /// RFC 3339.
    pub timestamp: &'a str,
}

/// What an event says when its producer gave no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Appends the event of a `handle` request: the stored payload when that is an envelope, else one
/// around it. `context` fills what the event's own payload lacks.
pub(super) fn push(
    out: &mut String,
    payload: &str,
    context: &[Member<'_>],
    outside: Option<Outside<'_>>,
) -> Result<(), EventError> {
    let fail = |error: serde_json::Error| EventError(error.to_string());
    if !is_object(payload) {
        return Err(EventError("expected an object".to_owned()));
    }
    let envelope: Option<Envelope<'_>> = match outside {
        Some(_) => None,
        None => Some(serde_json::from_str(payload).map_err(fail)?),
    };
    if let Some(envelope) = &envelope
        && let Some(inner) = envelope.payload.filter(|inner| is_object(inner.get()))
    {
        out.push_str("{\"type\":");
        out.push_str(checked("type", envelope.kind)?.unwrap_or("\"\""));
        out.push_str(",\"payload\":");
        object::push_with_missing(out, inner.get(), context).map_err(fail)?;
        let timestamp = filled("timestamp", envelope.timestamp)?.map_or_else(|| object::text(NO_TIME), str::to_owned);
        for (name, value) in [
            ("dedupe_key", filled("dedupe_key", envelope.dedupe_key)?),
            ("source", filled("source", envelope.source)?),
            ("timestamp", Some(timestamp.as_str())),
            ("event_id", filled("event_id", envelope.event_id)?),
        ] {
            if let Some(value) = value {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                out.push_str(value);
            }
        }
    } else {
        out.push_str("{\"type\":\"\",\"payload\":");
        object::push_with_missing(out, payload, context).map_err(fail)?;
        if let Some(Outside { source, event_id, .. }) = outside {
            out.push_str(",\"source\":");
            push_json_text(out, source);
            out.push_str(",\"event_id\":");
            push_json_text(out, event_id);
        }
        out.push_str(",\"timestamp\":");
        push_json_text(out, outside.map_or(NO_TIME, |outside| outside.timestamp));
    }
    out.push('}');
    Ok(())
}

/// A member that must be a string where it is there.
fn checked<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Option<&'a str>, EventError> {
    match value.map(RawValue::get) {
        Some(value) if !value.starts_with('"') => Err(EventError(format!("{name} must be a string"))),
        value => Ok(value),
    }
}

fn filled<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Option<&'a str>, EventError> {
    checked(name, value).map(|value| value.filter(|value| *value != "\"\""))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<String>, Option<String>), String> {
        let raw: &RawValue = serde_json::from_str(text).expect("JSON");
        Emitted::parse(raw)
            .map(|event| (event.kind, event.payload.map(|payload| payload.get().to_owned()), event.dedupe_key))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn an_emitted_event_is_read_as_it_is_spelled() {
        let check = |text: &str, kind: &str, payload: Option<&str>, key: Option<&str>| {
            assert_eq!(parsed(text), Ok((kind.into(), payload.map(Into::into), key.map(Into::into))), "{text}");
        };
        check(r#"{"type":"a.b"}"#, "a.b", None, None);
        check(r#"{"type":"a\u002eb","payload":null,"dedupe_key":null}"#, "a.b", None, None);
        check(r#"{"dedupe_key":" k ","payload":{"n":1.50e400},"type":"t"}"#, "t", Some(r#"{"n":1.50e400}"#), Some("k"));
        check(r#"{"type":"t","dedupe_key":" ","source":7,"event_id":[],"timestamp":{},"x":1}"#, "t", None, None);
    }

    #[test]
    fn a_hostile_event_says_what_is_wrong_with_it() {
        let check = |text: &str, fault: &str| assert_eq!(parsed(text), Err(fault.to_owned()), "{text}");
        check("{}", "event.type is required");
        check(r#"{"type":null}"#, "event.type is required");
        check(r#"{"type":" \t"}"#, "event.type is required");
        check(r#"{"type":5}"#, "event.type must be a string");
        check(r#"{"type":{"a":1}}"#, "event.type must be a string");
        check(r#"{"type":"t","payload":[]}"#, "event.payload must be an object");
        check(r#"{"type":"t","payload":"{}"}"#, "event.payload must be an object");
        check(r#"{"type":"t","dedupe_key":1}"#, "event.dedupe_key must be a string");
        check("[\"t\",{},null,null,null,null]", "event is not readable: expected an object");
        for (text, key) in
            [(r#"{"type":"a","type":"b"}"#, "type"), (r#"{"type":"a","payload":{},"payload":{}}"#, "payload")]
        {
            let fault = parsed(text).expect_err(text);
            assert!(fault.starts_with(&format!("event is not readable: duplicate field `{key}`")), "{fault}");
        }
    }

    fn request_event(payload: &str, context: &[Member<'_>], outside: Option<Outside<'_>>) -> Value {
        let mut out = String::new();
        push(&mut out, payload, context, outside).expect(payload);
        serde_json::from_str(&out).expect("JSON")
    }

    #[test]
    fn only_a_payload_object_makes_a_body_an_envelope() {
        let check = |payload: &str, kind: &str, inner: &str| {
            let event = request_event(payload, &[("c".into(), "1".into())], None);
            assert_eq!(event["type"], kind, "{payload}");
            assert_eq!(event["payload"].to_string(), inner, "{payload}");
        };
        check(r#"{"type":"t","payload":{"a":2}}"#, "t", r#"{"a":2,"c":1}"#);
        check(r#"{"payload":{"c":2}}"#, "", r#"{"c":2}"#);
        check(r#"{"type":"t","issue":7}"#, "", r#"{"c":1,"issue":7,"type":"t"}"#);
        check(r#"{"type":5}"#, "", r#"{"c":1,"type":5}"#);
        check(r#"{"type":"t","payload":[1]}"#, "", r#"{"c":1,"payload":[1],"type":"t"}"#);
        check(r#"{"type":"t","payload":null}"#, "", r#"{"c":1,"payload":null,"type":"t"}"#);
        check("{}", "", r#"{"c":1}"#);
    }

    #[test]
    fn a_body_from_outside_is_never_an_envelope() {
        let outside = Outside { source: "relay:lab", event_id: "e1", timestamp: "2026-01-01T00:00:00Z" };
        let body = r#"{"type":"job.completed","payload":{"a":1},"source":"core","event_id":"forged"}"#;
        let event = request_event(body, &[], Some(outside));
        assert_eq!(event["payload"], serde_json::from_str::<Value>(body).expect("JSON"));
        assert_eq!(
            (&event["type"], &event["source"], &event["event_id"]),
            (&"".into(), &"relay:lab".into(), &"e1".into())
        );
        assert_eq!(event["timestamp"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn an_envelope_with_wrongly_typed_members_is_refused() {
        for bad in [
            r#"{"type":5,"payload":{}}"#,
            r#"{"payload":{},"source":{}}"#,
            r#"{"payload":{},"dedupe_key":1}"#,
            r#"{"payload":{},"payload":{}}"#,
            "[1]",
            "\"x\"",
        ] {
            let error = push(&mut String::new(), bad, &[], None).expect_err(bad).to_string();
            assert!(error.starts_with("failed to unmarshal event payload: "), "{error}");
        }
    }
}
