//! Messages in chunks (RFC 3030), in which no dot is special and no line ends the text.

use super::draft::{Draft, expect, forged, quit, send};
use crate::case::{Case, Part, Unit};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = contents();
    cases.extend(commands());
    cases
}

fn case(name: &str, draft: &Draft, units: Vec<Unit>) -> Case {
    Case { name: format!("bdat/{name}"), units: [draft.envelope(), units, quit()].concat() }
}

/// BDAT with its octets; the flag says whether it is the last chunk.
fn chunk(octets: &[u8], is_last: bool) -> Vec<Unit> {
    announced(&octets.len().to_string(), octets, is_last)
}

/// BDAT that announces this size, with these octets.
fn announced(size: &str, octets: &[u8], is_last: bool) -> Vec<Unit> {
    let last = if is_last { " LAST" } else { "" };
    vec![send(Part::Data, format!("BDAT {size}{last}\r\n").as_bytes()), send(Part::Body, octets)]
}

/// The reply to a chunk that is accepted.
fn ok() -> Vec<Unit> {
    vec![expect("2")]
}

/// One chunk with texts of all kinds.
fn contents() -> Vec<Case> {
    let text = |text: &[u8]| Draft::new().text(&[b"The text of __TOKEN__", text].concat());
    let binary = |draft: Draft| draft.mail(b"MAIL FROM:<__SOURCE__> BODY=BINARYMIME\r\n");
    let [mail, _, data, message] = forged();
    // The octets are counted, so nothing in them may have a length that is unknown here, such as a recipient.
    let session = [&b"\r\n.\r\n"[..], &mail, b"RCPT TO:<postmaster>\r\n", &data, &message].concat();
    let drafts = [
        ("plain", text(b".\r\n")),
        ("no-line-end", text(b"")),
        ("dots", text(b"\r\n.\r\n..\r\n.x\r\n..x\r\n")),
        ("dot-last", text(b"\r\n.\r\n")),
        ("bare-lf", text(b"\none\ntwo\r\n")),
        ("bare-cr", text(b"\rone\rtwo\r\n")),
        ("nul", text(b"\0one\0two\r\n")),
        ("lf-dot-lf", text(b"\n.\nMAIL FROM:<>\r\n")),
        ("latin1", text(b"caf\xe9\r\n")),
        ("long-line", text(&[b'x'; 70_000])),
        ("lf-header", text(b"\r\n").lf_header()),
        ("header-nul", text(b"\r\n").line(b"X-Value: one\0two\r\n")),
        ("session", text(&session)),
        ("no-header", Draft::new().header(&[]).body(b"The text of __TOKEN__\r\n".to_vec())),
        ("leading-dot", Draft::new().header(&[]).body(b".\r\nThe text of __TOKEN__\r\n".to_vec())),
        ("empty", Draft::new().header(&[]).body(Vec::new())),
        ("binary-plain", binary(text(b".\r\n"))),
        ("binary-octets", binary(text(b"\r\0\n\xff\r\r\n\n.\r\n"))),
    ];
    drafts.iter().map(|(name, draft)| case(&format!("one/{name}"), draft, chunk(&draft.content(), true))).collect()
}

/// The message in several chunks, malformed chunks, and DATA between chunks.
fn commands() -> Vec<Case> {
    let draft = Draft::new();
    let content = draft.content();
    let (first, second) = content.split_at(content.len() / 2);
    let at_line_end = content.windows(2).position(|window| window == b"\r\n").unwrap_or_default();
    let text = || [vec![send(Part::Data, b"DATA\r\n"), expect("354")], draft.text_units()].concat();
    let [mail, rcpt, data, message] = forged();
    let forged_session = || vec![send(Part::Tail, &[&mail[..], &rcpt, &data, &message].concat())];
    let cases: Vec<(&str, Vec<Vec<Unit>>)> = vec![
        ("two", vec![chunk(first, false), ok(), chunk(second, true)]),
        ("two-at-once", vec![chunk(first, false), chunk(second, true), ok()]),
        ("last-empty", vec![chunk(&content, false), ok(), chunk(b"", true)]),
        ("first-empty", vec![chunk(b"", false), ok(), chunk(&content, true)]),
        (
            "cut-in-line-end",
            vec![chunk(&content[..=at_line_end], false), ok(), chunk(&content[at_line_end + 1..], true)],
        ),
        (
            "octet-by-octet",
            (0..8)
                .map(|at| [chunk(&content[at..=at], false), ok()].concat())
                .chain([chunk(&content[8..], true)])
                .collect(),
        ),
        ("never-last", vec![chunk(&content, false), ok()]),
        ("behind-last", vec![chunk(&content, true), ok(), chunk(b"more\r\n", true)]),
        ("then-data", vec![chunk(first, false), ok(), text()]),
        ("data-then", vec![text(), ok(), chunk(b"more\r\n", true)]),
        ("then-reset", vec![chunk(first, false), ok(), vec![send(Part::Data, b"RSET\r\n")]]),
        ("then-mail", vec![chunk(first, false), ok(), vec![send(Part::Data, &mail)]]),
        (
            "lower-case",
            vec![vec![
                send(Part::Data, format!("bdat {} last\r\n", content.len()).as_bytes()),
                send(Part::Body, &content),
            ]],
        ),
        ("zeros", vec![announced(&format!("000{}", content.len()), &content, true)]),
        ("no-size", vec![vec![send(Part::Data, b"BDAT\r\n")]]),
        ("no-number", vec![vec![send(Part::Data, b"BDAT x LAST\r\n")]]),
        ("hexadecimal", vec![vec![send(Part::Data, b"BDAT 0x10 LAST\r\n")]]),
        ("negative", vec![vec![send(Part::Data, b"BDAT -1 LAST\r\n")]]),
        ("plus", vec![announced(&format!("+{}", content.len()), &content, true)]),
        ("huge", vec![vec![send(Part::Data, b"BDAT 18446744073709551617 LAST\r\nx")]]),
        (
            "three-words",
            vec![vec![
                send(Part::Data, format!("BDAT {} LAST FIRST\r\n", content.len()).as_bytes()),
                send(Part::Body, &content),
            ]],
        ),
        (
            "other-word",
            vec![vec![
                send(Part::Data, format!("BDAT {} FIRST\r\n", content.len()).as_bytes()),
                send(Part::Body, &content),
            ]],
        ),
        // What exceeds the announced size is read as commands.
        ("more-than-announced", vec![chunk(&content, true), forged_session()]),
        (
            "lf",
            vec![vec![
                send(Part::Data, format!("BDAT {} LAST\n", content.len()).as_bytes()),
                send(Part::Body, &content),
            ]],
        ),
    ];
    let mut cases: Vec<_> = cases.into_iter().map(|(name, units)| case(name, &draft, units.concat())).collect();
    let unknown = Draft::new().recipients(&[]);
    cases.push(case("no-recipient", &unknown, chunk(&content, true)));
    let nothing = vec![send(Part::Helo, b"EHLO client.example\r\n"), expect("2")];
    cases.push(Case {
        name: "bdat/no-mail".to_owned(),
        units: [nothing, chunk(b"RSET\r\nNOOP\r\n", true), quit()].concat(),
    });
    let binary = Draft::new().mail(b"MAIL FROM:<__SOURCE__> BODY=BINARYMIME\r\n");
    cases.push(case("binary-with-data", &binary, text()));
    cases
}
