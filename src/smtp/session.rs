//! One SMTP session: commands and message data in, [`Step`]s out.
//!
//! What state the session is in, and everything that belongs to it, is one enum: a recipient without a sender, or data
//! without a recipient, cannot be written down.

use super::command::{self, Command, Dialect, MailParameters};
use super::data::DataReader;
use super::reply::{self, Reply};
use super::{LineEnding, Step};
use crate::address::{Mailbox, ReversePath};
use crate::config::{Config, Denial, Destinations, Limit, Trace};
use crate::peer::Peer;

/// A message and where it goes.
#[derive(Debug)]
pub struct Transaction<'c> {
    /// Whom to tell if something goes wrong.
    pub reverse_path: ReversePath,
    /// The accepted recipients, each once.
    pub recipients: Vec<Recipient<'c>>,
    /// How the peer introduced itself.
    pub hello: Hello,
    /// Octets received (RFC 1870); known once the message is complete.
    pub size: u64,
}

/// An accepted recipient and its destinations.
#[derive(Debug)]
pub struct Recipient<'c> {
    /// The address.
    pub mailbox: Mailbox,
    /// Where its mail goes.
    pub destinations: Destinations<'c>,
}

/// HELO or EHLO, and the name that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name; it proves nothing.
    pub name: String,
    /// Whether it was EHLO.
    pub extended: bool,
}

/// What became of a delivery.
#[derive(Debug)]
pub enum Outcome {
    /// At every destination, on stable storage.
    Delivered,
    /// At none; the sender may try again. Whatever is not understood belongs here.
    Defer(Reply),
    /// At none, and trying again will not help.
    Fail(Reply),
}

/// A session with one peer.
#[derive(Debug)]
pub struct Session<'c> {
    config: &'c Config,
    peer: &'c Peer,
    state: State<'c>,
    counters: Counters,
    /// How the last decisions came about.
    pub trace: Trace,
}

