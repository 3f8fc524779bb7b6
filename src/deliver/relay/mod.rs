//! `relay URL`: passes the message on to the next server, called the hop, while the peer waits.
//!
//! The hop is asked when the peer asks us: its answers to MAIL and RCPT are our replies, and so is its answer to the
//! text. So the peer is told that a message was refused only if the hop has not taken it, unless the hop's last answer
//! was lost. A session has at most one connection to a hop, which is used for later messages too.

mod connection;
mod files;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use connection::{Connection, Lost, Trouble};
pub(crate) use files::RelayFiles;

use super::failure;
use crate::address::Mailbox;
use crate::config::{Config, Hop, HopTls};
use crate::log::{Event, Log};
use crate::message::{RecipientCopy, Spool};
use crate::net::patience::Patience;
use crate::peer::{self, LocalAddress};
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::smtp::upstream::Sender;

/// The connections of one session to the servers that its messages are passed on to.
pub(crate) struct Upstreams<'a> {
    config: &'a Config,
    files: &'a RelayFiles,
    log: &'a Log,
    signals: &'a Signals,
    /// Where the peer's connection came in.
    own_address: Option<LocalAddress>,
    /// When waiting for hops has to end.
    until: Cell<Instant>,
    connections: RefCell<Vec<(Hop, Connection)>>,
    /// Hops to which a new connection failed in this transaction, and what was answered then, so that not each
    /// recipient has to wait for the same failure.
    unreachable: RefCell<Vec<(Hop, Reply)>>,
}

impl<'a> Upstreams<'a> {
    /// Starts without any connection.
    pub(crate) fn new(config: &'a Config, files: &'a RelayFiles, log: &'a Log, signals: &'a Signals) -> Self {
        let (until, connections, unreachable) = (Cell::new(Instant::now()), RefCell::default(), RefCell::default());
        let own_address = peer::local_address(std::io::stdin().as_fd());
        Self { config, files, log, signals, own_address, until, connections, unreachable }
    }

    /// Sets until when hops may be waited for.
    pub(crate) fn set_deadline(&self, until: Instant) {
        self.until.set(until);
    }

    /// A transaction begins: what hops were asked before was about another one.
    pub(crate) fn begin(&self) {
        self.unreachable.borrow_mut().clear();
        self.connections.borrow_mut().iter_mut().for_each(|(_, connection)| connection.forget_transaction());
    }

    /// Asks a hop whether it takes mail of this sender; an error is its refusal.
    pub(crate) fn sender(&self, hop: &Hop, sender: &Sender) -> Result<(), Reply> {
        self.with_transaction(hop, sender, &[]).map(drop)
    }

    /// Asks a hop whether it takes this sender's mail for one more recipient; an error is its refusal.
    pub(crate) fn recipient(&self, hop: &Hop, sender: &Sender, recipient: &Mailbox) -> Result<(), Reply> {
        let place = self.place_of(hop).filter(|place| self.connections.borrow()[*place].1.is_open_for(sender));
        let Some(place) = place else { return self.with_transaction(hop, sender, &[recipient]).map(drop) };
        let asked = self.connections.borrow_mut()[place].1.recipient(&self.way(hop), sender, recipient);
        asked.map_err(|trouble| self.reply(hop, trouble))
    }

