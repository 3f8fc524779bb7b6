//! What a session says and forgets.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::{Session, wait_until};

use crate::support::{LOG, PEER};
use crate::{client, implicit, scratch, secured, warnings};

#[test]
fn a_message_under_tls_says_so() {
    let scratch = scratch("copy rcpt_to * pipe env > environment\n");
    let mut session = scratch.greeted();
    assert!(session.ask("EHLO client.example").contains("\n250-STARTTLS\n"));
    let agreed = session.start_tls(&client());
    assert_eq!((&*agreed.version, &*agreed.cipher), ("TLSv1_3", "TLS13_AES_256_GCM_SHA384"));
    // Not again.
    assert!(!session.ask("EHLO client.example").contains("STARTTLS"));
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    let using = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384";
    let received = format!(
        "Received: from client.example (mail.example.net [192.0.2.7])\n\t(using {using})\n\tby mx.example (mailrecv) with ESMTPS id "
    );
    let inbox = scratch.read("inbox");
    assert!(inbox.contains(&received), "{inbox}");
    let environment = scratch.read("environment");
    for variable in ["CLIENT_PROTOCOL=ESMTPS", "TLS_VERSION=TLSv1.3", "TLS_CIPHER=TLS_AES_256_GCM_SHA384"] {
        assert!(environment.lines().any(|line| line == variable), "{environment}");
    }
    let log = scratch.log();
    assert!(log.contains(&format!("[192.0.2.7] DEBUG: {using} for 'mx.example'")), "{log:#?}");
    assert_eq!(warnings(&scratch), [""; 0]);
}

#[test]
fn in_the_clear_nothing_is_said_of_tls() {
    let scratch = scratch("copy rcpt_to * pipe env > environment\n");
    let mut session = scratch.greeted();
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    let (inbox, environment) = (scratch.read("inbox"), scratch.read("environment"));
    assert!(inbox.contains(" with ESMTP id ") && !inbox.contains("(using "), "{inbox}");
    assert!(
        environment.contains("\nTLS_VERSION=\n") && environment.contains("CLIENT_PROTOCOL=ESMTP\n"),
        "{environment}"
    );
}

#[test]
fn what_was_said_in_the_clear_is_forgotten() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    assert!(session.offer("fred@mx.example").starts_with("250 "));
    session.start_tls(&client());
    session.exchange("RCPT TO:<fred@mx.example>", "503 Bad sequence of commands -- missing MAIL FROM");
    session.exchange("DATA", "503 Bad");
    session.exchange("MAIL FROM:<a@b.example>", "503 Bad sequence of commands -- missing HELO or EHLO");
    session.exchange("EHLO client.example", "250-");
    session.exchange("STARTTLS", "503 5.5.1 ");
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
}

/// How lines end is decided anew: the program in front of TLS may be another.
#[test]
fn lines_begin_anew() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    session.send("EHLO client.example\n");
    session.expect("250-");
    session.send("STARTTLS\n");
    session.expect("220 ");
    session.begin_tls(&client());
    session.exchange("EHLO client.example", "250-");
    session.send("NOOP\nNOOP\r\n");
    session.expect("500 5.5.2 Control character");
    session.quit();
}

#[test]
fn implicit_tls_comes_before_the_greeting() {
    let scratch = scratch("tls implicit\n");
    let mut session = implicit(&scratch);
    assert!(!session.ask("EHLO client.example").contains("STARTTLS"));
    session.exchange("STARTTLS", "503 5.5.1 ");
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    assert!(scratch.read("inbox").contains(" with ESMTPS id "));
}

#[test]
fn pipelining_goes_on_under_tls() {
    let scratch = scratch("");
    let mut session = secured(&scratch);
    session.send(
        "EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\n\
         Subject: one\r\n\r\ntext\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\nSubject: two\r\n\r\n.\r\nQUIT\r\n",
    );
    for code in ["250-", "250 ", "250 ", "354 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "] {
        session.expect(code);
    }
    assert_eq!(session.line(), None);
    assert_eq!(scratch.read("inbox").matches("\nReceived: ").count(), 2);
}

