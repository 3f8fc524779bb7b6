//! Commands that are pipelined, too early, in another order, or not SMTP at all.

use std::time::Duration;

use super::draft::{Draft, FORGED_SENDER, expect, forged, quit, send};
use crate::case::{Case, Part, Unit};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = together();
    cases.extend(out_of_order());
    cases.extend(line_ends());
    cases.extend(in_pieces());
    for (name, lines) in FOREIGN {
        let mut units = vec![send(Part::Helo, lines)];
        units.extend(lines.windows(2).filter(|pair| pair == b"\r\n").map(|_| expect("")));
        units.extend(Draft::new().envelope());
        units.extend(text());
        cases.push(Case { name: format!("pipelining/foreign/{name}"), units });
    }
    cases
}

/// DATA with its reply, an ordinary message, and the end of the session.
fn text() -> Vec<Unit> {
    let mut units = vec![send(Part::Data, b"DATA\r\n"), expect("354")];
    units.extend(Draft::new().text_units());
    units.extend(quit());
    units
}

const EHLO: &[u8] = b"EHLO client.example\r\n";
const MAIL: &[u8] = b"MAIL FROM:<__SOURCE__>\r\n";
const RCPT: &[u8] = b"RCPT TO:<__DEST__>\r\n";
const SECOND_RCPT: &[u8] = b"RCPT TO:<__DEST2__>\r\n";
const UNKNOWN_RCPT: &[u8] = b"RCPT TO:<nobody-of-this-name@__HOST__>\r\n";
const DATA: &[u8] = b"DATA\r\n";

fn hello() -> Vec<Unit> {
    vec![send(Part::Helo, EHLO), expect("2")]
}

/// Parts of a session, each with the reply to wait for, if any.
fn steps(steps: &[(Part, &[u8], Option<&str>)]) -> Vec<Unit> {
    let step = |(part, octets, code): &(Part, &[u8], Option<&str>)| {
        [Some(send(*part, octets)), code.map(expect)].into_iter().flatten().collect::<Vec<_>>()
    };
    steps.iter().flat_map(step).collect()
}

fn together() -> Vec<Case> {
    let message = Draft::new().message();
    let [forged_mail, forged_rcpt, forged_data, forged_message] = forged();
    let (ok, go) = (Some("2"), Some("354"));
    let case = |name: &str, units: Vec<Vec<Unit>>| Case { name: format!("pipelining/{name}"), units: units.concat() };
    let envelope = [(Part::Mail, MAIL, None), (Part::Rcpt, RCPT, None)];
    vec![
        case(
            "group",
            vec![
                hello(),
                steps(&envelope),
                steps(&[(Part::Data, DATA, ok)]),
                vec![expect("2"), expect("354")],
                Draft::new().text_units(),
                quit(),
            ],
        ),
        case(
            "group-two-recipients",
            vec![
                hello(),
                steps(&envelope),
                steps(&[(Part::Rcpt, SECOND_RCPT, None), (Part::Data, DATA, ok)]),
                vec![expect("2"), expect("2"), expect("354")],
                Draft::new().text_units(),
                quit(),
            ],
        ),
        case(
            "group-unknown-recipient",
            vec![
                hello(),
                steps(&envelope),
                steps(&[(Part::Rcpt, UNKNOWN_RCPT, None), (Part::Data, DATA, ok)]),
                vec![expect("2"), expect(""), expect("354")],
                Draft::new().text_units(),
                quit(),
            ],
        ),
        case(
            "hello-in-group",
            vec![
                steps(&[(Part::Helo, EHLO, None)]),
                steps(&envelope),
                steps(&[(Part::Data, DATA, ok)]),
                vec![expect("2"), expect("2"), expect("354")],
                Draft::new().text_units(),
                quit(),
            ],
        ),
        case(
            "text-with-data",
            vec![
                hello(),
                steps(&envelope),
                steps(&[(Part::Data, DATA, None)]),
                Draft::new().text_units(),
                vec![expect("2"), expect("2"), expect("354")],
                quit(),
            ],
        ),
        case(
            "everything",
            vec![
                steps(&[(Part::Helo, EHLO, None)]),
                steps(&envelope),
                steps(&[(Part::Data, DATA, None)]),
                Draft::new().text_units(),
                steps(&[(Part::Quit, b"QUIT\r\n", Some(""))]),
                (0..5).map(|_| expect("")).collect(),
            ],
        ),
        // The only recipient is refused. Is the text taken for commands?
        case(
            "everything-refused",
            vec![
                hello(),
                steps(&[(Part::Mail, MAIL, None), (Part::Rcpt, UNKNOWN_RCPT, None), (Part::Data, DATA, None)]),
                steps(&[(Part::Header, b"Subject: case __TOKEN__\r\n", None)]),
                steps(&[(Part::Body, b"\r\nThe text of __TOKEN__.\r\nRSET\r\n", None)]),
                steps(&[(Part::Body, &forged_mail, None), (Part::Body, &forged_rcpt, None)]),
                steps(&[(Part::Body, &forged_data, None), (Part::Body, &forged_message, Some(""))]),
                (0..3).map(|_| expect("")).collect(),
                quit(),
            ],
        ),
        case(
            "quit-with-end",
            vec![
                Draft::new().envelope(),
                steps(&[(Part::Data, DATA, go)]),
                Draft::new().text_units(),
                steps(&[(Part::Quit, b"QUIT\r\n", Some(""))]),
                vec![expect("")],
            ],
        ),
        case(
            "commands-with-end",
            vec![
                Draft::new().envelope(),
                steps(&[(Part::Data, DATA, go), (Part::End, &message, None)]),
                steps(&[(Part::Tail, &forged_mail, None), (Part::Tail, &forged_rcpt, None)]),
                steps(&[(Part::Tail, &forged_data, Some("")), (Part::Tail, b"", ok)]),
                vec![expect("2"), expect("354")],
                steps(&[(Part::Tail, &forged_message, None)]),
                quit(),
            ],
        ),
        case(
            "two-messages",
            vec![
                Draft::new().envelope(),
                steps(&[(Part::Data, DATA, go), (Part::End, &message, ok)]),
                steps(&[(Part::Tail, &forged_mail, ok), (Part::Tail, &forged_rcpt, ok)]),
                steps(&[(Part::Tail, &forged_data, go), (Part::Tail, &forged_message, None)]),
                quit(),
            ],
        ),
        case(
            "behind-quit",
            vec![
                hello(),
                steps(&[(Part::Quit, b"QUIT\r\n", None), (Part::Tail, &forged_mail, None)]),
                steps(&[(Part::Tail, &forged_rcpt, None), (Part::Tail, &forged_data, None)]),
                steps(&[(Part::Tail, &forged_message, Some(""))]),
            ],
        ),
    ]
}

