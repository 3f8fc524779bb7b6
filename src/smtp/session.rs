//! One session: input in, [`Step`]s out.
//!
//! What state the session is in, and everything that belongs to it, is one enum: a recipient without a sender, or data
//! without a recipient, cannot be written down.
//!
//! SMTP answers a message once, LMTP for each recipient (RFC 2033, 4.2): what becomes of one is [`Answering`].

mod authentication;
mod chunks;
mod envelope;
mod tls;

use authentication::Authentication;

use super::answering::{Answering, Next, Noted};
use super::auth::{Exchange, Mechanism};
use super::chunk::ChunkReader;
use super::command::{self, Command, Dialect, MAX_COMMAND_LINE, SyntaxError};
use super::credentials;
use super::data::{DataReader, Text};
use super::line::{Found, LineReader};
use super::reply::{self, Extensions, Reply};
use super::scram::ClientFirst;
use super::transaction::{Hello, HelloVerb, Recipient, Transaction};
use super::{Answer, Heard, LineEnding, NOT_SHOWN, Outcome, Question, Step, TlsStatus, Turn};
use crate::address::Mailbox;
use crate::config::{AuthUse, Limit, Limits, Protocol};
use crate::peer::Peer;

/// A session with one peer.
#[derive(Debug)]
pub struct Session<'c> {
    protocol: Protocol,
    /// Who we are.
    domain: &'c str,
    limits: &'c Limits,
    peer: &'c Peer,
    tls: TlsStatus,
    authentication: Authentication,
    lines: LineReader,
    state: State,
    refused: Refused,
    /// Whether what comes may be a password: since something like AUTH, until there is a command again.
    expects_secret: bool,
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
    /// AUTH was accepted, and its responses are coming.
    Authenticating(Hello, Exchange),
    /// A command waits for the answer to a question.
    Asking(Asked),
    /// MAIL was accepted.
    Mail(Transaction),
    /// DATA or BDAT was accepted, and its text is coming.
    Data(Transaction, Body),
    /// Between two chunks of a message.
    Chunks(Transaction, ChunkReader),
    /// A chunk is refused: so many of its octets have not come yet. Then comes the reply, and all is as it was.
    Discarding(Box<State>, u64, Reply),
    /// The message is complete, and its answers are on their way.
    Answering(Answering),
}

/// How the text of a message comes.
#[derive(Debug)]
enum Body {
    /// Up to a dot (DATA).
    Dots(DataReader),
    /// As so many octets (BDAT).
    Chunks(ChunkReader),
}

/// What of the transaction that the peer wants was refused: commands that it had sent behind that fail for no other reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Nothing,
    Mail,
    Rcpt,
    Bdat,
}

/// What was asked, and what it was asked for.
#[derive(Debug)]
enum Asked {
    Sender(Transaction),
    Recipient(Mailbox, Option<String>, Transaction),
    Mechanisms(Hello),
    Password(Hello, Mechanism, String),
    ScramKeys(Hello, ClientFirst),
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
    pub fn new(
        protocol: Protocol,
        domain: &'c str,
        limits: &'c Limits,
        peer: &'c Peer,
        refusal: Option<Reply>,
    ) -> Self {
        let state = refusal.map_or(State::Start, State::Refused);
        let (lines, counters) = (LineReader::default(), Counters::default());
        Self {
            protocol,
            domain,
            limits,
            peer,
            tls: TlsStatus::Off,
            authentication: Authentication::new(AuthUse::Off, false),
            lines,
            state,
            refused: Refused::Nothing,
            expects_secret: false,
            counters,
        }
    }

    /// The same session, which offers TLS, wants it or has it.
    pub fn with_tls(self, tls: TlsStatus) -> Self {
        Self { tls, ..self }
    }

    /// The same session, which offers authentication or wants it, where it is allowed in the clear also there.
    pub fn with_auth(self, wanted: AuthUse, is_allowed_in_the_clear: bool) -> Self {
        Self { authentication: Authentication::new(wanted, is_allowed_in_the_clear), ..self }
    }

