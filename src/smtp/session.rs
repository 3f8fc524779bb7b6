//! One session: input in, [`Step`]s out.
//!
//! What state the session is in, and everything that belongs to it, is one enum: a recipient without a sender, or data
//! without a recipient, cannot be written down.
//!
//! SMTP answers a message once, LMTP once for each recipient (RFC 2033, 4.2); [`Answering`] makes these one case.

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
    /// Our own name.
    domain: &'c str,
    limits: &'c Limits,
    peer: &'c Peer,
    tls: TlsStatus,
    authentication: Authentication,
    lines: LineReader,
    state: State,
    refused: Refused,
    /// Whether the next line may be a password: something like AUTH has come, and no known command since.
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
    /// A chunk is refused and this many of its octets are still to come. After them the reply is sent and the session
    /// is in the boxed state again.
    Discarding(Box<State>, u64, Reply),
    /// The message is complete, and its answers are on their way.
    Answering(Answering),
}

/// In which form the text of a message comes.
#[derive(Debug)]
enum Body {
    /// Up to a line with a single dot (DATA).
    Dots(DataReader),
    /// As a counted number of octets (BDAT).
    Chunks(ChunkReader),
}

/// Which command of the current transaction was refused. Commands that a pipelining peer had already sent behind it
/// then fail for no other reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Nothing,
    Mail,
    Rcpt,
    Bdat,
}

/// The question that is open, with what is needed to go on once it is answered.
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
    /// How many MAIL and RCPT commands came in the whole connection, accepted or not.
    envelope: u64,
}

