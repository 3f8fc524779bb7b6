//! Compares what servers did with the same case, and says which of them differ, and how.
//!
//! This works on observations only, and holds sessions only to confirm differences ([`confirm`]). What a server does to
//! every message is learned first ([`learn()`]) and is not a difference; everything else that distinguishes servers is.

mod comparable;
mod controls;
mod difference;
mod judge;
mod learn;
mod meaning;
mod outcome;
mod own;
mod pairs;
mod steady;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod stored;
pub mod text;

use serde::{Deserialize, Serialize};

pub use controls::controls;
pub use judge::{Cluster, Judgement, Stand, Verdict, judge, judge_against};
pub use learn::{Addition, Change, FieldPlace, LastLineEnd, Learned, MailboxLines, learn};
pub use pairs::{Chain, chains, judge_chain};
pub use steady::{Steadiness, TIMES, confirm, standing_apart, weigh};

/// The outcome of a case according to the standard, if it is determined. Whoever makes the case knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The messages, in order, of a server that accepts everything and changes nothing.
    pub messages: Vec<ExpectedMessage>,
    /// Whether a server may also refuse some or all of it, because the standard does not allow what is sent.
    pub may_refuse: bool,
    /// The most messages of a correct server, over all recipients. If more come out, the server has seen an end where
    /// there is none. `None` if no number can be given.
    pub at_most: Option<usize>,
}

/// A message that comes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMessage {
    /// Its octets without stuffed dots, with line ends as on the wire, and with placeholders.
    #[serde(with = "crate::case::escaped")]
    pub octets: Vec<u8>,
    /// The number of recipients.
    pub copies: usize,
}

/// Classes of differences, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The server no longer greets, or a process beside it has ended.
    Died,
    /// The number of messages differs.
    Count,
    /// A message has the sender or subject of a message embedded in its text.
    Forged,
    /// A message was cut off.
    Cut,
    /// One server refuses what the other accepts.
    AcceptRefuse,
    /// A header has more or fewer fields.
    Header,
    /// The octets of a message differ.
    Bytes,
    /// The answers differ in another way.
    Reply,
}

impl Class {
    /// All classes, in this order.
    pub const ALL: [Self; 8] =
        [Self::Died, Self::Count, Self::Forged, Self::Cut, Self::AcceptRefuse, Self::Header, Self::Bytes, Self::Reply];

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Died => "died",
            Self::Count => "count",
            Self::Forged => "forged",
            Self::Cut => "cut",
            Self::AcceptRefuse => "accept-refuse",
            Self::Header => "header",
            Self::Bytes => "bytes",
            Self::Reply => "reply",
        }
    }
}

/// The exact kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server no longer greets, or a process beside it has ended.
    Died,
    /// More messages.
    More,
    /// Fewer messages, and the sender is not told.
    Lost,
    /// The sender or subject of a message embedded in the text.
    Forged,
    /// A message was cut off.
    Cut,
    /// It refuses what others accept.
    Refuses,
    /// It accepts what others refuse.
    Accepts,
    /// It accepts, and tells the sender later that the message did not arrive.
    Bounces,
    /// An additional field in the header.
    HeaderInjected,
    /// A missing field in the header.
    HeaderLost,
    /// Other octets.
    Bytes,
    /// It passes mail on with another sender or recipient.
    Envelope,
    /// It does not answer where others do, and nothing came out.
    NoAnswer,
    /// Other answers.
    Answers,
}

impl Kind {
    /// Its class.
    pub const fn class(self) -> Class {
        match self {
            Self::Died => Class::Died,
            Self::More | Self::Lost => Class::Count,
            Self::Forged => Class::Forged,
            Self::Cut => Class::Cut,
            Self::Refuses | Self::Accepts | Self::Bounces => Class::AcceptRefuse,
            Self::HeaderInjected | Self::HeaderLost => Class::Header,
            Self::Bytes | Self::Envelope => Class::Bytes,
            Self::NoAnswer | Self::Answers => Class::Reply,
        }
    }

    /// Its letter in a grid; no two kinds share one.
    pub const fn letter(self) -> char {
        match self {
            Self::Died => 'X',
            Self::More => 'M',
            Self::Lost => 'L',
            Self::Forged => 'F',
            Self::Cut => 'C',
            Self::Refuses => 'R',
            Self::Accepts => 'A',
            Self::Bounces => 'b',
            Self::HeaderInjected => 'I',
            Self::HeaderLost => 'H',
            Self::Bytes => 'B',
            Self::Envelope => 'E',
            Self::NoAnswer => 'n',
            Self::Answers => 'r',
        }
    }

    /// What it means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Died => "the server greets no more, or what runs beside it has ended",
            Self::More => "more messages come out than elsewhere",
            Self::Lost => "accepted, and fewer messages come out than elsewhere",
            Self::Forged => "a message has the sender or the subject of text inside of it",
            Self::Cut => "the message ends before its end",
            Self::Refuses => "refuses what is accepted elsewhere",
            Self::Accepts => "accepts what is refused elsewhere",
            Self::Bounces => "accepts, and bounces it later",
            Self::HeaderInjected => "the header has a field more",
            Self::HeaderLost => "the header has a field less",
            Self::Bytes => "the message has other octets",
            Self::Envelope => "the envelope that is passed on is another",
            Self::NoAnswer => "no answer, and nothing comes out",
            Self::Answers => "answers otherwise",
        }
    }

    /// All kinds, in the order of their classes.
    pub const ALL: [Self; 14] = [
        Self::Died,
        Self::More,
        Self::Lost,
        Self::Forged,
        Self::Cut,
        Self::Refuses,
        Self::Accepts,
        Self::Bounces,
        Self::HeaderInjected,
        Self::HeaderLost,
        Self::Bytes,
        Self::Envelope,
        Self::NoAnswer,
        Self::Answers,
    ];
}

/// A way in which a server differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is.
    pub kind: Kind,
    /// The difference in words: the fields, the numbers, the first octet that differs.
    pub detail: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
