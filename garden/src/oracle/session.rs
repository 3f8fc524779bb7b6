//! The session as the strict reader sees it: what is a command, what is text, and which replies are due.

use std::collections::VecDeque;

use super::command::{self, Body, Command};
use super::{Expected, ExpectedMessage, Extension, Open, Reason, Recipient, text};

/// A session that is read together with its waits.
pub(super) struct Session {
    reader: Reader,
    /// Whether the client waits for a reply that does not come, so that nothing more is sent.
    has_stopped: bool,
}

impl Session {
    pub(super) fn new() -> Self {
        Self { reader: Reader::new(), has_stopped: false }
    }

    pub(super) fn send(&mut self, octets: &[u8], unit: usize) {
        if !self.has_stopped {
            self.reader.read(octets, unit);
        }
    }

    pub(super) fn expect(&mut self, code: &str) {
        if !self.has_stopped && !self.reader.reply(code) {
            self.has_stopped = true;
        }
    }

    pub(super) fn pause(&mut self) {
        self.reader.due.clear();
    }

    pub(super) fn into_expected(mut self) -> Expected {
        self.reader.end();
        self.reader.expected
    }
}

/// How the next octets are interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Commands.
    Command,
    /// Text, up to CR LF `.` CR LF.
    Text,
    /// This many octets, after which the reply to BDAT comes.
    Chunk(usize),
    /// A line of an authentication.
    Response,
    /// Nothing: the session is over, or goes on under TLS.
    Nothing,
}

/// Reads what a client sends.
pub(super) struct Reader {
    awaited: Awaited,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    /// What was sent and is incomplete: part of a line, a text or a chunk.
    begun: Vec<u8>,
    /// Whether the current chunk is the last one.
    chunk_is_last: bool,
    /// The replies that are due.
    due: VecDeque<Due>,
    expected: Expected,
    unit: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hello {
    Smtp,
    Lmtp,
}

struct Transaction {
    mail: Vec<u8>,
    recipients: Vec<Recipient>,
    body: Body,
    /// The text that came with BDAT, if any did.
    chunks: Option<Vec<u8>>,
}

/// A reply that is due.
#[derive(Clone, Copy)]
struct Due {
    kind: ReplyKind,
    /// Whether nothing may be sent before it has come (RFC 2920, 3.1).
    is_waited_for: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyKind {
    Positive,
    Intermediate,
    Negative,
    /// Either one.
    Any,
    /// The same; if it is an intermediate reply, the next line is not a command.
    Challenge,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            awaited: Awaited::Command,
            hello: None,
            transaction: None,
            begun: Vec::new(),
            chunk_is_last: false,
            due: VecDeque::new(),
            expected: Expected { at_most: Some(0), ..Expected::default() },
            unit: 0,
        }
    }

    /// How the next octets are interpreted.
    pub(super) fn awaited(&self) -> Awaited {
        self.awaited
    }

    /// All due replies come; returns their number.
    pub(super) fn take_replies(&mut self) -> usize {
        let number = self.due.len();
        self.due.clear();
        number
    }

    /// The client sends these octets in this unit.
    pub(super) fn read(&mut self, octets: &[u8], unit: usize) {
        self.unit = unit;
        let mut rest = octets;
        while !rest.is_empty() {
            rest = match self.awaited {
                Awaited::Command | Awaited::Response => self.read_line(rest),
                Awaited::Text => self.read_text(rest),
                Awaited::Chunk(left) => self.read_chunk(rest, left),
                Awaited::Nothing => return,
            };
        }
    }

    /// The client waits for a reply, and goes on only if it begins with `code`. Returns whether it goes on.
    pub(super) fn reply(&mut self, code: &str) -> bool {
        let Some(due) = self.due.pop_front() else { return false };
        let first = code.bytes().next();
        if due.kind == ReplyKind::Challenge && first == Some(b'3') {
            self.awaited = Awaited::Response;
        }
        match due.kind {
            ReplyKind::Any | ReplyKind::Challenge => true,
            ReplyKind::Positive => matches!(first, None | Some(b'2')),
            ReplyKind::Intermediate => matches!(first, None | Some(b'3')),
            ReplyKind::Negative => matches!(first, None | Some(b'4' | b'5')),
        }
    }