/// Commands in the clear behind STARTTLS, which anybody in between can add, are never executed (RFC 3207, 6).
#[test]
fn what_comes_in_the_clear_behind_starttls_is_thrown_away() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.send("STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<injected@b.example>\r\nRCPT TO:<fr");
    session.expect("220 ");
    session.begin_tls(&client());
    // No reply to what was injected, and the half of a line is not put in front of this.
    session.exchange("NOOP", "250 OK");
    session.exchange("EHLO client.example", "250-");
    session.exchange("RCPT TO:<fred@mx.example>", "503 5.5.1 Bad sequence of commands -- missing MAIL FROM");
    session.quit();
    let expected = "[192.0.2.7] WARNING: 66 bytes came in the clear behind STARTTLS, and are thrown away";
    assert!(warnings(&scratch).contains(&expected.to_owned()), "{:#?}", scratch.log());
    assert!(!scratch.log().iter().any(|line| line.contains("injected")), "{:#?}", scratch.log());
}

/// Wherever what was sent at once is torn apart, in LMTP as well, and behind the header of a proxy.
#[test]
fn commands_behind_starttls_are_never_executed() {
    for (directives, header, hello) in [
        ("", "", "EHLO"),
        (
            "limit.fcrdns_check off\nproxy_protocol from 127.0.0.1\n",
            "PROXY TCP4 192.0.2.9 192.0.2.1 1025 25\r\n",
            "EHLO",
        ),
        ("protocol lmtp\n", "", "LHLO"),
    ] {
        let scratch = scratch(directives);
        let before = format!("{header}{hello} client.example\r\nSTARTTLS\r\n");
        let injected = format!(
            "{hello} injected.example\r\nMAIL FROM:<injected@b.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\nx\r\n.\r\n"
        );
        let whole = before.clone() + &injected;
        let cuts = [whole.len(), header.len() + 1, before.len() - 2, before.len() - 1, before.len(), before.len() + 1];
        for cut in cuts.into_iter().chain((before.len()..whole.len()).step_by(17)) {
            let mut session = match header {
                "" => scratch.session(&["--peer", PEER]),
                _ => Session::start_at(scratch.mailrecv(&[]), SocketAddr::from(([127, 0, 0, 1], 0))),
            };
            session.send(&whole[..cut]);
            std::thread::sleep(Duration::from_millis(2));
            session.send(&whole[cut..]);
            session.expect("220 mx.example");
            session.expect("250-");
            session.expect("220 ");
            // What comes once the line is read takes the place of a handshake.
            let may_fail = (before.len()..whole.len()).contains(&cut);
            let handshake = session.try_begin_tls(&client());
            assert!(handshake.is_ok() || may_fail, "{directives} {cut}: {handshake:?}");
            if handshake.is_ok() {
                session.exchange("NOOP", "250 OK");
                session.exchange("MAIL FROM:<a@b.example>", "503 Bad sequence of commands -- missing ");
                session.quit();
            }
        }
        let log = scratch.read(LOG);
        assert!(!log.contains("injected") && !scratch.path("inbox").exists(), "{directives}: {log}");
    }
}

/// Those that come a moment later are no handshake.
#[test]
fn what_comes_in_the_clear_in_place_of_a_handshake_ends_the_session() {
    for injected in ["EHLO injected.example\r\n", "MAIL FROM:<injected@b.example>\r\n", "\r\n"] {
        let scratch = scratch("");
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("STARTTLS", "220 ");
        session.send(injected);
        // An alert, and the end.
        let alert = session.try_rest().unwrap();
        assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
        assert_eq!(session.exit_code(), 0);
        let log = scratch.log();
        assert!(
            log.contains(&"[192.0.2.7] WARNING: no TLS with this peer: what the peer sends is not TLS".to_owned()),
            "{log:#?}"
        );
        assert!(!log.iter().any(|line| line.contains("ERROR") || line.contains("injected")), "{log:#?}");
    }
}

