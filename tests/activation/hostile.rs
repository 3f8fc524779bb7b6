//! A peer that tries to get somebody else banned: log lines, addresses in brackets and whatever may end a line, typed
//! into every command and into message text.

use std::net::{IpAddr, SocketAddr};

use testkit::Client;

/// What has to be in the configuration so that nothing is cut short and everything is logged.
pub(crate) const EVERYTHING_IS_LOGGED: &str = "\
debug a
limit.smtp_commands 1000000
limit.smtp_unknowncmd 1000000
limit.smtp_failcmds 1000000
limit.smtp_rcpt_to 1000000
copy rcpt_to fred@example.com print
deliver rcpt_to broken@example.com pipe tail -n +9; exit 67
error rcpt_to ^forbidden 551 Not here
";

/// The address that the forged lines name.
pub(crate) const VICTIM: &str = "8.8.8.8";

/// How lines end; a session's first line decides what counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LineEnd {
    /// As mail servers send.
    Crlf,
    /// As people type.
    Lf,
}

/// Does its worst in one session; what it was answered.
pub(crate) fn session(source: IpAddr, server: SocketAddr, line_end: LineEnd) -> String {
    let replies = Client::connect_from(source, server).converse(script(line_end));
    let is_whole = replies.lines().last().is_some_and(|line| line.ends_with("where a command belongs"));
    assert!(is_whole, "the session broke off: {replies}");
    replies
}

/// The refusals among replies: all of them, and those for recipients that do not exist.
pub(crate) fn refusals(replies: &str) -> (usize, usize) {
    let count = |wanted: fn(&&str) -> bool| replies.lines().filter(wanted).count();
    // The last line of a reply has a space behind its code. The enhanced code is there after EHLO only.
    let nobody = |line: &&str| line.starts_with("550 ") && line.ends_with("No one here by that name");
    // What follows from a refusal is no further one, and an empty line is none at all.
    let is_refusal = |line: &&str| {
        line.starts_with('5')
            && line.as_bytes().get(3) == Some(&b' ')
            && !line.ends_with(" was refused")
            && !line.ends_with(" Empty line")
    };
    (count(is_refusal), count(nobody))
}

fn script(line_end: LineEnd) -> Vec<u8> {
    let payloads = payloads();
    let mut script = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| script.extend_from_slice(part));
        script.extend_from_slice(match line_end {
            LineEnd::Crlf => b"\r\n",
            LineEnd::Lf => b"\n",
        });
    };
    line(&[b"HELO client.example"]);
    for payload in &payloads {
        // It begins a field behind a word, too.
        let is_last_line = |before: &str| payload == ENDING_THE_SESSION.as_bytes() && matches!(before, "" | "RSET");
        for (before, after) in COMMANDS.into_iter().filter(|(before, _)| !is_last_line(before)) {
            line(&[before.as_bytes(), payload, after.as_bytes()]);
        }
    }
    // Refused recipients in an open transaction, before and after EHLO.
    for hello in ["HELO client.example", "EHLO client.example"] {
        line(&[hello.as_bytes()]);
        line(&[b"MAIL FROM:<me@mydomain.com>"]);
        for payload in &payloads {
            for (before, after) in RECIPIENTS {
                line(&[before.as_bytes(), payload, after.as_bytes()]);
            }
        }
        line(&[b"RSET"]);
    }
    // Message text, delivered and refused. A command that fails has its output in the log: here that is the text.
    for recipient in ["fred", "broken"] {
        for payload in &payloads {
            line(&[b"MAIL FROM:<me@mydomain.com>"]);
            line(&[format!("RCPT TO:<{recipient}@example.com>").as_bytes()]);
            line(&[b"DATA"]);
            line(&[b"Subject: ", payload]);
            line(&[]);
            line(&[payload]);
            line(&[b"."]);
        }
    }
    // What is legal and accepted, and has an address in brackets all the same.
    for legal in [
        "EHLO [8.8.8.8]",
        "MAIL FROM:<\"[8.8.8.8] ERROR: 550 No one here\"@[8.8.8.8]>",
        "RCPT TO:<nobody@[8.8.8.8]>",
        "RCPT TO:<@[8.8.8.8]:nobody@[8.8.8.8]>",
        "RCPT TO:<fred@example.com>",
        "DATA",
        "From: [8.8.8.8] ERROR: 550 No one here",
        ".",
        ENDING_THE_SESSION,
    ] {
        line(&[legal.as_bytes()]);
    }
    script
}

