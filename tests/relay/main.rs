//! `relay URL`, with a server that answers as it is told: what the peer hears is what the next server said, and no mail
//! that got 250 is missing there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod faults;
mod hops;
mod replies;
#[path = "../support/mod.rs"]
mod support;

use support::Scratch;
use testkit::client::Reply;
use testkit::{Session, Upstream};

/// A receiver whose mail all goes to this server.
fn scratch(upstream: &Upstream, directives: &str) -> Scratch {
    with_rule(&format!("deliver rcpt_to * relay smtp://{}", upstream.address), directives)
}

fn with_rule(rule: &str, directives: &str) -> Scratch {
    Scratch::with_config(&format!("domain mx.example\ndebug a\n{rule}\n{directives}\n"))
}

fn hello(scratch: &Scratch) -> Session {
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session
}

/// One message for these recipients, who are all accepted; the final reply.
fn send(session: &mut Session, recipients: &[&str], text: &str) -> Reply {
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    for recipient in recipients {
        session.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
    }
    session.exchange("DATA", "354 ");
    session.send(text);
    session.ask(".")
}

const TEXT: &str = "Subject: x\r\n\r\n..text\r\n";
