//! The text of a message, from 354 to the final dot (RFC 5321, 4.1.1.4 and 4.5.2).
//!
//! On a CRLF connection only CRLF ends a line and only CRLF `.` CRLF ends the message. Servers that disagree about that
//! can be made to see two messages where the sender sent one ("SMTP smuggling"), so the machine below has exactly one
//! transition to the end. On an LF connection, where a person types, LF ends lines and a CR before it is dropped.
//!
//! What comes out has its stuffed dots removed and its line ends written as LF.

use super::LineEnding;

/// Reads a message in whatever pieces it comes.
#[derive(Debug)]
pub struct DataReader {
    state: State,
    text: Text,
}

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind a line's end, or before the first byte.
    LineStart,
    /// Inside a line.
    Text,
    /// Behind a CR inside a line, which is not yet written.
    Cr,
    /// Behind a dot at the start of a line, which is never written.
    Dot,
    /// Behind such a dot and a CR.
    DotCr,
}

impl DataReader {
    /// A reader at the start of a message of at most `max_size` octets; 0 means any size.
    pub fn new(line_ending: LineEnding, max_size: u64) -> Self {
        Self { state: State::LineStart, text: Text::new(line_ending, max_size) }
    }

    /// Takes input and appends the message's text to `output`. Returns how many bytes were taken and whether the message
    /// has ended; what follows its end is not touched. Nothing is appended once the message is too large.
    pub fn read(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match (self.state, byte) {
                (State::LineStart, b'.') => self.state = State::Dot,
                (State::Dot, b'\r') => self.state = State::DotCr,
                (State::DotCr, b'\n') => return (at + 1, true),
                (State::Dot, b'\n') if self.text.line_ending == LineEnding::Lf => return (at + 1, true),
                // The dot was a stuffed one, and the CR behind it is an ordinary one.
                (State::DotCr, _) => {
                    self.state = State::Cr;
                    continue;
                }
                (State::Cr, b'\n') => self.end_line(output),
                (State::Cr, b'\r') => self.text.bare_cr(output),
                (State::Cr, _) => {
                    self.text.bare_cr(output);
                    self.state = State::Text;
                    continue;
                }
                (State::LineStart | State::Text, b'\r') => self.state = State::Cr,
                (State::LineStart | State::Dot | State::Text, b'\n') => match self.text.line_ending {
                    LineEnding::Lf => self.end_line(output),
                    LineEnding::Crlf => {
                        // For the dot rule, what follows a bare LF is not the start of a line.
                        self.text.bare_lf(output);
                        self.state = State::Text;
                    }
                },
                (State::LineStart | State::Dot | State::Text, _) => {
                    let length = memchr::memchr2(b'\r', b'\n', &input[at..]).unwrap_or(input.len() - at);
                    self.text.write(&input[at..at + length], output);
                    at += length;
                    if input[at..].starts_with(b"\r\n") {
                        // The same as the states `Text` and `Cr` would do, only faster.
                        self.end_line(output);
                        at += 2;
                    } else {
                        self.state = State::Text;
                    }
                    continue;
                }
            }
            at += 1;
        }
        (at, false)
    }

    /// What is known of the text that has come.
    pub fn text(&self) -> &Text {
        &self.text
    }

    fn end_line(&mut self, output: &mut Vec<u8>) {
        self.text.end_line(output);
        self.state = State::LineStart;
    }
}

/// What is known of a message's text so far. It writes the text, with line ends as LF.
#[derive(Debug)]
pub struct Text {
    pub(super) line_ending: LineEnding,
    size: u64,
    max_size: u64,
    bare_newline: bool,
}

impl Text {
    pub(super) fn new(line_ending: LineEnding, max_size: u64) -> Self {
        let max_size = if max_size == 0 { u64::MAX } else { max_size };
        Self { line_ending, size: 0, max_size, bare_newline: false }
    }

    /// Octets of the message so far, as RFC 1870 counts them: line ends as two, stuffed dots and the final line not.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the message is larger than allowed. From then on nothing more is appended.
    pub fn is_too_large(&self) -> bool {
        self.size > self.max_size
    }

    /// Whether the message would be too large with so many octets more.
    pub(super) fn has_no_room_for(&self, octets: u64) -> bool {
        self.size.saturating_add(octets) > self.max_size
    }

    /// Whether a CR or LF stood alone in the message of a CRLF connection.
    pub fn has_bare_newline(&self) -> bool {
        self.bare_newline
    }

    pub(super) fn end_line(&mut self, output: &mut Vec<u8>) {
        self.size = self.size.saturating_add(1);
        self.write(b"\n", output);
    }

