//! A session is recorded, the configuration is changed, and the change is shown with its place.

use testkit::certificates::{Authority, Request};
use testkit::{Session, TlsClient, debian};

use crate::support::{CONFIG, MAILRECV, Scratch};
use crate::{FOLDER, assert_same, config, line_of, replay, scratch, transcript, transcripts};

const RULES: &str = "allowgroup +lists ^lists\\.example\\.org$\n\
    deliver allowgroup +lists rcpt_to /^archive@/ append ./archive\n\
    deliver rcpt_to /^fred@/ append ./inbox\n\
    deliver rcpt_to *@mx.example append ./others";

/// A message for these.
fn send(session: &mut Session, recipients: &[&str]) {
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example> SIZE=1000", "250 ");
    for recipient in recipients {
        session.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
    }
    session.exchange("DATA", "354 ");
    session.exchange("Subject: private\r\n\r\nSome text.\r\n.", "250 ");
}

/// A session with messages for somebody, and for a list that one group of peers may write to.
fn recorded() -> Scratch {
    let scratch = scratch(RULES);
    let mut session = scratch.session(&["--peer", "192.0.2.7=lists.example.org"]);
    session.expect("220 ");
    send(&mut session, &["fred@mx.example", "archive@mx.example"]);
    session.quit();
    scratch
}

/// What is shown once the rules are these.
fn after(scratch: &Scratch, rules: &str) -> (i32, String) {
    scratch.write(CONFIG, config(rules));
    replay(scratch, &[])
}

#[test]
fn what_is_the_same_is_the_same() {
    let scratch = recorded();
    assert_same(&scratch);
    // Where the lines stand makes no difference.
    let (status, text) = after(&scratch, &format!("# more\n\n{RULES}"));
    assert_eq!((status, &*text), (0, "1 session, none of which would be another today\n"));
    assert_eq!(scratch.read("inbox").matches("Subject: private").count(), 1, "nothing is delivered again");
    let recorded = transcript(&scratch);
    assert!(!recorded.contains("private") && recorded.contains("\nT: \\{"), "{recorded}");
    assert!(recorded.contains("\nD: recipient\tappend './archive'\tline 6\nS: 250 2.1.5 Recipient ok\n"), "{recorded}");
}

/// Nor does the order of a recipient's destinations.
#[test]
fn destinations_in_another_order_are_the_same() {
    let copies = ["copy rcpt_to *@mx.example append ./copies", "copy rcpt_to fred@mx.example discard"];
    let scratch = scratch(&format!("{}\n{RULES}\n{}", copies[0], copies[1]));
    let mut session = scratch.greeted();
    send(&mut session, &["fred@mx.example"]);
    session.quit();
    assert!(transcript(&scratch).matches("D: recipient\t").count() == 3);
    assert_same(&scratch);
    scratch.write(CONFIG, config(&format!("{}\n{}\n{RULES}", copies[1], copies[0])));
    assert_same(&scratch);
    // Of several lines those are told that say something else.
    let rules = RULES.replace("append ./inbox", "append ./elsewhere");
    let (status, text) = after(&scratch, &format!("{rules}\n{}\n{}", copies[0], copies[1]));
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("  why:  line 7: deliver rcpt_to: ") && !text.contains("why:  line 1"), "{text}");
    assert!(!text.contains(" copy rcpt_to: "), "{text}");
}

#[test]
fn a_rule_that_refuses_somebody_is_found() {
    let scratch = recorded();
    let rules =
        RULES.replace("deliver rcpt_to /^fred", "error rcpt_to ^fred@ 550 Fred has left us\ndeliver rcpt_to /^fred");
    let (status, text) = after(&scratch, &rules);
    assert_eq!(status, 1);
    let line = line_of(&transcript(&scratch), "C: RCPT TO:<fred@mx.example>");
    let (file, text) = (&transcripts(&scratch)[0], text.as_str());
    assert_eq!(
        text,
        format!(
            "{file}:{line}: RCPT TO:<fred@mx.example>\n\
             \x20 then: recipient: append './inbox' (line 7)\n\
             \x20       250 2.1.5 Recipient ok\n\
             \x20 now:  recipient: refused (line 7)\n\
             \x20       550 5.1.1 Fred has left us\n\
             \x20 why:  line 7: error rcpt_to: 'fred@mx.example' matches '^fred@'\n\
             1 session, 1 of which would be another today\n"
        )
    );
    let (status, json) = replay(&scratch, &["--json"]);
    assert_eq!(status, 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["differences"].as_array().unwrap().len(), 1);
    assert_eq!(json["differences"][0]["line"], line);
    assert_eq!(json["differences"][0]["now"]["replies"][0], "550 5.1.1 Fred has left us");
    assert_eq!(json["differences"][0]["now"]["decisions"][0]["by"], "line 7");
    assert_eq!(json["peer"]["name"], "lists.example.org");
}

