//! The receiver with a tap in front of it, and what it has made of messages.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use regex::bytes::Regex;
use testkit::{Daemon, Tap};

use crate::messages::{IN_MAILBOX, IN_MAILDIR, NOBODY, REFUSAL, SENDER};
use crate::support::Scratch;
use crate::wire::{Transaction, transactions};

/// A running receiver; dropped, it is gone.
pub struct Receiver {
    tap: Tap,
    // Before its folder.
    _listener: Daemon,
    scratch: Scratch,
}

/// Messages by their recipients.
type Mail = BTreeMap<&'static str, Vec<Vec<u8>>>;

impl Receiver {
    /// `mailrecv listen` with a configuration of its own.
    pub fn start() -> Self {
        let scratch = Scratch::with_config(&format!(
            "domain {DOMAIN}\n\
             limit.fcrdns_check off\n\
             deliver rcpt_to {IN_MAILDIR} maildir maildir\n\
             deliver rcpt_to {IN_MAILBOX} append mailbox\n\
             deliver rcpt_to {SENDER} maildir bounces\n\
             error rcpt_to {NOBODY} 550 5.1.1 {REFUSAL}\n\
             debug +\n"
        ));
        let mut command = scratch.mailrecv(&["listen", "127.0.0.1:0"]);
        // Relative paths are those of a process that was started here, as the sessions are.
        command.current_dir(scratch.path(""));
        let mut listener = Daemon::start(command, scratch.path("listen.out"));
        let address = listener.until("the ready line", |said| {
            said.lines().find_map(|line| line.strip_prefix("mailrecv: listening on ")?.parse().ok())
        });
        Self { tap: Tap::start(address), _listener: listener, scratch }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.tap.address()
    }

    /// Waits for the end of all sessions; what went over the wire since the last time. What was to be delivered is
    /// compared with what is there, and taken away: each difference is a problem.
    pub fn examine(&self) -> (Vec<Transaction>, Vec<String>) {
        let all: Vec<Transaction> = self.tap.recordings().iter().flat_map(transactions).collect();
        let mut sent = Mail::new();
        for transaction in all.iter().filter(|transaction| transaction.is_accepted()) {
            let text = with_end_of_header(transaction.text_in_file());
            for recipient in &transaction.recipients {
                let place = [IN_MAILDIR, IN_MAILBOX, SENDER].into_iter().find(|place| place == recipient);
                let place = place.unwrap_or_else(|| panic!("{recipient} was accepted"));
                sent.entry(place).or_default().push([&mark(place, transaction)[..], &text].concat());
            }
        }
        let mut problems = Vec::new();
        let mut found = self.delivered(&all, &mut problems);
        for mail in [&mut sent, &mut found] {
            mail.values_mut().for_each(|messages| messages.sort());
        }
        if sent != found {
            problems.push(difference(&sent, &found));
        }
        (all, problems)
    }

    /// Takes what lies in maildirs and mailbox, the added header in front of each replaced by a mark, if it is as it
    /// should be.
    fn delivered(&self, all: &[Transaction], problems: &mut Vec<String>) -> Mail {
        let mut mail = Mail::new();
        let mut add = |place: &'static str, message: &[u8]| match without_trace(place, message, all) {
            Ok(message) => mail.entry(place).or_default().push(message),
            Err(problem) => problems.push(problem),
        };
        for (place, folder) in [(IN_MAILDIR, "maildir/new"), (SENDER, "bounces/new")] {
            let Ok(entries) = fs::read_dir(self.scratch.path(folder)) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                add(place, &fs::read(&path).unwrap());
                fs::remove_file(path).unwrap();
            }
        }
        let mailbox = self.scratch.path("mailbox");
        if let Ok(text) = fs::read(&mailbox) {
            split_mailbox(&text).iter().for_each(|message| add(IN_MAILBOX, message));
            fs::remove_file(mailbox).unwrap();
        }
        mail
    }
}

