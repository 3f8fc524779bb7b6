//! mboxrd, the form of a mailbox from which messages can be restored exactly (mbox(5)): a `From ` line, the message
//! with one more `>` in front of every line that consists of any number of `>` and `From `, an empty line.
//!
//! Programs that read mailboxes keep notes on a message in fields of its header, and believe what they find there. A
//! peer must not be able to write such notes, so these fields are renamed.

use std::io;
use std::time::SystemTime;

use crate::address::ReversePath;
use crate::date::Asctime;
use crate::message::{Envelope, RecipientCopy, Spool, for_each_piece};

/// Writes a copy as a message of a mailbox; `take` gets pieces of at least `at_a_time` bytes.
pub(super) fn write(
    copy: RecipientCopy<'_>,
    spool: &mut Spool,
    at_a_time: usize,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = Vec::with_capacity(1024 + 2 * spool.piece());
    out.extend_from_slice(from_line(copy.envelope).as_bytes());
    let mut encoder = Encoder::default();
    for_each_piece(copy.reader(spool)?, |text| {
        encoder.encode(text, &mut out);
        if out.len() >= at_a_time {
            take(&out)?;
            out.clear();
        }
        Ok(())
    })?;
    encoder.finish(&mut out);
    take(&out)
}

/// What [`write`] puts in front of the text: the `From ` line and our own headers.
pub(super) fn beginning(copy: RecipientCopy<'_>) -> Vec<u8> {
    let mut beginning = from_line(copy.envelope).into_bytes();
    Encoder::default().encode(copy.headers().as_bytes(), &mut beginning);
    beginning
}

/// The line that separates messages: sender and date (mbox(5)). Characters that would not fit into one word become `-`.
fn from_line(envelope: &Envelope<'_>) -> String {
    let sender: String = match &envelope.transaction.reverse_path {
        ReversePath::Null => "MAILER-DAEMON".to_owned(),
        ReversePath::Mailbox(mailbox) => {
            mailbox.to_string().chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect()
        }
    };
    format!("From {sender} {}\n", Asctime::in_utc(envelope.received_at))
}

/// Writes a message as it stands in a mailbox behind its `From ` line, in whatever pieces its text comes.
#[derive(Debug, Default)]
pub struct Encoder {
    fields: Renaming,
    lines: Quoting,
}

impl Encoder {
    /// Takes the next piece of the message, lines ended by LF, and appends what has to be written.
    pub fn encode(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let Self { fields, lines } = self;
        fields.rename(text, |piece| lines.quote(piece, out));
    }

    /// Ends the last line if the message did not, and adds the empty line behind the message.
    pub fn finish(self, out: &mut Vec<u8>) {
        let Self { fields, mut lines } = self;
        lines.quote(fields.held(), out);
        lines.finish(out);
    }
}

/// Puts [`RENAMED`] in front of each header field that is named in [`READERS_FIELDS`]. A CR ends a line as well,
/// because some readers think so.
#[derive(Debug, Default)]
struct Renaming {
    progress: Progress,
    /// The bytes of a name so far, and how many they are. Longer names than this cannot be among those.
    name: [u8; LONGEST_NAME],
    length: usize,
    /// Whether the line before has ended with a CR so far.
    is_behind_cr: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// At the beginning of a line of the header, within what may be a name.
    #[default]
    Name,
    /// In the rest of the line.
    Line,
    /// Behind the empty line that ends the header.
    Body,
}

impl Renaming {
    /// Takes the next piece of the message, and emits it with fields renamed.
    fn rename(&mut self, text: &[u8], mut emit: impl FnMut(&[u8])) {
        let mut rest = text;
        while let Some((&byte, behind)) = rest.split_first() {
            match self.progress {
                Progress::Body => return emit(rest),
                Progress::Line => {
                    let end = memchr::memchr2(b'\n', b'\r', rest);
                    let (line, others) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                    emit(line);
                    rest = others;
                    self.progress = if end.is_some() { Progress::Name } else { Progress::Line };
                    self.is_behind_cr = line.ends_with(b"\r");
                }
                Progress::Name if byte == b'\n' && self.is_behind_cr => self.progress = Progress::Line,
                Progress::Name if byte == b'\n' && self.length == 0 => self.progress = Progress::Body,
                Progress::Name if self.length < LONGEST_NAME && byte.is_ascii_graphic() && byte != b':' => {
                    self.name[self.length] = byte;
                    self.length += 1;
                    self.is_behind_cr = false;
                    rest = behind;
                }
                Progress::Name => {
                    if matches!(byte, b':' | b' ' | b'\t') && self.is_readers() {
                        emit(RENAMED);
                    }
                    emit(self.held());
                    self.length = 0;
                    self.progress = Progress::Line;
                }
            }
        }
    }

