//! A client that expects the receiver to die on it: what it was told, and how far it had come, is all it reports.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::unistd::Pid;
use testkit::certificates::{Authority, Request};
use testkit::client::{Reply, on_the_wire};
use testkit::{Broken, TlsClient};

use crate::letters::Letter;
use crate::support::{LOG, MAILRECV, PEER, Scratch};

/// Makes a certificate for receivers with this folder, and adds to their configuration that they offer TLS. Returns who
/// can speak it with them.
pub fn offer_tls(scratch: &Scratch, config: &mut String) -> TlsClient {
    static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);
    const NAME: &str = "receiver.example";
    config.push_str("tls_certificate own.pem\ntls_key own.key\n");
    AUTHORITY.issue(&scratch.path(""), "own", &Request::of(&[NAME]));
    TlsClient::new(&AUTHORITY.root(), NAME)
}

/// A running receiver and the client's end of its connection.
pub struct Session {
    session: testkit::Session,
    /// What it begins TLS with, if it does.
    tls: Option<TlsClient>,
    /// Whether greeting and EHLO are behind us.
    introduced: bool,
}

/// The connection ended before the message was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Whether a greeting had come.
    pub greeted: bool,
    /// Whether the final dot may have left: only then may the receiver have delivered the message.
    pub dot_sent: bool,
    /// What broke.
    pub how: Broken,
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
    /// Starts the receiver with a connection, through the wrapper if there is one: a program and its arguments, such as
    /// `strace -o FILE` or `prlimit --fsize=N`. Nothing is said yet.
    pub fn start(config: &Path, wrapper: &[String]) -> Self {
        let directory = config.parent().expect("a folder");
        let line = [wrapper, &[MAILRECV.to_owned()]].concat();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).arg("-c").arg(config).arg("-l").arg(directory.join(LOG)).args(["--peer", PEER]);
        command.current_dir(directory);
        // What a wrapper says is not for the peer, and a receiver whose log cannot be opened logs there.
        let session = match wrapper {
            [] => testkit::Session::start(command),
            _ => testkit::Session::start_with_stderr(command, Stdio::null()),
        };
        Self { session, tls: None, introduced: false }
    }

    /// The same session, which begins TLS before it sends a message.
    pub fn secured(self, tls: &TlsClient) -> Self {
        Self { tls: Some(tls.clone()), ..self }
    }

    /// The process that was started: the wrapper, if there is one.
    pub fn pid(&self) -> Pid {
        self.session.pid()
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
    ) -> Result<Reply, Broken> {
        if !self.introduced {
            watch(Moment::Command);
            let reply = self.introduce()?;
            if !reply.starts_with("250") {
                return Ok(reply);
            }
        }
        let mut commands = vec![format!("MAIL FROM:<{from}>")];
        commands.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{}>", recipient.as_ref())));
        commands.push("DATA".to_owned());
        for command in commands {
            watch(Moment::Command);
            let reply = self.ask(&command)?;
            if !reply.starts_with("250") && !reply.starts_with("354") {
                if !reply.starts_with("421") {
                    self.ask("RSET")?;
                }
                return Ok(reply);
            }
        }
        watch(Moment::Command);
        let wire = on_the_wire(text);
        let mut sent = 0;
        for piece in wire.chunks(PIECE) {
            self.session.send(piece);
            sent += piece.len();
            watch(Moment::Text(sent));
        }
        // From here on nobody can know any more, except by the reply.
        *dot_sent = true;
        watch(Moment::BeforeDot);
        self.session.send(".\r\n");
        watch(Moment::AfterDot);
        self.session.try_reply()
    }

    /// Sends a message and, so long after its final dot, breaks the connection off without having read the answer. Then
    /// waits for the end of the process.
    pub fn send_and_vanish(mut self, letter: &Letter, delay: Duration) {
        let begun = (|| {
            let reply = self.introduce()?;
            let recipients = letter.addresses();
            let recipients = recipients.iter().map(|to| format!("RCPT TO:<{to}>"));
            let commands = [format!("MAIL FROM:<{}>", letter.sender())].into_iter().chain(recipients);
            for command in commands.chain(["DATA".to_owned()]) {
                self.ask(&command)?;
            }
            Ok::<_, Broken>(reply)
        })();
        if begun.is_ok() {
            self.session.send([&on_the_wire(&letter.text())[..], b".\r\n"].concat());
            std::thread::sleep(delay);
        }
        // To close a socket with input in it resets the connection.
        self.wait();
    }

    /// Takes the greeting and sends EHLO; [`Session::send_message`] does that by itself. Returns the reply to EHLO, or a
    /// greeting that is none.
    pub fn introduce(&mut self) -> Result<Reply, Broken> {
        let greeting = self.session.try_reply()?;
        self.introduced = true;
        if !greeting.starts_with("220") {
            return Ok(greeting);
        }
        let reply = self.ask("EHLO client.example")?;
        let Some(tls) = self.tls.take() else { return Ok(reply) };
        let reply = self.ask("STARTTLS")?;
        if !reply.starts_with("220") {
            return Ok(reply);
        }
        self.session.try_begin_tls(&tls).map_err(|error| Broken::Failed(error.kind()))?;
        self.ask("EHLO client.example")
    }

    /// Sends a command line and returns the reply, or why there is none.
    pub fn ask(&mut self, line: &str) -> Result<Reply, Broken> {
        self.session.try_ask(line)
    }

    /// Greets as LMTP does and sends one message, and then reads the replies for its recipients, one each, as far as they
    /// come. `dot_sent` is told when the final dot is out.
    pub fn send_by_lmtp(
        &mut self,
        from: &str,
        recipients: &[impl AsRef<str>],
        text: &[u8],
        dot_sent: &mut dyn FnMut(),
    ) -> Result<Vec<Reply>, Broken> {
        self.session.try_reply()?;
        self.introduced = true;
        let recipients: String = recipients.iter().map(|to| format!("RCPT TO:<{}>\r\n", to.as_ref())).collect();
        self.session.send(format!("LHLO client.example\r\nMAIL FROM:<{from}>\r\n{recipients}DATA\r\n"));
        let named = recipients.lines().count();
        for number in 0..named + 3 {
            let reply = self.session.try_reply()?;
            let expected = if number == named + 2 { "354" } else { "250" };
            if !reply.starts_with(expected) {
                return Ok(vec![reply; named]);
            }
        }
        self.session.send([&on_the_wire(text)[..], b".\r\n"].concat());
        dot_sent();
        Ok((0..named).map_while(|_| self.session.try_reply().ok()).collect())
    }

    /// QUIT, after the greeting if that is still to come, and the end of the process. Returns the reply and the exit
    /// status.
    pub fn quit(mut self) -> Result<(Reply, i32), Broken> {
        if !self.introduced {
            self.introduce()?;
        }
        let reply = self.ask("QUIT")?;
        Ok((reply, self.wait()))
    }

    /// Reads what still comes, to the end of the connection. A 250 that was on its way counts.
    pub fn remaining_replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.session.try_reply().ok()).collect()
    }

    /// Closes our end and waits for the process. Returns its exit status; a death by signal N counts as 128 + N.
    pub fn wait(self) -> i32 {
        self.session.hang_up().exit_code()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} the final dot", self.how, if self.dot_sent { "after" } else { "before" })
    }
}

/// How much is sent at a time.
const PIECE: usize = 64 * 1024;
