//! Cutting the input into command lines, however it arrives.
//!
//! The first line decides how lines end on this connection ([`LineEnding`]). A line that is too long is skipped to its
//! end and reported once, so that the session stays in step and memory stays bounded.

use super::LineEnding;

/// Finds lines in a buffer and remembers how lines end on this connection.
#[derive(Debug, Default)]
pub struct LineReader {
    ending: Option<LineEnding>,
    /// Whether a line that was not empty has come; after that no other protocol is looked for.
    has_begun: bool,
    skipping: bool,
    /// How much of the buffer is known to hold no LF, so that a line that comes byte by byte is scanned once.
    scanned: usize,
}

/// What the buffer begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// A line without its end, and how many bytes of the buffer it takes.
    Line(&'b [u8], usize),
    /// The end of a line that was too long; it takes so many bytes of the buffer.
    TooLong(usize),
    /// A first line in another protocol.
    OtherProtocol,
    /// A header of the PROXY protocol, which nobody expects here.
    ProxyHeader,
    /// No whole line yet; so many bytes of the buffer can be dropped.
    Nothing(usize),
}

impl LineReader {
    /// How lines end here; CRLF until the first line has come.
    pub fn ending(&self) -> LineEnding {
        self.ending.unwrap_or(LineEnding::Crlf)
    }

    /// Whether the buffer begins with the start of a line. Otherwise it begins within a line that is too long.
    pub fn is_at_start(&self) -> bool {
        !self.skipping
    }

    /// Looks for a line at the beginning of the buffer. It may have `longest` octets without its end.
    pub fn find<'b>(&mut self, buffer: &'b [u8], longest: usize) -> Found<'b> {
        let may_begin = !self.has_begun && !self.skipping;
        if may_begin && is_other_protocol(buffer) {
            return Found::OtherProtocol;
        }
        if may_begin && (buffer.starts_with(b"PROXY ") || buffer.starts_with(PROXY_2)) {
            return Found::ProxyHeader;
        }
        // The signature of the PROXY protocol has line ends in it: a beginning of it is not cut into lines before it is
        // known what it is.
        if may_begin && !buffer.is_empty() && PROXY_2.starts_with(buffer) {
            return Found::Nothing(0);
        }
        loop {
            let Some(length) = memchr::memchr(b'\n', &buffer[self.scanned..]) else {
                return self.no_end(buffer, longest);
            };
            let end = self.scanned + length;
            let has_cr = end > 0 && buffer[end - 1] == b'\r';
            let ending = *self.ending.get_or_insert(if has_cr { LineEnding::Crlf } else { LineEnding::Lf });
            if ending == LineEnding::Crlf && !has_cr {
                // On a CRLF connection a bare LF is part of the line, which the parser then refuses.
                self.scanned = end + 1;
                continue;
            }
            self.scanned = 0;
            let line = &buffer[..if has_cr { end - 1 } else { end }];
            self.has_begun |= !line.is_empty();
            if std::mem::take(&mut self.skipping) || line.len() > longest {
                return Found::TooLong(end + 1);
            }
            return Found::Line(line, end + 1);
        }
    }

    fn no_end<'b>(&mut self, buffer: &[u8], longest: usize) -> Found<'b> {
        if !self.skipping && buffer.len() <= longest + 1 {
            self.scanned = buffer.len();
            return Found::Nothing(0);
        }
        self.skipping = true;
        self.has_begun = true;
        // A CR at the end of the buffer may be the first half of the line's end.
        let used = buffer.len() - usize::from(buffer.ends_with(b"\r"));
        self.scanned = 0;
        Found::Nothing(used)
    }
}

/// Whether a connection begins as HTTP, TLS or SSH connections do: whoever sends that will not understand us, and
/// what follows it must not be taken for commands.
fn is_other_protocol(start: &[u8]) -> bool {
    const STARTS: [&[u8]; 12] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"OPTIONS ",
        b"PATCH ",
        b"DELETE ",
        b"TRACE ",
        b"PRI ",
        b"CONNECT ",
        b"SSH-",
        b"\x16\x03", // TLS handshake record
    ];
    STARTS.iter().any(|word| start.starts_with(word))
}

/// The signature of the PROXY protocol, version 2. Its first bytes look like two empty commands.
const PROXY_2: &[u8] = b"\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 2046;

    /// Feeds the input in pieces of `piece` bytes and collects what is found.
    fn lines(input: &[u8], piece: usize) -> (Vec<Vec<u8>>, LineEnding) {
        let mut reader = LineReader::default();
        let (mut buffer, mut lines) = (Vec::new(), Vec::new());
        for piece in input.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                let used = match reader.find(&buffer, LONGEST) {
                    Found::Line(line, used) => {
                        lines.push(line.to_vec());
                        used
                    }
                    Found::TooLong(used) => {
                        lines.push(b"TOO LONG".to_vec());
                        used
                    }
                    Found::OtherProtocol => {
                        lines.push(b"OTHER".to_vec());
                        return (lines, reader.ending());
                    }
                    Found::ProxyHeader => {
                        lines.push(b"PROXY".to_vec());
                        return (lines, reader.ending());
                    }
                    Found::Nothing(used) => {
                        buffer.drain(..used);
                        assert!(buffer.len() <= LONGEST + 1);
                        break;
                    }
                };
                buffer.drain(..used);
            }
        }
        (lines, reader.ending())
    }

    #[test]
    fn the_first_line_decides() {
        let long = [b"x".repeat(100_000), b"\r\nquit\r\n".to_vec()].concat();
        let limit = [b"x".repeat(LONGEST), b"\r\n".to_vec(), b"y".repeat(LONGEST + 1), b"\r\n".to_vec()].concat();
        /// Input, the lines found in it, how they end.
        type Case<'c> = (&'c [u8], &'c [&'c [u8]], LineEnding);
        let cases: &[Case<'_>] = &[
            (b"a\r\nb\nc\r\n", &[b"a", b"b\nc"], LineEnding::Crlf),
            (b"a\nb\r\nc\n", &[b"a", b"b", b"c"], LineEnding::Lf),
            (b"a\rb\r\n", &[b"a\rb"], LineEnding::Crlf),
            (b"\r\n\n\r\n", &[b"", b"\n"], LineEnding::Crlf),
            (b"no end", &[], LineEnding::Crlf),
            (&long, &[b"TOO LONG", b"quit"], LineEnding::Crlf),
            (&limit, &[&limit[..LONGEST], b"TOO LONG"], LineEnding::Crlf),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", &[b"OTHER"], LineEnding::Crlf),
            (b"PROXY TCP4 x", &[b"PROXY"], LineEnding::Crlf),
            (b"\x16\x03\x01\x02", &[b"OTHER"], LineEnding::Crlf),
            (b"HELO x\r\nGET /\r\n", &[b"HELO x", b"GET /"], LineEnding::Crlf),
            (b"\r\n\r\n\0\r\nQUIT\nx", &[b"", b"", b"PROXY"], LineEnding::Crlf),
            (b"\r\n\0\r\nQUIT\r\n", &[b"", b"\0", b"QUIT"], LineEnding::Crlf),
            (b"\r\nHELO x\r\n\0\r\n", &[b"", b"HELO x", b"\0"], LineEnding::Crlf),
        ];
        for (input, expected, ending) in cases {
            for piece in [1, 2, 3, 7, 500, 4096, 1 << 20] {
                assert_eq!(
                    lines(input, piece),
                    (expected.iter().map(|line| line.to_vec()).collect(), *ending),
                    "{} in pieces of {piece}",
                    String::from_utf8_lossy(&input[..input.len().min(40)])
                );
            }
        }
    }
}