/// What starts anew with each accepted message: many commands are no attack if mail comes with them.
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

    /// The same session with this status of TLS.
    pub fn with_tls(self, tls: TlsStatus) -> Self {
        Self { tls, ..self }
    }

    /// The same session with authentication off, offered or required, and allowed without TLS or not.
    pub fn with_auth(self, wanted: AuthUse, is_allowed_in_the_clear: bool) -> Self {
        Self { authentication: Authentication::new(wanted, is_allowed_in_the_clear), ..self }
    }

    /// Takes input: one command, or as much of a message as has come, whose text is appended to `text`. Input that the
    /// turn does not use has to be given again, together with what has come since. While a message has answers left, no
    /// input is used.
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

    /// Takes the answer to the question of [`Step::Ask`], and goes on with the command that needed it.
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

    /// Refuses the command whose question has no good answer; the state is the one before the command.
    fn unanswered(&mut self, asked: Asked, answer: Answer) -> Step {
        // MAIL and RCPT have a bound of their own. Without one, a peer could make us read the accounts again and again.
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

    /// Whether a message has answers left, so that what is known of it is still needed.
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

    /// The transaction that is open and not delivered to anybody yet, so that it is lost if the input ends now.
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

    /// Whether a message has begun to come and is not complete.
    pub fn has_text(&self) -> bool {
        matches!(self.state_behind(), State::Data(..) | State::Chunks(..))
    }

    /// The state, or while a refused chunk is read away the state that it leaves unchanged.
    fn state_behind(&self) -> &State {
        match &self.state {
            State::Discarding(behind, ..) => behind,
            state => state,
        }
    }

    /// Takes a piece of the message, and nothing behind the message's end.
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

    /// The text is complete.
    fn end_of_message(&mut self, mut transaction: Transaction, text: &Text) -> Step {
        transaction.size = text.size();
        let refusal = self.refusal_of(text);
        self.answer_message(Answering::new(transaction, refusal))
    }

    /// Finds the next answer to a message: it is known already, or a delivery has to be made for it.
    fn answer_message(&mut self, mut answering: Answering) -> Step {
        let delivery = match answering.next() {
            Next::Known(reply) => return self.answered(answering, reply),
            Next::Delivery(delivery) => delivery,
        };
        let limit = &self.limits.copies_size;
        // How many places a single recipient has is the administrator's decision.
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

    /// Gives one answer to a message. The message counts as a failed command if nobody has it in the end.
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

    /// Why a message with this text is refused for all recipients.
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
        // The first piece of a line that is too long has its verb. A password may begin behind that piece, so it counts
        // as announced from there on.
        let too_long = match found {
            Found::TooLong(used) | Found::Nothing(used) if is_at_start => &input[..used],
            _ => &[],
        };
        self.expects_secret |= credentials::are_announced(too_long);
        if command::is_meant_as(too_long, "BDAT") {
            return Turn { used: too_long.len(), heard: Heard::Nothing, step: self.bad_chunk(reply::LINE_TOO_LONG) };
        }
        let (used, heard, step) = match found {
            Found::Line(line, used) => {
                // People who type or paste end lines with LF, and paste examples with the blanks in front of them.
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

    /// Carries out a command; returns what a log may have of the line, and the step.
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
        // The command counts as refused until it is accepted.
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
            Ok(Command::Vrfy) => Step::Reply(reply::VERIFY),
            Ok(Command::StartTls) => self.start_tls(heard),
            Ok(Command::Auth(argument)) => self.auth(argument, heard),
            Ok(Command::Help) => Step::Reply(reply::help(self.protocol, self.offers_tls(), self.offers_auth())),
            Ok(Command::Quit) => Step::Close(reply::bye(self.domain)),
            // A field of a header where a command belongs is text behind a DATA that was refused, or a request of a browser
            // that was made to send commands in its body. What follows may be somebody's choice of commands.
            Ok(Command::Unknown) | Err(_) if command::is_field(line) && heard != Heard::Secret => {
                Step::Close(about(reply::FIELD_IS_NO_COMMAND, heard))
            }
            Ok(Command::NotImplemented) => self.no_command(line, about(reply::COMMAND_NOT_IMPLEMENTED, heard)),
            Ok(Command::Unknown) if line.trim_ascii().is_empty() => self.unknown(reply::empty_line()),
            Ok(Command::Unknown) => self.unknown(about(reply::UNKNOWN_COMMAND, heard)),
            Err(error) => {
                let reply = reply::syntax_error(error, &limits.smtp_ascii.refusal, self.protocol);
                self.no_command(line, about(reply, heard))
            }
        };
        (heard, step)
    }

    /// What a log may have of a line, which may be or announce a password.
    fn heard<'i>(&mut self, line: &'i [u8], command: &Result<Command<'_>, SyntaxError>) -> Heard<'i> {
        self.expects_secret |= credentials::are_announced(line);
        let expects_secret = self.expects_secret;
        match command {
            Ok(command) if command.is_known() => {
                self.expects_secret = false;
                match command {
                    // The argument can be any text, so it may be a password.
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
        self.unknown(reply::LINE_TOO_LONG)
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

    /// The answer to EHLO or LHLO, once the session knows which mechanisms it can offer.
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

    /// Refuses a line that cannot be carried out as a command. If it was meant as BDAT, what follows it is no command
    /// either.
    fn no_command(&mut self, line: &[u8], reply: Reply) -> Step {
        if command::is_meant_as(line, "BDAT") { self.bad_chunk(reply) } else { self.fail(reply) }
    }

    /// Why DATA or BDAT is refused in this state.
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

/// The answer to any command but BDAT and RSET between two chunks.
const CHUNKS: &str = "this message comes in BDAT chunks";

/// Adds the line to the reply as its subject, for the log, unless the line may be a password.
fn about(reply: Reply, heard: Heard<'_>) -> Reply {
    match heard {
        Heard::Command(words) | Heard::Unoffered(words) => reply.about(words),
        Heard::Secret => reply.because(NOT_SHOWN),
        Heard::Nothing | Heard::Text | Heard::Discarded => reply,
    }
}

/// A reply with 421 closes the connection, whoever worded it (RFC 5321, 3.8).
fn reply_or_close(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

fn over_limit<T>(limit: &Limit<T>) -> Reply {
    reply::over_limit(&limit.refusal)
}
