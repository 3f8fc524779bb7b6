//! A message as people read it: its header decoded, its text, and what is attached (RFC 2045 to 2047, 2183, 2231).
//!
//! Whatever came is shown somehow; nothing is an error. Strangers wrote it, so everything has a bound: how much of a field
//! is decoded, how many fields, parts and levels of parts are looked at. What is behind a bound is counted or told. Texts
//! and attachments are decoded when they are asked for, one at a time, so that there is not all of a message twice.
//! Nothing here makes it safe to show: that is for whoever shows it ([`crate::untrusted::Untrusted`]).

use std::borrow::Cow;

use charset::{Charset, UTF_7};
use mailparse::body::Body;
use mailparse::{DispositionType, MailHeader, ParsedContentDisposition, ParsedContentType};

use super::html;
use crate::panics::survive;

/// A message taken apart.
#[derive(Debug)]
pub struct Letter<'m> {
    /// The fields of its header.
    pub header: Header<'m>,
    /// What it has of text, in its order.
    texts: Vec<Text<'m>>,
    /// What it has beside text, in its order.
    pub attachments: Vec<Attachment<'m>>,
    /// How many parts have been looked at.
    parts: usize,
    /// Whether there were more.
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
    /// Whether nothing stands in it.
    is_blank: bool,
    is_html: bool,
    /// Whether another text says the same in a plainer form.
    is_alternative: bool,
}

/// A part that is no text to be read at once.
#[derive(Debug)]
pub struct Attachment<'m> {
    /// What its sender calls it, whatever that is.
    pub name: Option<String>,
    /// `image/png`, or whatever its sender says.
    pub media_type: String,
    encoding: Option<String>,
    body: &'m [u8],
    /// Whether it goes to the end of what was given of the message.
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

    /// How long the texts in HTML are, in bytes, of which there is a plain form that [`Letter::text`] has.
    pub fn also_in_html(&self) -> usize {
        self.texts.iter().filter(|text| text.is_alternative).map(|text| text.length).sum()
    }

    /// How much of HTML is not in [`Letter::text`] because it is longer than what is looked at, in bytes.
    pub fn html_left_out(&self) -> usize {
        let shown = self.texts.iter().filter(|text| text.is_html && !text.is_alternative);
        shown.map(|text| text.length.saturating_sub(MAX_HTML)).sum()
    }

    /// The text for people: what is plain as it is, what there is in HTML alone without its marks.
    pub fn text(&self) -> String {
        let shown = self.texts.iter().filter(|text| !text.is_alternative);
        let texts: Vec<String> = shown
            .map(|text| if text.is_html { text.without_marks() } else { text.decoded() })
            .filter(|text| !text.trim().is_empty())
            .collect();
        texts.join("\n")
    }

    /// Each plain text, or each in HTML.
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
        // A message that is one text with a name is there to be read.
        let is_attached = disposition.disposition == DispositionType::Attachment || name.is_some() && depth > 0;
        match content_type.mimetype.as_str() {
            kind @ ("text/plain" | "text/html") if !is_attached => {
                self.texts.push(Text::new(body, encoding, content_type.charset, kind == "text/html"));
            }
            // What cannot be taken apart is shown as it is.
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

    /// What is HTML, as far as it is looked at, without its marks.
    fn without_marks(&self) -> String {
        let mut html = self.decoded();
        html.truncate(html.floor_char_boundary(MAX_HTML));
        survive(|| html::to_text(&html)).unwrap_or(html)
    }
}

impl<'m> Header<'m> {
    /// The header of a message or a part of it, and what stands behind that.
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
                // No header goes on like this, so it is text.
                _ => return (Self { fields }, rest),
            }
        }
    }

    /// What the first field of this name says, decoded.
    pub fn value(&self, name: &str) -> Option<String> {
        self.beginning(name, MAX_FIELD)
    }

    fn beginning(&self, name: &str, most: usize) -> Option<String> {
        let is_named = |field: &&MailHeader<'_>| field.get_key_raw().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(is_named).map(|field| decoded(field.get_value_raw(), most))
    }

    /// Every field: its name, what stands behind that as it came, and the same decoded.
    pub fn fields(&self) -> impl Iterator<Item = (String, &[u8], String)> {
        self.fields.iter().map(|field| {
            let raw = field.get_value_raw();
            (field.get_key().trim().to_owned(), raw, decoded(raw, MAX_FIELD))
        })
    }

    /// What is none is plain text (RFC 2045, 5.2).
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

