//! MAIL and RCPT: the envelope of a message (RFC 5321, 3.3), and how many of them a connection may have.
//!
//! The rules are asked about the sender and each recipient, which can be expensive, and a peer that is put off comes
//! again with more.

use super::{Asked, CHUNKS, Refused, Session, State, reply_or_close};
use crate::address::{Mailbox, ReversePath};
use crate::smtp::command::{MailParameters, RcptParameters};
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::{Recipient, Transaction};
use crate::smtp::upstream::Sender;
use crate::smtp::{Question, Step};

impl Session<'_> {
    pub(super) fn mail(&mut self, sender: ReversePath, parameters: MailParameters) -> Step {
        let hello = match &self.state {
            State::Ready(hello) => hello.clone(),
            State::Mail(_) | State::Chunks(..) => return self.fail(reply::bad_sequence("one MAIL FROM at a time")),
            _ => return self.fail(reply::missing_hello(self.protocol)),
        };
        if self.has_to_authenticate() {
            return self.fail(reply::AUTHENTICATION_REQUIRED);
        }
        if self.counters.envelope >= self.max_envelope() {
            return Step::Close(reply::ENOUGH_FOR_ONE_CONNECTION);
        }
        self.counters.envelope += 1;
        if !hello.is_extended() && parameters != MailParameters::default() {
            return self.fail(reply::PARAMETER_NOT_RECOGNIZED);
        }
        let limit = &self.limits.smtp_data_size;
        if limit.value != 0 && parameters.size.is_some_and(|size| size > limit.value) {
            return self.fail(reply::worded(&limit.refusal, reply::MESSAGE_TOO_LARGE));
        }
        let (size, utf8) = (parameters.size.unwrap_or(0), parameters.utf8);
        let mut transaction = Transaction::new(sender.clone(), hello, size);
        transaction.utf8 = utf8;
        self.state = State::Asking(Asked::Sender(transaction));
        Step::Ask(Question::Sender(Sender { path: sender, size, utf8 }))
    }

    pub(super) fn rcpt(&mut self, mailbox: Mailbox, parameters: RcptParameters) -> Step {
        match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.hello.is_extended() && parameters != RcptParameters::default() => {
                self.counters.envelope += 1;
                self.state = State::Mail(transaction);
                self.fail(reply::PARAMETER_NOT_RECOGNIZED)
            }
            State::Mail(mut transaction) => {
                self.counters.envelope += 1;
                let limit = &self.limits.smtp_rcpt_to;
                let known = transaction.place_of(&mailbox);
                if known.is_some() && !transaction.hello.is_lmtp() {
                    self.state = State::Mail(transaction);
                    return self.accept_recipient();
                }
                if transaction.accepted.len() as u64 >= limit.value {
                    self.state = State::Mail(transaction);
                    let reply = reply::worded(&limit.refusal, reply::TOO_MANY_RECIPIENTS);
                    return self.not_counted(reply.about(mailbox.bare()));
                }
                if let Some(place) = known {
                    // LMTP answers a recipient once for each RCPT that named it (RFC 2033, 4.2).
                    transaction.accepted.push(place);
                    self.state = State::Mail(transaction);
                    return self.accept_recipient();
                }
                if transaction.put_off >= MAX_PUT_OFF {
                    return self.put_off(reply::ONE_AT_A_TIME, &mailbox, transaction);
                }
                self.state = State::Asking(Asked::Recipient(mailbox.clone(), parameters.original, transaction));
                Step::Ask(Question::Recipient(mailbox))
            }
            state => {
                let has_begun = matches!(state, State::Chunks(..));
                self.state = state;
                self.fail(match self.refused {
                    _ if has_begun => reply::bad_sequence(CHUNKS),
                    Refused::Mail => reply::behind_refused("MAIL"),
                    Refused::Rcpt | Refused::Bdat | Refused::Nothing => reply::bad_sequence("missing MAIL FROM"),
                })
            }
        }
    }

    /// Accepts the recipient, unless the message would then have two destinations that cannot take it back.
    pub(super) fn recipient(&mut self, recipient: Recipient, mut transaction: Transaction) -> Step {
        let Recipient { mailbox, destinations, .. } = &recipient;
        if transaction.collides_with(destinations) {
            return self.put_off(reply::ONE_AT_A_TIME, mailbox, transaction);
        }
        let limit = &self.limits.copies_size;
        let is_first = transaction.recipients.is_empty();
        if !is_first && limit.value != 0 && transaction.octets(transaction.size, Some(destinations)) > limit.value {
            return self.put_off(reply::worded(&limit.refusal, reply::TOO_MANY_COPIES), mailbox, transaction);
        }
        transaction.add(recipient);
        self.state = State::Mail(transaction);
        self.accept_recipient()
    }

    /// An accepted recipient has a limit of its own (`limit.smtp_rcpt_to`) and does not count as a command.
    fn accept_recipient(&mut self) -> Step {
        self.refused = Refused::Nothing;
        self.not_counted(reply::RECIPIENT_OK)
    }

    fn put_off(&mut self, reply: Reply, mailbox: &Mailbox, mut transaction: Transaction) -> Step {
        transaction.put_off += 1;
        self.state = State::Mail(transaction);
        self.not_counted(reply.about(mailbox.bare()))
    }

    /// Answers a MAIL or RCPT that does not count as a command, unless the connection has had very many of them. Once
    /// [`Session::mail`] has let a transaction begin, there is room for all of its recipients.
    pub(super) fn not_counted(&mut self, reply: Reply) -> Step {
        if self.counters.envelope <= self.max_envelope().saturating_add(self.limits.smtp_rcpt_to.value) {
            self.counters.since_message.commands -= 1;
        }
        reply_or_close(reply)
    }

    /// After how many MAIL and RCPT commands no further transaction begins. It is more than [`MAX_ENVELOPE`] only if
    /// the administrator allows more commands than that between two messages.
    fn max_envelope(&self) -> u64 {
        MAX_ENVELOPE.max(self.limits.smtp_commands.value)
    }
}

/// How many MAIL and RCPT commands a connection may have before it is told to go on with another one, which happens
/// between transactions only, so that nothing is lost. Each command may have every rule tried, so an accepted message
/// does not start this count anew. It is enough for a thousand messages to one recipient each, as many as Exim takes
/// over a connection (smtp_accept_max_per_connection) and twice what it sends (connection_max_messages). It is also
/// twice the number of recipients above the limit that Postfix lets pass in one message
/// (smtpd_recipient_overshoot_limit).
const MAX_ENVELOPE: u64 = 2000;

/// After this many recipients of a transaction were put off, further ones are put off without asking the rules. The
/// sender offers all of them again in its next transaction, which it needs in any case.
const MAX_PUT_OFF: usize = 10;
