//! What a transcript leaves out: passwords however they come, and the texts of messages.

use base64ct::{Base64, Encoding};
use testkit::wait_until;

use crate::support::CONFIG;
use crate::{assert_same, config, replay, scratch, transcript};

const ACCOUNTS: &str = "auth_plaintext on\n\
    auth_user fred \"the SECRET of fred\"\n\
    allowgroup +users auth ^fred$\n\
    deliver allowgroup +users rcpt_to far@far.example discard\n\
    deliver rcpt_to *@mx.example discard";

/// Nothing of a secret is in it: what all of them have in common is written in three ways in base64.
#[track_caller]
fn assert_no_secret(text: &str) {
    for forbidden in ["SECRET", "U0VDUkVU", "NFQ1JFV", "TRUNSRV"] {
        assert!(!text.contains(forbidden), "{forbidden} in\n{text}");
    }
}

#[test]
fn logins() {
    let scratch = scratch(ACCOUNTS);
    let [right, wrong] = ["the SECRET of fred", "another SECRET"];
    let plain = |password: &str| Base64::encode_string(format!("\0fred\0{password}").as_bytes());
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange(&format!("AUTH PLAIN {}", plain(wrong)), "535 ");
    session.exchange("AUTH LOGIN", "334 ");
    session.exchange(&Base64::encode_string(b"fred"), "334 ");
    session.exchange(&Base64::encode_string(wrong.as_bytes()), "535 ");
    session.exchange("auth login", "334 ");
    session.exchange("*", "501 ");
    session.exchange("AUTH PLAIN", "334 ");
    session.exchange("no base64, but SECRET", "501 ");
    session.exchange("AUTH PLAIN", "334 ");
    session.exchange(&"SECRET".repeat(3000), "500 5.5.6");
    session.exchange(&format!("AUTH {}", plain(wrong)), "504 ");
    session.exchange("AUTH PLAIN the SECRET", "501 ");
    session.exchange("AUTH CRAM-MD5 SECRET", "504 ");
    session.exchange("AUTH PLAIN", "334 ");
    session.exchange(&plain(right), "235 ");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<far@far.example>", "250 ");
    session.quit();
    let recorded = transcript(&scratch);
    assert_no_secret(&recorded);
    for line in [
        "C: AUTH PLAIN \\*\nS: 535 5.7.8 Authentication failed: wrong name or password\n",
        "C: AUTH LOGIN\nS: 334 (not shown)\nC: \\*\nS: 334 (not shown)\nC: \\*\nS: 535 ",
        "C: auth login\nS: 334 (not shown)\nC: \\*\nS: 501 5.7.0 ",
        "C: \\{18000}\nS: 500 5.5.6 ",
        "C: AUTH PLAIN \\* \\*\nS: 501 5.5.4 ",
        "C: AUTH \\* \\*\nS: 501 ",
        "C: AUTH PLAIN\nS: 334 (not shown)\nC: \\*\nN: login\tfred\tPLAIN\nS: 235 ",
    ] {
        assert!(recorded.contains(line) || line.starts_with("C: AUTH \\* \\*"), "{line:?} is missing:\n{recorded}");
    }
    assert_same(&scratch);

    // Who may not log in any more is nobody.
    scratch.write(CONFIG, config(&ACCOUNTS.replace("auth_plaintext on", "auth_plaintext off\nauth offer")));
    let (status, text) = replay(&scratch, &[]);
    assert_eq!(status, 1);
    assert!(text.contains(": AUTH PLAIN\n  then: 235 "), "{text}");
    assert!(text.contains("  now:  538 5.7.11 "), "{text}");
    assert!(text.contains("RCPT TO:<far@far.example>\n  then: recipient: discard (line 8)\n"), "{text}");
}