/// Whether a line has a colon, as each line with the name of a field.
fn begins_with_name(text: &[u8]) -> bool {
    memchr::memchr2(b':', b'\n', text).is_some_and(|at| text[at] == b':')
}

impl<'m> Attachment<'m> {
    /// What it is made of, its transfer encoding taken off.
    pub fn content(&self) -> Cow<'m, [u8]> {
        content_of(self.body, self.encoding.as_deref())
    }
}

/// What stands between the lines of a boundary (RFC 2046, 5.1.1). Where the last such line is missing, the end is the end.
fn parts<'m>(body: &'m [u8], boundary: &str) -> impl Iterator<Item = &'m [u8]> {
    let delimiter = format!("--{boundary}").into_bytes();
    let mut rest = Some(body);
    let mut has_begun = false;
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let (part, is_last, behind) = until_delimiter(text, &delimiter);
            rest = if is_last { None } else { Some(behind) };
            // What stands in front of the first one is for programs that know no parts.
            if std::mem::replace(&mut has_begun, true) {
                return Some(part);
            }
        }
    })
}

/// The text up to a line that is the delimiter, whether no part follows, and what does.
fn until_delimiter<'t>(text: &'t [u8], delimiter: &[u8]) -> (&'t [u8], bool, &'t [u8]) {
    let mut start = 0;
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |length| start + length + 1);
        if let Some(behind) = text[start..end].strip_prefix(delimiter) {
            let is_close = behind.trim_ascii_end() == b"--";
            if is_close || behind.trim_ascii_end().is_empty() {
                // The line end before it belongs to it.
                let part = &text[..start];
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                return (part.strip_suffix(b"\r").unwrap_or(part), is_close, &text[end..]);
            }
        }
        start = end;
    }
    (text, true, b"")
}

/// The beginning of what a field says, its encoded words decoded: the time that takes grows with the square of its length.
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

/// What can be decoded of it: other characters are to be ignored (RFC 2045, 6.8), and a message that was cut ends anywhere.
fn from_base64(body: &[u8]) -> Vec<u8> {
    let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let end = memchr::memchr(b'=', body).unwrap_or(body.len());
    let mut characters = body[..end].iter().copied().filter(is_ours);
    let mut content = Vec::with_capacity(end / 4 * 3);
    loop {
        let mut piece: Vec<u8> = characters.by_ref().take(PIECE).collect();
        // Six bits alone are no octet, and those that belong to none may be anything.
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

/// RFC 2045, 6.7. What is not as it should be stays as it is, octets beyond ASCII among it: programs that do not know what
/// they write say that it is quoted-printable.
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
            let octet = rest.get(at + 1..at + 3).and_then(octet_of);
            content.extend_from_slice(&rest[..at]);
            content.push(octet.unwrap_or(b'='));
            rest = &rest[at + if octet.is_some() { 3 } else { 1 }..];
        }
        content.extend_from_slice(rest);
        content.extend_from_slice(end);
    }
    content
}

fn octet_of(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// A text in the characters that it says it has. Where it says nothing, or what nobody knows, it is UTF-8 if it can be,
/// and else what old programs write without a word.
fn text_of(body: &[u8], charset: &str, encoding: Option<&str>) -> String {
    let content = content_of(body, encoding);
    let is_utf8 = matches!(charset.to_ascii_lowercase().as_str(), "us-ascii" | "ascii" | "utf-8" | "utf8" | "");
    // Those that could hide something in plain letters are decoded by nobody.
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
    // The time that takes grows with the square of what is decoded at once. These end whatever has been begun.
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

/// A text in the characters that old programs write without a word.
pub(super) fn in_windows_1252(text: &[u8]) -> String {
    match Charset::for_label(b"windows-1252") {
        Some(charset) => charset.decode_without_bom_handling(text).0.into_owned(),
        None => charset::decode_latin1(text).into_owned(),
    }
}

/// What stands in front of UTF-8 that comes from other systems.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How much of a field is decoded, in bytes.
const MAX_FIELD: usize = 8 * 1024;

/// The same of a field that says what a part is, of which there are many.
const MAX_MIME_FIELD: usize = 2 * 1024;

/// How much of base64 is decoded at a time: characters, four of which are three octets.
const PIECE: usize = 64 * 1024;

/// How much of a text in UTF-7 is decoded at once, in octets.
const MAX_UTF_7: usize = 4 * 1024;

/// How many fields of a header are looked at.
const MAX_FIELDS: usize = 1000;

/// How many parts of a message are looked at, and how deep they may lie in each other.
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
        // In the square of its length this would take minutes.
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
