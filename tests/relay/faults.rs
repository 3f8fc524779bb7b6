//! What goes wrong at the next server: each time the reply is right, and no mail that got 250 is missing.

use std::fmt::Write as _;

use nix::sys::signal::{Signal, kill};
use testkit::daemon::free_port;
use testkit::upstream::Peer;
use testkit::{LOOPBACK, Upstream};

use crate::support::LOG;
use crate::{TEXT, hello, scratch, send, with_rule};

const UNREACHABLE: &str = "451 4.4.1 The server that takes this mail cannot be reached, try again later";
const LOST: &str = "451 4.4.2 The server that takes this mail does not take it now, try again later";
const SLOW: &str = "451 4.4.2 The server that takes this mail does not answer, try again later.";
const UNSAFE: &str = "451 4.7.5 The server that takes this mail cannot be reached safely, try again later";
const MISCONFIGURED: &str =
    "451 4.3.5 The way to the server that takes this mail is not configured correctly, try again later";

/// One message to a server that has this said to it; each reply, up to the first refusal. A file gets a copy if, and only if,
/// the last one is 250.
#[track_caller]
fn try_one(upstream: &Upstream, directives: &str) -> (String, String) {
    let scratch = scratch(upstream, &format!("copy rcpt_to * append inbox\n{directives}"));
    let mut session = hello(&scratch);
    let mut reply = String::new();
    for command in ["MAIL FROM:<sender@client.example>", "RCPT TO:<a@mx.example>", "DATA", &format!("{TEXT}.")] {
        reply = session.ask(command);
        if !reply.starts_with(['2', '3']) {
            break;
        }
    }
    let _ = session.end();
    let copies = std::fs::read_to_string(scratch.path("inbox")).map_or(0, |inbox| inbox.matches("Subject: ").count());
    assert_eq!(copies, usize::from(reply.starts_with("250 ")), "{reply} {}", scratch.read(LOG));
    (reply, scratch.read(LOG))
}

/// The command at which something happens, as the peer sees it.
const STAGES: [&str; 6] = ["", "EHLO", "MAIL", "RCPT", "DATA", "."];

#[test]
fn nobody_is_there() {
    let nowhere = free_port(LOOPBACK[0]);
    let scratch = with_rule(&format!("deliver rcpt_to * relay smtp://{nowhere}"), "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", UNREACHABLE);
    session.quit();
    let log = scratch.read(LOG);
    assert!(log.contains(&format!("WARNING: 451 The server that takes this mail cannot be reached, try again later 'sender@client.example' (smtp://{nowhere}: {nowhere}: Connection refused")), "{log}");
}

/// One that cannot be reached is tried once in a transaction, however many recipients there are.
#[test]
fn it_is_not_waited_for_again_for_each_recipient() {
    let upstream = Upstream::answering(&[("", "")]);
    let rules = format!(
        "deliver rcpt_to a relay smtp://{}\ndeliver rcpt_to * relay smtp://{0}\ndeliver rcpt_to b append inbox",
        upstream.address
    );
    let scratch = with_rule(&rules, "");
    let mut session = hello(&scratch);
    for tries in 1..3 {
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        for recipient in ["a", "c", "d"] {
            session.exchange(&format!("RCPT TO:<{recipient}@mx.example>"), UNREACHABLE);
        }
        session.exchange("RSET", "250 ");
        assert_eq!(upstream.connections().len(), tries);
    }
    session.quit();
}

#[test]
fn the_connection_ends_at_each_command() {
    for stage in STAGES {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, "")]), "");
        assert_eq!(reply, if stage.is_empty() { UNREACHABLE } else { LOST }, "{stage} {log}");
        assert!(log.contains("it has closed the connection"), "{log}");
    }
}

#[test]
fn it_is_silent_at_each_command() {
    for stage in STAGES {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, "...")]), "limit.relay_secs 1");
        assert_eq!(reply, SLOW, "{stage} {log}");
        assert!(log.contains(": no answer in time)"), "{log}");
    }
}

