//! A message as people read it: its header decoded, its text, and what is attached (RFC 2045 to 2047, 2183, 2231).
//!
//! Everything is shown somehow; nothing is an error. Strangers wrote the message, so everything has a bound: how much
//! of a field is decoded, how many fields, parts and levels of parts are looked at. What exceeds a bound is counted or
//! mentioned. Texts and attachments are decoded only when asked for, one at a time, so that a message is never in
//! memory twice. Whoever shows the result has to make it safe ([`crate::untrusted::Untrusted`]).

use std::borrow::Cow;

use charset::{Charset, UTF_7};
use mailparse::body::Body;
use mailparse::{DispositionType, MailHeader, ParsedContentDisposition, ParsedContentType};

use super::html;
use crate::hexadecimal;
use crate::panics::survive;

/// A message taken apart.
#[derive(Debug)]
pub struct Letter<'m> {
    /// The fields of its header.
    pub header: Header<'m>,
    /// Its texts, in order.
    texts: Vec<Text<'m>>,
    /// Everything else in it, in order.
    pub attachments: Vec<Attachment<'m>>,
    /// How many parts have been looked at.
    parts: usize,
    /// Whether there were more parts than that.
    pub has_more_parts: bool,
}

/// The fields of a header, as far as they are looked at.
#[derive(Debug)]
pub struct Header<'m> {
    fields: Vec<MailHeader<'m>>,
}

/// A text.
#[derive(Debug)]
struct Text<'m> {
    body: &'m [u8],
    encoding: Option<String>,
    charset: String,
    /// How long it is, decoded, in bytes.
    length: usize,
    /// Whether it is only white space.
    is_blank: bool,
    is_html: bool,
    /// Whether a plain text beside it says the same.
    is_alternative: bool,
}

/// A part that is not shown as text.
#[derive(Debug)]
pub struct Attachment<'m> {
    /// The file name that its sender gave it.
    pub name: Option<String>,
    /// `image/png`, or whatever its sender says.
    pub media_type: String,
    encoding: Option<String>,
    body: &'m [u8],
    /// Whether it ends where the given part of the message ends, so that it may be cut off.
    pub is_last: bool,
}

impl<'m> Letter<'m> {
    /// Takes apart a message, or its beginning; lines may end in LF or CRLF.
    pub fn parse(message: &'m [u8]) -> Self {
        let (header, body) = Header::parse(message.strip_prefix(BYTE_ORDER_MARK).unwrap_or(message));
        let mut letter = Self {
            header: Header { fields: Vec::new() },
            texts: Vec::new(),
            attachments: Vec::new(),
            parts: 0,
            has_more_parts: false,
        };
        letter.take_apart(&header, body, 0, message.as_ptr_range().end);
        letter.header = header;
        letter
    }

    /// How many bytes of HTML are not in [`Letter::text`] because a plain text beside them says the same.
    pub fn also_in_html(&self) -> usize {
        self.texts.iter().filter(|text| text.is_alternative).map(|text| text.length).sum()
    }

    /// How many bytes of HTML are not in [`Letter::text`] because they exceed [`MAX_HTML`].
    pub fn html_left_out(&self) -> usize {
        let shown = self.texts.iter().filter(|text| text.is_html && !text.is_alternative);
        shown.map(|text| text.length.saturating_sub(MAX_HTML)).sum()
    }

    /// The text for people: plain texts as they are, and texts that exist in HTML only without tags.
    pub fn text(&self) -> String {
        let shown = self.texts.iter().filter(|text| !text.is_alternative);
        let texts: Vec<String> = shown
            .map(|text| if text.is_html { text.without_marks() } else { text.decoded() })
            .filter(|text| !text.trim().is_empty())
            .collect();
        texts.join("\n")
    }

    /// Each plain text, or each HTML text.
    pub fn texts(&self, is_html: bool) -> impl Iterator<Item = String> {
        self.texts.iter().filter(move |text| text.is_html == is_html).map(Text::decoded)
    }

