//! A whole session in memory, with deliveries whose end is in the recipient's name. What must hold at every step is
//! checked on the way.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::SystemTime;

use mailrecv::config::{Config, Finding, Flags, LogTarget, Protocol, Trace};
use mailrecv::log::{Event, Log};
use mailrecv::message::{Envelope, RecipientCopy, Spool, SpoolFile};
use mailrecv::peer::Peer;
use mailrecv::smtp::reply::{self, Reply};
use mailrecv::smtp::transaction::{Recipient, Transaction};
use mailrecv::smtp::{Delivery, Heard, Outcome};

use super::driver::{Driver, World};
use super::log::check_text;
use super::reference;
use super::reply::check_wire_form;

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The replies as they go over the wire, the greeting first.
    pub replies: Vec<String>,
    /// The messages that were delivered.
    pub messages: Vec<Message>,
    /// The lines of the log, all flags set, as `[PEER] TEXT`.
    pub log: Vec<String>,
    /// Whether we closed the connection.
    pub closed: bool,
}

/// A message that was accepted, in LMTP for one recipient. Its name is `id` and its place among them.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its octets, as RFC 1870 counts them.
    pub size: u64,
    /// Its text, lines ended by LF.
    pub text: Vec<u8>,
}

/// Holds the session with a peer that sends this, read by read, and then nothing more.
pub fn hold(config: &Config, reads: &[&[u8]]) -> Conversation {
    let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
    let peer = Peer { address: address.into(), hostname: Some("mail.example.net".to_owned()) };
    let mut host = Host::new(config, &peer);
    host.reply(&reply::greeting(&config.domain, config.protocol), false);
    let mut driver = Driver::new(config, &peer, Trace::new(true), &mut host);
    for read in reads {
        if driver.is_closed() {
            break;
        }
        driver.feed(read, &mut host);
    }
    host.conversation.closed = driver.is_closed();
    host.conversation
}

/// The address of the peer in every session.
pub const PEER: &str = "192.0.2.7";

/// What stands in for the disk, the log and the connection.
struct Host<'a> {
    config: &'a Config,
    peer: &'a Peer,
    log: Log,
    conversation: Conversation,
    /// Whether what comes next is a chunk, which may be empty.
    is_behind_bdat: bool,
}

impl<'a> Host<'a> {
    fn new(config: &'a Config, peer: &'a Peer) -> Self {
        let log = Log::new(LogTarget::Stderr, Flags::default(), true, PEER.to_owned());
        Self { config, peer, log, conversation: Conversation::default(), is_behind_bdat: false }
    }

    fn note(&mut self, event: &Event<'_>) {
        let line = format!("[{PEER}] {}", event.text(&self.log));
        check_text(&line, PEER, true);
        self.conversation.log.push(line);
    }
}

impl World for Host<'_> {
    fn heard(&mut self, used: usize, heard: Heard<'_>) {
        let is_bdat = matches!(heard, Heard::Command(words) if words.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT")));
        match heard {
            Heard::Nothing => {}
            Heard::Command(words) => {
                assert!(used > words.len(), "a command ends with its line");
                self.note(&Event::Command(words));
            }
            Heard::Unoffered(words) => {
                assert!(used > words.len(), "a command ends with its line");
                self.note(&Event::Command(words));
                self.note(&Event::UnofferedParameters(words));
            }
            Heard::Secret => self.note(&Event::SecretLine),
            Heard::Text | Heard::Discarded => assert!(used > 0 || self.is_behind_bdat, "nothing was used of a message"),
        }
        self.is_behind_bdat = is_bdat;
    }

    fn decided(&mut self, trace: Vec<Finding<'_>>) {
        trace.iter().for_each(|finding| self.note(&Event::Rule(finding)));
    }

    fn deliver(&mut self, delivery: &Delivery, text: &[u8]) -> (Outcome, String) {
        let transaction = &delivery.transaction;
        let id = format!("id{}", self.conversation.messages.len());
        check_transaction(self.config, transaction);
        check_group(self.config, delivery);
        let (domain, received_at) = (&self.config.domain, SystemTime::now());
        let envelope = Envelope { id: &id, domain, peer: self.peer, received_at, transaction, tls: None, user: None };
        check_headers(&envelope, text);
        let outcome = outcome(delivery.recipients());
        if outcome.is_ok() {
            self.conversation.messages.push(Message { size: transaction.size, text: text.to_owned() });
        }
        (outcome, id)
    }

    fn reply(&mut self, reply: &Reply, extended: bool) {
        let mut wire = Vec::new();
        reply.encode(extended, &mut wire);
        check_wire_form(&wire);
        let wire = String::from_utf8(wire).expect("a reply in ASCII");
        assert!(wire.is_ascii(), "nothing here has other characters: {wire:?}");
        // A nonce is another each time.
        let wire = if wire.starts_with(SCRAM_CHALLENGE) { format!("{SCRAM_CHALLENGE}...\r\n") } else { wire };
        self.conversation.replies.push(wire);
        if reply.is_negative() {
            self.note(&Event::Reply(reply));
        }
    }
}

