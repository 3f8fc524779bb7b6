//! A mail transaction: sender, recipients, and where each one's mail goes (RFC 5321, 3.3).

use crate::address::{Mailbox, ReversePath};
use crate::config::Destinations;

/// A message and where it goes.
#[derive(Debug)]
pub struct Transaction {
    /// Whom to tell if something goes wrong.
    pub reverse_path: ReversePath,
    /// The accepted recipients, each once. In SMTP at most one of them has a destination that cannot take the message
    /// back, or several if they have the same one.
    pub recipients: Vec<Recipient>,
    /// For each accepted RCPT the index of its recipient in `recipients`. In LMTP two RCPT commands with the same
    /// recipient get two answers.
    pub(super) accepted: Vec<usize>,
    /// How many recipients were told to come in another transaction.
    pub(super) put_off: usize,
    /// How the peer introduced itself.
    pub hello: Hello,
    /// Whether the sender asked for SMTPUTF8 (RFC 6531), because addresses or headers are not ASCII.
    pub utf8: bool,
    /// Octets: as the sender announced them (RFC 1870), 0 if it did not, and as received once the message is complete.
    pub size: u64,
    /// How many places the message is written or handed over to. In SMTP recipients can share a place, in LMTP they
    /// cannot.
    pub places: u64,
}

/// An accepted recipient.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The address.
    pub mailbox: Mailbox,
    /// The address that the message was first sent to (ORCPT), if the peer gave one.
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

    /// How many octets are written in all if a message of this size goes to every place, and to those of a further
    /// recipient.
    pub(super) fn octets(&self, size: u64, further: Option<&Destinations>) -> u64 {
        size.saturating_mul(self.places + further.map_or(0, |destinations| self.new_places(destinations)))
    }

    /// How many octets are written in all for these recipients.
    pub(super) fn octets_of(&self, group: &[Recipient]) -> u64 {
        let places = match self.hello.is_lmtp() {
            true => group.iter().map(|recipient| self.new_places(&recipient.destinations)).sum(),
            false => self.places,
        };
        self.size.saturating_mul(places)
    }

    /// How many places these destinations add. In LMTP no place is shared.
    fn new_places(&self, destinations: &Destinations) -> u64 {
        let others = if self.hello.is_lmtp() { &[] } else { &self.recipients[..] };
        destinations.places_beyond(others.iter().map(|recipient| &recipient.destinations))
    }

    /// The index of the mailbox among the recipients, if it is one of them.
    pub(super) fn place_of(&self, mailbox: &Mailbox) -> Option<usize> {
        self.recipients.iter().position(|recipient| recipient.mailbox.is_same(mailbox))
    }

    /// Whether these destinations and those of the transaction include two different ones that cannot be taken back:
    /// one of them could fail when the other is done. In LMTP each recipient has its own answer, so that does no harm.
    pub(super) fn collides_with(&self, destinations: &Destinations) -> bool {
        if self.hello.is_lmtp() {
            return false;
        }
        let known = self.recipients.iter().map(|recipient| &recipient.destinations);
        let mut handed_over = known.filter(|known| known.are_handed_over());
        destinations.are_handed_over() && !handed_over.all(|known| known.share_hand_over(destinations))
    }
}
