//! What the standard says about a case: which messages a server that keeps to it takes out of the session, octet by octet.
//!
//! The reader is strict: RFC 5321 with its grammar, RFC 3030 for BDAT, RFC 2920 for what may be sent before a reply came. Only
//! CR LF ends a line, only CR LF `.` CR LF ends a text. Where a client may not send what it sends, or needs an extension that
//! the server may not have, or names a recipient that only the server knows, the standard leaves it open what comes of it;
//! the reader then goes on as if the server took it, and says what is open.

mod command;
mod guide;
mod path;
mod session;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Unit, escaped};
use session::Session;

pub(crate) use guide::Guide;

/// What a server that keeps to the standard makes of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The messages, in the order in which they are complete. If [`Expected::open`] is empty they are taken, all of them, and
    /// as they stand here. If not, some or all of them may be refused, and the octets may be others; these are the ones of a
    /// server that takes everything and changes nothing.
    pub messages: Vec<ExpectedMessage>,
    /// What the standard leaves open, in the order in which it is sent; nothing if it says what comes of the case.
    pub open: Vec<Open>,
    /// A server that takes more messages than these has seen an end where there is none, or text for commands. Nothing if no
    /// number can be told: a line of commands that is none can be taken for several.
    pub at_most: Option<usize>,
}

/// A message, with the placeholders of its case in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMessage {
    /// The sender, without the brackets around it.
    #[serde(with = "escaped")]
    pub mail: Vec<u8>,
    /// The recipients, without the brackets, and without a route in front, in the order in which they are named.
    pub recipients: Vec<Recipient>,
    /// The message: no dot in front of a line that is not its own, no final dot.
    #[serde(with = "escaped")]
    pub octets: Vec<u8>,
}

/// A recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipient(#[serde(with = "escaped")] pub Vec<u8>);

/// Something that the standard leaves open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What.
    pub reason: Reason,
    /// Where it is sent: an index into the units of the case.
    pub unit: usize,
}

/// Why the standard does not say what comes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A CR with no LF behind it in a text: not to be sent (RFC 5321, 2.3.8).
    BareCr,
    /// An LF with no CR before it in a text: not to be sent (RFC 5321, 2.3.8).
    BareLf,
    /// NUL or another control character in a text: better not sent (RFC 5321, 4.1.1.4).
    ControlCharacter,
    /// An octet above 127 in a text that was not announced as such (RFC 6152).
    EightBit,
    /// A line of more than 1,000 octets in a text (RFC 5321, 4.5.3.1.6).
    LongLine,
    /// A command of more than 512 octets, or a path, local part or domain that is too long (RFC 5321, 4.5.3.1).
    LongCommand,
    /// A CR, an LF, a NUL, or what is not ASCII, within a line of commands.
    CommandLine,
    /// A command that is not as the grammar has it (RFC 5321, 4.1.1 and 4.1.2).
    Syntax,
    /// MAIL before HELO, EHLO or LHLO.
    NoHello,
    /// MAIL within a transaction.
    SecondMail,
    /// A recipient of whom only the server knows whether it has one.
    Recipient,
    /// Something sent before the reply that it has to wait for (RFC 2920, 3.1).
    BeforeReply,
    /// A parameter of which no standard is known here.
    Parameter,
    /// An extension is used that the server may not have.
    Extension(Extension),
}

/// An extension of SMTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 3030: BDAT.
    Chunking,
    /// RFC 3030: BODY=BINARYMIME.
    BinaryMime,
    /// RFC 6152: BODY=7BIT and BODY=8BITMIME.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 1870.
    Size,
    /// RFC 3461.
    Dsn,
    /// RFC 4954.
    Auth,
    /// RFC 3207. What follows it is not read.
    StartTls,
}

/// What a server that keeps to the standard makes of the case.
pub fn expected(case: &Case) -> Expected {
    let mut session = Session::new();
    for (number, unit) in case.units.iter().enumerate() {
        match unit {
            Unit::Send { octets, .. } => session.send(octets, number),
            Unit::Expect { code } => session.expect(code),
            Unit::Pause(_) | Unit::StartTls => session.pause(),
        }
    }
    session.into_expected()
}

impl Expected {
    /// Whether the standard says what comes of the case: these messages, and as they stand here.
    pub fn is_definite(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether this is what is open.
    pub fn leaves_open(&self, reason: Reason) -> bool {
        self.open.iter().any(|open| open.reason == reason)
    }
}

impl fmt::Display for Expected {
    /// In one line: `1 message`, or `at most 1 message; open: bare-lf`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize| match number {
            1 => "1 message".to_owned(),
            number => format!("{number} messages"),
        };
        if self.is_definite() {
            return f.write_str(&count(self.messages.len()));
        }
        match self.at_most {
            Some(number) => write!(f, "at most {}; open:", count(number))?,
            None => f.write_str("open:")?,
        }
        let mut reasons: Vec<_> = self.open.iter().map(|open| open.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons.iter().try_for_each(|reason| write!(f, " {reason}"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareCr => "bare-cr",
            Self::BareLf => "bare-lf",
            Self::ControlCharacter => "control-character",
            Self::EightBit => "eight-bit",
            Self::LongLine => "long-line",
            Self::LongCommand => "long-command",
            Self::CommandLine => "command-line",
            Self::Syntax => "syntax",
            Self::NoHello => "no-hello",
            Self::SecondMail => "second-mail",
            Self::Recipient => "recipient",
            Self::BeforeReply => "before-reply",
            Self::Parameter => "parameter",
            Self::Extension(extension) => match extension {
                Extension::Pipelining => "pipelining",
                Extension::Chunking => "chunking",
                Extension::BinaryMime => "binarymime",
                Extension::EightBitMime => "8bitmime",
                Extension::SmtpUtf8 => "smtputf8",
                Extension::Size => "size",
                Extension::Dsn => "dsn",
                Extension::Auth => "auth",
                Extension::StartTls => "starttls",
            },
        })
    }
}

#[cfg(test)]
mod tests;
