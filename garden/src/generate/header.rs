//! Unusual headers, and fields that occur twice.

use super::draft::Draft;
use crate::case::Case;

/// Odd headers.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = LINES.iter().map(|(name, line)| with_line(line).case(format!("header/{name}"))).collect();
    for (name, line) in LINES {
        cases.push(Draft::new().first_line(line).case(format!("header/{name}/first")));
    }
    for (field, names) in INSTEAD {
        cases.extend(
            names.iter().map(|(name, line)| Draft::new().instead(field, line).case(format!("header/{field}/{name}"))),
        );
    }
    cases.extend(shapes());
    cases
}

/// A header in which another line follows this one, so that the effect on it is seen.
fn with_line(line: &[u8]) -> Draft {
    Draft::new().line(line).line(b"X-Behind: next\r\n")
}

/// Lines with their names.
type Lines = &'static [(&'static str, &'static [u8])];

const LINES: Lines = &[
    ("no-colon", b"This is no field\r\n"),
    ("no-colon-word", b"Word\r\n"),
    ("no-name", b": value\r\n"),
    ("no-value", b"X-Value:\r\n"),
    ("blank-value", b"X-Value: \r\n"),
    ("no-blank", b"X-Value:value\r\n"),
    ("space-before-colon", b"X-Value : value\r\n"),
    ("tab-before-colon", b"X-Value\t: value\r\n"),
    ("space-in-name", b"X Value: value\r\n"),
    ("dot-in-name", b"X.Value: value\r\n"),
    ("slash-in-name", b"X/Value: value\r\n"),
    ("long-name", b"X-A-Name-That-Is-Longer-Than-Seventy-Eight-Octets-And-So-Fits-On-No-Line-Of-Its-Own-At-All: value\r\n"),
    ("leading-space", b" X-Value: value\r\n"),
    ("leading-tab", b"\tX-Value: value\r\n"),
    ("fold-space", b"X-Value: one\r\n two\r\n"),
    ("fold-tab", b"X-Value: one\r\n\ttwo\r\n"),
    ("fold-blank", b"X-Value: one\r\n \r\n two\r\n"),
    ("fold-blank-last", b"X-Value: one\r\n \r\n"),
    ("fold-at-once", b"X-Value:\r\n value\r\n"),
    ("fold-dot", b"X-Value: one\r\n .two\r\n"),
    ("fold-field", b"X-Value: one\r\n X-Inner: two\r\n"),
    ("fold-many", b"X-Value: a\r\n b\r\n c\r\n d\r\n e\r\n f\r\n g\r\n h\r\n i\r\n j\r\n"),
    ("trailing-blanks", b"X-Value: value \t \r\n"),
    ("from-line", b"From sender Mon Nov  2 10:20:30 2026\r\n"),
    ("quoted-from-line", b">From sender Mon Nov  2 10:20:30 2026\r\n"),
    ("dot-field", b"..X-Value: value\r\n"),
    ("bcc", b"Bcc: hidden@server.example\r\n"),
    ("bcc-empty", b"Bcc:\r\n"),
    ("resent-bcc", b"Resent-Bcc: hidden@server.example\r\n"),
    ("resent", b"Resent-From: again@client.example\r\nResent-Date: Mon, 02 Nov 2026 10:20:31 +0000\r\nResent-To: recipient@server.example\r\n"),
    ("content-length", b"Content-Length: 3\r\n"),
    ("content-length-long", b"Content-Length: 100000\r\n"),
    ("status", b"Status: RO\r\nX-Status: A\r\nX-Keywords: NonJunk\r\n"),
    ("received", b"Received: from a.example (a.example [192.0.2.1]) by b.example with ESMTP id 1;\r\n\tMon, 02 Nov 2026 10:20:29 +0000\r\n"),
    ("received-odd", b"Received: nonsense\r\n"),
    ("precedence", b"Precedence: bulk\r\nAuto-Submitted: auto-replied\r\n"),
    ("errors-to", b"Errors-To: <errors@client.example>\r\nReturn-Receipt-To: <errors@client.example>\r\n"),
    ("sender", b"Sender: other@client.example\r\n"),
    ("encoded-word", b"X-Value: =?utf-8?q?one=0D=0AX-Inner:_two?=\r\n"),
    ("encoded-nul", b"X-Value: =?utf-8?b?AA==?=\r\n"),
    ("mime-version", b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"),
    ("mime-odd", b"MIME-Version: 9\r\nContent-Type: nonsense\r\nContent-Transfer-Encoding: nonsense\r\n"),
    ("mime-bare-boundary", b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\r\n"),
    ("dkim", b"DKIM-Signature: v=1; a=rsa-sha256; d=client.example; s=x; h=from;\r\n bh=x; b=x\r\n"),
];

/// Fields of every mail, written differently.
const INSTEAD: &[(&str, Lines)] = &[
    (
        "From",
        &[
            ("bare-local", b"From: sender\r\n"),
            ("bare-address", b"From: sender@client.example\r\n"),
            ("two", b"From: a@client.example, b@client.example\r\n"),
            ("group", b"From: Nobody:;\r\n"),
            ("empty", b"From:\r\n"),
            ("empty-address", b"From: <>\r\n"),
            ("no-address", b"From: Nobody\r\n"),
            ("comment", b"From: sender@client.example (Sender (the first))\r\n"),
            ("quoted", b"From: \"Sender, <other@other.example>\" <sender@client.example>\r\n"),
            ("two-in-brackets", b"From: <a@client.example> <b@client.example>\r\n"),
            ("route", b"From: <@a.example,@b.example:sender@client.example>\r\n"),
            ("lower-case", b"from: sender@client.example\r\n"),
            ("upper-case", b"FROM: sender@client.example\r\n"),
            ("space-before-colon", b"From : sender@client.example\r\n"),
            ("folded", b"From:\r\n Sender\r\n <sender@client.example>\r\n"),
        ],
    ),
    (
        "To",
        &[
            ("group", b"To: undisclosed-recipients:;\r\n"),
            ("empty", b"To:\r\n"),
            ("bare-local", b"To: recipient\r\n"),
            ("many", b"To: a@server.example, b@server.example,\r\n c@server.example, d@server.example\r\n"),
            ("quoted", b"To: \"Recipient, the second\" <recipient@server.example>\r\n"),
        ],
    ),
    (
        "Date",
        &[
            ("empty", b"Date:\r\n"),
            ("odd", b"Date: yesterday\r\n"),
            ("two-digits", b"Date: 2 Nov 26 10:20 GMT\r\n"),
            ("far", b"Date: Fri, 31 Dec 9999 23:59:60 +1400\r\n"),
        ],
    ),
    (
        "Message-ID",
        &[
            ("empty", b"Message-ID:\r\n"),
            ("bare", b"Message-ID: __TOKEN__\r\n"),
            ("no-domain", b"Message-ID: <__TOKEN__>\r\n"),
            ("blank", b"Message-ID: <__TOKEN__ x@client.example>\r\n"),
            ("two", b"Message-ID: <__TOKEN__@client.example> <x@client.example>\r\n"),
            ("other-case", b"Message-Id: <__TOKEN__@client.example>\r\n"),
        ],
    ),
    (
        "Subject",
        &[
            ("folded", b"Subject: case\r\n __TOKEN__\r\n"),
            ("upper-case", b"SUBJECT: case __TOKEN__\r\n"),
            ("encoded-word", b"Subject: =?utf-8?q?caf=C3=A9?= case __TOKEN__\r\n"),
        ],
    ),
];

fn shapes() -> Vec<Case> {
    let text = b"The text of __TOKEN__.\r\n";
    let received = b"Received: from a.example by b.example; Mon, 02 Nov 2026 10:20:29 +0000\r\n";
    let times = |line: &[u8], number| (0..number).fold(Draft::new(), |draft, _| draft.first_line(line));
    let fields: Vec<u8> = (0..1000).flat_map(|number| format!("X-Field-{number}: {number}\r\n").into_bytes()).collect();
    let drafts = [
        // The text begins where the header should end.
        ("no-separator", Draft::new().body(text.to_vec())),
        ("separator-blank", Draft::new().body([b" \r\n", &text[..]].concat())),
        ("separator-tab", Draft::new().body([b"\t\r\n", &text[..]].concat())),
        ("separator-dot", Draft::new().body([b"..\r\n", &text[..]].concat())),
        ("none", Draft::new().header(&[]).text(text)),
        ("only-text", Draft::new().header(&[]).body(text.to_vec())),
        ("only-received", Draft::new().header(&[received]).text(text)),
        ("begins-with-blank", Draft::new().first_line(b"\r\n")),
        ("lf", Draft::new().lf_header()),
        ("lf-first-line", Draft::new().first_line(b"X-First: lf\n")),
        ("lf-lf", Draft::new().line(b"X-Value: one\n\nX-Inner: two\r\n")),
        ("cr-cr", Draft::new().line(b"X-Value: one\r\rX-Inner: two\r\n")),
        ("received-30", times(received, 30)),
        ("received-101", times(received, 101)),
        ("fields-1000", Draft::new().line(&fields)),
    ];
    drafts.into_iter().map(|(name, draft)| draft.case(format!("header/shape/{name}"))).collect()
}

/// Two of each field that may occur once (RFC 5322, 3.6), of those that a delivery adds, and of those that determine
/// how a text is read.
pub(super) fn duplicates() -> Vec<Case> {
    let mut cases = Vec::new();
    for (field, value) in FIELDS {
        let line = format!("{field}: {value}\r\n").into_bytes();
        cases.push(Draft::new().line(&line).case(format!("duplicates/{field}")));
        cases.push(Draft::new().first_line(&line).case(format!("duplicates/{field}/first")));
        cases.push(Draft::new().first_line(&line).line(&line).case(format!("duplicates/{field}/both")));
    }
    cases
}

/// The cases for the short run.
pub(super) fn short() -> Vec<Case> {
    let known = ["From", "Date", "Message-ID", "Subject", "To", "Return-Path", "Delivered-To"];
    duplicates().into_iter().filter(|case| known.iter().any(|name| case.name == format!("duplicates/{name}"))).collect()
}

const FIELDS: &[(&str, &str)] = &[
    ("From", "Second <second@other.example>"),
    ("Date", "Tue, 03 Nov 2026 11:21:31 +0000"),
    ("Message-ID", "<second-__TOKEN__@other.example>"),
    ("Subject", "second __TOKEN__"),
    ("To", "Second <second@other.example>"),
    ("Cc", "Second <second@other.example>"),
    ("Sender", "second@other.example"),
    ("Reply-To", "second@other.example"),
    ("In-Reply-To", "<second@other.example>"),
    ("References", "<second@other.example>"),
    ("MIME-Version", "1.0"),
    ("Content-Type", "text/html"),
    ("Content-Transfer-Encoding", "base64"),
    // A delivery adds these; a message on its way should have none.
    ("Return-Path", "<second@other.example>"),
    ("Delivered-To", "__DEST__"),
    ("X-Original-To", "__DEST__"),
    ("Envelope-To", "__DEST__"),
    ("Received-SPF", "pass"),
    ("Authentication-Results", "server.example; spf=pass; dkim=pass"),
    ("X-Garden", "twice"),
];
