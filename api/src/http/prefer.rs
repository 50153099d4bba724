//! `Prefer: wait=<seconds>` (RFC 7240): the caller would rather wait for the result.

use axum::http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Says which wait was applied.
pub(crate) const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The seconds asked for. As the RFC has it, only the first `wait` counts, and one that is not
/// understood is as if it were absent.
pub(crate) fn wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let first = values.flat_map(|value| outside_quotes(value, ',')).find_map(|preference| {
        let preference = outside_quotes(preference, ';').next()?;
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    })?;
    let digits = first.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(first);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// The parts of `text` between separators that stand in no quoted string.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_well_formed_first_wait_counts() {
        let check = |lines: &[&str], expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(PREFER, HeaderValue::from_str(line).expect("a header value"));
            }
            assert_eq!(wait(&headers), expected, "{lines:?}");
        };
        check(&[], None);
        check(&["wait=10"], Some(10));
        check(&["Wait = 10"], Some(10));
        check(&["wait=\"10\""], Some(10));
        check(&["respond-async, wait=7; strict"], Some(7));
        check(&["respond-async", "wait=7"], Some(7));
        check(&["wait=1, wait=2"], Some(1));
        check(&["wait=x, wait=2"], None);
        check(&["foo=\"a, wait=3\", wait=4"], Some(4));
        check(&["foo=\"a\\\", wait=3\", wait=4"], Some(4));
        check(&["foo; wait=3"], None);
        check(&["wait"], None);
        check(&["wait="], None);
        check(&["wait=\"\""], None);
        check(&["wait=\""], None);
        check(&["wait=-1"], None);
        check(&["wait=+1"], None);
        check(&["wait=1.5"], None);
        check(&["waits=1"], None);
        check(&["wait=99999999999999999999999999"], Some(u64::MAX));
        check(&["wait=0"], Some(0));
        check(&[",,;=;,\"", "wait=5"], Some(5));
    }
}
