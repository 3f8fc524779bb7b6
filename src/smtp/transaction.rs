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
    /// How the peer introduced itself.
    pub hello: Hello,
    /// Octets received (RFC 1870); known once the message is complete.
    pub size: u64,
}

/// An accepted recipient.
#[derive(Debug)]
pub struct Recipient {
    /// The address.
    pub mailbox: Mailbox,
    /// Where its mail goes.
    pub destinations: Destinations,
}

/// HELO or EHLO, and the name that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name; it proves nothing.
    pub name: String,
    /// Whether it was EHLO.
    pub extended: bool,
}

impl Transaction {
    /// A transaction that has no recipients yet.
    pub(super) fn new(reverse_path: ReversePath, hello: Hello) -> Self {
        Self { reverse_path, recipients: Vec::new(), hello, size: 0 }
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
