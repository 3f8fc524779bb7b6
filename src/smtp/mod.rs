//! The protocol, without I/O, clock or log: bytes in, [`Step`] out. RFC 5321 unless another is named.
//!
//! LMTP (RFC 2033) is the same session with another hello, and an answer for each recipient in place of one for all.
//!
//! [`session::Session`] is the one door: it takes input as it comes and says what is to be done next. What it cannot
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
    /// Nothing but to go on with what there is of input: a command has no reply yet that is followed by a chunk.
    Continue,
    /// Send this and go on.
    Reply(Reply),
    /// Find this out and tell the session.
    Ask(Question),
    /// The message is complete: deliver it to these of its recipients, who have one answer, and tell the session how that
    /// went.
    Deliver(Delivery),
    /// Send this, begin TLS, and tell the session; or tell it that this cannot be.
    StartTls(Reply),
    /// The peer has shown by this mechanism that it is this user: tell the session and whoever else wants to know, and send
    /// this.
    Authenticated(String, Mechanism, Reply),
    /// Send this and close the connection.
    Close(Reply),
}

/// What a session has to do with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsStatus {
    /// Nothing.
    #[default]
    Off,
    /// The peer may begin it.
    Offered,
    /// The peer has to begin it.
    Required,
    /// The peer would have to, and cannot, which is our fault.
    Unavailable,
    /// The connection is under it.
    On,
}

impl From<TlsUse> for TlsStatus {
    /// What a session has to do with it at first.
    fn from(configured: TlsUse) -> Self {
        match configured {
            // Where it is implicit, it is there before the session has anything to say.
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
    /// Whether SCRAM-SHA-256 is for everybody who has an account.
    Mechanisms,
    /// Whether the password is right.
    Password(Credentials),
    /// What is kept of the password of this name, or what looks like it.
    ScramKeys(String),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// The sender may send.
    Admitted,
    /// The recipient's mail goes there.
    Destinations(Destinations),
    /// Whether SCRAM-SHA-256 is to be offered.
    Mechanisms {
        /// It is.
        scram: bool,
    },
    /// Whether the password is right.
    Password(bool),
    /// The keys, and a nonce that was never used before: printable ASCII without a comma.
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

/// What became of a delivery: the message is at every destination of its group, on stable storage, or it is at none and the
/// reply says why. Whatever is not understood is answered 4xx, so that the sender keeps the mail. If a server has taken it
/// over whose words are to be passed on, they are with it.
pub type Outcome = Result<Option<Reply>, Reply>;

/// What a session made of its input.
#[derive(Debug)]
pub struct Turn<'i> {
    /// How many bytes of the input are done with.
    pub used: usize,
    /// What they were.
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
    /// The same, with parameters that are taken although they were not offered.
    Unoffered(&'i [u8]),
    /// A line that may be a password.
    Secret,
    /// A piece of a message.
    Text,
    /// A piece of a chunk that is refused.
    Discarded,
}

/// What the log has in place of such a line.
pub const NOT_SHOWN: &str = "not shown, it may be a password";

/// How lines end on this connection; its first line decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnding {
    /// CRLF and nothing else: a mail program.
    Crlf,
    /// LF, a CR before it dropped: a person typing.
    Lf,
}
