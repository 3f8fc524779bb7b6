//! The answers to a message: SMTP has one for all recipients, LMTP one for each RCPT that was accepted, in their order
//! (RFC 2033, 4.2). A recipient who is named twice is delivered for once, and has the same answer twice.

use std::rc::Rc;

use super::Delivery;
use super::reply::Reply;
use super::transaction::Transaction;

/// How far the answers to a message have come.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) transaction: Rc<Transaction>,
    /// What holds for the message as a whole, whoever it is for.
    refusal: Option<Reply>,
    /// The answers for the recipients so far, in their order; SMTP has one for all.
    answers: Vec<Reply>,
    /// How many RCPT commands have been answered for.
    answered: usize,
    /// How many octets were written, or would have been.
    pub(super) octets: u64,
    /// Whether somebody has the message.
    pub(super) is_delivered: bool,
}

/// What comes next.
pub(super) enum Next {
    /// An answer that is known without a delivery.
    Known(Reply),
    /// A delivery, whose outcome is the answer.
    Delivery(Delivery),
}

/// What there is to know of an answer.
pub(super) struct Noted {
    /// Whether it is the last one.
    pub(super) is_last: bool,
    /// Whether it refuses in the very words that were said of this recipient before, or of the last one, because they are
    /// about the message.
    pub(super) is_again: bool,
}

impl Answering {
    pub(super) fn new(transaction: Transaction, refusal: Option<Reply>) -> Self {
        let (transaction, answers) = (Rc::new(transaction), Vec::new());
        Self { transaction, refusal, answers, answered: 0, octets: 0, is_delivered: false }
    }

    /// The next answer, or the delivery that will tell; its octets are counted then.
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
