//! Many connections that one thread keeps busy. A thread for each would spend, on the cores of
//! which the product is measured, more than the front does.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use tests::site::Site;

use crate::load;

/// Connections over which one request is sent again and again.
pub(crate) struct Crowd {
    request: Vec<u8>,
    callers: Vec<Caller>,
    epoll: OwnedFd,
}

struct Caller {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Crowd {
    /// Each asks for a job of the plugin with the usual payload.
    pub(crate) fn new(site: &Site, plugin: &str, connections: usize) -> Self {
        let body = load::payload();
        let request = format!(
            "POST /plugin/{plugin}/poll HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            site.token,
            body.len()
        );
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let callers = (0..connections).map(|number| {
            let stream = TcpStream::connect(site.address).expect("connect");
            stream.set_nodelay(true).expect("no delay");
            stream.set_nonblocking(true).expect("nonblocking");
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).expect("watched");
            Caller { stream, received: Vec::with_capacity(1024) }
        });
        Self { request: request.into_bytes(), callers: callers.collect(), epoll }
    }

    /// Has so many jobs admitted, each connection its next as soon as it has its answer.
    pub(crate) fn admit(&mut self, count: usize) {
        let (mut unsent, mut unanswered) = (count, count);
        for caller in &mut self.callers {
            if unsent > 0 {
                caller.send(&self.request);
                unsent -= 1;
            }
        }
        let mut space = [MaybeUninit::uninit(); 64];
        while unanswered > 0 {
            let (ready, _) = epoll::wait(&self.epoll, &mut space, None).expect("events");
            for event in ready {
                let number = usize::try_from(event.data.u64()).expect("a number");
                let caller = &mut self.callers[number];
                if caller.is_answered() {
                    unanswered -= 1;
                    if unsent > 0 {
                        caller.send(&self.request);
                        unsent -= 1;
                    }
                }
            }
        }
    }
}

impl Caller {
    /// A request of a kilobyte fits into the socket of a caller that has nothing under way.
    fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("sent");
    }

    /// Takes what has come; whether the answer is whole.
    fn is_answered(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => panic!("the front closed the connection"),
            Ok(taken) => self.received.extend_from_slice(&piece[..taken]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("no answer: {error}"),
        }
        // The answer to an admission is one small object, and no other body ends with a brace.
        let text = str::from_utf8(&self.received).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        assert!(head.starts_with("HTTP/1.1 202 "), "{text}");
        let is_whole = body.ends_with('}');
        if is_whole {
            self.received.clear();
        }
        is_whole
    }
}
