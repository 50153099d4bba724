//! Who may ask what, and how each answer looks.

use shared::wire::gateway::{Reply, Request};
use shared::wire::refusal::RefusalKind;
use tests::front_peer::Launched;
use tests::http::{Connection, request};

use super::{RW, check, error, get, health, refused, through, with_tokens};

#[test]
fn health_has_five_fields_in_order_and_one_question_serves_a_crowd() {
    let mut launched = Launched::start(&with_tokens());
    let mut crowd: Vec<Connection> = (0..20).map(|_| Connection::open(launched.front.address)).collect();
    for connection in &mut crowd {
        connection.send("GET", "/healthz", &[], None);
    }
    let (call, request) = launched.executor.request();
    assert_eq!(request, Request::Health);
    launched.executor.answer(call, health());
    for connection in &mut crowd {
        let response = connection.response();
        let uptime: serde_json::Value = serde_json::from_str(&response.body).expect("JSON");
        let uptime = uptime["uptime_seconds"].as_u64().expect("a number");
        check(
            &response,
            200,
            &format!(
                "{{\"status\":\"ok\",\"uptime_seconds\":{uptime},\"queue_depth\":3,\"plugins_loaded\":2,\"plugins_circuit_open\":1}}"
            ),
        );
    }
}

#[test]
fn health_that_can_not_be_counted_is_an_error() {
    let mut launched = Launched::start(&with_tokens());
    let (_, response) = through(&mut launched, &get("/healthz", &[]), refused(RefusalKind::Internal));
    check(&response, 500, &error("failed to compute queue depth"));
    let mut launched = Launched::start(&with_tokens());
    let (_, response) = through(&mut launched, &get("/healthz", &[]), refused(RefusalKind::Storage));
    check(&response, 503, &error("failed to compute queue depth"));
    assert_eq!(response.header("retry-after").as_deref(), Some("1"));
}

#[test]
fn paths_methods_and_tokens_are_refused_in_the_chapters_words() {
    let launched = Launched::start(&with_tokens());
    let answer = |method: &str, path: &str, authorization: &str, status: u16, text: &str| {
        let headers = [("Authorization", authorization)];
        let headers = if authorization.is_empty() { &headers[..0] } else { &headers[..] };
        let response = request(launched.front.address, method, path, headers, None);
        assert_eq!((response.status, &response.body), (status, &error(text)), "{method} {path} {authorization:?}");
        assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    };
    answer("GET", "/nowhere", "", 404, "not found");
    answer("GET", "/plugins/", "", 404, "not found");
    answer("GET", "//plugins", "", 404, "not found");
    answer("POST", "/healthz", "", 405, "method not allowed");
    answer("DELETE", "/plugins", "", 405, "method not allowed");
    answer("GET", "/plugin/echo/poll", "", 405, "method not allowed");
    answer("BREW", "/job/1", "", 405, "method not allowed");
    answer("GET", "/vault/list", "", 405, "method not allowed");
    for (method, path) in [("GET", "/plugins"), ("GET", "/job/1"), ("POST", "/plugin/echo/poll")] {
        answer(method, path, "", 401, "missing or invalid Authorization header");
        answer(method, path, "Bearer ", 401, "missing or invalid Authorization header");
        answer(method, path, "bearer rw-token", 401, "invalid Authorization header format");
        answer(method, path, "Basic cnc=", 401, "invalid Authorization header format");
        answer(method, path, "Bearer wrong", 401, "invalid token");
        answer(method, path, "Bearer rw-toke", 401, "invalid token");
        // Query-string tokens work on `/events` alone.
        answer(method, &format!("{path}?token=rw-token"), "", 401, "missing or invalid Authorization header");
    }
    for path in ["/plugin/echo/poll", "/plugin/nowhere/poll"] {
        answer("POST", path, "Bearer catalog-token", 403, "insufficient scope");
        answer("POST", path, "Bearer none-token", 403, "insufficient scope");
    }
    answer("GET", "/job/1", "Bearer invoke-token", 403, "insufficient scope");
    let managed = "managed only over the vault agent socket: use ductile vault";
    for path in ["/vault/list", "/vault/secret", "/vault/secret/revoke", "/vault/nothing"] {
        answer("POST", path, "", 403, managed);
        answer("POST", path, "Bearer star-token", 403, managed);
    }
}

