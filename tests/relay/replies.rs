//! What the next server says is what the peer hears, at each command.

use testkit::Upstream;

use crate::support::LOG;
use crate::{TEXT, hello, scratch, send, with_rule};

#[test]
fn a_message_goes_through_and_the_next_one_over_the_same_connection() {
    let upstream = Upstream::polite();
    let scratch = scratch(&upstream, "sandbox strict required\ncopy rcpt_to * append inbox");
    let mut session = hello(&scratch);
    for _ in 0..2 {
        let reply = send(&mut session, &["a@mx.example", "b@mx.example"], TEXT);
        assert_eq!(reply, "250 2.0.0 Ok: queued as 4711", "{}", scratch.read(LOG));
    }
    session.quit();
    upstream.until_heard("QUIT");
    let commands = upstream.commands();
    let mail = "MAIL FROM:<sender@client.example> BODY=8BITMIME";
    let transaction = [mail, "RCPT TO:<a@mx.example>", "RCPT TO:<b@mx.example>", "DATA"];
    assert_eq!(commands, [&["EHLO mx.example"][..], &transaction, &transaction, &["QUIT"]].concat());
    let [first, second] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(first.recipients, ["<a@mx.example>", "<b@mx.example>"]);
    for message in [first, second] {
        let text = String::from_utf8(message.text.clone()).unwrap();
        assert!(
            text.starts_with("Received: from client.example (mail.example.net [192.0.2.7])\r\n\tby mx.example"),
            "{text}"
        );
        assert!(text.ends_with(TEXT) && !text.replace("\r\n", "").contains('\n'), "{text}");
        assert!(!text.contains("Return-Path") && !text.contains("Delivered-To"), "{text}");
    }
    assert_eq!(scratch.read("inbox").matches("Subject: x").count(), 2);
    let log = scratch.read(LOG);
    let delivered = format!("relay 'smtp://{}': delivered (250 2.0.0 Ok: queued as 4711)", upstream.address);
    assert_eq!(log.matches(&delivered).count(), 4, "{log}");
}

#[test]
fn a_refusal_of_a_sender_is_the_reply_to_mail() {
    let upstream = Upstream::answering(&[("MAIL FROM:<sender@", "553 5.1.8 No such domain [192.0.2.99]\x1b")]);
    let scratch = scratch(&upstream, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "553 5.1.8 No such domain [192.0.2.99]?");
    session.exchange("MAIL FROM:<other@client.example>", "250 ");
    session.quit();
    assert_eq!(upstream.messages(), []);
    let log = scratch.read(LOG);
    assert!(
        log.contains("ERROR: 553 No such domain <0x5b>192.0.2.99<0x5d>? 'sender@client.example' (so says smtp://"),
        "{log}"
    );
}

#[test]
fn it_is_the_reply_to_rcpt_where_the_recipient_decides_about_the_server() {
    let upstream = Upstream::answering(&[("MAIL", "450 4.7.1 Later")]);
    let rules =
        format!("deliver rcpt_to a@mx.example relay smtp://{}\ndeliver rcpt_to b append inbox", upstream.address);
    let scratch = with_rule(&rules, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "450 4.7.1 Later");
    session.exchange("RCPT TO:<b@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send(TEXT);
    session.exchange(".", "250 ");
    session.quit();
}

#[test]
fn one_of_three_recipients_is_refused_and_hears_it() {
    let upstream = Upstream::answering(&[("RCPT TO:<b@", "550-5.1.1 No one\n550 5.1.1 of that name")]);
    let scratch = scratch(&upstream, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.exchange("RCPT TO:<b@mx.example>", "550-5.1.1 No one\n550 5.1.1 of that name");
    session.exchange("RCPT TO:<c@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send(TEXT);
    session.exchange(".", "250 2.0.0 Ok: queued as 4711");
    session.quit();
    let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(message.recipients, ["<a@mx.example>", "<c@mx.example>"]);
    let log = scratch.read(LOG);
    assert!(log.contains("ERROR: 550 No one / of that name 'b@mx.example'"), "{log}");
}
