//! What a reply is, and how it goes over the wire: as we write it, and as we read that of another server (RFC 5321, 4.2).

use std::borrow::Cow;
use std::fmt;

use super::CHALLENGE;

/// One reply, of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The reply code.
    pub code: u16,
    /// The enhanced code, where there is one (not in greeting, HELO, EHLO, 3xx).
    pub status: Option<Status>,
    /// The lines of text, separated by LF.
    pub text: Cow<'static, str>,
    /// What of the peer's input the reply is about, for the log.
    pub subject: Option<Vec<u8>>,
    /// What happened on our side, for the log.
    pub cause: Option<String>,
    /// Whether the enhanced code is sent even if there was no EHLO: this reply comes before there could be one.
    pub precedes_hello: bool,
    /// Whether it is no fault of the peer, who must not be banned or cut off for it.
    pub is_our_fault: bool,
    /// Whether it only follows from a refusal that the peer could not know yet, or says it of a message once more, and that
    /// is in the log already, or from nothing at all: a peer is banned for the refusal, and not twice.
    pub is_echo: bool,
}

/// An enhanced code (RFC 3463, section 2): class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16, pub u16, pub u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(class, subject, detail) = self;
        write!(f, "{class}.{subject}.{detail}")
    }
}

impl Status {
    /// Reads a code such as `5.7.1` at the beginning of a text; it is a word of its own. Returns what follows it, too.
    pub(super) fn parse(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let [b'2' | b'4' | b'5', b'.', ..] = word.as_bytes() else { return None };
        let mut numbers = word.split('.').map(|digits| {
            let sound = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            sound.then(|| digits.parse().ok()).flatten()
        });
        let status = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some((status, rest))
    }
}

impl Reply {
    /// A reply that somebody has worded already.
    pub fn passed_on(code: u16, status: Option<Status>, text: String, is_our_fault: bool) -> Self {
        Self { is_our_fault, text: text.into(), ..fixed(code, status, "") }
    }

    /// Whether the reply says no.
    pub fn is_negative(&self) -> bool {
        self.code >= 400
    }

