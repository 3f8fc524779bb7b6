//! Publishing with brokers, each the real program: what subscribers get, and that what is not known to be taken keeps the
//! sender's mail with the sender.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod hpfeeds;
#[path = "../support/mod.rs"]
mod support;

use testkit::Session;
use testkit::client::Reply;

/// Sends the text, lines and all, to collector@mx.example; the final reply.
fn send(session: &mut Session, text: &[u8]) -> Reply {
    session.begin_message(&["collector@mx.example"]);
    session.send(text);
    session.send(".\r\n");
    session.reply()
}

/// A message that is told from all others by this.
fn message(subject: &str) -> Vec<u8> {
    format!("Subject: {subject}\r\n\r\ntext\r\n").into_bytes()
}