/// Where nobody is left the text is not sent, and the rest of the session goes on.
#[test]
fn who_has_no_recipient_sends_no_text() {
    let scratch = scratch(RULES);
    let mut session = scratch.greeted();
    send(&mut session, &["fred@mx.example"]);
    send(&mut session, &["wilma@mx.example"]);
    session.quit();
    let (status, text) = after(&scratch, &format!("error rcpt_to ^fred@ 450 Later\n{RULES}"));
    assert_eq!(status, 1);
    let places: Vec<&str> = text.lines().filter(|line| line.starts_with(FOLDER)).collect();
    let recorded = transcript(&scratch);
    let [rcpt, data] = ["C: RCPT TO:<fred@mx.example>", "C: DATA"].map(|line| line_of(&recorded, line));
    assert_eq!(places.len(), 2, "{text}");
    assert!(places[0].contains(&format!(":{rcpt}: ")) && places[1].contains(&format!(":{data}: ")), "{text}");
}

#[test]
fn another_destination_is_found() {
    let scratch = recorded();
    let (status, text) = after(&scratch, &RULES.replace("append ./inbox", "maildir fred"));
    assert_eq!(status, 1);
    let change = "  then: recipient: append './inbox' (line 7)\n        250 2.1.5 Recipient ok\n  \
        now:  recipient: maildir 'fred' (line 7)\n";
    assert!(text.contains(change), "{text}");
    assert!(text.contains("  why:  line 7: deliver rcpt_to: 'fred@mx.example'"), "{text}");
}

/// What the greeting offers, what is announced, and what then comes.
#[test]
fn a_limit_is_found_by_its_name() {
    let scratch = recorded();
    let (status, text) = after(&scratch, &format!("{RULES}\nlimit.smtp_data_size 999 552 No more than that"));
    assert_eq!(status, 1);
    assert!(text.contains("        250-SIZE 999\n"), "{text}");
    assert!(text.contains("  now:  552 5.3.4 No more than that\n  why:  line 9: limit.smtp_data_size\n"), "{text}");
    let (status, text) = after(&scratch, &format!("{RULES}\nlimit.smtp_rcpt_to 1"));
    assert_eq!(status, 1);
    assert!(text.contains("  now:  452 4.5.3 Too many recipients.\n  why:  line 9: limit.smtp_rcpt_to\n"), "{text}");
}

/// The text is left out, but not its size.
#[test]
fn the_size_of_a_text_that_is_left_out_counts() {
    let scratch = scratch("deliver rcpt_to fred@mx.example discard\nlimit.smtp_data_size 1000");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    // Two stuffed dots, which do not count, and the line's end, which does.
    session.exchange(&format!("..\r\n..{}\r\n.", "x".repeat(100)), "250 ");
    session.quit();
    let size = 1 + 2 + 1 + 100 + 2;
    for (limit, fits) in [(size, true), (size - 1, false)] {
        let (status, text) =
            after(&scratch, &format!("deliver rcpt_to fred@mx.example discard\nlimit.smtp_data_size {limit}"));
        assert_eq!(status, 1, "the greeting offers another size");
        assert_eq!(text.contains("(text of the message)"), !fits, "{limit}: {text}");
    }
}

#[test]
fn a_group_by_name_is_found() {
    let scratch = recorded();
    let (status, text) = after(&scratch, &RULES.replace("lists\\.example\\.org", "lists\\.example\\.net"));
    assert_eq!(status, 1);
    assert!(text.contains("  then: recipient: append './archive' (line 6)\n"), "{text}");
    assert!(text.contains("  now:  recipient: append './others' (line 8)\n"), "{text}");
    let (_, text) = after(&scratch, &RULES.replace("lists\\.example\\.org", "net").replace("*@mx", "*@other"));
    assert!(text.contains("  now:  recipient: refused (line 6)\n"), "{text}");
    assert!(text.contains("550 5.7.1 Remote not configured to deliver for this address\n"), "{text}");
}

#[test]
fn a_peer_that_is_not_wanted_any_more_is_found() {
    let scratch = recorded();
    let (status, text) = after(&scratch, &format!("deny remotehost ^192\\.0\\.2\\.\n{RULES}"));
    assert_eq!(status, 1);
    assert!(text.contains("(connected)\n  then: peer: admitted\n"), "{text}");
    assert!(text.contains("  now:  peer: refused (line 5)\n"), "{text}");
    assert!(text.contains("  now:  550 Cannot receive messages from lists.example.org [192.0.2.7]"), "{text}");
    assert!(text.contains(": the session is over by now: what follows is not compared\n"), "{text}");
    // And the other way round: what EHLO lists is not why.
    let scratch = crate::scratch(&format!("deny remotehost ^192\\.0\\.2\\.\n{RULES}"));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "550 ");
    session.end();
    let (status, text) = after(&scratch, RULES);
    assert_eq!(status, 1);
    assert!(text.contains("  now:  250-mx.example Hello ") && !text.contains("  why:  limit."), "{text}");
}

/// Whom the configuration tells to speak LMTP, nothing tells to speak SMTP.
#[test]
fn another_protocol_is_found() {
    let scratch = recorded();
    let (status, text) = after(&scratch, &format!("protocol lmtp\n{RULES}"));
    assert_eq!(status, 1);
    assert!(text.contains("220 mx.example LMTP (RFC 2033) mailrecv\n"), "{text}");
    assert!(text.contains(": EHLO client.example\n"), "{text}");
}