#[derive(Debug, Default)]
enum State<'c> {
    /// The peer is not wanted: this is the answer to whatever it says first.
    Refused(Reply),
    /// No HELO or EHLO yet.
    #[default]
    Start,
    /// Between transactions.
    Ready(Hello),
    /// MAIL was accepted.
    Mail(Transaction<'c>),
    /// DATA was accepted.
    Data(Transaction<'c>, DataReader),
    /// The message is being delivered.
    Delivering(Hello),
}

#[derive(Debug, Default)]
struct Counters {
    commands: u64,
    unknown: u64,
    failed: u64,
    /// Commands of this transaction that counted for nothing.
    free: u64,
}

impl<'c> Session<'c> {
    /// A session with this peer. Whether it is wanted is decided here and told at its first command.
    pub fn new(config: &'c Config, peer: &'c Peer, mut trace: Trace) -> Self {
        let state = match config.rules.admit(peer, &mut trace) {
            Ok(()) => State::Start,
            Err(Denial::Broken(broken)) => State::Refused(reply::broken_pattern(broken.line, &broken.message)),
            Err(_) => State::Refused(reply::peer_refused(peer)),
        };
        Self { config, peer, state, counters: Counters::default(), trace }
    }

    /// A session with a peer that is refused whatever the rules say.
    pub fn refused(config: &'c Config, peer: &'c Peer, reply: Reply) -> Self {
        Self { config, peer, state: State::Refused(reply), counters: Counters::default(), trace: Trace::default() }
    }

    /// Whether the next bytes are a message's, not a command's.
    pub fn wants_data(&self) -> bool {
        matches!(self.state, State::Data(..))
    }

    /// Whether a transaction is open, so that the end of input loses something.
    pub fn is_in_transaction(&self) -> bool {
        matches!(self.state, State::Mail(_) | State::Data(..))
    }

    /// Whether replies carry enhanced codes: after EHLO (RFC 2034, section 3).
    pub fn is_extended(&self) -> bool {
        self.hello().is_some_and(|hello| hello.extended)
    }

    /// The transaction that is open.
    pub fn transaction(&self) -> Option<&Transaction<'c>> {
        match &self.state {
            State::Mail(transaction) | State::Data(transaction, _) => Some(transaction),
            _ => None,
        }
    }

    /// Takes a command line, its end taken off.
    pub fn line(&mut self, line: &[u8], line_ending: LineEnding) -> Step<'c> {
        if let State::Refused(reply) = &self.state {
            let reply = reply.clone();
            return Step::Close(reply);
        }
        self.counters.commands += 1;
        let limits = &self.config.limits;
        let dialect = Dialect { line_ending, ascii: limits.smtp_ascii.value, own_domain: &self.config.domain };
        let command = command::parse(line, dialect);
        if self.counters.commands > limits.smtp_commands.value && command != Ok(Command::Quit) {
            return Step::Close(over_limit(&limits.smtp_commands));
        }
        let words = command::without_credentials(line);
        match command {
            Ok(Command::Helo(name)) => self.hello_command(name, false),
            Ok(Command::Ehlo(name)) => self.hello_command(name, true),
            Ok(Command::Mail(sender, parameters)) => self.mail(sender, parameters),
            Ok(Command::Rcpt(mailbox)) => self.rcpt(mailbox),
            Ok(Command::Data) => self.data_command(line_ending),
            Ok(Command::Rset) => self.rset(),
            Ok(Command::Noop) => Step::Reply(reply::OK),
            Ok(Command::Vrfy) => Step::Reply(reply::verify()),
            Ok(Command::Help) => Step::Reply(reply::help()),
            Ok(Command::Quit) => Step::Close(reply::bye(&self.config.domain)),
            Ok(Command::NotImplemented) => self.fail(reply::not_implemented().about(words)),
            Ok(Command::Unknown) => self.unknown(reply::unknown_command().about(words)),
            Err(error) => self.fail(reply::syntax_error(error, &limits.smtp_ascii.refusal).about(words)),
        }
    }

    /// A line came that was too long to be a command.
    pub fn too_long_line(&mut self) -> Step<'c> {
        if let State::Refused(reply) = &self.state {
            let reply = reply.clone();
            return Step::Close(reply);
        }
        self.counters.commands += 1;
        self.unknown(reply::line_too_long())
    }

    /// The peer speaks another protocol.
    pub fn other_protocol(&mut self) -> Step<'c> {
        Step::Close(reply::other_protocol())
    }

    /// Takes a piece of the message and appends its text to `text`. Returns how many bytes were taken: not those behind
    /// the message's end.
    pub fn data(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> (usize, Step<'c>) {
        let State::Data(_, reader) = &mut self.state else { return (0, Step::Wait) };
        let (used, ended) = reader.read(bytes, text);
        if !ended {
            return (used, Step::Wait);
        }
        let State::Data(mut transaction, reader) = std::mem::take(&mut self.state) else {
            return (used, Step::Wait);
        };
        let limits = &self.config.limits;
        let refusal = if reader.is_too_large() {
            Some(reply::worded(&limits.smtp_data_size.refusal, "5.3.4"))
        } else if reader.has_bare_newline() && limits.bare_newline.value {
            Some(reply::worded(&limits.bare_newline.refusal, "5.6.11"))
        } else {
            None
        };
        match refusal {
            Some(reply) => {
                self.state = State::Ready(transaction.hello);
                (used, self.fail(reply))
            }
            None => {
                transaction.size = reader.size();
                self.state = State::Delivering(transaction.hello.clone());
                (used, Step::Deliver(transaction))
            }
        }
    }

    /// Takes the outcome of the delivery that [`Step::Deliver`] asked for, and answers the message that `id` names.
    pub fn delivered(&mut self, outcome: Outcome, id: &str) -> Step<'c> {
        if let State::Delivering(hello) = std::mem::take(&mut self.state) {
            self.state = State::Ready(hello);
        }
        match outcome {
            Outcome::Delivered => {
                self.counters.commands = 0;
                Step::Reply(reply::accepted(id))
            }
            Outcome::Defer(reply) | Outcome::Fail(reply) => self.fail(reply),
        }
    }

    fn hello_command(&mut self, name: &str, extended: bool) -> Step<'c> {
        let (domain, peer) = (&self.config.domain, self.peer);
        self.state = State::Ready(Hello { name: name.to_owned(), extended });
        Step::Reply(match extended {
            false => reply::hello(domain, peer),
            true => reply::extended_hello(domain, peer, self.config.limits.smtp_data_size.value),
        })
    }

    fn mail(&mut self, sender: ReversePath, parameters: MailParameters) -> Step<'c> {
        let hello = match &self.state {
            State::Ready(hello) => hello.clone(),
            State::Mail(_) => return self.fail(reply::bad_sequence("one MAIL FROM at a time")),
            _ => return self.fail(reply::bad_sequence("missing HELO or EHLO")),
        };
        if !hello.extended && parameters != MailParameters::default() {
            return self.fail(reply::syntax_error(
                command::SyntaxError::UnknownParameter,
                &self.config.limits.smtp_ascii.refusal,
            ));
        }
        let limit = &self.config.limits.smtp_data_size;
        if limit.value != 0 && parameters.size.is_some_and(|size| size > limit.value) {
            return self.fail(reply::worded(&limit.refusal, "5.3.4"));
        }
        if let Err(denial) = self.config.rules.sender(&sender, &mut self.trace) {
            return self.deny(denial, reply::sender_not_allowed(), "5.7.1", &sender.bare());
        }
        self.counters.free = 0;
        self.state = State::Mail(Transaction { reverse_path: sender, recipients: Vec::new(), hello, size: 0 });
        Step::Reply(reply::SENDER_OK)
    }

    fn rcpt(&mut self, mailbox: Mailbox) -> Step<'c> {
        let State::Mail(transaction) = &mut self.state else {
            return self.fail(reply::bad_sequence("missing MAIL FROM"));
        };
        let recipients = &mut transaction.recipients;
        if recipients.iter().any(|recipient| recipient.mailbox.is_same(&mailbox)) {
            return self.count_accepted();
        }
        let limit = &self.config.limits.smtp_rcpt_to;
        if recipients.len() as u64 >= limit.value {
            return self.not_counted(reply::worded(&limit.refusal, "4.5.3").about(mailbox.bare()));
        }
        let destinations = match self.config.rules.route(&mailbox, self.peer, &self.config.domain, &mut self.trace) {
            Ok(destinations) => destinations,
            Err(Denial::TwoHandOvers) => return self.fail(reply::two_irrevocable().about(mailbox.bare())),
            Err(Denial::Unknown) => return self.fail(reply::no_such_recipient().about(mailbox.bare())),
            Err(denial) => return self.deny(denial, reply::recipient_not_allowed(), "5.1.1", &mailbox.bare()),
        };
        let is_handed_over = |destinations: &Destinations<'_>| destinations.hand_over.is_some();
        if is_handed_over(&destinations) && recipients.iter().any(|known| is_handed_over(&known.destinations)) {
            return self.not_counted(reply::one_at_a_time().about(mailbox.bare()));
        }
        recipients.push(Recipient { mailbox, destinations });
        self.count_accepted()
    }

    fn data_command(&mut self, line_ending: LineEnding) -> Step<'c> {
        match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.recipients.is_empty() => {
                let reader = DataReader::new(line_ending, self.config.limits.smtp_data_size.value);
                self.state = State::Data(transaction, reader);
                Step::Reply(reply::START_INPUT)
            }
            other => {
                let missing = if matches!(other, State::Mail(_)) { "missing RCPT TO" } else { "missing MAIL FROM" };
                self.state = other;
                self.fail(reply::bad_sequence(missing))
            }
        }
    }

    fn rset(&mut self) -> Step<'c> {
        self.state = match std::mem::take(&mut self.state) {
            State::Mail(transaction) => State::Ready(transaction.hello),
            other => other,
        };
        Step::Reply(reply::OK)
    }

    /// An accepted recipient has a limit of its own and does not count as a command.
    fn count_accepted(&mut self) -> Step<'c> {
        self.not_counted(reply::RECIPIENT_OK)
    }

    /// Answers a command that counts against no limit, unless it comes again and again.
    fn not_counted(&mut self, reply: Reply) -> Step<'c> {
        self.counters.free += 1;
        if self.counters.free <= self.config.limits.smtp_rcpt_to.value.saturating_add(MAX_OVERSHOOT) {
            self.counters.commands -= 1;
        }
        answer(reply)
    }

    fn deny(&mut self, denial: Denial<'_>, not_allowed: Reply, status: &'static str, subject: &str) -> Step<'c> {
        match denial {
            Denial::Refused(refusal) => self.fail(reply::worded(refusal, status).about(subject)),
            Denial::NotAllowed | Denial::Unknown | Denial::TwoHandOvers => self.fail(not_allowed.about(subject)),
            Denial::Broken(broken) => {
                let reply = reply::broken_pattern(broken.line, &broken.message);
                Step::Close(reply)
            }
        }
    }

    fn fail(&mut self, reply: Reply) -> Step<'c> {
        self.counters.failed += 1;
        let limit = &self.config.limits.smtp_failcmds;
        if self.counters.failed > limit.value && reply.code != 421 {
            let last = format!("the last one: {} {}", reply.code, reply.text);
            return Step::Close(Reply { subject: reply.subject, ..over_limit(limit).because(last) });
        }
        answer(reply)
    }

    fn unknown(&mut self, reply: Reply) -> Step<'c> {
        self.counters.unknown += 1;
        let limit = &self.config.limits.smtp_unknowncmd;
        match self.counters.unknown > limit.value {
            true => Step::Close(over_limit(limit)),
            false => Step::Reply(reply),
        }
    }

    fn hello(&self) -> Option<&Hello> {
        match &self.state {
            State::Ready(hello) | State::Delivering(hello) => Some(hello),
            State::Mail(transaction) | State::Data(transaction, _) => Some(&transaction.hello),
            State::Refused(_) | State::Start => None,
        }
    }
}

/// How many recipients beyond `limit.smtp_rcpt_to` a transaction may name for free, as in Postfix
/// (smtpd_recipient_overshoot_limit).
const MAX_OVERSHOOT: u64 = 1000;

/// 421 is the last word, whoever worded it (RFC 5321, 3.8).
fn answer<'c>(reply: Reply) -> Step<'c> {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

fn over_limit<T>(limit: &Limit<T>) -> Reply {
    reply::worded(&limit.refusal, if limit.refusal.code / 100 == 4 { "4.7.0" } else { "5.7.0" })
}
