//! Compares what servers made of the same case, and says which of them stands apart, and how.
//!
//! It works on observations alone, and holds no session unless it is asked to look again ([`confirm`]). What servers do to
//! every message is learned first ([`learn()`]) and is no difference; whatever else splits them is.

mod controls;
mod difference;
mod judge;
mod learn;
mod meaning;
mod outcome;
mod own;
mod pairs;
mod steady;
pub mod text;

use serde::{Deserialize, Serialize};

pub use controls::controls;
pub use judge::{Cluster, Judgement, Stand, Verdict, judge, judge_against};
pub use learn::{Addition, Change, FieldPlace, LastLineEnd, Learned, MailboxLines, learn};
pub use pairs::{Chain, chains, judge_chain};
pub use steady::{Steadiness, TIMES, confirm, standing_apart, weigh};

/// What the standard has come of a case, where it says so. Whoever makes cases knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The messages, in order, as a server has them that takes everything and changes nothing.
    pub messages: Vec<ExpectedMessage>,
    /// Whether a server may refuse some or all of it as well: what is sent is not what the standard allows.
    pub may_refuse: bool,
    /// A server out of which more messages come has seen an end where there is none; counted for all recipients together.
    /// Nothing, if no number can be told.
    pub at_most: Option<usize>,
}

/// A message that comes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMessage {
    /// Its octets, dots taken away, ends of lines as on the wire, placeholders in them.
    #[serde(with = "crate::case::escaped")]
    pub octets: Vec<u8>,
    /// For how many recipients.
    pub copies: usize,
}

/// Kinds of differences, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The server does not greet any more.
    Died,
    /// Another number of messages came out.
    Count,
    /// A message has the sender or the subject that only text within a message has.
    Forged,
    /// A message ends before its end.
    Cut,
    /// One refuses what the other accepts.
    AcceptRefuse,
    /// A header has a field more or less.
    Header,
    /// A message has other octets.
    Bytes,
    /// The answers are different in another way.
    Reply,
}

impl Class {
    /// All of them, in this order.
    pub const ALL: [Self; 8] =
        [Self::Died, Self::Count, Self::Forged, Self::Cut, Self::AcceptRefuse, Self::Header, Self::Bytes, Self::Reply];

    /// As it is written on the command line and in reports.
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

/// What exactly is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server does not greet any more.
    Died,
    /// More messages.
    More,
    /// Fewer, and nothing says so to the sender.
    Lost,
    /// The sender or the subject of text within the message.
    Forged,
    /// The message ends before its end.
    Cut,
    /// Refuses.
    Refuses,
    /// Accepts what is refused elsewhere.
    Accepts,
    /// Accepts, and tells the sender later that it did not arrive.
    Bounces,
    /// A field more in the header.
    HeaderInjected,
    /// A field less in the header.
    HeaderLost,
    /// Other octets.
    Bytes,
    /// Another sender or recipient is passed on.
    Envelope,
    /// No answer where others have one, and nothing came out.
    NoAnswer,
    /// Other answers.
    Answers,
}

impl Kind {
    /// The class that it is of.
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

    /// A letter for a grid. No two have the same.
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
            Self::Died => "the server greets no more",
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

    /// All of them, in the order of their classes.
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

/// A way in which a server stands apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is.
    pub kind: Kind,
    /// What is seen of it, for people: the fields, the numbers, the first octet that is another.
    pub detail: String,
}
