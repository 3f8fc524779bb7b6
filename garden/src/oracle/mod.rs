//! What the standard says about a case: which messages a server that follows it receives in the session, octet by
//! octet.
//!
//! The reader is strict: RFC 5321 with its grammar, RFC 3030 for BDAT, RFC 2920 for what may be sent before a reply.
//! Only CR LF ends a line, and only CR LF `.` CR LF ends a text. If a client sends something that it must not send,
//! needs an extension that the server may not have, or names a recipient that only the server knows, the standard
//! leaves the outcome open. The reader then continues as if the server accepted it, and notes what is open.

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

/// What a server that follows the standard does in a case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The messages, in the order in which they are complete. If [`Expected::open`] is empty, all of them are accepted
    /// exactly as they are here. Otherwise some or all of them may be refused or have other octets; these are the
    /// messages of a server that accepts everything and changes nothing.
    pub messages: Vec<ExpectedMessage>,
    /// What the standard leaves open, in the order in which it is sent; empty if the outcome is determined.
    pub open: Vec<Open>,
    /// A server that receives more messages has seen an end where there is none, or taken text for commands. `None` if
    /// no number can be given, because a malformed line of commands may be taken for several.
    pub at_most: Option<usize>,
}

/// A message, with the placeholders of its case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMessage {
    /// The sender, without the brackets around it.
    #[serde(with = "escaped")]
    pub mail: Vec<u8>,
    /// The recipients, without brackets and source routes, in the order of their commands.
    pub recipients: Vec<Recipient>,
    /// The message, without stuffed dots and without the final dot.
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
    /// The index of the unit that sends it.
    pub unit: usize,
}

/// Why the standard does not determine the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A CR without an LF behind it in a text, which must not be sent (RFC 5321, 2.3.8).
    BareCr,
    /// An LF without a CR before it in a text, which must not be sent (RFC 5321, 2.3.8).
    BareLf,
    /// NUL or another control character in a text, which should not be sent (RFC 5321, 4.1.1.4).
    ControlCharacter,
    /// An octet above 127 in a text without its announcement (RFC 6152).
    EightBit,
    /// A line of more than 1,000 octets in a text (RFC 5321, 4.5.3.1.6).
    LongLine,
    /// A command of more than 512 octets, or a path, local part or domain that is too long (RFC 5321, 4.5.3.1).
    LongCommand,
    /// A CR, LF, NUL, or non-ASCII character within a command.
    CommandLine,
    /// A command that does not follow the grammar (RFC 5321, 4.1.1 and 4.1.2).
    Syntax,
    /// MAIL before HELO, EHLO or LHLO.
    NoHello,
    /// MAIL within a transaction.
    SecondMail,
    /// A recipient that only the server can know.
    Recipient,
    /// Something sent before a reply that the client has to wait for (RFC 2920, 3.1).
    BeforeReply,
    /// A parameter of a standard that is not known here.
    Parameter,
    /// Use of an extension that the server may not have.
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
    /// RFC 3207. What follows is not read.
    StartTls,
}

/// What a server that follows the standard does in this case.
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
    /// Whether the outcome is determined: exactly these messages.
    pub fn is_definite(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether this is left open.
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
