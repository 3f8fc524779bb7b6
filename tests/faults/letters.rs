//! Numbered messages that can be made again from their number, and recognized wherever they turn up.
//!
//! The number is in the reverse path, so that even a message of one byte bears one; the recipient is in the
//! `Delivered-To` that the receiver adds. Texts are the kind that mailboxes trip over: `From ` lines quoted and not,
//! lines of dots, empty lines at the end, bytes above ASCII.

use std::borrow::Cow;
use std::sync::OnceLock;

use testkit::Random;

/// A message that was sent, or will be.
#[derive(Debug, Clone)]
pub struct Letter {
    pub number: u64,
    /// The length of its text in bytes, lines ended by LF.
    pub size: usize,
    /// The recipients, without their domain.
    pub recipients: Vec<&'static str>,
}

/// What a copy that was found turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copy {
    /// All of it, as it was sent.
    Whole { number: u64, recipients: Vec<String> },
    /// Its beginning. How much can be told depends on how much there is.
    Beginning { number: Option<u64>, recipient: Option<String>, header_fields: usize },
    /// Anything else.
    Mangled { number: Option<u64>, about: String },
}

/// How a place keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A `From ` line in front, and `From ` in the text quoted with `>`.
    Mboxrd,
    /// The message.
    Bare,
}

impl Letter {
    pub fn sender(&self) -> String {
        sender(self.number)
    }

    pub fn addresses(&self) -> Vec<String> {
        self.recipients.iter().map(|recipient| format!("{recipient}@{DOMAIN}")).collect()
    }

    /// The text, the same at every call.
    pub fn text(&self) -> Vec<u8> {
        let mut random = Random::new(self.number);
        let mut text = Vec::with_capacity(self.size + 64);
        // A text that begins with neither a header field nor an empty line would get one more of the latter.
        if self.size > 100 {
            text.extend_from_slice(format!("Subject: letter {}\nX-Size: {}\n\n", self.number, self.size).as_bytes());
        } else {
            text.push(b'\n');
        }
        let pool = pool();
        while text.len() < self.size {
            match random.below(16) {
                0 => text.extend_from_slice(TRAPS[random.index(TRAPS.len())]),
                // One line in a few hundred is a long one.
                kind => {
                    let longest = if kind == 1 && random.below(20) == 0 { 20_000 } else { 120 };
                    let length = random.index(longest);
                    let start = random.index(pool.len() - length);
                    text.extend_from_slice(&pool[start..start + length]);
                    text.push(b'\n');
                }
            }
        }
        text.truncate(self.size);
        if let Some(last) = text.last_mut() {
            *last = b'\n';
        }
        text
    }
}

/// Looks at what a reader found at a place. `letter` tells which message has a number.
pub fn examine<'l>(found: &[u8], format: Format, letter: impl Fn(u64) -> Option<&'l Letter>) -> Copy {
    let header = Header::parse(found, format);
    let Some(number) = header.number else {
        let about = String::from_utf8_lossy(&found[..found.len().min(80)]).into_owned();
        // Less than its first line: whoever knows what was being sent can tell whether it may be that.
        return match format != Format::Bare && found.len() < 200 && b"From n".starts_with(&found[..found.len().min(6)])
        {
            true => Copy::Beginning { number: None, recipient: None, header_fields: 0 },
            false => Copy::Mangled { number: None, about: format!("no message of ours: {about:?}") },
        };
    };
    let Some(letter) = letter(number) else {
        return Copy::Mangled { number: Some(number), about: format!("message {number} was never sent") };
    };
    let beginning = |recipient| Copy::Beginning { number: Some(number), recipient, header_fields: header.fields };
    let (Some(recipient), Some(body)) = (header.recipient(), header.body) else { return beginning(header.recipient()) };
    let text = letter.text();
    let expected = if format == Format::Mboxrd { quoted(&text) } else { Cow::Borrowed(&text[..]) };
    let found = &found[body..];
    if found == &expected[..] {
        return Copy::Whole { number, recipients: header.recipients.iter().map(|to| (*to).to_owned()).collect() };
    }
    // The line ends that close off a torn message are not of the message.
    let length = found.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    if expected.starts_with(&found[..length]) && found.len() < expected.len() + 2 {
        return beginning(Some(recipient));
    }
    let differs = found.iter().zip(&expected[..]).position(|(one, other)| one != other);
    let differs = differs.unwrap_or(found.len().min(expected.len()));
    let about = format!("{} bytes, sent were {}, the first difference is at {differs}", found.len(), expected.len());
    Copy::Mangled { number: Some(number), about: format!("message {number} for {recipient}: {about}") }
}

