//! Publishing with brokers, each the real program: what subscribers get, and that what is not known to be taken keeps the
//! sender's mail with the sender.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, talks to people, and is nobody's interface"
)]

mod amqp;
mod faults;
mod front;
mod hostile;
mod hpfeeds;
mod kills;
mod once;
#[path = "../support/mod.rs"]
mod support;

use testkit::Session;
use testkit::client::Reply;

/// Sends the text, whose lines end by CRLF, to collector@mx.example; the final reply.
fn send(session: &mut Session, text: &[u8]) -> Reply {
    session.begin_message(&["collector@mx.example"]);
    let mut stuffed = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        stuffed.extend(line.first().filter(|byte| **byte == b'.'));
        stuffed.extend_from_slice(line);
    }
    stuffed.extend(b".\r\n");
    session.send(stuffed);
    session.reply()
}

/// A message that is told from all others by this.
fn message(subject: &str) -> Vec<u8> {
    format!("Subject: {subject}\r\n\r\ntext\r\n").into_bytes()
}