    fn take_apart(&mut self, header: &Header<'m>, body: &'m [u8], depth: usize, end: *const u8) {
        self.parts += 1;
        let content_type = header.content_type();
        let boundary = content_type.params.get("boundary").filter(|boundary| !boundary.is_empty());
        if let (true, Some(boundary)) = (content_type.mimetype.starts_with("multipart/"), boundary)
            && depth < MAX_DEPTH
        {
            let first = self.texts.len();
            let mut parts = parts(body, boundary).peekable();
            let has_parts = parts.peek().is_some();
            for part in parts {
                if self.parts >= MAX_PARTS {
                    self.has_more_parts = true;
                    return;
                }
                let (header, body) = Header::parse(part);
                self.take_apart(&header, body, depth + 1, end);
            }
            let of_this = &mut self.texts[first..];
            if content_type.mimetype == "multipart/alternative"
                && of_this.iter().any(|text| !text.is_html && !text.is_blank)
            {
                of_this.iter_mut().for_each(|text| text.is_alternative |= text.is_html);
            }
            if has_parts {
                return;
            }
        }
        let encoding = header.beginning("Content-Transfer-Encoding", MAX_MIME_FIELD);
        let encoding = encoding.map(|encoding| encoding.trim().to_ascii_lowercase());
        let disposition = header.disposition();
        let name = disposition.params.get("filename").or_else(|| content_type.params.get("name")).cloned();
        // A message that consists of one text is meant to be read, even if the text has a file name.
        let is_attached = disposition.disposition == DispositionType::Attachment || name.is_some() && depth > 0;
        match content_type.mimetype.as_str() {
            kind @ ("text/plain" | "text/html") if !is_attached => {
                self.texts.push(Text::new(body, encoding, content_type.charset, kind == "text/html"));
            }
            // A multipart message that cannot be taken apart is shown as it is.
            kind if kind.starts_with("multipart/") && depth == 0 => {
                self.texts.push(Text::new(body, None, content_type.charset, false));
            }
            kind => self.attachments.push(Attachment {
                name,
                media_type: kind.to_owned(),
                encoding,
                body,
                is_last: body.as_ptr_range().end == end,
            }),
        }
    }
}

impl<'m> Text<'m> {
    fn new(body: &'m [u8], encoding: Option<String>, charset: String, is_html: bool) -> Self {
        let mut text = Self { body, encoding, charset, length: 0, is_blank: false, is_html, is_alternative: false };
        let decoded = text.decoded();
        (text.length, text.is_blank) = (decoded.len(), decoded.trim().is_empty());
        text
    }

    fn decoded(&self) -> String {
        text_of(self.body, &self.charset, self.encoding.as_deref())
    }

    /// The text of HTML without tags; only the first [`MAX_HTML`] bytes are looked at.
    fn without_marks(&self) -> String {
        let mut html = self.decoded();
        html.truncate(html.floor_char_boundary(MAX_HTML));
        survive(|| html::to_text(&html)).unwrap_or(html)
    }
}

impl<'m> Header<'m> {
    /// Reads the header of a message or part; also returns what is behind it.
    fn parse(text: &'m [u8]) -> (Self, &'m [u8]) {
        let (mut fields, mut rest) = (Vec::new(), text);
        loop {
            if let Some(body) = rest.strip_prefix(b"\n").or_else(|| rest.strip_prefix(b"\r\n")) {
                return (Self { fields }, body);
            }
            match survive(|| mailparse::parse_header(rest)) {
                Some(Ok((field, length))) if length > 0 && begins_with_name(rest) => {
                    if fields.len() < MAX_FIELDS {
                        fields.push(field);
                    }
                    rest = rest.get(length..).unwrap_or_default();
                }
                // A line that is no field and not empty: the text begins here.
                _ => return (Self { fields }, rest),
            }
        }
    }

