//! What clients send lies in the mailbox byte by byte; many of them at once are no different.

use std::net::SocketAddr;

use testkit::{LOOPBACK, debian, succeeds};

use crate::support::receiver::Receiver;
use crate::support::sender::Sender;
use crate::support::super_server::{Listener, SuperServer};

/// What clients, the protocol or the mailbox's format might trip over.
const MESSAGE: &str = "\
From: Me <me@mydomain.com>
To: fred@example.com
Date: Sat, 21 Nov 2026 01:32:50 +0000
Message-ID: <1@mydomain.com>
Subject: =?UTF-8?Q?dots?=
 and a folded line
X-Umlaut: \u{fc}

.
..
.dot
...
From here
>From there
\ttab, and blanks at the end  \t
8-bit: \u{e4}\u{f6}\u{fc} \u{1f4e8}


";

#[test]
fn messages_arrive_as_they_were_sent() {
    let message = format!("{MESSAGE}{}\nthe last line\n", "x".repeat(990));
    let quoted = message.replace("\nFrom here\n>From", "\n>From here\n>>From");
    for address in LOOPBACK {
        let receiver = Receiver::new("");
        let service = SuperServer::Listen.start(&receiver, address, "");
        for (number, client) in Sender::OF_MESSAGES.into_iter().enumerate() {
            client.send_message(service.address, &message);
            let mailbox = receiver.read(receiver.mailbox());
            let delivered = mailbox.split("\nFrom me@mydomain.com ").last().unwrap();
            let (trace, text) = delivered.split_at(delivered.find("From: Me").unwrap());
            // smtp-source adds a blank line of its own.
            let added = if matches!(client, Sender::SmtpSource) { "\n" } else { "" };
            assert_eq!(text, format!("{quoted}{added}\n"), "{client:?} {address}");
            assert!(trace.ends_with(" +0000\n") && trace.matches("\nReceived: ").count() == 1, "{client:?}: {trace}");
            assert_eq!(mailbox.matches("Delivered-To: ").count(), number + 1, "{client:?} {address}");
        }
    }
}

#[test]
fn messages_from_many_sessions_at_once_arrive_once() {
    const MESSAGES: usize = 200;
    for address in LOOPBACK {
        let receiver = Receiver::new("");
        let listener =
            Listener::start(&receiver, &["--max-per-address", "50", &SocketAddr::new(address, 0).to_string()]);
        let mut smtp_source = debian::postfix("smtp-source");
        smtp_source.args(["-s", "20", "-m", &MESSAGES.to_string(), "-l", "5000", "-M", "mydomain.com"]);
        smtp_source.args(["-f", "me@mydomain.com", "-t", "fred@example.com"]).arg(listener.addresses[0].to_string());
        succeeds(smtp_source, "");
        let mailbox = receiver.read(receiver.mailbox());
        let mut identities: Vec<&str> = mailbox.lines().filter(|line| line.starts_with("Message-Id: ")).collect();
        assert_eq!(identities.len(), MESSAGES, "{address}");
        identities.sort_unstable();
        identities.dedup();
        assert_eq!(identities.len(), MESSAGES, "{address}: some are there twice");
        let messages: Vec<&str> = mailbox.strip_prefix("From ").unwrap().split("\nFrom ").collect();
        assert_eq!(messages.len(), MESSAGES, "{address}");
        for message in messages {
            let text = message.split_once("\n\n").map_or("", |(_, text)| text);
            // Lines of x, each numbered, and the blank line that ends a message.
            assert!(text.len() > 4500 && text.trim_end().ends_with('X'), "{address}: {message}");
        }
    }
}
