//! Clean mails of ordinary kinds. What a server does to these it does to every message, so that is learned from them.

use crate::case::{Case, Part, Unit};

/// How many controls there are without any peculiarity.
const CLEAN: usize = 3;

/// The fields that a server may add if they are missing.
pub(super) const COMPLETED: [&str; 4] = ["Date", "Message-ID", "From", "To"];

/// The same for a message that was sent again (Resent- fields).
pub(super) const RESENT_COMPLETED: [&str; 2] = ["Resent-From", "Resent-Message-ID"];

/// Fields that servers are known to remove, because they are their own or not meant for everybody.
const REMOVED: &str = "Return-Path: <return@elsewhere.example>\r\n\
    X-Original-To: original@elsewhere.example\r\n\
    Delivered-To: delivered@elsewhere.example\r\n\
    Bcc: bcc@elsewhere.example\r\n\
    Resent-Bcc: resent@elsewhere.example\r\n\
    Content-Length: 7\r\n\
    Lines: 1\r\n\
    Status: RO\r\n\
    X-Status: A\r\n\
    Errors-To: errors@elsewhere.example\r\n\
    Apparently-To: apparently@elsewhere.example\r\n\
    Delivery-Date: Fri, 27 Nov 2026 09:00:00 +0000\r\n\
    Envelope-To: envelope@elsewhere.example\r\n\
    Return-Receipt-To: receipt@elsewhere.example\r\n";

/// Addresses as people write them.
const SPELLED: [&str; 3] = [
    "From: \"Some One\" <__SOURCE__>\r\n\
     To: <__DEST__>,\r\n\tOther One <other@elsewhere.example>\r\n\
     Cc: Three <three@elsewhere.example>, \"Four, of four\" <four@elsewhere.example>,\r\n five@elsewhere.example\r\n\
     Sender:  <sender@elsewhere.example>\r\n\
     Reply-To: Some One <reply@elsewhere.example>\r\n",
    "From: __SOURCE__ (Some One)\r\n\
     To: Some: <a@elsewhere.example>, b@elsewhere.example;\r\n\
     Cc: =?utf-8?q?Three?= <three@elsewhere.example>,\r\n =?utf-8?q?Four?=\r\n  <four@elsewhere.example>\r\n\
     Reply-To: \"Some One\"\r\n\t<reply@elsewhere.example>, other@elsewhere.example\r\n",
    "From:  <__SOURCE__>\r\n\
     To:  <__DEST__>\r\n\
     Cc: <cc@elsewhere.example>, <other@elsewhere.example>\r\n\
     Sender: Some One <sender@elsewhere.example>\r\n\
     Reply-To: <reply@elsewhere.example>\r\n",
];

/// Fields that are folded over several lines.
const FOLDED: &str = "Comments: =?utf-8?q?one?= \r\n\t=?utf-8?q?two?=\r\n   three\r\n\
    In-Reply-To:\r\n <one@elsewhere.example>\r\n\
    References: <one@elsewhere.example>\r\n\t<two@elsewhere.example>\r\n <three@elsewhere.example>\r\n\
    X-Folded:  one\r\n two\r\n\tthree \r\n";

/// One of those fields that no server knows: what happens to it can happen to any field.
pub(super) const ANY_FIELD: &str = "x-folded";

/// The fields of a message that somebody else has sent again.
const RESENT: &str = "Resent-To: resent@elsewhere.example\r\nResent-Date: Fri, 27 Nov 2026 09:00:00 +0000\r\n";

/// Messages with several parts, and encoded ones: their names, fields and texts.
const OF_MIME: [(&str, &str, &str); 5] = [
    (
        "parts",
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"one\"\r\nContent-Transfer-Encoding: 7bit\r\n",
        "--one\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n__TOKEN__\r\nThe text.\r\n\
         --one\r\nContent-Type: Application/X-Any; name=\"a\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQF\r\n--one--\r\n",
    ),
    (
        "plain",
        "X-Folded:  one \r\n\ttwo\r\n three \r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
        "__TOKEN__\r\nThe text.\r\n",
    ),
    (
        "quoted",
        "Mime-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n",
        "__TOKEN__\r\nOne =E2=82=AC, and a =\r\nline.\r\n",
    ),
    (
        "message",
        "MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\nX-Token: __TOKEN__\r\n",
        "Subject: within\r\nFrom: <within@elsewhere.example>\r\nMIME-version: 1.0\r\nContent-type: text/plain\r\n\r\n__TOKEN__\r\n",
    ),
    (
        "encoded",
        "MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\
         X-Token: __TOKEN__\r\n",
        "PHA+T25lIOKCrCwgYW5kIGEgbGluZS48L3A+DQo=\r\n",
    ),
];

