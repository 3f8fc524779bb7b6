//! Upstreams that die, are silent, talk without end, talk nonsense, or try to be somebody else.

use std::time::Duration;

use testkit::a_few_at_a_time;
use testkit::client::Reply;
use testkit::process::peak_memory;
use testkit::upstream::Upstream;

use crate::script::{self, Act, Stage};
use crate::support::Scratch;
use crate::{COPY, FRED, TEXT, TRY_AGAIN, WILMA, as_kept, behind_our_trace, copies, log, relaying, send, stuffed};

/// One message to an upstream that does this; what is wrong with the reply, with the copy, or with what the upstream has.
fn problem(acts: &[(Stage, Act)], directives: &str, text: &[u8], expected: &str) -> Option<String> {
    problem_with("smtp", acts, directives, text, expected)
}

/// The same in this protocol.
fn problem_with(scheme: &str, acts: &[(Stage, Act)], directives: &str, text: &[u8], expected: &str) -> Option<String> {
    let upstream = script::start(acts);
    let scratch = relaying(format!("{scheme}://{}", upstream.address), directives);
    let mut session = scratch.greeted();
    let reply = send(&mut session, &[FRED], text);
    session.send("QUIT\r\n");
    let _ = session.try_rest();
    let status = session.exit_code();
    let (there, here) = (upstream.messages().len(), copies(&scratch));
    let is_taken = reply.starts_with("250");
    // What is not known to be taken may have been all the same, but once.
    let is_right = reply.starts_with(expected)
        && !upstream.connections().is_empty()
        && here == usize::from(is_taken)
        && if is_taken { there == 1 } else { there <= 1 }
        && status == 0
        && is_clean(&scratch)
        && !reply.contains(|character: char| character.is_control() && character != '\n');
    (!is_right).then(|| {
        format!(
            "{acts:?}: expected {expected:?}, got {reply:?}, exit status {status}; {there} there, {here} here\n{}",
            log(&scratch)
        )
    })
}

/// Whether every line of the log is one of ours about our peer, in printable ASCII.
fn is_clean(scratch: &Scratch) -> bool {
    let is_printable = |line: &String| line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    scratch.log().iter().all(|line| {
        is_printable(line) && line.starts_with("[192.0.2.7] ") && !line["[192.0.2.7] ".len()..].contains("[10.9.8.7]")
    })
}

