//! OpenSMTPD as the upstream. It has no PIPELINING.

use testkit::opensmtpd::OpenSmtpd;
use testkit::upstream::Upstream;

use crate::{COPY, FRED, WILMA, as_kept, behind_our_trace, copies, log, relaying, send, stuffed};

/// With what it would add.
const TEXT: &[u8] =
    b"Date: Sun, 29 Nov 2026 08:00:00 +0000\r\nMessage-ID: <dots@client.example>\r\nSubject: dots\r\n\r\n\
    .\r\n..\r\n.x\r\n\r\nFrom here\r\nlast\r\n";

#[test]
fn a_message_arrives_byte_for_byte_and_so_does_the_next() {
    let behind = Upstream::polite();
    let opensmtpd = OpenSmtpd::start(behind.address);
    let scratch = relaying(format!("smtp://{}", opensmtpd.address()), "");
    let mut session = scratch.greeted();
    for recipients in [&[FRED][..], &[FRED, WILMA]] {
        let reply = send(&mut session, recipients, TEXT);
        assert!(reply.starts_with("250 2.0.0 "), "{reply}\n{}", log(&scratch));
    }
    session.quit();
    opensmtpd.until_queue_is_empty();
    let messages = behind.messages();
    let mut recipients: Vec<_> = messages.iter().flat_map(|message| &message.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, [&format!("<{FRED}>"), &format!("<{FRED}>"), &format!("<{WILMA}>")]);
    for message in &messages {
        assert!(message.text.ends_with(&stuffed(TEXT)), "{}", String::from_utf8_lossy(&message.text));
    }
    for copy in scratch.contents(format!("{COPY}/new")) {
        assert_eq!(behind_our_trace(&copy), as_kept(TEXT));
    }
    assert_eq!(copies(&scratch), 2);
}

#[test]
fn what_it_refuses_is_refused_in_its_words() {
    let behind = Upstream::polite();
    let opensmtpd = OpenSmtpd::start(behind.address);
    let scratch = relaying(format!("smtp://{}", opensmtpd.address()), "");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<sender@client.example> SIZE=50000000", "552 5.3.4 ");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    // Its own idea of an address.
    session.exchange("RCPT TO:<\"a b\"@final.example>", "501 5.1.3 ");
    session.exchange(&format!("RCPT TO:<{FRED}>"), "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: one of two\r\n\r\ntext\r\n.", "250 ");
    session.quit();
    opensmtpd.until_queue_is_empty();
    assert_eq!((behind.messages().len(), copies(&scratch)), (1, 1));
}
