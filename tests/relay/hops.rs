//! Kinds of servers, several of them, and who we are there.

use testkit::Upstream;

use crate::support::{LOG, PEER, Scratch};
use crate::{TEXT, hello, send, with_rule};

#[test]
fn recipients_of_another_server_need_a_transaction_of_their_own() {
    let (one, other) = (Upstream::polite(), Upstream::polite());
    let rules = format!(
        "deliver rcpt_to *@a.example relay smtp://{}\ndeliver rcpt_to *@b.example relay smtp://{}\n\
         deliver rcpt_to *@c.example append inbox\ndeliver rcpt_to *@d.example pipe cat >piped",
        one.address, other.address
    );
    let scratch = with_rule(&rules, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<x@a.example>", "250 ");
    session.exchange("RCPT TO:<x@b.example>", "452 4.5.3 ");
    session.exchange("RCPT TO:<x@d.example>", "452 4.5.3 ");
    session.exchange("RCPT TO:<x@c.example>", "250 ");
    session.exchange("RCPT TO:<y@a.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send(TEXT);
    session.exchange(".", "250 2.0.0 Ok: queued as 4711");
    assert!(send(&mut session, &["x@b.example"], TEXT).starts_with("250 "));
    session.quit();
    let recipients = |upstream: &Upstream| upstream.messages().into_iter().map(|it| it.recipients).collect::<Vec<_>>();
    assert_eq!(recipients(&one), [["<x@a.example>", "<y@a.example>"]]);
    assert_eq!(recipients(&other), [["<x@b.example>"]]);
    assert_eq!(scratch.read("inbox").matches("Subject: ").count(), 1);
    assert_eq!((one.connections().len(), other.connections().len()), (1, 1));
}

/// What a server was asked for a message that was given up is about nothing when the next begins.
#[test]
fn a_transaction_that_is_given_up_is_given_up_there_as_well() {
    let upstream = Upstream::polite();
    let rules =
        format!("deliver rcpt_to *@a.example relay smtp://{}\ndeliver rcpt_to * append inbox", upstream.address);
    let scratch = with_rule(&rules, "");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<given-up@a.example>", "250 ");
    session.exchange("RSET", "250 ");
    assert!(send(&mut session, &["x@a.example"], TEXT).starts_with("250 "));
    session.quit();
    let commands = upstream.commands();
    let of_transactions: Vec<&str> = commands.iter().filter_map(|line| line.split_whitespace().next()).collect();
    let wanted = ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"];
    assert_eq!(of_transactions[..wanted.len()], wanted, "{commands:?}");
    assert_eq!(upstream.messages().into_iter().map(|it| it.recipients).collect::<Vec<_>>(), [["<x@a.example>"]]);
}

#[test]
fn lmtp_at_a_unix_socket_takes_one_recipient_at_a_time_from_smtp() {
    let scratch = Scratch::new();
    let upstream = Upstream::scripted_at(&scratch.path("lmtp"), |_, peer| peer.answer_all(&[]));
    let path = scratch.path("lmtp");
    scratch.write(
        crate::support::CONFIG,
        format!(
            "domain mx.example\ndebug a\nsandbox strict required\ndeliver rcpt_to * relay lmtp+unix:{}\n",
            path.display()
        ),
    );
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.exchange("RCPT TO:<b@mx.example>", "452 4.5.3 ");
    session.exchange("DATA", "354 ");
    session.send(TEXT);
    assert_eq!(session.ask("."), "250 2.0.0 Ok: queued as 4711", "{}", scratch.read(LOG));
    assert_eq!(send(&mut session, &["b@mx.example"], TEXT), "250 2.0.0 Ok: queued as 4711");
    session.quit();
    let recipients: Vec<_> = upstream.messages().into_iter().map(|it| it.recipients).collect();
    assert_eq!(recipients, [["<a@mx.example>"], ["<b@mx.example>"]]);
    assert_eq!(upstream.commands()[0], "LHLO mx.example");
}

/// With LMTP in front each recipient has its own answer, of whatever server.
#[test]
fn lmtp_in_front_has_an_answer_for_each_recipient() {
    for scheme in ["smtp", "lmtp"] {
        let upstream = Upstream::scripted(|_, peer| {
            peer.say("220 x");
            let mut last = String::new();
            while let Some(line) = peer.line() {
                peer.say(if line == "DATA" { "354 x" } else { "250 x" });
                if line == "DATA" {
                    peer.text();
                    peer.say(if last.contains("<b@") { "552 5.2.2 Full" } else { "250 2.1.5 Delivered" });
                }
                last = line;
            }
        });
        let rule = format!("protocol lmtp\ndeliver rcpt_to * relay {scheme}://{}", upstream.address);
        let scratch = with_rule(&rule, "copy rcpt_to b@mx.example append inbox");
        let mut session = scratch.greeted();
        session.exchange("LHLO client.example", "250-");
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        for recipient in ["a", "b", "c"] {
            session.exchange(&format!("RCPT TO:<{recipient}@mx.example>"), "250 ");
        }
        session.exchange("DATA", "354 ");
        session.send(TEXT);
        let replies = [session.ask("."), session.reply(), session.reply()];
        assert_eq!(replies, ["250 2.1.5 Delivered", "552 5.2.2 Full", "250 2.1.5 Delivered"], "{}", scratch.read(LOG));
        session.quit();
        assert_eq!(scratch.read("inbox"), "");
        assert_eq!(upstream.connections().len(), 1);
    }
}

/// Who takes a message and who does not, of two recipients whose mail goes to different places, each of which may refuse it
/// in its last word: who was told 250 has it, and nobody else does.
#[test]
fn no_mixture_of_destinations_hides_a_refusal() {
    for front in ["smtp", "lmtp"] {
        for (one, other) in [
            ("smtp", "smtp"),
            ("smtp", "lmtp"),
            ("lmtp", "smtp"),
            ("lmtp", "lmtp"),
            ("smtp", "maildir"),
            ("lmtp", "maildir"),
            ("maildir", "smtp"),
            ("maildir", "lmtp"),
            ("smtp", "pipe"),
            ("lmtp", "pipe"),
            ("pipe", "smtp"),
            ("pipe", "lmtp"),
        ] {
            for refuses in ["", "a", "b", "ab"] {
                mix(front, one, other, refuses);
            }
        }
    }
}

/// A message for `a`, whose mail goes to one place, and for `b`, whose mail goes to the other; these refuse it.
#[track_caller]
fn mix(front: &str, one: &str, other: &str, refuses: &str) {
    let what = format!("{front}: {one}, {other}, {refuses} refused");
    let answers = |name: &str| if refuses.contains(name) { vec![(".", "554 5.7.1 No")] } else { Vec::new() };
    let upstreams = [("a", one), ("b", other)].map(|(name, kind)| (name, kind, Upstream::answering(&answers(name))));
    let rules = upstreams.iter().map(|(name, kind, upstream)| {
        let action = match *kind {
            "maildir" if refuses.contains(name) => "maildir /proc/nowhere".to_owned(),
            "maildir" => format!("maildir {name}.dir"),
            "pipe" if refuses.contains(name) => "pipe cat >/dev/null; exit 69".to_owned(),
            "pipe" => format!("pipe cat >{name}.piped"),
            scheme => format!("relay {scheme}://{}", upstream.address),
        };
        format!("deliver rcpt_to {name}@mx.example {action}\n")
    });
    let rules: String = rules.collect();
    let scratch = with_rule(&rules, &format!("protocol {front}\nsandbox off"));
    let mut session = scratch.greeted();
    session.exchange(if front == "lmtp" { "LHLO client.example" } else { "EHLO client.example" }, "250-");
    let mut left = vec!["a", "b"];
    // Who is told to come in a transaction of their own does.
    while !left.is_empty() {
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        let asked: Vec<_> =
            left.iter().map(|name| (*name, session.ask(&format!("RCPT TO:<{name}@mx.example>")))).collect();
        let accepted: Vec<&str> =
            asked.iter().filter(|(_, reply)| reply.starts_with("250 ")).map(|(name, _)| *name).collect();
        assert!(!accepted.is_empty(), "{what}: {asked:?}");
        for (_, reply) in &asked {
            assert!(reply.starts_with("250 ") || reply.starts_with("452 4.5.3 "), "{what}: {reply}");
        }
        session.exchange("DATA", "354 ");
        session.send(format!("{TEXT}.\r\n"));
        let count = if front == "lmtp" { accepted.len() } else { 1 };
        let replies: Vec<_> = (0..count).map(|_| session.reply()).collect();
        for (at, name) in accepted.iter().enumerate() {
            let is_taken = replies[at.min(count - 1)].starts_with("250 ");
            let there = copies_at(&scratch, &upstreams[usize::from(*name == "b")]);
            let log = scratch.read(LOG);
            assert_eq!(there, usize::from(is_taken), "{what}: {name} of {accepted:?}: {replies:?}\n{log}");
            let is_together = front == "smtp" && accepted.len() == 2;
            let is_refused = if is_together { !refuses.is_empty() } else { refuses.contains(name) };
            assert_eq!(is_taken, !is_refused, "{what}: {name} of {accepted:?}: {replies:?}\n{log}");
        }
        left.retain(|name| !accepted.contains(name));
    }
    session.quit();
}

/// How many messages are at this place.
fn copies_at(scratch: &Scratch, (name, kind, upstream): &(&str, &str, Upstream)) -> usize {
    match *kind {
        "maildir" => scratch.count_files(format!("{name}.dir")),
        "pipe" => scratch.read(format!("{name}.piped")).matches("Subject: ").count(),
        _ => upstream.messages().len(),
    }
}

/// A password that no other text has.
const PASSWORD: &str = "s3kr1t w0rd";

/// `\0e@x\0s3kr1t w0rd` in base64.
const PLAIN: &str = "AGVAeABzM2tyMXQgdzByZA==";

#[test]
fn we_log_in_where_the_url_says_who() {
    for (offered, commands) in [
        ("AUTH LOGIN PLAIN", vec![format!("AUTH PLAIN {PLAIN}")]),
        ("AUTH CRAM-MD5 LOGIN", vec!["AUTH LOGIN".to_owned(), "ZUB4".to_owned(), "czNrcjF0IHcwcmQ=".to_owned()]),
    ] {
        let hello_reply = format!("250-x\n250 {offered}");
        let upstream = Upstream::answering(&[
            ("EHLO", &hello_reply),
            ("AUTH PLAIN", "235 2.7.0 Welcome"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("ZUB4", "334 UGFzc3dvcmQ6"),
            ("czNrcjF0", "235 2.7.0 Welcome"),
        ]);
        let rule = format!("deliver rcpt_to * relay smtp://e@x@{} tls=off", upstream.address);
        let scratch = with_rule(&rule, "relay_password_file password");
        scratch.write("password", format!("{PASSWORD}\n"));
        let mut session = hello(&scratch);
        assert!(send(&mut session, &["a@mx.example"], TEXT).starts_with("250 "), "{}", scratch.read(LOG));
        session.quit();
        assert_eq!(upstream.commands()[1..=commands.len()], commands);
        let log = scratch.read(LOG);
        for secret in [PASSWORD, PLAIN, "czNrcjF0"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
    for answers in [&[("EHLO", "250-x\n250 AUTH PLAIN"), ("AUTH", "535 5.7.8 No")][..], &[]] {
        let upstream = Upstream::answering(answers);
        let url = format!("smtp://me:s3kr1t@{}", upstream.address);
        let scratch = with_rule(&format!("deliver rcpt_to * relay {url} tls=off"), "");
        let mut session = hello(&scratch);
        session.exchange("MAIL FROM:<sender@client.example>", "451 4.3.5 ");
        session.quit();
        assert!(!scratch.read(LOG).contains("s3kr1t"), "{}", scratch.read(LOG));
    }
    // Not in the clear, if that is not what the line says.
    let upstream = Upstream::answering(&[("EHLO", "250-x\n250 AUTH PLAIN")]);
    let scratch =
        with_rule(&format!("deliver rcpt_to * relay smtp://me@{}", upstream.address), "relay_password s3kr1t");
    let mut session = hello(&scratch);
    session.exchange("MAIL FROM:<sender@client.example>", "451 4.7.5 ");
    session.quit();
    assert_eq!(upstream.commands(), ["EHLO mx.example"]);
}

/// `relay_user` says who we are in the place of the URL, letter for letter.
#[test]
fn who_we_are_may_stand_in_a_line_of_its_own() {
    for (user, plain) in [
        ("e@x", PLAIN),
        // `\0a:b%41/c@d?e #\0s3kr1t w0rd`
        ("a:b%41/c@d?e #", "AGE6YiU0MS9jQGQ/ZSAjAHMza3IxdCB3MHJk"),
    ] {
        let upstream = Upstream::answering(&[("EHLO", "250-x\n250 AUTH PLAIN"), ("AUTH PLAIN", "235 2.7.0 Welcome")]);
        let rule = format!("deliver rcpt_to * relay smtp://{} tls=off", upstream.address);
        let scratch = with_rule(&rule, &format!("relay_user \"{user}\"\nrelay_password \"{PASSWORD}\""));
        let mut session = hello(&scratch);
        assert!(send(&mut session, &["a@mx.example"], TEXT).starts_with("250 "), "{}", scratch.read(LOG));
        session.quit();
        assert_eq!(upstream.commands()[1], format!("AUTH PLAIN {plain}"));
        assert!(!scratch.read(LOG).contains(plain), "{}", scratch.read(LOG));
    }
    // The one in the URL comes first; an empty one is nobody.
    for (url_user, user, commands) in [("e@x@", "other", "AUTH PLAIN "), ("", "", "MAIL FROM:")] {
        let upstream = Upstream::answering(&[("EHLO", "250-x\n250 AUTH PLAIN"), ("AUTH PLAIN", "235 2.7.0 Welcome")]);
        let rule = format!("deliver rcpt_to * relay smtp://{url_user}{} tls=off", upstream.address);
        let scratch = with_rule(&rule, &format!("relay_user \"{user}\"\nrelay_password \"{PASSWORD}\""));
        let mut session = hello(&scratch);
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        session.quit();
        assert!(upstream.commands()[1].starts_with(commands), "{:?}", upstream.commands());
        assert!(url_user.is_empty() || upstream.commands()[1].ends_with(PLAIN), "{:?}", upstream.commands());
    }
    // A password is sent to nobody who has not shown who it is, if that is not what the line says.
    for options in ["", " tls=opportunistic"] {
        let upstream = Upstream::answering(&[("EHLO", "250-x\n250 AUTH PLAIN")]);
        let rule = format!("deliver rcpt_to * relay smtp://{}{options}", upstream.address);
        let scratch = with_rule(&rule, "relay_user me\nrelay_password s3kr1t");
        let mut session = hello(&scratch);
        session.exchange("MAIL FROM:<sender@client.example>", "451 4.7.5 ");
        session.quit();
        assert_eq!(upstream.commands(), ["EHLO mx.example"]);
    }
}

/// What needs root is opened before, and a name is found inside the sandbox.
#[test]
fn a_server_with_a_name_is_found_from_within_the_strict_sandbox() {
    let upstream = Upstream::polite();
    let rule = format!("deliver rcpt_to * relay smtp://localhost:{}", upstream.address.port());
    let scratch = with_rule(&rule, "sandbox strict required");
    let mut session = hello(&scratch);
    assert!(send(&mut session, &["a@mx.example"], TEXT).starts_with("250 "), "{}", scratch.read(LOG));
    session.quit();
    assert_eq!(upstream.messages().len(), 1);
}

/// `explain` says where mail would go, and asks nobody.
#[test]
fn explain_asks_nobody_and_tells_no_password() {
    let upstream = Upstream::answering(&[("", "554 No")]);
    let url = format!("smtp://me:s3kr1t@{}", upstream.address);
    let scratch = with_rule(&format!("deliver rcpt_to * relay {url} tls=off"), "");
    let arguments = ["explain", "--peer", PEER, "--from", "sender@client.example", "--rcpt", "a@mx.example"];
    let output = scratch.mailrecv(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("relay 'smtp://me@{}'", upstream.address)), "{said}");
    assert!(!said.contains("s3kr1t") && upstream.connections().is_empty(), "{said}");
}
