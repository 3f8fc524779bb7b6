//! The text of a message in chunks (BDAT, RFC 3030): each has as many octets as its command says, whatever they are.
//!
//! No dot is special in a chunk and nothing in it ends it, so the number of octets is all that could be used for
//! smuggling. A command whose number cannot be read ends the connection, and the octets of a refused chunk are read
//! away before anything is taken for a command again. Line ends are treated as in DATA (`data.rs`), also a CRLF that
//! two chunks share.

use super::LineEnding;
use super::data::Text;

/// Reads a message chunk by chunk, in whatever pieces the octets come.
#[derive(Debug)]
pub struct ChunkReader {
    state: State,
    text: Text,
    /// How many octets this chunk has.
    octets: u64,
    /// How many of them have not come yet.
    left: u64,
    is_last: bool,
}

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind a line's end, or before the first byte.
    LineStart,
    /// Inside a line.
    Text,
    /// Behind a CR, which is not yet written.
    Cr,
}

impl ChunkReader {
    /// A reader at the start of a message of at most `max_size` octets; 0 means any size.
    pub fn new(line_ending: LineEnding, max_size: u64) -> Self {
        Self { state: State::LineStart, text: Text::new(line_ending, max_size), octets: 0, left: 0, is_last: false }
    }

    /// Begins a chunk of so many octets. Returns `false` if the message would be too large with it.
    pub fn begin(&mut self, octets: u64, is_last: bool) -> bool {
        (self.octets, self.left, self.is_last) = (octets, octets, is_last);
        !self.text.has_no_room_for(octets)
    }

    /// Takes input and appends the message's text to `output`. Returns how many bytes were taken and whether the chunk has
    /// ended; what follows it is not touched. A message whose last chunk does not end a line gets the line's end.
    pub fn read(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, bool) {
        let length = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        self.push(&input[..length], output);
        self.left -= length as u64;
        if self.has_ended() && self.is_last {
            self.finish(output);
        }
        (length, self.has_ended())
    }

    /// Whether all of this chunk has come.
    pub fn has_ended(&self) -> bool {
        self.left == 0
    }

    /// How many octets this chunk has.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether this chunk is the message's last one.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// What is known of the text that has come.
    pub fn text(&self) -> &Text {
        &self.text
    }

    fn push(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while let Some(&byte) = input.first() {
            let used = match (self.state, byte) {
                (State::Cr, b'\n') => self.end_line(output),
                (State::Cr, b'\r') => {
                    self.text.bare_cr(output);
                    1
                }
                (State::Cr, _) => {
                    self.text.bare_cr(output);
                    self.state = State::Text;
                    0
                }
                (_, b'\r') => {
                    self.state = State::Cr;
                    1
                }
                (_, b'\n') if self.text.line_ending == LineEnding::Lf => self.end_line(output),
                (_, b'\n') => {
                    // The bare LF is written as a line end, so no further one is needed at the end of the message.
                    self.text.bare_lf(output);
                    self.state = State::LineStart;
                    1
                }
                _ => {
                    let length = memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len());
                    self.text.write(&input[..length], output);
                    self.state = State::Text;
                    length
                }
            };
            input = &input[used..];
        }
    }

    fn end_line(&mut self, output: &mut Vec<u8>) -> usize {
        self.text.end_line(output);
        self.state = State::LineStart;
        1
    }

    fn finish(&mut self, output: &mut Vec<u8>) {
        if self.state == State::Cr {
            self.text.bare_cr(output);
            self.state = State::Text;
        }
        if self.state == State::Text {
            self.end_line(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the chunks, the last one as such, in pieces of so many bytes; returns text, size, and whether newlines were
    /// sound.
    fn read(line_ending: LineEnding, chunks: &[&[u8]], piece: usize) -> (Vec<u8>, u64, bool) {
        let mut reader = ChunkReader::new(line_ending, 0);
        let mut output = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            assert!(reader.begin(chunk.len() as u64, number + 1 == chunks.len()));
            // The next command is not touched, whatever it is.
            let input = [chunk, &b"\n.\r\n"[..]].concat();
            let mut taken = 0;
            loop {
                let end = input.len().min(taken + piece);
                let (used, has_ended) = reader.read(&input[taken..end], &mut output);
                taken += used;
                assert_eq!(has_ended, taken == chunk.len());
                if has_ended {
                    break;
                }
            }
        }
        (output, reader.text().size(), !reader.text().has_bare_newline())
    }

    #[test]
    fn chunks_are_their_octets() {
        /// Chunks, the text that is in a mailbox, its size, and whether newlines were sound.
        type Case<'c> = (&'c [&'c [u8]], &'c [u8], u64, bool);
        let cases: &[Case<'_>] = &[
            (&[b""], b"", 0, true),
            (&[b"a\r\nb\r\n"], b"a\nb\n", 6, true),
            (&[b"a\r\n", b"b\r\n", b""], b"a\nb\n", 6, true),
            (&[b"a\r", b"\nb"], b"a\nb\n", 6, true),
            (&[b"a", b"b", b"", b"c"], b"abc\n", 5, true),
            (&[b"..\r\n.\r\n.", b"\r\n"], b"..\n.\n.\n", 10, true),
            (&[b"\r\n.\r\nMAIL FROM:<a@b>\r\n"], b"\n.\nMAIL FROM:<a@b>\n", 22, true),
            (&[b"a\nb"], b"a\nb\n", 5, false),
            (&[b"a\n"], b"a\n", 2, false),
            (&[b"a\r"], b"a\r\n", 4, false),
            (&[b"a\r", b"b\r\n"], b"a\rb\n", 5, false),
            (&[b"\r\r\n"], b"\r\n", 3, false),
            (&[b"\0\xff\x80\r\n"], b"\0\xff\x80\n", 5, true),
        ];
        for (chunks, text, size, sound) in cases {
            for piece in [1, 2, 3, 64] {
                let expected = (text.to_vec(), *size, *sound);
                let shown: Vec<String> = chunks.iter().map(|chunk| chunk.escape_ascii().to_string()).collect();
                assert_eq!(read(LineEnding::Crlf, chunks, piece), expected, "{shown:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn chunks_of_a_person() {
        assert_eq!(read(LineEnding::Lf, &[b"a\nb\r\n.\n"], 1), (b"a\nb\n.\n".to_vec(), 9, true));
        assert_eq!(read(LineEnding::Lf, &[b"a\r", b"\nb"], 64), (b"a\nb\n".to_vec(), 6, true));
    }

    #[test]
    fn sizes() {
        let mut reader = ChunkReader::new(LineEnding::Crlf, 10);
        assert!(reader.begin(6, false));
        assert_eq!(reader.read(b"abcd\r\nef", &mut Vec::new()), (6, true));
        assert!(reader.begin(4, false));
        assert!(!reader.begin(5, false));
        assert!(!reader.begin(u64::MAX, true));
        // The line end that was missing counts as well.
        let mut text = Vec::new();
        assert!(reader.begin(3, true));
        assert_eq!(reader.read(b"abc", &mut text), (3, true));
        assert!(reader.text().is_too_large() && text == b"abc");
        assert!(ChunkReader::new(LineEnding::Crlf, 0).begin(u64::MAX, true));
    }
}
