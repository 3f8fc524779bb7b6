//! The receiver without its process: the session, line reader and data reader of the library between two buffers, in the
//! loop that the server has. So a cut costs microseconds, and every position can have one.

use mailrecv::config::{self, Config, Keep, Trace};
use mailrecv::message::Spool;
use mailrecv::peer::Peer;
use mailrecv::smtp::Step;
use mailrecv::smtp::line::{Found, LineReader};
use mailrecv::smtp::reply;
use mailrecv::smtp::session::{Outcome, Session, Transaction};

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
        Self { config, peer: Peer::parse(PEER).unwrap() }
    }

    pub fn byte_by_byte(&self, input: &[u8]) -> History {
        let mut session = self.session();
        let mut states = vec![session.state()];
        for byte in input {
            session.feed(std::slice::from_ref(byte));
            states.push(session.state());
        }
        History { replies: session.replies, texts: session.texts, states }
    }

    /// Checks that two pieces lead where single bytes do, behind the first of them and at the end.
    pub fn in_two(&self, input: &[u8], at: usize, history: &History) -> Result<(), String> {
        let mut session = self.session();
        for (piece, end) in [(&input[..at], at), (&input[at..], input.len())] {
            session.feed(piece);
            let expected = history.states[end];
            let same = session.state() == expected
                && session.replies == history.replies[..expected.replies]
                && session.texts == history.texts[..expected.texts];
            if !same {
                let replies = String::from_utf8_lossy(&session.replies);
                return Err(format!(
                    "cut at byte {at}: behind byte {end} {:?}, {expected:?} in single bytes: {replies}",
                    session.state()
                ));
            }
        }
        Ok(())
    }

    fn session(&self) -> InMemory<'_> {
        let mut replies = Vec::new();
        reply::greeting(&self.config.domain).encode(false, &mut replies);
        InMemory {
            session: Session::new(&self.config, &self.peer, Trace::default()),
            lines: LineReader::default(),
            input: Vec::new(),
            text: Vec::new(),
            closed: false,
            replies,
            texts: Vec::new(),
            copies: 0,
        }
    }
}

struct InMemory<'c> {
    session: Session<'c>,
    lines: LineReader,
    /// What has come and is not consumed.
    input: Vec<u8>,
    /// The message that is coming.
    text: Vec<u8>,
    closed: bool,
    replies: Vec<u8>,
    texts: Vec<Vec<u8>>,
    copies: usize,
}

impl<'c> InMemory<'c> {
    fn state(&self) -> State {
        State { replies: self.replies.len(), texts: self.texts.len(), copies: self.copies }
    }

    fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        while !self.closed {
            let (used, step) = self.next();
            self.input.drain(..used);
            match step {
                Step::Wait => return,
                Step::Deliver(transaction) => self.deliver(&transaction),
                step => self.answer(step),
            }
        }
    }

    fn next(&mut self) -> (usize, Step<'c>) {
        if self.session.wants_data() {
            let (used, step) = self.session.data(&self.input, &mut self.text);
            if !self.session.wants_data() && !matches!(step, Step::Deliver(_)) {
                self.text.clear();
            }
            return (used, step);
        }
        match self.lines.find(&self.input) {
            Found::Line(line, used) => (used, self.session.line(line, self.lines.ending())),
            Found::TooLong(used) => (used, self.session.too_long_line()),
            Found::OtherProtocol => (0, self.session.other_protocol()),
            Found::Nothing(used) => (used, Step::Wait),
        }
    }

    /// Stands in for the destinations: a file below `missing/` cannot be written, and a message goes in circles once 100
    /// servers have had it.
    fn deliver(&mut self, transaction: &Transaction<'_>) {
        let text = std::mem::take(&mut self.text);
        let mut spool = Spool::new(None);
        spool.push(&text);
        let kept = || transaction.recipients.iter().flat_map(|recipient| &recipient.destinations.keep);
        let is_missing = |keep: &Keep<'_>| matches!(keep, Keep::Append(path) if path.starts_with("missing/"));
        let outcome = if spool.hops() > 100 {
            Outcome::Fail(reply::too_many_hops(spool.hops()))
        } else if kept().any(|to| is_missing(&to.action)) {
            Outcome::Defer(reply::try_again(String::new()))
        } else {
            self.copies += transaction.recipients.iter().map(|to| to.destinations.shown().count()).sum::<usize>();
            self.texts.push(text);
            Outcome::Delivered
        };
        let step = self.session.delivered(outcome, "0");
        self.answer(step);
    }

    fn answer(&mut self, step: Step<'_>) {
        self.closed = matches!(step, Step::Close(_));
        match step {
            Step::Reply(reply) | Step::Close(reply) => reply.encode(self.session.is_extended(), &mut self.replies),
            step => panic!("{step:?} is no answer"),
        }
    }
}
