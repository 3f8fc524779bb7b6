//! What is on the wire behind us: one message for each that got 250, its dots stuffed, its lines ended by CRLF and nothing
//! else. Otherwise an upstream that reads line ends as it likes could be told more messages than we saw.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use testkit::client::Reply;
use testkit::upstream::Upstream;

use crate::case::{self, Case};
use crate::support::{CONFIG, Scratch};
use crate::{COPY, FRED, behind_our_trace, log, relaying, stuffed};

/// Room for a session of many mistakes.
const LIMITS: &str = "limit.smtp_commands 1000\nlimit.smtp_unknowncmd 1000\nlimit.smtp_failcmds 1000\n";

/// What the attacks on the end of data, on the text and on its beginning come to, of a server that is lenient with line ends
/// itself: [`Upstream`] takes every `.` for the end that stands on a line of its own.
#[test]
fn an_attack_on_the_end_of_data_ends_with_us() {
    let is_about_text =
        |case: &Case| ["e0", "e1", "e2", "c12", "c13", "m0"].iter().any(|name| case.name.starts_with(name));
    let cases: Vec<Case> = case::all().into_iter().filter(is_about_text).collect();
    assert!(cases.len() > 30, "{}", cases.len());
    let mut taken = 0;
    for directive in ["limit.bare_newline accept", "limit.bare_newline reject"] {
        // The cases name a domain of their own.
        for case in &cases {
            let upstream = Upstream::polite();
            let scratch = relaying(format!("smtp://{}", upstream.address), &format!("{LIMITS}{directive}\n"));
            let config = scratch.read(CONFIG).replace("domain final.example", "domain mx.example");
            scratch.write(CONFIG, config);
            let mut session = scratch.greeted();
            let replies = String::from_utf8_lossy(&session.try_converse(&case.input).unwrap_or_default()).into_owned();
            let what = format!("{}, {directive}\n{replies}", case.name);
            assert_eq!(session.exit_code(), 0, "{what}");
            taken += compare(&upstream, &scratch, accepted(&replies), &what);
        }
    }
    assert!(taken > 50, "{taken}");
}

/// How many messages got 250: the reply behind each 354.
fn accepted(replies: &str) -> usize {
    let finals = replies
        .lines()
        .scan(false, |is_final, line| Some(std::mem::replace(is_final, line.starts_with("354 ")).then_some(line)));
    finals.flatten().filter(|line| line.starts_with("250 ")).count()
}

/// Compares what the upstream took with the copies that we kept; how many there are.
#[track_caller]
fn compare(upstream: &Upstream, scratch: &Scratch, accepted: usize, what: &str) -> usize {
    let (mut there, mut here) = (BTreeMap::<Vec<u8>, usize>::new(), BTreeMap::<Vec<u8>, usize>::new());
    for message in upstream.messages() {
        assert_only_crlf(&message.text, what);
        *there.entry(from_our_trace(&unstuffed(&message.text))).or_default() += 1;
    }
    for copy in scratch.contents(format!("{COPY}/new")) {
        *here.entry(from_our_trace(&on_the_wire(&copy))).or_default() += 1;
    }
    assert_eq!(
        (there.values().sum::<usize>(), here.values().sum::<usize>()),
        (accepted, accepted),
        "{what}\n{}",
        log(scratch)
    );
    for (there, here) in there.keys().zip(here.keys()) {
        assert_eq!(there.escape_ascii().to_string(), here.escape_ascii().to_string(), "{what}");
    }
    accepted
}

/// A message from our `Received` field on, without the date, which may have passed on from one copy to the other.
fn from_our_trace(message: &[u8]) -> Vec<u8> {
    let find = |text: &[u8], what: &[u8]| memchr::memmem::find(text, what).expect("a trace of ours");
    let ours = &message[find(message, b"Received: from ")..];
    let date = find(ours, b"; ");
    let end = date + find(&ours[date..], b"\r\n");
    [&ours[..date], &ours[end..]].concat()
}