/// What the lines in front of the text say.
struct Header<'f> {
    number: Option<u64>,
    /// Those who share the copy.
    recipients: Vec<&'f str>,
    /// How many header fields are there in full.
    fields: usize,
    /// Where the text begins, if everything in front of it is there.
    body: Option<usize>,
}

impl<'f> Header<'f> {
    fn parse(found: &'f [u8], format: Format) -> Self {
        let mut header = Self { number: None, recipients: Vec::new(), fields: 0, body: None };
        let mut at = 0;
        let mut lines = found.split_inclusive(|byte| *byte == b'\n');
        let mut next = || {
            let line = lines.next()?;
            at += line.len();
            Some((line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()), line, at))
        };
        if format != Format::Bare {
            let Some((_, line, _)) = next() else { return header };
            header.number = number(line, b"From n");
            if header.number.is_none() {
                return header;
            }
        }
        let Some((Some(line), raw, _)) = next() else { return header };
        let Some(sender) = line.strip_prefix("Return-Path: <n") else { return header };
        if !sender.ends_with('>') {
            return header;
        }
        header.number = number(raw, b"Return-Path: <n");
        header.fields = 1;
        while let Some((Some(line), _, end)) = next() {
            if let Some(recipient) = line.strip_prefix("Delivered-To: ").and_then(|to| to.strip_suffix(AT_DOMAIN)) {
                header.recipients.push(recipient);
                header.fields = 2;
            } else if header.recipients.is_empty() {
                break;
            } else if line.contains("; ") {
                // The Received field ends with the line that has the date in it.
                header.body = Some(end);
                break;
            }
        }
        header
    }

    fn recipient(&self) -> Option<String> {
        self.recipients.first().map(|recipient| (*recipient).to_owned())
    }
}

/// The number between `before` and an `@`.
fn number(line: &[u8], before: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(before)?;
    let digits = &rest[..rest.iter().position(|byte| *byte == b'@')?];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What a place has of a message without the empty line that separates it from the next one.
pub fn without_separator(found: &[u8], format: Format) -> &[u8] {
    match found.strip_suffix(b"\n") {
        Some(message) if format == Format::Mboxrd && message.ends_with(b"\n") => message,
        _ => found,
    }
}

/// mboxrd: a `>` in front of every line of `>`s and `From `.
pub fn quoted(text: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::with_capacity(text.len() + 1024);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let start = line.iter().position(|byte| *byte != b'>').unwrap_or(line.len());
        if line[start..].starts_with(b"From ") {
            quoted.push(b'>');
        }
        quoted.extend_from_slice(line);
    }
    Cow::Owned(quoted)
}

pub fn sender(number: u64) -> String {
    format!("n{number}@client.example")
}

/// What lines are cut out of: letters, digits, spaces, and a byte above ASCII now and then.
fn pool() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01234567 >.\xe4";
        let mut random = Random::new(0);
        (0..256 * 1024).map(|_| SIGNS[random.index(SIGNS.len())]).collect()
    })
}

const DOMAIN: &str = "receiver.example";
const AT_DOMAIN: &str = "@receiver.example";

/// Lines that something on the way could take for something else.
const TRAPS: &[&[u8]] = &[
    b"\n",
    b"\n\nFrom n1@client.example Sat Nov 21 01:32:50 2026\nReturn-Path: <n1@client.example>\nSubject: no\n\n",
    b"From \n",
    b">From x\n",
    b">>From x\n",
    b"From\n",
    b".\n",
    b"..\n",
    b". \n",
    b"Received: x\n",
];
