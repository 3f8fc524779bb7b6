//! Makes a text fit behind our own headers (RFC 5322, 2.2): the rest of the header, an empty line, the body.
//!
//! A line that is no part of a header and has no empty line before it was meant as text. Readers would take it, or all
//! of the header behind it, for something else, so it gets that empty line. There is one exception: in front of the
//! header, a line like those between the messages of a mailbox was left there by some program and is no text. It
//! becomes a field `X-Mailbox-Line`, as with Postfix.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

/// Where something is inserted into a text, in bytes from its beginning, and what.
pub(super) type Amendment = (usize, &'static [u8]);

/// Finds what is missing in the header of a text, in whatever pieces that comes. It stops at the end of the header.
#[derive(Debug, Default)]
pub(super) struct HeaderScan {
    line: Line,
    /// Where the current line begins, and how many bytes of it have come.
    start: usize,
    column: usize,
    /// Whether a field has come.
    has_fields: bool,
    /// Where lines like those between messages begin, as long as no field has come.
    mailbox_lines: Vec<usize>,
}

/// What the current line of the header is, as far as it has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// None of it has come.
    #[default]
    Start,
    /// Perhaps the name of a field.
    Name,
    /// Still perhaps the name of a field; or, in front of the header, any number of `>` and so many bytes of `From`.
    From(usize),
    /// Blanks behind a name.
    BehindName,
    /// Blanks behind `From`.
    BehindFrom,
    /// A field, or the continuation of one.
    Field,
    /// A line like those between the messages of a mailbox.
    Mailbox,
    /// The empty line that ends the header.
    Empty,
    /// A line that is no part of a header; nothing behind it matters.
    Text,
}

impl HeaderScan {
    pub(super) fn scan(&mut self, text: &[u8]) {
        use Line::{BehindFrom, BehindName, Empty, Field, From, Mailbox, Name, Start, Text};
        let mut rest = text;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            self.line = match (self.line, byte) {
                (Empty | Text, _) => return,
                (Start, b'\n') => Empty,
                (Start, b' ' | b'\t') if self.has_fields => Field,
                (Field | Mailbox, b'\n') => {
                    self.start += self.column + 1;
                    self.column = 0;
                    self.line = Start;
                    continue;
                }
                (Field | Mailbox, _) => {
                    // Most of a header is this case, so it is not looked at byte by byte.
                    let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    self.column += length;
                    rest = &rest[length..];
                    self.line
                }
                (Name | From(_) | BehindName | BehindFrom, b':') => {
                    self.has_fields = true;
                    Field
                }
                (From(matched), b' ') if matched == FROM.len() => BehindFrom,
                (BehindFrom, b' ' | b'\t') => BehindFrom,
                (BehindFrom, byte) if byte != b'\n' && self.mailbox_lines.len() < MAX_MAILBOX_LINES => {
                    self.mailbox_lines.push(self.start);
                    Mailbox
                }
                (Name | From(_) | BehindName, b' ' | b'\t') => BehindName,
                (Start | Name | From(_), byte)
                    if byte.is_ascii_graphic() && byte != b':' && self.column < MAX_FIELD_NAME =>
                {
                    match self.line {
                        Start | From(0) if byte == b'>' && !self.has_fields => From(0),
                        Start if byte == FROM[0] && !self.has_fields => From(1),
                        From(matched) if FROM.get(matched) == Some(&byte) => From(matched + 1),
                        _ => Name,
                    }
                }
                (Start | Name | From(_) | BehindName | BehindFrom, _) => Text,
            };
            self.column += 1;
        }
    }

    /// What has to be inserted, in the order of the text.
    pub(super) fn amendments(&self) -> VecDeque<Amendment> {
        let mut amendments = VecDeque::new();
        if self.has_fields {
            amendments.extend(self.mailbox_lines.iter().map(|start| (*start, MAILBOX_LINE)));
        }
        amendments.extend(self.missing_empty_line().map(|start| (start, EMPTY_LINE)));
        amendments
    }

    /// Before how many bytes of the text an empty line is missing, if it is.
    fn missing_empty_line(&self) -> Option<usize> {
        match self.line {
            // Without any field, lines like those between messages are text, as is everything behind them.
            Line::Empty if self.mailbox_lines.is_empty() => None,
            _ if !self.has_fields => Some(0),
            Line::Name | Line::From(_) | Line::BehindName | Line::BehindFrom | Line::Mailbox | Line::Text => {
                Some(self.start)
            }
            Line::Start | Line::Field | Line::Empty => None,
        }
    }
}

/// A text while it is read, with the insertions in it.
pub(super) struct Amended<R> {
    text: R,
    /// How many bytes of the text itself were read.
    position: usize,
    /// The insertions that are still to come.
    amendments: VecDeque<Amendment>,
}

impl<R: BufRead> Amended<R> {
    /// `text` from its beginning.
    pub(super) fn new(text: R, amendments: VecDeque<Amendment>) -> Self {
        Self { text, position: 0, amendments }
    }
}

impl<R: BufRead> BufRead for Amended<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.amendments.front() {
            Some((at, amendment)) if *at == self.position => Ok(amendment),
            Some((at, _)) => {
                let piece = self.text.fill_buf()?;
                Ok(&piece[..piece.len().min(at - self.position)])
            }
            None => self.text.fill_buf(),
        }
    }

    fn consume(&mut self, length: usize) {
        match self.amendments.front_mut() {
            Some((at, amendment)) if *at == self.position => {
                *amendment = &amendment[length..];
                if amendment.is_empty() {
                    self.amendments.pop_front();
                }
            }
            _ => {
                self.text.consume(length);
                self.position += length;
            }
        }
    }
}

