//! A mail transaction: sender, recipients, and where each one's mail goes (RFC 5321, 3.3).

use crate::address::{Mailbox, ReversePath};
use crate::config::Destinations;

/// A message and where it goes.
#[derive(Debug)]
pub struct Transaction {
    /// Whom to tell if something goes wrong.
    pub reverse_path: ReversePath,
    /// The accepted recipients, each once. In SMTP at most one of them is handed over to somebody who will not give it back,
    /// or several to one server, for which they are one.
    pub recipients: Vec<Recipient>,
    /// For each RCPT that was accepted the place of its recipient above: LMTP answers one that is named twice twice.
    pub(super) accepted: Vec<usize>,
    /// How many recipients were told to come in another transaction.
    pub(super) put_off: usize,
    /// How the peer introduced itself.
    pub hello: Hello,
    /// Whether the sender asked for SMTPUTF8 (RFC 6531), because addresses or headers are not ASCII.
    pub utf8: bool,
    /// Octets: as the sender announced them (RFC 1870), 0 if it did not, and as received once the message is complete.
    pub size: u64,
    /// How many places the message is written to or handed over to; recipients can have one in common, but not in LMTP.
    pub places: u64,
}

/// An accepted recipient.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The address.
    pub mailbox: Mailbox,
    /// Whom the message was for at first, if the peer said so.
    pub original: Option<String>,
    /// Where its mail goes.
    pub destinations: Destinations,
}

/// How a peer introduced itself, and the name that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name, as it may be shown; it proves nothing.
    pub name: String,
    /// The command.
    pub verb: HelloVerb,
}

/// The command by which a peer introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloVerb {
    /// SMTP as it was.
    Helo,
    /// SMTP with extensions.
    Ehlo,
    /// LMTP, which always has extensions (RFC 2033, section 5).
    Lhlo,
}

impl Hello {
    /// Whether there are extensions: parameters, and enhanced codes in replies (RFC 2034, section 3).
    pub fn is_extended(&self) -> bool {
        self.verb != HelloVerb::Helo
    }

    /// Whether each recipient has an answer of its own (RFC 2033, 4.2).
    pub fn is_lmtp(&self) -> bool {
        self.verb == HelloVerb::Lhlo
    }
}

impl Transaction {
    /// A transaction that has no recipients yet.
    pub(super) fn new(reverse_path: ReversePath, hello: Hello, size: u64) -> Self {
        let (recipients, accepted) = (Vec::new(), Vec::new());
        Self { reverse_path, recipients, accepted, put_off: 0, hello, utf8: false, size, places: 0 }
    }

    /// Takes the recipient in.
    pub(super) fn add(&mut self, recipient: Recipient) {
        self.places += self.new_places(&recipient.destinations);
        self.accepted.push(self.recipients.len());
        self.recipients.push(recipient);
    }

    /// How many octets it takes to write a message of this size to every place, those of a further recipient included.
    pub(super) fn octets(&self, size: u64, further: Option<&Destinations>) -> u64 {
        size.saturating_mul(self.places + further.map_or(0, |destinations| self.new_places(destinations)))
    }

    /// How many octets it takes to write the message for these recipients.
    pub(super) fn octets_of(&self, group: &[Recipient]) -> u64 {
        let places = match self.hello.is_lmtp() {
            true => group.iter().map(|recipient| self.new_places(&recipient.destinations)).sum(),
            false => self.places,
        };
        self.size.saturating_mul(places)
    }

    /// How many places these destinations add. Each recipient of LMTP has its copies to itself.
    fn new_places(&self, destinations: &Destinations) -> u64 {
        let others = if self.hello.is_lmtp() { &[] } else { &self.recipients[..] };
        destinations.places_beyond(others.iter().map(|recipient| &recipient.destinations))
    }

    /// Where the mailbox is among the recipients, if it is.
    pub(super) fn place_of(&self, mailbox: &Mailbox) -> Option<usize> {
        self.recipients.iter().position(|recipient| recipient.mailbox.is_same(mailbox))
    }

    /// Whether both the transaction and these destinations have one that cannot be taken back: one of them may fail when
    /// the other is done. Where each recipient has its own answer that is no harm.
    pub(super) fn collides_with(&self, destinations: &Destinations) -> bool {
        if self.hello.is_lmtp() {
            return false;
        }
        let known = self.recipients.iter().map(|recipient| &recipient.destinations);
        let mut handed_over = known.filter(|known| known.are_handed_over());
        destinations.are_handed_over() && !handed_over.all(|known| known.share_hand_over(destinations))
    }
}
