//! Protocol v2: the request that a plugin reads and the answer that it prints
//! (`spec/plugins.md` 4 and 5). Pure: text in, text out. JSON that is only passed on is never
//! parsed into values and never written again.

mod event;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::log::push_json_text;
use shared::time::Timestamp;

pub use event::{Emitted, EventFault, Outside};

use crate::pipeline::Context;
use crate::pipeline::context::ContextError;
use crate::pipeline::object::{self, Member};

/// What a request is made of; JSON fields are checked text.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    pub job_id: &'a str,
    /// Plugin or alias name.
    pub plugin: &'a str,
    pub command: &'a str,
    /// `plugins.<name>.config`, an object.
    pub config: &'a str,
    /// The compatibility row, an object.
    pub state: &'a str,
    /// The job's stored payload.
    pub payload: Option<&'a str>,
    /// Where the job stands in a pipeline, if it does.
    pub context: Option<&'a Context>,
    /// Set where the payload came by a webhook or a relay.
    pub outside: Option<Outside<'a>>,
    pub deadline_at: Timestamp,
}

/// Why a request can not be made; the job fails without retry.
#[derive(Debug, PartialEq, Eq)]
pub struct EventError(String);

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to unmarshal event payload: {}", self.0)
    }
}

impl std::error::Error for EventError {}

/// The request without its first `{`, which whoever fills the pipe first writes
/// (`spec/vault.md` 17.3), and with its newline.
///
/// # Errors
/// A `handle` payload that is no object or a wrong envelope, and a context that is no object.
pub fn request_tail(parts: RequestParts<'_>) -> Result<Vec<u8>, EventError> {
    let object = parts.payload.filter(|text| is_filled_object(text));
    let context = request_context(parts.plugin, parts.context).map_err(|error| EventError(error.to_string()))?;
    let gathered = parts.context.map_or(0, |context| 2 * context.accumulated.len());
    let payload_len = 2 * object.map_or(0, str::len);
    let mut out = String::with_capacity(1024 + parts.config.len() + parts.state.len() + payload_len + gathered);
    out.push_str("\"protocol\":2,\"job_id\":");
    push_json_text(&mut out, parts.job_id);
    out.push_str(",\"command\":");
    push_json_text(&mut out, parts.command);
    out.push_str(",\"instance\":");
    push_json_text(&mut out, parts.plugin);
    out.push_str(",\"config\":");
    out.push_str(parts.config);
    out.push_str(",\"state\":");
    out.push_str(parts.state);
    if let Some(payload) = object {
        out.push_str(",\"payload\":");
        out.push_str(payload);
    }
    out.push_str(",\"context\":");
    object::push(&mut out, &context);
    if parts.command == "handle"
        && let Some(payload) = parts.payload
    {
        out.push_str(",\"event\":");
        event::push(&mut out, payload, &context, parts.outside)?;
    }
    out.push_str(",\"deadline_at\":\"");
    out.push_str(&parts.deadline_at.to_string());
    out.push_str("\"}\n");
    Ok(out.into_bytes())
}

/// Whether JSON text, known to be valid, is an object with at least one key.
fn is_filled_object(text: &str) -> bool {
    text.trim_start().strip_prefix('{').is_some_and(|rest| !rest.trim_start().starts_with('}'))
}

/// The members of the request's `context`: what the core says, then what was gathered under other
/// keys.
fn request_context<'a>(plugin: &str, context: Option<&'a Context>) -> Result<Vec<Member<'a>>, ContextError> {
    let mut members: Vec<Member<'a>> = vec![("ductile_plugin".into(), object::text(plugin).into())];
    let Some(context) = context else { return Ok(members) };
    members.extend(context.request_members());
    let ours = members.len();
    for (key, value) in context.gathered()? {
        if !members[..ours].iter().any(|(own, _)| *own == key) {
            members.push((key.into(), value.get().into()));
        }
    }
    Ok(members)
}

/// A valid answer of a plugin, borrowed from what it printed.
#[derive(Debug)]
pub struct Response<'a> {
    pub status: Status<'a>,
    /// Objects as printed; `Emitted::parse` reads one.
    pub events: Vec<&'a RawValue>,
    /// An object with at least one key, as printed.
    pub state_updates: Option<&'a RawValue>,
    pub logs: Vec<LogEntry<'a>>,
    /// `ductile_stopwatch_subs`, an array as printed.
    pub stopwatch_subs: Option<&'a RawValue>,
    /// Names of optional members that had a wrong type and were left out.
    pub dropped: Vec<&'static str>,
}

/// What the plugin says of its work.
#[derive(Debug, PartialEq, Eq)]
pub enum Status<'a> {
    Ok { result: Cow<'a, str> },
    Error { message: Cow<'a, str>, may_retry: bool },
}

/// One entry of `logs`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct LogEntry<'a> {
    #[serde(borrow, default)]
    pub level: Cow<'a, str>,
    #[serde(borrow, default)]
    pub message: Cow<'a, str>,
}