#[track_caller]
fn assert_none(problems: Vec<Option<String>>) {
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

fn say(text: impl AsRef<[u8]>) -> Act {
    Act::Say(text.as_ref().to_vec())
}

const STAGES: [Stage; 6] = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."];

#[test]
fn an_upstream_that_dies_takes_no_mail() {
    let mut cases: Vec<(Stage, Act)> = Vec::new();
    for stage in STAGES {
        cases.push((stage, Act::Reset));
        // In the middle of its reply, too.
        for said in ["", "2", "25", "250", "250 ", "250 2.0.0 Taken", "250 2.0.0 Taken\r", "250-Taken\r\n"] {
            cases.push((stage, Act::Close(said.into())));
        }
    }
    for length in [0, 1, 100, 65_536, 300_000, 999_000] {
        cases.extend([("TEXT", Act::CloseAfter(length)), ("TEXT", Act::ResetAfter(length))]);
    }
    let large = [&b"Subject: large\r\n\r\n"[..], &b"0123456789 text\r\n".repeat(60_000)].concat();
    assert_none(a_few_at_a_time(&cases, |(stage, act)| {
        problem(&[(stage, act.clone())], "", if *stage == "TEXT" { &large } else { TEXT }, TRY_AGAIN)
    }));
}

/// And so does one of LMTP.
#[test]
fn an_upstream_of_lmtp_that_dies_takes_no_mail() {
    let stages: [Stage; 6] = ["CONNECT", "LHLO", "MAIL", "RCPT", "DATA", "."];
    let mut cases: Vec<(Stage, Act)> = vec![("TEXT", Act::CloseAfter(10)), ("TEXT", Act::ResetAfter(10))];
    for stage in stages {
        cases.extend([
            (stage, Act::Reset),
            (stage, Act::Close(Vec::new())),
            (stage, Act::Close(b"250 2.0.0 Tak".into())),
        ]);
    }
    assert_none(a_few_at_a_time(&cases, |(stage, act)| {
        problem_with("lmtp", &[(stage, act.clone())], "", TEXT, TRY_AGAIN)
    }));
    assert_eq!(problem_with("lmtp", &[], "", TEXT, "250 "), None);
    assert_eq!(problem_with("lmtp", &[(".", say("552 5.2.2 Full\r\n"))], "", TEXT, "552 5.2.2 Full"), None);
}

/// A second before the session itself would have to end.
#[test]
fn an_upstream_that_is_silent_is_waited_for_as_long_as_the_connection_may_last() {
    let stages: Vec<Stage> = STAGES.into_iter().chain(["TEXT"]).collect();
    // More than sockets have room for.
    let large = [&b"Subject: large\r\n\r\n"[..], &b"0123456789 text\r\n".repeat(1_000_000)].concat();
    assert_none(a_few_at_a_time(&stages, |stage| {
        let (directives, text) = match *stage {
            "TEXT" => ("limit.connection_secs 10", &large[..]),
            _ => ("limit.connection_secs 3", TEXT),
        };
        problem(&[(stage, Act::Silence)], directives, text, "4")
    }));
}

/// Each at one stage; which one is another for each.
#[test]
fn replies_that_make_no_sense_are_none() {
    let cases: Vec<_> =
        NONSENSE.iter().enumerate().map(|(number, said)| (STAGES[number % STAGES.len()], *said)).collect();
    assert_nonsense(&cases);
}

#[test]
#[ignore = "takes a minute: tests/run --test relay_upstreams -- --ignored"]
fn replies_that_make_no_sense_are_none_at_any_stage() {
    let cases: Vec<_> = STAGES.into_iter().flat_map(|stage| NONSENSE.iter().map(move |said| (stage, *said))).collect();
    assert_nonsense(&cases);
}

#[track_caller]
fn assert_nonsense(cases: &[(Stage, &[u8])]) {
    assert_none(a_few_at_a_time(cases, |(stage, said)| problem(&[(stage, say(said))], "", TEXT, TRY_AGAIN)));
}

const NONSENSE: &[&[u8]] = &[
    b"\r\n",
    b"Hello\r\n",
    b"25\r\n",
    b"2500 Taken\r\n",
    b"250_Taken\r\n",
    b"+OK POP3 ready\r\n",
    b"* OK IMAP4rev1 ready\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x00\x01\xff\xfe\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46\r\n",
    b"-50 Taken\r\n",
    b" 250 Taken\r\n",
    b"\x00250 Taken\r\n",
    b"000 Taken\r\n",
    b"150 Wait\r\n",
    b"100-Wait\r\n100 Longer\r\n",
    b"650 Taken\r\n",
    b"999 Taken\r\n",
    // Which of them?
    b"250-Taken\r\n550 Not taken\r\n",
    b"550-Not taken\r\n250 Taken\r\n",
    b"250-Taken\r\nand so on\r\n250 Taken\r\n",
];

/// Proper replies in the wrong place.
#[test]
fn replies_that_belong_elsewhere_are_none() {
    let cases: &[(Stage, &str, &str)] = &[
        ("CONNECT", "250 Ok", TRY_AGAIN),
        ("CONNECT", "354 Go ahead", TRY_AGAIN),
        ("EHLO", "354 Go ahead", TRY_AGAIN),
        ("MAIL", "354 Go ahead", TRY_AGAIN),
        ("RCPT", "354 Go ahead", TRY_AGAIN),
        // Whatever it means to do, there was no text.
        ("DATA", "250 2.0.0 Taken", TRY_AGAIN),
        (".", "354 Go on", TRY_AGAIN),
        ("MAIL", "334 UGFzc3dvcmQ6", TRY_AGAIN),
        // Others that mean yes.
        ("RCPT", "251 User not local; will forward to <fred@elsewhere.example>", "250 "),
        ("RCPT", "252 Cannot VRFY user", "250 "),
        (".", "251 2.0.0 Taken", "250 "),
        // Too many recipients, as RFC 821 had it (RFC 5321, 4.5.3.1.10); and a mailbox that is full.
        ("RCPT", "552 Too many recipients", "452 4."),
        ("RCPT", "552 5.5.3 Too many recipients", "452 4.5.3 "),
        // 421 would be the end of our peer's session with us.
        ("MAIL", "421 4.3.2 Shutting down", TRY_AGAIN),
        ("RCPT", "421 4.3.2 Shutting down", TRY_AGAIN),
        ("DATA", "421 4.3.2 Shutting down", TRY_AGAIN),
        (".", "421 4.3.2 Shutting down", TRY_AGAIN),
    ];
    assert_none(a_few_at_a_time(cases, |(stage, said, expected)| {
        problem(&[(stage, say(format!("{said}\r\n")))], "", TEXT, expected)
    }));
}

#[test]
fn a_refusal_is_passed_on_with_its_code_and_its_enhanced_code() {
    let cases: &[(Stage, &str, &str)] = &[
        ("MAIL", "553 5.1.7 Bad sender", "553 5.1.7 Bad sender"),
        ("MAIL", "550 no status", "550 5."),
        ("RCPT", "550 5.1.1 No such user", "550 5.1.1 No such user"),
        (
            "RCPT",
            "450 4.2.0 Greylisted, see https://grey.example/?a=b",
            "450 4.2.0 Greylisted, see https://grey.example/?a=b",
        ),
        ("RCPT", "450 Greylisted", "450 4."),
        // One that does not fit the code would be read as the opposite by some.
        ("RCPT", "550 4.1.1 No such user", "550 5."),
        ("RCPT", "450 5.1.1 No such user", "450 4."),
        ("DATA", "554 5.5.1 No valid recipients", "554 5.5.1 No valid recipients"),
        (".", "552 5.3.4 Too large", "552 5.3.4 Too large"),
        (".", "451 4.7.1 Try again in an hour", "451 4.7.1 Try again in an hour"),
        (".", "554 5.7.1 Spam\u{e9}", "554 5.7.1 Spam"),
        (".", "554", "554 5."),
    ];
    assert_none(a_few_at_a_time(cases, |(stage, said, expected)| {
        problem(&[(stage, say(format!("{said}\r\n")))], "", TEXT, expected)
    }));
}

/// An upstream that says that it has taken what it cannot have.
#[test]
fn replies_that_come_before_they_are_asked_for_are_none() {
    let all = "220 upstream.example ESMTP\r\n250 upstream.example\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n";
    let cases: &[&[(Stage, &str)]] = &[
        &[("CONNECT", all)],
        &[("EHLO", "250 upstream.example\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n")],
        &[("MAIL", "250 Ok\r\n250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n")],
        &[("RCPT", "250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n")],
        &[("DATA", "354 Go\r\n250 2.0.0 Taken\r\n")],
        &[("CONNECT", "220 upstream.example ESMTP\r\n250")],
    ];
    assert_none(a_few_at_a_time(cases, |acts| {
        let acts: Vec<(Stage, Act)> = acts.iter().map(|(stage, said)| (*stage, say(said))).collect();
        problem(&acts, "", TEXT, TRY_AGAIN)
    }));
}

#[test]
fn a_reply_may_come_in_pieces_and_in_many_lines() {
    let long = format!("{}250 Ok\r\n", "250-It is not short\r\n".repeat(50));
    let cases: Vec<Vec<(Stage, Act)>> = vec![
        vec![
            ("CONNECT", Act::Spell(b"220-upstream.example\r\n220 ESMTP\r\n".into())),
            ("EHLO", Act::Spell(b"250-upstream.example\r\n250-8BITMIME\r\n250 PIPELINING\r\n".into())),
            ("MAIL", Act::Spell(b"250 2.1.0 Ok\r\n".into())),
            ("RCPT", Act::Spell(b"250-2.1.5 Ok\r\n250 2.1.5 Really\r\n".into())),
            ("DATA", Act::Spell(b"354 Go\r\n".into())),
            (".", Act::Spell(b"250-2.0.0 Taken\r\n250 2.0.0 Thanks\r\n".into())),
        ],
        vec![
            ("CONNECT", say(long.replace("250", "220"))),
            ("EHLO", say(&long)),
            ("MAIL", say(&long)),
            (".", say(&long)),
        ],
        // Nothing but the code.
        vec![
            ("CONNECT", say("220\r\n")),
            ("MAIL", say("250\r\n")),
            ("RCPT", say("250\r\n")),
            ("DATA", say("354\r\n")),
            (".", say("250\r\n")),
        ],
        vec![("EHLO", say("250-\r\n250 \r\n"))],
        // Names of extensions in odd spellings, and such as nobody has.
        vec![(
            "EHLO",
            say(
                "250-upstream.example\r\n250-size\r\n250-SIZE x\r\n250-pipelining \r\n250-XNONSENSE=1 2 3\r\n250-\r\n250 8bitmime\r\n",
            ),
        )],
    ];
    assert_none(a_few_at_a_time(&cases, |acts| problem(acts, "", TEXT, "250")));
}

#[test]
fn replies_without_end_cost_bounded_time_and_memory() {
    let lines: Vec<Vec<u8>> = vec![
        b"250-x\r\n".repeat(1000),
        b"x".repeat(8192),
        b"250 ".iter().copied().chain(b"x".repeat(8192)).collect(),
        vec![0; 8192],
    ];
    let cases: Vec<(Stage, Vec<u8>)> =
        STAGES.into_iter().flat_map(|stage| lines.iter().map(move |line| (stage, line.clone()))).collect();
    assert_none(a_few_at_a_time(&cases, |(stage, line)| {
        let upstream = script::start(&[(stage, Act::Endless(line.clone()))]);
        let scratch = relaying(format!("smtp://{}", upstream.address), "");
        let mut session = scratch.greeted();
        let reply = send(&mut session, &[FRED], TEXT);
        let memory = peak_memory(session.pid()).unwrap();
        session.quit();
        let is_right = reply.starts_with(TRY_AGAIN) && copies(&scratch) == 0 && memory < 30_000;
        (!is_right).then(|| format!("{stage} {:?}: {reply:?}, {memory} KiB\n{}", &line[..8], log(&scratch)))
    }));
}

/// What acts on a terminal, ends a line, or looks like a line of somebody else's.
#[test]
fn texts_of_upstreams_act_on_nothing() {
    let texts: &[&[u8]] = &[
        b"\x1b[2J\x1b]0;title\x07\x08\x08\x7f",
        b"before\0behind",
        b"a\rNov 29 00:00:00 mx mailrecv[1]: [10.9.8.7] ERROR: 550 5.1.1 forged",
        b"a\nNov 29 00:00:00 mx mailrecv[1]: [10.9.8.7] ERROR: 550 5.1.1 forged",
        b"[10.9.8.7] ERROR: 550 5.1.1 No one here by that name",
        b"\xff\xfe\xc3\x28\x9b31m",
        "\u{202e}\u{200b}\u{85}\u{2028}\u{feff}".as_bytes(),
        b"' \" \\ $(id) `id` ${x} %s %n <b>",
    ];
    let mut cases: Vec<(Stage, String, &[u8])> = Vec::new();
    // Each text at each stage, with one code or the other.
    for (number, stage) in ["MAIL", "RCPT", "DATA", "."].into_iter().enumerate() {
        let code = |at: usize| ["550 5.1.1 ", "451 4.3.0 "][(number + at) % 2].to_owned();
        cases.extend(texts.iter().enumerate().map(|(at, text)| (stage, code(at), *text)));
    }
    cases.extend(texts.iter().map(|text| ("CONNECT", "554 5.7.1 ".to_owned(), *text)));
    assert_none(a_few_at_a_time(&cases, |(stage, code, text)| {
        let said = [code.as_bytes(), text, b"\r\n"].concat();
        // Of two answers to a message nobody knows which it is.
        let is_clear = *stage != "CONNECT" && !(*stage == "." && text.contains(&b'\n'));
        let expected = if code.starts_with('5') && is_clear { "5" } else { "4" };
        problem(&[(stage, say(said))], "", TEXT, expected)
    }));
}

/// A refusal by the upstream for now is none for good to who reads the log.
#[test]
fn only_a_refusal_for_good_is_one_in_the_log() {
    for (code, is_for_good) in [("550 5.1.1 ERROR: 550 No one here", true), ("451 4.3.0 ERROR: 550 No one here", false)]
    {
        let upstream = script::start(&[("RCPT", say(format!("{code}\r\n")))]);
        let scratch = relaying(format!("smtp://{}", upstream.address), "");
        let mut session = scratch.greeted();
        send(&mut session, &[FRED], TEXT);
        session.quit();
        let refusals = scratch.log().iter().filter(|line| line.starts_with("[192.0.2.7] ERROR: 5")).count();
        assert_eq!(refusals, usize::from(is_for_good), "{}", log(&scratch));
    }
}

/// Two messages in one session.
fn two_messages(acts: &[(Stage, Act)]) -> ([Reply; 2], Upstream, Scratch) {
    let upstream = script::start(acts);
    let scratch = relaying(format!("smtp://{}", upstream.address), "");
    let mut session = scratch.greeted();
    let first = send(&mut session, &[FRED], TEXT);
    // The end of the connection is there before the next message begins.
    std::thread::sleep(Duration::from_millis(50));
    let second = send(&mut session, &[WILMA], TEXT);
    session.quit();
    ([first, second], upstream, scratch)
}

#[test]
fn a_connection_that_has_ended_meanwhile_is_made_again() {
    let taken = String::from_utf8(script::TAKEN.to_vec()).unwrap();
    for said in [taken.clone(), format!("{taken}421 4.4.2 Idle for too long\r\n")] {
        let (replies, upstream, scratch) = two_messages(&[(".", Act::Close(said.clone().into()))]);
        assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{said:?}: {replies:?}\n{}", log(&scratch));
        let counts = (upstream.connections().len(), upstream.messages().len(), copies(&scratch));
        assert_eq!(counts, (2, 2, 2), "{:?}", upstream.connections());
    }
}

#[test]
fn a_connection_that_is_there_is_used_again() {
    let (replies, upstream, scratch) = two_messages(&[]);
    assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{replies:?}\n{}", log(&scratch));
    let counts = (upstream.connections().len(), upstream.messages().len(), copies(&scratch));
    assert_eq!(counts, (1, 2, 2), "{:?}", upstream.connections());
}

/// Whose text may have been taken must not be sent a second time by us.
#[test]
fn nothing_is_repeated_once_the_text_is_on_its_way() {
    for act in
        [("TEXT", Act::CloseAfter(10)), ("TEXT", Act::ResetAfter(10)), (".", Act::Close(Vec::new())), (".", Act::Reset)]
    {
        let upstream = script::start(std::slice::from_ref(&act));
        let scratch = relaying(format!("smtp://{}", upstream.address), "");
        let mut session = scratch.greeted();
        let reply = send(&mut session, &[FRED], TEXT);
        assert!(reply.starts_with(TRY_AGAIN), "{act:?}: {reply}");
        session.quit();
        let connections = upstream.connections();
        let data = connections.iter().flatten().filter(|command| *command == "DATA").count();
        assert_eq!((data, copies(&scratch)), (1, 0), "{act:?}: {connections:?}");
    }
}

#[test]
fn recipients_share_a_transaction() {
    let upstream = script::start(&[]);
    let scratch = relaying(format!("smtp://{}", upstream.address), "");
    let mut session = scratch.greeted();
    let reply = send(&mut session, &[FRED, WILMA], TEXT);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    let commands = upstream.commands();
    let recipients = commands.iter().filter(|command| command.starts_with("RCPT ")).count();
    assert_eq!(recipients, 2, "{commands:?}");
    let copy = scratch.contents(format!("{COPY}/new")).remove(0);
    assert_eq!(behind_our_trace(&copy), as_kept(TEXT));
    let text = &upstream.messages()[0].text;
    assert!(text.ends_with(&stuffed(TEXT)), "{}", String::from_utf8_lossy(text));
}

/// A server whose TLS is broken is better than none, where nobody insists on TLS.
#[test]
fn tls_that_fails_is_done_without_where_that_is_allowed() {
    let acts = [("EHLO", say("250-upstream.example\r\n250 STARTTLS\r\n")), ("STARTTLS", say("220 2.0.0 Go\r\n"))];
    let upstream = script::start(&acts);
    let scratch = relaying(format!("smtp://{}", upstream.address), "");
    let mut session = scratch.greeted();
    let reply = send(&mut session, &[FRED], TEXT);
    assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
    session.quit();
    let counts = (upstream.connections().len(), upstream.messages().len(), copies(&scratch));
    assert_eq!(counts, (2, 1, 1), "{:?}", upstream.connections());
    assert_eq!(problem(&[acts[0].clone(), ("STARTTLS", say("454 4.7.0 Not now\r\n"))], "", TEXT, "250 "), None);
}

/// A message that has come by too often goes round in a circle.
#[test]
fn a_message_in_a_circle_goes_no_further() {
    for (count, expected) in [(50, "250 "), (51, "554 5.4.6 ")] {
        let text = [b"Received: from a by b; today\r\n".repeat(count), TEXT.to_vec()].concat();
        assert_eq!(problem(&[], "", &text, expected), None);
    }
}
