//! An SMTP client that speaks by hand, so that a test sees every byte of the answers, over whatever has two ends: TCP,
//! a socket pair, the pipes of a child.
//!
//! It waits with poll(2), so every wait is bounded, on pipes too. A function whose name begins with `try_` returns what
//! broke; the others panic.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, SockaddrIn, SockaddrIn6, SockaddrStorage, setsockopt, sockopt};

use crate::{PATIENCE, tcp, wait_until};

/// The client's end of an SMTP session.
pub struct Client {
    input: File,
    /// None once nothing more will be sent.
    output: Option<File>,
    line_end: &'static str,
    /// What has come and is not read yet.
    buffer: Vec<u8>,
    /// Room for what comes next.
    room: Box<[u8]>,
}

/// Why there is no reply. What had come before can still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended.
    Ended,
    /// It ended in the middle of this line.
    Torn(String),
    /// It was reset: the other end had closed it with bytes of ours unread.
    Reset,
    /// Nothing came in this time, or nothing was taken.
    Silent(Duration),
    /// This line is none of a reply (RFC 5321, 4.2).
    Garbled(String),
    /// What the system says.
    Failed(ErrorKind),
}

/// A reply of one or more lines, each with its code and without its CRLF, joined by LF.
pub type Reply = String;

// Connecting.

impl Client {
    /// Connects to a server.
    pub fn connect(server: SocketAddr) -> Self {
        Self::on_tcp(TcpStream::connect(server).unwrap_or_else(|error| panic!("connecting to {server}: {error}")))
    }

    /// Connects from this address of ours.
    pub fn connect_from(source: IpAddr, server: SocketAddr) -> Self {
        let connected = tcp::connect_from(source, server, PATIENCE);
        Self::on_tcp(connected.unwrap_or_else(|error| panic!("connecting from {source} to {server}: {error}")))
    }

    /// Connects to a server at a Unix socket.
    pub fn connect_unix(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self::on(UnixStream::connect(path).unwrap_or_else(|error| panic!("connecting to {}: {error}", path.display())))
    }

    /// Speaks on a connection that is there.
    pub fn on_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self::on(stream)
    }

    /// Speaks on some socket.
    pub fn on(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        let copy = socket.try_clone().expect("a copy of the descriptor");
        Self::over(socket, copy)
    }

    /// Speaks through two pipes: what is to be read, what is to be written.
    pub fn over(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Self {
        let (input, output) = (input.into(), output.into());
        for descriptor in [&input, &output] {
            let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL).expect("F_GETFL"));
            fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).expect("F_SETFL");
        }
        Self {
            input: File::from(input),
            output: Some(File::from(output)),
            line_end: "\r\n",
            buffer: Vec::new(),
            room: vec![0; LARGEST_PIECE].into_boxed_slice(),
        }
    }

    /// Copies of both ends, for somebody who comes in between.
    pub(crate) fn ends(&self) -> (File, File) {
        let output = self.output.as_ref().expect("a connection that is not half closed");
        (self.input.try_clone().expect("a copy of the descriptor"), output.try_clone().expect("the same"))
    }

    /// Goes on over this socket.
    pub(crate) fn replace_ends(&mut self, socket: OwnedFd) {
        let other = Self::on(socket);
        (self.input, self.output) = (other.input, other.output);
    }

    /// Ends its lines with LF, as a person does who types.
    pub fn types(&mut self) {
        self.line_end = "\n";
    }
}

// Sending. That nobody takes what is sent is noticed by whoever reads next.