/// A challenge that begins with `r=` and whatever the peer has chosen for its half of the nonce, in base64.
const SCRAM_CHALLENGE: &str = "334 cj";

/// How the delivery ends: `defer` and `fail` in the names of files say so.
fn outcome(group: &[Recipient]) -> Outcome {
    let shown = group.iter().flat_map(|recipient| recipient.destinations.shown());
    let actions: Vec<String> = shown.map(|(action, _)| action.to_string()).collect();
    let any_into = |name: &str| actions.iter().any(|action| action.ends_with(&format!(" '{name}'")));
    if any_into("fail") {
        Err(reply::too_many_hops(101))
    } else if any_into("defer") {
        Err(reply::mailbox_busy("another program works on defer".to_owned()))
    } else {
        Ok(None)
    }
}

/// A transaction is never without recipients, has none twice, and keeps to the limits.
fn check_transaction(config: &Config, transaction: &Transaction) {
    let recipients = &transaction.recipients;
    assert!((1..=config.limits.smtp_rcpt_to.value).contains(&(recipients.len() as u64)));
    for (number, recipient) in recipients.iter().enumerate() {
        assert!(recipient.destinations.shown().count() > 0, "{} goes nowhere", recipient.mailbox);
        let again = recipients[number + 1..].iter().any(|other| other.mailbox.is_same(&recipient.mailbox));
        assert!(!again, "{} is there twice", recipient.mailbox);
    }
    let largest = config.limits.smtp_data_size.value;
    assert!(largest == 0 || transaction.size <= largest, "the message is too large");
    assert!(!transaction.hello.name.is_empty());
}

/// Who has one answer has at most one destination that cannot be taken back: in SMTP that is everybody, in LMTP one.
fn check_group(config: &Config, delivery: &Delivery) {
    let group = delivery.recipients();
    let expected = if config.protocol == Protocol::Lmtp { 1 } else { delivery.transaction.recipients.len() };
    assert_eq!(group.len(), expected);
    let mut handed_over: Vec<_> = group.iter().filter(|recipient| recipient.destinations.are_handed_over()).collect();
    // What goes to one server goes there once.
    handed_over.dedup_by(|one, other| one.destinations.share_hand_over(&other.destinations));
    let handed_over = handed_over.len();
    assert!(handed_over <= 1, "{handed_over} destinations that cannot be taken back");
}

/// Our headers are the lines that they are meant to be, whatever the peer calls itself and its users.
fn check_headers(envelope: &Envelope<'_>, text: &[u8]) {
    let mut spool = Spool::new(Rc::new(SpoolFile::open(None)));
    spool.push(text);
    for recipient in &envelope.transaction.recipients {
        let headers = RecipientCopy { envelope, recipient: &recipient.mailbox, others: &[] }.headers();
        let lines: Vec<&str> = headers.strip_suffix('\n').expect("a line end").split('\n').collect();
        let for_one = envelope.transaction.recipients.len() == 1 || envelope.transaction.hello.is_lmtp();
        let beginnings: &[&str] = match for_one {
            true => &["Return-Path: <", "Delivered-To: ", "Received: from ", "\tby ", "\tfor <"],
            false => &["Return-Path: <", "Delivered-To: ", "Received: from ", "\tby "],
        };
        assert_eq!(lines.len(), beginnings.len(), "{headers}");
        for (line, beginning) in lines.iter().zip(beginnings) {
            assert!(line.starts_with(beginning), "{headers}");
            assert!(!line.trim_start_matches('\t').contains(char::is_control), "{headers:?}");
        }
        let mut message = Vec::new();
        let copy = RecipientCopy { envelope, recipient: &recipient.mailbox, others: &[] };
        copy.reader(&mut spool).and_then(|mut reader| reader.read_to_end(&mut message)).expect("a copy from memory");
        let behind_ours: Vec<u8> =
            message.split_inclusive(|byte| *byte == b'\n').skip(beginnings.len()).flatten().copied().collect();
        assert_eq!(
            behind_ours.escape_ascii().to_string(),
            reference::with_header(text).escape_ascii().to_string(),
            "what stands behind our headers"
        );
    }
}
