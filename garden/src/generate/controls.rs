//! Clean mails, which a server should treat like all others.
//!
//! These are others than those in [`crate::compare::controls`], from which servers are learned. They are judged with
//! what was learned. A mail that was learned from would always be explained by that, whatever the server did.

use super::draft::Draft;
use crate::case::Case;

/// Clean mails, and one for each field that servers are known to add if it is missing.
pub fn controls() -> Vec<Case> {
    let mut cases = vec![
        Draft::new().case("controls/clean/plain"),
        Draft::new()
            .text(b"The text of __TOKEN__.\r\n\r\nIn two paragraphs,\r\nof some lines.\r\n")
            .case("controls/clean/lines"),
        folded().case("controls/clean/folded"),
        mime().case("controls/clean/mime"),
        Draft::new().hello(b"HELO client.example\r\n").case("controls/clean/helo"),
    ];
    for field in ["Date", "Message-ID", "From", "To", "Subject"] {
        cases.push(Draft::new().without(field).case(format!("controls/no-{field}")));
    }
    cases
}

fn folded() -> Draft {
    let fields = b"X-Folded: one\r\n two\r\n\tthree\r\nReferences: <a@client.example>\r\n <b@client.example>\r\n";
    Draft::new().line(fields)
}

fn mime() -> Draft {
    let text = b"--=_1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nThe text of __TOKEN__.\r\n\
        --=_1\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>The text of __TOKEN__.</p>\r\n--=_1--\r\n";
    Draft::new()
        .line(b"MIME-Version: 1.0\r\n")
        .line(b"Content-Type: multipart/alternative; boundary=\"=_1\"\r\n")
        .text(text)
}