    fn is_readers(&self) -> bool {
        READERS_FIELDS.iter().any(|field| field.as_bytes().eq_ignore_ascii_case(self.held()))
    }

    /// What was taken and is not emitted yet.
    fn held(&self) -> &[u8] {
        &self.name[..self.length]
    }
}

/// Puts a `>` into every line that begins with any number of `>` and `From `, in whatever pieces the text comes. It
/// goes behind the `>`s that are there, which gives the same result as in front of them.
#[derive(Debug, Default)]
struct Quoting {
    /// Whether the current line is known to need no `>`.
    inside_line: bool,
    /// How many bytes of `From ` have come at the start of the line and are held back.
    matched: usize,
    /// Whether the line began with `>`.
    has_quotes: bool,
}

impl Quoting {
    fn quote(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        let mut all_lines_at_once = true;
        while let Some(&byte) = rest.first() {
            let at_line_start = !self.inside_line && self.matched == 0 && !self.has_quotes;
            if at_line_start && std::mem::take(&mut all_lines_at_once) {
                // Most texts contain no `From ` at all, and searching for it is much faster than looking at every line.
                let lines = memchr::memrchr(b'\n', rest).map_or(0, |end| end + 1);
                if memchr::memmem::find(&rest[..lines], FROM).is_none() {
                    out.extend_from_slice(&rest[..lines]);
                    rest = &rest[lines..];
                    continue;
                }
            }
            if self.inside_line {
                let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                out.extend_from_slice(&rest[..length]);
                self.inside_line = rest[length - 1] != b'\n';
                rest = &rest[length..];
            } else if byte == FROM[self.matched] {
                self.matched += 1;
                rest = &rest[1..];
                if self.matched == FROM.len() {
                    out.push(b'>');
                    self.release(out);
                }
            } else if byte == b'>' && self.matched == 0 {
                out.push(b'>');
                self.has_quotes = true;
                rest = &rest[1..];
            } else {
                self.release(out);
            }
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        let open = self.matched > 0 || self.inside_line || self.has_quotes;
        self.release(out);
        out.extend_from_slice(if open { b"\n\n" } else { b"\n" });
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FROM[..self.matched]);
        *self = Self { inside_line: true, ..Self::default() };
    }
}

/// What completes a torn `From ` line that begins like this; `None` if it is not one of ours.
pub(super) fn rest_of_from_line(torn: &[u8]) -> Option<String> {
    let date = Asctime::in_utc(SystemTime::now()).to_string();
    if let Some(rest) = FROM.strip_prefix(torn) {
        return Some(format!("{}MAILER-DAEMON {date}", rest.escape_ascii()));
    }
    let mut words = torn.strip_prefix(FROM)?.splitn(2, |byte| *byte == b' ');
    let sender = words.next()?;
    let Some(begun) = words.next() else {
        return Some(if sender.is_empty() { format!("MAILER-DAEMON {date}") } else { format!(" {date}") });
    };
    let kind = |byte: u8| (byte.is_ascii_alphabetic(), byte.is_ascii_digit() || byte == b' ', byte == b':');
    let is_date = begun.len() <= date.len() && begun.iter().zip(date.bytes()).all(|(a, b)| kind(*a) == kind(b));
    is_date.then(|| date[begun.len()..].to_owned())
}

const FROM: &[u8; 5] = b"From ";

/// Fields in which programs that read mailboxes keep notes on a message, and which they believe.
pub const READERS_FIELDS: [&str; 13] = [
    // Where the message ends, regardless of what is there: formail, Mail::Box for Perl, mutt, Dovecot.
    "Content-Length",
    "Lines",
    // Whether it was read, answered or deleted, or is a draft: most programs.
    "Status",
    "X-Status",
    // Its labels and its number: Dovecot, and UW IMAP's library, which Alpine uses.
    "X-Keywords",
    "X-UID",
    // Notes on the whole mailbox in its first message. These programs take a message with X-IMAP for no message and
    // show it to nobody.
    "X-IMAP",
    "X-IMAPbase",
    // How POP3 clients know a message again, so as not to fetch it twice: qpopper, and Dovecot if configured so.
    "X-UIDL",
    // All of these notes: Thunderbird, which does not show what is marked as expunged, and Evolution.
    "X-Mozilla-Status",
    "X-Mozilla-Status2",
    "X-Mozilla-Keys",
    "X-Evolution",
];

