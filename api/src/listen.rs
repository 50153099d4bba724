//! Addresses: what `api.listen` stands for, a listener of our own on it, and whether the one that
//! systemd holds is the configured one (design, decision 29).

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait for `accept`.
const BACKLOG: u32 = 1024;

/// Why there is no listener.
#[derive(Debug)]
pub(crate) enum ListenError {
    Resolve {
        listen: String,
        source: io::Error,
    },
    Bind {
        listen: String,
        source: io::Error,
    },
    /// systemd holds another address than the configured one.
    HeldElsewhere {
        held: SocketAddr,
        listen: String,
    },
    /// systemd holds an address, and the API is disabled.
    HeldUnasked {
        held: SocketAddr,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { listen, .. } => write!(f, "api.listen {listen}: resolve"),
            Self::Bind { listen, .. } => write!(f, "api.listen {listen}: bind"),
            Self::HeldElsewhere { held, listen } => {
                write!(
                    f,
                    "socket unit holds {held}, but api.listen is {listen}: make ListenStream= and api.listen equal"
                )
            }
            Self::HeldUnasked { held } => {
                write!(
                    f,
                    "socket unit holds {held}, but the API is disabled (api.enabled: false): disable ductile-api.socket"
                )
            }
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve { source, .. } | Self::Bind { source, .. } => Some(source),
            Self::HeldElsewhere { .. } | Self::HeldUnasked { .. } => None,
        }
    }
}

/// Every address that `listen` (`host:port`; an empty host is every interface) stands for, IPv4
/// first, so that `localhost` is `127.0.0.1` where it is both.
async fn resolve(listen: &str) -> Result<Vec<SocketAddr>, ListenError> {
    let failed = |source| ListenError::Resolve { listen: listen.to_owned(), source };
    if let Some(port) = listen.strip_prefix(':') {
        let port = port.parse().map_err(|_| failed(io::Error::other("port is not a number from 0 to 65535")))?;
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(listen).await.map_err(failed)?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() { Err(failed(io::Error::other("no address"))) } else { Ok(addresses) }
}

/// A listener on the first address of `listen` that can be had.
///
/// # Errors
/// `Resolve` or `Bind`, the latter with the last address's failure.
pub(crate) async fn bind(listen: &str) -> Result<TcpListener, ListenError> {
    let mut last = io::Error::other("no address");
    for address in resolve(listen).await? {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(ListenError::Bind { listen: listen.to_owned(), source: last })
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Compares the address that systemd holds with the configured one.
///
/// # Errors
/// `HeldElsewhere` or `HeldUnasked` for a configuration that can not be served, `Resolve` when
/// that could not be found out now.
pub(crate) async fn check_held(held: SocketAddr, listen: Option<&str>) -> Result<(), ListenError> {
    let Some(listen) = listen else { return Err(ListenError::HeldUnasked { held }) };
    let same = |address: &SocketAddr| address.ip() == held.ip() && address.port() == held.port();
    if resolve(listen).await?.iter().any(same) {
        Ok(())
    } else {
        Err(ListenError::HeldElsewhere { held, listen: listen.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
    }

    #[test]
    fn a_held_address_must_be_the_configured_one() {
        let check = |held: &str, listen: Option<&str>, expected: bool| {
            let outcome = run(check_held(held.parse().expect("an address"), listen));
            assert_eq!(outcome.is_ok(), expected, "{held} {listen:?}");
            if let (Err(error), Some(listen)) = (&outcome, listen) {
                let text = error.to_string();
                assert!(text.contains(listen), "{text}");
            }
        };
        check("127.0.0.1:8081", Some("127.0.0.1:8081"), true);
        check("127.0.0.1:8081", Some("localhost:8081"), true);
        check("127.0.0.1:8081", Some("127.0.0.1:8082"), false);
        check("127.0.0.2:8081", Some("localhost:8081"), false);
        check("[::]:8081", Some(":8081"), true);
        check("0.0.0.0:8081", Some(":8081"), true);
        check("[::1]:8081", Some("[::1]:8081"), true);
        check("127.0.0.1:8081", None, false);
        check("127.0.0.1:8081", Some("no port"), false);
        check("127.0.0.1:8081", Some(":port"), false);
    }

    #[test]
    fn a_taken_port_is_told_with_its_address() {
        let outcome = run(async {
            let first = bind("localhost:0").await.expect("a free port");
            let address = first.local_addr().expect("bound");
            assert!(address.is_ipv4() && address.port() != 0);
            bind(&address.to_string()).await.map(|_| ()).map_err(|error| (error.to_string(), address.to_string()))
        });
        let (text, address) = outcome.expect_err("the port is taken");
        assert!(text.contains(&address), "{text}");
    }
}