    /// The decoded value of the first field of this name.
    pub fn value(&self, name: &str) -> Option<String> {
        self.beginning(name, MAX_FIELD)
    }

    fn beginning(&self, name: &str, most: usize) -> Option<String> {
        let is_named = |field: &&MailHeader<'_>| field.get_key_raw().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(is_named).map(|field| decoded(field.get_value_raw(), most))
    }

    /// Every field: its name, its value as it came, and its value decoded.
    pub fn fields(&self) -> impl Iterator<Item = (String, &[u8], String)> {
        self.fields.iter().map(|field| {
            let raw = field.get_value_raw();
            (field.get_key().trim().to_owned(), raw, decoded(raw, MAX_FIELD))
        })
    }

    /// A missing or malformed Content-Type means plain text (RFC 2045, 5.2).
    fn content_type(&self) -> ParsedContentType {
        let value = self.beginning("Content-Type", MAX_MIME_FIELD);
        let content_type = value.and_then(|value| survive(|| mailparse::parse_content_type(&value)));
        content_type.filter(|content_type| content_type.mimetype.contains('/')).unwrap_or_default()
    }

    fn disposition(&self) -> ParsedContentDisposition {
        let value = self.beginning("Content-Disposition", MAX_MIME_FIELD);
        value.and_then(|value| survive(|| mailparse::parse_content_disposition(&value))).unwrap_or_default()
    }
}

/// Whether the first line has a colon, so that it may begin with the name of a field.
fn begins_with_name(text: &[u8]) -> bool {
    memchr::memchr2(b':', b'\n', text).is_some_and(|at| text[at] == b':')
}

impl<'m> Attachment<'m> {
    /// The content without its transfer encoding.
    pub fn content(&self) -> Cow<'m, [u8]> {
        content_of(self.body, self.encoding.as_deref())
    }
}

/// The parts between the delimiter lines (RFC 2046, 5.1.1). If the last delimiter is missing, the last part goes to the
/// end.
fn parts<'m>(body: &'m [u8], boundary: &str) -> impl Iterator<Item = &'m [u8]> {
    let delimiter = format!("--{boundary}").into_bytes();
    let mut rest = Some(body);
    let mut has_begun = false;
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let (part, is_last, behind) = until_delimiter(text, &delimiter);
            rest = if is_last { None } else { Some(behind) };
            // What precedes the first delimiter is for programs that do not know multipart messages.
            if std::mem::replace(&mut has_begun, true) {
                return Some(part);
            }
        }
    })
}

/// Returns the text up to the next delimiter line, whether that one closes the message, and what is behind it.
fn until_delimiter<'t>(text: &'t [u8], delimiter: &[u8]) -> (&'t [u8], bool, &'t [u8]) {
    let mut start = 0;
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |length| start + length + 1);
        if let Some(behind) = text[start..end].strip_prefix(delimiter) {
            let is_close = behind.trim_ascii_end() == b"--";
            if is_close || behind.trim_ascii_end().is_empty() {
                // The line end in front of a delimiter belongs to the delimiter.
                let part = &text[..start];
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                return (part.strip_suffix(b"\r").unwrap_or(part), is_close, &text[end..]);
            }
        }
        start = end;
    }
    (text, true, b"")
}

/// Decodes the beginning of a field's value, encoded words included. The time for that grows with the square of the
/// length, so no more than `most` bytes are decoded.
fn decoded(raw: &[u8], most: usize) -> String {
    let shown = &raw[..raw.len().min(most)];
    let field = [b"x: ", shown].concat();
    let value = survive(|| mailparse::parse_header(&field).map(|(field, _)| field.get_value()));
    let mut text = match value {
        Some(Ok(value)) => value,
        Some(Err(_)) | None => String::from_utf8_lossy(shown).into_owned(),
    };
    if shown.len() < raw.len() {
        text.push_str("...");
    }
    text
}

