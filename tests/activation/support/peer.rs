//! A peer that speaks SMTP by hand, so that a test sees every byte of the answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use super::PATIENCE;

/// One end of an SMTP session.
pub(crate) struct Peer {
    input: BufReader<Box<dyn Read>>,
    output: Box<dyn Write>,
    line_end: &'static str,
}

impl Peer {
    /// Connects.
    pub(crate) fn connect(server: SocketAddr) -> Self {
        Self::on(TcpStream::connect(server).unwrap())
    }

    /// Speaks through a program, as a person does who types: lines end with LF.
    pub(crate) fn typing(input: impl Write + 'static, output: impl Read + 'static) -> Self {
        Self { input: BufReader::new(Box::new(output)), output: Box::new(input), line_end: "\n" }
    }

    /// Speaks on a connection.
    pub(crate) fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let output = Box::new(stream.try_clone().unwrap());
        Self { input: BufReader::new(Box::new(stream)), output, line_end: "\r\n" }
    }

    /// Sends a line and returns the reply.
    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(&format!("{line}{}", self.line_end));
        self.reply()
    }

    /// Sends a line, whose reply has to begin with this code.
    pub(crate) fn expect(&mut self, line: &str, code: &str) {
        let reply = self.say(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }

    /// Says hello and opens a transaction up to the recipient; the reply to RCPT.
    pub(crate) fn offer(&mut self, recipient: &str) -> String {
        self.expect("EHLO client.example", "250");
        self.expect("MAIL FROM:<me@mydomain.com>", "250");
        self.say(&format!("RCPT TO:<{recipient}>"))
    }

    /// A whole message to fred; greeting and QUIT are not part of it.
    pub(crate) fn deliver(&mut self, subject: &str) {
        self.deliver_to("fred@example.com", subject);
    }

    /// A whole message.
    pub(crate) fn deliver_to(&mut self, recipient: &str, subject: &str) {
        assert!(self.offer(recipient).starts_with("250"));
        self.expect("DATA", "354");
        self.expect(&format!("Subject: {subject}\r\n\r\nHello.\r\n."), "250");
    }

    /// Sends text as it is.
    pub(crate) fn send(&mut self, text: &str) {
        self.output.write_all(text.as_bytes()).unwrap();
        self.output.flush().unwrap();
    }

    /// Ends the program's input.
    pub(crate) fn stop_sending(&mut self) {
        self.output = Box::new(std::io::sink());
    }

    /// One reply, of one line or more, each without its CRLF.
    pub(crate) fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line).unwrap();
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("not a reply: `{line}` after `{reply}`"));
            reply.push_str(line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.input.read_to_end(&mut rest).unwrap();
        String::from_utf8(rest).unwrap()
    }
}

/// A TCP connection whose own end has this address.
pub(crate) fn connection_from(source: IpAddr, server: SocketAddr) -> TcpStream {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(server)).unwrap();
    TcpStream::from(socket)
}
