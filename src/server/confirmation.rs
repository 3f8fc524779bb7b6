//! Whether the peer has read that its message was taken. Whoever is not sure sends it again (RFC 1047).
//!
//! The next command shows it, unless it was sent ahead (RFC 2920).

use crate::deliver::Records;
use crate::net::conn::Connection;
use crate::smtp::Delivery;

/// What the peer is not known to have read yet.
#[derive(Default)]
pub(super) struct Confirmation {
    /// The last message that was delivered, until the peer's next command shows that the 250 has arrived: its
    /// identifier and deliveries.
    unconfirmed: Option<(String, Vec<Delivery>)>,
    /// Whether input has come since the last message was answered; until then, commands were sent ahead.
    has_input_come: bool,
    /// Whether nothing had come ahead when replies left, so that the next command confirms the records of
    /// `exactly_once` as well. Those are forgotten then, so it has to be certain.
    next_command_confirms: bool,
}

impl Confirmation {
    /// A message was delivered to these recipients, perhaps after others that it had.
    pub(super) fn delivered(&mut self, id: &str, delivery: &Delivery) {
        match &mut self.unconfirmed {
            Some((known, deliveries)) if known == id => deliveries.push(delivery.clone()),
            unconfirmed => *unconfirmed = Some((id.to_owned(), vec![delivery.clone()])),
        }
    }

    /// The message that the peer may send again, because it may not have read the answer.
    pub(super) fn unconfirmed(&self) -> Option<&(String, Vec<Delivery>)> {
        self.unconfirmed.as_ref()
    }

    /// Replies are about to leave. Input that is there already does not show that the peer has read them.
    pub(super) fn replies_leave(&mut self, connection: &mut Connection<'_>, records: Option<&Records>) {
        if records.is_some_and(Records::has_unconfirmed) {
            self.next_command_confirms = connection.is_quiet();
        }
    }

    /// The same of the answer to a message.
    pub(super) fn answer_leaves(&mut self, connection: &mut Connection<'_>, records: Option<&Records>) {
        self.replies_leave(connection, records);
        self.has_input_come = false;
    }

    /// Something has come from the peer.
    pub(super) fn input_came(&mut self) {
        self.has_input_come = true;
    }

    /// A whole command has come. A part of one shows nothing, because nobody knows where its sender broke off.
    pub(super) fn command_came(&mut self, records: Option<&Records>) {
        if !self.has_input_come {
            return;
        }
        self.unconfirmed = None;
        if let (Some(records), true) = (records, self.next_command_confirms) {
            records.forget_confirmed();
        }
    }

    /// A handshake shows that the peer has read everything.
    pub(super) fn secured(&mut self) {
        self.unconfirmed = None;
    }
}
