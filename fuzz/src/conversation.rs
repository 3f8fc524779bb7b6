//! A whole session in memory: what src/server.rs does, without descriptors and clock, and with deliveries whose end is in
//! the recipient's name. What must hold at every step is checked on the way.

use std::net::Ipv4Addr;

use mailrecv::config::{Config, Flags, Keep, LogTarget, Trace};
use mailrecv::log::Log;
use mailrecv::message::{Envelope, Spool};
use mailrecv::peer::Peer;
use mailrecv::server;
use mailrecv::smtp::Step;
use mailrecv::smtp::command::{self, MAX_COMMAND_LINE, MAX_MAIL_PARAMETERS};
use mailrecv::smtp::line::{Found, LineReader};
use mailrecv::smtp::reply::{self, Reply};
use mailrecv::smtp::session::{Outcome, Session, Transaction};

use super::log::check_text;
use super::reply::check_wire_form;

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The replies as they go over the wire, the greeting first.
    pub replies: Vec<String>,
    /// The messages that were delivered.
    pub messages: Vec<Message>,
    /// The lines of the log, all flags set, as `[PEER] TEXT`.
    pub log: Vec<String>,
    /// Whether we closed the connection.
    pub closed: bool,
}

/// A message that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its octets, as RFC 1870 counts them.
    pub size: u64,
    /// Its text, lines ended by LF.
    pub text: Vec<u8>,
}

/// Holds the session with a peer that sends this, read by read, and then nothing more.
pub fn hold(config: &Config, reads: &[&[u8]]) -> Conversation {
    let peer = Peer { address: Ipv4Addr::new(192, 0, 2, 7).into(), hostname: Some("mail.example.net".to_owned()) };
    let mut host = Host::new(config, &peer);
    host.send(&reply::greeting(&config.domain), false);
    while host.step() {}
    for read in reads {
        if host.conversation.closed {
            break;
        }
        host.input.extend_from_slice(read);
        while host.step() {}
    }
    host.conversation
}

/// The address of the peer in every session.
pub const PEER: &str = "192.0.2.7";

/// Our side of a session.
struct Host<'a> {
    config: &'a Config,
    peer: &'a Peer,
    log: Log,
    session: Session<'a>,
    lines: LineReader,
    /// What was read and is not used yet.
    input: Vec<u8>,
    /// The text of the message that is coming in.
    text: Vec<u8>,
    conversation: Conversation,
}

impl<'a> Host<'a> {
    fn new(config: &'a Config, peer: &'a Peer) -> Self {
        Self {
            config,
            peer,
            log: Log::new(LogTarget::Stderr, Flags::default(), true, PEER.to_owned()),
            session: Session::new(config, peer, Trace::new(true)),
            lines: LineReader::default(),
            input: Vec::new(),
            text: Vec::new(),
            conversation: Conversation::default(),
        }
    }

    /// Uses a part of the input; whether there may be more to do without more of it.
    fn step(&mut self) -> bool {
        let step = if self.session.wants_data() { self.data() } else { self.line() };
        for line in self.session.trace.take() {
            self.note(format!("DEBUG: {line}"));
        }
        match step {
            Step::Wait => false,
            Step::Reply(reply) => {
                self.send(&reply, self.session.is_extended());
                true
            }
            Step::Close(reply) => {
                self.close(&reply);
                false
            }
            Step::Deliver(transaction) => self.deliver(&transaction),
        }
    }