/// TLS, and that it is required of who had gone without.
#[test]
fn tls_that_is_required_is_found() {
    let tls = "tls_certificate own.pem\ntls_key own.key";
    let scratch = scratch(&format!(
        "{RULES}\n{tls}\nallowgroup +secured tls\ndeliver allowgroup +secured rcpt_to far@far.example discard"
    ));
    let authority = Authority::new();
    authority.issue(&scratch.path(""), "own", &Request::of(&["mx.example"]));
    let mut session = scratch.greeted();
    send(&mut session, &["fred@mx.example"]);
    session.start_tls(&TlsClient::new(&authority.root(), "mx.example"));
    send(&mut session, &["far@far.example"]);
    session.quit();
    assert!(transcript(&scratch).contains("\nC: STARTTLS\nS: 220 2.0.0 Ready to start TLS\nN: tls\tTLSv1.3"));
    assert_same(&scratch);
    let (status, text) = after(
        &scratch,
        &format!(
            "{RULES}\n{tls}\ntls require\nallowgroup +secured tls\ndeliver allowgroup +secured rcpt_to far@far.example discard"
        ),
    );
    assert_eq!(status, 1);
    assert!(text.contains("  now:  530 5.7.0 Must issue a STARTTLS command first\n  why:  line 11: tls\n"), "{text}");
    assert!(!text.contains("far@far.example"), "{text}");
    let (status, text) = after(&scratch, RULES);
    assert_eq!(status, 1);
    assert!(text.contains(": TLS does not begin: what follows is not compared\n"), "{text}");
}

/// Before the greeting.
#[test]
fn implicit_tls() {
    let tls = "tls_certificate own.pem\ntls_key own.key\ntls implicit";
    let scratch = scratch(&format!("{RULES}\n{tls}"));
    let authority = Authority::new();
    authority.issue(&scratch.path(""), "own", &Request::of(&["mx.example"]));
    let mut session = scratch.session(&["--peer", "192.0.2.7"]);
    session.begin_tls(&TlsClient::new(&authority.root(), "mx.example"));
    session.expect("220 ");
    send(&mut session, &["fred@mx.example"]);
    session.quit();
    let recorded = transcript(&scratch);
    assert!(recorded.contains("\n\nN: tls\t") || recorded.contains("D: peer\tadmitted\nN: tls\t"), "{recorded}");
    assert_same(&scratch);
    let (status, text) = after(&scratch, RULES);
    assert_eq!(status, 1);
    assert!(text.contains("(the greeting, without TLS)\n  why:  tls, by default\n"), "{text}");
}

/// The folder's summary: what differs, how often, and the first of each kind.
#[test]
fn check_counts_what_differs() {
    let scratch = scratch(RULES);
    for (peer, recipient) in [
        ("192.0.2.7=a.example", "fred@mx.example"),
        ("192.0.2.8=b.example", "fred@mx.example"),
        ("192.0.2.9=c.example", "wilma@mx.example"),
        ("192.0.2.9=lists.example.org", "archive@mx.example"),
    ] {
        let mut session = scratch.session(&["--peer", peer]);
        session.expect("220 ");
        send(&mut session, &[recipient]);
        session.quit();
    }
    let check = |rules: &str| {
        scratch.write(CONFIG, config(&format!("{rules}\ndeliver rcpt_to postmaster@mx.example discard")));
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains(" error: "));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(check(RULES), (0, format!("{FOLDER}: 4 sessions, none of which would be another today\n")));
    let refusal = "error rcpt_to ^(fred|archive)@ 550 No";
    let (status, text) = check(&format!("{refusal}\n{RULES}"));
    assert_eq!(status, 1);
    let files = transcripts(&scratch);
    let begin = format!("{FOLDER}: 4 sessions, 3 of which would be another today\n2 as in {}:", files[0]);
    assert!(text.starts_with(&begin), "{text}");
    assert!(text.contains(&format!("\n1 as in {}:", files[3])), "{text}");
    assert_eq!(text.matches("  why:  line 5\n").count(), 2, "{text}");
    // A configuration with errors is not tried.
    let output = {
        scratch.write(CONFIG, "domain\n");
        scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER])
    };
    assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0));
}

/// Which line decides is looked for once, however many sessions differ: what is different in one is in each.
#[test]
fn how_often_lines_are_looked_for() {
    let scratch = recorded();
    scratch.write(CONFIG, config(&format!("{RULES}\nlimit.smtp_data_size 999 552 No more than that")));
    let looks = || {
        let arguments = ["-y", "-e", "trace=lseek", "-o", "calls", MAILRECV, "-c", CONFIG, "check", "--replay", FOLDER];
        let output = scratch.run(debian::program("strace", "strace"), &arguments);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("  why:  line 9\n"), "{said}");
        scratch.read("calls").matches("mailrecv.conf").count()
    };
    let (once, text) = (looks(), transcript(&scratch));
    for number in 0..20 {
        scratch.write(format!("{FOLDER}/{number}.transcript"), &text);
    }
    assert_eq!(looks(), once);
}