#[test]
fn plugins_are_listed_for_any_token() {
    let launched = Launched::start(&with_tokens());
    for caller in ["Bearer none-token", "Bearer status-token", "Bearer  star-token  "] {
        let response = request(launched.front.address, "GET", "/plugins", &[("Authorization", caller)], None);
        check(
            &response,
            200,
            "{\"plugins\":[{\"name\":\"echo\",\"version\":\"1.2.3\",\"commands\":[\"poll\",\"handle\",\"write\"]},{\"name\":\"off\",\"version\":\"1.2.3\",\"commands\":[\"poll\"]}]}",
        );
    }
}

#[test]
fn an_admin_token_is_refused_everywhere_and_reported_once() {
    let mut launched = Launched::start(&with_tokens());
    let admin = [("Authorization", "Bearer admin-token")];
    let answer = |method: &str, path: &str| request(launched.front.address, method, path, &admin, None);
    check(&answer("GET", "/plugins"), 401, &error("invalid token"));
    check(&answer("GET", "/healthz"), 401, &error("invalid token"));
    check(&answer("GET", "/nowhere"), 401, &error("invalid token"));
    let managed = "managed only over the vault agent socket: use ductile vault";
    check(&answer("POST", "/vault/secret"), 403, &error(managed));
    let (call, request) = launched.executor.request();
    assert_eq!(request, Request::TokenExposed);
    launched.executor.answer(call, Reply::Done);
    launched.front.logged(&["\"event\":\"admin_token_exposed\"", "\"WARN\""]);
    // The next thing that the executor hears is something else.
    let (next, _) = through(&mut launched, &get("/healthz", &[]), health());
    assert_eq!(next, Request::Health);
    assert!(launched.front.log().iter().all(|line| !line.contains("admin-token")));
}

#[test]
fn cross_origin_headers_are_for_listed_origins_only() {
    let launched = Launched::start(&with_tokens());
    let answer =
        |method: &str, headers: &[(&str, &str)]| request(launched.front.address, method, "/plugins", headers, None);
    let listed = ("Origin", "https://app.example");
    let response = answer("GET", &[listed]);
    assert_eq!(response.status, 401);
    assert_eq!(response.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    assert_eq!(response.header("access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(response.header("access-control-expose-headers").as_deref(), Some("Link"));
    assert_eq!(response.header("vary").as_deref(), Some("Origin"));
    let asks = ("Access-Control-Request-Method", "POST");
    let response = answer("OPTIONS", &[listed, asks]);
    assert_eq!((response.status, response.body.as_str()), (204, ""));
    assert_eq!(response.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    assert_eq!(response.header("access-control-allow-methods").as_deref(), Some("GET, POST, PUT, DELETE, OPTIONS"));
    assert_eq!(
        response.header("access-control-allow-headers").as_deref(),
        Some("Accept, Authorization, Content-Type, X-CSRF-Token")
    );
    assert_eq!(response.header("access-control-max-age").as_deref(), Some("300"));
    let vary = response.header("vary").expect("vary");
    for name in ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"] {
        assert!(vary.contains(name), "{vary}");
    }
    for origin in ["https://app.example.evil", "https://APP.example", "null"] {
        let response = answer("OPTIONS", &[("Origin", origin), asks]);
        assert_eq!((response.status, response.header("access-control-allow-origin")), (405, None), "{origin}");
    }
    assert_eq!(answer("OPTIONS", &[listed]).status, 405);
}

#[test]
fn every_request_is_logged_without_its_query() {
    let launched = Launched::start(&with_tokens());
    let headers = [("X-Request-Id", "given-7"), RW];
    assert_eq!(request(launched.front.address, "GET", "/nowhere?token=hush", &headers, None).status, 404);
    let line = launched.front.logged(&["given-7"]);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((value["method"].as_str(), value["path"].as_str()), (Some("GET"), Some("/nowhere")));
    assert_eq!((value["status"].as_u64(), value["component"].as_str()), (Some(404), Some("api")));
    assert!(value["duration_ms"].is_u64() && value["level"] == "INFO");
    assert_eq!(request(launched.front.address, "GET", "/elsewhere", &[], None).status, 404);
    let line = launched.front.logged(&["/elsewhere"]);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(value["request_id"].as_str().is_some_and(|id| !id.is_empty()));
    assert!(launched.front.log().iter().all(|line| !line.contains("hush") && !line.contains("rw-token")));
}
