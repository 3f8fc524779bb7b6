//! Deliveries with the built binary, by destination; mailboxes that others hold or that have no room, peers that
//! vanish, large messages, and that whatever is refused leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod all_or_nothing;
mod append;
mod decisions;
mod eml;
mod explain;
mod file_systems;
mod large;
mod lmtp;
mod locks;
mod maildir;
mod neighbours;
mod once;
mod once_from_servers;
mod once_troubles;
mod peers;
mod pipe;
mod print;
mod readers;
mod room;
mod sink;
#[path = "../support/mod.rs"]
mod support;
mod swaps;

use testkit::Session;
use testkit::client::Reply;

const INBOX: &str = "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\n";

/// A command that says when it has begun, and goes on when it is told to.
const SLOW: &str = "touch begun; until test -e go; do sleep 0.02; done; cat > slow";

/// A message of about this size with lines that are all different.
fn text_of(size: usize) -> Vec<u8> {
    let line = |number: usize| format!("{number:09} {}\r\n", "abcdefghij".repeat(5)).into_bytes();
    let mut text = b"Subject: large\r\n\r\n".to_vec();
    text.extend((0..size / 61).flat_map(line));
    text
}

fn with_lf(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\r').collect()
}

/// Sends the text to fred and returns the final reply.
fn send_to_fred(session: &mut Session, text: &[u8]) -> Reply {
    session.begin_message(&["fred@mx.example"]);
    session.send(text);
    session.send(".\r\n");
    session.reply()
}
