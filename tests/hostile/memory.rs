//! The receiver without its process: the session of the library between two buffers (fuzz/src/driver.rs). So a cut costs
//! microseconds, and every position can have one.

use std::fmt::Display;
use std::rc::Rc;

use mailrecv::config::{self, Config, Finding, Trace};
use mailrecv::message::{Spool, SpoolFile};
use mailrecv::peer::Peer;
use mailrecv::smtp::reply::{self, Reply};
use mailrecv::smtp::{Delivery, Heard, Outcome};

use crate::driver::{Driver, World};
use crate::process::Receiver;
use crate::support::{CONFIG, PEER};

/// A configuration and a peer.
pub struct Setting {
    config: Config,
    peer: Peer,
}

/// How a session went: what it answered and delivered, and how much of that behind each byte.
pub struct History {
    /// The replies, as they go over the wire.
    replies: Vec<u8>,
    /// The texts of the messages.
    texts: Vec<Vec<u8>>,
    /// The state before the first byte, behind it, behind the second, ... behind the last.
    states: Vec<State>,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    /// Octets of replies.
    replies: usize,
    /// Messages delivered.
    texts: usize,
    /// Copies of messages delivered, one for each destination.
    copies: usize,
}

impl History {
    /// The replies to what ends at this byte.
    pub fn replies(&self, at: usize) -> &[u8] {
        &self.replies[..self.states[at].replies]
    }

    /// The number of copies that what ends at this byte has delivered.
    pub fn copies(&self, at: usize) -> usize {
        self.states[at].copies
    }
}

impl Setting {
    pub fn new(receiver: &Receiver) -> Self {
        let config = config::load(&receiver.path(CONFIG)).unwrap_or_else(|unusable| panic!("{:?}", unusable.errors));
        Self { config: *config, peer: Peer::parse(PEER).unwrap() }
    }

    pub fn byte_by_byte(&self, input: &[u8]) -> History {
        let mut session = self.session();
        let mut states = vec![session.state()];
        for byte in input {
            session.feed(std::slice::from_ref(byte));
            states.push(session.state());
        }
        History { replies: session.outside.replies, texts: session.outside.texts, states }
    }

    /// Checks that two pieces lead where single bytes do, behind the first of them and at the end.
    pub fn in_two(&self, input: &[u8], at: usize, history: &History) -> Result<(), String> {
        let mut session = self.session();
        for (piece, end) in [(&input[..at], at), (&input[at..], input.len())] {
            session.feed(piece);
            let expected = history.states[end];
            let same = session.state() == expected
                && session.outside.replies == history.replies[..expected.replies]
                && session.outside.texts == history.texts[..expected.texts];
            if !same {
                let replies = String::from_utf8_lossy(&session.outside.replies);
                return Err(format!(
                    "cut at byte {at}: behind byte {end} {:?}, {expected:?} in single bytes: {replies}",
                    session.state()
                ));
            }
        }
        Ok(())
    }

    fn session(&self) -> InMemory<'_> {
        let mut outside = Outside::default();
        reply::greeting(&self.config.domain, self.config.protocol).encode(false, &mut outside.replies);
        let driver = Driver::new(&self.config, &self.peer, Trace::default(), &mut outside);
        InMemory { driver, outside }
    }
}

struct InMemory<'c> {
    driver: Driver<'c>,
    outside: Outside,
}

impl InMemory<'_> {
    fn state(&self) -> State {
        let Outside { replies, texts, copies } = &self.outside;
        State { replies: replies.len(), texts: texts.len(), copies: *copies }
    }

    fn feed(&mut self, piece: &[u8]) {
        if !self.driver.is_closed() {
            self.driver.feed(piece, &mut self.outside);
        }
    }
}

/// What has left the session.
#[derive(Default)]
struct Outside {
    replies: Vec<u8>,
    texts: Vec<Vec<u8>>,
    copies: usize,
}

impl World for Outside {
    fn heard(&mut self, _: usize, _: Heard<'_>) {}

    fn decided(&mut self, _: Vec<Finding<'_>>) {}

    /// Stands in for the destinations: a file below `missing/` cannot be written, and a message goes in circles once 100
    /// servers have had it.
    fn deliver(&mut self, delivery: &Delivery, text: &[u8]) -> (Outcome, String) {
        let mut spool = Spool::new(Rc::new(SpoolFile::open(None)));
        spool.push(text);
        let shown = || delivery.recipients().iter().flat_map(|recipient| recipient.destinations.shown());
        let is_missing = |action: &dyn Display| action.to_string().starts_with("append 'missing/");
        let outcome = if spool.hops() > 100 {
            Err(reply::too_many_hops(spool.hops()))
        } else if shown().any(|(action, _)| is_missing(&action)) {
            Err(reply::try_again(String::new()))
        } else {
            // Recipients with a place in common share one copy, but not in LMTP.
            let transaction = &delivery.transaction;
            let of_one = || shown().count();
            let of_all = || usize::try_from(transaction.places).unwrap();
            self.copies += if transaction.hello.is_lmtp() { of_one() } else { of_all() };
            self.texts.push(text.to_owned());
            Ok(None)
        };
        (outcome, "0".to_owned())
    }

    fn reply(&mut self, reply: &Reply, extended: bool) {
        reply.encode(extended, &mut self.replies);
    }
}
