//! A client that expects the receiver to die on it: what it was told, and how far it had come, is all it reports.
//!
//! The connection is a real one over the loopback interface; its accepted end is descriptor 0 and 1 (and 2) of the
//! receiver, as a super-server would have it. Every wait is bounded by [`PATIENCE`].

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::support::{LOG, MAILRECV, PATIENCE, PEER, Process};

/// How the receiver is started, beside its configuration.
#[derive(Debug, Default, Clone)]
pub struct Launch {
    /// A program and its arguments that runs the receiver, such as `strace -o FILE` or `prlimit --fsize=N`.
    pub wrapper: Vec<String>,
    /// Further arguments of the receiver.
    pub arguments: Vec<String>,
    /// The current folder; the configuration's, if none is given.
    pub directory: Option<PathBuf>,
}

/// A running receiver and the client's end of its connection.
pub struct Session {
    process: Process,
    stream: TcpStream,
    /// What has come and is not read yet.
    buffer: Vec<u8>,
    /// Whether greeting and EHLO are behind us.
    introduced: bool,
}

/// A reply of one or more lines, these joined by LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

/// The connection ended before the message was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Whether a greeting had come.
    pub greeted: bool,
    /// Whether the final dot may have left: only then may the receiver have delivered the message.
    pub dot_sent: bool,
    /// What broke.
    pub how: String,
}

/// Where a transaction is, for those who want to interfere at a certain point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A command, or the beginning of the text, is about to be sent.
    Command,
    /// So many bytes of the text, as they are on the wire, have been sent.
    Text(usize),
    /// The final dot is about to be sent.
    BeforeDot,
    /// The final dot was sent.
    AfterDot,
}

impl Session {
    /// Starts the receiver with a connection. Nothing is said yet.
    pub fn start(config: &Path, launch: &Launch) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listening on the loopback interface");
        let stream =
            TcpStream::connect(listener.local_addr().expect("the port that the system chose")).expect("connecting");
        let (accepted, _) = listener.accept().expect("accepting the connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
        stream.set_write_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO");

        let directory = launch.directory.as_deref().or_else(|| config.parent()).expect("a folder");
        let mut line = launch.wrapper.clone();
        line.push(MAILRECV.to_owned());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).arg("-c").arg(config).arg("-l").arg(directory.join(LOG)).args(["--peer", PEER]);
        command.args(&launch.arguments).current_dir(directory);
        let accepted = OwnedFd::from(accepted);
        let copy = || Stdio::from(accepted.try_clone().expect("a copy of the descriptor"));
        command.stdin(copy()).stdout(copy());
        // What a wrapper says is not for the peer, and a receiver whose log cannot be opened logs there.
        command.stderr(if launch.wrapper.is_empty() { copy() } else { Stdio::null() });
        Self { process: Process::start(command), stream, buffer: Vec::new(), introduced: false }
    }

    /// The process that was started: the wrapper, if there is one.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Greets if that is still to be done, and sends one message: its text has lines ended by LF. Returns the reply to
    /// it, or the first one that refused a part of it; then the transaction was reset.
    pub fn send_message(&mut self, from: &str, recipients: &[impl AsRef<str>], text: &[u8]) -> Result<Reply, Lost> {
        self.send_message_watched(from, recipients, text, &mut |_| {})
    }

    /// Like [`Session::send_message`], and tells where it is.
    pub fn send_message_watched(
        &mut self,
        from: &str,
        recipients: &[impl AsRef<str>],
        text: &[u8],
        watch: &mut dyn FnMut(Moment),
    ) -> Result<Reply, Lost> {
        let mut dot_sent = false;
        let introduced = self.introduced;
        let result = self.transaction(from, recipients, text, watch, &mut dot_sent);
        result.map_err(|how| Lost { greeted: introduced || self.introduced, dot_sent, how })
    }

    fn transaction(
        &mut self,
        from: &str,
        recipients: &[impl AsRef<str>],
        text: &[u8],
        watch: &mut dyn FnMut(Moment),
        dot_sent: &mut bool,
    ) -> Result<Reply, String> {
        if !self.introduced {
            watch(Moment::Command);
            let reply = self.introduce()?;
            if reply.code != 250 {
                return Ok(reply);
            }
        }
        let mut commands = vec![format!("MAIL FROM:<{from}>")];
        commands.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{}>", recipient.as_ref())));
        commands.push("DATA".to_owned());
        for command in commands {
            watch(Moment::Command);
            let reply = self.ask(&command)?;
            if !matches!(reply.code, 250 | 354) {
                if reply.code != 421 {
                    self.ask("RSET")?;
                }
                return Ok(reply);
            }
        }
        watch(Moment::Command);
        let wire = on_the_wire(text);
        let mut sent = 0;
        for piece in wire.chunks(PIECE) {
            self.send(piece);
            sent += piece.len();
            watch(Moment::Text(sent));
        }
        // From here on nobody can know any more, except by the reply.
        *dot_sent = true;
        watch(Moment::BeforeDot);
        self.send(b".\r\n");
        watch(Moment::AfterDot);
        self.reply()
    }

    /// Takes the greeting and sends EHLO; [`Session::send_message`] does that by itself. Returns the reply to EHLO, or a
    /// greeting that is none.
    pub fn introduce(&mut self) -> Result<Reply, String> {
        let greeting = self.reply()?;
        self.introduced = true;
        if greeting.code != 220 { Ok(greeting) } else { self.ask("EHLO client.example") }
    }

    /// Sends a command line and returns the reply, or why there is none.
    pub fn ask(&mut self, line: &str) -> Result<Reply, String> {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends bytes as they are. That nobody takes them is noticed by whoever reads next.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next reply, or why there is none.
    pub fn reply(&mut self) -> Result<Reply, String> {
        let mut text = String::new();
        loop {
            let line = self.line()?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.ok_or_else(|| format!("no reply: {line:?}"))?;
            text.push_str(line.get(4..).unwrap_or_default());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, text });
            }
            text.push('\n');
        }
    }

    /// QUIT, after the greeting if that is still to come, and the end of the process. Returns its exit status.
    pub fn quit(mut self) -> Result<i32, String> {
        if !self.introduced {
            self.introduce()?;
        }
        let reply = self.ask("QUIT")?;
        if reply.code != 221 {
            return Err(format!("QUIT: {reply}"));
        }
        Ok(self.wait())
    }

    /// Reads what still comes, to the end of the connection. A 250 that was on its way counts.
    pub fn remaining_replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.reply().ok()).collect()
    }

    /// Closes our end and waits for the process. Returns its exit status; a death by signal N counts as 128 + N.
    pub fn wait(self) -> i32 {
        let Self { mut process, stream, .. } = self;
        drop(stream);
        process.exit_code()
    }

    fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err("the receiver closed the connection".to_owned()),
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(format!("no reply within {PATIENCE:?}"));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} the final dot", self.how, if self.dot_sent { "after" } else { "before" })
    }
}

/// The text with CRLF, and a second dot in front of lines that begin with one (RFC 5321, 4.5.2).
fn on_the_wire(text: &[u8]) -> Vec<u8> {
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

/// How much is sent at a time.
const PIECE: usize = 64 * 1024;
