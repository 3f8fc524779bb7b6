//! Lines as long as a server has to accept (RFC 5321, 4.5.3.1) and longer, dots in front of lines, and unusual texts.

use super::draft::{Draft, Tail, send};
use super::end_of_data::VARIANTS;
use crate::case::{Case, Part, Unit};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &length in TEXT_LENGTHS {
        cases.push(long_text(length, b'x').case(format!("lines/body/{length}")));
        cases.push(long_header(length).case(format!("lines/header/{length}")));
    }
    for &length in BUFFERS {
        // The dot is within the line.
        let line = [&vec![b'x'; length][..], b".\r\n"].concat();
        let text = Draft::new().text(&[b"The text of __TOKEN__\r\n", &line[..]].concat()).end(b"").tail(Tail::Blob);
        cases.push(text.case(format!("lines/dot-at/{length}")));
    }
    for &length in COMMAND_LENGTHS {
        cases.extend(long_commands(length));
    }
    cases.extend(SHAPES.iter().map(|(name, text)| Draft::new().text(text).case(format!("lines/{name}"))));
    cases.extend(odd_shapes());
    cases
}

/// Lengths of lines in octets, without the line end. A server has to accept 998.
const TEXT_LENGTHS: &[usize] = &[512, 997, 998, 999, 1000, 1001, 2000, 4096, 8192, 70_000];
/// Sizes of buffers into which programs read a line.
const BUFFERS: &[usize] = &[510, 512, 998, 999, 1000, 1024, 2048, 4096, 8192, 65_536];
/// Lengths of commands in octets, with the line end. A server has to accept 512.
const COMMAND_LENGTHS: &[usize] = &[511, 512, 513, 1000, 1002, 2048, 8192];

fn long_text(length: usize, octet: u8) -> Draft {
    Draft::new().text(&[b"The text of __TOKEN__\r\n", &vec![octet; length][..], b"\r\nbehind\r\n"].concat())
}

fn long_header(length: usize) -> Draft {
    let name = b"X-Long: ";
    Draft::new().line(&[name, &vec![b'x'; length - name.len()][..], b"\r\n"].concat()).line(b"X-Behind: next\r\n")
}

fn long_commands(length: usize) -> Vec<Case> {
    let fill = |before: &str, behind: &str| {
        let filling = length - before.len() - behind.len();
        // A domain whose labels are not too long, so that only the line is.
        let labels: String = (1..=filling).map(|at| if at % 32 == 0 && at < filling { '.' } else { 'x' }).collect();
        format!("{before}{labels}{behind}").into_bytes()
    };
    // A command without effect, in front of an ordinary mail.
    let mut noop = Draft::new().case(format!("lines/noop/{length}"));
    noop.units.splice(2..2, [send(Part::Helo, &fill("NOOP ", "\r\n")), Unit::Expect { code: String::new() }]);
    vec![
        noop,
        Draft::new().hello(&fill("EHLO ", ".example\r\n")).case(format!("lines/hello/{length}")),
        Draft::new()
            .mail(&fill("MAIL FROM:<@", ".example:sender@client.example>\r\n"))
            .case(format!("lines/mail/{length}")),
    ]
}

/// Texts that a server takes as they are, except for stuffed dots (RFC 5321, 4.5.2).
const SHAPES: &[(&str, &[u8])] = &[
    ("dots/two", b"The text of __TOKEN__\r\n..\r\nbehind\r\n"),
    ("dots/three", b"The text of __TOKEN__\r\n...\r\nbehind\r\n"),
    ("dots/two-and-text", b"The text of __TOKEN__\r\n..x\r\nbehind\r\n"),
    ("dots/one-and-text", b"The text of __TOKEN__\r\n.x\r\nbehind\r\n"),
    ("dots/one-and-blank", b"The text of __TOKEN__\r\n. x\r\nbehind\r\n"),
    ("dots/first-line", b"..\r\nThe text of __TOKEN__\r\n"),
    ("dots/last-line", b"The text of __TOKEN__\r\n..\r\n"),
    ("dots/in-line", b"The text of __TOKEN__ . . .\r\nx.\r\n"),
    ("blank/first", b"\r\n\r\n\r\nThe text of __TOKEN__\r\n"),
    ("blank/last", b"The text of __TOKEN__\r\n\r\n\r\n"),
    ("blank/at-ends-of-lines", b"The text of __TOKEN__ \r\nx\t\r\n   \r\nbehind\r\n"),
    ("from-line", b"The text of __TOKEN__\r\nFrom here on\r\n>From there\r\n\r\nFrom x Mon Nov  2 10:20:30 2026\r\n"),
    ("tilde", b"The text of __TOKEN__\r\n~!id\r\n~.\r\n"),
    ("commands", b"The text of __TOKEN__\r\nQUIT\r\nRSET\r\nDATA\r\n"),
];

fn odd_shapes() -> Vec<Case> {
    let many_lines = b"x\r\n".repeat(20_000);
    let no_text = [
        ("no-body", Draft::new().body(Vec::new())),
        ("empty-body", Draft::new().body(b"\r\n".to_vec())),
        ("empty", Draft::new().header(&[]).body(Vec::new())),
        ("only-blank", Draft::new().header(&[]).body(b"\r\n".to_vec())),
        ("many-lines", Draft::new().text(&[b"The text of __TOKEN__\r\n", &many_lines[..]].concat())),
        ("dots-long", long_text(998, b'.')),
    ];
    let mut cases: Vec<_> = no_text.into_iter().map(|(name, draft)| draft.case(format!("lines/{name}"))).collect();
    // Each variant at the beginning of the text, without the part before its dot.
    for (name, end) in VARIANTS {
        let start = end.iter().position(|octet| *octet == b'.').unwrap_or_default();
        let draft = Draft::new().header(&[]).body(Vec::new()).end(&end[start..]).tail(Tail::Paced);
        // Some become equal without that part, and `.` CR LF as the first line really ends the text.
        let case = draft.case(format!("lines/first/.{}", name.split_once('.').map_or(*name, |(_, behind)| behind)));
        if !cases.iter().any(|known| known.name == case.name) {
            cases.push(case);
        }
    }
    cases
}