/// The messages of a mailbox in the form mboxrd (mbox(5)).
fn split_mailbox(text: &[u8]) -> Vec<Vec<u8>> {
    let from_line = Regex::new("(?-u)^From [^ ]+ [A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} [0-9]{4}\n$").unwrap();
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"From ") {
            assert!(from_line.is_match(line), "not quoted: {}", line.escape_ascii());
            messages.push(Vec::new());
        } else {
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            let is_quoted = quotes > 0 && line[quotes..].starts_with(b"From ");
            messages.last_mut().expect("a From line in front").extend_from_slice(&line[usize::from(is_quoted)..]);
        }
    }
    for message in &mut messages {
        assert_eq!(message.pop(), Some(b'\n'), "an empty line behind a message");
    }
    messages
}

/// A message with the header that was put in front of it replaced by the mark of the transaction that it tells of.
fn without_trace(place: &str, message: &[u8], all: &[Transaction]) -> Result<Vec<u8>, String> {
    let found = all.iter().find_map(|transaction| {
        let (to, only) = (regex::escape(place), if transaction.recipients.len() == 1 { "" } else { "{0}" });
        let trace = format!(
            "(?-u)^Return-Path: <{}>\nDelivered-To: {to}\n\
             Received: from {} \\([^ ()\n]+ \\[127\\.0\\.0\\.1\\]\\)\n\
             \tby {DOMAIN} \\(mailrecv\\) with E?SMTP id [^ ;\n]+(?:\n\tfor <{to}>){only}; [^\n]+ [+-][0-9]{{4}}\n",
            regex::escape(&transaction.sender),
            regex::escape(&transaction.hello),
        );
        let length = Regex::new(&trace).unwrap().find(message)?.len();
        Some([&mark(place, transaction)[..], &message[length..]].concat())
    });
    found.ok_or_else(|| format!("{place}: no such header was to be added: {:.600}", message.escape_ascii().to_string()))
}

fn mark(place: &str, transaction: &Transaction) -> Vec<u8> {
    format!("[from {} by {} to {place}]\n", transaction.sender, transaction.hello).into_bytes()
}

/// A header that runs into the text without an empty line gets one, and so does a message without a header
/// (mailrecv.conf(5)).
fn with_end_of_header(mut text: Vec<u8>) -> Vec<u8> {
    let field = Regex::new("^(?-u)[!-9;-~]+[ \t]*:").unwrap();
    let mut at = 0;
    while let Some(line) = text[at..].split_inclusive(|byte| *byte == b'\n').next() {
        let is_continuation = at > 0 && line.starts_with(b" ") || line.starts_with(b"\t");
        if line == b"\n" {
            return text;
        }
        if !field.is_match(line) && !is_continuation {
            break;
        }
        at += line.len();
    }
    if at == 0 || at < text.len() {
        text.insert(at, b'\n');
    }
    text
}

/// Where sent and found mail part, with some bytes around that.
fn difference(sent: &Mail, found: &Mail) -> String {
    let none = Vec::new();
    let mut text = String::new();
    for place in [IN_MAILDIR, IN_MAILBOX, SENDER] {
        let (sent, found) = (sent.get(place).unwrap_or(&none), found.get(place).unwrap_or(&none));
        if sent.len() != found.len() {
            text += &format!("{place}: {} messages sent, {} found; ", sent.len(), found.len());
        }
        for (sent, found) in sent.iter().zip(found).filter(|(sent, found)| sent != found) {
            let same = sent.iter().zip(found).take_while(|(sent, found)| sent == found).count();
            let around = |text: &[u8]| {
                let part = &text[same.saturating_sub(60)..text.len().min(same + 60)];
                part.escape_ascii().to_string()
            };
            text += &format!(
                "{place}: byte {same} differs: sent \"{}\" ({} bytes), found \"{}\" ({} bytes); ",
                around(sent),
                sent.len(),
                around(found),
                found.len()
            );
        }
    }
    text
}

const DOMAIN: &str = "mx.example";
