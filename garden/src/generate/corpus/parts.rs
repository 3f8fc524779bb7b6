//! Checks whether a mail with several parts is well formed: every part has a beginning and an end, and encoded content
//! can be decoded (RFC 2045 and 2046).

use mailparse::{MailHeaderMap as _, parse_content_type, parse_headers};

/// Which parts a mail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// A single text without encoding.
    None,
    /// Several parts, or an encoded one.
    Some,
}

impl Parts {
    /// The parts of a mail with these fields; the lines of its body have no ends.
    ///
    /// # Errors
    ///
    /// What is malformed.
    pub(super) fn of(fields: &[Vec<u8>], body: &[&[u8]]) -> Result<Self, String> {
        let kind = Kind::of_message(&fields.concat())?;
        let parts = if kind.boundary.is_some() || kind.is_message || kind.encoding.is_encoded() {
            Self::Some
        } else {
            Self::None
        };
        let mut open: Vec<Vec<u8>> = Vec::new();
        let mut place = Place::begin(kind, &mut open)?;
        for &line in body {
            if open.iter().any(|boundary| {
                is_delimiter(line.trim_ascii_end(), boundary) && line.last().is_some_and(u8::is_ascii_whitespace)
            }) {
                return Err("white space behind a boundary".to_owned());
            }
            let depth = open.iter().position(|boundary| is_delimiter(line, boundary));
            place = match (depth, place) {
                (Some(depth), place) if depth + 1 == open.len() => {
                    place.end()?;
                    if line.len() > 2 + open[depth].len() {
                        open.pop();
                        Place::Between
                    } else {
                        Place::Header(Vec::new())
                    }
                }
                (Some(_), _) => return Err("a part ends before those in it".to_owned()),
                (None, Place::Header(header)) if line.is_empty() => Place::begin(Kind::of(&header)?, &mut open)?,
                (None, Place::Header(mut header)) => {
                    header.extend_from_slice(line);
                    header.extend_from_slice(b"\r\n");
                    Place::Header(header)
                }
                (None, Place::Encoded(encoding, mut text)) => {
                    text.extend_from_slice(line);
                    text.extend_from_slice(b"\r\n");
                    Place::Encoded(encoding, text)
                }
                (None, Place::Message(header)) if line.is_empty() => {
                    Place::begin(Kind::of_message(&header)?, &mut open)?
                }
                (None, Place::Message(_)) if !is_of_header(line) => {
                    return Err("a message without a header".to_owned());
                }
                (None, Place::Message(mut header)) => {
                    header.extend_from_slice(line);
                    header.extend_from_slice(b"\r\n");
                    Place::Message(header)
                }
                (None, place) => place,
            };
        }
        place.end()?;
        if open.is_empty() { Ok(parts) } else { Err("a part without an end".to_owned()) }
    }
}

/// A position in a body.
enum Place {
    /// In the header of a part; its lines so far.
    Header(Vec<u8>),
    /// In encoded content.
    Encoded(Encoding, Vec<u8>),
    /// In the header of a message that is a part; its lines so far.
    Message(Vec<u8>),
    /// In a text without encoding.
    Text,
    /// Before, between or behind parts.
    Between,
}

impl Place {
    fn begin(kind: Kind, open: &mut Vec<Vec<u8>>) -> Result<Self, String> {
        Ok(match (kind.boundary, kind.encoding) {
            (Some(boundary), _) => {
                if open.iter().any(|other| boundary.starts_with(other) || other.starts_with(&boundary)) {
                    return Err("a boundary that begins as another".to_owned());
                }
                open.push(boundary);
                Self::Between
            }
            (None, Encoding::Plain) if kind.is_message => Self::Message(Vec::new()),
            (None, Encoding::Plain) => Self::Text,
            (None, encoding) => Self::Encoded(encoding, Vec::new()),
        })
    }

    fn end(self) -> Result<(), String> {
        match self {
            Self::Header(_) => Err("a part without a text".to_owned()),
            Self::Message(_) => Err("a message without a text".to_owned()),
            Self::Encoded(encoding, text) => encoding.check(&text),
            Self::Text | Self::Between => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    fn is_encoded(self) -> bool {
        self != Self::Plain
    }

    fn check(self, text: &[u8]) -> Result<(), String> {
        let name = match self {
            Self::Plain => return Ok(()),
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        };
        let message = [b"Content-Transfer-Encoding: ", name.as_bytes(), b"\r\n\r\n", text].concat();
        let parsed = mailparse::parse_mail(&message).map_err(|error| error.to_string())?;
        let decoded = parsed.get_body_raw().map_err(|error| format!("{name}: {error}"))?;
        let is_quoted = self == Self::QuotedPrintable;
        let is_odd = is_quoted && text.split(|&octet| octet == b'\n').any(is_odd_quoted_line);
        if is_odd || !is_quoted && decoded.is_empty() && !text.trim_ascii().is_empty() {
            return Err(format!("a text that is not {name}"));
        }
        Ok(())
    }
}

/// Whether a line of quoted-printable has a stray `=`, ends with white space, or is too long (RFC 2045, 6.7).
fn is_odd_quoted_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_code =
        |rest: &[u8]| rest.is_empty() || matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    line.len() > 76
        || line.last().is_some_and(u8::is_ascii_whitespace)
        || (0..line.len()).any(|at| line[at] == b'=' && !is_code(&line[at + 1..]))
}

/// What a header says about the content behind it.
struct Kind {
    boundary: Option<Vec<u8>>,
    is_message: bool,
    encoding: Encoding,
}

impl Kind {
    /// For the header of a message: without MIME-Version its text has no encoding (RFC 2045, 4).
    fn of_message(header: &[u8]) -> Result<Self, String> {
        let kind = Self::of(header)?;
        let lines = header.split(|&octet| octet == b'\n');
        let is_mime = lines.into_iter().any(|line| line.to_ascii_lowercase().starts_with(b"mime-version:"));
        let has_parts = kind.boundary.is_some() || kind.is_message || kind.encoding.is_encoded();
        if has_parts && !is_mime { Err("parts without MIME-Version".to_owned()) } else { Ok(kind) }
    }

