//! The protocol, without I/O, clock or log: bytes in, [`Step`] out. Sections without a number of an RFC are those of
//! RFC 5321.
//!
//! LMTP (RFC 2033) is the same session with another hello, and an answer for each recipient in place of one for all.
//!
//! [`session::Session`] is the only entry: it takes input as it comes and says what is to be done next. What it cannot
//! know by itself it asks for ([`Step::Ask`]), so nothing in here reads a file or a rule.

mod answering;
pub mod auth;
pub mod chunk;
pub mod command;
pub mod credentials;
pub mod data;
pub mod line;
pub mod reply;
pub mod scram;
pub mod session;
pub mod transaction;
pub mod upstream;

use std::ops::Range;
use std::rc::Rc;

use crate::address::Mailbox;
use crate::config::{Destinations, TlsUse};
use crate::scram_keys::ScramKeys;
use auth::{Credentials, Mechanism};
use reply::Reply;
use transaction::{Recipient, Transaction};
use upstream::Sender;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Nothing until more input comes.
    Wait,
    /// Go on with the input that is there: the command was a BDAT, which is answered when its chunk has come.
    Continue,
    /// Send this and go on.
    Reply(Reply),
    /// Find this out and tell the session.
    Ask(Question),
    /// The message is complete: deliver it to these recipients, who share one answer, and tell the session the outcome.
    Deliver(Delivery),
    /// Send this, begin TLS and tell the session; or tell it that TLS cannot begin.
    StartTls(Reply),
    /// The peer has logged in as this user by this mechanism: tell the session and everybody else who has to know, then
    /// send this reply.
    Authenticated(String, Mechanism, Reply),
    /// Send this and close the connection.
    Close(Reply),
}

/// The state of TLS, as a session sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsStatus {
    /// Nothing.
    #[default]
    Off,
    /// The peer may begin it.
    Offered,
    /// The peer has to begin it.
    Required,
    /// TLS is required but cannot begin, which is our fault.
    Unavailable,
    /// The connection is under it.
    On,
}

impl From<TlsUse> for TlsStatus {
    /// The state at the beginning of a session.
    fn from(configured: TlsUse) -> Self {
        match configured {
            // With implicit TLS the handshake is done before the session says anything.
            TlsUse::Off | TlsUse::Implicit => TlsStatus::Off,
            TlsUse::Offer => TlsStatus::Offered,
            TlsUse::Require => TlsStatus::Required,
        }
    }
}

/// What the session has to know to answer a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Whether this sender may send through us.
    Sender(Sender),
    /// Where mail for this recipient goes.
    Recipient(Mailbox),
    /// Whether every account can use SCRAM-SHA-256.
    Mechanisms,
    /// Whether the password is right.
    Password(Credentials),
    /// The SCRAM keys of this account, or made-up ones if there is no such account.
    ScramKeys(String),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// The sender may send.
    Admitted,
    /// The recipient's mail goes to these destinations.
    Destinations(Destinations),
    /// Whether SCRAM-SHA-256 is to be offered.
    Mechanisms {
        /// It is.
        scram: bool,
    },
    /// Whether the password is right.
    Password(bool),
    /// The keys, and a nonce that is used once only: printable ASCII without a comma.
    ScramKeys(ScramKeys, String),
    /// No, in these words.
    No(Reply),
}

/// A message for a group of its recipients: in SMTP for all of them, in LMTP for one.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message's transaction.
    pub transaction: Rc<Transaction>,
    /// Which of its recipients.
    pub group: Range<usize>,
}

impl Delivery {
    /// The recipients that it is for.
    pub fn recipients(&self) -> &[Recipient] {
        &self.transaction.recipients[self.group.clone()]
    }
}

/// What became of a delivery. `Ok`: the message is at every destination of its group, on stable storage; if another
/// server has taken it over and its words are to be passed on, they are here. `Err`: it is at none, and the reply says
/// why. Whatever is not understood is answered 4xx, so that the sender keeps the mail.
pub type Outcome = Result<Option<Reply>, Reply>;

/// What a session made of its input.
#[derive(Debug)]
pub struct Turn<'i> {
    /// How many bytes of the input were used.
    pub used: usize,
    /// What these bytes were.
    pub heard: Heard<'i>,
    /// What is to be done now.
    pub step: Step,
}

/// What the peer said, as far as a log may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'i> {
    /// Nothing yet, or nothing that can be shown.
    Nothing,
    /// A command line, without what may be a password.
    Command(&'i [u8]),
    /// The same, with parameters that were accepted although they were not offered.
    Unoffered(&'i [u8]),
    /// A line that may be a password.
    Secret,
    /// A piece of a message.
    Text,
    /// A piece of a chunk that is refused.
    Discarded,
}

/// What the log says in place of a line that may be a password.
pub const NOT_SHOWN: &str = "not shown, it may be a password";

/// How lines end on this connection; its first line decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnding {
    /// CRLF and nothing else: a mail program.
    Crlf,
    /// LF, a CR before it dropped: a person typing.
    Lf,
}
