//! The body of a trigger: read whatever its framing, bounded in size and time, and its payload
//! kept as the text that came (numbers exact, `spec/api.md` 5).

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::bytes::BytesMut;

use super::answer::Failure;

/// Reads the whole body.
///
/// # Errors
/// `TOO_LARGE`, told before the body is read when its length is announced; `TOO_SLOW`; `BODY` when
/// the connection or its framing broke.
pub(crate) async fn read(mut body: Body, limit: usize, deadline: Instant) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TOO_LARGE);
    }
    tokio::time::timeout_at(deadline, gather(&mut body, limit)).await.unwrap_or(Err(Failure::TOO_SLOW))
}

async fn gather(body: &mut Body, limit: usize) -> Result<Bytes, Failure> {
    let mut first = Bytes::new();
    let mut more: Option<BytesMut> = None;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        // Trailers say nothing here.
        let Ok(data) = frame.map_err(|_| Failure::BODY)?.into_data() else { continue };
        let have = more.as_ref().map_or(first.len(), BytesMut::len);
        if data.len() > limit - have {
            return Err(Failure::TOO_LARGE);
        }
        match &mut more {
            None if first.is_empty() => first = data,
            Some(more) => more.extend_from_slice(&data),
            None => {
                let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit);
                let mut joined = BytesMut::with_capacity(first.len() + data.len() + announced);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                more = Some(joined);
            }
        }
    }
    Ok(more.map_or(first, BytesMut::freeze))
}

/// The body of both triggers; other keys are passed over.
#[derive(Deserialize)]
struct Trigger<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    payload: Option<&'a RawValue>,
}

/// A `null` that is written is a payload, and none that is taken.
fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The payload's text, a JSON object; `None` where there is no body or no payload.
///
/// # Errors
/// `BODY` for what is no JSON object, or says `payload` twice; `PAYLOAD` for a payload of another
/// type.
pub(crate) fn payload(body: &[u8]) -> Result<Option<&str>, Failure> {
    if body.is_empty() {
        return Ok(None);
    }
    // A list would pass for a struct.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::BODY);
    }
    let trigger: Trigger<'_> = serde_json::from_slice(body).map_err(|_| Failure::BODY)?;
    match trigger.payload.map(RawValue::get) {
        Some(text) if !text.starts_with('{') => Err(Failure::PAYLOAD),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_an_object_and_is_kept_as_it_came() {
        let check = |body: &str, expected: Result<Option<&str>, Failure>| {
            assert_eq!(payload(body.as_bytes()), expected, "{body:?}");
        };
        check("", Ok(None));
        check("{}", Ok(None));
        check(" { } ", Ok(None));
        check("{\"other\":[1,{}]}", Ok(None));
        check("{\"payload\":{}}", Ok(Some("{}")));
        check(
            "{\"a\":1,\"payload\": {\"n\": 1e400, \"m\":123456789012345678901234567890.10} ,\"z\":null}",
            Ok(Some("{\"n\": 1e400, \"m\":123456789012345678901234567890.10}")),
        );
        check("{\"payload\":{\"a\":1,\"a\":\"\\u0000\"}}", Ok(Some("{\"a\":1,\"a\":\"\\u0000\"}")));
        for other in ["null", "1", "\"x\"", "[{}]", "true", "-0"] {
            check(&format!("{{\"payload\":{other}}}"), Err(Failure::PAYLOAD));
        }
        for bad in [
            " ",
            "null",
            "1",
            "[]",
            "[{}]",
            "\"x\"",
            "{",
            "}",
            "{\"payload\"}",
            "{\"payload\":}",
            "{} {}",
            "{},",
            "{'payload':{}}",
            "{\"payload\":{}",
            "{\"payload\":{},\"payload\":{}}",
            "\u{feff}{}",
            "{\"payload\":{\"a\":\"\0\"}}",
            "{\"payload\":{\"a\":01}}",
            "{\"payload\":{\"a\":NaN}}",
        ] {
            check(bad, Err(Failure::BODY));
        }
        assert_eq!(payload(b"{\"payload\":{\"a\":\"\xff\"}}"), Err(Failure::BODY));
        assert_eq!(payload(b"\xff\xfe"), Err(Failure::BODY));
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}{}", "{\"a\":".repeat(200_000), "1");
        assert_eq!(payload(deep.as_bytes()), Err(Failure::BODY));
        let closed = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        let body = format!("{{\"payload\":{closed}}}");
        assert_eq!(payload(body.as_bytes()), Ok(Some(closed.as_str())));
        let ignored = format!("{{\"x\":{closed}}}");
        assert_eq!(payload(ignored.as_bytes()), Ok(None));
    }

    #[test]
    fn the_limit_counts_every_byte_and_no_more() {
        let check = |length: usize, limit: usize, expected: Result<usize, Failure>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
            let outcome = runtime.block_on(read(Body::from(vec![b' '; length]), limit, Instant::now()));
            assert_eq!(outcome.map(|bytes| bytes.len()), expected, "{length} of {limit}");
        };
        check(0, 0, Ok(0));
        check(10, 10, Ok(10));
        check(11, 10, Err(Failure::TOO_LARGE));
        check(1, 0, Err(Failure::TOO_LARGE));
    }
}