impl<R: BufRead> Read for Amended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// How a line between the messages of a mailbox begins, without the blank behind it (mbox(5)).
const FROM: &[u8; 4] = b"From";

/// Makes a field of such a line, in front of which it is put.
const MAILBOX_LINE: &[u8] = b"X-Mailbox-Line: ";

const EMPTY_LINE: &[u8] = b"\n";

/// How many such lines a text may have in front of its header: one, and one for each program that quoted it again.
const MAX_MAILBOX_LINES: usize = 10;

/// RFC 5322, 2.1.1: a line has at most 998 characters, so a field name with its colon has no more either.
const MAX_FIELD_NAME: usize = 997;

#[cfg(test)]
mod tests {
    use super::*;

    /// The message that a text becomes, however it is split.
    fn amended(text: &str) -> String {
        let in_pieces = |piece: usize| {
            let mut scan = HeaderScan::default();
            text.as_bytes().chunks(piece).for_each(|piece| scan.scan(piece));
            let mut message = String::new();
            Amended::new(text.as_bytes(), scan.amendments()).read_to_string(&mut message).unwrap();
            message
        };
        let whole = in_pieces(text.len().max(1));
        for piece in [1, 2, 3, 5] {
            assert_eq!(in_pieces(piece), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn text_without_a_header_gets_an_empty_line_in_front() {
        for (text, is_header) in [
            ("Subject: x\n\nbody", true),
            ("\nbody", true),
            ("", false),
            ("hello\nSubject: x", false),
            (" folded\n", false),
            ("word\n: x\n", false),
            ("Subject : x\n", true),
            ("http://x\n", true),
        ] {
            let expected = if is_header { text.to_owned() } else { format!("\n{text}") };
            assert_eq!(amended(text), expected);
        }
    }

    #[test]
    fn a_header_that_runs_into_the_text_is_ended() {
        let long_name = format!("A: b\n{}: c\n\ntext\n", "n".repeat(997));
        let no_name = format!("A: b\n{}: c\n\ntext\n", "n".repeat(998));
        for (text, place) in [
            ("Subject: x\n\nbody\n", None),
            ("Subject: x\n", None),
            ("\nA: b\nno header\n", None),
            ("A: b\n c\n\td\n \nE : f\n\nno header\n", None),
            ("A: b\nhello\nC: d\n\n", Some("hello")),
            ("A: b\nhello world: x\n", Some("hello")),
            ("A: b\n folded\n: x\n\n", Some(": x")),
            ("A: b\nFrom root Sat Nov 28\nC: d\n", Some("From root")),
            ("A: b\n>From root Sat Nov 28\nC: d\n", Some(">From")),
            ("A: b\n\r\nbody\n", Some("\r")),
            ("A: b\n\u{fc}: x\n", Some("\u{fc}")),
            ("A: b\n\0\n", Some("\0")),
            ("A: b\nword", Some("word")),
            ("A: b\nword\t ", Some("word")),
            ("A: b\nFrom", Some("From")),
            ("A: b\nFrom ", Some("From ")),
            (&long_name, None),
            (&no_name, Some("nnn")),
        ] {
            let mut expected = text.to_owned();
            place.into_iter().for_each(|place| expected.insert(text.find(place).unwrap(), '\n'));
            assert_eq!(amended(text), expected);
        }
    }

    #[test]
    fn a_line_from_between_messages_becomes_a_field() {
        for (text, expected) in [
            ("From a Sat\nA: b\n\nFrom c\n", "X-Mailbox-Line: From a Sat\nA: b\n\nFrom c\n"),
            (">From a Sat\nA: b", "X-Mailbox-Line: >From a Sat\nA: b"),
            (
                "From a\n>From b\n>>From c\nA: b\n",
                "X-Mailbox-Line: From a\nX-Mailbox-Line: >From b\nX-Mailbox-Line: >>From c\nA: b\n",
            ),
            ("From  \t a: b\nA: b\n", "X-Mailbox-Line: From  \t a: b\nA: b\n"),
            // The field runs into text.
            ("From a\nA: b\nhello\n", "X-Mailbox-Line: From a\nA: b\n\nhello\n"),
            // These are fields.
            ("From : a\nA: b\n", "From : a\nA: b\n"),
            (">From: a\nA: b\n", ">From: a\nA: b\n"),
            // No field follows: this is text.
            ("From what I see\n\nit works: yes\n", "\nFrom what I see\n\nit works: yes\n"),
            ("From here\non\n", "\nFrom here\non\n"),
            ("From a\n folded\nA: b\n", "\nFrom a\n folded\nA: b\n"),
            ("From a", "\nFrom a"),
            ("From a\n", "\nFrom a\n"),
            ("From ", "\nFrom "),
            // None of these is such a line.
            ("From\ta\nA: b\n", "\nFrom\ta\nA: b\n"),
            ("from a\nA: b\n", "\nfrom a\nA: b\n"),
            ("> From a\nA: b\n", "\n> From a\nA: b\n"),
            ("From \nA: b\n", "\nFrom \nA: b\n"),
            ("Fro m\nA: b\n", "\nFro m\nA: b\n"),
            ("Fr>om a\nA: b\n", "\nFr>om a\nA: b\n"),
            ("FFrom a\nA: b\n", "\nFFrom a\nA: b\n"),
        ] {
            assert_eq!(amended(text), expected);
        }
        let many = |lines: usize| format!("{}A: b\n", "From a\n".repeat(lines));
        let expected = format!("{}A: b\n", "X-Mailbox-Line: From a\n".repeat(MAX_MAILBOX_LINES));
        assert_eq!(amended(&many(MAX_MAILBOX_LINES)), expected);
        let too_many = many(MAX_MAILBOX_LINES + 1);
        assert_eq!(amended(&too_many), format!("\n{too_many}"), "memory does not grow with them");
    }
}