#[test]
fn it_goes_at_each_command() {
    for stage in STAGES {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, "421 4.3.2 Going down")]), "");
        assert_eq!(reply, if stage.is_empty() { UNREACHABLE } else { LOST }, "{stage} {log}");
        assert!(log.contains("it says '421 4.3.2 Going down'"), "{log}");
    }
}

#[test]
fn what_it_says_is_no_answer() {
    let endless_line = "2".repeat(100_000);
    let endless_lines = "250-x\n".repeat(20_000);
    let answers = ["199 x", "600 x", "hello", "250-a\n251 b", "25", "250_x", &endless_line, &endless_lines];
    for answer in answers {
        for stage in STAGES {
            let (reply, log) = try_one(&Upstream::answering(&[(stage, answer)]), "");
            assert_eq!(reply, LOST, "{answer:.20} {stage} {log:.2000}");
        }
    }
    // None of these is what these commands are answered with.
    for (stage, answer) in [("MAIL", "354 x"), ("RCPT", "334 x"), ("DATA", "250 x"), (".", "354 x")] {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, answer)]), "");
        assert_eq!(reply, LOST, "{answer} {stage} {log}");
    }
}

#[test]
fn what_it_says_unasked_is_not_taken_for_an_answer() {
    for (stage, answer) in [
        ("", "220 x\r\n250 Ok"),
        ("EHLO", "250 x\r\n250 Ok"),
        ("MAIL", "250 x\r\n250 Ok"),
        ("RCPT", "250 x\r\n250 Ok"),
        ("DATA", "354 x\r\n250 Ok"),
    ] {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, answer)]), "");
        assert_eq!(reply, LOST, "{stage} {log}");
        assert!(log.contains("it says unasked '250 Ok<0x0d><0x0a>'"), "{log}");
    }
}

/// One of two answers to the final dot was to something else, and nobody knows which. Its farewell is no second answer.
#[test]
fn two_answers_to_one_dot_are_none() {
    for second in ["250 2.0.0 Ok", "500 5.5.1 What?", "25", "42", "x"] {
        let (reply, log) = try_one(&Upstream::answering(&[(".", &format!("250 2.0.0 Ok\n{second}"))]), "");
        assert_eq!(reply, LOST, "{second} {log}");
        assert!(log.contains(&format!("it says unasked '{second}")), "{log}");
    }
    let (reply, log) = try_one(&Upstream::answering(&[(".", "250 2.0.0 Ok\n421 4.3.2 Bye")]), "");
    assert_eq!(reply, "250 2.0.0 Ok", "{log}");
}

