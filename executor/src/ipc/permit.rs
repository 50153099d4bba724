//! The table Role x request of the executor's sockets, on one screen. What is not in it is logged
//! and closes the connection.

use shared::wire::gateway::Request;

use super::Role;

/// Whether `role` may ask this.
pub fn permitted(role: Role, request: &Request) -> bool {
    use Role::{Admin, Front};
    match request {
        Request::FrontConfig => matches!(role, Front),
        Request::Health => matches!(role, Front | Admin),
        Request::Trigger { .. } => matches!(role, Front | Admin),
        Request::GetJob { .. } => matches!(role, Front | Admin),
        Request::TokenExposed => matches!(role, Front),
        Request::RetryJob { .. } => matches!(role, Front | Admin),
        Request::CancelJob { .. } => matches!(role, Front | Admin),
        Request::Schedules { .. } => matches!(role, Front | Admin),
        Request::Rearm { .. } => matches!(role, Admin),
        Request::ResetBreaker { .. } => matches!(role, Admin),
        Request::Breaker { .. } => matches!(role, Admin),
        Request::ActivePolls => matches!(role, Admin),
        Request::Events { .. } => matches!(role, Front | Admin),
    }
}

/// The request's name, for the log.
pub fn name(request: &Request) -> &'static str {
    match request {
        Request::FrontConfig => "FrontConfig",
        Request::Health => "Health",
        Request::Trigger { .. } => "Trigger",
        Request::GetJob { .. } => "GetJob",
        Request::TokenExposed => "TokenExposed",
        Request::RetryJob { .. } => "RetryJob",
        Request::CancelJob { .. } => "CancelJob",
        Request::Schedules { .. } => "Schedules",
        Request::Rearm { .. } => "Rearm",
        Request::ResetBreaker { .. } => "ResetBreaker",
        Request::Breaker { .. } => "Breaker",
        Request::ActivePolls => "ActivePolls",
        Request::Events { .. } => "Events",
    }
}