    fn of(header: &[u8]) -> Result<Self, String> {
        let header = [header, b"\r\n"].concat();
        let (headers, _) = parse_headers(&header).map_err(|error| error.to_string())?;
        let encoding = headers.get_first_value("Content-Transfer-Encoding").unwrap_or_default();
        let encoding = match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "7bit" | "8bit" | "binary" => Encoding::Plain,
            "quoted-printable" => Encoding::QuotedPrintable,
            "base64" => Encoding::Base64,
            other => return Err(format!("the encoding {other}")),
        };
        let Some(value) = headers.get_first_value("Content-Type") else {
            return Ok(Self { boundary: None, is_message: false, encoding });
        };
        let kind = parse_content_type(&value);
        let is_of_parts = kind.mimetype.starts_with("multipart/");
        if !kind.mimetype.contains('/') || value.trim_start().starts_with(['/', ';']) {
            return Err(format!("the type {value}"));
        }
        if encoding.is_encoded() && (is_of_parts || kind.mimetype.starts_with("message/")) {
            return Err(format!("{} that is encoded", kind.mimetype));
        }
        if !is_of_parts {
            return Ok(Self { boundary: None, is_message: kind.mimetype == "message/rfc822", encoding });
        }
        let boundary = kind.params.get("boundary").ok_or("parts without a boundary")?;
        // RFC 2046, 5.1.1.
        let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&octet);
        if boundary.is_empty() || boundary.len() > 70 || boundary.ends_with(' ') || !boundary.bytes().all(is_allowed) {
            return Err(format!("the boundary {boundary}"));
        }
        Ok(Self { boundary: Some(boundary.clone().into_bytes()), is_message: false, encoding })
    }
}

fn is_of_header(line: &[u8]) -> bool {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return true;
    }
    let name = line.split(|&octet| octet == b':').next().unwrap_or_default();
    name.len() < line.len()
        && !name.is_empty()
        && name.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
}

/// Whether this line separates two parts, or ends the last one.
fn is_delimiter(line: &[u8], boundary: &[u8]) -> bool {
    let rest = line.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary));
    rest.is_some_and(|rest| matches!(rest, b"" | b"--"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn parts(header: &str, body: &str) -> Result<Parts, String> {
        let body: Vec<&[u8]> = body.lines().map(str::as_bytes).collect();
        Parts::of(&[format!("MIME-Version: 1.0\r\n{header}\r\n").into_bytes()], &body)
    }

    const OF_TWO: &str = "Content-Type: multipart/mixed; boundary=a";

    #[test]
    fn what_a_client_makes_is_in_order() {
        assert_eq!(parts("Subject: a", "text\n--a\n"), Ok(Parts::None));
        assert_eq!(parts(OF_TWO, "--a\n\none\n--a\nContent-Type: text/html\n\ntwo\n--a--\n"), Ok(Parts::Some));
        let within = "--a\nContent-Type: multipart/mixed; boundary=\"b c\"\n\n--b c\n\none\n--b c--\n\n--a--\n";
        assert_eq!(parts(OF_TWO, within), Ok(Parts::Some));
        assert_eq!(parts("Content-Transfer-Encoding: base64", "AAEC\n"), Ok(Parts::Some));
        assert_eq!(parts("Content-Transfer-Encoding: quoted-printable", "a=20=\nb\n"), Ok(Parts::Some));
    }

    #[test]
    fn without_a_version_there_are_no_parts() {
        let parts = |header: &str| Parts::of(&[header.as_bytes().to_vec()], &[b"AAEC"]);
        assert!(parts("Content-Transfer-Encoding: base64\r\n").is_err());
        assert_eq!(parts("Content-Type: text/plain\r\n"), Ok(Parts::None));
    }

    #[test]
    fn what_none_makes_is_not() {
        for (header, body) in [
            (OF_TWO, "--a\n\none\n"),
            (OF_TWO, "one\n"),
            (OF_TWO, "--a\n--a--\n"),
            (OF_TWO, "--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--a--\n"),
            ("Content-Type: multipart/mixed", "one\n"),
            ("Content-Type: multipart/mixed; boundary=\"a \"", "--a \n\none\n--a --\n"),
            ("Content-Type: message/rfc822", "no field\n"),
            (OF_TWO, "--a\nContent-Type: message/rfc822\n\n--a--\n"),
            (OF_TWO, "--a\nContent-Type: message/rfc822\n\nSubject: a\n--a--\n"),
            (
                OF_TWO,
                "--a\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n--b--\n--a--\n",
            ),
            (OF_TWO, "--a\n\none\n--a-- \n"),
            (OF_TWO, "--a\nContent-Type: multipart/mixed; boundary=ab\n\n--ab\n\none\n--ab--\n--a--\n"),
            ("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", "AAEC\n"),
            ("Content-Transfer-Encoding: base64", "no base64!\n"),
            ("Content-Transfer-Encoding: quoted-printable", "a=zz\n"),
            ("Content-Transfer-Encoding: x-other", "a\n"),
        ] {
            assert!(parts(header, body).is_err(), "{header}: {body}");
        }
    }
}
