//! Follows a session of which only the client's octets are known; says for each piece what it is and how many replies
//! it gets.

use super::session::{Awaited, Reader};
use super::text;
use crate::case::Part;

/// The state of the session.
pub(crate) struct Guide {
    reader: Reader,
    /// Whether the empty line behind the header was sent.
    is_behind_header: bool,
    /// The octets of the current line of the text.
    line: Vec<u8>,
    /// Whether a text was sent completely.
    is_behind_text: bool,
}

impl Guide {
    pub(crate) fn new() -> Self {
        Self { reader: Reader::new(), is_behind_header: false, line: Vec::new(), is_behind_text: false }
    }

    /// Whether what comes next is text.
    pub(crate) fn is_in_text(&self) -> bool {
        self.reader.awaited() == Awaited::Text
    }

    /// How many of these octets belong together: a line, a text with its end, or a chunk.
    pub(crate) fn piece(&self, octets: &[u8]) -> usize {
        let end = match self.reader.awaited() {
            Awaited::Text => text::end(octets),
            Awaited::Chunk(left) => Some(left.min(octets.len())),
            Awaited::Command | Awaited::Response | Awaited::Nothing => {
                octets.iter().position(|octet| *octet == b'\n').map(|at| at + 1)
            }
        };
        end.unwrap_or(octets.len())
    }

    /// This piece is sent and its replies are waited for. Returns what it is, and how many replies it gets from a
    /// server that follows the standard and accepts everything.
    pub(crate) fn send(&mut self, octets: &[u8]) -> (Part, usize) {
        let part = match self.reader.awaited() {
            Awaited::Text => self.part_of_text(octets),
            Awaited::Chunk(_) => Part::Body,
            Awaited::Command | Awaited::Response | Awaited::Nothing => self.part_of_commands(octets),
        };
        let was_text = self.is_in_text();
        self.reader.read(octets, 0);
        if was_text && !self.is_in_text() {
            self.is_behind_text = true;
        }
        (part, self.reader.take_replies())
    }

    fn part_of_text(&mut self, octets: &[u8]) -> Part {
        if octets.ends_with(b".\r\n") && octets.iter().all(|octet| b"\r\n.".contains(octet)) {
            return Part::End;
        }
        let part = if self.is_behind_header || octets == b"\r\n" { Part::Body } else { Part::Header };
        self.line.extend_from_slice(octets);
        self.is_behind_header |=
            self.line.starts_with(b"\r\n") || self.line.windows(4).any(|window| window == b"\r\n\r\n");
        if let Some(at) = self.line.iter().rposition(|octet| *octet == b'\n') {
            // The line end is kept, because an empty line may follow in the next piece.
            self.line.drain(..at.saturating_sub(1));
        }
        part
    }

    fn part_of_commands(&self, octets: &[u8]) -> Part {
        let verb: Vec<u8> = octets.iter().take(4).map(u8::to_ascii_uppercase).collect();
        match verb.as_slice() {
            b"QUIT" => Part::Quit,
            _ if self.is_behind_text => Part::Tail,
            b"MAIL" => Part::Mail,
            b"RCPT" => Part::Rcpt,
            b"DATA" | b"BDAT" => Part::Data,
            _ => Part::Helo,
        }
    }
}
