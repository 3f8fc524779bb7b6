//! Octets as a line of text: printable ASCII as it is, `\\` for a backslash, `\r`, `\n`, `\t`, and any other octet as
//! `\xNN`. `\*` stands for a secret, `\{N}` for N octets that are left out. A final CRLF is not written; a backslash at
//! the end of the line says that there was none.

use super::read::BadLine;
use crate::hexadecimal;

/// Input of the peer, without what must not be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Octets(Vec<Piece>);

/// A part of such input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These octets.
    Shown(Vec<u8>),
    /// A word, or a line, that may be a password.
    Secret,
    /// So many octets that are left out.
    LeftOut(u64),
}

impl Octets {
    /// These octets, without anything left out.
    pub fn shown(octets: &[u8]) -> Self {
        Self::default().and(octets)
    }

    /// Appends octets.
    pub fn and(mut self, octets: &[u8]) -> Self {
        match self.0.last_mut() {
            _ if octets.is_empty() => {}
            Some(Piece::Shown(shown)) => shown.extend_from_slice(octets),
            _ => self.0.push(Piece::Shown(octets.to_owned())),
        }
        self
    }

    /// Appends a secret.
    pub fn and_secret(mut self) -> Self {
        self.0.push(Piece::Secret);
        self
    }

    /// Appends so many octets that are left out.
    pub fn and_left_out(mut self, octets: u64) -> Self {
        match self.0.last_mut() {
            _ if octets == 0 => {}
            Some(Piece::LeftOut(known)) => *known = known.saturating_add(octets).min(MOST_LEFT_OUT),
            _ => self.0.push(Piece::LeftOut(octets.min(MOST_LEFT_OUT))),
        }
        self
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Writes it as a line without the line's end.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut has_end = false;
        for (number, piece) in self.0.iter().enumerate() {
            match piece {
                Piece::Shown(octets) => {
                    let is_last = number + 1 == self.0.len();
                    let line = octets.strip_suffix(b"\r\n").filter(|_| is_last);
                    has_end = line.is_some();
                    escape(line.unwrap_or(octets), out);
                }
                Piece::Secret => out.extend_from_slice(br"\*"),
                Piece::LeftOut(octets) => out.extend_from_slice(format!("\\{{{octets}}}").as_bytes()),
            }
        }
        if !has_end {
            out.push(b'\\');
        }
    }

    /// Reads such a line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, BadLine> {
        let (mut octets, mut rest) = (Self::default(), line);
        loop {
            let (shown, behind) = unescaped(rest)?;
            octets = octets.and(&shown);
            match behind {
                [] => return Ok(octets.and(b"\r\n")),
                [b'\\'] => return Ok(octets),
                [b'\\', b'*', behind @ ..] => (octets, rest) = (octets.and_secret(), behind),
                [b'\\', b'{', behind @ ..] => {
                    let end = behind.iter().position(|byte| *byte == b'}').ok_or(NO_ESCAPE)?;
                    let number = std::str::from_utf8(&behind[..end]).ok().filter(|text| !text.starts_with(['+', '0']));
                    let number = number.and_then(|text| text.parse().ok()).filter(|number| *number <= MOST_LEFT_OUT);
                    (octets, rest) = (octets.and_left_out(number.ok_or(NO_ESCAPE)?), &behind[end + 1..]);
                }
                _ => return Err(NO_ESCAPE),
            }
        }
    }
}

/// Writes octets in a form that fits into a line.
pub(super) fn escape(octets: &[u8], out: &mut Vec<u8>) {
    for octet in octets {
        match octet {
            b'\\' => out.extend_from_slice(br"\\"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\t' => out.extend_from_slice(br"\t"),
            b' '..=b'~' => out.push(*octet),
            _ => out.extend_from_slice(format!("\\x{octet:02x}").as_bytes()),
        }
    }
}

/// Reads a whole field in that form.
pub(super) fn field(text: &[u8]) -> Result<Vec<u8>, BadLine> {
    match unescaped(text)? {
        (octets, []) => Ok(octets),
        _ => Err(NO_ESCAPE),
    }
}

/// Reads escaped octets up to another kind of escape; also returns what is left from there.
fn unescaped(mut text: &[u8]) -> Result<(Vec<u8>, &[u8]), BadLine> {
    let mut octets = Vec::with_capacity(text.len());
    loop {
        let plain = memchr::memchr(b'\\', text).unwrap_or(text.len());
        if !text[..plain].iter().all(|octet| matches!(octet, b' '..=b'~')) {
            return Err(BadLine("there is an octet that is written as `\\xNN` in a transcript".to_owned()));
        }
        octets.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let (octet, rest) = match text {
            [b'\\', b'\\', rest @ ..] => (b'\\', rest),
            [b'\\', b'r', rest @ ..] => (b'\r', rest),
            [b'\\', b'n', rest @ ..] => (b'\n', rest),
            [b'\\', b't', rest @ ..] => (b'\t', rest),
            [b'\\', b'x', high, low, rest @ ..] if !high.is_ascii_uppercase() && !low.is_ascii_uppercase() => {
                (hexadecimal::octet([*high, *low]).ok_or(NO_ESCAPE)?, rest)
            }
            _ => return Ok((octets, text)),
        };
        octets.push(octet);
        text = rest;
    }
}

/// The most octets that can be left out: more than any message has. `replay` has to make up as many.
const MOST_LEFT_OUT: u64 = 1 << 36;

const NO_ESCAPE: BadLine = BadLine(String::new());
