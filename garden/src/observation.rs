//! What a server made of a case.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::case::{Case, escaped};

/// Whoever has servers and can hold sessions with them: a garden, or servers that are made up for a test.
pub trait Servers {
    /// The names of the servers, in the order in which they are shown.
    fn names(&self) -> Vec<String>;

    /// Holds a session for each of these cases with this server, one after another, and says what came of each, in the order
    /// of the cases. What is delivered or passed on may be gathered once, behind the last session.
    ///
    /// # Errors
    ///
    /// Our own faults, and a server that does not come back after it died. What a server does to a session is no error.
    fn hold(&mut self, server: &str, cases: &[Case]) -> Result<Vec<Observation>>;

    /// The same for several servers, in their order. Whoever can do that at the same time does.
    ///
    /// # Errors
    ///
    /// As of [`Servers::hold`].
    fn hold_each(&mut self, asked: &[(String, Vec<Case>)]) -> Result<Vec<Vec<Observation>>> {
        asked.iter().map(|(server, cases)| self.hold(server, cases)).collect()
    }
}

/// What a server made of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The name of the case.
    pub case: String,
    /// The name of the server.
    pub server: String,
    /// What [`crate::case::Placeholder::Token`] stood for.
    pub token: String,
    /// What the other placeholders stood for, by [`crate::case::Placeholder::text`]: addresses and domains are different from
    /// server to server, and so is what comes out, unless they are put back.
    #[serde(default)]
    pub filled: BTreeMap<String, String>,
    /// What was sent and what came, in the order in which it was.
    pub transcript: Vec<Event>,
    /// The messages that came out with this token anywhere in them: in the order in which they came, as far as that is known.
    pub messages: Vec<Message>,
    /// What it logged while the session was held, a line each.
    pub log: Vec<String>,
    /// Whether it still greets.
    pub is_alive: bool,
    /// Whether it has nothing more to deliver or to pass on. If not, messages may be missing, and nothing is known of them.
    pub is_drained: bool,
}

/// Something that happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// These octets were sent, placeholders filled in.
    Sent(#[serde(with = "escaped")] Vec<u8>),
    /// A reply came whole.
    Reply(Reply),
    /// From here on what is sent and comes was encrypted.
    Secured,
    /// No reply came in the time that the server is given for one. It is no refusal.
    TimedOut,
    /// What came is no reply.
    Garbage(#[serde(with = "escaped")] Vec<u8>),
    /// The server closed or reset the connection.
    Closed,
}

/// A reply (RFC 5321, 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its code.
    pub code: u16,
    /// The texts of its lines, behind the code and what separates them, without their ends.
    pub lines: Vec<String>,
    /// The unit that it was read in: an index into the units of the case as it is given to [`Servers::hold`], whatever was
    /// put in for a server that wants a log in; nothing for the greeting.
    pub unit: Option<usize>,
}

/// A message that came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Where.
    pub place: Place,
    /// Its sender and recipients, where that is known: on the wire always, in a mailbox never.
    pub envelope: Option<Envelope>,
    /// The octets: of a file as they are in it; on the wire from behind the reply to DATA, dots and the final one included.
    #[serde(with = "escaped")]
    pub octets: Vec<u8>,
}

/// Where a message came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the mailbox of this user.
    Mailbox(String),
    /// At the next hop, which the server passes mail on to.
    Wire,
}

/// A sender and recipients, without the brackets around them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The argument of MAIL FROM, parameters included.
    pub mail: String,
    /// The arguments of RCPT TO.
    pub recipients: Vec<String>,
}

/// How long replies are waited for, and other bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a reply.
    pub reply: Duration,
    /// For the mail of all sessions to be delivered or passed on.
    pub drained: Duration,
}
