//! Where the metrics are fetched: as much of HTTP/1.1 (RFC 9110, RFC 9112) as that takes.
//!
//! Whoever fetches them is served between two looks at the peers, and can hold up nothing: there are [`MOST`] at once, each
//! with a few seconds and little to say, nothing is waited for, and a connection has one answer. When all places are taken
//! the one that has had its place for longest makes room.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::metrics::CONTENT_TYPE;
use crate::net::listener::ListeningSocket;

/// The sockets for that and who has connected.
#[derive(Default)]
pub(super) struct Endpoint {
    sockets: Vec<ListeningSocket>,
    /// In the order in which they came.
    scrapers: Vec<Scraper>,
    /// Until when nobody is accepted, because descriptors are short.
    pause: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(sockets: Vec<ListeningSocket>) -> Self {
        Self { sockets, ..Self::default() }
    }

    /// Whether anybody can ask.
    pub(super) fn is_there(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// Where the metrics are.
    pub(super) fn sockets(&self) -> &[ListeningSocket] {
        &self.sockets
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let sockets = self.sockets.iter().filter(|_| self.pause.is_none());
        let sockets = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        sockets.chain(self.scrapers.iter().map(|scraper| PollFd::new(scraper.stream.as_fd(), scraper.waits_for())))
    }

    /// When to go on at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.scrapers.iter().map(|scraper| scraper.deadline).chain(self.pause).min()
    }

    /// Does what can be done at once; `metrics` writes them down for somebody who wants them.
    pub(super) fn go_on(&mut self, metrics: impl Fn() -> String) {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| *until > now);
        if self.pause.is_none() && self.accept(now).is_err() {
            self.pause = Some(now + PAUSE);
        }
        self.scrapers.retain_mut(|scraper| scraper.deadline > now && scraper.go_on(&metrics).is_ok());
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for socket in &self.sockets {
            for _ in 0..MOST {
                match socket.accept() {
                    Ok((stream, _)) => {
                        // Of a Unix socket all calls are the same.
                        let stream = TcpStream::from(stream);
                        stream.set_nonblocking(true)?;
                        if self.scrapers.len() == MOST {
                            self.scrapers.remove(0);
                        }
                        self.scrapers.push(Scraper { stream, deadline: now + TIME, state: State::Asking(Vec::new()) });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Somebody who has connected.
struct Scraper {
    stream: TcpStream,
    deadline: Instant,
    state: State,
}

enum State {
    /// The request, as far as it has come.
    Asking(Vec<u8>),
    /// The answer, as far as it has not left.
    Answering(Vec<u8>),
    /// The answer has left. To close the connection with something unread in it could take the answer back
    /// (RFC 9112, section 9.6); so many octets of that are read.
    Leaving(usize),
}

impl Scraper {
    fn waits_for(&self) -> PollFlags {
        match self.state {
            State::Asking(_) | State::Leaving(_) => PollFlags::POLLIN,
            State::Answering(_) => PollFlags::POLLOUT,
        }
    }

    /// Goes on until something has to be waited for. An error is the end.
    fn go_on(&mut self, metrics: &impl Fn() -> String) -> io::Result<()> {
        loop {
            let gone_on = match &mut self.state {
                State::Asking(request) => {
                    let read = read(&self.stream, request);
                    read.map(|()| answer(request, metrics).map(State::Answering))
                }
                State::Answering(answer) => (&self.stream).write(answer).and_then(|length| {
                    answer.drain(..length);
                    let is_out = answer.is_empty();
                    if is_out {
                        self.stream.shutdown(Shutdown::Write).map(|()| Some(State::Leaving(LONGEST_REQUEST)))
                    } else {
                        Ok(None)
                    }
                }),
                State::Leaving(left) => {
                    let mut rest = Vec::new();
                    read(&self.stream, &mut rest).and_then(|()| {
                        *left = left.checked_sub(rest.len()).ok_or(ErrorKind::InvalidData)?;
                        Ok(None)
                    })
                }
            };
            match gone_on {
                Ok(Some(state)) => self.state = state,
                Ok(None) if matches!(self.state, State::Answering(_)) => {}
                // Others have their turn before the next piece.
                Ok(None) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Appends what has come, once. The end of it is an error.
fn read(mut stream: &TcpStream, to: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 2048];
    match stream.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => {
            to.extend_from_slice(&buffer[..length]);
            Ok(())
        }
    }
}

/// The answer, once the request is there as a whole, or is none.
fn answer(request: &[u8], metrics: impl Fn() -> String) -> Option<Vec<u8>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let status = match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {
            let path = parsed.path.unwrap_or_default();
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            match (parsed.method.unwrap_or_default(), path) {
                (_, path) if path != PATH => "404 Not Found",
                ("GET" | "HEAD", _) => "200 OK",
                _ => "405 Method Not Allowed",
            }
        }
        Ok(httparse::Status::Partial) if request.len() < LONGEST_REQUEST => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => "431 Request Header Fields Too Large",
        Err(_) => "400 Bad Request",
    };
    let (kind, body) = match status {
        "200 OK" => (CONTENT_TYPE, metrics()),
        other => ("text/plain; charset=utf-8", format!("{other}: the metrics of mailrecv are at {PATH}\n")),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    let is_head = parsed.method == Some("HEAD");
    Some(if is_head { head } else { head + &body }.into_bytes())
}

/// Where the metrics are.
const PATH: &str = "/metrics";

/// How many may be connected at once.
const MOST: usize = 16;

/// How long each has from connect to close.
const TIME: Duration = Duration::from_secs(5);

/// Between two tries to accept somebody.
const PAUSE: Duration = Duration::from_secs(1);

/// Octets of a request, and fields in it; Prometheus sends some 250 octets.
const LONGEST_REQUEST: usize = 8192;
const MOST_FIELDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let many_fields = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let long = format!("GET /metrics HTTP/1.1\r\na: {}", "b".repeat(LONGEST_REQUEST));
        for (request, first_line) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK"),
            ("GET /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"),
            ("GET /metrics?a=b HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
            ("GET /metrics HTTP/1.1\n\n", "HTTP/1.1 200 OK"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("EHLO x\r\n", "HTTP/1.1 400 Bad Request"),
            ("\u{16}\u{3}\u{1}", "HTTP/1.1 400 Bad Request"),
            (&many_fields, "HTTP/1.1 431 Request Header Fields Too Large"),
            (&long, "HTTP/1.1 431 Request Header Fields Too Large"),
        ] {
            let answer = answer(request.as_bytes(), || "metrics".to_owned()).expect(request);
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.lines().next(), Some(first_line), "{request}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body == "metrics", first_line.contains("200") && !request.starts_with("HEAD"), "{request}");
            assert_eq!(head.contains("\r\nAllow: GET, HEAD"), first_line.contains("405"), "{request}");
        }
        for unfinished in ["", "G", "GET /metrics HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\n"] {
            assert_eq!(answer(unfinished.as_bytes(), String::new), None, "{unfinished}");
        }
    }
}
