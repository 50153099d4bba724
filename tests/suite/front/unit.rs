//! The front of the unit set: the test is systemd, and the executor comes and goes.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shared::wire::gateway::{FrontConfig, Posture};
use tests::front_peer::{Front, Peer, activate, config};
use tests::http::{Connection, request};

use super::{RW, check, error, with_tokens};

/// A directory of the test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ductile-front-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A front of the unit set that has no executor yet.
fn activated(scratch: &Scratch) -> (Front, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let notify = Notifications::new(scratch);
    let front = activate(&[&listener], "api", &scratch.0.join("executor.sock"), &[("NOTIFY_SOCKET", &notify.path)]);
    notify.wait("READY=1");
    (front, listener)
}

/// systemd's ear.
struct Notifications {
    socket: UnixDatagram,
    path: String,
}

impl Notifications {
    fn new(scratch: &Scratch) -> Self {
        let path = scratch.0.join("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
        Self { socket, path: path.into_os_string().into_string().expect("UTF-8") }
    }

    fn wait(&self, wanted: &str) {
        let mut message = [0; 64];
        loop {
            let length = self.socket.recv(&mut message).expect(wanted);
            if message[..length].trim_ascii() == wanted.as_bytes() {
                return;
            }
        }
    }
}

/// Asks until the front has its executor, as a caller does who heeds `Retry-After`.
fn until_up(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while request(address, "GET", "/plugins", &[RW], None).status != 200 {
        assert!(Instant::now() < deadline, "the front does not find its executor");
    }
}

#[test]
fn a_front_of_the_unit_set_answers_without_its_executor_and_finds_it_again() {
    let scratch = Scratch::new("away");
    let (mut front, listener) = activated(&scratch);
    let away = |path: &str, method: &str| {
        let response = request(front.address, method, path, &[RW], None);
        assert_eq!(response.header("retry-after").as_deref(), Some("1"), "{path}");
        check(&response, 503, &error("executor unavailable"));
    };
    let all_away = || {
        away("/plugins", "GET");
        away("/job/1", "GET");
        away("/plugin/echo/poll", "POST");
        let response = request(front.address, "GET", "/healthz", &[], None);
        let value: serde_json::Value = serde_json::from_str(&response.body).expect("JSON");
        assert_eq!(response.status, 503);
        assert_eq!(
            response.body,
            format!(
                "{{\"status\":\"unavailable\",\"uptime_seconds\":{},\"queue_depth\":0,\"plugins_loaded\":0,\"plugins_circuit_open\":0}}",
                value["uptime_seconds"]
            )
        );
        assert_eq!(request(front.address, "GET", "/nowhere", &[], None).status, 404);
        assert_eq!(request(front.address, "POST", "/vault/list", &[], None).status, 403);
    };
    all_away();
    let executor = UnixListener::bind(scratch.0.join("executor.sock")).expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let config = FrontConfig { listen: Some(address), ..with_tokens() };
    for end in [&b""[..], b"\xff\xff\xff\xff", b"\x02\0\0\0\x01\xff"] {
        let mut peer = Peer::new(executor.accept().expect("the front connects").0);
        peer.welcome(&config);
        until_up(front.address);
        let mut asking = Connection::open(front.address);
        asking.send("GET", "/job/1", &[RW], None);
        peer.request();
        if !end.is_empty() {
            peer.raw(end);
            peer.wait_closed();
        }
        drop(peer);
        check(&asking.response(), 503, &error("executor unavailable"));
        all_away();
    }
    assert!(front.is_running());
    front.terminate();
    assert_eq!(front.exit_code(), Some(0));
    // The listener is systemd's: it outlives the front.
    assert_eq!(listener.local_addr().expect("bound"), front.address);
}

#[test]
fn a_front_of_the_unit_set_refuses_what_does_not_go_together() {
    let scratch = Scratch::new("refused");
    let executor = UnixListener::bind(scratch.0.join("executor.sock")).expect("bind");
    for listen in [Some("127.0.0.1:1".to_owned()), None] {
        let (mut front, listener) = activated(&scratch);
        let mut peer = Peer::new(executor.accept().expect("the front connects").0);
        peer.welcome(&FrontConfig { listen: listen.clone(), ..config() });
        assert_eq!(front.exit_code(), Some(78));
        let held = listener.local_addr().expect("bound").to_string();
        front.logged(&["start refused", &held, listen.as_deref().unwrap_or("api.enabled")]);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    for names in ["webhooks", "API", "", "api:webhooks", "unknown"] {
        let mut front = activate(&[&listener], names, &scratch.0.join("executor.sock"), &[]);
        assert_eq!(front.exit_code(), Some(78), "{names:?}");
    }
    for names in ["api:api", "api:other", "api"] {
        let mut front = activate(&[&listener, &listener], names, &scratch.0.join("executor.sock"), &[]);
        assert_eq!(front.exit_code(), Some(78), "{names:?}");
    }
}

#[test]
fn systemd_hears_of_start_life_and_end_and_the_webhook_port_has_no_endpoint() {
    let scratch = Scratch::new("webhooks");
    let api = TcpListener::bind("127.0.0.1:0").expect("a port");
    let webhooks = TcpListener::bind("127.0.0.1:0").expect("a port");
    let notify = Notifications::new(&scratch);
    let env = [("NOTIFY_SOCKET", notify.path.as_str()), ("WATCHDOG_USEC", "100000")];
    let mut front = activate(&[&webhooks, &api], "webhooks:api", &scratch.0.join("executor.sock"), &env);
    notify.wait("READY=1");
    notify.wait("WATCHDOG=1");
    notify.wait("WATCHDOG=1");
    let address = webhooks.local_addr().expect("bound");
    check(&request(address, "POST", "/webhook/push", &[], Some(b"{}")), 404, &error("endpoint not found"));
    check(&request(address, "GET", "/healthz", &[], None), 404, &error("endpoint not found"));
    let response = request(api.local_addr().expect("bound"), "GET", "/healthz", &[], None);
    assert_eq!(response.status, 503);
    front.terminate();
    notify.wait("STOPPING=1");
    assert_eq!(front.exit_code(), Some(0));
}

#[test]
fn a_held_port_answers_for_the_management_posture() {
    let scratch = Scratch::new("management");
    let (front, listener) = activated(&scratch);
    let executor = UnixListener::bind(scratch.0.join("executor.sock")).expect("bind");
    let mut peer = Peer::new(executor.accept().expect("the front connects").0);
    let listen = Some(listener.local_addr().expect("bound").to_string());
    peer.welcome(&FrontConfig { listen, posture: Posture::ManagementOnly, ..config() });
    front.logged(&["executor connected"]);
    for path in ["/healthz", "/plugins", "/nowhere"] {
        check(&request(front.address, "GET", path, &[], None), 503, &error("management only"));
    }
}