/// Output that is no valid answer (`spec/plugins.md` 5.1); the texts are interface.
#[derive(Debug, PartialEq, Eq)]
pub enum ResponseError {
    NoOutput,
    NotJson(String),
    NoStatus,
    UnknownStatus(String),
    NoErrorMessage,
    NoResult,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOutput => f.write_str("plugin produced no output on stdout"),
            Self::NotJson(why) => write!(f, "plugin output is not valid JSON: {why}"),
            Self::NoStatus => f.write_str("response missing required field: status"),
            Self::UnknownStatus(status) => write!(f, "invalid status value: {status:?} (must be 'ok' or 'error')"),
            Self::NoErrorMessage => f.write_str("response has status=error but no error message"),
            Self::NoResult => f.write_str("response has status=ok but no result message"),
        }
    }
}

impl std::error::Error for ResponseError {}

#[derive(Deserialize)]
struct Printed<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    retry: Option<bool>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    state_updates: Option<&'a RawValue>,
    #[serde(borrow)]
    logs: Option<&'a RawValue>,
    #[serde(borrow)]
    ductile_stopwatch_subs: Option<&'a RawValue>,
}

/// Reads what a plugin printed: one JSON object and nothing else.
///
/// # Errors
/// `ResponseError`; the raw bytes stay the caller's.
pub fn decode(stdout: &[u8]) -> Result<Response<'_>, ResponseError> {
    if stdout.is_empty() {
        return Err(ResponseError::NoOutput);
    }
    let printed: Printed<'_> =
        serde_json::from_slice(stdout).map_err(|error| ResponseError::NotJson(error.to_string()))?;
    let blank = |text: &Option<Cow<'_, str>>| text.as_deref().is_none_or(|text| text.trim().is_empty());
    let status = match printed.status.as_deref() {
        None | Some("") => return Err(ResponseError::NoStatus),
        Some("ok") if blank(&printed.result) => return Err(ResponseError::NoResult),
        Some("ok") => Status::Ok { result: printed.result.unwrap_or_default() },
        Some("error") => match printed.error {
            Some(message) if !message.is_empty() => Status::Error { message, may_retry: printed.retry.unwrap_or(true) },
            _ => return Err(ResponseError::NoErrorMessage),
        },
        Some(other) => return Err(ResponseError::UnknownStatus(other.to_owned())),
    };
    let is_object = |value: &RawValue| value.get().starts_with('{');
    let events = printed.events.unwrap_or_default();
    if !events.iter().all(|event| is_object(event)) {
        return Err(ResponseError::NotJson("events must be a list of objects".to_owned()));
    }
    if printed.state_updates.is_some_and(|updates| !is_object(updates)) {
        return Err(ResponseError::NotJson("state_updates must be an object".to_owned()));
    }
    let mut dropped = Vec::new();
    let logs = printed.logs.map_or(Ok(Vec::new()), |logs| serde_json::from_str(logs.get())).unwrap_or_else(|_| {
        dropped.push("logs");
        Vec::new()
    });
    let stopwatch_subs = printed.ductile_stopwatch_subs.filter(|subs| {
        let is_list = serde_json::from_str::<Vec<&RawValue>>(subs.get())
            .is_ok_and(|list| list.iter().all(|item| is_object(item)));
        if !is_list {
            dropped.push("ductile_stopwatch_subs");
        }
        is_list
    });
    Ok(Response {
        status,
        events,
        state_updates: printed.state_updates.filter(|updates| is_filled_object(updates.get())),
        logs,
        stopwatch_subs,
        dropped,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parts<'a>(command: &'a str, payload: Option<&'a str>) -> RequestParts<'a> {
        RequestParts {
            job_id: "j1",
            plugin: "disk \"x\"",
            command,
            config: "{\"n\":12345678901234567890123}",
            state: "{}",
            payload,
            context: None,
            outside: None,
            deadline_at: Timestamp::from_unix_nanos(0),
        }
    }

    fn request(command: &str, payload: Option<&str>) -> Value {
        request_of(parts(command, payload))
    }

    fn request_of(parts: RequestParts<'_>) -> Value {
        let tail = request_tail(parts).expect("valid");
        assert_eq!(tail.last(), Some(&b'\n'));
        let mut whole = b"{".to_vec();
        whole.extend_from_slice(&tail);
        serde_json::from_slice(&whole).expect("one JSON object")
    }

    #[test]
    fn a_direct_call_has_payload_and_no_event() {
        let request = request("poll", Some("{\"a\":1}"));
        assert_eq!(request["protocol"], 2);
        assert_eq!(request["payload"]["a"], 1);
        assert_eq!(request["context"]["ductile_plugin"], "disk \"x\"");
        assert_eq!(request["config"]["n"].to_string(), "12345678901234567890123");
        assert_eq!(request["deadline_at"], "1970-01-01T00:00:00.000000000Z");
        assert!(request.get("event").is_none() && request.get("secrets").is_none());
        assert!(!request.to_string().contains("workspace_dir"));
    }

    #[test]
    fn empty_and_foreign_payloads_are_left_out() {
        for payload in [None, Some("{}"), Some(" { } "), Some("[1]"), Some("\"text\"")] {
            assert!(request("poll", payload).get("payload").is_none(), "{payload:?}");
        }
    }

    #[test]
    fn handle_unwraps_an_envelope_and_takes_a_raw_body_whole() {
        let event = &request("handle", Some("{\"type\":\"a.b\",\"payload\":{\"ductile_plugin\":\"mine\"}}"))["event"];
        assert_eq!(event["type"], "a.b");
        assert_eq!(event["payload"]["ductile_plugin"], "mine");
        assert_eq!(event["timestamp"], "0001-01-01T00:00:00Z");
        let event = &request("handle", Some("{\"k\":1}"))["event"];
        assert_eq!(event["type"], "");
        assert_eq!(event["payload"]["k"], 1);
        assert_eq!(event["payload"]["ductile_plugin"], "disk \"x\"");
    }

    #[test]
    fn a_step_knows_where_it_stands_and_what_was_gathered() {
        let accumulated = r#"{"ductile":{"pipeline_instance_id":"i","route_depth":2,"route_max_depth":3},"ductile_plugin":"forged","doc":{"n":12345678901234567890123},"k":"context"}"#;
        let text = |text: &str| Some(text.to_owned());
        let context = Context::of_row("c".to_owned(), text("p"), text("s"), accumulated.to_owned()).expect("valid");
        let payload = r#"{"type":"t","payload":{"k":"event"},"event_id":"e"}"#;
        let request = request_of(RequestParts { context: Some(&context), ..parts("handle", Some(payload)) });
        assert_eq!(
            request["context"].to_string(),
            r#"{"doc":{"n":12345678901234567890123},"ductile":{"pipeline_instance_id":"i","route_depth":2,"route_max_depth":3},"ductile_pipeline":"p","ductile_pipeline_instance_id":"i","ductile_plugin":"disk \"x\"","ductile_route_depth":2,"ductile_route_max_depth":3,"ductile_step_id":"s","k":"context"}"#
        );
        let mut expected = request["context"].clone();
        expected["k"] = "event".into();
        assert_eq!(request["event"]["payload"], expected);
        assert_eq!(request["payload"].to_string(), r#"{"event_id":"e","payload":{"k":"event"},"type":"t"}"#);
        let poll = request_of(RequestParts { context: Some(&context), ..parts("poll", Some("{\"a\":1}")) });
        assert_eq!((&poll["context"], &poll["event"]), (&request["context"], &Value::Null));
    }

    #[test]
    fn answers_that_are_none_say_why() {
        let check = |stdout: &str, text: &str| {
            let error = decode(stdout.as_bytes()).expect_err(stdout).to_string();
            assert!(error.starts_with(text), "{stdout:?}: {error}");
        };
        check("", "plugin produced no output on stdout");
        check("{not-json\n", "plugin output is not valid JSON: ");
        check("{\"status\":\"ok\",\"result\":\"x\"} more", "plugin output is not valid JSON: ");
        check("{\"status\":\"ok\",\"result\":7}", "plugin output is not valid JSON: ");
        check("{\"status\":\"ok\",\"result\":\"x\",\"events\":[1]}", "plugin output is not valid JSON: ");
        check("{\"status\":\"ok\",\"result\":\"x\",\"state_updates\":[]}", "plugin output is not valid JSON: ");
        check("{\"result\":\"x\"}", "response missing required field: status");
        check("{\"status\":\"\"}", "response missing required field: status");
        check("{\"status\":\"fine\"}", "invalid status value: \"fine\" (must be 'ok' or 'error')");
        check("{\"status\":\"error\"}", "response has status=error but no error message");
        check("{\"status\":\"ok\",\"result\":\" \"}", "response has status=ok but no result message");
        check(&"[".repeat(100_000), "plugin output is not valid JSON: ");
    }

    #[test]
    fn retry_is_told_apart_from_its_absence() {
        let may_retry = |stdout: &str| match decode(stdout.as_bytes()).expect("valid").status {
            Status::Error { may_retry, .. } => may_retry,
            Status::Ok { .. } => unreachable!("an error answer"),
        };
        assert!(may_retry("{\"status\":\"error\",\"error\":\"e\"}"));
        assert!(may_retry("{\"status\":\"error\",\"error\":\"e\",\"retry\":null}"));
        assert!(!may_retry("{\"status\":\"error\",\"error\":\"e\",\"retry\":false}"));
    }

    #[test]
    fn wrongly_typed_optional_members_are_left_out() {
        let response = decode(
            b"{\"status\":\"ok\",\"result\":\"a\\nb\",\"logs\":\"no\",\"ductile_stopwatch_subs\":[1],\"state_updates\":{},\"x\":1}",
        )
        .expect("valid");
        assert_eq!(response.status, Status::Ok { result: "a\nb".into() });
        assert_eq!(response.dropped, ["logs", "ductile_stopwatch_subs"]);
        assert!(response.state_updates.is_none() && response.stopwatch_subs.is_none());
    }
}
