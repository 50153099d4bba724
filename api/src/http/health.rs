//! `GET /healthz` (`spec/api.md` 4.2): five fields, in this order.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use shared::log::Level;
use shared::wire::gateway::{Health, Reply, Request};
use shared::wire::refusal::RefusalKind;

use super::answer::{Failure, json};
use crate::front::{Context, Front};

/// How old an answer may be. Probes come in crowds, and the counts are the executor's work.
const FRESH: Duration = Duration::from_millis(100);
const COUNTS: &str = "failed to compute queue depth";

/// The last answer; those who find it stale ask one after the other, and only the first has to.
#[derive(Default)]
pub(crate) struct Last {
    answer: Mutex<Option<(Instant, Result<Health, Failure>)>>,
    asking: tokio::sync::Mutex<()>,
}

impl Last {
    fn fresh(&self) -> Option<Result<Health, Failure>> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.filter(|(at, _)| at.elapsed() < FRESH).map(|(_, outcome)| outcome)
    }

    fn keep(&self, outcome: Result<Health, Failure>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), outcome));
    }
}

/// No token; 503 with the same fields while the executor is away.
pub(crate) async fn show(State(front): State<Arc<Front>>, Extension(context): Extension<Context>) -> Response {
    let uptime = front.started.elapsed().as_secs();
    let outcome = if context.up { counts(&front).await } else { Err(Failure::UNAVAILABLE) };
    match outcome {
        Ok(health) => json(StatusCode::OK, body("ok", uptime, &health)),
        Err(failure) if failure == Failure::UNAVAILABLE => {
            let none = Health { queue_depth: 0, plugins_loaded: 0, plugins_circuit_open: 0, started_at: NEVER };
            let mut response = failure.into_response();
            *response.body_mut() = body("unavailable", uptime, &none).into();
            response
        }
        Err(failure) => failure.into_response(),
    }
}

const NEVER: shared::time::Timestamp = shared::time::Timestamp::from_unix_nanos(0);

async fn counts(front: &Front) -> Result<Health, Failure> {
    if let Some(outcome) = front.health.fresh() {
        return outcome;
    }
    let _asking = front.health.asking.lock().await;
    if let Some(outcome) = front.health.fresh() {
        return outcome;
    }
    let outcome = match front.ask(&Request::Health, Duration::ZERO).await {
        Ok(Reply::Health(health)) => Ok(health),
        Ok(Reply::Refused(refusal)) => {
            front.log.write(Level::Error, COUNTS, &[("error", (&refusal.message).into())]);
            Err(match refusal.kind {
                RefusalKind::Storage | RefusalKind::Busy => Failure::again(COUNTS),
                _ => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, COUNTS),
            })
        }
        Ok(_) => Err(front.distrust()),
        Err(failure) => Err(failure),
    };
    front.health.keep(outcome);
    outcome
}

fn body(status: &str, uptime: u64, health: &Health) -> String {
    let mut out = String::with_capacity(128);
    let _ = write!(
        out,
        "{{\"status\":\"{status}\",\"uptime_seconds\":{uptime},\"queue_depth\":{},\"plugins_loaded\":{},\
         \"plugins_circuit_open\":{}}}",
        health.queue_depth, health.plugins_loaded, health.plugins_circuit_open
    );
    out
}
