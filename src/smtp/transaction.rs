//! A mail transaction: sender, recipients, and where each one's mail goes (RFC 5321, 3.3).

use crate::address::{Mailbox, ReversePath};
use crate::config::Destinations;

/// A message and where it goes.
#[derive(Debug)]
pub struct Transaction {
    /// Whom to tell if something goes wrong.
    pub reverse_path: ReversePath,
    /// The accepted recipients, each once. At most one of them is handed over to somebody who will not give it back.
    pub recipients: Vec<Recipient>,
    /// How many recipients were told to come in another transaction.
    pub(super) put_off: usize,
    /// How the peer introduced itself.
    pub hello: Hello,
    /// Octets: as the sender announced them (RFC 1870), 0 if it did not, and as received once the message is complete.
    pub size: u64,
    /// How many places the message is written to or handed over to; recipients can have one in common.
    pub places: u64,
}

/// An accepted recipient.
#[derive(Debug)]
pub struct Recipient {
    /// The address.
    pub mailbox: Mailbox,
    /// Whom the message was for at first, if the peer said so.
    pub original: Option<String>,
    /// Where its mail goes.
    pub destinations: Destinations,
}

/// HELO or EHLO, and the name that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name, as it may be shown; it proves nothing.
    pub name: String,
    /// Whether it was EHLO.
    pub extended: bool,
}

impl Transaction {
    /// A transaction that has no recipients yet.
    pub(super) fn new(reverse_path: ReversePath, hello: Hello, size: u64) -> Self {
        Self { reverse_path, recipients: Vec::new(), put_off: 0, hello, size, places: 0 }
    }

    /// Takes the recipient in.
    pub(super) fn add(&mut self, recipient: Recipient) {
        self.places += self.new_places(&recipient.destinations);
        self.recipients.push(recipient);
    }

    /// How many octets it takes to write a message of this size to every place, those of a further recipient included.
    pub(super) fn octets(&self, size: u64, further: Option<&Destinations>) -> u64 {
        size.saturating_mul(self.places + further.map_or(0, |destinations| self.new_places(destinations)))
    }

    fn new_places(&self, destinations: &Destinations) -> u64 {
        destinations.places_beyond(self.recipients.iter().map(|recipient| &recipient.destinations))
    }

    /// Whether the mailbox is among the recipients.
    pub(super) fn has(&self, mailbox: &Mailbox) -> bool {
        self.recipients.iter().any(|recipient| recipient.mailbox.is_same(mailbox))
    }

    /// Whether both the transaction and these destinations have one that cannot be taken back: one of them may fail when
    /// the other is done.
    pub(super) fn collides_with(&self, destinations: &Destinations) -> bool {
        let mut known = self.recipients.iter().map(|recipient| &recipient.destinations);
        destinations.are_handed_over() && known.any(Destinations::are_handed_over)
    }
}
