//! Octets that some servers take for the end of a text, each with a second message behind them.

use super::draft::{Draft, Tail};
use crate::case::Case;

/// Each variant, in one piece with what follows and with a pause behind it, and with either line end in the header.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, end) in VARIANTS {
        for (manner, tail) in [("blob", Tail::Blob), ("paced", Tail::Paced)] {
            let draft = draft(end).tail(tail);
            cases.push(draft.case(format!("end-of-data/{name}/{manner}/crlf-header")));
            cases.push(draft.lf_header().case(format!("end-of-data/{name}/{manner}/lf-header")));
        }
    }
    cases
}

/// The cases for the short run, with an ordinary header.
pub(super) fn short() -> Vec<Case> {
    cases().into_iter().filter(|case| case.name.ends_with("/crlf-header")).collect()
}

/// The text goes up to the variant, without any other line end.
fn draft(end: &[u8]) -> Draft {
    Draft::new().text(b"The text of __TOKEN__ before").end(end)
}

/// Only CR LF `.` CR LF ends a text (RFC 5321, 4.1.1.4). `CRCRLF.CRLF` contains that.
pub(super) const VARIANTS: &[(&str, &[u8])] = &[
    ("LF.LF", b"\n.\n"),
    ("LF.CRLF", b"\n.\r\n"),
    ("LF.CR", b"\n.\r"),
    ("CRLF.LF", b"\r\n.\n"),
    ("CRLF.CR", b"\r\n.\r"),
    ("CR.CR", b"\r.\r"),
    ("CR.LF", b"\r.\n"),
    ("CR.CRLF", b"\r.\r\n"),
    ("CRLF-NUL.CRLF", b"\r\n\0.\r\n"),
    ("CRLF.NUL-CRLF", b"\r\n.\0\r\n"),
    ("CRLF.CRCRLF", b"\r\n.\r\r\n"),
    ("CRCRLF.CRLF", b"\r\r\n.\r\n"),
    ("CRCRLF.CRCRLF", b"\r\r\n.\r\r\n"),
    ("CRLF-CR.CRLF", b"\r\n\r.\r\n"),
    ("CRLF..CRLF", b"\r\n..\r\n"),
    ("CRLF.SP-CRLF", b"\r\n. \r\n"),
    ("CRLF.TAB-CRLF", b"\r\n.\t\r\n"),
    ("CRLF.VT-CRLF", b"\r\n.\x0b\r\n"),
    ("CRLF.NEL", b"\r\n.\x85"),
];
