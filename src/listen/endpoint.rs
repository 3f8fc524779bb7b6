//! The HTTP server for the metrics: only those parts of HTTP/1.1 (RFC 9110, RFC 9112) that this needs.
//!
//! It is served between two looks at the peers and can hold up nothing: at most [`MOST`] clients are connected at once,
//! each for a few seconds and with a short request, nothing blocks, and each connection gets one answer. When all
//! places are taken, the client that was connected first makes room.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::metrics::CONTENT_TYPE;
use crate::net::listener::ListeningSocket;

/// The listening sockets and the clients that are connected.
#[derive(Default)]
pub(super) struct Endpoint {
    sockets: Vec<ListeningSocket>,
    /// The clients, in the order in which they connected.
    scrapers: Vec<Scraper>,
    /// Until when nobody is accepted, because descriptors are short.
    pause: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(sockets: Vec<ListeningSocket>) -> Self {
        Self { sockets, ..Self::default() }
    }

    /// Whether the metrics are served anywhere.
    pub(super) fn is_there(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// The listening sockets.
    pub(super) fn sockets(&self) -> &[ListeningSocket] {
        &self.sockets
    }

    /// The descriptors to poll.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let sockets = self.sockets.iter().filter(|_| self.pause.is_none());
        let sockets = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        sockets.chain(self.scrapers.iter().map(|scraper| PollFd::new(scraper.stream.as_fd(), scraper.waits_for())))
    }

    /// When [`Endpoint::go_on`] has to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.scrapers.iter().map(|scraper| scraper.deadline).chain(self.pause).min()
    }

    /// Does everything that is possible without waiting; `metrics` produces the text for a client that asks for it.
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
                        // The same calls work on a stream from a Unix socket.
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

/// A client that is connected.
struct Scraper {
    stream: TcpStream,
    deadline: Instant,
    state: State,
}

enum State {
    /// The request, as far as it has been received.
    Asking(Vec<u8>),
    /// The rest of the answer that was not sent yet.
    Answering(Vec<u8>),
    /// The answer was sent. Closing a connection with unread input could make the client lose the answer (RFC 9112,
    /// section 9.6), so up to this many octets are still read.
    Leaving(usize),
}

impl Scraper {
    fn waits_for(&self) -> PollFlags {
        match self.state {
            State::Asking(_) | State::Leaving(_) => PollFlags::POLLIN,
            State::Answering(_) => PollFlags::POLLOUT,
        }
    }

    /// Goes on until it would have to wait. An error ends the connection.
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
                // Other clients have their turn before the next piece.
                Ok(None) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Appends what has come, with a single read. The end of the input is an error.
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

/// The answer to a request; `None` if the request is not complete.
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

/// The path of the metrics.
const PATH: &str = "/metrics";

/// How many clients may be connected at once.
const MOST: usize = 16;

/// How long a client may be connected.
const TIME: Duration = Duration::from_secs(5);

/// How long nobody is accepted after accepting has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest request in octets, and the most fields in it; Prometheus sends about 250 octets.
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
