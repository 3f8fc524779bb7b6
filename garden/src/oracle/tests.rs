use proptest::prelude::*;

use super::*;
use crate::case::Part;

/// A session: `< CODE` is a reply that is waited for, `...` a pause, all else is sent.
fn session(steps: &[&str]) -> Case {
    let unit = |step: &&str| match step.strip_prefix("< ") {
        Some(code) => Unit::Expect { code: code.trim().to_owned() },
        None if *step == "..." => Unit::Pause(std::time::Duration::from_millis(1)),
        None => Unit::Send { part: Part::Body, octets: step.as_bytes().to_vec() },
    };
    Case { name: "test".to_owned(), units: steps.iter().map(unit).collect() }
}

/// A session with this text after DATA; the text has to contain its own end.
fn text(text: &[u8]) -> Case {
    let mut case = session(&[&START.concat()]);
    case.units = session(START).units;
    case.units.push(Unit::Send { part: Part::Body, octets: text.to_vec() });
    case.units.extend(session(&["< ", "QUIT\r\n", "< "]).units);
    case
}

const START: &[&str] = &[
    "EHLO client.example\r\n",
    "< 2",
    "MAIL FROM:<__SOURCE__>\r\n",
    "< 2",
    "RCPT TO:<__DEST__>\r\n",
    "< 2",
    "DATA\r\n",
    "< 354",
];

fn with(start: &[&str], rest: &[&str]) -> Expected {
    expected(&session(&[start, rest].concat()))
}

fn octets(expected: &Expected) -> Vec<String> {
    expected.messages.iter().map(|message| escaped::escape(&message.octets)).collect()
}

fn reasons(expected: &Expected) -> Vec<Reason> {
    expected.open.iter().map(|open| open.reason).collect()
}

#[test]
fn a_message_is_taken_as_it_was_meant() {
    let expected = expected(&text(b"Subject: x\r\n\r\n..\r\n.\tx\r\n..x\r\n x\r\n.\r\n"));
    assert!(expected.is_definite(), "{expected}");
    assert_eq!(octets(&expected), [r"Subject: x\r\n\r\n.\r\n\tx\r\n.x\r\n x\r\n"]);
    assert_eq!(expected.at_most, Some(1));
    assert_eq!(expected.messages[0].mail, b"__SOURCE__");
    assert_eq!(expected.messages[0].recipients, [Recipient(b"__DEST__".to_vec())]);
    assert_eq!(expected.to_string(), "1 message");
}

#[test]
fn a_message_may_be_empty() {
    assert_eq!(octets(&expected(&text(b".\r\n"))), [""]);
    assert_eq!(octets(&expected(&text(b"\r\n.\r\n"))), [r"\r\n"]);
}

#[test]
fn a_text_that_does_not_end_is_no_message() {
    for unended in [&b""[..], b".", b".\r", b"x\r\n.\r", b"x\r\n.", b"x\n.\n", b"x\r\n..\r\n", b"x.\r\n", b".\n"] {
        let expected = expected(&text(unended));
        assert_eq!(expected.messages, [], "{unended:?}");
        assert_eq!(expected.at_most, Some(0), "{unended:?}");
    }
}