fn out_of_order() -> Vec<Case> {
    let (ok, any) = (Some("2"), Some(""));
    let second_mail = format!("MAIL FROM:<{FORGED_SENDER}>\r\n");
    let prologues: [(&str, Vec<Unit>); 19] = [
        ("mail-first", steps(&[(Part::Mail, MAIL, ok), (Part::Rcpt, RCPT, ok)])),
        ("rcpt-first", steps(&[(Part::Helo, EHLO, ok), (Part::Rcpt, RCPT, any), (Part::Mail, MAIL, ok)])),
        (
            "rcpt-first-and-again",
            steps(&[(Part::Helo, EHLO, ok), (Part::Rcpt, RCPT, any), (Part::Mail, MAIL, ok), (Part::Rcpt, RCPT, ok)]),
        ),
        ("no-rcpt", steps(&[(Part::Helo, EHLO, ok), (Part::Mail, MAIL, ok)])),
        ("no-mail", steps(&[(Part::Helo, EHLO, ok), (Part::Rcpt, RCPT, any)])),
        (
            "second-mail",
            steps(&[
                (Part::Helo, EHLO, ok),
                (Part::Mail, MAIL, ok),
                (Part::Mail, second_mail.as_bytes(), any),
                (Part::Rcpt, RCPT, ok),
            ]),
        ),
        (
            "second-mail-behind-rcpt",
            steps(&[
                (Part::Helo, EHLO, ok),
                (Part::Mail, MAIL, ok),
                (Part::Rcpt, RCPT, ok),
                (Part::Mail, second_mail.as_bytes(), any),
            ]),
        ),
        (
            "mail-lf-rcpt",
            steps(&[(Part::Helo, EHLO, ok), (Part::Mail, b"MAIL FROM:<__SOURCE__>\nRCPT TO:<__DEST__>\r\n", any)]),
        ),
        ("reset", within(b"RSET\r\n")),
        ("hello-within", within(EHLO)),
        ("helo-within", within(b"HELO other.example\r\n")),
        ("noop-within", within(b"NOOP\r\n")),
        ("noop-argument-within", within(b"NOOP of no use\r\n")),
        ("verify-within", within(b"VRFY nobody\r\n")),
        ("help-within", within(b"HELP\r\n")),
        ("unknown-within", within(b"XFOO\r\n")),
        ("empty-line-within", within(b"\r\n")),
        ("data-argument-within", within(b"DATA now\r\n")),
        ("turn-within", within(b"TURN\r\n")),
    ];
    let mut cases: Vec<_> = prologues
        .into_iter()
        .map(|(name, prologue)| Case { name: format!("pipelining/order/{name}"), units: [prologue, text()].concat() })
        .collect();
    let nothing = [hello(), vec![send(Part::Quit, b"QUIT\r\n"), expect("")]].concat();
    cases.push(Case { name: "pipelining/order/nothing".to_owned(), units: nothing });
    cases
}

