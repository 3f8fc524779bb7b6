//! The transcript of a session: what was said and decided, in a form that people can read and search, and that
//! `mailrecv replay` can play.
//!
//! The first line names the format and its version. Then come lines about the peer, and, after an empty line, one entry
//! in each line: `C:` what the peer sent, `T:` the same for text of a message, `S:` a line of our reply, `D:` a
//! decision, `N:` another event, `E:` how the session ended. `octets.rs` says how octets are written; the fields of
//! `D:` and `N:` are separated by tabs. A last line without its end was cut and is ignored. mailrecv(8), TRANSCRIPTS,
//! is the reference.

mod octets;
mod read;
mod write;

use std::net::IpAddr;

pub use octets::{Octets, Piece};
pub use read::{Malformed, Transcript};
pub(crate) use write::EXTENSION;
pub use write::{Recorder, lines_of};

use crate::config::{Finding, Protocol, Rules, Verdict};
use crate::peer::Peer;
use crate::smtp::reply::Reply;
use crate::smtp::{Answer, Question};

/// The first line.
const FIRST_LINE: &str = "mailrecv transcript 1";

/// The beginning of the first line in every version.
const NAME: &str = "mailrecv transcript ";

/// How a session has ended that one side has closed in the regular way.
pub(crate) const CLOSED: &str = "closed";

/// Stands in place of the peer's name if a look-up found none that is acceptable; no host has this name.
const NO_NAME: &str = "(none)";

/// The circumstances of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// When the session began, for people.
    pub time: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The proxy that connected and said who the peer is.
    pub proxy: Option<IpAddr>,
    /// The peer.
    pub peer: Peer,
    /// Whether the peer's name was looked up and no acceptable one was found.
    pub is_nameless: bool,
}

/// An event in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The peer sent this.
    Said(Octets),
    /// The peer sent this as text of a message.
    Text(Octets),
    /// A line of our reply.
    Reply(String),
    /// A decision of the rules.
    Ruled(Ruled),
    /// The next server, or lack of room, refused what the rules allow.
    Asked(Reply),
    /// The message was delivered; its identifier, and the next server's words if they were passed on.
    Delivered(String, Option<Reply>),
    /// The message was not delivered.
    NotDelivered(Reply),
    /// TLS has begun, with these parameters.
    Secured(String),
    /// The peer has logged in as this user, by this mechanism.
    Authenticated(String, String),
    /// The session has ended in this way.
    Ended(String),
}

/// A decision of the rules about somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruled {
    /// Whom it is about.
    pub about: About,
    /// `admitted`, `refused`, or a destination in the words of the configuration. For several destinations there are
    /// several decisions.
    pub verdict: String,
    /// The line of the configuration that decided, if one did.
    pub by: Option<String>,
}

/// Whom a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The peer.
    Peer,
    /// The sender of the message.
    Sender,
    /// A recipient of the message.
    Recipient,
}

impl About {
    /// All of them with their words.
    const ALL: [(Self, &str); 3] = [(Self::Peer, "peer"), (Self::Sender, "sender"), (Self::Recipient, "recipient")];

    /// Its word in a transcript.
    pub fn word(self) -> &'static str {
        match self {
            About::Peer => Self::ALL[0].1,
            About::Sender => Self::ALL[1].1,
            About::Recipient => Self::ALL[2].1,
        }
    }
}

impl Ruled {
    /// The decision whether the peer may talk to us; `findings` show which line decided.
    pub fn of_peer(is_refused: bool, findings: &[Finding<'_>]) -> Self {
        let verdict = if is_refused { REFUSED } else { ADMITTED };
        Self { about: About::Peer, verdict: verdict.to_owned(), by: line_of(findings) }
    }

    /// The decision about a peer that has no name although the limit requires one.
    pub fn of_nameless_peer() -> Self {
        let by = Some("limit.fcrdns_check".to_owned());
        Self { about: About::Peer, verdict: REFUSED.to_owned(), by }
    }

    /// The decisions in the answer to a question; none if the question is not for the rules. `findings` show which line
    /// decided.
    pub fn of_answer(question: &Question, answer: &Answer, findings: &[Finding<'_>], rules: &Rules) -> Vec<Self> {
        let about = match question {
            Question::Sender(_) => About::Sender,
            Question::Recipient(_) => About::Recipient,
            Question::Mechanisms | Question::Password(_) | Question::ScramKeys(_) => return Vec::new(),
        };
        let one = |verdict: &str| vec![Self { about, verdict: verdict.to_owned(), by: line_of(findings) }];
        match answer {
            Answer::Admitted => one(ADMITTED),
            Answer::Destinations(destinations) => {
                let destinations = destinations.shown().map(|(action, origin)| Self {
                    about,
                    verdict: action.to_string(),
                    by: Some(rules.origin(origin).to_string()),
                });
                destinations.collect()
            }
            Answer::No(_) | Answer::Mechanisms { .. } | Answer::Password(_) | Answer::ScramKeys(..) => one(REFUSED),
        }
    }

    /// Whether both decide the same, whichever lines of the configuration do.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.about == other.about && self.verdict == other.verdict
    }
}

fn line_of(findings: &[Finding<'_>]) -> Option<String> {
    deciding(findings).and_then(|finding| finding.line).map(|line| line.to_string())
}

/// The finding that decided: the last line that matches this peer, sender or recipient. There may be none.
pub fn deciding<'f, 'c>(findings: &'f [Finding<'c>]) -> Option<&'f Finding<'c>> {
    findings.iter().rev().find(|finding| finding.line.is_some() && finding.verdict == Verdict::Matches)
}

const ADMITTED: &str = "admitted";
const REFUSED: &str = "refused";