/// How many messages there are if a second one follows these octets, and what is open.
#[test]
fn only_crlf_dot_crlf_is_an_end() {
    let table: &[(&[u8], usize, &[Reason])] = &[
        (b"\r\n.\r\n", 2, &[Reason::BeforeReply]),
        (b"\n.\n", 1, &[Reason::BareLf]),
        (b"\n.\r\n", 1, &[Reason::BareLf]),
        (b"\n.\r", 1, &[Reason::BareLf, Reason::BareCr]),
        (b"\r\n.\n", 1, &[Reason::BareLf]),
        (b"\r\n.\r", 1, &[Reason::BareCr]),
        (b"\r.\r", 1, &[Reason::BareCr]),
        (b"\r.\n", 1, &[Reason::BareCr, Reason::BareLf]),
        (b"\r.\r\n", 1, &[Reason::BareCr]),
        (b"\r\n\0.\r\n", 1, &[Reason::ControlCharacter]),
        (b"\r\n.\0\r\n", 1, &[Reason::ControlCharacter]),
        (b"\r\n.\r\r\n", 1, &[Reason::BareCr]),
        (b"\r\r\n.\r\n", 2, &[Reason::BareCr, Reason::BeforeReply]),
        (b"\r\r\n.\r\r\n", 1, &[Reason::BareCr]),
        (b"\r\n\r.\r\n", 1, &[Reason::BareCr]),
        (b"\r\n..\r\n", 1, &[]),
        (b"\r\n. \r\n", 1, &[]),
        (b"\r\n.\t\r\n", 1, &[]),
        (b"\r\n.\x0b\r\n", 1, &[Reason::ControlCharacter]),
        (b"\r\n.\x85", 1, &[Reason::EightBit]),
    ];
    let second = b"MAIL FROM:<__SOURCE__>\r\nRCPT TO:<__DEST__>\r\nDATA\r\nsecond\r\n.\r\n";
    for (end, number, open) in table {
        let expected = expected(&text(&[b"x", *end, &second[..]].concat()));
        assert_eq!(expected.messages.len(), *number, "{end:?}");
        let mut reasons = reasons(&expected);
        reasons.retain(|reason| *reason != Reason::Extension(Extension::Pipelining));
        reasons.dedup();
        assert_eq!(reasons, *open, "{end:?}");
        // What follows DATA before its answer may be taken for commands.
        assert_eq!(expected.at_most, (*number == 1).then_some(1), "{end:?}");
    }
}

#[test]
fn what_may_not_be_sent_in_a_text_is_open() {
    let table: &[(&[u8], Reason)] = &[
        (b"a\rb", Reason::BareCr),
        (b"a\nb", Reason::BareLf),
        (b"a\0b", Reason::ControlCharacter),
        (b"\x7f", Reason::ControlCharacter),
        (b"\x1b", Reason::ControlCharacter),
        (b"\xe9", Reason::EightBit),
        (&[b'x'; 999], Reason::LongLine),
    ];
    for (line, reason) in table {
        let message = [&b"Subject: x\r\n\r\n"[..], line, b"\r\n"].concat();
        let expected = expected(&text(&[&message[..], b".\r\n"].concat()));
        assert_eq!(reasons(&expected), [*reason], "{line:?}");
        assert_eq!(expected.messages[0].octets, message, "{line:?}");
        assert_eq!(expected.open[0].unit, START.len(), "{line:?}");
    }
    let longest = [&[b'x'; 998][..], b"\r\n.", &[b'.'; 998], b"\r\n.\r\n"].concat();
    assert!(expected(&text(&longest)).is_definite(), "the dot that is taken away does not count");
}

#[test]
fn eight_bits_are_as_good_as_announced() {
    let start = |parameter: &str| {
        let mut start: Vec<String> = START.iter().map(|step| (*step).to_owned()).collect();
        start[2] = format!("MAIL FROM:<__SOURCE__> {parameter}\r\n");
        start
    };
    let reasons_of = |parameter: &str| {
        let start = start(parameter);
        let mut steps: Vec<&str> = start.iter().map(String::as_str).collect();
        steps.extend(["\u{e9}\r\n.\r\n", "< "]);
        reasons(&expected(&session(&steps)))
    };
    assert_eq!(reasons_of("BODY=8BITMIME"), [Reason::Extension(Extension::EightBitMime)]);
    assert_eq!(reasons_of("body=8bitmime"), [Reason::Extension(Extension::EightBitMime)]);
    assert_eq!(reasons_of("BODY=7BIT"), [Reason::Extension(Extension::EightBitMime), Reason::EightBit]);
    assert_eq!(reasons_of("BODY=9BIT"), [Reason::Extension(Extension::EightBitMime), Reason::Syntax, Reason::EightBit]);
}

