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

#[test]
fn what_it_cannot_take_is_refused_before_it_gets_any_text() {
    let small = [("EHLO", "250-x\n250 SIZE 1000")];
    let upstream = Upstream::answering(&small);
    let scratch = scratch(&upstream, "limit.smtp_ascii off");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example> SIZE=1001", "552 5.3.4 ");
    session.exchange("MAIL FROM:<sender@client.example> SMTPUTF8", "550 5.6.7 ");
    session.exchange("MAIL FROM:<\u{fc}@client.example>", "550 5.6.7 ");
    let large = format!("Subject: x\r\n\r\n{}", "text\r\n".repeat(200));
    assert!(send(&mut session, &["a@mx.example"], &large).starts_with("552 5.3.4 "));
    let eight_bit = "Subject: \u{fc}\r\n\r\ntext\r\n";
    assert!(send(&mut session, &["a@mx.example"], eight_bit).starts_with("554 5.6.3 "), "{}", scratch.read(LOG));
    assert_eq!(send(&mut session, &["a@mx.example"], TEXT), "250 2.0.0 Ok: queued as 4711");
    session.exchange("MAIL FROM:<sender@client.example> SIZE=999", "250 ");
    session.exchange("RCPT TO:<\u{fc}@mx.example>", "550 5.6.7 ");
    session.quit();
    upstream.until_heard("QUIT");
    let commands = upstream.commands();
    assert_eq!(commands.iter().filter(|line| *line == "DATA").count(), 1, "{commands:?}");
    assert!(commands.contains(&"MAIL FROM:<sender@client.example> SIZE=999".to_owned()), "{commands:?}");
    assert_eq!(upstream.messages().len(), 1);
}

#[test]
fn what_it_can_take_is_asked_for() {
    let upstream = Upstream::polite();
    let scratch = scratch(&upstream, "limit.smtp_ascii off");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<\u{fc}@client.example> SIZE=99 BODY=8BITMIME SMTPUTF8", "250 ");
    session.exchange("RCPT TO:<\u{fc}@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send("Subject: \u{fc}\r\n\r\n\u{fc}\r\n");
    session.exchange(".", "250 2.0.0 Ok: queued as 4711");
    session.quit();
    let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(message.sender, "<\u{fc}@client.example> SIZE=99 BODY=8BITMIME SMTPUTF8");
    assert!(message.text.ends_with("Subject: \u{fc}\r\n\r\n\u{fc}\r\n".as_bytes()));
}

/// What ends no line for us ends none for whoever comes behind us.
#[test]
fn lines_end_with_crlf_and_nothing_else_does() {
    let upstream = Upstream::polite();
    let scratch = scratch(&upstream, "");
    let mut session = hello(&scratch);
    let text = "Subject: x\r\n\r\n..\r\na\r.\r\nb\n.\r\nc\n..\nd\r\r\n..e\r\n";
    assert!(send(&mut session, &["a@mx.example"], text).starts_with("250 "));
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.send("BDAT 24 LAST\r\nSubject: x\r\n\r\n.\r\nno end.");
    session.expect("250 ");
    session.quit();
    let messages = upstream.messages();
    let [first, second] = &messages[..] else { panic!("{messages:?}") };
    let text_of = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.split_once("\r\nSubject: x\r\n").unwrap().1.to_owned()
    };
    assert_eq!(text_of(&first.text), "\r\n..\r\na .\r\nb\r\n..\r\nc\r\n...\r\nd \r\n..e\r\n");
    assert_eq!(text_of(&second.text), "\r\n..\r\nno end.\r\n");
}

/// RFC 5321 (4.2) knows no other second digit than 0 to 5, and who reads ours may know none either.
#[test]
fn a_code_that_no_reply_has_is_not_passed_on() {
    for (theirs, ours) in [("579 5.7.9 Odd", "550 5.7.9 Odd"), ("490 Odd", "450 4.0.0 Odd")] {
        let upstream = Upstream::answering(&[("RCPT", theirs)]);
        let scratch = scratch(&upstream, "");
        let mut session = hello(&scratch);
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        session.exchange("RCPT TO:<a@mx.example>", ours);
        session.quit();
    }
}

/// The line of the log says of whom it is.
#[test]
fn a_refusal_of_a_message_names_all_whose_it_was() {
    let upstream = Upstream::answering(&[(".", "554 5.7.1 Spam")]);
    let rules = format!(
        "deliver rcpt_to c@mx.example append inbox\ndeliver rcpt_to * relay smtp://{}\ncopy rcpt_to b@mx.example maildir kept",
        upstream.address
    );
    let scratch = with_rule(&rules, "");
    let mut session = hello(&scratch);
    let recipients = ["a@mx.example", "b@mx.example", "c@mx.example"];
    assert_eq!(send(&mut session, &recipients, TEXT), "554 5.7.1 Spam");
    session.quit();
    let log = scratch.read(LOG);
    assert!(log.contains("ERROR: 554 Spam 'a@mx.example b@mx.example' (so says smtp://"), "{log}");
    assert_eq!((scratch.read("inbox"), scratch.count_files("kept")), (String::new(), 0));
}

/// A recipient who is not ASCII is no reason to say so where there is another (RFC 6531, 3.4).
#[test]
fn a_recipient_beyond_ascii_is_announced() {
    let upstream = Upstream::polite();
    let scratch = scratch(&upstream, "limit.smtp_ascii off");
    let mut session = hello(&scratch);
    let recipients = ["a@mx.example", "\u{fc}@mx.example"];
    assert_eq!(send(&mut session, &recipients, TEXT), "250 2.0.0 Ok: queued as 4711", "{}", scratch.read(LOG));
    session.quit();
    let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(message.recipients, ["<a@mx.example>", "<\u{fc}@mx.example>"]);
    assert_eq!(message.sender, "<sender@client.example> BODY=8BITMIME SMTPUTF8");
}

#[test]
fn a_message_that_goes_in_circles_is_refused() {
    let upstream = Upstream::polite();
    let scratch = scratch(&upstream, "");
    let mut session = hello(&scratch);
    let text = |hops| format!("{}{TEXT}", "Received: from x\r\n".repeat(hops));
    assert!(send(&mut session, &["a@mx.example"], &text(51)).starts_with("554 5.4.6 "));
    assert!(send(&mut session, &["a@mx.example"], &text(50)).starts_with("250 "));
    session.quit();
    assert_eq!(upstream.messages().len(), 1);
}

#[test]
fn what_was_given_up_here_is_given_up_there() {
    let upstream = Upstream::answering(&[("RCPT TO:<b@", "450 4.2.0 Later")]);
    let scratch = scratch(&upstream, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.exchange("RSET", "250 ");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<b@mx.example>", "450 4.2.0 Later");
    session.exchange("RCPT TO:<c@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send(TEXT);
    session.exchange(".", "250 ");
    session.quit();
    let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(message.recipients, ["<c@mx.example>"]);
}

/// A peer that may send nothing there is no reason to ask.
#[test]
fn nobody_is_asked_for_a_peer_that_may_send_nothing_there() {
    let upstream = Upstream::polite();
    let rule =
        format!("allowgroup +us net 192.0.2.8\ndeliver allowgroup +us rcpt_to * relay smtp://{}", upstream.address);
    let scratch = with_rule(&rule, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "550 5.7.1 ");
    session.quit();
    assert!(upstream.connections().is_empty());
}