fn content_of<'b>(body: &'b [u8], encoding: Option<&str>) -> Cow<'b, [u8]> {
    match encoding {
        Some("base64") => Cow::Owned(from_base64(body)),
        Some("quoted-printable") => Cow::Owned(from_quoted_printable(body)),
        _ => Cow::Borrowed(body),
    }
}

/// Decodes what can be decoded: other characters are to be ignored (RFC 2045, 6.8), and a cut message may end anywhere.
fn from_base64(body: &[u8]) -> Vec<u8> {
    let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let end = memchr::memchr(b'=', body).unwrap_or(body.len());
    let mut characters = body[..end].iter().copied().filter(is_ours);
    let mut content = Vec::with_capacity(end / 4 * 3);
    loop {
        let mut piece: Vec<u8> = characters.by_ref().take(PIECE).collect();
        // A single character is no octet yet; with two or three, the padding decides what is left over.
        match piece.len() % 4 {
            1 => _ = piece.pop(),
            2 => piece.extend(b"=="),
            3 => piece.push(b'='),
            _ => {}
        }
        if piece.is_empty() {
            return content;
        }
        content.extend(survive(|| decode_base64(&piece)).flatten().unwrap_or(piece));
    }
}

fn decode_base64(piece: &[u8]) -> Option<Vec<u8>> {
    match Body::new(piece, &ParsedContentType::default(), &Some("base64".to_owned())) {
        Body::Base64(body) => body.get_decoded().ok(),
        Body::QuotedPrintable(_) | Body::SevenBit(_) | Body::EightBit(_) | Body::Binary(_) => None,
    }
}

/// Decodes quoted-printable (RFC 2045, 6.7). What is malformed stays as it is, including octets beyond ASCII, because
/// some programs say quoted-printable of text that is not.
fn from_quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        let end = &line[line.len() - usize::from(line.ends_with(b"\n")) - usize::from(line.ends_with(b"\r\n"))..];
        let (mut rest, end) = match text.strip_suffix(b"=") {
            Some(text) => (text, &b""[..]),
            None => (text, end),
        };
        while let Some(at) = memchr::memchr(b'=', rest) {
            let octet = rest[at + 1..].first_chunk().and_then(|digits| hexadecimal::octet(*digits));
            content.extend_from_slice(&rest[..at]);
            content.push(octet.unwrap_or(b'='));
            rest = &rest[at + if octet.is_some() { 3 } else { 1 }..];
        }
        content.extend_from_slice(rest);
        content.extend_from_slice(end);
    }
    content
}

/// Decodes a text by the charset that it names. If it names none, or an unknown one, it is UTF-8 if it is valid UTF-8,
/// and else windows-1252, which old programs write without saying so.
fn text_of(body: &[u8], charset: &str, encoding: Option<&str>) -> String {
    let content = content_of(body, encoding);
    let is_utf8 = matches!(charset.to_ascii_lowercase().as_str(), "us-ascii" | "ascii" | "utf-8" | "utf8" | "");
    // Charsets that could hide something behind plain ASCII are not decoded at all.
    if let (false, Some(charset)) = (is_utf8, Charset::for_label_no_replacement(charset.as_bytes()))
        && let Some(text) = survive(|| in_charset(charset, &content))
    {
        return text;
    }
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&content);
    let is_old = || content.utf8_chunks().all(|chunk| chunk.valid().is_ascii());
    match std::str::from_utf8(content) {
        Ok(text) => text.to_owned(),
        Err(_) if is_old() => in_windows_1252(content),
        Err(_) => String::from_utf8_lossy(content).into_owned(),
    }
}

fn in_charset(charset: Charset, text: &[u8]) -> String {
    if charset != UTF_7 {
        return charset.decode(text).0.into_owned();
    }
    // The time for decoding grows with the square of the length, so this is done in pieces. A `-` or a line end
    // completes any encoded sequence, so pieces end there.
    let (mut decoded, mut rest) = (String::with_capacity(text.len()), text);
    while !rest.is_empty() {
        let most = rest.len().min(MAX_UTF_7);
        let end = if most == rest.len() { None } else { memchr::memrchr2(b'-', b'\n', &rest[..most]) };
        let (piece, behind) = rest.split_at(end.map_or(most, |at| at + 1));
        decoded.push_str(&charset.decode_without_bom_handling(piece).0);
        rest = behind;
    }
    decoded
}

