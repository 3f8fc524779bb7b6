//! What a field or a text means, however it is written; for servers that rewrite messages with the same meaning.

use mailparse::body::Body;
use mailparse::{MailAddr, ParsedMail, SingleInfo};

use super::text::{LineEnds, ends_for_some, unfolded};
use crate::case::Placeholder;

/// Fields that contain addresses (RFC 5322, 3.6.2 and 3.6.3).
const OF_ADDRESSES: [&str; 12] = [
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "bcc",
    "resent-from",
    "resent-sender",
    "resent-reply-to",
    "resent-to",
    "resent-cc",
    "resent-bcc",
];

/// The addresses in a field, in order, without names, comments and groups; `None` if it has none, or if part of it
/// cannot be parsed. White space in its value has to be single spaces.
pub(super) fn addresses(name: &str, value: &[u8]) -> Option<Vec<u8>> {
    if !OF_ADDRESSES.contains(&name) {
        return None;
    }
    // Inside a name or comment these characters would be overlooked.
    if value.iter().copied().any(ends_for_some) {
        return None;
    }
    let mut value = without_comments(std::str::from_utf8(value).ok()?)?;
    // Placeholders of addresses have to be replaced by something that looks like an address.
    for whole in [Placeholder::Source, Placeholder::Destination, Placeholder::SecondDestination].map(Placeholder::text)
    {
        value = value.replace(whole, &format!("{whole}@{whole}"));
    }
    let parsed = mailparse::addrparse(&value).ok()?;
    let of_one = |one: &SingleInfo| one.addr.clone();
    let addresses = parsed.iter().flat_map(|address| match address {
        MailAddr::Single(one) => vec![of_one(one)],
        MailAddr::Group(group) => group.addrs.iter().map(of_one).collect(),
    });
    Some(addresses.collect::<Vec<_>>().join(", ").into_bytes())
}

/// Addresses without comments and without empty items, which [`mailparse::addrparse`] does not accept. `None` if a
/// comment does not end: some readers take its content for an address.
fn without_comments(value: &str) -> Option<String> {
    let (mut depth, mut is_quoted, mut is_escaped) = (0_usize, false, false);
    let mut rest = String::with_capacity(value.len());
    for letter in value.chars() {
        let is_plain = !is_escaped && !is_quoted;
        match letter {
            '(' if is_plain => depth += 1,
            ')' if is_plain && depth > 0 => {
                depth -= 1;
                continue;
            }
            '"' if !is_escaped && depth == 0 => is_quoted = !is_quoted,
            ',' if is_plain && depth == 0 && rest.trim_end().ends_with([',', ':']) => continue,
            _ => {}
        }
        is_escaped = letter == '\\' && !is_escaped;
        if depth == 0 {
            rest.push(letter);
        }
    }
    (depth == 0).then(|| rest.trim().trim_end_matches(',').to_owned())
}

/// Whether a field describes the encoding of the text, and so differs if the text is encoded differently.
pub(super) fn is_of_mime(name: &str) -> bool {
    matches!(name, "mime-version" | "x-mime-autoconverted" | "content-type" | "content-transfer-encoding")
}

/// The most octets, and boundaries in them, of a message that is parsed, because mailparse recurses as deep as the
/// message does.
const LARGEST: usize = 1 << 20;
const MOST_BOUNDARIES: usize = 30;

/// The decoded content of a MIME message: for each part without subparts its type, file name and length, followed by
/// its octets with lines ended by LF and the last end removed. `None` if it cannot be parsed or is too large.
pub(super) fn contents(message: &[u8]) -> Option<Vec<u8>> {
    let boundaries = memchr::memmem::find_iter(message, b"oundary").count();
    if message.len() > LARGEST || boundaries > MOST_BOUNDARIES {
        return None;
    }
    let mut contents = Vec::new();
    add_contents(&mailparse::parse_mail(message).ok()?, &mut contents, 0)?;
    Some(contents)
}

/// How deeply messages may be nested.
const DEEPEST: usize = 10;

fn add_contents(part: &ParsedMail<'_>, contents: &mut Vec<u8>, depth: usize) -> Option<()> {
    if !part.subparts.is_empty() {
        return part.subparts.iter().try_for_each(|part| add_contents(part, contents, depth));
    }
    let octets = match part.get_body_encoded() {
        Body::Base64(encoded) | Body::QuotedPrintable(encoded) => encoded.get_decoded().ok()?,
        Body::SevenBit(text) | Body::EightBit(text) => text.get_raw().to_vec(),
        Body::Binary(octets) => octets.get_raw().to_vec(),
    };
    let octets = super::text::with_replaced(&octets, b"\r\n", b"\n");
    if part.ctype.mimetype == "message/rfc822" {
        let message = mailparse::parse_mail(&octets).ok().filter(|_| depth < DEEPEST)?;
        for field in message.headers.iter().filter(|field| !is_of_mime(&field.get_key_ref().to_ascii_lowercase())) {
            contents.extend_from_slice(field.get_key_ref().to_ascii_lowercase().as_bytes());
            contents.extend_from_slice(&unfolded(field.get_value_raw(), LineEnds::Mailbox));
            contents.push(b'\n');
        }
        return add_contents(&message, contents, depth + 1);
    }
    let octets = octets.trim_ascii_end();
    contents.extend_from_slice(part.ctype.mimetype.as_bytes());
    for (kind, value) in file(part) {
        contents.extend_from_slice(format!("; {kind}={value:?}").as_bytes());
    }
    // The length makes sure that no text can be taken for the beginning of the next part.
    contents.extend_from_slice(format!("; octets={}\n", octets.len()).as_bytes());
    contents.extend_from_slice(octets);
    contents.push(b'\n');
    Some(())
}