/// A server may repeat what it does not understand, and there are programs that repeat all that they hear.
#[test]
fn what_was_said_to_log_in_is_in_no_log_although_the_server_repeats_it() {
    // `\0me\0s3kr1t`, and its parts.
    let secrets = ["AG1lAHMza3IxdA==", "bWU=", "czNrcjF0", "s3kr1t"];
    let offers = |what: &str| format!("250-x\n250 AUTH {what}");
    let plain = format!("AUTH PLAIN {}", secrets[0]);
    let (offers_plain, offers_login) = (offers("PLAIN"), offers("LOGIN"));
    let (unknown, alone, unasked) =
        (format!("500 5.5.1 Unknown: {plain}"), plain.clone(), format!("235 Welcome\n{plain}"));
    let farewell = format!("235 Welcome\n421 4.3.2 {plain}");
    let at_mail = format!("550 5.7.1 After {plain} no");
    let cases: &[&[(&str, &str)]] = &[
        &[("EHLO", &offers_plain), ("AUTH", &unknown)],
        &[("EHLO", &offers_plain), ("AUTH", &alone)],
        &[("EHLO", &offers_plain), ("AUTH", &unasked)],
        &[("EHLO", &offers_plain), ("AUTH", "235 Welcome"), ("MAIL", &at_mail)],
        &[("EHLO", &offers_plain), ("AUTH", &farewell)],
        &[("EHLO", &offers_login), ("AUTH", "334 VXNlcm5hbWU6"), ("bWU=", "500 bWU= what?")],
        &[("EHLO", &offers_login), ("AUTH", "334 x"), ("bWU=", "334 x"), ("czNrcjF0", "535 No czNrcjF0")],
    ];
    for answers in cases {
        let upstream = Upstream::answering(answers);
        let rule = format!("deliver rcpt_to * relay smtp://me:s3kr1t@{} tls=off", upstream.address);
        let scratch = with_rule(&rule, "");
        let mut session = hello(&scratch);
        let reply = session.ask("MAIL FROM:<sender@client.example>");
        session.quit();
        let log = scratch.read(LOG);
        assert!(reply.starts_with(['4', '5']), "{reply} {log}");
        for secret in secrets {
            assert!(!log.contains(secret) && !reply.contains(secret), "{secret}: {reply} {log}");
        }
        assert!(log.contains("(not shown)"), "{log}");
    }
    // An empty password is in every text, and cannot be left out of any.
    let upstream = Upstream::answering(&[("EHLO", &offers_login), ("AUTH", "334 x"), ("bWU=", "334 x"), ("", "220 x")]);
    let scratch = with_rule(&format!("deliver rcpt_to * relay smtp://me:@{} tls=off", upstream.address), "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "451 4.");
    session.quit();
}

/// Serves a connection up to its text, of which it reads a part that leaves more than the system has room for.
fn until_text(peer: &mut Peer) {
    peer.say("220 x");
    while let Some(line) = peer.line() {
        peer.say(if line == "DATA" { "354 x" } else { "250 x" });
        if line == "DATA" {
            return peer.some_text(100_000);
        }
    }
}

fn large() -> String {
    let mut text = "Subject: large\r\n\r\n".to_owned();
    (0..300_000).for_each(|number| _ = write!(text, "{number:060}\r\n"));
    text
}

#[test]
fn what_it_says_before_the_end_of_a_text_is_not_about_the_message() {
    let upstream = Upstream::scripted(|_, peer| {
        until_text(peer);
        peer.say("250 Ok");
        peer.until_gone();
    });
    let scratch = scratch(&upstream, "copy rcpt_to * append inbox");
    let mut session = hello(&scratch);
    assert_eq!(send(&mut session, &["a@mx.example"], &large()), LOST, "{}", scratch.read(LOG));
    assert_eq!(scratch.read("inbox"), "");
    session.quit();
}

#[test]
fn a_refusal_before_the_end_of_a_text_is_one_all_the_same() {
    for ends in [true, false] {
        let upstream = Upstream::scripted(move |number, peer| {
            if number > 0 {
                return peer.answer_all(&[]);
            }
            until_text(peer);
            peer.say("552 5.3.4 Enough");
            if !ends {
                peer.until_gone();
            }
        });
        let scratch = scratch(&upstream, "copy rcpt_to * append inbox");
        let mut session = hello(&scratch);
        let reply = send(&mut session, &["a@mx.example"], &large());
        // What was not read when it closed the connection may have taken its words along.
        assert!(reply == "552 5.3.4 Enough" || (ends && reply == LOST), "{reply} {}", scratch.read(LOG));
        // The connection was in the middle of that text, so the next message has another.
        assert!(send(&mut session, &["a@mx.example"], TEXT).starts_with("250 "), "{}", scratch.read(LOG));
        session.quit();
        let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
        assert!(message.text.ends_with(TEXT.as_bytes()));
        assert_eq!(scratch.read("inbox").matches("Subject: ").count(), 1);
    }
}

#[test]
fn it_dies_in_a_text() {
    let upstream = Upstream::scripted(|_, peer| until_text(peer));
    let scratch = scratch(&upstream, "copy rcpt_to * append inbox");
    let mut session = hello(&scratch);
    assert_eq!(send(&mut session, &["a@mx.example"], &large()), LOST, "{}", scratch.read(LOG));
    assert_eq!(scratch.read("inbox"), "");
    session.quit();
}

#[test]
fn a_refusal_of_the_message_is_ours_and_takes_the_copies_back() {
    for refusal in ["554 5.7.1 Spam", "452 4.2.2 Full", "550-5.7.1 Two\n550 5.7.1 lines"] {
        for stage in ["DATA", "."] {
            let (reply, log) = try_one(&Upstream::answering(&[(stage, refusal)]), "");
            assert_eq!(reply, refusal, "{stage}");
            let words = refusal.replace("5.7.1 ", "").replace("4.2.2 ", "").replace("\n550 ", " / ").replace('-', " ");
            assert!(log.contains(&format!("ERROR: {words} 'a@mx.example' (so says smtp://")), "{words} {log}");
        }
    }
}

#[test]
fn what_it_has_against_us_is_not_the_senders_fault() {
    for (stage, refusal) in [
        ("MAIL", "530 5.7.0 Authentication required"),
        ("MAIL", "501 Syntax error"),
        ("RCPT", "503 5.5.1 MAIL first"),
        ("EHLO", "550 Bad name"),
    ] {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, refusal), ("HELO", refusal)]), "");
        assert_eq!(reply, MISCONFIGURED, "{log}");
        assert!(log.contains("WARNING: 451 ") && log.contains(&format!("says '{refusal}'")), "{log}");
    }
    for (stage, refusal) in [("", "554 5.3.2 No service"), ("EHLO", "450 4.3.2 Not now")] {
        let (reply, log) = try_one(&Upstream::answering(&[(stage, refusal)]), "");
        assert_eq!(reply, UNREACHABLE, "{log}");
    }
}

