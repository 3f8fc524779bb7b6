//! The answers to a message: SMTP has one for all recipients, LMTP one for each RCPT that was accepted, in that order
//! (RFC 2033, 4.2). If two RCPT commands named the same recipient, it is delivered to once, and gets the same answer
//! twice.

use std::rc::Rc;

use super::Delivery;
use super::reply::Reply;
use super::transaction::Transaction;

/// How far the answers to a message have come.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) transaction: Rc<Transaction>,
    /// The refusal of the message as a whole, whoever the recipients are.
    refusal: Option<Reply>,
    /// The answers for the recipients so far, in their order; in SMTP there is one for all.
    answers: Vec<Reply>,
    /// How many RCPT commands have been answered for.
    answered: usize,
    /// How many octets the deliveries so far wrote, or would have written.
    pub(super) octets: u64,
    /// Whether at least one recipient has the message.
    pub(super) is_delivered: bool,
}

/// What comes next.
pub(super) enum Next {
    /// An answer that is known without a delivery.
    Known(Reply),
    /// A delivery, whose outcome is the answer.
    Delivery(Delivery),
}

/// What is known of an answer once it is noted.
pub(super) struct Noted {
    /// Whether it is the last one.
    pub(super) is_last: bool,
    /// Whether the refusal repeats what was already said of this recipient, or of the last one, because it is about the
    /// message.
    pub(super) is_again: bool,
}

impl Answering {
    pub(super) fn new(transaction: Transaction, refusal: Option<Reply>) -> Self {
        let (transaction, answers) = (Rc::new(transaction), Vec::new());
        Self { transaction, refusal, answers, answered: 0, octets: 0, is_delivered: false }
    }

    /// The next answer if it is known, or else the delivery that leads to it, whose octets are counted now.
    pub(super) fn next(&mut self) -> Next {
        let (group, known) = match self.transaction.hello.is_lmtp() {
            true => {
                let place = self.transaction.accepted[self.answered];
                (place..place + 1, self.answers.get(place).or(self.refusal.as_ref()))
            }
            false => (0..self.transaction.recipients.len(), self.refusal.as_ref()),
        };
        if let Some(reply) = known {
            return Next::Known(reply.clone());
        }
        let delivery = Delivery { transaction: Rc::clone(&self.transaction), group };
        self.octets = self.octets.saturating_add(self.transaction.octets_of(delivery.recipients()));
        Next::Delivery(delivery)
    }

    /// Takes note of an answer.
    pub(super) fn take_note(&mut self, reply: &Reply) -> Noted {
        let place = self.transaction.accepted[self.answered];
        let is_known = place < self.answers.len();
        let is_again = reply.is_negative() && (is_known || self.answers.last() == Some(reply));
        self.answered += 1;
        let is_last = !self.transaction.hello.is_lmtp() || self.answered == self.transaction.accepted.len();
        if !is_known && !is_last {
            self.answers.push(reply.clone());
        }
        Noted { is_last, is_again }
    }
}