impl Client {
    /// Sends bytes as they are; given up if nothing of them is taken for too long.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = bytes.as_ref().chunks(LARGEST_PIECE).all(|piece| self.send_within(piece, PATIENCE));
    }

    /// Sends all of it; whether it was taken in this time.
    pub fn send_within(&mut self, bytes: impl AsRef<[u8]>, time: Duration) -> bool {
        let (mut rest, deadline) = (bytes.as_ref(), Instant::now() + time);
        while !rest.is_empty() {
            let Some(output) = &mut self.output else { return false };
            match output.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !wait(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)], left) {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Sends as much as goes out in this time, and reads nothing; nor has the system much room for what is not read.
    pub fn send_without_reading(&mut self, bytes: &[u8], time: Duration) {
        setsockopt(&self.input, sockopt::RcvBuf, &4096).expect("SO_RCVBUF");
        self.send_within(bytes, time);
    }

    /// Waits until the other end has read everything that was sent, or has closed the connection: what is sent then comes by
    /// itself. For TCP to a process in this network, before a half-close.
    #[track_caller]
    pub fn until_read(&self) {
        // One that was reset has no other end.
        let Some((ours, theirs)) = self.ports() else { return };
        wait_until("the other end to read", || tcp::is_all_read(ours, theirs).then_some(()));
    }

    /// How much of what was sent has come and is not read at the other end; none if the connection is over there. Like
    /// [`Client::until_read`], it is for TCP in this network.
    pub(crate) fn unread(&self) -> Option<u32> {
        self.ports().and_then(|(ours, theirs)| tcp::unread(ours, theirs))
    }

    /// Our end's and the other's.
    fn ports(&self) -> Option<(u16, u16)> {
        let port = |address: SockaddrStorage| {
            let ipv4 = address.as_sockaddr_in().map(SockaddrIn::port);
            ipv4.or(address.as_sockaddr_in6().map(SockaddrIn6::port)).expect("a connection over TCP")
        };
        let ours = socket::getsockname(self.input.as_raw_fd()).expect("our address");
        let theirs = socket::getpeername(self.input.as_raw_fd()).ok()?;
        Some((port(ours), port(theirs)))
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        if let Some(output) = self.output.take() {
            // A pipe says so when its end is closed.
            let _ = socket::shutdown(output.as_raw_fd(), socket::Shutdown::Write);
        }
    }

    /// Breaks the connection off with a RST, as a peer that crashed does, and waits until it has come: on a busy machine a
    /// server may else say something more, and succeed.
    #[track_caller]
    pub fn reset(self) {
        let ports = self.ports();
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.input, sockopt::Linger, &linger).expect("SO_LINGER");
        drop(self);
        if let Some((ours, theirs)) = ports {
            wait_until("the end of the connection", || tcp::is_over(theirs, ours).then_some(()));
        }
    }
}

// Reading.