/// Decodes windows-1252, which old programs write without saying so.
pub(super) fn in_windows_1252(text: &[u8]) -> String {
    match Charset::for_label(b"windows-1252") {
        Some(charset) => charset.decode_without_bom_handling(text).0.into_owned(),
        None => charset::decode_latin1(text).into_owned(),
    }
}

/// Programs on other systems put this in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How much of a field is decoded, in bytes.
const MAX_FIELD: usize = 8 * 1024;

/// The same for a field that describes a part, because there are many parts.
const MAX_MIME_FIELD: usize = 2 * 1024;

/// How many characters of base64 are decoded at a time; four of them are three octets.
const PIECE: usize = 64 * 1024;

/// How much of a text in UTF-7 is decoded at once, in octets.
const MAX_UTF_7: usize = 4 * 1024;

/// How many fields of a header are looked at.
const MAX_FIELDS: usize = 1000;

/// How many parts of a message are looked at, and how deep they may be nested.
const MAX_PARTS: usize = 200;
const MAX_DEPTH: usize = 10;

/// How much of an HTML text is made into plain text, in bytes.
const MAX_HTML: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a message says: its text, and name, type and content of what is attached.
    fn read(message: &str) -> (String, Vec<(Option<String>, String, String)>) {
        let letter = Letter::parse(message.as_bytes());
        let attachments = letter.attachments.iter().map(|attachment| {
            let content = String::from_utf8_lossy(&attachment.content()).into_owned();
            (attachment.name.clone(), attachment.media_type.clone(), content)
        });
        (letter.text(), attachments.collect())
    }

    #[test]
    fn texts_are_found_and_decoded() {
        for (message, text) in [
            ("Subject: x\n\nbody\n", "body\n"),
            ("Subject: x\r\n\r\nbody\r\n", "body\r\n"),
            ("no header\n", "no header\n"),
            ("Content-Type: nonsense\n\nbody", "body"),
            (
                "Content-Type: text/plain; charset=iso-8859-15\nContent-Transfer-Encoding: quoted-printable\n\n=A4=\n5",
                "\u{20ac}5",
            ),
            ("Content-Type: TEXT/PLAIN; CHARSET=\"UTF-8\"\nContent-Transfer-Encoding: BASE64\n\nw7w=\n", "\u{fc}"),
            ("Content-Transfer-Encoding: base64\n\naG!Vs\nbG8\n", "hello"),
            (
                "Content-Transfer-Encoding: quoted-printable\n\ngr\u{fc}n =c3=BC = \n=4x==3d\t\r\nend=",
                "gr\u{fc}n \u{fc} =4x==\r\nend",
            ),
            ("Content-Type: text/plain; charset=nobody-knows\n\n\u{fc}", "\u{fc}"),
            ("Content-Type: text/plain; charset=iso-2022-kr\n\nbody", "body"),
            ("Content-Type: text/plain; charset=utf-7\n\n+APw-", "\u{fc}"),
            ("Content-Type: text/plain; charset=utf-16\nContent-Transfer-Encoding: base64\n\n//5hAPwA", "a\u{fc}"),
            ("Content-Type: text/plain; charset=iso-2022-jp\n\n\u{1b}$B$3\u{1b}(B", "\u{3053}"),
            ("\u{feff}Content-Type: text/html\n\n<b>body</b>", "body"),
            ("Content-Type: text/plain; charset=utf-8\n\n\u{feff}body", "body"),
            ("Content-Type: text/html\n\n<p>Hello<br>you", "Hello\nyou"),
            ("Content-Type: text/plain; name=body.txt\n\nbody", "body"),
            ("Content-Type: multipart/mixed\n\n--x\n\nbody", "--x\n\nbody"),
            ("Content-Type: multipart/mixed; boundary=x\n\nbody", "body"),
            ("Content-Type: multipart/mixed; boundary=x\n\nnot\n--x\n\none\n--x\n\ntwo\n--x--\nnot", "one\ntwo"),
            ("Content-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--xy\n--x \n\ntwo", "one\n--xy\ntwo"),
            (
                "Content-Type: multipart/alternative; boundary=x\n\n--x\n\nplain\n--x\nContent-Type: text/html\n\n<p>html",
                "plain",
            ),
            (
                "Content-Type: multipart/alternative; boundary=x\n\n--x\n\n \n--x\nContent-Type: text/html\n\n<p>html",
                "html",
            ),
        ] {
            assert_eq!(read(message), (text.to_owned(), Vec::new()), "{message}");
        }
        let long = format!("Content-Transfer-Encoding: base64\n\n{}", "aGVs!bG8h\n".repeat(PIECE / 4));
        assert_eq!(Letter::parse(long.as_bytes()).text(), "hello!".repeat(PIECE / 4));
        // In quadratic time this would take minutes.
        let long = format!("Content-Type: text/plain; charset=utf-7\n\n{}", "a +APw- ".repeat(300_000));
        assert_eq!(Letter::parse(long.as_bytes()).text(), "a \u{fc} ".repeat(300_000));
        let long = format!("Content-Type: text/plain; charset=utf-7\n\n+{}", "APwA".repeat(300_000));
        assert!(Letter::parse(long.as_bytes()).text().starts_with("\u{fc}"));
        // Old ones are as they were; where only something is wrong, the rest stays.
        assert_eq!(Letter::parse(b"\n\xfc\x93").text(), "\u{fc}\u{201c}");
        assert_eq!(Letter::parse(b"\n\xc3\xbc\xe9").text(), "\u{fc}\u{fffd}");
    }

    #[test]
    fn attachments_have_names_and_sizes() {
        let attached = |name: Option<&str>, media_type: &str, content: &str| {
            (String::new(), vec![(name.map(str::to_owned), media_type.to_owned(), content.to_owned())])
        };
        for (message, expected) in [
            (
                "Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\naGVsbG8=",
                attached(Some("a.png"), "image/png", "hello"),
            ),
            (
                "Content-Disposition: attachment; filename=\"a b.txt\"\n\nx",
                attached(Some("a b.txt"), "text/plain", "x"),
            ),
            (
                "Content-Type: a/b\nContent-Disposition: attachment; filename*=utf-8''%c3%bc\n\nx",
                attached(Some("\u{fc}"), "a/b", "x"),
            ),
            ("Content-Type: application/pdf\n\nx", attached(None, "application/pdf", "x")),
        ] {
            assert_eq!(read(message), expected, "{message}");
        }
    }

    #[test]
    fn everything_has_a_bound() {
        let deep: String =
            (0..1000).map(|at| format!("Content-Type: multipart/mixed; boundary=b{at}\n\n--b{at}\n")).collect();
        assert_eq!(Letter::parse(deep.as_bytes()).parts, MAX_DEPTH + 1);
        let many = format!("Content-Type: multipart/mixed; boundary=x\n\n{}", "--x\n\na\n".repeat(MAX_PARTS));
        let letter = Letter::parse(many.as_bytes());
        assert!(letter.parts == MAX_PARTS && letter.has_more_parts);
        let long = format!("Subject: {}\n\n", "=?utf-8?q?a?= ".repeat(300_000));
        let subject = Letter::parse(long.as_bytes()).header.value("subject").unwrap();
        assert!(subject.starts_with("aaaa") && subject.ends_with("...") && subject.len() < MAX_FIELD, "{subject}");
        let fields = "a: b\n".repeat(100_000);
        assert_eq!(Letter::parse(fields.as_bytes()).header.fields.len(), MAX_FIELDS);
    }
}