    /// Nothing more is sent.
    fn end(&mut self) {
        // If only CR LF ends a line this is none, but for some servers it is one or several.
        let is_begun = matches!(self.awaited, Awaited::Command | Awaited::Response);
        if is_begun && self.begun.iter().any(|octet| matches!(octet, b'\r' | b'\n')) {
            self.note(Reason::CommandLine);
            self.expected.at_most = None;
        }
    }

    fn read_line<'o>(&mut self, octets: &'o [u8]) -> &'o [u8] {
        if self.begun.is_empty() {
            self.note_haste();
        }
        let (line, rest) = match self.end_of_line(octets) {
            Some(at) => octets.split_at(at),
            None => {
                self.begun.extend_from_slice(octets);
                return &[];
            }
        };
        self.begun.extend_from_slice(line);
        let mut line = std::mem::take(&mut self.begun);
        line.truncate(line.len() - 2);
        if self.awaited == Awaited::Response {
            self.awaited = Awaited::Command;
            self.owe(ReplyKind::Challenge, true);
        } else {
            self.command(&line);
        }
        rest
    }

    /// How many of these octets belong to the current line.
    fn end_of_line(&self, octets: &[u8]) -> Option<usize> {
        if self.begun.ends_with(b"\r") && octets.starts_with(b"\n") {
            return Some(1);
        }
        octets.windows(2).position(|window| window == b"\r\n").map(|at| at + 2)
    }

    /// Notes a command that is sent while replies are due.
    fn note_haste(&mut self) {
        if self.due.iter().any(|due| due.is_waited_for) {
            self.note(Reason::BeforeReply);
        } else if !self.due.is_empty() {
            self.note(Reason::Extension(Extension::Pipelining));
        }
    }

    fn command(&mut self, line: &[u8]) {
        let parsed = command::parse(line);
        let is_usual = parsed.odd.is_empty();
        for reason in parsed.odd {
            if reason == Reason::CommandLine {
                self.expected.at_most = None;
            }
            self.note(reason);
        }
        let positive = if is_usual { ReplyKind::Positive } else { ReplyKind::Any };
        match parsed.command {
            Command::Helo | Command::Ehlo => self.hello(Hello::Smtp, positive),
            Command::Lhlo => self.hello(Hello::Lmtp, positive),
            Command::Mail(mail, body) => self.mail(mail, body, positive),
            Command::Rcpt(mailbox) => match &mut self.transaction {
                Some(transaction) => {
                    transaction.recipients.push(Recipient(mailbox));
                    self.owe(positive, false);
                }
                None => self.owe(ReplyKind::Negative, false),
            },
            Command::Data => self.data(is_usual),
            Command::Bdat { size, is_last } => self.bdat(size, is_last),
            Command::Rset => {
                self.transaction = None;
                self.owe(positive, false);
            }
            Command::Noop => self.owe(positive, true),
            Command::Question => self.owe(ReplyKind::Any, true),
            Command::Quit => {
                self.owe(positive, true);
                self.awaited = Awaited::Nothing;
            }
            Command::StartTls => {
                self.note(Reason::Extension(Extension::StartTls));
                self.expected.at_most = None;
                self.owe(ReplyKind::Any, true);
                self.awaited = Awaited::Nothing;
            }
            Command::Auth => {
                self.note(Reason::Extension(Extension::Auth));
                self.owe(ReplyKind::Challenge, true);
            }
            Command::Unknown => {
                self.owe(if is_usual { ReplyKind::Negative } else { ReplyKind::Any }, false);
            }
        }
    }

    fn hello(&mut self, hello: Hello, reply: ReplyKind) {
        self.hello = Some(hello);
        self.transaction = None;
        self.owe(reply, true);
    }

    fn mail(&mut self, mail: Vec<u8>, body: Body, positive: ReplyKind) {
        if self.transaction.is_some() {
            self.note(Reason::SecondMail);
            self.owe(ReplyKind::Any, false);
            return;
        }
        let mut reply = positive;
        if self.hello.is_none() {
            self.note(Reason::NoHello);
            reply = ReplyKind::Any;
        }
        self.transaction = Some(Transaction { mail, recipients: Vec::new(), body, chunks: None });
        self.owe(reply, false);
    }

    fn data(&mut self, is_usual: bool) {
        let is_in_order = self.transaction.as_ref().is_some_and(|transaction| {
            !transaction.recipients.is_empty() && transaction.chunks.is_none() && transaction.body != Body::Binary
        });
        if !is_in_order {
            self.owe(ReplyKind::Negative, true);
            return;
        }
        self.awaited = Awaited::Text;
        let is_certain = is_usual && self.expected.open.is_empty();
        self.owe(if is_certain { ReplyKind::Intermediate } else { ReplyKind::Any }, true);
    }

    fn read_text<'o>(&mut self, octets: &'o [u8]) -> &'o [u8] {
        if self.begun.is_empty() && self.due.iter().any(|due| due.is_waited_for) {
            // A server that has not answered DATA yet may refuse it, and take what follows for commands.
            self.note(Reason::BeforeReply);
            self.expected.at_most = None;
        }
        let before = self.begun.len();
        self.begun.extend_from_slice(octets);
        let Some(end) = text::end(&self.begun) else { return &[] };
        self.begun.truncate(end);
        let message = text::unstuffed(&std::mem::take(&mut self.begun));
        self.awaited = Awaited::Command;
        self.message(message);
        &octets[end - before..]
    }

    fn bdat(&mut self, size: usize, is_last: bool) {
        self.note(Reason::Extension(Extension::Chunking));
        if let Some(transaction) = self.transaction.as_mut().filter(|transaction| !transaction.recipients.is_empty()) {
            transaction.chunks.get_or_insert_default();
        }
        self.chunk_is_last = is_last;
        self.awaited = Awaited::Chunk(size);
        if size == 0 {
            self.chunk_ends();
        }
    }

    fn read_chunk<'o>(&mut self, octets: &'o [u8], left: usize) -> &'o [u8] {
        let (chunk, rest) = octets.split_at(left.min(octets.len()));
        self.begun.extend_from_slice(chunk);
        self.awaited = Awaited::Chunk(left - chunk.len());
        if left == chunk.len() {
            self.chunk_ends();
        }
        rest
    }

    fn chunk_ends(&mut self) {
        let chunk = std::mem::take(&mut self.begun);
        // For a server that does not know BDAT these are commands.
        if chunk.to_ascii_uppercase().windows(4).any(|word| word == b"MAIL") {
            self.expected.at_most = None;
        }
        self.awaited = Awaited::Command;
        let Some(chunks) = self.transaction.as_mut().and_then(|transaction| transaction.chunks.as_mut()) else {
            self.owe(ReplyKind::Negative, false);
            return;
        };
        chunks.extend(chunk);
        if self.chunk_is_last {
            let message = std::mem::take(chunks);
            self.message(message);
        } else {
            self.owe(ReplyKind::Any, false);
        }
    }

    /// A message is complete.
    fn message(&mut self, octets: Vec<u8>) {
        let Some(Transaction { mail, recipients, body, .. }) = self.transaction.take() else { return };
        for reason in text::oddities(&octets) {
            let is_announced = match body {
                Body::SevenBit => false,
                Body::EightBit => reason == Reason::EightBit,
                Body::Binary => true,
            };
            if !is_announced {
                self.note(reason);
            }
        }
        let replies = if self.hello == Some(Hello::Lmtp) { recipients.len() } else { 1 };
        let kind = if self.expected.open.is_empty() { ReplyKind::Positive } else { ReplyKind::Any };
        (0..replies).for_each(|_| self.owe(kind, false));
        self.expected.messages.push(ExpectedMessage { mail, recipients, octets });
        self.expected.at_most = self.expected.at_most.map(|number| number + 1);
    }

    fn owe(&mut self, kind: ReplyKind, is_waited_for: bool) {
        self.due.push_back(Due { kind, is_waited_for });
    }

    fn note(&mut self, reason: Reason) {
        let open = Open { reason, unit: self.unit };
        if !self.expected.open.contains(&open) {
            self.expected.open.push(open);
        }
    }
}
