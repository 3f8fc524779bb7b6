//! Postfix as the upstream.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use testkit::certificates::Request;
use testkit::daemon::free_port;
use testkit::dovecot::{Dovecot, PASSWORD};
use testkit::postfix::Postfix;
use testkit::{Client, Folder, LOOPBACK, wait_until};

use crate::{
    AUTHORITY, COPY, FRED, Listener, NOBODY, TEXT, WILMA, as_kept, behind_our_trace, copies, log, number, relaying,
    reply_to_message, send,
};

/// Lines of main.cf(5) for a server with a certificate of the test's authority for `localhost`.
fn with_certificate(folder: &Folder) -> String {
    let (certificate, key) = AUTHORITY.issue(&folder.path(""), "upstream", &Request::of(&["localhost"]));
    format!(
        "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_received_header = yes\n",
        certificate.display(),
        key.display()
    )
}

/// Waits until a mailbox of Postfix has so many messages, and returns them.
fn mail(postfix: &Postfix, name: &str, count: usize) -> Vec<Vec<u8>> {
    wait_until("the messages in Postfix's mailbox", || Some(postfix.mail(name)).filter(|mail| mail.len() >= count))
}

#[test]
fn a_message_arrives_byte_for_byte_and_so_does_the_next() {
    let postfix = Postfix::receiving("", "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "");
    let mut session = scratch.greeted();
    for _ in 0..2 {
        let reply = send(&mut session, &[FRED], TEXT);
        assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
    }
    session.quit();
    for message in mail(&postfix, "fred", 2) {
        assert_eq!(String::from_utf8_lossy(behind_our_trace(&message)), String::from_utf8_lossy(&as_kept(TEXT)));
        assert!(message.starts_with(b"Return-Path: <sender@client.example>\n"), "{message:?}");
    }
    for copy in scratch.contents(format!("{COPY}/new")) {
        assert_eq!(behind_our_trace(&copy), as_kept(TEXT));
    }
    assert_eq!(copies(&scratch), 2);
    // One connection for both.
    wait_until("the end of the connection", || postfix.log().contains(" mail=2 rcpt=2 data=2 ").then_some(()));
}

#[test]
fn a_recipient_that_postfix_refuses_is_refused_in_its_words() {
    let postfix = Postfix::receiving("", "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange(&format!("RCPT TO:<{FRED}>"), "250 ");
    let refusal = session.ask(&format!("RCPT TO:<{NOBODY}>"));
    assert!(
        refusal.starts_with("550 5.1.1 ") && refusal.contains("User unknown in virtual mailbox table"),
        "{refusal}"
    );
    session.exchange(&format!("RCPT TO:<{WILMA}>"), "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: two of three\r\n\r\ntext\r\n.", "250 ");
    session.quit();
    assert_eq!((mail(&postfix, "fred", 1).len(), mail(&postfix, "wilma", 1).len()), (1, 1));
    // Both recipients in one transaction.
    assert_eq!(postfix.log().matches(": message-id=").count(), 1, "{}", postfix.log());
    assert_eq!(copies(&scratch), 1);
}

#[test]
fn a_sender_that_postfix_refuses_is_refused() {
    let settings = "smtpd_sender_restrictions = check_sender_access inline:{ sender@client.example=REJECT }\n";
    for (delay, expected) in [("yes", "554 5.7.1 "), ("no", "554 5.7.1 ")] {
        let postfix = Postfix::receiving(&format!("{settings}smtpd_delay_reject = {delay}\n"), "");
        let scratch = relaying(format!("smtp://{}", postfix.address()), "");
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        // The sender is asked about at MAIL or, as Postfix does of its own accord, at RCPT.
        let mut reply = session.ask("MAIL FROM:<sender@client.example>");
        if reply.starts_with("250 ") {
            reply = session.ask(&format!("RCPT TO:<{FRED}>"));
        }
        assert!(reply.starts_with(expected) && reply.contains("Sender address rejected"), "{delay}: {reply}");
        session.exchange("RSET", "250 ");
        session.exchange("MAIL FROM:<other@client.example>", "250 ");
        session.exchange(&format!("RCPT TO:<{FRED}>"), "250 ");
        session.exchange("DATA", "354 ");
        session.exchange("Subject: other\r\n\r\ntext\r\n.", "250 ");
        session.quit();
        assert_eq!(copies(&scratch), 1);
    }
}

#[test]
fn many_recipients_go_in_one_transaction() {
    let postfix = Postfix::receiving("virtual_mailbox_maps = static:fred/\n", "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "limit.smtp_rcpt_to 200\n");
    let recipients: Vec<String> = (0..100).map(|number| format!("user{number}@final.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = reply_to_message(&scratch, &recipients);
    assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
    assert_eq!(mail(&postfix, "fred", 100).len(), 100);
    assert_eq!(postfix.log().matches(": message-id=").count(), 1, "{}", postfix.log());
    assert_eq!(copies(&scratch), 1);
}

#[test]
fn what_is_too_large_for_postfix_is_refused_before_its_text_is_sent() {
    let postfix = Postfix::receiving("message_size_limit = 20000\n", "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "");
    let mut session = scratch.greeted();
    // Announced, or not.
    session.exchange("EHLO client.example", "250-");
    let reply = session.ask("MAIL FROM:<sender@client.example> SIZE=30000");
    assert!(reply.starts_with("552 5.3.4 "), "{reply}");
    session.exchange("RSET", "250 ");
    let line = format!("{}\r\n", "x".repeat(70));
    let text = format!("Subject: large\r\n\r\n{}", line.repeat(500));
    let reply = send(&mut session, &[FRED], text.as_bytes());
    assert!(reply.starts_with("552 5.3.4 "), "{reply}\n{}", log(&scratch));
    let reply = send(&mut session, &[FRED], TEXT);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!((mail(&postfix, "fred", 1).len(), copies(&scratch)), (1, 1));
}

#[test]
fn smtputf8_goes_to_a_server_that_has_it_and_to_no_other() {
    for (enabled, expected) in [("yes", "250 "), ("no", "550 5.6.7 ")] {
        let settings = format!("smtputf8_enable = {enabled}\nvirtual_mailbox_maps = static:fred/\n");
        let postfix = Postfix::receiving(&settings, "");
        let scratch = relaying(format!("smtp://{}", postfix.address()), "limit.smtp_ascii off\n");
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        let text = "Subject: gr\u{fc}n\r\n\r\n\u{20ac}\r\n";
        let script = [
            "MAIL FROM:<s\u{e9}nder@client.example> SMTPUTF8 BODY=8BITMIME".to_owned(),
            "RCPT TO:<fr\u{e9}d@final.example>".to_owned(),
            "DATA".to_owned(),
            format!("{text}."),
        ];
        let mut reply = String::new();
        for line in script {
            reply = session.ask(&line);
            if !reply.starts_with(['2', '3']) {
                break;
            }
        }
        assert!(reply.starts_with(expected), "{enabled}: {reply}\n{}", log(&scratch));
        // And without it as always.
        session.exchange("RSET", "250 ");
        assert!(send(&mut session, &[FRED], TEXT).starts_with("250 "));
        session.quit();
        let count = if enabled == "yes" { 2 } else { 1 };
        let mail = mail(&postfix, "fred", count);
        assert_eq!((mail.len(), copies(&scratch)), (count, count));
        let is_there = mail.iter().any(|message| behind_our_trace(message) == as_kept(text.as_bytes()));
        assert_eq!(is_there, enabled == "yes");
    }
}

#[test]
fn tls_is_begun_with_a_certificate_that_can_be_verified() {
    let folder = Folder::new();
    let implicit = free_port(LOOPBACK[0]);
    let service = format!("{implicit} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n");
    let settings = with_certificate(&folder) + "smtpd_tls_security_level = may\n";
    let postfix = Postfix::receiving(&settings, &service);
    let root = AUTHORITY.root().display().to_string();
    let port = postfix.address().port();
    let urls = [
        (format!("smtp://localhost:{port} tls=require ca={root}"), true),
        (format!("smtp://localhost:{port} tls=opportunistic"), true),
        (format!("smtp://localhost:{port} tls=off"), false),
        (format!("smtps://localhost:{} ca={root}", implicit.port()), true),
    ];
    for (number, (url, is_secured)) in urls.iter().enumerate() {
        let scratch = relaying(url, "");
        let reply = reply_to_message(&scratch, &[FRED]);
        assert!(reply.starts_with("250 "), "{url}: {reply}\n{}\n{}", log(&scratch), postfix.log());
        assert_eq!(copies(&scratch), 1);
        assert_eq!(mail(&postfix, "fred", number + 1).len(), number + 1);
        let handshakes = postfix.mail("fred").iter().filter(|message| is_under_tls(message)).count();
        let expected = urls[..=number].iter().filter(|(_, is_secured)| *is_secured).count();
        assert_eq!(handshakes, expected, "{url}, {is_secured}");
    }
    // A port where TLS does not come first.
    let scratch = relaying(format!("smtps://localhost:{port} ca={root}"), "");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("451 4.7.5 "), "{reply}\n{}", log(&scratch));
    assert!(log(&scratch).contains(": TLS: what it says is not TLS"), "{}", log(&scratch));
}

/// What Postfix's own trace says of the connection.
fn is_under_tls(message: &[u8]) -> bool {
    String::from_utf8_lossy(message).contains("(using TLSv1.")
}

#[test]
fn who_has_to_log_in_does_so_under_tls() {
    let (folder, dovecot) = (Folder::new(), Dovecot::start(""));
    fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = format!(
        "{}smtpd_tls_security_level = may\n\
         smtpd_tls_auth_only = yes\n\
         smtpd_sasl_auth_enable = yes\n\
         smtpd_sasl_type = dovecot\n\
         smtpd_sasl_path = {}\n\
         smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n",
        with_certificate(&folder),
        dovecot.auth_socket().display()
    );
    let postfix = Postfix::receiving(&settings, "");
    let root = AUTHORITY.root().display().to_string();
    let url = |user: &str| format!("smtp://{user}localhost:{} tls=require ca={root}", postfix.address().port());
    let file = folder.write("password", format!("{PASSWORD}\n"));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (word, file) = (format!("relay_password \"{PASSWORD}\""), format!("relay_password_file {}", file.display()));
    for password in [&word, &file] {
        let scratch = relaying(url("fred@"), password);
        let reply = reply_to_message(&scratch, &[FRED]);
        assert!(reply.starts_with("250 "), "{password}: {reply}\n{}\n{}", log(&scratch), dovecot.log());
        assert!(!log(&scratch).contains(PASSWORD));
        assert_eq!(copies(&scratch), 1);
    }
    // A wrong one is our fault and not the sender's; without one it is Postfix that says no.
    let scratch = relaying(url("fred@"), "relay_password wrong");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("451 4."), "{reply}\n{}", log(&scratch));
    assert_eq!(copies(&scratch), 0);
    assert!(log(&scratch).contains("535 5.7.8 "), "{}", log(&scratch));
    let scratch = relaying(url(""), "");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    assert_eq!((mail(&postfix, "fred", 2).len(), copies(&scratch)), (2, 0));
}

/// Of a server that has too many connections already.
#[test]
fn a_server_that_says_421_at_once_is_asked_again_later() {
    let settings = "smtpd_client_connection_count_limit = 1\nsmtpd_client_event_limit_exceptions =\n";
    let postfix = Postfix::receiving(settings, "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "");
    let mut other = Client::connect(postfix.address());
    other.expect("220 ");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("451 4.") || reply.starts_with("450 4."), "{reply}\n{}", log(&scratch));
    assert_eq!(copies(&scratch), 0);
    assert!(log(&scratch).contains("too many connections"), "{}", log(&scratch));
    other.exchange("QUIT", "221 ");
    // It may count the other for a moment longer.
    wait_until("a turn", || reply_to_message(&scratch, &[FRED]).starts_with("250 ").then_some(()));
    assert_eq!((mail(&postfix, "fred", 1).len(), copies(&scratch)), (1, 1));
}

const MESSAGES: usize = 300;
const CLIENTS: usize = 20;

/// Each subject once at the end, and each once in the copy.
#[test]
fn no_message_of_a_crowd_is_lost_or_doubled() {
    let postfix = Postfix::receiving("smtpd_client_connection_count_limit = 0\n", "");
    let scratch = relaying(format!("smtp://{}", postfix.address()), "limit.fcrdns_check off\n");
    let listener = Listener::start(&scratch);
    let address = listener.address;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut peer = Client::connect(address);
                peer.expect("220 ");
                for number in 0..MESSAGES / CLIENTS {
                    peer.deliver_subject(FRED, &format!("{};", client * MESSAGES / CLIENTS + number));
                }
                peer.exchange("QUIT", "221 ");
            });
        }
    });
    postfix.until_queue_is_empty();
    let expected: Vec<usize> = (0..MESSAGES).collect();
    for (place, messages) in [("upstream", postfix.mail("fred")), ("copy", scratch.contents(format!("{COPY}/new")))] {
        let mut numbers: Vec<usize> = messages.iter().map(|message| number(message)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, expected, "{place}");
    }
}
