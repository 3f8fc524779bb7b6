//! What a server did in a case.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::case::{Case, escaped};

/// Servers with which sessions can be held: a garden, or simulated ones in a test.
pub trait Servers {
    /// The names of the servers, in the order of the report.
    fn names(&self) -> Vec<String>;

    /// Holds a session for each of these cases with this server, one after another, and returns an observation of each
    /// in the same order. Messages may be collected once, after the last session.
    ///
    /// # Errors
    ///
    /// Faults of our own, and a server that does not come back after it died. What a server does in a session is not an
    /// error.
    fn hold(&mut self, server: &str, cases: &[Case]) -> Result<Vec<Observation>>;

    /// The same for several servers, in their order; at the same time if that is possible.
    ///
    /// # Errors
    ///
    /// As of [`Servers::hold`].
    fn hold_each(&mut self, asked: &[(String, Vec<Case>)]) -> Result<Vec<Vec<Observation>>> {
        asked.iter().map(|(server, cases)| self.hold(server, cases)).collect()
    }
}

/// What a server did in a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The name of the case.
    pub case: String,
    /// The name of the server.
    pub server: String,
    /// The value of [`crate::case::Placeholder::Token`].
    pub token: String,
    /// The values of the other placeholders, by [`crate::case::Placeholder::text`]. Addresses and domains differ from
    /// server to server, and so would the messages, unless placeholders are put back.
    #[serde(default)]
    pub filled: BTreeMap<String, String>,
    /// What was sent and received, in that order.
    pub transcript: Vec<Event>,
    /// The messages that contain this token, in the order in which they came, as far as that is known.
    pub messages: Vec<Message>,
    /// The lines that it logged while the session was held.
    pub log: Vec<String>,
    /// Whether it still greets.
    pub is_alive: bool,
    /// What had ended of the processes beside it when this was sent or soon after, and how; `None` if nothing had.
    #[serde(default)]
    pub ended: Option<String>,
    /// Whether it has nothing more to deliver or to pass on. If not, messages may be missing.
    pub is_drained: bool,
}

/// Something that happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// These octets were sent, placeholders filled in.
    Sent(#[serde(with = "escaped")] Vec<u8>),
    /// A complete reply came.
    Reply(Reply),
    /// From here on the connection is encrypted.
    Secured,
    /// No reply came in the time that the server has for one. This is not a refusal.
    TimedOut,
    /// Something came that is not a reply.
    Garbage(#[serde(with = "escaped")] Vec<u8>),
    /// The server closed or reset the connection.
    Closed,
}

/// A reply (RFC 5321, 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its code.
    pub code: u16,
    /// The texts of its lines, without codes, separators and line ends.
    pub lines: Vec<String>,
    /// The index of the unit in which it was read, in the case as given to [`Servers::hold`], not counting units that
    /// were added for a login; `None` for the greeting.
    pub unit: Option<usize>,
}

/// A message that came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Where it came out.
    pub place: Place,
    /// Its sender and recipients: known on the wire, unknown in a mailbox.
    pub envelope: Option<Envelope>,
    /// Its octets: those of a file as they are; on the wire everything after the reply to DATA, including stuffed dots
    /// and the final dot.
    #[serde(with = "escaped")]
    pub octets: Vec<u8>,
}

/// Where a message came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the mailbox of this user.
    Mailbox(String),
    /// At the next hop, to which the server passed it on.
    Wire,
}

/// A sender and recipients, without their brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The argument of MAIL FROM, parameters included.
    pub mail: String,
    /// The arguments of RCPT TO.
    pub recipients: Vec<String>,
}

/// How long to wait for replies and deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a reply.
    pub reply: Duration,
    /// For all mail of the sessions to be delivered or passed on.
    pub drained: Duration,
}