    /// Passes the message on for these recipients, who share one answer. Returns what the hop says when it has taken
    /// it.
    pub(super) fn deliver(
        &self,
        hop: &Hop,
        recipients: &[&Mailbox],
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> Result<Reply, Reply> {
        if spool.hops() > MAX_HOPS_TO_RELAY {
            return Err(reply::too_many_hops(spool.hops()));
        }
        let transaction = copy.envelope.transaction;
        let (path, utf8) = (transaction.reverse_path.clone(), transaction.utf8);
        let announced = Sender { path, size: transaction.size, utf8 };
        let received = copy.received();
        let way = self.way(hop);
        let begin_text = |place: usize, spool: &mut Spool| {
            self.connections.borrow_mut()[place].1.begin_text(&way, &received, transaction.size, spool)
        };
        let send_text = |place: usize, spool: &mut Spool| {
            let taken = self.connections.borrow_mut()[place].1.text(&way, &received, recipients.len(), spool);
            taken.map_err(|trouble| self.reply(hop, trouble))
        };
        let open =
            self.place_of(hop).filter(|at| self.connections.borrow()[*at].1.is_open_with(&announced, recipients));
        if let Some(place) = open {
            match begin_text(place, spool) {
                Ok(()) => return send_text(place, spool),
                // A server that has waited for long closes the connection. Before the text was sent, nothing is lost
                // with it.
                Err(Trouble::Lost(Lost::Closed(_))) => drop(self.connections.borrow_mut().remove(place)),
                Err(trouble) => return Err(self.reply(hop, trouble)),
            }
        }
        // A new transaction is needed as well if the open one has other recipients: one that the hop accepts may have
        // been put off by us.
        let place = self.with_transaction(hop, &announced, recipients)?;
        begin_text(place, spool).map_err(|trouble| self.reply(hop, trouble))?;
        send_text(place, spool)
    }

    /// Sends QUIT to all hops.
    pub(crate) fn close(&self) {
        for (hop, mut connection) in self.connections.take() {
            connection.quit(&self.way(&hop));
        }
    }

    /// Makes sure that the hop has a transaction open for exactly these recipients; returns the connection's index.
    fn with_transaction(&self, hop: &Hop, sender: &Sender, recipients: &[&Mailbox]) -> Result<usize, Reply> {
        let way = self.way(hop);
        if let Some(place) = self.place_of(hop) {
            let begun = self.connections.borrow_mut()[place].1.begin(&way, sender, recipients);
            match begun {
                // Again a connection that was idle for long.
                Err(Trouble::Lost(Lost::Closed(_))) => drop(self.connections.borrow_mut().remove(place)),
                begun => return begun.map(|()| place).map_err(|trouble| self.reply(hop, trouble)),
            }
        }
        if let Some((_, reply)) = self.unreachable.borrow().iter().find(|(known, _)| known == hop) {
            return Err(reply.clone());
        }
        let opened = Connection::open(&way).map_err(Trouble::Lost).and_then(|mut connection| {
            let begun = connection.begin(&way, sender, recipients);
            self.connections.borrow_mut().push((hop.clone(), connection));
            begun
        });
        opened.map(|()| self.connections.borrow().len() - 1).map_err(|trouble| {
            let is_lost = matches!(trouble, Trouble::Lost(_));
            let reply = self.reply(hop, trouble);
            if is_lost {
                self.unreachable.borrow_mut().push((hop.clone(), reply.clone()));
            }
            reply
        })
    }

    fn place_of(&self, hop: &Hop) -> Option<usize> {
        self.connections.borrow().iter().position(|(known, _)| known == hop)
    }

    fn way<'w>(&'w self, hop: &'w Hop) -> Way<'w> {
        let Self { config, files, log, signals, ref own_address, .. } = *self;
        let (tls, until) = (config.tls_with(hop), self.until.get());
        Way { hop, tls, config, files, log, signals, own_address: own_address.as_ref(), until }
    }

    /// What the peer is told of this trouble; a connection that is of no more use is dropped.
    fn reply(&self, hop: &Hop, trouble: Trouble) -> Reply {
        let lost = match trouble {
            Trouble::Refused(reply) => return reply,
            Trouble::Lost(lost) => lost,
        };
        self.connections.borrow_mut().retain(|(known, _)| known != hop);
        let about = |cause: String| format!("{}: {cause}", hop.shown());
        match lost {
            Lost::Unreachable(cause) => reply::hop_unreachable(about(cause)),
            Lost::Closed(cause) | Lost::Garbled(cause) => reply::hop_lost(about(cause)),
            Lost::Insecure(cause) => reply::hop_insecure(about(cause)),
            Lost::Misconfigured(cause) => reply::hop_misconfigured(about(cause)),
            Lost::TooSlow(cause) => {
                let refusal = &self.config.limits.relay_secs.refusal;
                let slow = reply::worded(refusal, reply::HOP_TOO_SLOW).because(about(cause));
                Reply { is_our_fault: true, ..slow }
            }
            Lost::Circle(cause) => reply::hop_is_us(about(cause)),
            Lost::Refused(reply) => reply,
            Lost::Unread(error) => failure(&error, "reading the message again"),
            Lost::Stopped => reply::shutting_down(&self.config.domain),
        }
    }
}

impl fmt::Debug for Upstreams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// Everything that is needed to speak with a hop.
#[derive(Clone, Copy)]
struct Way<'w> {
    hop: &'w Hop,
    /// How TLS is used with it.
    tls: HopTls,
    config: &'w Config,
    files: &'w RelayFiles,
    log: &'w Log,
    signals: &'w Signals,
    own_address: Option<&'w LocalAddress>,
    until: Instant,
}

impl<'w> Way<'w> {
    /// How long to wait for one answer: as long as RFC 5321 says, or less if `limit.relay_secs` or the deadline is
    /// shorter.
    fn patience(&self, time: Duration) -> Patience<'w> {
        let time = time.min(self.config.limits.relay_secs.value);
        Patience { until: self.until.min(Instant::now() + time), signals: Some(self.signals) }
    }

    /// The same, but a request to stop does not interrupt it: once a message was sent, we have to hear what became of
    /// it.
    fn patience_to_the_end(&self, time: Duration) -> Patience<'w> {
        Patience { signals: None, ..self.patience(time) }
    }

    fn log(&self, event: &Event<'_>) {
        self.log.event(event);
    }
}

/// A message that more servers than this have handled is not passed on, because it seems to go in circles (RFC 5321,
/// 6.3). Postfix has the same number (hopcount_limit).
const MAX_HOPS_TO_RELAY: usize = 50;
