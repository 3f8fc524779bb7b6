//! One SMTP session: input in, [`Step`]s out.
//!
//! What state the session is in, and everything that belongs to it, is one enum: a recipient without a sender, or data
//! without a recipient, cannot be written down.

use super::command::{self, Command, Dialect, MailParameters, RcptParameters};
use super::data::DataReader;
use super::line::{Found, LineReader};
use super::reply::{self, Reply};
use super::transaction::{Hello, Recipient, Transaction};
use super::{Answer, Heard, LineEnding, Outcome, Question, Step, Turn};
use crate::address::{Mailbox, ReversePath};
use crate::config::{Limit, Limits};
use crate::peer::Peer;

/// A session with one peer.
#[derive(Debug)]
pub struct Session<'c> {
    /// Who we are.
    domain: &'c str,
    limits: &'c Limits,
    peer: &'c Peer,
    lines: LineReader,
    state: State,
    refused: Refused,
    counters: Counters,
}

#[derive(Debug, Default)]
enum State {
    /// The peer is not wanted: this is the answer to whatever it says first.
    Refused(Reply),
    /// No HELO or EHLO yet.
    #[default]
    Start,
    /// Between transactions.
    Ready(Hello),
    /// A command waits for the answer to a question.
    Asking(Asked),
    /// MAIL was accepted.
    Mail(Transaction),
    /// DATA was accepted.
    Data(Transaction, DataReader),
    /// The message is being delivered.
    Delivering(Hello),
}

/// What of the transaction that the peer wants was refused: commands that it had sent behind that fail for no other reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Nothing,
    Mail,
    Rcpt,
}

/// What was asked, and what it was asked for.
#[derive(Debug)]
enum Asked {
    Sender(Transaction),
    Recipient(Mailbox, Option<String>, Transaction),
}

#[derive(Debug, Default)]
struct Counters {
    since_message: SinceMessage,
    /// MAIL and RCPT of the whole connection, whatever became of them.
    envelope: u64,
}

/// What starts anew with each accepted message: a connection over which mail comes is not held to be an attack.
#[derive(Debug, Default)]
struct SinceMessage {
    commands: u64,
    unknown: u64,
    failed: u64,
}

impl<'c> Session<'c> {
    /// A session with this peer. `refusal` is the answer to the first command of a peer that is not wanted.
    pub fn new(domain: &'c str, limits: &'c Limits, peer: &'c Peer, refusal: Option<Reply>) -> Self {
        let state = refusal.map_or(State::Start, State::Refused);
        let (lines, counters) = (LineReader::default(), Counters::default());
        Self { domain, limits, peer, lines, state, refused: Refused::Nothing, counters }
    }