/// What is put in front of such a name; UW IMAP's library does the same.
const RENAMED: &[u8] = b"X-Original-";

/// The length of the longest of these fields' names, in bytes.
const LONGEST_NAME: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text becomes in a mailbox, however it is split.
    fn encoded(text: &str) -> String {
        let in_pieces = |piece: usize| {
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            text.as_bytes().chunks(piece).for_each(|piece| encoder.encode(piece, &mut out));
            encoder.finish(&mut out);
            String::from_utf8(out).unwrap()
        };
        let whole = in_pieces(text.len().max(1));
        for piece in 1..text.len().min(30) {
            assert_eq!(in_pieces(piece), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn quoting_can_be_undone() {
        let text = "\nFrom a\n>From b\n>>From c\nFrom\nFromage\n>x\n From d\n\n\n>\nFrom \n>>";
        let quoted = "\n>From a\n>>From b\n>>>From c\nFrom\nFromage\n>x\n From d\n\n\n>\n>From \n>>\n\n";
        assert_eq!(encoded(text), quoted);
    }

    #[test]
    fn the_last_line_is_always_ended() {
        for (text, quoted) in [("", "\n"), ("a\n", "a\n\n"), ("a", "a\n\n"), ("Fro", "Fro\n\n"), (">", ">\n\n")] {
            assert_eq!(encoded(text), quoted);
            assert_eq!(encoded(&format!("\n{text}")), format!("\n{quoted}"));
        }
    }

    #[test]
    fn what_readers_would_believe_has_another_name() {
        for (text, expected) in [
            ("A: b\nStatus: RO\n\n", "A: b\nX-Original-Status: RO\n\n"),
            ("content-LENGTH \t: 5\n\n", "X-Original-content-LENGTH \t: 5\n\n"),
            ("Lines\t:\n 5\n\t6\n\n", "X-Original-Lines\t:\n 5\n\t6\n\n"),
            ("X-Mozilla-Status2: 0\nX-IMAP: 1 2\n", "X-Original-X-Mozilla-Status2: 0\nX-Original-X-IMAP: 1 2\n"),
            // Where some see lines.
            (
                "A: b\rStatus: RO\r\nLines: 5\r\r\n\nC\rLines: 6\n",
                "A: b\rX-Original-Status: RO\r\nX-Original-Lines: 5\r\r\n\nC\rLines: 6\n",
            ),
            // None of them.
            ("Statu: x\nStatus2: x\nX-Status-: x\nXStatus: x\n", "Statu: x\nStatus2: x\nX-Status-: x\nXStatus: x\n"),
            ("A:\n Status: RO\n\tLines: 5\n", "A:\n Status: RO\n\tLines: 5\n"),
            ("X-Mozilla-Status23: 0\n:\n", "X-Mozilla-Status23: 0\n:\n"),
            // Not in the body, and so in no message within it.
            ("A: b\n\nStatus: RO\n", "A: b\n\nStatus: RO\n"),
            ("\nStatus: RO\n\nStatus: RO\n", "\nStatus: RO\n\nStatus: RO\n"),
            // No fields, and nothing that follows here is a header.
            ("Status\nStatus", "Status\nStatus\n"),
        ] {
            assert_eq!(encoded(text), format!("{expected}\n"));
        }
        for field in READERS_FIELDS {
            assert_eq!(encoded(&format!("{field}: x\n")), format!("X-Original-{field}: x\n\n"));
        }
    }

    #[test]
    fn a_name_of_any_length_is_no_matter() {
        assert_eq!(READERS_FIELDS.iter().map(|field| field.len()).max(), Some(LONGEST_NAME));
        for name in ["n".repeat(100_000), "n".repeat(LONGEST_NAME), "n".repeat(LONGEST_NAME + 1)] {
            let text = format!("{name}: x\n{name}\n");
            assert_eq!(encoded(&text), format!("{text}\n"));
        }
        let blanks = " ".repeat(100_000);
        assert_eq!(encoded(&format!("Lines{blanks}: 5\n")), format!("X-Original-Lines{blanks}: 5\n\n"));
    }
}
