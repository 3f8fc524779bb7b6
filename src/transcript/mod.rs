//! The transcript of a session: what was said and decided, in a form that people can read and search, and that
//! `mailrecv replay` can play again.
//!
//! The first line names the form and its version. Then comes who the peer is, a line each; then, behind an empty line, an
//! entry a line: `C:` what the peer sent, `T:` the same for text of a message, `S:` a line of our reply, `D:` what was
//! decided, `N:` what else happened, `E:` how it ended. How octets are written is in `octets.rs`; fields of `D:` and `N:`
//! have a tab between them. A line without its end was cut, and does not count. mailrecv(8), TRANSCRIPTS, is the reference.

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

/// What it begins with in every version.
const NAME: &str = "mailrecv transcript ";

/// In place of a name of the peer that was looked up and is none that counts; no host has it.
const NO_NAME: &str = "(none)";

/// Who was there, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// When it began, for people.
    pub time: String,
    /// What was spoken.
    pub protocol: Protocol,
    /// The proxy that the connection came from; it said who the peer is.
    pub proxy: Option<IpAddr>,
    /// The peer.
    pub peer: Peer,
    /// Whether its name was looked up and there is none that counts.
    pub is_nameless: bool,
}

/// What happened next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The peer sent this.
    Said(Octets),
    /// The peer sent this as text of a message.
    Text(Octets),
    /// A line of our reply.
    Reply(String),
    /// What the rules say.
    Ruled(Ruled),
    /// The next server, or the lack of room, refused what the rules allow.
    Asked(Reply),
    /// The message was delivered: our name for it, and the next server's words if they were passed on.
    Delivered(String, Option<Reply>),
    /// It was not.
    NotDelivered(Reply),
    /// The connection is under TLS, of this kind.
    Secured(String),
    /// The peer is this user, by this mechanism.
    Authenticated(String, String),
    /// The session is over, for this reason.
    Ended(String),
}

/// What the rules say of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruled {
    /// Of whom.
    pub about: About,
    /// `admitted`, `refused`, or a destination as the configuration has it, one of several perhaps.
    pub verdict: String,
    /// The line of the configuration that says so, if one does.
    pub by: Option<String>,
}

/// Of whom the rules say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The peer.
    Peer,
    /// The sender that it named.
    Sender,
    /// The recipient.
    Recipient,
}

impl About {
    /// All of them, each with the word for it.
    const ALL: [(Self, &str); 3] = [(Self::Peer, "peer"), (Self::Sender, "sender"), (Self::Recipient, "recipient")];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            About::Peer => Self::ALL[0].1,
            About::Sender => Self::ALL[1].1,
            About::Recipient => Self::ALL[2].1,
        }
    }
}

impl Ruled {
    /// Whether the peer may talk to us, by these findings.
    pub fn of_peer(is_refused: bool, findings: &[Finding<'_>]) -> Self {
        let verdict = if is_refused { REFUSED } else { ADMITTED };
        Self { about: About::Peer, verdict: verdict.to_owned(), by: line_of(findings) }
    }

    /// The peer has no name, and the limit says that it needs one.
    pub fn of_nameless_peer() -> Self {
        let by = Some("limit.fcrdns_check".to_owned());
        Self { about: About::Peer, verdict: REFUSED.to_owned(), by }
    }

    /// What the rules answered to a question, by these findings; nothing, if it was none for them.
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

    /// Whether both say the same, whichever lines say so.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.about == other.about && self.verdict == other.verdict
    }
}

fn line_of(findings: &[Finding<'_>]) -> Option<String> {
    deciding(findings).and_then(|finding| finding.line).map(|line| line.to_string())
}

/// What of the findings decided: the last line that is about this peer, sender or recipient. Nobody's line may be.
pub fn deciding<'f, 'c>(findings: &'f [Finding<'c>]) -> Option<&'f Finding<'c>> {
    findings.iter().rev().find(|finding| finding.line.is_some() && finding.verdict == Verdict::Matches)
}

const ADMITTED: &str = "admitted";
const REFUSED: &str = "refused";