impl Client {
    /// The next line without its CRLF; `None` at the end of the connection, however it came about.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        match self.try_line() {
            Ok(line) => line,
            Err(Broken::Reset) if self.buffer.is_empty() => None,
            Err(broken) => panic!("{broken}; read was {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// A whole reply.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        match self.try_reply() {
            Ok(reply) => reply,
            Err(broken) => panic!("no reply: {broken}"),
        }
    }

    /// Reads a reply that begins like this.
    #[track_caller]
    pub fn expect(&mut self, beginning: &str) -> Reply {
        let reply = self.reply();
        assert!(reply.starts_with(beginning), "expected a reply like {beginning:?}, got {reply:?}");
        reply
    }

    /// Sends a command line and returns the reply.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Reply {
        match self.try_ask(line) {
            Ok(reply) => reply,
            Err(broken) => panic!("no reply to {line:?}: {broken}"),
        }
    }

    /// Sends a line and reads a reply that begins like this.
    #[track_caller]
    pub fn exchange(&mut self, line: &str, beginning: &str) -> Reply {
        let reply = self.ask(line);
        assert!(reply.starts_with(beginning), "expected {line:?} to get {beginning:?}, got {reply:?}");
        reply
    }

    /// Everything up to the end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        all_text(self.try_rest())
    }

    /// Whether nothing comes for so long, the connection staying open.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        matches!(self.read(time), Err(Broken::Silent(_)))
    }

    /// The next line without its CRLF; `None` at the end of the connection.
    pub fn try_line(&mut self) -> Result<Option<String>, Broken> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.drain(..=at).collect();
                let line = String::from_utf8(line).map_err(|error| garbled(error.as_bytes()))?;
                let whole = line.strip_suffix("\r\n").ok_or_else(|| garbled(line.as_bytes()))?;
                return Ok(Some(whole.to_owned()));
            }
            if self.read(PATIENCE)? == 0 {
                let torn = String::from_utf8_lossy(&self.buffer).into_owned();
                return if torn.is_empty() { Ok(None) } else { Err(Broken::Torn(torn)) };
            }
        }
    }

    /// A whole reply.
    pub fn try_reply(&mut self) -> Result<Reply, Broken> {
        let mut reply = String::new();
        loop {
            let line = self.try_line()?.ok_or(Broken::Ended)?;
            if !line.get(..3).is_some_and(|code| code.bytes().all(|digit| digit.is_ascii_digit())) {
                return Err(Broken::Garbled(line));
            }
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(reply);
            }
            reply.push('\n');
        }
    }

    /// Sends a command line and returns the reply.
    pub fn try_ask(&mut self, line: &str) -> Result<Reply, Broken> {
        self.send(format!("{line}{}", self.line_end));
        self.try_reply()
    }

    /// Everything up to the end of the connection. What had come before something broke is there for the next try.
    pub fn try_rest(&mut self) -> Result<Vec<u8>, Broken> {
        while self.read(PATIENCE)? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Sends a whole session, says that nothing more will come, and returns everything that was answered: both at once,
    /// as neither side's buffers need hold all of it. It may have been hung up on before everything was sent.
    pub fn try_converse(&mut self, script: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut rest = script;
        while let Some(output) = self.output.as_mut().filter(|_| !rest.is_empty()) {
            match output.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let (input, output) = (self.input.as_fd(), output.as_fd());
                    let mut either = [PollFd::new(input, PollFlags::POLLIN), PollFd::new(output, PollFlags::POLLOUT)];
                    if !wait(&mut either, PATIENCE) {
                        return Err(Broken::Silent(PATIENCE));
                    }
                    let has_come = either[0].any().unwrap_or(false);
                    if has_come && self.read(PATIENCE)? == 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.half_close();
        self.try_rest()
    }

    /// Sends a whole session and returns everything that was answered.
    #[track_caller]
    pub fn converse(&mut self, script: impl AsRef<[u8]>) -> String {
        all_text(self.try_converse(script.as_ref()))
    }

    /// Waits for something to read, and reads it; how many bytes there were, none at the end.
    fn read(&mut self, time: Duration) -> Result<usize, Broken> {
        if !wait(&mut [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)], time) {
            return Err(Broken::Silent(time));
        }
        match self.input.read(&mut self.room) {
            Ok(length) => {
                self.buffer.extend_from_slice(&self.room[..length]);
                Ok(length)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(Broken::Reset),
            Err(error) => Err(Broken::Failed(error.kind())),
        }
    }
}

// Messages.

impl Client {
    /// EHLO, MAIL, and RCPT, whose reply it returns.
    #[track_caller]
    pub fn offer(&mut self, recipient: &str) -> Reply {
        self.exchange("EHLO client.example", "250-");
        self.exchange("MAIL FROM:<sender@client.example>", "250 ");
        self.ask(&format!("RCPT TO:<{recipient}>"))
    }

    /// EHLO, MAIL, RCPT for each recipient, DATA: up to where the text follows.
    #[track_caller]
    pub fn begin_message(&mut self, recipients: &[&str]) {
        self.exchange("EHLO client.example", "250-");
        self.exchange("MAIL FROM:<sender@client.example>", "250 ");
        for recipient in recipients {
            self.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
        }
        self.exchange("DATA", "354 ");
    }

    /// Sends a short message and returns the final reply.
    #[track_caller]
    pub fn deliver(&mut self, recipients: &[&str]) -> Reply {
        self.begin_message(recipients);
        self.send("Subject: test\r\n\r\nbody\r\n.\r\n");
        self.reply()
    }

    /// Sends a short message with this subject, which has to be accepted.
    #[track_caller]
    pub fn deliver_subject(&mut self, recipient: &str, subject: &str) {
        self.begin_message(&[recipient]);
        self.exchange(&format!("Subject: {subject}\r\n\r\nHello.\r\n."), "250 ");
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Ended => f.write_str("the connection was closed"),
            Broken::Torn(line) => write!(f, "the connection was closed in the middle of a line: {line:?}"),
            Broken::Reset => f.write_str("the connection was reset"),
            Broken::Silent(time) => write!(f, "nothing came within {time:?}"),
            Broken::Garbled(line) => write!(f, "not a line of a reply: {line:?}"),
            Broken::Failed(kind) => write!(f, "{kind}"),
        }
    }
}

impl std::error::Error for Broken {}

#[track_caller]
fn all_text(read: Result<Vec<u8>, Broken>) -> String {
    match read {
        Ok(bytes) => String::from_utf8(bytes).expect("replies in UTF-8"),
        Err(broken) => panic!("no end of the connection: {broken}"),
    }
}

fn garbled(line: &[u8]) -> Broken {
    Broken::Garbled(String::from_utf8_lossy(line).into_owned())
}

/// Waits until one of these is ready; false after this time.
fn wait(descriptors: &mut [PollFd<'_>], time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// The text of a message, whose lines end with LF, as it is sent: with CRLF, and a second dot in front of lines that
/// begin with one (RFC 5321, 4.5.2). What ends it is not added.
pub fn on_the_wire(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + text.len() / 32 + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// What is read at once. A record of a socket that keeps records is lost if it does not fit.
const LARGEST_PIECE: usize = 1 << 16;
