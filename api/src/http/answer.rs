//! Answers that several routes share (`spec/api.md` 2).

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ONE: HeaderValue = HeaderValue::from_static("1");

/// An error answer; its text is interface, and says nothing of what went wrong inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) text: &'static str,
    /// The same request may pass in a second.
    pub(crate) again: bool,
}

impl Failure {
    pub(crate) const UNAVAILABLE: Self = Self::again("executor unavailable");
    pub(crate) const MANAGEMENT_ONLY: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "management only");
    pub(crate) const NO_TOKEN: Self = Self::new(StatusCode::UNAUTHORIZED, "missing or invalid Authorization header");
    pub(crate) const OTHER_SCHEME: Self = Self::new(StatusCode::UNAUTHORIZED, "invalid Authorization header format");
    pub(crate) const INVALID_TOKEN: Self = Self::new(StatusCode::UNAUTHORIZED, "invalid token");
    pub(crate) const SCOPE: Self = Self::new(StatusCode::FORBIDDEN, "insufficient scope");
    pub(crate) const VAULT: Self =
        Self::new(StatusCode::FORBIDDEN, "managed only over the vault agent socket: use ductile vault");
    pub(crate) const BODY: Self = Self::new(StatusCode::BAD_REQUEST, "invalid JSON body");
    pub(crate) const PAYLOAD: Self = Self::new(StatusCode::BAD_REQUEST, "payload must be a JSON object");
    pub(crate) const TOO_LARGE: Self = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload too large");
    pub(crate) const TOO_SLOW: Self = Self::new(StatusCode::REQUEST_TIMEOUT, "request timeout");

    pub(crate) const fn new(status: StatusCode, text: &'static str) -> Self {
        Self { status, text, again: false }
    }

    /// 503 with `Retry-After`.
    pub(crate) const fn again(text: &'static str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, text, again: true }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        // The texts hold nothing that JSON would escape.
        let mut response = json(self.status, format!("{{\"error\":\"{}\"}}", self.text));
        if self.again {
            response.headers_mut().insert(RETRY_AFTER, ONE);
        }
        response
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

pub(crate) async fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not found")
}

pub(crate) async fn method_not_allowed() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

pub(crate) async fn endpoint_not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "endpoint not found")
}
