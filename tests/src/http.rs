//! An HTTP/1.1 client just large enough for tests: requests are written as bytes, so that a test
//! can also write what no well-behaved client would.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than every limit of the front on a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, taken apart.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// The value of a header; several of one name are joined by `, `.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        if values.is_empty() { None } else { Some(values.join(", ")) }
    }
}

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    let mut connection = Connection::open(address);
    connection.send(method, path, headers, body);
    connection.response()
}

/// A connection that is kept open.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, received: Vec::new() }
    }

    /// Writes a request; the answer is read by `response`. A body gets its `Content-Length`.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.raw(&bytes);
    }

    /// Writes bytes as they are; a peer that has closed already is found out by `response`.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads one answer. Answers to `HEAD` are not understood.
    pub fn response(&mut self) -> Response {
        self.try_response().expect("a whole answer")
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// What ended the connection before the answer was whole.
    pub fn try_response(&mut self) -> io::Result<Response> {
        let mut response = self.try_head()?;
        if response.status >= 200 && response.status != 204 {
            let body = if response.header("transfer-encoding").is_some() {
                self.chunks()?
            } else {
                let length = response.header("content-length").and_then(|length| length.parse().ok());
                self.exactly(length.ok_or_else(|| io::Error::other("no length"))?)?
            };
            response.body = String::from_utf8(body).map_err(io::Error::other)?;
        }
        Ok(response)
    }

    /// Reads an answer up to its body, which is read by `chunk` when it comes in chunks.
    ///
    /// # Errors
    /// What ended the connection before.
    pub fn try_head(&mut self) -> io::Result<Response> {
        let head = self.until(b"\r\n\r\n")?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Response { status, headers, body: String::new() })
    }

    /// Reads one chunk of a body; an empty one is its end.
    ///
    /// # Errors
    /// What ended the connection before.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.until(b"\r\n")?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let chunk = self.exactly(length)?;
        self.exactly(2)?;
        Ok(chunk)
    }

    /// Waits until the peer closes, passing over what still comes.
    pub fn wait_closed(&mut self) {
        let mut waste = [0; 4096];
        loop {
            match self.stream.read(&mut waste) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Ok(_) => {}
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                let bytes = self.exactly(at + end.len())?;
                return String::from_utf8(bytes).map_err(io::Error::other);
            }
            self.fill()?;
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.received.len() < length {
            self.fill()?;
        }
        Ok(self.received.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            taken => {
                self.received.extend_from_slice(&chunk[..taken]);
                Ok(())
            }
        }
    }
}