/// The cases that are held with every server before all others. They are learned from and not judged. Those from
/// [`crate::generate::controls`] are judged, and show whether what was learned also holds for clean mails of other
/// forms.
pub fn controls() -> Vec<Case> {
    let mut cases: Vec<_> = (1..=CLEAN).map(|number| control(&format!("clean-{number}"), &COMPLETED, "", 1)).collect();
    for missing in COMPLETED {
        let others: Vec<_> = COMPLETED.into_iter().filter(|name| *name != missing).collect();
        cases.push(control(&format!("without-{}", missing.to_ascii_lowercase()), &others, "", 1));
    }
    cases.push(control("without-all", &[], "", 1));
    // Where a server adds fields to a short header depends on what else is in it.
    cases.push(with_header("without-subject", "X-Last: of the header\r\n", 1));
    cases.push(with_header("without-header", "", 1));
    cases.push(control("removed", &COMPLETED, REMOVED, 1));
    cases.push(control("two-recipients", &COMPLETED, "", 2));
    for (number, fields) in SPELLED.iter().enumerate() {
        cases.push(control(&format!("spelled-{}", number + 1), &["Date", "Message-ID"], fields, 1));
    }
    cases.push(control("folded", &COMPLETED, FOLDED, 1));
    cases.push(control("resent", &COMPLETED, RESENT, 1));
    for (name, fields, text) in OF_MIME {
        let header = header(&COMPLETED, fields);
        cases.push(with_text(&format!("{MIME}{name}"), &header, &format!("\r\n{text}"), 1));
    }
    cases
}

/// The beginning of the names of controls with several parts.
pub(super) const MIME: &str = "mime-";

fn control(name: &str, fields: &[&str], more: &str, recipients: usize) -> Case {
    with_header(name, &header(fields, more), recipients)
}

fn header(fields: &[&str], more: &str) -> String {
    let mut header = String::from("Subject: control __TOKEN__\r\n");
    for field in fields {
        header.push_str(match *field {
            "Date" => "Date: Fri, 27 Nov 2026 09:00:00 +0000\r\n",
            "Message-ID" => "Message-ID: <__TOKEN__@elsewhere.example>\r\n",
            "From" => "From: __SOURCE__\r\n",
            _ => "To: __DEST__\r\n",
        });
    }
    header.push_str(more);
    header.push_str("X-Last: of the header\r\n");
    header
}

fn with_header(name: &str, header: &str, recipients: usize) -> Case {
    with_text(name, header, "\r\n__TOKEN__\r\nFrom here on it is text.\r\n\r\nThe end.\r\n", recipients)
}

fn with_text(name: &str, header: &str, body: &str, recipients: usize) -> Case {
    let steps = [
        (Part::Helo, "EHLO client.example\r\n".to_owned(), ""),
        (Part::Mail, "MAIL FROM:<__SOURCE__>\r\n".into(), "2"),
    ];
    let recipients = ["__DEST__", "__DEST2__"]
        .into_iter()
        .take(recipients)
        .map(|address| (Part::Rcpt, format!("RCPT TO:<{address}>\r\n"), "2"));
    let mut units = Vec::new();
    for (part, octets, code) in steps.into_iter().chain(recipients).chain([(Part::Data, "DATA\r\n".into(), "354")]) {
        units.push(Unit::Send { part, octets: octets.into_bytes() });
        units.push(Unit::Expect { code: code.into() });
    }
    let pieces = [(Part::Header, header), (Part::Body, body), (Part::End, ".\r\n")];
    for (part, octets) in pieces.into_iter().filter(|(_, octets)| !octets.is_empty()) {
        units.push(Unit::Send { part, octets: octets.as_bytes().to_vec() });
    }
    units.push(Unit::Expect { code: "2".into() });
    units.push(Unit::Send { part: Part::Quit, octets: b"QUIT\r\n".to_vec() });
    units.push(Unit::Expect { code: String::new() });
    Case { name: format!("control/{name}"), units }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::text::{LineEnds, Text, sent};

    #[test]
    fn the_controls_are_what_they_are_called() {
        let names: Vec<_> = controls().iter().map(|case| case.name.clone()).collect();
        assert_eq!(names.len(), 22);
        for missing in COMPLETED {
            let name = format!("control/without-{}", missing.to_ascii_lowercase());
            let case = controls().into_iter().find(|case| case.name == name).unwrap();
            let header = Text::parse(&sent(&case)[0].octets, LineEnds::Wire);
            assert!(!header.has(&missing.to_ascii_lowercase()));
            assert_eq!(header.fields.len(), 5);
        }
    }
}
