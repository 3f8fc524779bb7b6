//! `mailrecv explain`: what would happen to a message, and why. Nothing is delivered, looked up or logged.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::check::report;
use crate::cli::{Options, Question};
use crate::config::{Config, Flags, Protocol, Severity, TlsUse, Trace};
use crate::exit::Exit;
use crate::log::{Event, Log};
use crate::policy::Policy;
use crate::smtp::Step;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::smtp::transaction::Transaction;
use crate::untrusted::Untrusted;

/// Answers the question on standard output. 0 if mail would be taken, 1 if not, 78 if the configuration has errors.
pub(crate) fn run(options: &Options, question: &Question) -> Exit {
    match options.load() {
        Ok(config) => {
            let (text, accepted) = explain(&config, question);
            let _ = std::io::stdout().write_all(text.as_bytes());
            let found = config.check();
            let mut errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).peekable();
            match (errors.peek(), accepted) {
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

/// Holds the dialogue that the peer would hold, with the real session.
fn explain(config: &Config, question: &Question) -> (String, bool) {
    let peer = &question.peer;
    let mut text = String::new();
    let is_secured = question.tls || config.tls() == TlsUse::Implicit;
    let _ = writeln!(text, "peer {peer}{}", if is_secured { ", under TLS" } else { "" });
    if question.tls && config.tls() == TlsUse::Off {
        let _ = writeln!(text, "  note: the configuration has no TLS, so no peer comes to this");
    }
    let is_proxy = |address| config.rules.is_proxy(address, &mut Trace::default()).unwrap_or(false);
    if peer.address.ip().is_some_and(is_proxy) {
        let _ =
            writeln!(text, "  note: a proxy (proxy_protocol); this is about mail that it sends itself, the rules see");
        let _ = writeln!(text, "        whom its header names: `--peer` asks about one of those");
    }
    let check = &config.limits.fcrdns_check;
    let needs_name = peer.address.ip().is_some_and(|address| check.value.is_for(address));
    let nameless = (peer.hostname.is_none() && needs_name).then(|| {
        let _ = writeln!(text, "  note: a peer without a confirmed name is refused (limit.fcrdns_check);");
        let _ = writeln!(text, "        `--peer ADDRESS=HOSTNAME` asks about one with a name");
        reply::worded(&check.refusal, reply::NO_CONFIRMED_NAME)
    });
    let mut policy = Policy::new(config, peer, Trace::new(true));
    let refusal = nameless.or_else(|| policy.refusal());
    let mut session =
        Session::new(config.protocol, &config.domain, &config.limits, peer, refusal).with_tls(config.tls().into());
    if is_secured {
        session.secured();
        policy.secured();
    }
    let hello = match config.protocol {
        Protocol::Smtp => "EHLO",
        Protocol::Lmtp => "LHLO",
    };
    let lines = [
        format!("{hello} explain.invalid"),
        format!("MAIL FROM:<{}>", bare(&question.from)),
        format!("RCPT TO:<{}>", bare(&question.rcpt)),
    ];
    for line in &lines {
        let _ = writeln!(text, "{}", Untrusted::new(line.as_bytes()));
        let input = format!("{line}\r\n");
        let turn = session.receive(input.as_bytes(), &mut Vec::new());
        let step = match turn.step {
            // A line end in an address would be the end of the command.
            _ if turn.used < input.len() => Step::Reply(reply::control_character()),
            Step::Ask(question) => session.answer(policy.answer(&question)),
            step => step,
        };
        for decision in policy.take_trace() {
            let _ = writeln!(text, "  {decision}");
        }
        let (reply, closed) = match step {
            Step::Reply(reply) => (reply, false),
            Step::Close(reply) => (reply, true),
            Step::Wait | Step::Continue | Step::Ask(_) | Step::Deliver(_) | Step::StartTls(_) => continue,
        };
        if line != &lines[0] || reply.is_negative() {
            show(&mut text, &reply, peer.address.to_string(), config);
        }
        if closed || reply.is_negative() {
            return (text, false);
        }
    }
    if let Some(transaction) = session.transaction() {
        show_destinations(&mut text, transaction, question, config);
    }
    (text, true)
}

/// An address as it is asked about, which may be typed in the brackets that a command has.
fn bare(address: &str) -> &str {
    let address = address.trim();
    address.strip_prefix('<').and_then(|address| address.strip_suffix('>')).unwrap_or(address)
}

/// Where copies would go, and what the log would say of each; a name and a size only a message has.
fn show_destinations(text: &mut String, transaction: &Transaction, question: &Question, config: &Config) {
    let log = Log::new(config.log.clone(), config.debug, config.loghex, question.peer.address.to_string());
    for recipient in &transaction.recipients {
        for (action, origin) in recipient.destinations.shown() {
            let _ = writeln!(text, "destination: {action} ({})", config.rules.origin(origin));
            if log.wants(Flags::DELIVERIES) {
                let (from, to) = (&transaction.reverse_path, &recipient.mailbox);
                let event = Event::Delivered { id: "...", from, to, size: &"...", action };
                let _ = writeln!(text, "  log:   {}", log.line(&event.text(&log)));
            } else {
                let _ = writeln!(text, "  log:   nothing, without debug flag +");
            }
        }
    }
}

fn show(text: &mut String, reply: &Reply, peer: String, config: &Config) {
    let mut encoded = Vec::new();
    reply.encode(true, &mut encoded);
    for line in String::from_utf8_lossy(&encoded).lines() {
        let _ = writeln!(text, "  reply: {line}");
    }
    if reply.is_negative() {
        let log = Log::new(config.log.clone(), Flags::default(), config.loghex, peer);
        let _ = writeln!(text, "  log:   {}", log.line(&Event::Reply(reply).text(&log)));
    }
}
