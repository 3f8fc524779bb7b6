//! Dovecot's LMTP server as the upstream.

use testkit::certificates::Request;
use testkit::client::Reply;
use testkit::dovecot::{Dovecot, FULL};
use testkit::{Folder, Session};

use crate::{
    AUTHORITY, FRED, NOBODY, TEXT, WILMA, as_kept, behind_our_trace, copies, log, relaying, reply_to_message, send,
};

/// Both ways to it.
fn urls(dovecot: &Dovecot) -> [String; 2] {
    [format!("lmtp://{}", dovecot.address()), format!("lmtp+unix:{}", dovecot.socket().display())]
}

fn full() -> String {
    format!("{FULL}@final.example")
}

#[test]
fn mail_arrives_byte_for_byte() {
    let dovecot = Dovecot::start("");
    let all_bytes: Vec<u8> = (1..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let texts = [TEXT.to_vec(), [b"Subject: all\r\n\r\n", &all_bytes[..], b"\r\n"].concat()];
    for (round, url) in urls(&dovecot).iter().enumerate() {
        let scratch = relaying(url, "");
        let mut session = scratch.greeted();
        for text in &texts {
            let reply = send(&mut session, &[FRED], text);
            assert!(reply.starts_with("250 "), "{url}: {reply}\n{}", log(&scratch));
        }
        session.quit();
        let mail = dovecot.mail("fred");
        assert_eq!((mail.len(), copies(&scratch)), ((round + 1) * texts.len(), texts.len()), "{url}");
        for text in &texts {
            let expected = without_cr(text);
            let found = mail.iter().filter(|message| behind_our_trace(message) == expected).count();
            assert_eq!(found, round + 1, "{url}");
        }
    }
    assert!(dovecot.mail("fred").iter().all(|message| message.starts_with(b"Return-Path: <sender@client.example>\n")));
}

fn without_cr(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\r').collect()
}

#[test]
fn who_has_no_mailbox_is_refused_at_once_and_whose_is_full_too() {
    let dovecot = Dovecot::start("");
    for url in urls(&dovecot) {
        let scratch = relaying(&url, "");
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        let reply = session.ask(&format!("RCPT TO:<{NOBODY}>"));
        assert!(reply.starts_with("550 5.1.1 ") && reply.contains("User doesn't exist"), "{url}: {reply}");
        session.exchange("RSET", "250 ");
        // It finds out at RCPT or behind the text.
        let reply = send(&mut session, &[&full()], TEXT);
        assert!(reply.starts_with("552 5.2.2 ") && reply.to_lowercase().contains("quota exceeded"), "{url}: {reply}");
        session.quit();
        assert_eq!(copies(&scratch), 0);
    }
    assert_eq!(dovecot.mail(FULL).len(), 0);
}

#[test]
fn a_quota_that_is_used_up_for_now_is_a_reason_to_come_again() {
    let dovecot = Dovecot::start("quota_full_tempfail = yes\n");
    let scratch = relaying(&urls(&dovecot)[0], "");
    let reply = reply_to_message(&scratch, &[&full()]);
    assert!(reply.starts_with("45") && reply.contains("uota exceeded"), "{reply}\n{}", log(&scratch));
    assert_eq!(copies(&scratch), 0);
}

/// In SMTP all recipients of a message have one answer, which a server of LMTP cannot give: the second is to come in a message
/// of its own.
#[test]
fn a_message_of_smtp_has_one_recipient_there() {
    let dovecot = Dovecot::start("");
    for url in urls(&dovecot) {
        let scratch = relaying(&url, "");
        let before = (dovecot.mail("fred").len(), dovecot.mail("wilma").len());
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        session.exchange(&format!("RCPT TO:<{FRED}>"), "250 ");
        let reply = session.ask(&format!("RCPT TO:<{WILMA}>"));
        assert!(reply.starts_with("452 4.5.3 "), "{url}: {reply}");
        session.exchange("DATA", "354 ");
        session.exchange("Subject: one\r\n\r\ntext\r\n.", "250 ");
        assert!(send(&mut session, &[WILMA], TEXT).starts_with("250 "));
        session.quit();
        assert_eq!((dovecot.mail("fred").len(), dovecot.mail("wilma").len()), (before.0 + 1, before.1 + 1));
        assert_eq!(copies(&scratch), 2);
    }
}

#[test]
fn behind_lmtp_each_recipient_has_an_answer_of_its_own() {
    let dovecot = Dovecot::start("");
    for (round, url) in urls(&dovecot).iter().enumerate() {
        let scratch = relaying(url, "protocol lmtp\n");
        let mut session = scratch.greeted();
        let replies = by_lmtp(&mut session, &[FRED, &full(), WILMA]);
        assert!(
            replies[0].starts_with("250 ") && replies[2].starts_with("250 "),
            "{url}: {replies:?}\n{}",
            log(&scratch)
        );
        assert!(replies[1].starts_with("552 5.2.2 "), "{url}: {replies:?}");
        session.exchange("QUIT", "221 ");
        let counts = ["fred", "wilma", FULL].map(|user| dovecot.mail(user).len());
        assert_eq!(counts, [round + 1, round + 1, 0], "{url}");
        assert_eq!(copies(&scratch), 2, "{url}");
        for user in ["fred", "wilma"] {
            assert!(dovecot.mail(user).iter().all(|message| behind_our_trace(message) == as_kept(TEXT)));
        }
    }
}

/// The replies of RCPT for those that are refused there, else those to the message.
fn by_lmtp(session: &mut Session, recipients: &[&str]) -> Vec<Reply> {
    session.exchange("LHLO client.example", "250-");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    let mut replies: Vec<Reply> =
        recipients.iter().map(|recipient| session.ask(&format!("RCPT TO:<{recipient}>"))).collect();
    session.exchange("DATA", "354 ");
    session.send([&crate::stuffed(TEXT)[..], b".\r\n"].concat());
    for reply in replies.iter_mut().filter(|reply| reply.starts_with("250 ")) {
        *reply = session.reply();
    }
    replies
}

#[test]
fn lmtp_goes_under_tls_where_that_is_asked_for() {
    let folder = Folder::new();
    let (certificate, key) = AUTHORITY.issue(&folder.path(""), "upstream", &Request::of(&["localhost"]));
    let dovecot =
        Dovecot::start(&format!("ssl = yes\nssl_cert = <{}\nssl_key = <{}\n", certificate.display(), key.display()));
    let (port, root) = (dovecot.address().port(), AUTHORITY.root().display().to_string());
    let scratch = relaying(format!("lmtp://localhost:{port} tls=require ca={root}"), "");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("250 "), "{reply}\n{}\n{}", log(&scratch), dovecot.log());
    assert_eq!((dovecot.mail("fred").len(), copies(&scratch)), (1, 1));
    let message = dovecot.mail("fred").remove(0);
    assert!(String::from_utf8_lossy(&message).contains("(using TLSv1."), "{}", String::from_utf8_lossy(&message));
}
