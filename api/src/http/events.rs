//! `GET /events` (`spec/api.md` 6.8): what happens, as server-sent events.
//!
//! A stream is a cursor and a question: each time the executor is asked what came after the last
//! event that was written, and waits for it. So nothing falls between replay and live. Nothing is
//! kept for a reader that does not read: it is not asked for meanwhile, and what the executor's ring
//! has let go by then is missing, which the ids show.
//!
//! A stream ends when the caller goes, when the front stops, when the executor goes, and when
//! another configuration comes into force: whoever listens comes again with `Last-Event-ID` and is
//! let in by the tokens of that time.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use hyper::body::Frame;
use shared::time::Millis;
use shared::wire::gateway::{HubEvent, Reply, Request};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Failure;
use crate::executor::Config;
use crate::front::{Context, Front};
use crate::routes;

/// The one path whose token may stand in the query.
pub(crate) const PATH: &str = "/events";
/// A comment is written so often, and no question waits longer.
const ALIVE: Duration = Duration::from_secs(15);
/// How soon the executor is asked again that answered nothing before the time.
const AGAIN: Duration = Duration::from_millis(250);
const FAILED: &str = "failed to read events";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Marks an answer that has no end of its own, and so no limit of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endless;

/// What came after `Last-Event-ID`, then what comes. The executor is asked once before the answer
/// begins, so that it can still refuse.
pub(crate) async fn stream(
    State(front): State<Arc<Front>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    context.allow(routes::EVENTS)?;
    let mut configs = front.executor.configs();
    let is_current = context.is_of(configs.borrow_and_update().as_ref());
    let mut feed = Feed { after: cursor(&headers), next_comment: Instant::now() + ALIVE, configs, front };
    let replay = feed.ask(Duration::ZERO).await?;
    let body = if is_current { Body::new(Pieces::new(feed, replay)) } else { Body::empty() };
    let mut response = Response::new(body);
    response.extensions_mut().insert(Endless);
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (CONNECTION, "keep-alive"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Missing, negative or no number: from the beginning.
fn cursor(headers: &HeaderMap) -> u64 {
    headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0)
}

/// What one reader has seen, and what ends its stream.
struct Feed {
    front: Arc<Front>,
    configs: watch::Receiver<Option<Arc<Config>>>,
    /// The last event that was written.
    after: u64,
    next_comment: Instant,
}

impl Feed {
    /// The next events or a comment; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let front = Arc::clone(&self.front);
        let mut configs = self.configs.clone();
        tokio::select! {
            biased;
            () = front.stopping.cancelled() => None,
            _ = configs.changed() => None,
            piece = self.piece() => piece,
        }
    }

    async fn piece(&mut self) -> Option<String> {
        loop {
            let wait = self.next_comment.saturating_duration_since(Instant::now());
            let mut piece = self.ask(wait).await.ok()?;
            if Instant::now() >= self.next_comment {
                piece.push_str(": keep-alive\n\n");
                self.next_comment = Instant::now() + ALIVE;
            }
            if !piece.is_empty() {
                return Some(piece);
            }
            tokio::time::sleep(AGAIN.min(self.next_comment.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// What came after the cursor, which it moves on.
    async fn ask(&mut self, wait: Duration) -> Result<String, Failure> {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match self.front.ask(&Request::Events { after: self.after, wait: Millis(millis) }, wait).await? {
            Reply::Events(events) => {
                let mut piece = String::new();
                let Some(newest) = events.iter().map(|event| event.id).max() else { return Ok(piece) };
                // All before the cursor: the executor never gave it out, as after a clock that went
                // back, and begins anew.
                let after = if newest < self.after { 0 } else { self.after };
                for event in events.iter().filter(|event| event.id > after) {
                    push_event(&mut piece, event);
                }
                self.after = newest;
                Ok(piece)
            }
            Reply::Refused(refusal) => Err(self.front.refused(FAILED, &refusal)),
            _ => Err(self.front.distrust()),
        }
    }
}

/// One event as it is framed. A line break would end a field; in JSON it is a blank like any other.
fn push_event(out: &mut String, event: &HubEvent) {
    let _ = write!(out, "id: {}\nevent: ", event.id);
    for (text, end) in [(&event.kind, "\ndata: "), (&event.data, "\n\n")] {
        out.extend(text.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
        out.push_str(end);
    }
}

/// The next piece under way; it owns the feed meanwhile and gives it back.
type Step = Pin<Box<dyn Future<Output = Option<(Feed, String)>> + Send>>;

/// The feed as a body: asked for its next piece only when the one before was taken.
struct Pieces {
    next: Step,
    ended: bool,
}

impl Pieces {
    fn new(feed: Feed, first: String) -> Self {
        let next: Step =
            if first.is_empty() { Box::pin(step(feed)) } else { Box::pin(std::future::ready(Some((feed, first)))) };
        Self { next, ended: false }
    }
}

async fn step(mut feed: Feed) -> Option<(Feed, String)> {
    let piece = feed.next().await?;
    Some((feed, piece))
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some((feed, piece)) = ready!(self.next.as_mut().poll(cx)) else {
            self.ended = true;
            return Poll::Ready(None);
        };
        self.next = Box::pin(step(feed));
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_four_lines_whatever_it_holds() {
        let check = |kind: &str, data: &str, expected: &str| {
            let mut out = String::new();
            push_event(&mut out, &HubEvent { id: 7, kind: kind.to_owned(), data: data.to_owned() });
            assert_eq!(out, expected);
        };
        check("job.started", "{\"a\":\"ü\"}", "id: 7\nevent: job.started\ndata: {\"a\":\"ü\"}\n\n");
        check("a\nid: 1", "{\r\n}\n\n", "id: 7\nevent: a id: 1\ndata: {  }  \n\n");
        check("", "", "id: 7\nevent: \ndata: \n\n");
    }

    #[test]
    fn a_cursor_is_a_number_or_the_beginning() {
        let check = |header: &[u8], expected: u64| {
            let mut headers = HeaderMap::new();
            headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(header).expect("a header value"));
            assert_eq!(cursor(&headers), expected, "{header:?}");
        };
        assert_eq!(cursor(&HeaderMap::new()), 0);
        check(b"0", 0);
        check(b" 41 ", 41);
        check(b"18446744073709551615", u64::MAX);
        for other in [&b""[..], b"-1", b"1.5", b"x", b"18446744073709551616", b"\xff"] {
            check(other, 0);
        }
    }
}