    /// A CR that is not part of a line end is written as it is.
    pub(super) fn bare_cr(&mut self, output: &mut Vec<u8>) {
        self.bare_newline |= self.line_ending == LineEnding::Crlf;
        self.write(b"\r", output);
    }

    /// A bare LF is written as a line end.
    pub(super) fn bare_lf(&mut self, output: &mut Vec<u8>) {
        self.bare_newline = true;
        self.write(b"\n", output);
    }

    pub(super) fn write(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if !self.is_too_large() {
            output.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the input in pieces; returns the text, what was left behind the end, and whether newlines were sound.
    fn read(line_ending: LineEnding, input: &[u8], piece: usize) -> (Vec<u8>, Option<Vec<u8>>, bool) {
        let mut reader = DataReader::new(line_ending, 0);
        let mut output = Vec::new();
        let mut taken = 0;
        for piece in input.chunks(piece) {
            let (used, ended) = reader.read(piece, &mut output);
            taken += used;
            if ended {
                return (output, Some(input[taken..].to_vec()), !reader.text().has_bare_newline());
            }
        }
        (output, None, !reader.text().has_bare_newline())
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message_of_a_mail_program() {
        let end = b"\r\n.\r\nQUIT\r\n";
        // The known tricks, each with what it is in a mailbox; none ends the message.
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"\n.\n", b"\n.\n", false),
            (b"\n.\r\n", b"\n.\n", false),
            (b"\n.\r", b"\n.\r", false),
            (b"\r\n.\n", b"\n\n", false),
            (b"\r\n.\r", b"\n\r", false),
            (b"\r.\r", b"\r.\r", false),
            (b"\r.\n", b"\r.\n", false),
            (b"\r.\r\n", b"\r.\n", false),
            (b"\r\n\0.\r\n", b"\n\0.\n", true),
            (b"\r\n.\0\r\n", b"\n\0\n", true),
            (b"\r\n.\r\r\n", b"\n\r\n", false),
            (b"\r\r\n.\r\r\n", b"\r\n\r\n", false),
            (b"\r\n\r.\r\n", b"\n\r.\n", false),
            (b"\r\n..\r\n", b"\n.\n", true),
            (b"\r\n. \r\n", b"\n \n", true),
            (b"\r\n.\t\r\n", b"\n\t\n", true),
            (b"\r\n.\x85\r\n", b"\n\x85\n", true),
            (b"\r\n...x\r\n", b"\n..x\n", true),
        ];
        for (trick, text, sound) in cases {
            let input = [b"Subject: x\r\n\r\nbody", *trick, b"MAIL FROM:<a@b>", end].concat();
            let expected = [b"Subject: x\n\nbody", *text, b"MAIL FROM:<a@b>\n"].concat();
            for piece in 1..input.len() {
                assert_eq!(
                    read(LineEnding::Crlf, &input, piece),
                    (expected.clone(), Some(b"QUIT\r\n".to_vec()), *sound),
                    "{} in pieces of {piece}",
                    String::from_utf8_lossy(trick)
                );
            }
        }
    }

    #[test]
    fn first_lines() {
        assert_eq!(read(LineEnding::Crlf, b".\r\nX", 64), (vec![], Some(b"X".to_vec()), true));
        assert_eq!(read(LineEnding::Crlf, b"..\r\n.\r\n", 64), (b".\n".to_vec(), Some(vec![]), true));
        assert_eq!(read(LineEnding::Crlf, b".\n.\r\n", 64).1, None);
        assert_eq!(read(LineEnding::Crlf, b"a\r\n.\r", 64).1, None);
        // CR CR LF . CR LF has CRLF . CRLF in it: the first CR is alone, and the message ends.
        assert_eq!(read(LineEnding::Crlf, b"a\r\r\n.\r\n", 64), (b"a\r\n".to_vec(), Some(vec![]), false));
    }

    #[test]
    fn a_person_types_lf() {
        for piece in 1..20 {
            assert_eq!(
                read(LineEnding::Lf, b"a\r\n..b\nc\rd\n.\nquit\n", piece),
                (b"a\n.b\nc\rd\n".to_vec(), Some(b"quit\n".to_vec()), true)
            );
            assert_eq!(read(LineEnding::Lf, b"a\n.\r\nquit", piece).0, b"a\n");
        }
    }

    #[test]
    fn size_counts_line_ends_as_two_and_stuffing_not_at_all() {
        for (max_size, too_large) in [(9, true), (10, false), (0, false)] {
            let mut reader = DataReader::new(LineEnding::Crlf, max_size);
            let mut output = Vec::new();
            let (_, ended) = reader.read(b"abc\r\n..de\r\n.\r\n", &mut output);
            assert!(ended);
            assert_eq!((reader.text().size(), reader.text().is_too_large()), (10, too_large));
        }
    }
}