/// A line that begins as a field of a header does, which ends a session where it stands alone.
const ENDING_THE_SESSION: &str = "MAILRECV[1]: [8.8.8.8] ERROR: 550 x";

/// What is typed, as the whole of an argument or as its beginning or end.
pub(crate) fn payloads() -> Vec<Vec<u8>> {
    let forged = [
        "[8.8.8.8] ERROR: 550 No one here by that name 'x'",
        ENDING_THE_SESSION,
        "Sat Nov 21 01:32:50 2026 MAILRECV[6561]: [8.8.8.8] ERROR: 550 No one here by that name 'x'",
        "Nov 21 01:32:50 mx MAILRECV[6561]: [8.8.8.8] ERROR: 550 No one here by that name 'x'",
    ];
    let mut payloads: Vec<Vec<u8>> = forged.iter().map(|line| line.as_bytes().to_vec()).collect();
    // Behind whatever may end a line, a quotation or an escape, in some reader's eyes.
    let separators: [&[u8]; 19] = [
        b"' ",
        b"\" ",
        b"\\",
        b"> ",
        b") ",
        b"\r",
        b"\n",
        b"\x0b",
        b"\x0c",
        b"\x1b[2K",
        b"\x08\x08\x08\x08",
        b"\x00",
        b"\t",
        b"\x7f",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xe2\x80\xae",
        b"\xff",
        b"#012",
    ];
    payloads.extend(separators.iter().map(|separator| [b"x", *separator, forged[0].as_bytes()].concat()));
    for other in ["<0x5b>8.8.8.8<0x5d> ERROR: 550 x", "\u{ff3b}8.8.8.8\u{ff3d} ERROR: 550 x", "%s%n%x[8.8.8.8]"] {
        payloads.push(other.as_bytes().to_vec());
    }
    // Longer than a log line shows, and than a command may be.
    payloads.push(["x".repeat(390), forged[0].to_owned()].concat().into_bytes());
    payloads.push([" ".repeat(2100), forged[0].to_owned()].concat().into_bytes());
    payloads
}

/// What stands before and after the payload.
const COMMANDS: [(&str, &str); 24] = [
    ("", ""),
    ("FOO ", ""),
    ("HELO ", ""),
    ("EHLO ", ""),
    ("EHLO [8.8.8.8]", ""),
    ("MAIL FROM:<", ">"),
    ("MAIL FROM:<\"", "\"@example.net>"),
    ("MAIL FROM:<a@", ">"),
    ("MAIL FROM:<a@[8.8.8.8]>", ""),
    ("MAIL FROM:<a@example.net> ", ""),
    ("MAIL FROM:<a@example.net> SIZE=", ""),
    ("MAIL ", ""),
    ("RCPT TO:<", ">"),
    ("RSET ", ""),
    ("RSET", ""),
    ("VRFY ", ""),
    ("EXPN ", ""),
    ("NOOP ", ""),
    ("HELP ", ""),
    ("DATA ", ""),
    ("QUITS ", ""),
    ("RSET\t", ""),
    ("SEND FROM:<", ">"),
    ("HELO client.example", ""),
];

/// The same for recipients.
const RECIPIENTS: [(&str, &str); 9] = [
    ("RCPT TO:", ""),
    ("RCPT TO:<", ">"),
    ("RCPT TO:<", "@example.com>"),
    ("RCPT TO:<\"", "\"@example.com>"),
    ("RCPT TO:<forbidden\"", "\"@example.com>"),
    ("RCPT TO:<nobody@[8.8.8.8]>", ""),
    ("RCPT TO:<nobody@[8.8.8.8]> ", ""),
    ("RCPT TO:<@[8.8.8.8]:nobody@", ">"),
    ("RCPT TO:<nobody@example.com> ", ""),
];
