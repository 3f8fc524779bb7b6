//! `mailrecv explain`: what would happen to a message, and why. Nothing is delivered, looked up or logged.
//!
//! The answers come from the real session with the real rules ([`explain`]), and are shown to people ([`text`]) or to
//! programs ([`json`]).

mod json;
mod text;

use std::io::Write as _;

use crate::check::report;
use crate::cli::{Format, Options, Question};
use crate::config::{AuthUse, Config, Facts, Finding, Flags, Origin, Protocol, Severity, TlsUse, Trace};
use crate::exit::Exit;
use crate::log::{Event, Log};
use crate::peer::Peer;
use crate::policy::Policy;
use crate::smtp::Step;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::smtp::transaction::Recipient;

/// The answer to a question.
struct Explanation<'c> {
    peer: &'c Peer,
    protocol: Protocol,
    is_secured: bool,
    /// The account that the peer has logged in to.
    user: Option<&'c str>,
    /// Remarks for people, each of one or more lines.
    notes: Vec<&'static str>,
    /// The peer's first command, which shows whether it may talk to us at all.
    connection: Stage<'c>,
    sender: Stage<'c>,
    /// In the order of the question.
    recipients: Vec<Stage<'c>>,
}

/// A command and the answer to it; no answer if an earlier refusal made the command unnecessary.
struct Stage<'c> {
    verb: &'static str,
    /// The address that the command is about.
    address: Option<&'c str>,
    command: String,
    answer: Option<Answer<'c>>,
}

/// The answer to a command.
struct Answer<'c> {
    /// What the rules looked at.
    findings: Vec<Finding<'c>>,
    reply: Reply,
    /// The reply in the form in which it is sent.
    sent: Vec<u8>,
    /// The line in the log, if the reply is a refusal.
    refusal: Option<LogLine>,
    destinations: Vec<Destination>,
}

struct Destination {
    action: &'static str,
    arguments: Vec<String>,
    /// Action and arguments, as the configuration has them.
    shown: String,
    origin: Origin,
    /// The line in the log for each delivery, if the log wants one.
    log: Option<LogLine>,
}

/// A line of the log without date and peer.
struct LogLine {
    text: String,
    /// Whether the fail2ban filter counts it.
    is_counted: bool,
}

/// Answers the question on standard output. Returns 0 if the mail would be accepted for every recipient, 1 if not, and
/// 78 if the configuration has errors.
pub(crate) fn run(options: &Options, question: &Question) -> Exit {
    match options.load() {
        Ok(config) => {
            let log = Log::new(
                config.log.clone(),
                options.debug.unwrap_or(config.debug),
                config.loghex,
                question.peer.address.to_string(),
            );
            let explanation = explain(&config, &log, question);
            let text = match question.format {
                Format::Text => text::of(&explanation, &config, &log),
                Format::Json => json::of(&explanation, &config, &options.config),
            };
            let _ = std::io::stdout().write_all(text.as_bytes());
            let found = config.check();
            let mut errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).peekable();
            match (errors.peek(), explanation.is_accepted()) {
                (Some(_), _) => {
                    report(&options.config, errors);
                    Exit::Config
                }
                (None, true) => Exit::Ok,
                (None, false) => Exit::Refused,
            }
        }
        Err(unusable) => {
            report(&options.config, unusable.errors.iter());
            Exit::Config
        }
    }
}

/// Has the rehearsal of such a peer with the real session.
fn explain<'c>(config: &'c Config, log: &Log, question: &'c Question) -> Explanation<'c> {
    let peer = &question.peer;
    let is_secured = question.tls || config.tls() == TlsUse::Implicit;
    let mut notes = Vec::new();
    if question.tls && config.tls() == TlsUse::Off {
        notes.push(NO_TLS);
    }
    let user = question.user.as_deref();
    if user.is_some() && config.auth() == AuthUse::Off {
        notes.push(NO_ACCOUNTS);
    } else if user.is_some() && !is_secured && !config.auth_in_the_clear() {
        notes.push(NOT_IN_THE_CLEAR);
    }
    let is_proxy = |address| config.rules.is_proxy(address, &mut Trace::default()).unwrap_or(false);
    if peer.address.ip().is_some_and(is_proxy) {
        notes.push(A_PROXY);
    }
    let check = &config.limits.fcrdns_check;
    let needs_name = peer.address.ip().is_some_and(|address| check.value.is_for(address));
    let nameless = (peer.hostname.is_none() && needs_name).then(|| {
        notes.push(NO_NAME);
        // Only a look-up could tell why there is no name.
        reply::worded(&check.refusal, reply::NO_CONFIRMED_NAME).because("...")
    });
    let mut policy = Policy::new(config, peer, Trace::new(true));
    let refusal = nameless.or_else(|| policy.refusal());
    let mut session = Session::new(config.protocol, &config.domain, &config.limits, peer, refusal)
        .with_tls(config.tls().into())
        .with_auth(config.auth(), config.auth_in_the_clear());
    if is_secured {
        session.secured();
        policy.secured();
    }
    if let Some(user) = user {
        log.authenticated(user);
        session.authenticated(user);
        policy.authenticated(user);
    }
    let hello = match config.protocol {
        Protocol::Smtp => "EHLO",
        Protocol::Lmtp => "LHLO",
    };
    let mut rehearsal = Rehearsal { session, policy, log, is_over: false };
    let connection = rehearsal.stage(hello, None, format!("{hello} {OUR_NAME}"));
    rehearsal.is_over |= !connection.is_accepted();
    let sender = bare(&question.from);
    let sender = rehearsal.stage("MAIL", Some(sender), format!("MAIL FROM:<{sender}>"));
    rehearsal.is_over |= !sender.is_accepted();
    let recipients = question
        .recipients
        .iter()
        .map(|recipient| bare(recipient))
        .map(|recipient| rehearsal.stage("RCPT", Some(recipient), format!("RCPT TO:<{recipient}>")));
    let recipients = recipients.collect();
    Explanation { peer, protocol: config.protocol, is_secured, user, notes, connection, sender, recipients }
}

