//! A reader of `GET /events`: takes server-sent events apart as a browser would.

use std::net::SocketAddr;

use serde_json::Value;

use crate::http::{Connection, Response};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: u64,
    pub kind: String,
    pub data: Value,
}

/// An open stream.
pub struct EventStream {
    connection: Connection,
    pending: String,
    /// Comments that were passed over.
    pub comments: usize,
    /// The answer's head.
    pub head: Response,
}

impl EventStream {
    /// Opens a stream.
    ///
    /// # Errors
    /// The answer, when it is no 200.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Response> {
        let mut stream = Self::ask(address, path, headers);
        stream.answered()?;
        Ok(stream)
    }

    /// Asks for a stream; `answered` waits for the answer.
    pub fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut connection = Connection::open(address);
        connection.send("GET", path, headers, None);
        let head = Response { status: 0, headers: Vec::new(), body: String::new() };
        Self { connection, pending: String::new(), comments: 0, head }
    }

    /// Reads the answer's head.
    ///
    /// # Errors
    /// The answer, when it is no 200.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn answered(&mut self) -> Result<(), Response> {
        let head = self.connection.try_head().expect("an answer");
        if head.status == 200 {
            self.head = head;
            Ok(())
        } else {
            Err(head)
        }
    }

    /// The next event; `None` when the stream has ended in good order.
    ///
    /// # Panics
    /// When it breaks off, nothing comes for long, or what comes is no event.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.pending.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.pending = rest;
                if block.starts_with(':') {
                    assert_eq!(block, ": keep-alive");
                    self.comments += 1;
                    continue;
                }
                return Some(parsed(&block));
            }
            if !self.more() {
                assert_eq!(self.pending, "", "the stream ended within an event");
                return None;
            }
        }
    }

    /// Waits for a comment.
    ///
    /// # Panics
    /// When an event or the end comes first.
    pub fn comment(&mut self) {
        let before = self.comments;
        while !self.pending.contains(": keep-alive\n\n") {
            assert!(self.more(), "the stream ended before a comment");
        }
        let (block, rest) = self.pending.split_once("\n\n").expect("a whole comment");
        assert_eq!(block, ": keep-alive");
        self.pending = rest.to_owned();
        self.comments = before + 1;
    }

    /// The connection, once the stream has ended.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    fn more(&mut self) -> bool {
        let chunk = self.connection.chunk().expect("a chunk of the stream");
        self.pending.push_str(std::str::from_utf8(&chunk).expect("a piece holds whole characters"));
        !chunk.is_empty()
    }
}

fn parsed(block: &str) -> Event {
    let lines: Vec<&str> = block.split('\n').collect();
    let [id, kind, data] = lines[..] else { panic!("no event: {block:?}") };
    let field = |line: &'_ str, name: &str| {
        line.strip_prefix(name).unwrap_or_else(|| panic!("no {name:?} in {block:?}")).to_owned()
    };
    Event {
        id: field(id, "id: ").parse().expect("an id is a number"),
        kind: field(kind, "event: "),
        data: serde_json::from_str(&field(data, "data: ")).expect("data is JSON"),
    }
}
