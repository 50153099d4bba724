//! What every request passes through: its id, its log line, who is asking, cross-origin headers,
//! and the gates that stand before all routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use shared::log::{Level, Value, chain};
use shared::wire::frame::FrameError;
use shared::wire::gateway::{self, Posture, Reply};
use shared::wire::refusal::{Refusal, RefusalKind};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::{Presented, Scopes, Tokens};
use crate::executor::{CallError, Config, Executor};
use crate::http::answer::Failure;
use crate::http::{cors, events, health};
use crate::log::Log;

/// A report of an exposed admin token is followed by no other for so long.
const REPORTED: Duration = Duration::from_secs(60);
/// How soon a report that the executor did not take is tried again.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// The longest path that is logged, and the longest request id that is taken over.
const LOGGED_PATH: usize = 512;
const LOGGED_ID: usize = 128;

/// What all requests share.
pub(crate) struct Front {
    pub(crate) executor: Executor,
    pub(crate) log: Log,
    pub(crate) started: Instant,
    pub(crate) health: health::Last,
    /// Cancelled when the front stops: answers without an end end now.
    pub(crate) stopping: CancellationToken,
    exposed: Notify,
    request_ids: RequestIds,
}

impl Front {
    pub(crate) fn new() -> Self {
        Self {
            executor: Executor::new(),
            log: Log::new(),
            started: Instant::now(),
            health: health::Last::default(),
            stopping: CancellationToken::new(),
            exposed: Notify::new(),
            request_ids: RequestIds::new(),
        }
    }

    /// Puts a configuration in force.
    pub(crate) fn install(&self, config: Config) {
        self.log.set_level(config.log_level);
        self.executor.install(config);
    }

    /// Asks the executor, which may take `wait` longer than usual.
    ///
    /// # Errors
    /// `UNAVAILABLE`, or `TOO_LARGE` for what no frame can hold.
    pub(crate) async fn ask(&self, request: &gateway::Request, wait: Duration) -> Result<Reply, Failure> {
        self.executor.call(request, wait).await.map_err(|error| match error {
            CallError::Frame(FrameError::TooLong { .. }) => Failure::TOO_LARGE,
            error => {
                self.log.write(Level::Warn, "call failed", &[("error", (&chain(&error)).into())]);
                Failure::UNAVAILABLE
            }
        })
    }

    /// The answer to a refusal that the route has no text of its own for; the cause is logged.
    pub(crate) fn refused(&self, text: &'static str, refusal: &Refusal) -> Failure {
        let kind = format!("{:?}", refusal.kind);
        self.log.write(Level::Error, text, &[("kind", (&kind).into()), ("error", (&refusal.message).into())]);
        match refusal.kind {
            RefusalKind::Storage | RefusalKind::Busy => Failure::again(text),
            RefusalKind::Unavailable => Failure::UNAVAILABLE,
            _ => Failure::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }

    /// The executor's answer belongs to another request: the line is closed.
    pub(crate) fn distrust(&self) -> Failure {
        self.executor.distrust();
        Failure::UNAVAILABLE
    }

    /// Tells the executor of admin tokens that came in over HTTP, for as long as the program runs.
    pub(crate) async fn report_exposures(&self) -> Infallible {
        loop {
            self.exposed.notified().await;
            let event = [("event", "admin_token_exposed".into())];
            self.log.write(Level::Warn, "an admin token of the vault came in over HTTP: rotate it", &event);
            while self.executor.call(&gateway::Request::TokenExposed, Duration::ZERO).await.is_err() {
                tokio::time::sleep(REPORT_AGAIN).await;
            }
            tokio::time::sleep(REPORTED).await;
        }
    }
}

/// What a request knows of its surroundings; one configuration from its beginning to its end.
#[derive(Clone)]
pub(crate) struct Context {
    /// Calls to the executor can be made.
    pub(crate) up: bool,
    /// When the whole request must have arrived.
    pub(crate) body_deadline: Instant,
    config: Option<Arc<Config>>,
    presented: Presented,
}

impl Context {
    /// For any valid token.
    ///
    /// # Errors
    /// `UNAVAILABLE` before anything else, since nothing is answered from the configuration of an
    /// executor that is away; then the refusals of `spec/api.md` 3.1.
    pub(crate) fn any(&self) -> Result<(&Config, &Scopes), Failure> {
        let config = self.config.as_deref().filter(|_| self.up).ok_or(Failure::UNAVAILABLE)?;
        let token = match self.presented {
            Presented::Nothing => return Err(Failure::NO_TOKEN),
            Presented::OtherScheme => return Err(Failure::OTHER_SCHEME),
            Presented::Unknown | Presented::Admin => return Err(Failure::INVALID_TOKEN),
            Presented::Token(index) => index,
        };
        config.tokens.scopes(token).map(|scopes| (config, scopes)).ok_or(Failure::INVALID_TOKEN)
    }