#[test]
fn a_large_message_arrives_whole() {
    let scratch = scratch("");
    let mut session = secured(&scratch);
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let text = format!("Subject: large\r\n\r\n{}", line.repeat(20_000_000 / line.len()));
    session.begin_message(&["fred@mx.example"]);
    session.send(&text);
    session.send(".\r\n");
    session.expect("250 ");
    session.quit();
    assert!(scratch.read("inbox").ends_with(&format!("{}\n", text.replace('\r', ""))));
}

/// A peer that sends and does not read for a while gets every reply all the same.
#[test]
fn many_replies_come_under_tls() {
    let scratch = scratch("limit.smtp_commands 100000\n");
    let mut session = secured(&scratch);
    session.exchange("EHLO client.example", "250-");
    session.send("HELP\r\n".repeat(2000) + "QUIT\r\n");
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..2000 {
        session.expect("214-");
    }
    session.expect("221 ");
    wait_until("the end", || (session.line().is_none()).then_some(()));
}

/// A message that was coming in chunks is forgotten with all else, and its text with it.
#[test]
fn chunks_that_came_in_the_clear_are_forgotten() {
    let scratch = scratch("debug sw+Fl\n");
    let mut session = scratch.greeted();
    session.offer("fred@mx.example");
    // Half a line of it.
    session.send("BDAT 12\r\nSubject: cle");
    session.expect("250 2.0.0 12 octets received");
    session.start_tls(&client());
    session.exchange("BDAT 6 LAST\r\nNOOP", "503 Bad sequence of commands -- missing MAIL FROM");
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    session.exchange("BDAT 20 LAST\r\nSubject: secured\r\n", "250 2.0.0 Message accepted");
    session.quit();
    let inbox = scratch.read("inbox");
    assert!(inbox.contains("\nSubject: secured\n") && !inbox.contains("cle"), "{inbox}");
    let log = scratch.log();
    let letter = log.iter().filter_map(|line| line.split_once(" Letter: ")).map(|(_, text)| text);
    assert_eq!(letter.collect::<Vec<_>>(), ["'Subject: cle'", "'Subject: secured'", "''"]);
}

#[test]
fn lmtp_at_a_unix_socket_comes_under_tls() {
    let scratch = scratch("protocol lmtp\nlimit.smtp_ascii off\n");
    let mut session = Session::at_unix_socket(scratch.mailrecv(&[]), &scratch.path("socket"));
    session.expect("220 mx.example LMTP");
    assert!(session.ask("LHLO client.example").contains("\n250-STARTTLS\n"));
    session.start_tls(&client());
    session.exchange("EHLO client.example", "500 5.5.1 This is LMTP");
    for (parameter, protocol) in [("", "LMTPS"), (" SMTPUTF8", "UTF8LMTPS")] {
        session.exchange("LHLO client.example", "250-");
        session.exchange(&format!("MAIL FROM:<a@b.example>{parameter}"), "250 ");
        session.exchange("RCPT TO:<fred@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.exchange("Subject: one\r\n.", "250 2.0.0 ");
        let inbox = scratch.read("inbox");
        assert!(inbox.contains(&format!(" with {protocol} id ")), "{inbox}");
    }
    session.quit();
}

/// TLS begins behind the header of a proxy, also where both come at once.
#[test]
fn a_proxys_header_is_in_front_of_tls() {
    for directives in ["tls implicit\n", "tls require\n"] {
        let scratch = scratch(&format!("{directives}limit.fcrdns_check off\nproxy_protocol from 127.0.0.1\n"));
        let mut session = Session::start_at(scratch.mailrecv(&[]), SocketAddr::from(([127, 0, 0, 1], 0)));
        session.send("PROXY TCP4 192.0.2.9 192.0.2.1 1025 25\r\n");
        match directives {
            "tls implicit\n" => {
                session.begin_tls(&client());
                session.expect("220 mx.example ESMTP");
            }
            _ => {
                session.expect("220 mx.example ESMTP");
                session.exchange("EHLO client.example", "250-");
                session.start_tls(&client());
            }
        }
        assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
        session.quit();
        let inbox = scratch.read("inbox");
        assert!(
            inbox.contains("[192.0.2.9])\n\t(using TLSv1.3 with ") && inbox.contains(" with ESMTPS id "),
            "{inbox}"
        );
    }
}