#[test]
fn it_is_older_than_extensions() {
    let upstream = Upstream::answering(&[("EHLO", "500 What?")]);
    let (reply, log) = try_one(&upstream, "");
    assert_eq!(reply, "250 2.0.0 Ok: queued as 4711", "{log}");
    assert!(upstream.commands().starts_with(&["EHLO mx.example".into(), "HELO mx.example".into()]));
    assert!(upstream.commands().contains(&"MAIL FROM:<sender@client.example>".to_owned()));
}

const OFFERS_TLS: &str = "250-x\n250 STARTTLS";

/// What somebody in between puts behind the reply to STARTTLS is not taken for said under TLS.
#[test]
fn what_comes_before_the_handshake_ends_it() {
    let upstream = Upstream::answering(&[("EHLO", OFFERS_TLS), ("STARTTLS", "220 Go\r\n250 injected")]);
    let (reply, log) = try_one(&upstream, "");
    assert_eq!(reply, LOST, "{log}");
    assert!(log.contains("it says unasked '250 injected"), "{log}");
    assert_eq!(upstream.commands(), ["EHLO mx.example", "STARTTLS"]);
}

#[test]
fn without_a_handshake_there_is_no_tls_where_it_is_no_must() {
    let script = |number: usize, peer: &mut Peer| {
        let answers = [("EHLO", OFFERS_TLS), ("STARTTLS", "220 Go")].map(|(to, it)| (to.to_owned(), it.to_owned()));
        if number == 0 {
            peer.say("220 x");
            peer.line();
            peer.say(OFFERS_TLS);
            peer.line();
            peer.say("220 Go");
            // No handshake.
            return;
        }
        peer.answer_all(&answers);
    };
    let upstream = Upstream::scripted(script);
    let (reply, log) = try_one(&upstream, "");
    assert_eq!(reply, "250 2.0.0 Ok: queued as 4711", "{log}");
    assert!(log.contains("WARNING: no TLS with smtp://"), "{log}");
    assert!(!upstream.connections()[1].contains(&"STARTTLS".to_owned()));

    let upstream = Upstream::scripted(script);
    let rule = format!("deliver rcpt_to * relay smtp://{} tls=require", upstream.address);
    let scratch = with_rule(&rule, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", UNSAFE);
    session.quit();
    assert_eq!(upstream.messages(), []);
    // Nor where it is refused, or not offered.
    for answers in [&[("EHLO", OFFERS_TLS), ("STARTTLS", "454 Not now")][..], &[]] {
        let upstream = Upstream::answering(answers);
        let (reply, log) = try_one(&upstream, "");
        assert_eq!(reply, "250 2.0.0 Ok: queued as 4711", "{log}");
        let scratch = with_rule(&format!("deliver rcpt_to * relay smtp://{} tls=1", upstream.address), "");
        let mut session = hello(&scratch);
        session.exchange("MAIL FROM:<sender@client.example>", UNSAFE);
        session.quit();
    }
}

#[test]
fn a_connection_that_has_ended_meanwhile_is_made_anew() {
    // After a message; with a word, and without.
    for farewell in ["", "421 4.4.2 Idle for too long\r\n"] {
        let upstream = Upstream::scripted(move |number, peer| {
            if number > 0 {
                return peer.answer_all(&[]);
            }
            peer.say("220 x");
            while let Some(line) = peer.line() {
                peer.say(if line == "DATA" { "354 x" } else { "250 x" });
                if line == "DATA" {
                    peer.text();
                    return peer.send(format!("250 first\r\n{farewell}"));
                }
            }
        });
        let scratch = scratch(&upstream, "");
        let mut session = hello(&scratch);
        // The farewell may be there when the message is answered, and is none of that.
        assert_eq!(send(&mut session, &["a@mx.example"], TEXT), "250 2.0.0 first", "{}", scratch.read(LOG));
        assert_eq!(
            send(&mut session, &["a@mx.example"], TEXT),
            "250 2.0.0 Ok: queued as 4711",
            "{}",
            scratch.read(LOG)
        );
        session.quit();
        assert_eq!(upstream.messages().len(), 1);
    }
    // While the peer sends its text.
    let upstream = Upstream::scripted(|number, peer| {
        if number > 0 {
            return peer.answer_all(&[]);
        }
        peer.say("220 x");
        while let Some(line) = peer.line() {
            peer.say("250 x");
            if line.starts_with("RCPT TO:<b@") {
                return;
            }
        }
    });
    let (session_scratch, recipients) = (scratch(&upstream, ""), ["a@mx.example", "b@mx.example"]);
    let mut session = hello(&session_scratch);
    assert_eq!(send(&mut session, &recipients, TEXT), "250 2.0.0 Ok: queued as 4711", "{}", session_scratch.read(LOG));
    session.quit();
    let [message] = &upstream.messages()[..] else { panic!("{:?}", upstream.messages()) };
    assert_eq!(message.recipients, ["<a@mx.example>", "<b@mx.example>"]);
}

#[test]
fn a_request_to_stop_ends_the_waiting_unless_the_message_is_sent() {
    for (stage, heard) in [("MAIL", "MAIL"), ("DATA", "DATA")] {
        let upstream = Upstream::answering(&[(stage, "...")]);
        let scratch = scratch(&upstream, "");
        let mut session = hello(&scratch);
        session.send("MAIL FROM:<sender@client.example>\r\nRCPT TO:<a@mx.example>\r\nDATA\r\n");
        if stage == "DATA" {
            session.send(format!("{TEXT}.\r\n"));
        }
        upstream.until_heard(heard);
        kill(session.pid(), Signal::SIGTERM).unwrap();
        let (rest, _) = session.end();
        assert_eq!(rest.last().unwrap(), "421 4.3.2 mx.example is shutting down, try again later", "{rest:?}");
        assert_eq!(upstream.messages(), []);
    }
    let upstream = Upstream::scripted(|_, peer| {
        peer.say("220 x");
        while let Some(line) = peer.line() {
            peer.say(if line == "DATA" { "354 x" } else { "250 x" });
            if line == "DATA" {
                peer.text();
                // For the test to see, and then for it to say when.
                peer.note("all of it");
                peer.until_told();
                peer.say("250 late");
            }
        }
    });
    let scratch = scratch(&upstream, "copy rcpt_to * append inbox");
    let mut session = hello(&scratch);
    session.send(format!("MAIL FROM:<sender@client.example>\r\nRCPT TO:<a@mx.example>\r\nDATA\r\n{TEXT}.\r\n"));
    upstream.until_heard("all of it");
    kill(session.pid(), Signal::SIGTERM).unwrap();
    upstream.tell();
    let (rest, _) = session.end();
    assert!(rest.contains(&"250 2.0.0 late".to_owned()), "{rest:?} {}", scratch.read(LOG));
    assert_eq!(scratch.read("inbox").matches("Subject: ").count(), 1);
}