    /// Takes what there is of input: one command, or as much of a message as has come, whose text is appended to `text`.
    /// What is not used is to be given again, with what has come since; while a message has answers left, that is all.
    pub fn receive<'i>(&mut self, input: &'i [u8], text: &mut Vec<u8>) -> Turn<'i> {
        let waits_for_text = match &self.state {
            State::Data(_, Body::Dots(_)) => true,
            State::Data(_, Body::Chunks(reader)) => !reader.has_ended(),
            State::Discarding(_, left, _) => *left > 0,
            _ => false,
        };
        if waits_for_text && input.is_empty() {
            return Turn { used: 0, heard: Heard::Nothing, step: Step::Wait };
        }
        match std::mem::take(&mut self.state) {
            State::Data(transaction, Body::Dots(reader)) => self.data(transaction, reader, input, text),
            State::Data(transaction, Body::Chunks(reader)) => self.chunk(transaction, reader, input, text),
            State::Discarding(behind, left, reply) => self.discard(*behind, left, reply, input),
            State::Authenticating(hello, exchange) => self.response(hello, exchange, input),
            State::Answering(answering) => {
                Turn { used: 0, heard: Heard::Nothing, step: self.answer_message(answering) }
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
            (State::Asking(asked), answer) => self.found_out(asked, answer),
            (state, _) => {
                self.state = state;
                self.fail(reply::wrong_answer())
            }
        }
    }

    /// A question has no answer that goes on: the command is refused, and all is as before it.
    fn unanswered(&mut self, asked: Asked, answer: Answer) -> Step {
        // MAIL and RCPT have a bound of their own. Who asks on and on would have us read the accounts each time.
        let is_of_envelope = matches!(asked, Asked::Sender(_) | Asked::Recipient(..));
        self.state = match asked {
            Asked::Sender(transaction) => State::Ready(transaction.hello),
            Asked::Recipient(_, _, transaction) => State::Mail(transaction),
            Asked::Mechanisms(hello) | Asked::Password(hello, ..) | Asked::ScramKeys(hello, _) => State::Ready(hello),
        };
        match answer {
            Answer::No(reply) if reply.is_our_fault && is_of_envelope => self.not_counted(reply),
            Answer::No(reply) if reply.is_our_fault => reply_or_close(reply),
            Answer::No(reply) => self.fail(reply),
            Answer::Admitted
            | Answer::Destinations(_)
            | Answer::Mechanisms { .. }
            | Answer::Password(_)
            | Answer::ScramKeys(..) => self.fail(reply::wrong_answer()),
        }
    }

    /// Takes the outcome of the delivery that [`Step::Deliver`] asked for, and answers for the message that `id` names.
    pub fn delivered(&mut self, outcome: Outcome, id: &str) -> Step {
        match std::mem::take(&mut self.state) {
            State::Answering(mut answering) => {
                answering.is_delivered |= outcome.is_ok();
                self.answered(
                    answering,
                    outcome.map_or_else(|reply| reply, |words| words.unwrap_or_else(|| reply::accepted(id))),
                )
            }
            state => {
                self.state = state;
                self.fail(reply::wrong_answer())
            }
        }
    }

    /// Whether a message has answers left: what is known of it is still needed.
    pub fn is_answering(&self) -> bool {
        matches!(self.state, State::Answering(_))
    }

    /// Whether replies carry enhanced codes.
    pub fn is_extended(&self) -> bool {
        match self.state_behind() {
            State::Ready(hello)
            | State::Authenticating(hello, _)
            | State::Asking(Asked::Mechanisms(hello) | Asked::Password(hello, ..) | Asked::ScramKeys(hello, _)) => {
                hello.is_extended()
            }
            State::Asking(Asked::Sender(transaction) | Asked::Recipient(_, _, transaction))
            | State::Mail(transaction)
            | State::Data(transaction, _)
            | State::Chunks(transaction, _) => transaction.hello.is_extended(),
            State::Answering(answering) => answering.transaction.hello.is_extended(),
            State::Refused(_) | State::Start | State::Discarding(..) => false,
        }
    }

    /// The transaction that is open and of which nothing is delivered, so that the end of input loses it.
    pub fn transaction(&self) -> Option<&Transaction> {
        match self.state_behind() {
            State::Asking(Asked::Recipient(_, _, transaction))
            | State::Mail(transaction)
            | State::Data(transaction, _)
            | State::Chunks(transaction, _) => Some(transaction),
            State::Answering(answering) => Some(&*answering.transaction).filter(|_| !answering.is_delivered),
            State::Refused(_)
            | State::Start
            | State::Ready(_)
            | State::Authenticating(..)
            | State::Asking(Asked::Sender(_) | Asked::Mechanisms(_) | Asked::Password(..) | Asked::ScramKeys(..))
            | State::Discarding(..) => None,
        }
    }

    /// Whether a message has begun to come and goes on.
    pub fn has_text(&self) -> bool {
        matches!(self.state_behind(), State::Data(..) | State::Chunks(..))
    }

    /// The state that a chunk which is refused leaves as it was.
    fn state_behind(&self) -> &State {
        match &self.state {
            State::Discarding(behind, ..) => behind,
            state => state,
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
            true => self.end_of_message(transaction, reader.text()),
            false => {
                self.state = State::Data(transaction, Body::Dots(reader));
                Step::Wait
            }
        };
        Turn { used, heard: Heard::Text, step }
    }

    /// The text is whole.
    fn end_of_message(&mut self, mut transaction: Transaction, text: &Text) -> Step {
        transaction.size = text.size();
        let refusal = self.refusal_of(text);
        self.answer_message(Answering::new(transaction, refusal))
    }

    /// Finds the next answer to a message: it is known already, or a delivery will tell.
    fn answer_message(&mut self, mut answering: Answering) -> Step {
        let delivery = match answering.next() {
            Next::Known(reply) => return self.answered(answering, reply),
            Next::Delivery(delivery) => delivery,
        };
        let limit = &self.limits.copies_size;
        // One recipient's own places are the administrator's business.
        let is_first = delivery.group.end == 1;
        if !is_first && limit.value != 0 && answering.octets > limit.value {
            let reply = reply::worded(&limit.refusal, reply::TOO_MANY_COPIES);
            return self.answered(
                answering,
                match delivery.recipients() {
                    [one] => reply.about(one.mailbox.bare()),
                    _ => reply,
                },
            );
        }
        self.state = State::Answering(answering);
        Step::Deliver(delivery)
    }

    /// Gives an answer to a message. A message counts as one command: as one that failed, if nobody has it in the end.
    fn answered(&mut self, mut answering: Answering, reply: Reply) -> Step {
        let Noted { is_last, is_again } = answering.take_note(&reply);
        let reply = Reply { is_echo: reply.is_echo || is_again, ..reply };
        if !is_last {
            self.state = State::Answering(answering);
            return reply_or_close(reply);
        }
        self.state = State::Ready(answering.transaction.hello.clone());
        if !answering.is_delivered {
            return self.fail(reply);
        }
        self.counters.since_message = SinceMessage::default();
        reply_or_close(reply)
    }

    /// Why no message may have this text.
    fn refusal_of(&self, text: &Text) -> Option<Reply> {
        let limits = self.limits;
        if text.is_too_large() {
            Some(reply::worded(&limits.smtp_data_size.refusal, reply::MESSAGE_TOO_LARGE))
        } else if text.has_bare_newline() && limits.bare_newline.value {
            Some(reply::worded(&limits.bare_newline.refusal, reply::BARE_NEWLINE))
        } else {
            None
        }
    }

    /// Takes a command line, if there is a whole one.
    fn line<'i>(&mut self, input: &'i [u8]) -> Turn<'i> {
        let is_at_start = self.lines.is_at_start();
        let found = self.lines.find(input, MAX_COMMAND_LINE - 2);
        // The first piece of a line that is too long has its verb, and what may be a password is none of the log's business
        // even if it does not begin there.
        let too_long = match found {
            Found::TooLong(used) | Found::Nothing(used) if is_at_start => &input[..used],
            _ => &[],
        };
        self.expects_secret |= credentials::are_announced(too_long);
        if command::is_meant_as(too_long, "BDAT") {
            return Turn { used: too_long.len(), heard: Heard::Nothing, step: self.bad_chunk(reply::line_too_long()) };
        }
        let (used, heard, step) = match found {
            Found::Line(line, used) => {
                // People at a keyboard, who end lines so, paste examples with the blanks in front of them.
                let line = if self.lines.ending() == LineEnding::Lf { command::pasted(line) } else { line };
                let (heard, step) = self.command(line);
                (used, heard, step)
            }
            Found::TooLong(used) => (used, Heard::Nothing, self.too_long_line()),
            Found::OtherProtocol => (0, Heard::Nothing, Step::Close(reply::other_protocol(self.protocol))),
            Found::ProxyHeader => (0, Heard::Nothing, Step::Close(reply::proxy_not_named())),
            Found::Nothing(used) => (used, Heard::Nothing, Step::Wait),
        };
        Turn { used, heard, step }
    }

    /// Carries out a command, and says what a log may have of it.
    fn command<'i>(&mut self, line: &'i [u8]) -> (Heard<'i>, Step) {
        let limits = self.limits;
        let dialect = Dialect { protocol: self.protocol, ascii: limits.smtp_ascii.value, own_domain: self.domain };
        let command = command::parse(line, dialect);
        let heard = self.heard(line, &command);
        if let State::Refused(reply) = &self.state {
            return (heard, Step::Close(reply.clone()));
        }
        self.counters.since_message.commands += 1;
        if self.counters.since_message.commands > limits.smtp_commands.value && command != Ok(Command::Quit) {
            return (heard, Step::Close(over_limit(&limits.smtp_commands)));
        }
        // Counts as refused until it is accepted.
        let has_sender = matches!(self.state, State::Mail(_));
        if command::is_meant_as(line, "MAIL") && !has_sender {
            self.refused = Refused::Mail;
        } else if command::is_meant_as(line, "RCPT") && (has_sender || self.refused == Refused::Nothing) {
            self.refused = Refused::Rcpt;
        }
        let step = match command {
            Ok(command) if self.has_to_wait_for_tls(&command) => self.tls_first(&command),
            Ok(Command::Helo(name)) => self.hello(HelloVerb::Helo, name.into_owned()),
            Ok(Command::Ehlo(name)) => self.hello(HelloVerb::Ehlo, name.into_owned()),
            Ok(Command::Lhlo(name)) => self.hello(HelloVerb::Lhlo, name.into_owned()),
            Ok(Command::OtherHello) => self.unknown(about(reply::other_hello(self.protocol), heard)),
            Ok(Command::Mail(sender, parameters)) => self.mail(sender, parameters),
            Ok(Command::Rcpt(mailbox, parameters)) => self.rcpt(mailbox, parameters),
            Ok(Command::Data) => self.data_command(),
            Ok(Command::Bdat(octets, is_last)) => self.bdat(octets, is_last),
            Ok(Command::Rset) => self.rset(),
            Ok(Command::Noop) => Step::Reply(reply::OK),
            Ok(Command::Vrfy) => Step::Reply(reply::verify()),
            Ok(Command::StartTls) => self.start_tls(heard),
            Ok(Command::Auth(argument)) => self.auth(argument, heard),
            Ok(Command::Help) => Step::Reply(reply::help(self.protocol, self.offers_tls(), self.offers_auth())),
            Ok(Command::Quit) => Step::Close(reply::bye(self.domain)),
            Ok(Command::NotImplemented) => self.no_command(line, about(reply::not_implemented(), heard)),
            Ok(Command::Unknown) if line.trim_ascii().is_empty() => self.unknown(reply::empty_line()),
            Ok(Command::Unknown) => self.unknown(about(reply::unknown_command(), heard)),
            Err(error) => {
                let reply = reply::syntax_error(error, &limits.smtp_ascii.refusal, self.protocol);
                self.no_command(line, about(reply, heard))
            }
        };
        (heard, step)
    }

    /// What a log may have of a line.
    fn heard<'i>(&mut self, line: &'i [u8], command: &Result<Command<'_>, SyntaxError>) -> Heard<'i> {
        self.expects_secret |= credentials::are_announced(line);
        let expects_secret = self.expects_secret;
        match command {
            Ok(command) if command.is_known() => {
                self.expects_secret = false;
                match command {
                    // It may be a password after all.
                    command if expects_secret && command.has_free_text() => Heard::Command(command::verb(line)),
                    command if command.has_unoffered() => Heard::Unoffered(line),
                    _ => Heard::Command(line),
                }
            }
            _ if expects_secret => credentials::shown(line).map_or(Heard::Secret, Heard::Command),
            _ => Heard::Command(line),
        }
    }

    /// A line came that was too long to be a command.
    fn too_long_line(&mut self) -> Step {
        if let State::Refused(reply) = &self.state {
            return Step::Close(reply.clone());
        }
        self.counters.since_message.commands += 1;
        self.unknown(reply::line_too_long())
    }

    fn hello(&mut self, verb: HelloVerb, name: String) -> Step {
        self.refused = Refused::Nothing;
        let hello = Hello { name, verb };
        match verb {
            HelloVerb::Ehlo | HelloVerb::Lhlo if self.offers_auth() => {
                self.state = State::Asking(Asked::Mechanisms(hello));
                Step::Ask(Question::Mechanisms)
            }
            HelloVerb::Ehlo | HelloVerb::Lhlo => {
                self.state = State::Ready(hello);
                self.extended_hello()
            }
            HelloVerb::Helo => {
                self.state = State::Ready(hello);
                Step::Reply(reply::hello(self.domain, self.peer))
            }
        }
    }

    /// The answer to EHLO or LHLO, once it is known what there is to offer.
    fn extended_hello(&self) -> Step {
        let Limits { smtp_data_size, smtp_ascii, .. } = self.limits;
        let extensions = Extensions {
            size: smtp_data_size.value,
            utf8: !smtp_ascii.value,
            tls: self.offers_tls(),
            auth: &self.mechanisms(),
        };
        Step::Reply(reply::extended_hello(self.protocol, self.domain, self.peer, extensions))
    }

    fn data_command(&mut self) -> Step {
        match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.recipients.is_empty() => {
                self.refused = Refused::Nothing;
                let reader = DataReader::new(self.lines.ending(), self.limits.smtp_data_size.value);
                self.state = State::Data(transaction, Body::Dots(reader));
                Step::Reply(reply::START_INPUT)
            }
            other => {
                let reply = self.no_text(&other);
                self.state = other;
                self.fail(reply)
            }
        }
    }

    /// Refuses a line that is no command as it stands. What follows a BDAT is none either.
    fn no_command(&mut self, line: &[u8], reply: Reply) -> Step {
        if command::is_meant_as(line, "BDAT") { self.bad_chunk(reply) } else { self.fail(reply) }
    }

    /// Why there can be no text in this state.
    fn no_text(&mut self, state: &State) -> Reply {
        let missing = match state {
            State::Chunks(..) => CHUNKS,
            State::Mail(_) => "missing RCPT TO",
            _ => "missing MAIL FROM",
        };
        let refused = match state {
            State::Chunks(..) => Refused::Nothing,
            _ => std::mem::replace(&mut self.refused, Refused::Nothing),
        };
        match refused {
            Refused::Mail => reply::behind_refused("MAIL"),
            Refused::Rcpt => reply::behind_refused("RCPT"),
            Refused::Bdat => reply::behind_refused("BDAT"),
            Refused::Nothing => reply::bad_sequence(missing),
        }
    }

    fn rset(&mut self) -> Step {
        self.refused = Refused::Nothing;
        self.state = match std::mem::take(&mut self.state) {
            State::Mail(transaction) | State::Chunks(transaction, _) => State::Ready(transaction.hello),
            other => other,
        };
        Step::Reply(reply::OK)
    }

    fn fail(&mut self, reply: Reply) -> Step {
        self.counters.since_message.failed += 1;
        let limit = &self.limits.smtp_failcmds;
        if self.counters.since_message.failed > limit.value && reply.code != 421 {
            let last = format!("the last one: {} {}", reply.code, reply.text);
            return Step::Close(Reply { subject: reply.subject, ..over_limit(limit).because(last) });
        }
        reply_or_close(reply)
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

/// What may be sent between two chunks is the next one, or RSET.
const CHUNKS: &str = "this message comes in BDAT chunks";

/// Names the line that the reply is about, unless that may be a password.
fn about(reply: Reply, heard: Heard<'_>) -> Reply {
    match heard {
        Heard::Command(words) | Heard::Unoffered(words) => reply.about(words),
        Heard::Secret => reply.because(NOT_SHOWN),
        Heard::Nothing | Heard::Text | Heard::Discarded => reply,
    }
}

/// 421 is the last word, whoever worded it (RFC 5321, 3.8).
fn reply_or_close(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

fn over_limit<T>(limit: &Limit<T>) -> Reply {
    reply::over_limit(&limit.refusal)
}