/// What a part says about its file name.
fn file(part: &ParsedMail<'_>) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    if let Some(name) = part.ctype.params.get("name") {
        said.push(("name", name.clone()));
    }
    if part.headers.iter().any(|field| field.get_key_ref().eq_ignore_ascii_case("content-disposition")) {
        let disposition = part.get_content_disposition();
        said.push(("disposition", format!("{:?}", disposition.disposition)));
        said.extend(disposition.params.get("filename").map(|name| ("filename", name.clone())));
    }
    said
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_one_space() {
        assert_eq!(unfolded(b" a\r\n\t b  c \r\n", LineEnds::Wire), b"a b c");
        assert_eq!(unfolded(b" a\n\t b\r c\r", LineEnds::Mailbox), b"a b\r c\r");
        assert_eq!(unfolded(b"a\n b\x0c\0c\r\r\n", LineEnds::Wire), b"a\n b\x0c\0c\r");
    }

    #[test]
    fn addresses_are_the_same_however_they_are_spelled() {
        let of = |value: &[u8]| addresses("to", &unfolded(value, LineEnds::Wire)).unwrap();
        assert_eq!(of(b"\"Some One\" <a@b.c>,\r\n\td@e.f (Other)"), b"a@b.c, d@e.f");
        assert_eq!(of(b"a@b.c, d@e.f"), of(b"A group: <a@b.c>, d@e.f;"));
        assert_eq!(of(b"Some One <a@b.c> (of (some) where)"), of(b"a@b.c, (of (some) where)"));
        assert_eq!(of(b"\"(no comment), \\\" (none\" <a@b.c>"), b"a@b.c");
        assert_ne!(of(b"a@b.c"), of(b"a@b.d"));
        assert_eq!(of(b"<__SOURCE__>, One <__DEST__>"), of(b"__SOURCE__,__DEST__ (One)"));
        assert_ne!(of(b"<__SOURCE__>"), of(b"<__DEST__>"));
        assert_eq!(addresses("subject", b"a@b.c"), None);
        assert_eq!(addresses("to", b"a@b.c (not ended, d@e.f"), None);
        assert_eq!(addresses("to", b"\"a\rb\" <a@b.c>"), None);
    }

    #[test]
    fn parts_are_the_same_whatever_they_are_encoded_in() {
        let plain = b"Content-Type: text/plain\r\n\r\nLine one.\r\n";
        let encoded = b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nTGluZSBvbmUuCg==\n";
        assert_eq!(contents(plain).unwrap(), contents(encoded).unwrap());
        let parts = |boundary: &str, preamble: &str| {
            format!(
                "Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{preamble}\r\n--{boundary}\r\n\r\na\r\n\
                 --{boundary}\r\nContent-Type: image/png\r\n\r\nb\r\n--{boundary}--\r\n"
            )
        };
        let one = contents(parts("x", "").as_bytes()).unwrap();
        assert_eq!(one, contents(parts("other", "Use another program.").as_bytes()).unwrap());
        assert_eq!(one, b"text/plain; octets=1\na\nimage/png; octets=1\nb\n");
    }

    #[test]
    fn a_message_within_is_its_fields_and_its_text() {
        let within = |header: &str| {
            contents(format!("Content-Type: message/rfc822\r\n\r\n{header}\r\n\r\ntext\r\n").as_bytes()).unwrap()
        };
        assert_eq!(within("Subject: a"), b"subjecta\ntext/plain; octets=4\ntext\n");
        assert_eq!(within("Subject: a"), within("SUBJECT:\r\n  a\r\nMIME-Version: 1.0"));
        assert_ne!(within("Subject: a"), within("Subject: b"));
    }

    #[test]
    fn what_goes_deep_is_not_taken_apart() {
        let nested =
            |depth: usize| contents(("Content-Type: message/rfc822\r\n\r\n".repeat(depth) + "A: 1\r\n\r\n").as_bytes());
        assert!(nested(10).is_some());
        assert_eq!(nested(11), None);
        let parts = |depth: usize| -> String {
            let part = |depth| format!("Content-Type: multipart/mixed; boundary={depth}\r\n\r\n--{depth}\r\n");
            (0..depth).map(part).collect()
        };
        assert!(contents(parts(30).as_bytes()).is_some());
        assert_eq!(contents(parts(31).as_bytes()), None);
        assert_eq!(contents(parts(100_000).as_bytes()), None);
    }
}