#[track_caller]
fn assert_only_crlf(text: &[u8], what: &str) {
    for (at, byte) in text.iter().enumerate() {
        let is_right = match byte {
            b'\r' => text.get(at + 1) == Some(&b'\n'),
            b'\n' => at > 0 && text[at - 1] == b'\r',
            _ => true,
        };
        assert!(is_right, "{what}: a bare line end at {at} of {}", text.escape_ascii());
    }
}

/// A text as it came without the dots that were put in for the way (RFC 5321, 4.5.2).
fn unstuffed(text: &[u8]) -> Vec<u8> {
    let mut unstuffed = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        unstuffed.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    unstuffed
}

/// A text that was kept in a file, line by line as it has to be sent; what else is a CR becomes a blank.
fn on_the_wire(kept: &[u8]) -> Vec<u8> {
    let kept: Vec<u8> = kept.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }).collect();
    kept.split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| [line.strip_suffix(b"\n").unwrap_or(line), b"\r\n"].concat())
        .collect()
}

/// Of whatever bytes its text is, in lines that end by CRLF: what the upstream has behind our trace is what was sent. One
/// without a header gets its empty line, as in the copy.
#[test]
fn any_message_arrives_as_it_was_sent() {
    let pieces: Vec<&[u8]> = vec![
        b"\r\n",
        b"\r\n.",
        b"\r\n..",
        b".",
        b"\r\n.\r\nx",
        b"From ",
        b"Subject: x\r\n",
        b"\r\n\r\n",
        b"\t",
        b" ",
        b"\0",
        b"\x1b",
        b"\x80",
        b"\xff",
        b"Content-Length: 5\r\n",
        b"Received: x\r\n",
        b"Status: RO\r\n",
        b"0123456789",
        b"MAIL FROM:<a@b>\r\n",
    ];
    let long = Just(b"x".repeat(5000));
    let piece = prop_oneof![8 => select(pieces).prop_map(<[u8]>::to_vec), 2 => vec(any::<u8>(), 0..20), 1 => long];
    let message = vec(piece, 0..30).prop_map(|pieces| with_crlf_only(&pieces.concat()));
    let config = Config { cases: 32, failure_persistence: None, ..Config::default() };
    let with_header = message.clone().prop_map(|text| [b"Subject: any\r\n\r\n", &text[..]].concat());
    let run = TestRunner::new(config).run(&vec(prop_oneof![3 => with_header, 1 => message], 1..4), |messages| {
        let upstream = Upstream::polite();
        let scratch = relaying(format!("smtp://{}", upstream.address), LIMITS);
        let mut session = scratch.greeted();
        let replies: Vec<Reply> = messages.iter().map(|message| crate::send(&mut session, &[FRED], message)).collect();
        session.quit();
        prop_assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{:?}\n{}", replies, log(&scratch));
        let texts: Vec<Vec<u8>> = upstream.messages().into_iter().map(|message| message.text).collect();
        prop_assert_eq!(texts.len(), messages.len());
        for (text, message) in texts.iter().zip(&messages) {
            assert_only_crlf(text, "a message");
            if message.starts_with(b"Subject: any\r\n\r\n") {
                let behind = behind_our_trace(text);
                prop_assert_eq!(behind.escape_ascii().to_string(), stuffed(message).escape_ascii().to_string());
            }
        }
        compare(&upstream, &scratch, messages.len(), "any message");
        Ok(())
    });
    run.unwrap();
}

/// Without bare line ends, and with a last one.
fn with_crlf_only(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + 2);
    for byte in bytes {
        match (text.last(), byte) {
            (Some(b'\r'), b'\n') => text.push(b'\n'),
            (Some(b'\r'), _) => {
                text.push(b'\n');
                text.extend((*byte != b'\n').then_some(*byte));
            }
            (_, b'\n') => text.extend(b"\r\n"),
            _ => text.push(*byte),
        }
    }
    match text.last() {
        Some(b'\r') => text.push(b'\n'),
        Some(b'\n') => {}
        _ => text.extend(b"\r\n"),
    }
    text
}
