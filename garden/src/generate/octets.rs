//! Octets that mail should not contain, and other alphabets, at every place of a session.

use super::draft::Draft;
use crate::case::Case;

/// CR, LF and NUL alone at each place; other control characters and octets above 127 in header and text.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = LONELY.iter().flat_map(|(name, octet)| everywhere(name, octet)).collect();
    for (name, octets) in OTHERS {
        cases.push(in_header(octets).case(format!("octets/{name}/header-value")));
        cases.push(in_text(octets).case(format!("octets/{name}/body")));
    }
    cases.extend(eight_bits());
    cases
}

/// The cases for the short run: in header, text and recipient.
pub(super) fn short() -> Vec<Case> {
    let places = ["/header-value", "/header-end", "/body", "/body-start", "/rcpt-local"];
    let cases = LONELY.iter().flat_map(|(name, octet)| everywhere(name, octet));
    cases.filter(|case| places.iter().any(|place| case.name.ends_with(place))).collect()
}

/// Octets that are half a line end, or the end of a string in C.
const LONELY: &[(&str, &[u8])] = &[("CR", b"\r"), ("LF", b"\n"), ("NUL", b"\0")];

const OTHERS: &[(&str, &[u8])] = &[
    ("CRCR", b"\r\r"),
    ("LFLF", b"\n\n"),
    ("LFCR", b"\n\r"),
    ("CRCRLF", b"\r\r\n"),
    ("NULNUL", b"\0\0"),
    ("SOH", b"\x01"),
    ("EOT", b"\x04"),
    ("BS", b"\x08"),
    ("VT", b"\x0b"),
    ("FF", b"\x0c"),
    ("SUB", b"\x1a"),
    ("ESC", b"\x1b"),
    ("FS", b"\x1c"),
    ("DEL", b"\x7f"),
    ("NEL", b"\x85"),
    ("utf8-NEL", b"\xc2\x85"),
    ("utf8-line-separator", b"\xe2\x80\xa8"),
    ("overlong-CRLF", b"\xc0\x8d\xc0\x8a"),
    ("overlong-dot", b"\xc0\xae"),
    ("utf16-CRLF", b"\0\r\0\n"),
];

fn everywhere(name: &str, octet: &[u8]) -> Vec<Case> {
    let around = |before: &[u8], behind: &[u8]| [before, octet, behind].concat();
    let drafts = [
        ("hello", Draft::new().hello(&around(b"EHLO client", b".example\r\n"))),
        ("mail-local", Draft::new().mail(&around(b"MAIL FROM:<sen", b"der@client.example>\r\n"))),
        ("mail-domain", Draft::new().mail(&around(b"MAIL FROM:<sender@client", b".example>\r\n"))),
        ("mail-end", Draft::new().mail(&around(b"MAIL FROM:<__SOURCE__>", b"\r\n"))),
        ("rcpt-local", Draft::new().recipients(&[&around(b"RCPT TO:<__USER__", b"@__HOST__>\r\n")])),
        ("rcpt-domain", Draft::new().recipients(&[&around(b"RCPT TO:<__DEST__", b"x>\r\n")])),
        ("rcpt-end", Draft::new().recipients(&[&around(b"RCPT TO:<__DEST__>", b"\r\n")])),
        ("header-first", Draft::new().first_line(octet)),
        ("header-name", Draft::new().line(&around(b"X-Na", b"me: value\r\n"))),
        // What follows looks like a separate field.
        ("header-value", in_header(octet)),
        ("header-end", Draft::new().line(&around(b"X-Value: before", b"\r\n")).line(b"X-Behind: next\r\n")),
        ("subject", Draft::new().instead("Subject", &around(b"Subject: case __TOKEN__ before", b"behind\r\n"))),
        ("body", in_text(octet)),
        ("body-start", Draft::new().text(&around(b"", b"The text of __TOKEN__.\r\n"))),
        ("body-end", Draft::new().text(&around(b"The text of __TOKEN__.", b"\r\n"))),
        ("body-lines", Draft::new().text(&around(&around(b"One of __TOKEN__", b"two"), b"three\r\n"))),
        ("separator", Draft::new().body(around(b"", b"The text of __TOKEN__.\r\n"))),
    ];
    drafts.into_iter().map(|(place, draft)| draft.case(format!("octets/{name}/{place}"))).collect()
}

fn in_header(octets: &[u8]) -> Draft {
    Draft::new().line(&[b"X-Value: before", octets, b"X-Behind: the same line\r\n"].concat())
}

fn in_text(octets: &[u8]) -> Draft {
    Draft::new().text(&[b"The text of __TOKEN__ before", octets, b"behind.\r\nAnd more.\r\n"].concat())
}

/// Text beyond ASCII, with and without announcement.
fn eight_bits() -> Vec<Case> {
    let announcements: [(&str, &[u8]); 4] = [
        ("unannounced", b"MAIL FROM:<__SOURCE__>\r\n"),
        ("7bit", b"MAIL FROM:<__SOURCE__> BODY=7BIT\r\n"),
        ("8bitmime", b"MAIL FROM:<__SOURCE__> BODY=8BITMIME\r\n"),
        ("smtputf8", b"MAIL FROM:<__SOURCE__> BODY=8BITMIME SMTPUTF8\r\n"),
    ];
    let alphabets: [(&str, &[u8]); 3] =
        [("latin1", b"caf\xe9"), ("utf8", b"caf\xc3\xa9"), ("broken-utf8", b"caf\xc3\xc3")];
    let mut cases = Vec::new();
    for (announcement, mail) in announcements {
        for (alphabet, word) in alphabets {
            let mime = |draft: Draft| {
                let draft = draft.mail(mail).line(b"MIME-Version: 1.0\r\n");
                draft.line(b"Content-Type: text/plain\r\n").line(b"Content-Transfer-Encoding: 8bit\r\n")
            };
            let header = mime(Draft::new()).line(&[b"X-Value: ", word, b"\r\n"].concat());
            let body = mime(Draft::new()).text(&[b"The text of __TOKEN__, ", word, b".\r\n"].concat());
            cases.push(header.case(format!("octets/{alphabet}/{announcement}/header-value")));
            cases.push(body.case(format!("octets/{alphabet}/{announcement}/body")));
        }
    }
    cases
}