/// A complete envelope with this command behind it.
fn within(line: &[u8]) -> Vec<Unit> {
    [Draft::new().envelope(), vec![send(Part::Rcpt, line), expect("")]].concat()
}

/// Commands that do not end with CR LF.
fn line_ends() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, end) in
        [("LF", &b"\n"[..]), ("CR", b"\r"), ("CRCRLF", b"\r\r\n"), ("LFCR", b"\n\r"), ("NUL-CRLF", b"\0\r\n")]
    {
        let units: Vec<_> = [Draft::new().envelope(), text()]
            .concat()
            .into_iter()
            .map(|unit| match unit {
                Unit::Send {
                    part: part @ (Part::Helo | Part::Mail | Part::Rcpt | Part::Data | Part::Quit),
                    octets,
                } => {
                    let line = octets.strip_suffix(b"\r\n").unwrap_or(&octets);
                    send(part, &[line, end].concat())
                }
                unit => unit,
            })
            .collect();
        cases.push(Case { name: format!("pipelining/line-end/{name}"), units: units.clone() });
        // DATA alone.
        let units = [
            Draft::new().envelope(),
            vec![send(Part::Data, &[b"DATA", end].concat()), expect("354")],
            Draft::new().text_units(),
            quit(),
        ];
        cases.push(Case { name: format!("pipelining/line-end/{name}/data"), units: units.concat() });
    }
    cases
}

/// The end of the data, and the end of a command, in pieces one after another.
fn in_pieces() -> Vec<Case> {
    let end = b"\r\n.\r\n";
    let mut cases = Vec::new();
    for cut in 1..end.len() {
        let draft = Draft::new().text(b"The text of __TOKEN__.").end(&end[..cut]);
        let rest = vec![Unit::Pause(GAP), send(Part::End, &end[cut..])];
        let units = [draft.envelope(), vec![send(Part::Data, DATA), expect("354")], draft.text_units(), rest, quit()];
        cases.push(Case { name: format!("pipelining/pieces/end-{cut}"), units: units.concat() });
    }
    // There is no pause behind the last piece, because the reply would come in it and not be waited for any more.
    let octet_by_octet = |octets: &[u8], part| {
        let paced = octets.iter().flat_map(|octet| [Unit::Pause(GAP), send(part, &[*octet])]);
        paced.skip(1).collect()
    };
    let hello: Vec<Unit> = octet_by_octet(EHLO, Part::Helo);
    let rest = Draft::new().envelope().split_off(1);
    cases.push(Case { name: "pipelining/pieces/hello".to_owned(), units: [hello, rest, text()].concat() });
    let message: Vec<Unit> = octet_by_octet(b"\r\n.\r\n", Part::End);
    let draft = Draft::new().text(b"The text of __TOKEN__.").end(b"");
    let units = [draft.envelope(), vec![send(Part::Data, DATA), expect("354")], draft.text_units(), message, quit()];
    cases.push(Case { name: "pipelining/pieces/end-by-octet".to_owned(), units: units.concat() });
    cases
}

/// Long enough for a piece to arrive separately.
const GAP: Duration = Duration::from_millis(20);

/// What is no SMTP.
const FOREIGN: &[(&str, &[u8])] = &[
    ("http-get", b"GET / HTTP/1.1\r\nHost: server.example\r\n\r\n"),
    ("http-post", b"POST / HTTP/1.1\r\n"),
    ("http-connect", b"CONNECT server.example:25 HTTP/1.1\r\n"),
    ("proxy", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n"),
    ("proxy-binary", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ("tls", b"\x16\x03\x01\0\x05\x01\0\0\x01\0\r\n"),
    ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("telnet", b"\xff\xf4\xff\xfd\x06\r\n"),
    ("json", b"{\"a\": 1}\r\n"),
    ("blanks", b"   \r\n"),
    ("pop", b"USER recipient\r\n"),
    ("imap", b"a LOGIN recipient x\r\n"),
    ("starttls-argument", b"STARTTLS now\r\n"),
    ("auth-unknown", b"AUTH NOTHING\r\n"),
];
