//! `POST /vault/*` (`spec/api.md` 8.1): the vault is not managed over HTTP.

use super::answer::Failure;

/// Whoever asks, whatever for; neither token nor body is read.
pub(crate) async fn refuse() -> Failure {
    Failure::VAULT
}