    /// For a token with one of these scopes.
    ///
    /// # Errors
    /// As `any`, then `SCOPE`.
    pub(crate) fn allow(&self, one_of: &[&str]) -> Result<(&Config, &Scopes), Failure> {
        let (config, scopes) = self.any()?;
        if scopes.allow(one_of) { Ok((config, scopes)) } else { Err(Failure::SCOPE) }
    }

    /// Whether the caller was let in by this configuration.
    pub(crate) fn is_of(&self, config: Option<&Arc<Config>>) -> bool {
        matches!((&self.config, config), (Some(mine), Some(other)) if Arc::ptr_eq(mine, other))
    }
}

/// One listener's way from a request to its answer.
pub(crate) struct Door {
    front: Arc<Front>,
    router: TowerToHyperService<Router>,
}

impl Door {
    pub(crate) fn new(front: Arc<Front>, router: Router) -> Self {
        Self { front, router: TowerToHyperService::new(router) }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.front.log
    }

    /// Answers a request, which must have arrived whole at `deadline`, and logs it.
    pub(crate) async fn answer(&self, request: Request<Incoming>, deadline: Instant) -> Result<Response, Infallible> {
        let begun = Instant::now();
        let noted =
            self.front.log.enabled(Level::Info).then(|| {
                (request.method().clone(), request.uri().clone(), self.front.request_ids.of(request.headers()))
            });
        let config = self.front.executor.config();
        let origin = config.as_deref().and_then(|config| cors::listed(config, request.headers()));
        let mut response = if origin.is_some() && cors::is_preflight(request.method(), request.headers()) {
            cors::preflight()
        } else {
            self.route(request, config, deadline).await
        };
        if let Some(origin) = origin {
            cors::mark(response.headers_mut(), origin);
        }
        if let Some((method, uri, request_id)) = noted {
            let millis = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
            let fields = [
                ("method", Value::Text(method.as_str())),
                ("path", Value::Text(cut(uri.path(), LOGGED_PATH))),
                ("status", Value::Number(i64::from(response.status().as_u16()))),
                ("duration_ms", Value::Number(millis)),
                ("request_id", Value::Text(&request_id)),
            ];
            self.front.log.write(Level::Info, "request", &fields);
        }
        Ok(response)
    }

    async fn route(&self, request: Request<Incoming>, config: Option<Arc<Config>>, deadline: Instant) -> Response {
        if config.as_ref().is_some_and(|config| config.posture != Posture::Gateway) {
            return Failure::MANAGEMENT_ONLY.into_response();
        }
        let presented = config.as_ref().map_or(Presented::Nothing, |config| identify(&config.tokens, &request));
        if presented == Presented::Admin {
            self.front.exposed.notify_one();
            let over_vault = request.uri().path().starts_with("/vault/");
            return if over_vault { Failure::VAULT } else { Failure::INVALID_TOKEN }.into_response();
        }
        let up = self.front.executor.is_up();
        let mut request = request;
        request.extensions_mut().insert(Context { up, body_deadline: deadline, config, presented });
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Who is calling: the header says it, and on one route the query, where the header holds no token.
fn identify(tokens: &Tokens, request: &Request<Incoming>) -> Presented {
    let by_header = tokens.identify(request.headers());
    let may_use_query = request.uri().path() == events::PATH;
    match by_header {
        Presented::Nothing | Presented::OtherScheme if may_use_query => {
            tokens.identify_query(request.uri().query().unwrap_or_default()).unwrap_or(by_header)
        }
        by_header => by_header,
    }
}

/// Numbers of requests, told apart between two starts of the front.
struct RequestIds {
    start: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { start: u64::try_from(start.as_micros()).unwrap_or_default(), next: AtomicU64::new(1) }
    }

    /// The caller's own id, when it can stand in a log line, or a new one.
    fn of(&self, headers: &HeaderMap) -> String {
        let given = headers.get("x-request-id").and_then(|value| value.to_str().ok()).map(str::trim);
        match given {
            Some(given) if (1..=LOGGED_ID).contains(&given.len()) => given.to_owned(),
            _ => format!("{:x}-{:06}", self.start, self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

fn cut(text: &str, longest: usize) -> &str {
    text.char_indices().nth(longest).map_or(text, |(end, _)| &text[..end])
}