#[test]
fn what_is_out_of_order_is_refused() {
    let hello = "EHLO client.example\r\n";
    // The last step waits for a positive reply that does not come, so that nothing follows.
    for (steps, why) in [
        (&["RCPT TO:<__DEST__>\r\n", "< 2"][..], "no MAIL"),
        (&["DATA\r\n", "< 3"], "no MAIL"),
        (&["MAIL FROM:<>\r\n", "< 2", "DATA\r\n", "< 3"], "no RCPT"),
        (&["MAIL FROM:<>\r\n", "< 2", "RCPT TO:<__DEST__>\r\n", "< 2", "RSET\r\n", "< 2", "DATA\r\n", "< 3"], "RSET"),
        (&["MAIL FROM:<>\r\n", "< 2", "RCPT TO:<__DEST__>\r\n", "< 2", hello, "< 2", "DATA\r\n", "< 3"], "EHLO"),
        (&["FOO\r\n", "< 2"], "no command"),
        (&["\r\n", "< 2"], "no command"),
    ] {
        let expected = with(&[hello, "< 2"], &[steps, &["x\r\n.\r\n", "< "]].concat());
        assert_eq!(expected, Expected { at_most: Some(0), ..Expected::default() }, "{why}: {steps:?}");
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let hello = &["EHLO client.example\r\n", "< 2"];
    let mail = &["MAIL FROM:<>\r\n", "< 2", "FOO\r\n", "< 5", "RCPT TO:<__DEST2__>\r\n", "< 2", "NOOP x\r\n", "< 2"];
    let data = &["DATA\r\n", "< 354", "x\r\n.\r\n", "< 2", "DATA\r\n", "< 503", "y\r\n", "< 5", ".\r\n", "< 5"];
    let expected = with(hello, &[&mail[..], data].concat());
    assert!(expected.is_definite(), "{expected}");
    assert_eq!(octets(&expected), [r"x\r\n"]);
    assert_eq!(expected.messages[0].recipients, [Recipient(b"__DEST2__".to_vec())]);
}

#[test]
fn nothing_is_sent_to_who_does_not_answer() {
    assert_eq!(with(&["EHLO client.example\r\n", "< 2", "< 2"], &START[2..]).messages, []);
    assert_eq!(with(START, &["x\r\n", "< 2", ".\r\n", "< 2"]).messages, []);
}

#[test]
fn a_second_mail_and_mail_without_a_hello_are_open() {
    let second = with(&START[..4], &["MAIL FROM:<other@client.example>\r\n", "< "]);
    assert_eq!(reasons(&second), [Reason::SecondMail]);
    let early = with(&START[2..], &["x\r\n.\r\n", "< "]);
    assert_eq!(reasons(&early), [Reason::NoHello]);
    assert_eq!((early.messages.len(), early.at_most), (1, Some(1)));
}

#[test]
fn commands_may_be_sent_together_where_the_server_says_so() {
    let group = "MAIL FROM:<__SOURCE__>\r\nRCPT TO:<__DEST__>\r\nDATA\r\n";
    let orderly = with(&START[..2], &[group, "< 2", "< 2", "< 3", "x\r\n.\r\nQUIT\r\n", "< 2", "< 2"]);
    assert_eq!(reasons(&orderly), [Reason::Extension(Extension::Pipelining), Reason::Extension(Extension::Pipelining)]);
    assert_eq!((orderly.messages.len(), orderly.at_most), (1, Some(1)));

    let hasty = with(&["EHLO client.example\r\n", "MAIL FROM:<>\r\n", "< 2", "< 2"], &START[4..]);
    assert_eq!(reasons(&hasty), [Reason::BeforeReply]);

    let text_before_reply = with(&START[..2], &[group, "x\r\n.\r\n", "< 2", "< 2", "< 3", "< 2"]);
    assert!(text_before_reply.leaves_open(Reason::BeforeReply));
    assert_eq!((text_before_reply.messages.len(), text_before_reply.at_most), (1, None));

    // The replies come in the pause.
    let slow = with(
        &START[..2],
        &["MAIL FROM:<>\r\n", "...", "RCPT TO:<__DEST__>\r\n", "...", "DATA\r\n", "...", "x\r\n.\r\n"],
    );
    assert!(slow.is_definite(), "{slow}");
    assert_eq!(slow.messages.len(), 1);
}

#[test]
fn lines_of_commands_end_with_crlf() {
    for line in ["NOOP\n", "MAIL FROM:<a@b.example>\nRCPT TO:<__DEST__>\n", "NO\rOP", "NOOP \0", "NOOP \u{e9}"] {
        let expected = with(&START[..2], &[line, "\r\n", "< "]);
        assert_eq!(expected.at_most, None, "{line:?}");
        assert!(expected.leaves_open(Reason::CommandLine), "{line:?}");
    }
    // The client waits in vain, unless the server takes this for a line.
    for line in ["NOOP\n", "NOOP\r", "NOOP\n\r"] {
        let expected = with(&START[..2], &[line, "< 2"]);
        assert_eq!(reasons(&expected), [Reason::CommandLine], "{line:?}");
        assert_eq!(expected.at_most, None, "{line:?}");
    }
    assert!(with(&START[..2], &["NOOP", "< 2"]).is_definite());
}

#[test]
fn chunks_are_their_octets() {
    let chunks = |steps: &[&str]| with(&START[..6], steps);
    let plain = chunks(&["BDAT 3\r\nx\r\n", "< 2", "BDAT 4 LAST\r\n.\r\nz", "< 2", "QUIT\r\n", "< 2"]);
    assert_eq!(octets(&plain), [r"x\r\n.\r\nz"]);
    assert_eq!(reasons(&plain), [Reason::Extension(Extension::Chunking); 2]);
    assert_eq!(plain.at_most, Some(1));

    assert_eq!(octets(&chunks(&["BDAT 2\r\nxy", "< 2", "BDAT 0 LAST\r\n", "< 2"])), ["xy"]);
    assert_eq!(octets(&chunks(&["bdat 2 last\r\n..", "< 2"])), [".."]);
    assert_eq!(octets(&chunks(&["BDAT 5 LAST\r\nx\r\n", "< 2"])), [""; 0], "less than was announced");
    let mixed = chunks(&["BDAT 2\r\nxy", "< 2", "DATA\r\n", "< 3", "z\r\n.\r\n", "< 2"]);
    assert_eq!(octets(&mixed), [""; 0], "DATA behind BDAT");
    let odd = chunks(&["BDAT 3 LAST\r\n\r\n\n", "< 2"]);
    assert!(odd.leaves_open(Reason::BareLf));
    // For a server that does not know BDAT, this is a session.
    let inner = "MAIL FROM:<>\r\n";
    assert_eq!(chunks(&[&format!("BDAT {} LAST\r\n{inner}", inner.len()), "< 2"]).at_most, None);
    for wrong in ["BDAT\r\n", "BDAT x\r\n", "BDAT -1\r\n", "BDAT 1 LAS\r\n", "BDAT 99999999999999999999999 LAST\r\n"] {
        assert_eq!(chunks(&[wrong, "< 2", "x", "< 2"]).messages, [], "{wrong}");
    }
    // These octets are discarded, not read as commands.
    let refused = with(&START[..2], &["BDAT 4 LAST\r\nxy\r\n", "< 503", "NOOP\r\n", "< 2"]);
    assert_eq!(reasons(&refused), [Reason::Extension(Extension::Chunking)]);
}

#[test]
fn binary_text_is_sent_with_bdat() {
    let mut start = START[..6].to_vec();
    start[2] = "MAIL FROM:<__SOURCE__> BODY=BINARYMIME\r\n";
    let data = with(&start, &["DATA\r\n", "< 3", "x\r\n.\r\n", "< "]);
    assert_eq!(data.messages, []);
    let chunk = with(&start, &["BDAT 3 LAST\r\n\r\0\n", "< 2"]);
    assert_eq!(octets(&chunk), [r"\r\x00\n"]);
    assert!(!chunk.leaves_open(Reason::BareCr));
}

#[test]
fn what_follows_starttls_is_not_read() {
    let expected = with(&START[..2], &[&["STARTTLS\r\n", "< 2"], &START[2..], &["x\r\n.\r\n"]].concat());
    assert_eq!((expected.messages.len(), expected.at_most), (0, None));
}

#[test]
fn lines_of_an_authentication_are_no_commands() {
    let login = &["AUTH LOGIN\r\n", "< 334", "cXVpdA==\r\n", "< 334", "QUIT\r\n", "< 235"];
    let expected = with(&START[..2], &[login, &START[2..], &["x\r\n.\r\n", "< "]].concat());
    assert_eq!(reasons(&expected), [Reason::Extension(Extension::Auth)]);
    assert_eq!(expected.messages.len(), 1);
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let steps = ["LHLO x.example\r\n", "< 2", "MAIL FROM:<>\r\n", "< 2", "RCPT TO:<__DEST__>\r\n", "< 2"];
    let rest = ["RCPT TO:<__DEST2__>\r\n", "< 2", "DATA\r\n", "< 3", "x\r\n.\r\n", "< 2", "< 2", "QUIT\r\n", "< 2"];
    let expected = with(&steps, &rest);
    assert!(expected.is_definite(), "{expected}");
    assert_eq!(expected.messages[0].recipients.len(), 2);
}

#[test]
fn names_of_a_hello_are_domains_or_addresses() {
    let is_definite = |line: &str| with(&[line, "\r\n", "< 2"], &[]).is_definite();
    for good in ["EHLO a", "ehlo a.b-c.example", "EHLO [192.0.2.1]", "EHLO [IPv6:2001:db8::1]", "HELO x", "EHLO x "] {
        assert!(is_definite(good), "{good}");
    }
    for odd in
        ["EHLO", "HELO", "EHLO a_b", "EHLO -a", "EHLO a-", "EHLO a..b", "EHLO a b", "HELO [192.0.2.1]", "EHLO\tx"]
    {
        assert!(!is_definite(odd), "{odd}");
    }
}

#[test]
fn recipients_are_read_as_the_grammar_has_them() {
    let reasons_of = |argument: &str| reasons(&with(&START[..4], &["RCPT TO:", argument, "\r\n", "< "]));
    for good in [
        "<__DEST__>",
        "<__DEST2__>",
        "<__USER__@__HOST__>",
        "<\"__USER__\"@__HOST__>",
        "<@a.example,@b.example:__DEST__>",
        "<postmaster>",
        "<PostMaster>",
        "<postmaster@__DOMAIN__>",
        "<__DEST__> ",
    ] {
        assert_eq!(reasons_of(good), [], "{good}");
    }
    for unknown in [
        "<nobody@__HOST__>",
        "<__USER__@elsewhere.example>",
        "<a+b@c.example>",
        "<\"a b\"@c.example>",
        "<\"a\\\"b\"@c.example>",
        "<\"a@b\"@c.example>",
        "<\">\"@c.example>",
        "<a@[192.0.2.1]>",
        "<a@[IPv6:::1]>",
        "<a@c>",
        "<\"\"@c.example>",
    ] {
        assert_eq!(reasons_of(unknown), [Reason::Recipient], "{unknown}");
    }
    for wrong in [
        "<>",
        "__DEST__",
        " <__DEST__>",
        "<__DEST__",
        "<<__DEST__>>",
        "<__DEST__>>",
        "<__DEST__>SIZE=1",
        "<__USER__>",
        "<@c.example>",
        "<a@>",
        "<a@.c.example>",
        "<a@c.example.>",
        "<a@c..example>",
        "<.a@c.example>",
        "<a.@c.example>",
        "<a..b@c.example>",
        "<a b@c.example>",
        "<a(c)@c.example>",
        "<\"a@c.example>",
        "<\"a\"b@c.example>",
        "<a@b@c.example>",
        "<a@[192.0.2.256]>",
        "<a@[::1]>",
        "<a@[IPv6:x]>",
        "<a@[]>",
        "<a@c_d.example>",
        "<@a.example:@b:__DEST__>",
        "<>",
    ] {
        assert!(reasons_of(wrong).contains(&Reason::Syntax), "{wrong}: {:?}", reasons_of(wrong));
    }
    let long = |local: usize| reasons_of(&format!("<{}@c.example>", "x".repeat(local)));
    assert_eq!(long(64), [Reason::Recipient]);
    assert_eq!(long(65), [Reason::LongCommand, Reason::Recipient]);
}

#[test]
fn senders_may_be_none() {
    let reasons_of = |argument: &str| reasons(&with(&START[..2], &["MAIL FROM:", argument, "\r\n", "< "]));
    for good in ["<>", "<a@b.example>", "<__SOURCE__>", "<@a.example:b@c.example>", "<a@[IPv6:2001:db8::1]>"] {
        assert_eq!(reasons_of(good), [], "{good}");
    }
    assert_eq!(reasons_of("<postmaster>"), [Reason::Syntax]);
    assert_eq!(reasons_of("<\u{e9}@b.example>"), [Reason::CommandLine, Reason::Extension(Extension::SmtpUtf8)]);
    assert_eq!(reasons_of("<> SIZE=10"), [Reason::Extension(Extension::Size)]);
    assert_eq!(reasons_of("<> SIZE=1 SIZE=1").last(), Some(&Reason::Syntax));
    assert_eq!(reasons_of("<> FOO=BAR"), [Reason::Parameter]);
    for wrong in
        ["<> SIZE", "<> SIZE=", "<> SIZE=-1", "<> SIZE=0x10", "<> SIZE=999999999999999999999", "<> =x", "<> A==b"]
    {
        assert!(reasons_of(wrong).contains(&Reason::Syntax), "{wrong}: {:?}", reasons_of(wrong));
    }
    assert_eq!(with(&START[..2], &["MAIL FROM <a@b.example>\r\n", "< 5", "NOOP\r\n", "< 2"]).messages, []);
}

#[test]
fn what_is_expected_is_told_in_a_line() {
    let of = |octets: &[u8]| expected(&text(octets)).to_string();
    assert_eq!(of(b"a\nb\r\n.\r\n"), "at most 1 message; open: bare-lf");
    assert_eq!(of(b"a"), "0 messages");
    assert_eq!(with(&["NOOP\n\r\n"], &[]).to_string(), "open: command-line");
}

proptest! {
    /// It makes no difference where the octets are cut.
    #[test]
    fn cuts_make_no_difference(pieces in proptest::collection::vec(piece_of_a_session(), 0..12), cuts: Vec<usize>) {
        let whole = pieces.concat();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (whole.len() + 1)).collect();
        places.extend([0, whole.len()]);
        places.sort_unstable();
        let unit = |octets: &[u8]| Unit::Send { part: Part::Body, octets: octets.to_vec() };
        let cut = places.windows(2).map(|range| unit(&whole[range[0]..range[1]])).collect();
        let expected_of = |units| {
            let expected = expected(&Case { name: String::new(), units });
            let open: std::collections::BTreeSet<_> = expected.open.iter().map(|open| open.reason).collect();
            (expected.messages, expected.at_most, open)
        };
        prop_assert_eq!(expected_of(cut), expected_of(vec![unit(&whole)]));
    }

    /// Text that is stuffed as RFC 5321 says arrives unchanged, and nothing is open about it.
    #[test]
    fn what_is_sent_as_it_should_be_arrives(lines in proptest::collection::vec("[ -~\t]{0,40}|[.]{0,3}", 0..8)) {
        let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let sent: String =
            lines.iter().map(|line| format!("{}{line}\r\n", if line.starts_with('.') { "." } else { "" })).collect();
        let expected = expected(&text(format!("{sent}.\r\n").as_bytes()));
        prop_assert!(expected.is_definite());
        prop_assert_eq!(&expected.messages[0].octets, message.as_bytes());
    }

    #[test]
    fn no_octets_are_too_odd(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..6)) {
        let units = pieces.into_iter().map(|octets| Unit::Send { part: Part::Body, octets }).collect();
        let _ = expected(&Case { name: String::new(), units });
    }
}

fn piece_of_a_session() -> impl Strategy<Value = Vec<u8>> {
    let known = START.iter().filter(|step| !step.starts_with('<')).map(|step| step.as_bytes().to_vec());
    let known: Vec<_> = known
        .chain(
            [
                &b"x\r\n.\r\n"[..],
                b".\r\n",
                b"\r",
                b"\n",
                b".",
                b"\0",
                b"BDAT 3\r\n",
                b"BDAT 9 LAST\r\n",
                b"RSET\r\n",
                b"\xff",
            ]
            .map(<[u8]>::to_vec),
        )
        .collect();
    proptest::sample::select(known)
}