/// A response that is one refusal too many ends the session.
#[test]
fn logins_that_end_the_session() {
    for responses in [&["AUTH PLAIN", "*"][..], &["AUTH PLAIN SECRET!"], &["AUTH LOGIN U0VDUkVU", "SECRET!"]] {
        let limit = |limit| config(&format!("{ACCOUNTS}\nlimit.smtp_failcmds {limit}"));
        let scratch = scratch("");
        scratch.write(CONFIG, limit("1 454 4.7.0 Enough of it"));
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("RCPT TO:<a@mx.example>", "503 ");
        for response in responses {
            session.ask(response);
        }
        session.end();
        let recorded = transcript(&scratch);
        assert!(recorded.contains("\nS: 454 4.7.0 Enough of it\nE: closed\n"), "{recorded}");
        assert_same(&scratch);
        // Where the response came with AUTH it is not known that there was one exchange too many.
        let is_known = responses.len() > 1;
        for (new, now) in [("1 554 Enough", "554 5.7.0 Enough\n"), ("9", "501 5.5.2 Not a response")] {
            let now = format!("  now:  {}", if is_known { now } else { "334 " });
            scratch.write(CONFIG, limit(new));
            let (status, text) = replay(&scratch, &[]);
            assert_eq!(status, 1, "{responses:?}, {new}");
            assert!(text.contains("  then: 454 4.7.0 Enough of it\n") && text.contains(&now), "{text}");
        }
    }
}

/// Wherever the pieces of a response that is too long begin.
#[test]
fn a_response_in_pieces() {
    let scratch = scratch(ACCOUNTS);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("AUTH PLAIN", "334 ");
    let piece = "SECRET".repeat(2100);
    for count in 1..3 {
        session.send(&piece);
        wait_until("the piece", || (transcript(&scratch).matches("\nC: \\{").count() == count).then_some(()));
    }
    session.exchange("", "500 5.5.6");
    session.exchange("RCPT TO:<a@mx.example>", "503 ");
    session.quit();
    assert_no_secret(&transcript(&scratch));
    assert_same(&scratch);
    scratch.write(CONFIG, config(&format!("{ACCOUNTS}\nlimit.smtp_failcmds 1")));
    let (status, text) = replay(&scratch, &[]);
    assert_eq!(status, 1);
    assert!(text.contains("RCPT TO:<a@mx.example>\n  then: 503 ") && text.contains("  now:  421 "), "{text}");
}

/// That a line was the last one is known, even if it was a secret.
#[test]
fn secrets_that_end_the_session() {
    let rule = "deliver rcpt_to *@mx.example discard";
    let scratch = scratch(&format!("{rule}\nlimit.smtp_unknowncmd 1 550 Enough of it"));
    let mut session = scratch.greeted();
    session.exchange("PASS SECRET", "500 ");
    session.exchange("PASS SECRET", "550 ");
    session.end();
    assert_no_secret(&transcript(&scratch));
    assert_same(&scratch);
    scratch.write(CONFIG, config(rule));
    let (status, text) = replay(&scratch, &[]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("(not shown)\n  then: 550 Enough of it\n  now:  500 Unknown command\n"), "{text}");
    // And the other way round.
    let mut session = scratch.greeted();
    session.exchange("PASS SECRET", "500 ");
    session.exchange("PASS SECRET", "500 ");
    session.quit();
    std::fs::remove_file(scratch.path(&crate::transcripts(&scratch)[0])).unwrap();
    scratch.write(CONFIG, config(&format!("{rule}\nlimit.smtp_unknowncmd 1 550 Enough of it")));
    let (status, text) = replay(&scratch, &[]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("(not shown)\n  then: 500 Unknown command\n  now:  550 Enough of it\n"), "{text}");
}