    /// Whether it says no for good.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// Names the peer's words that the reply is about.
    pub fn about(self, subject: impl Into<Vec<u8>>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// Says in the log what led to the reply.
    pub fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// Appends the reply as it goes over the wire, with its enhanced code if `enhanced`.
    pub fn encode(&self, enhanced: bool, out: &mut Vec<u8>) {
        let code = self.code.to_string();
        let status = self.status.filter(|_| enhanced || self.precedes_hello).map(|status| format!("{status} "));
        // A line is short enough (4.5.3.1.5); but what a program reads is of use as a whole only (RFC 4954, section 4).
        let room = if self.code == CHALLENGE { usize::MAX } else { MAX_TEXT };
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(code.as_bytes());
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            out.extend_from_slice(status.as_deref().unwrap_or_default().as_bytes());
            // Whatever a text was made from: a line of a reply is one line.
            let line = &line[..line.floor_char_boundary(room)];
            if line.contains(char::is_control) {
                out.extend_from_slice(line.replace(char::is_control, "?").as_bytes());
            } else {
                out.extend_from_slice(line.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Reads the reply at the beginning of what another server sent, and says how many bytes it takes; `None` while it is
    /// not there as a whole. A line may end with LF alone, as some do.
    /// What we write ourselves is held against this as well.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, NotAReply> {
        let mut reply = fixed(0, None, "");
        let (mut text, mut used) = (String::new(), 0);
        loop {
            let Some(length) = memchr::memchr(b'\n', &input[used..]) else {
                return if input.len() > MAX_REPLY { Err(NotAReply) } else { Ok(None) };
            };
            let line = &input[used..used + length];
            used += length + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (code, rest) = line.split_at_checked(3).ok_or(NotAReply)?;
            let [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] = code else { return Err(NotAReply) };
            let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            if used > MAX_REPLY || (reply.code != 0 && reply.code != code) {
                return Err(NotAReply);
            }
            reply.code = code;
            let (is_last, rest) = match rest {
                [] => (true, rest),
                [b' ', rest @ ..] => (true, rest),
                [b'-', rest @ ..] => (false, rest),
                _ => return Err(NotAReply),
            };
            let line = String::from_utf8_lossy(rest);
            let (status, rest) = match Status::parse(&line).filter(|(status, _)| status.0 == code / 100) {
                Some((status, rest)) => (Some(status), rest),
                None => (None, &*line),
            };
            reply.status = reply.status.or(status);
            text.push_str(rest);
            if is_last {
                return Ok(Some((Self { text: text.into(), ..reply }, used)));
            }
            text.push('\n');
        }
    }
}

/// What another server sent is no reply of SMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAReply;

/// A reply with nothing but these.
pub(super) const fn fixed(code: u16, status: Option<Status>, text: &'static str) -> Reply {
    let text = Cow::Borrowed(text);
    Reply { code, status, text, subject: None, cause: None, precedes_hello: false, is_our_fault: false, is_echo: false }
}

/// No server has so much to say: octets of a reply, all lines together.
const MAX_REPLY: usize = 64 * 1024;

/// Octets of text behind code and enhanced code, so that the line keeps to 512 (RFC 5321, 4.5.3.1.5).
const MAX_TEXT: usize = 512 - "250-5.10.10 \r\n".len();

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::smtp::reply::{OK, reply, without_status};

    pub(in crate::smtp) fn encoded(reply: &Reply, enhanced: bool) -> String {
        let mut out = Vec::new();
        reply.encode(enhanced, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn wire_form() {
        assert_eq!(encoded(&OK, true), "250 2.0.0 OK\r\n");
        assert_eq!(encoded(&OK, false), "250 OK\r\n");
        assert_eq!(encoded(&reply(214, Status(2, 0, 0), "a\nb"), true), "214-2.0.0 a\r\n214 2.0.0 b\r\n");
        assert_eq!(encoded(&without_status(550, "a\r\u{1b}b".to_owned()), false), "550 a??b\r\n");
        assert_eq!(encoded(&reply(550, Status(5, 1, 1), "x".repeat(600)), true).len(), 510);
    }

    #[test]
    fn replies_of_other_servers() {
        /// Code, enhanced code and text of the reply, and what is behind it.
        type Read<'i> = Option<(u16, Option<Status>, String, &'i str)>;
        fn read(input: &str) -> Result<Read<'_>, NotAReply> {
            let read = Reply::parse(input.as_bytes())?;
            Ok(read.map(|(reply, used)| (reply.code, reply.status, reply.text.into_owned(), &input[used..])))
        }
        let text = |text: &str| text.to_owned();
        assert_eq!(read("250 OK\r\n221 x"), Ok(Some((250, None, text("OK"), "221 x"))));
        assert_eq!(read("550\n"), Ok(Some((550, None, text(""), ""))));
        assert_eq!(
            read("550-5.1.1 No one\r\n550 5.1.1 here\r\n"),
            Ok(Some((550, Some(Status(5, 1, 1)), text("No one\nhere"), "")))
        );
        assert_eq!(read("450 5.1.1 x\r\n"), Ok(Some((450, None, text("5.1.1 x"), ""))));
        for unfinished in ["", "250", "250 OK\r", "250-a\r\n250 b"] {
            assert_eq!(read(unfinished), Ok(None), "{unfinished}");
        }
        for bad in ["\r\n", "25 x\r\n", "150 x\r\n", "25x x\r\n", "250_x\r\n", "250-a\r\n251 b\r\n", "SSH-2.0-x\n"] {
            assert_eq!(read(bad), Err(NotAReply), "{bad}");
        }
        assert_eq!(read(&"x".repeat(MAX_REPLY + 1)), Err(NotAReply));
    }
}