    /// Gives the session the next command line, which has one reply.
    fn line(&mut self) -> Step<'a> {
        let (step, used) = match self.lines.find(&self.input) {
            Found::Line(line, used) => {
                let words = self.log.untrusted(command::without_credentials(line));
                self.conversation.log.push(format!("[{PEER}] DEBUG: SMTP cmd: '{words}'"));
                (self.session.line(line, self.lines.ending()), used)
            }
            Found::TooLong(used) => (self.session.too_long_line(), used),
            Found::OtherProtocol => (self.session.other_protocol(), 0),
            Found::Nothing(used) => {
                self.input.drain(..used);
                assert!(self.input.len() <= LONGEST_REST, "{} bytes wait for the end of a line", self.input.len());
                return Step::Wait;
            }
        };
        assert!(matches!(step, Step::Reply(_) | Step::Close(_)), "a command without a reply: {step:?}");
        self.input.drain(..used);
        step
    }

    /// Gives the session a piece of the message, which has one reply at its end.
    fn data(&mut self) -> Step<'a> {
        if self.input.is_empty() {
            return Step::Wait;
        }
        let (used, step) = self.session.data(&self.input, &mut self.text);
        self.input.drain(..used);
        assert!(!matches!(step, Step::Wait) || self.input.is_empty(), "not all of a piece was used");
        assert_eq!(matches!(step, Step::Wait), self.session.wants_data(), "a message ends with its reply");
        if matches!(step, Step::Reply(_) | Step::Close(_)) {
            self.text.clear();
        }
        step
    }

    fn deliver(&mut self, transaction: &Transaction<'a>) -> bool {
        let id = format!("id{}", self.conversation.messages.len());
        let text = std::mem::take(&mut self.text);
        check_transaction(self.config, transaction);
        check_headers(&Envelope { id: &id, domain: &self.config.domain, peer: self.peer, transaction }, &text);
        let outcome = outcome(transaction);
        if matches!(outcome, Outcome::Delivered) {
            self.conversation.messages.push(Message { size: transaction.size, text });
        }
        match self.session.delivered(outcome, &id) {
            Step::Reply(reply) => {
                self.send(&reply, self.session.is_extended());
                true
            }
            Step::Close(reply) => {
                self.close(&reply);
                false
            }
            other => panic!("a message without a reply: {other:?}"),
        }
    }

    fn close(&mut self, reply: &Reply) {
        self.send(reply, self.session.is_extended());
        self.conversation.closed = true;
    }

    fn send(&mut self, reply: &Reply, enhanced: bool) {
        let mut wire = Vec::new();
        reply.encode(enhanced, &mut wire);
        check_wire_form(&wire);
        let wire = String::from_utf8(wire).expect("a reply in ASCII");
        assert!(wire.is_ascii(), "nothing here has other characters: {wire:?}");
        self.conversation.replies.push(wire);
        if reply.is_negative() {
            let line = server::negative(&self.log, reply).to_string();
            self.note(line);
        }
    }

    fn note(&mut self, text: String) {
        let line = format!("[{PEER}] {text}");
        check_text(&line, PEER, true);
        self.conversation.log.push(line);
    }
}

/// How the delivery ends: `defer` and `fail` in the names of files say so.
fn outcome(transaction: &Transaction<'_>) -> Outcome {
    let kept = transaction.recipients.iter().flat_map(|recipient| &recipient.destinations.keep);
    let files: Vec<&str> = kept
        .filter_map(|to| match &to.action {
            Keep::Append(file) | Keep::Maildir(file) => Some(&**file),
            Keep::Print | Keep::Discard => None,
        })
        .collect();
    if files.contains(&"fail") {
        Outcome::Fail(reply::too_many_hops(101))
    } else if files.contains(&"defer") {
        Outcome::Defer(reply::mailbox_busy("another program works on defer".to_owned()))
    } else {
        Outcome::Delivered
    }
}

/// A transaction is never without recipients, has none twice, and keeps to the limits.
fn check_transaction(config: &Config, transaction: &Transaction<'_>) {
    let recipients = &transaction.recipients;
    assert!((1..=config.limits.smtp_rcpt_to.value).contains(&(recipients.len() as u64)));
    for (number, recipient) in recipients.iter().enumerate() {
        assert!(recipient.destinations.shown().count() > 0, "{} goes nowhere", recipient.mailbox);
        let again = recipients[number + 1..].iter().any(|other| other.mailbox.is_same(&recipient.mailbox));
        assert!(!again, "{} is there twice", recipient.mailbox);
    }
    let handed_over = recipients.iter().filter(|recipient| recipient.destinations.hand_over.is_some()).count();
    assert!(handed_over <= 1, "{handed_over} destinations that cannot be taken back");
    let largest = config.limits.smtp_data_size.value;
    assert!(largest == 0 || transaction.size <= largest, "the message is too large");
    assert!(!transaction.hello.name.is_empty());
}

/// Our headers are the lines that they are meant to be, whatever the peer calls itself and its users.
fn check_headers(envelope: &Envelope<'_>, text: &[u8]) {
    let mut spool = Spool::new(None);
    spool.push(text);
    for recipient in &envelope.transaction.recipients {
        let headers = envelope.trace_headers(&recipient.mailbox, &spool);
        let lines: Vec<&str> = headers.strip_suffix('\n').expect("a line end").split('\n').collect();
        let for_one = envelope.transaction.recipients.len() == 1;
        let beginnings: &[&str] = match for_one {
            true => &["Return-Path: <", "Delivered-To: ", "Received: from ", "\tby ", "\tfor <"],
            false => &["Return-Path: <", "Delivered-To: ", "Received: from ", "\tby "],
        };
        for (number, line) in lines.iter().enumerate() {
            let beginning = beginnings.get(number).copied().unwrap_or_default();
            assert!(line.starts_with(beginning), "{headers}");
            assert!(line.is_empty() == (number == beginnings.len()), "{headers}");
            assert!(!line.trim_start_matches('\t').contains(char::is_control), "{headers:?}");
        }
        assert!(lines.len() - beginnings.len() <= 1, "{headers}");
    }
}

/// How much may wait for the end of a line: the longest command, and a CR.
const LONGEST_REST: usize = MAX_COMMAND_LINE + MAX_MAIL_PARAMETERS - 1;
