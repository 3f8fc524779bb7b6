//! The only loop: read, ask the session, execute the step.
//!
//! Everything that touches the world is here or below here: descriptors, clock, log, deliveries. The session decides.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Config, Flags, Trace};
use crate::deliver::{self, Context};
use crate::log::Log;
use crate::message::{Envelope, Spool};
use crate::net::conn::{Connection, Input};
use crate::peer::Peer;
use crate::signals::Signals;
use crate::smtp::Step;
use crate::smtp::command;
use crate::smtp::line::{Found, LineReader};
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::{Outcome, Session, Transaction};

/// Serves one peer on standard input and output.
pub struct Server<'a> {
    config: &'a Config,
    log: &'a Log,
    signals: &'a Signals,
    connection: Connection,
    lines: LineReader,
    /// When the whole connection has to be over.
    deadline: Instant,
    /// Since when there was neither a whole command nor any data; a command that comes byte by byte is none until it ends.
    idle_since: Instant,
    messages: u32,
    /// The message whose 250 may not have reached the peer yet.
    unconfirmed: Option<String>,
    /// Message text on its way from the session to the spool.
    text: Vec<u8>,
}

/// Why the session is over.
enum End {
    /// We said so.
    Closed,
    /// The peer is gone; the text says how we know.
    PeerGone(String),
}

impl<'a> Server<'a> {
    /// Sends the greeting; the connection's time runs from here.
    pub fn greet(config: &'a Config, log: &'a Log, signals: &'a Signals) -> Self {
        let deadline = Instant::now() + config.limits.connection_secs.value;
        let mut server = Self {
            config,
            log,
            signals,
            connection: Connection::standard_io(),
            lines: LineReader::default(),
            deadline,
            idle_since: Instant::now(),
            messages: 0,
            unconfirmed: None,
            text: Vec::new(),
        };
        server.send(&reply::greeting(&config.domain), false);
        // If the peer is gone already, waiting for its first command will tell.
        let _ = server.connection.flush(server.idle_deadline());
        server
    }

    /// When the connection's time is over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Talks until one side has enough. `refusal` is the answer to the first command of a peer that is not wanted.
    pub fn serve(&mut self, peer: &Peer, refusal: Option<Reply>) {
        let mut session = match refusal {
            Some(reply) => Session::refused(self.config, peer, reply),
            None => Session::new(self.config, peer, Trace::new(self.log.wants(Flags::RULES))),
        };
        let end = self.converse(&mut session, peer);
        if let End::PeerGone(how) = end {
            if session.is_in_transaction() {
                self.log.always(format_args!("WARNING: {how}; nothing was delivered of the message it had begun"));
            } else if let Some(id) = &self.unconfirmed {
                // The window that no server can close (RFC 1047).
                self.log.always(format_args!(
                    "WARNING: {how}; message {id} is delivered, but if the peer has not read that it will send it again"
                ));
            } else {
                self.log.when(Flags::WARNINGS, format_args!("WARNING: {how}"));
            }
        }
        self.log.when(Flags::CLOSING, format_args!("INFO: connection closed, {} messages accepted", self.messages));
    }

    fn converse<'s>(&mut self, session: &mut Session<'s>, peer: &'s Peer) -> End
    where
        'a: 's,
    {
        let mut spool = None;
        loop {
            let step = if session.wants_data() { self.data(session, &mut spool) } else { self.line(session) };
            for line in session.trace.take() {
                self.log.always(format_args!("DEBUG: {line}"));
            }
            if let Some(end) = self.execute(step, session, peer, &mut spool) {
                return end;
            }
        }
    }