    /// Takes what there is of input: one command, or as much of a message as has come, whose text is appended to `text`.
    /// What is not used is to be given again, with what has come since.
    pub fn receive<'i>(&mut self, input: &'i [u8], text: &mut Vec<u8>) -> Turn<'i> {
        match std::mem::take(&mut self.state) {
            State::Data(transaction, reader) if !input.is_empty() => self.data(transaction, reader, input, text),
            State::Data(transaction, reader) => {
                self.state = State::Data(transaction, reader);
                Turn { used: 0, heard: Heard::Nothing, step: Step::Wait }
            }
            state => {
                self.state = state;
                self.line(input)
            }
        }
    }

    /// Takes the answer to the question of [`Step::Ask`].
    pub fn answer(&mut self, answer: Answer) -> Step {
        match (std::mem::take(&mut self.state), answer) {
            (State::Asking(Asked::Sender(transaction)), Answer::Admitted) => {
                self.refused = Refused::Nothing;
                self.state = State::Mail(transaction);
                Step::Reply(reply::SENDER_OK)
            }
            (State::Asking(Asked::Recipient(mailbox, original, transaction)), Answer::Destinations(destinations)) => {
                self.recipient(Recipient { mailbox, original, destinations }, transaction)
            }
            (State::Asking(asked), answer) => {
                self.state = match asked {
                    Asked::Sender(transaction) => State::Ready(transaction.hello),
                    Asked::Recipient(_, _, transaction) => State::Mail(transaction),
                };
                match answer {
                    Answer::No(reply) if reply.is_our_fault => self.not_counted(reply),
                    Answer::No(reply) => self.fail(reply),
                    Answer::Admitted | Answer::Destinations(_) => self.fail(reply::wrong_answer()),
                }
            }
            (state, _) => {
                self.state = state;
                self.fail(reply::wrong_answer())
            }
        }
    }

    /// Takes the outcome of the delivery that [`Step::Deliver`] asked for, and answers the message that `id` names.
    pub fn delivered(&mut self, outcome: Outcome, id: &str) -> Step {
        if let State::Delivering(hello) = std::mem::take(&mut self.state) {
            self.state = State::Ready(hello);
        }
        match outcome {
            Ok(()) => {
                self.counters.since_message = SinceMessage::default();
                Step::Reply(reply::accepted(id))
            }
            Err(reply) => self.fail(reply),
        }
    }

    /// Whether replies carry enhanced codes: after EHLO (RFC 2034, section 3).
    pub fn is_extended(&self) -> bool {
        match &self.state {
            State::Ready(hello) | State::Delivering(hello) => hello.extended,
            State::Asking(Asked::Sender(transaction) | Asked::Recipient(_, _, transaction))
            | State::Mail(transaction)
            | State::Data(transaction, _) => transaction.hello.extended,
            State::Refused(_) | State::Start => false,
        }
    }

    /// The transaction that is open, so that the end of input loses something.
    pub fn transaction(&self) -> Option<&Transaction> {
        match &self.state {
            State::Asking(Asked::Recipient(_, _, transaction))
            | State::Mail(transaction)
            | State::Data(transaction, _) => Some(transaction),
            State::Refused(_)
            | State::Start
            | State::Ready(_)
            | State::Asking(Asked::Sender(_))
            | State::Delivering(_) => None,
        }
    }

    /// Takes a piece of the message, but nothing of what is behind the message's end.
    fn data<'i>(
        &mut self,
        transaction: Transaction,
        mut reader: DataReader,
        input: &[u8],
        text: &mut Vec<u8>,
    ) -> Turn<'i> {
        let (used, ended) = reader.read(input, text);
        let step = match ended {
            true => self.end_of_data(transaction, &reader),
            false => {
                self.state = State::Data(transaction, reader);
                Step::Wait
            }
        };
        Turn { used, heard: Heard::Text, step }
    }

    fn end_of_data(&mut self, mut transaction: Transaction, reader: &DataReader) -> Step {
        let limits = self.limits;
        transaction.size = reader.size();
        // One recipient's own places are the administrator's business.
        let copies_size = if transaction.recipients.len() > 1 { transaction.octets(transaction.size, None) } else { 0 };
        let refusal = if reader.is_too_large() {
            Some(reply::worded(&limits.smtp_data_size.refusal, reply::MESSAGE_TOO_LARGE))
        } else if reader.has_bare_newline() && limits.bare_newline.value {
            Some(reply::worded(&limits.bare_newline.refusal, reply::BARE_NEWLINE))
        } else if limits.copies_size.value != 0 && copies_size > limits.copies_size.value {
            Some(reply::worded(&limits.copies_size.refusal, reply::TOO_MANY_COPIES))
        } else {
            None
        };
        match refusal {
            Some(reply) => {
                self.state = State::Ready(transaction.hello);
                self.fail(reply)
            }
            None => {
                self.state = State::Delivering(transaction.hello.clone());
                Step::Deliver(transaction)
            }
        }
    }

    /// Takes a command line, if there is a whole one.
    fn line<'i>(&mut self, input: &'i [u8]) -> Turn<'i> {
        let found = self.lines.find(input);
        let (used, heard, step) = match found {
            Found::Line(line, used) => {
                // People at a keyboard, who end lines so, paste examples with the blanks in front of them.
                let line = if self.lines.ending() == LineEnding::Lf { command::pasted(line) } else { line };
                let (heard, step) = self.command(line);
                (used, heard, step)
            }
            Found::TooLong(used) => (used, Heard::Nothing, self.too_long_line()),
            Found::OtherProtocol => (0, Heard::Nothing, Step::Close(reply::other_protocol())),
            Found::Nothing(used) => (used, Heard::Nothing, Step::Wait),
        };
        Turn { used, heard, step }
    }

    /// Carries out a command, and says what a log may have of it.
    fn command<'i>(&mut self, line: &'i [u8]) -> (Heard<'i>, Step) {
        let words = command::without_credentials(line);
        if let State::Refused(reply) = &self.state {
            return (Heard::Command(words), Step::Close(reply.clone()));
        }
        self.counters.since_message.commands += 1;
        let limits = self.limits;
        let dialect = Dialect { ascii: limits.smtp_ascii.value, own_domain: self.domain };
        let command = command::parse(line, dialect);
        if self.counters.since_message.commands > limits.smtp_commands.value && command != Ok(Command::Quit) {
            return (Heard::Command(words), Step::Close(over_limit(&limits.smtp_commands)));
        }
        let heard = match &command {
            Ok(command) if command.has_unoffered() => Heard::Unoffered(words),
            _ => Heard::Command(words),
        };
        // Counts as refused until it is accepted.
        let has_sender = matches!(self.state, State::Mail(_));
        if command::is_meant_as(line, "MAIL") && !has_sender {
            self.refused = Refused::Mail;
        } else if command::is_meant_as(line, "RCPT") && (has_sender || self.refused == Refused::Nothing) {
            self.refused = Refused::Rcpt;
        }
        let step = match command {
            Ok(Command::Helo(name)) => self.helo(name.into_owned()),
            Ok(Command::Ehlo(name)) => self.ehlo(name.into_owned()),
            Ok(Command::Mail(sender, parameters)) => self.mail(sender, parameters),
            Ok(Command::Rcpt(mailbox, parameters)) => self.rcpt(mailbox, parameters),
            Ok(Command::Data) => self.data_command(),
            Ok(Command::Rset) => self.rset(),
            Ok(Command::Noop) => Step::Reply(reply::OK),
            Ok(Command::Vrfy) => Step::Reply(reply::verify()),
            Ok(Command::Help) => Step::Reply(reply::help()),
            Ok(Command::Quit) => Step::Close(reply::bye(self.domain)),
            Ok(Command::NotImplemented) => self.fail(reply::not_implemented().about(words)),
            Ok(Command::Unknown) => self.unknown(reply::unknown_command().about(words)),
            Err(error) => self.fail(reply::syntax_error(error, &limits.smtp_ascii.refusal).about(words)),
        };
        (heard, step)
    }

    /// A line came that was too long to be a command.
    fn too_long_line(&mut self) -> Step {
        if let State::Refused(reply) = &self.state {
            return Step::Close(reply.clone());
        }
        self.counters.since_message.commands += 1;
        self.unknown(reply::line_too_long())
    }

    fn helo(&mut self, name: String) -> Step {
        self.refused = Refused::Nothing;
        self.state = State::Ready(Hello { name, extended: false });
        Step::Reply(reply::hello(self.domain, self.peer))
    }

    fn ehlo(&mut self, name: String) -> Step {
        self.refused = Refused::Nothing;
        self.state = State::Ready(Hello { name, extended: true });
        Step::Reply(reply::extended_hello(self.domain, self.peer, self.limits.smtp_data_size.value))
    }

    fn mail(&mut self, sender: ReversePath, parameters: MailParameters) -> Step {
        let hello = match &self.state {
            State::Ready(hello) => hello.clone(),
            State::Mail(_) => return self.fail(reply::bad_sequence("one MAIL FROM at a time")),
            _ => return self.fail(reply::bad_sequence("missing HELO or EHLO")),
        };
        if self.counters.envelope >= self.max_envelope() {
            return Step::Close(reply::enough_for_one_connection());
        }
        self.counters.envelope += 1;
        if !hello.extended && parameters != MailParameters::default() {
            return self.fail(reply::parameter_not_recognized());
        }
        let limit = &self.limits.smtp_data_size;
        if limit.value != 0 && parameters.size.is_some_and(|size| size > limit.value) {
            return self.fail(reply::worded(&limit.refusal, reply::MESSAGE_TOO_LARGE));
        }
        let transaction = Transaction::new(sender.clone(), hello, parameters.size.unwrap_or(0));
        self.state = State::Asking(Asked::Sender(transaction));
        Step::Ask(Question::Sender(sender))
    }

    fn rcpt(&mut self, mailbox: Mailbox, parameters: RcptParameters) -> Step {
        match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.hello.extended && parameters != RcptParameters::default() => {
                self.counters.envelope += 1;
                self.state = State::Mail(transaction);
                self.fail(reply::parameter_not_recognized())
            }
            State::Mail(transaction) => {
                self.counters.envelope += 1;
                let limit = &self.limits.smtp_rcpt_to;
                if transaction.has(&mailbox) {
                    self.state = State::Mail(transaction);
                    return self.accept_recipient();
                }
                if transaction.recipients.len() as u64 >= limit.value {
                    self.state = State::Mail(transaction);
                    let reply = reply::worded(&limit.refusal, reply::TOO_MANY_RECIPIENTS);
                    return self.not_counted(reply.about(mailbox.bare()));
                }
                if transaction.put_off >= MAX_PUT_OFF {
                    return self.put_off(reply::one_at_a_time(), &mailbox, transaction);
                }
                self.state = State::Asking(Asked::Recipient(mailbox.clone(), parameters.original, transaction));
                Step::Ask(Question::Recipient(mailbox))
            }
            state => {
                self.state = state;
                self.fail(match self.refused {
                    Refused::Mail => reply::behind_refused("MAIL"),
                    Refused::Rcpt | Refused::Nothing => reply::bad_sequence("missing MAIL FROM"),
                })
            }
        }
    }

    /// Takes the recipient in, unless both it and another one go to somebody who will not give the message back.
    fn recipient(&mut self, recipient: Recipient, mut transaction: Transaction) -> Step {
        let Recipient { mailbox, destinations, .. } = &recipient;
        if transaction.collides_with(destinations) {
            return self.put_off(reply::one_at_a_time(), mailbox, transaction);
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

    fn put_off(&mut self, reply: Reply, mailbox: &Mailbox, mut transaction: Transaction) -> Step {
        transaction.put_off += 1;
        self.state = State::Mail(transaction);
        self.not_counted(reply.about(mailbox.bare()))
    }

    fn data_command(&mut self) -> Step {
        let refused = std::mem::replace(&mut self.refused, Refused::Nothing);
        match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.recipients.is_empty() => {
                let reader = DataReader::new(self.lines.ending(), self.limits.smtp_data_size.value);
                self.state = State::Data(transaction, reader);
                Step::Reply(reply::START_INPUT)
            }
            other => {
                let missing = if matches!(other, State::Mail(_)) { "missing RCPT TO" } else { "missing MAIL FROM" };
                self.state = other;
                self.fail(match refused {
                    Refused::Mail => reply::behind_refused("MAIL"),
                    Refused::Rcpt => reply::behind_refused("RCPT"),
                    Refused::Nothing => reply::bad_sequence(missing),
                })
            }
        }
    }

    fn rset(&mut self) -> Step {
        self.refused = Refused::Nothing;
        self.state = match std::mem::take(&mut self.state) {
            State::Mail(transaction) => State::Ready(transaction.hello),
            other => other,
        };
        Step::Reply(reply::OK)
    }

    /// An accepted recipient has a limit of its own and does not count as a command.
    fn accept_recipient(&mut self) -> Step {
        self.refused = Refused::Nothing;
        self.not_counted(reply::RECIPIENT_OK)
    }

    /// Answers an RCPT that does not count as a command, unless there are very many in this connection. A transaction
    /// that [`Session::mail`] has let begin has room for all of its recipients.
    fn not_counted(&mut self, reply: Reply) -> Step {
        if self.counters.envelope <= self.max_envelope().saturating_add(self.limits.smtp_rcpt_to.value) {
            self.counters.since_message.commands -= 1;
        }
        answer(reply)
    }

    /// Behind how many MAIL and RCPT commands no other transaction begins; more only where the administrator lets a peer
    /// have more commands than that between two messages.
    fn max_envelope(&self) -> u64 {
        MAX_ENVELOPE.max(self.limits.smtp_commands.value)
    }

    fn fail(&mut self, reply: Reply) -> Step {
        self.counters.since_message.failed += 1;
        let limit = &self.limits.smtp_failcmds;
        if self.counters.since_message.failed > limit.value && reply.code != 421 {
            let last = format!("the last one: {} {}", reply.code, reply.text);
            return Step::Close(Reply { subject: reply.subject, ..over_limit(limit).because(last) });
        }
        answer(reply)
    }

    fn unknown(&mut self, reply: Reply) -> Step {
        self.counters.since_message.unknown += 1;
        let limit = &self.limits.smtp_unknowncmd;
        match self.counters.since_message.unknown > limit.value {
            true => Step::Close(over_limit(limit)),
            false => Step::Reply(reply),
        }
    }
}

/// How many MAIL and RCPT commands a connection has before it is told to go on with another one; only between
/// transactions, so that nothing is lost. Each may have every rule tried, and an accepted message does not start this anew.
/// It is a thousand messages for one recipient each, as many as Exim takes over a connection
/// (smtp_accept_max_per_connection) and twice what it sends (connection_max_messages); and twice the recipients above the
/// limit of one message that Postfix lets pass (smtpd_recipient_overshoot_limit).
const MAX_ENVELOPE: u64 = 2000;

/// So many recipients of a transaction are asked about and then put off; what follows is put off unasked. The sender comes
/// back with all of them in the next transaction, which there would be in any case.
const MAX_PUT_OFF: usize = 10;

/// 421 is the last word, whoever worded it (RFC 5321, 3.8).
fn answer(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

fn over_limit<T>(limit: &Limit<T>) -> Reply {
    reply::over_limit(&limit.refusal)
}
