//! Passing mail on (`relay URL`) to the servers that there are, and to ones that misbehave: what the upstream answers is what
//! our peer hears, what got 250 is there and in the copy that we keep, and what was refused is in no copy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod addresses;
#[allow(dead_code, reason = "what a case is to come to is the affair of the tests `hostile`")]
#[path = "../hostile/case.rs"]
mod case;
mod certificates;
mod circle;
mod dovecot;
mod exim;
mod hostile;
mod opensmtpd;
mod postfix;
mod script;
mod sink;
mod smuggling;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::LazyLock;

use testkit::certificates::Authority;
use testkit::client::Reply;
use testkit::{Daemon, Session};

use support::{LOG, Scratch};

/// Who issues the certificates of upstreams.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A receiver that passes all mail on to this upstream, and keeps a copy of what was taken.
fn relaying(url: impl Display, directives: &str) -> Scratch {
    Scratch::with_config(&format!(
        "domain final.example\n\
         debug a\n\
         deliver rcpt_to * relay {url}\n\
         copy rcpt_to * maildir {COPY}\n\
         {directives}\n"
    ))
}

/// Who listens with a configuration of ours.
struct Listener {
    // The address is known once it runs.
    address: SocketAddr,
    _daemon: Daemon,
}

impl Listener {
    fn start(scratch: &Scratch) -> Self {
        Self::start_at(scratch, "127.0.0.1:0")
    }

    /// The same at this address.
    fn start_at(scratch: &Scratch, address: &str) -> Self {
        let command = scratch.mailrecv(&["listen", address]);
        let mut daemon = Daemon::start(command, scratch.path("listen.out"));
        let address = daemon.until("the ready line", |said| {
            let (line, _) = said.split_once('\n')?;
            line.strip_prefix("mailrecv: listening on ")?.split(' ').next()?.parse().ok()
        });
        Self { address, _daemon: daemon }
    }
}

/// The number in the subject of a message, which ends with `;`.
fn number(message: &[u8]) -> usize {
    let text = String::from_utf8_lossy(message);
    let (_, rest) = text.split_once("\nSubject: ").unwrap_or_else(|| panic!("{text}"));
    rest.split_once(';').unwrap().0.parse().unwrap()
}

/// How many messages the copy has.
fn copies(scratch: &Scratch) -> usize {
    scratch.count_files(COPY)
}

/// One message in a session of its own, up to the first command that is refused; what was answered to that, or to the
/// message.
fn reply_to_message(scratch: &Scratch, recipients: &[&str]) -> Reply {
    let mut session = scratch.greeted();
    let reply = send(&mut session, recipients, TEXT);
    session.quit();
    reply
}

/// Sends a message, its text with CRLF line ends, up to the first command that is refused; what was answered to that, or to
/// the message.
fn send(session: &mut Session, recipients: &[&str], text: &[u8]) -> Reply {
    let mut commands = vec!["EHLO client.example".to_owned(), "MAIL FROM:<sender@client.example>".to_owned()];
    commands.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
    for command in commands {
        let reply = session.ask(&command);
        if !reply.starts_with("250") {
            return reply;
        }
    }
    let reply = session.ask("DATA");
    if !reply.starts_with("354 ") {
        return reply;
    }
    session.send([&stuffed(text)[..], b".\r\n"].concat());
    session.reply()
}

/// With a second dot in front of lines that begin with one.
fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        stuffed.extend(line.first().filter(|byte| **byte == b'.'));
        stuffed.extend_from_slice(line);
    }
    stuffed
}

/// What stands behind the `Received` field of ours, the first that bears our name.
fn behind_our_trace(message: &[u8]) -> &[u8] {
    let ours = memchr::memmem::find(message, b"by final.example (mailrecv) with ").unwrap_or_else(|| {
        panic!("no trace of ours in {}", String::from_utf8_lossy(message));
    });
    let end = memchr::memmem::find(&message[ours..], b"; ").map_or(message.len(), |at| ours + at);
    let line_end = message[end..].iter().position(|byte| *byte == b'\n').map_or(message.len(), |at| end + at + 1);
    &message[line_end..]
}

/// A text with LF line ends, as servers keep it.
fn as_kept(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).replace("\r\n", "\n").into_bytes()
}

/// What the log says when something else was expected.
fn log(scratch: &Scratch) -> String {
    scratch.read(LOG)
}

const FRED: &str = "fred@final.example";
const WILMA: &str = "wilma@final.example";
const NOBODY: &str = "nobody@final.example";

const TEXT: &[u8] = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\nFrom here\r\nlast\r\n";

/// The maildir of what was taken.
const COPY: &str = "copy";

/// What our peer hears of an upstream that cannot be reached or understood, without the digit that says why.
const TRY_AGAIN: &str = "451 4.4.";