    /// Does what the session decided. Returns how the session ended, if it did.
    fn execute<'s>(
        &mut self,
        step: Step<'s>,
        session: &mut Session<'s>,
        peer: &'s Peer,
        spool: &mut Option<Spool>,
    ) -> Option<End> {
        match step {
            Step::Reply(reply) => {
                self.send(&reply, session.is_extended());
                None
            }
            Step::Close(reply) => Some(self.close(&reply, session)),
            Step::Wait => self.wait(session),
            Step::Deliver(transaction) => {
                let mut message = spool.take().unwrap_or_else(|| new_spool(self.config));
                let answer = self.deliver(session, peer, &transaction, &mut message);
                // The answer leaves at once, whatever else the peer has sent already, and before the spool is given
                // up, which takes time: until it leaves, the message is delivered and the peer does not know.
                self.execute(answer, session, peer, spool).or_else(|| self.flush())
            }
        }
    }

    /// Gives the session the next command line, if there is one.
    fn line<'s>(&mut self, session: &mut Session<'s>) -> Step<'s> {
        let (step, used) = match self.lines.find(self.connection.buffered()) {
            Found::Line(line, used) => {
                let words = command::without_credentials(line);
                self.log.when(Flags::DIALOGUE, format_args!("DEBUG: SMTP cmd: '{}'", self.log.untrusted(words)));
                (session.line(line, self.lines.ending()), used)
            }
            Found::TooLong(used) => (session.too_long_line(), used),
            Found::OtherProtocol => (session.other_protocol(), 0),
            Found::Nothing(used) => (Step::Wait, used),
        };
        self.connection.consume(used);
        if !matches!(step, Step::Wait) {
            self.idle_since = Instant::now();
        }
        step
    }

    /// Gives the session the next piece of the message, and the spool what comes of it.
    fn data<'s>(&mut self, session: &mut Session<'s>, spool: &mut Option<Spool>) -> Step<'s> {
        if self.connection.buffered().is_empty() {
            return Step::Wait;
        }
        let bytes = self.connection.buffered();
        self.text.clear();
        let (used, step) = session.data(bytes, &mut self.text);
        self.connection.consume(used);
        self.idle_since = Instant::now();
        if self.log.wants(Flags::LETTERS) {
            for line in self.text.trim_ascii_end().split(|byte| *byte == b'\n') {
                self.log.always(format_args!("DEBUG: Letter: '{}'", self.log.untrusted(line)));
            }
        }
        spool.get_or_insert_with(|| new_spool(self.config)).push(&self.text);
        if !session.wants_data() && !matches!(step, Step::Deliver(_)) {
            *spool = None;
        }
        step
    }

    fn deliver<'s>(
        &mut self,
        session: &mut Session<'s>,
        peer: &'s Peer,
        transaction: &Transaction<'s>,
        message: &mut Spool,
    ) -> Step<'s> {
        let id = self.new_id();
        let envelope = Envelope { id: &id, domain: &self.config.domain, peer, transaction };
        let context = Context { config: self.config, log: self.log, signals: self.signals };
        let outcome = deliver::deliver(&context, &envelope, message);
        self.idle_since = Instant::now();
        if let Outcome::Delivered = outcome {
            self.messages += 1;
            self.unconfirmed = Some(id.clone());
        }
        session.delivered(outcome, &id)
    }

    fn flush(&mut self) -> Option<End> {
        let flushed = self.connection.flush(self.idle_deadline());
        flushed.err().map(|error| End::PeerGone(format!("the connection broke: {error}")))
    }

    /// Sends what is to be sent and waits for more. Returns how the session ended, if it did.
    fn wait(&mut self, session: &Session<'_>) -> Option<End> {
        let limits = &self.config.limits;
        let reply = match self.connection.fill(self.signals, self.idle_deadline()) {
            Input::More => {
                self.unconfirmed = None;
                return None;
            }
            Input::End => {
                return Some(End::PeerGone("the peer closed the connection without QUIT".to_owned()));
            }
            Input::Gone(error) => return Some(End::PeerGone(format!("the connection broke: {error}"))),
            Input::Stop => reply::shutting_down(&self.config.domain),
            Input::TimedOut if Instant::now() >= self.deadline => {
                reply::worded(&limits.connection_secs.refusal, "4.4.2")
            }
            Input::TimedOut => reply::worded(&limits.idle_secs.refusal, "4.4.2"),
        };
        Some(self.close(&reply, session))
    }

    fn close(&mut self, reply: &Reply, session: &Session<'_>) -> End {
        self.send(reply, session.is_extended());
        match self.connection.hang_up(Instant::now() + LAST_WORDS) {
            Ok(()) => End::Closed,
            Err(error) => End::PeerGone(format!("the connection broke: {error}")),
        }
    }

    /// Queues a reply, and logs it if it says no.
    fn send(&mut self, reply: &Reply, enhanced: bool) {
        reply.encode(enhanced, self.connection.replies());
        let log = self.log;
        if reply.is_negative() {
            log_negative(log, reply);
        } else {
            log.when(
                Flags::DIALOGUE,
                format_args!("DEBUG: SMTP reply: {} {}", reply.code, reply.text.replace('\n', " / ")),
            );
        }
    }

    fn idle_deadline(&self) -> Instant {
        self.deadline.min(self.idle_since + self.config.limits.idle_secs.value)
    }

    /// A name for a message that no other has on this machine: the time, this process, and a count.
    fn new_id(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{:x}.{:05x}.{:x}.{:x}", now.as_secs(), now.subsec_micros(), std::process::id(), self.messages)
    }
}

fn new_spool(config: &Config) -> Spool {
    Spool::new(config.spool_dir.as_ref())
}

/// Logs a reply that says no.
pub fn log_negative(log: &Log, reply: &Reply) {
    log.error(format_args!("{}", negative(log, reply)));
}

/// `ERROR: CODE TEXT 'what it is about' (what happened here)`; `WARNING:` for a 5xx that is not the peer's fault, because
/// peers are banned for the others.
pub fn negative(log: &Log, reply: &Reply) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let kind = if reply.is_our_fault { "WARNING" } else { "ERROR" };
        write!(f, "{kind}: {} {}", reply.code, reply.text)?;
        if let Some(subject) = &reply.subject {
            write!(f, " '{}'", log.untrusted(subject))?;
        }
        match &reply.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    })
}

/// How long the last reply may take to leave.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(10);