/// A session that gets one command after the other.
struct Rehearsal<'c, 'l> {
    session: Session<'c>,
    policy: Policy<'c>,
    log: &'l Log,
    /// Whether the remaining commands are unnecessary.
    is_over: bool,
}

impl<'c> Rehearsal<'c, '_> {
    fn stage(&mut self, verb: &'static str, address: Option<&'c str>, command: String) -> Stage<'c> {
        let answer = if self.is_over { None } else { self.answer(&command) };
        Stage { verb, address, command, answer }
    }

    fn answer(&mut self, command: &str) -> Option<Answer<'c>> {
        let recipients_before = self.recipients();
        let step = match command.contains(['\r', '\n']) {
            // The command would end there.
            true => Step::Reply(reply::CONTROL_CHARACTER),
            false => self.session.receive(format!("{command}\r\n").as_bytes(), &mut Vec::new()).step,
        };
        let step = match step {
            Step::Ask(question) => self.session.answer(self.policy.answer(&question)),
            step => step,
        };
        let reply = match step {
            Step::Reply(reply) => reply,
            Step::Close(reply) => {
                self.is_over = true;
                reply
            }
            Step::Wait
            | Step::Continue
            | Step::Ask(_)
            | Step::Deliver(_)
            | Step::StartTls(_)
            | Step::Authenticated(..) => return None,
        };
        let mut sent = Vec::new();
        reply.encode(self.session.is_extended(), &mut sent);
        let refusal = reply.is_negative().then(|| LogLine::of(&Event::Reply(&reply), self.log));
        let is_new = self.recipients() > recipients_before;
        let destinations = if is_new { self.destinations_of_last() } else { Vec::new() };
        Some(Answer { findings: self.policy.take_trace(), reply, sent, refusal, destinations })
    }

    fn recipients(&self) -> usize {
        self.session.transaction().map_or(0, |transaction| transaction.recipients.len())
    }

    /// The destinations of the recipient that was accepted last, and the log line of each delivery, in which the
    /// identifier and size of a message are left open.
    fn destinations_of_last(&self) -> Vec<Destination> {
        let Some(transaction) = self.session.transaction() else { return Vec::new() };
        let Some(Recipient { mailbox, destinations, .. }) = transaction.recipients.last() else { return Vec::new() };
        let destination = |(action, origin): (Facts<'_>, Origin)| {
            let (from, to) = (&transaction.reverse_path, mailbox);
            let event =
                Event::Delivered { id: "...", from, to, size: &"...", action: &action, said: None, first: None };
            let log = self.log.wants(Flags::DELIVERIES).then(|| LogLine::of(&event, self.log));
            let arguments = action.operands.into_iter().flatten().map(str::to_owned).collect();
            Destination { action: action.name, arguments, shown: action.to_string(), origin, log }
        };
        destinations.shown().map(destination).collect()
    }
}

impl Explanation<'_> {
    fn stages(&self) -> impl Iterator<Item = &Stage<'_>> {
        [&self.connection, &self.sender].into_iter().chain(&self.recipients)
    }

    /// Whether the mail would be accepted for everybody.
    fn is_accepted(&self) -> bool {
        self.stages().all(Stage::is_accepted)
    }
}

impl Stage<'_> {
    fn is_accepted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.reply.is_negative())
    }
}

impl Answer<'_> {
    /// All lines of the log about it.
    fn log(&self) -> impl Iterator<Item = &LogLine> {
        self.refusal.iter().chain(self.destinations.iter().filter_map(|destination| destination.log.as_ref()))
    }
}

impl LogLine {
    fn of(event: &Event<'_>, log: &Log) -> Self {
        Self { text: event.text(log).to_string(), is_counted: event.is_counted(log) }
    }
}

/// The address in a question, which may be typed with angle brackets.
fn bare(address: &str) -> &str {
    let address = address.trim();
    address.strip_prefix('<').and_then(|address| address.strip_suffix('>')).unwrap_or(address)
}

/// The name that we use in EHLO; no host has it (RFC 2606).
const OUR_NAME: &str = "explain.invalid";

const NO_TLS: &str = "the configuration has no TLS, so no peer comes to this";

const NO_ACCOUNTS: &str = "the configuration has no accounts, so no peer comes to this";

const NOT_IN_THE_CLEAR: &str = "nobody logs in without TLS (auth_plaintext): `--tls` asks about TLS";

const A_PROXY: &str = "a proxy (proxy_protocol); this is about mail that it sends itself, the rules see\n\
    whom its header names: `--peer` asks about one of those";

const NO_NAME: &str = "a peer without a confirmed name is refused (limit.fcrdns_check);\n\
    `--peer ADDRESS=HOSTNAME` asks about one with a name";