/// Whether a password is right is not known, but that it is nobody's any more.
#[test]
fn an_account_that_is_gone_is_found() {
    let scratch = scratch(ACCOUNTS);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange(&format!("AUTH PLAIN {}", Base64::encode_string(b"\0fred\0the SECRET of fred")), "235 ");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<far@far.example>", "250 ");
    session.quit();
    assert_same(&scratch);
    for accounts in [
        ACCOUNTS.replace("auth_user fred", "auth_user wilma"),
        ACCOUNTS.replace("auth_user fred \"the SECRET of fred\"", "auth_file accounts"),
    ] {
        scratch.write("accounts", "wilma:$6$x$y\n");
        std::fs::set_permissions(scratch.path("accounts"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        scratch.write(CONFIG, config(&accounts));
        let (status, text) = replay(&scratch, &[]);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("  then: 235 2.7.0 ") && text.contains("  now:  535 5.7.8 "), "{text}");
        assert!(text.contains("  why:  line 6: auth_"), "{text}");
        assert!(text.contains("RCPT TO:<far@far.example>\n  then: recipient: discard (line 8)\n"), "{text}");
        // Another password may be the one of then.
        scratch.write("accounts", "fred:$6$x$y\n");
        if accounts.contains("auth_file") {
            assert_same(&scratch);
        }
    }
}

/// Who is wrong three times has to come again, then and now.
#[test]
fn logins_that_fail_too_often() {
    let scratch = scratch(ACCOUNTS);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    for answer in [
        "535 5.7.8 Authentication failed: wrong",
        "535 5.7.8 Authentication failed: wrong",
        "535 5.7.8 Authentication failed too often",
    ] {
        session.exchange(&format!("AUTH PLAIN {}", Base64::encode_string(b"\0fred\0SECRET")), answer);
    }
    assert_eq!(session.line(), None);
    session.end();
    assert_no_secret(&transcript(&scratch));
    assert_same(&scratch);
}

/// Passwords that nobody asked for: of other protocols, and behind AUTH where there is none.
#[test]
fn passwords_sent_unasked() {
    let scratch = scratch("deliver rcpt_to *@mx.example discard");
    let mut session = scratch.greeted();
    for line in [
        "EHLO client.example",
        "USER fred",
        "PASS SECRET",
        "SECRET",
        "AUTH PLAIN SECRET",
        "SECRET",
        "HELP SECRET",
        "AUTH LOGIN",
        "U0VDUkVU",
    ] {
        session.ask(line);
    }
    session.ask(&format!("AUTH PLAIN {}", "SECRET".repeat(3000)));
    session.quit();
    let recorded = transcript(&scratch);
    assert_no_secret(&recorded);
    assert!(recorded.contains("\nC: \\*\nS: 500 5.5.2 Unknown command\n"), "{recorded}");
    assert!(recorded.contains("\nC: AUTH\\{"), "{recorded}");
    assert_same(&scratch);
}

#[test]
fn texts_are_there_if_they_are_wanted() {
    for (with_text, is_there) in [("", false), (" with_text", true)] {
        let scratch = scratch("deliver rcpt_to *@mx.example append inbox");
        let text = scratch.read(CONFIG).replace("transcript_dir ./t", &format!("transcript_dir ./t{with_text}"));
        scratch.write(CONFIG, text);
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.exchange("RCPT TO:<a@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.send(b"Subject: private\r\n\r\n..\xe9\\\t\0 and a \n alone\r\n.\r\n");
        session.expect("250 ");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.exchange("RCPT TO:<a@mx.example>", "250 ");
        session.send(b"BDAT 9\r\nprivate\r\nBDAT 7 LAST\r\nprivate");
        session.expect("250 ");
        session.expect("250 ");
        session.quit();
        let recorded = transcript(&scratch);
        assert_eq!(recorded.contains("private"), is_there, "{recorded}");
        let lines = match is_there {
            true => {
                "\nT: Subject: private\nT: \nT: ..\\xe9\\\\\\t\\x00 and a \\n\\\nT:  alone\nT: .\nD: message\tdelivered\t"
            }
            // Its size, and that it had a bare newline.
            false => "\nT: \\n\\{38}\nT: .\nD: message\tdelivered\t",
        };
        assert!(recorded.contains(lines), "{lines:?}\n{recorded}");
        assert_same(&scratch);
        scratch.write(CONFIG, scratch.read(CONFIG) + "limit.bare_newline reject\n");
        let (_, text) = replay(&scratch, &[]);
        assert!(text.contains("(text of the message)\n  then: 250 2.0.0 Message accepted"), "{text}");
        assert!(
            text.contains("  now:  550 5.6.0 Bare CR or LF") || text.contains("Bare CR or LF in the message"),
            "{text}"
        );
    }
}
