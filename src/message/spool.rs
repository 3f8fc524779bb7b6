//! The text of a message while it is received, and what of it matters before it is read again.

use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;

use tempfile::SpooledTempFile;

/// The text of a message, lines ended by LF: in memory while it is small, then in an unlinked file.
pub struct Spool {
    file: SpooledTempFile,
    headers: HeaderScan,
    /// The beginning of the text, to see whether it begins with a header.
    beginning: Vec<u8>,
    length: usize,
    failure: Option<io::Error>,
}

impl Spool {
    /// An empty spool that uses `directory` (or else the system's) once it outgrows memory.
    pub fn new(directory: Option<&PathBuf>) -> Self {
        let directory = directory.cloned().unwrap_or_else(std::env::temp_dir);
        Self {
            file: SpooledTempFile::new_in(IN_MEMORY, directory),
            headers: HeaderScan::default(),
            beginning: Vec::new(),
            length: 0,
            failure: None,
        }
    }

    /// Adds text. A failure is kept until [`Spool::failure`] is asked, because the peer is only told at the end.
    pub fn push(&mut self, text: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        self.headers.scan(text);
        let room = MAX_FIELD_NAME - self.beginning.len();
        self.beginning.extend_from_slice(&text[..text.len().min(room)]);
        self.length += text.len();
        self.failure = self.file.write_all(text).err();
    }

    /// What went wrong while text was added.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// How many servers have handled the message before us (RFC 5321, 6.3).
    pub fn hops(&self) -> usize {
        self.headers.hops
    }

    /// Whether the text begins with a header field or with the empty line that ends the header. Text that does not would
    /// otherwise become a part of our own header.
    pub(super) fn begins_with_header(&self) -> bool {
        let name = self.beginning.iter().take_while(|byte| byte.is_ascii_graphic() && **byte != b':').count();
        let behind_name = self.beginning[name..].iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        let is_field = name > 0 && behind_name == Some(&b':');
        is_field || self.beginning.starts_with(b"\n")
    }

    /// The largest piece that [`Spool::text`] gives at a time, in bytes.
    pub fn piece(&self) -> usize {
        self.length.clamp(1, COPY_SIZE)
    }

    /// The whole text, from the beginning.
    pub fn text(&mut self) -> io::Result<impl BufRead + '_> {
        self.file.seek(SeekFrom::Start(0))?;
        let size = self.piece();
        Ok(BufReader::with_capacity(size, &mut self.file))
    }
}

/// Counts the Received fields of the header, however the text is split.
#[derive(Debug, Default)]
struct HeaderScan {
    ended: bool,
    hops: usize,
    /// How much of the current line has come, and how much of it is like `Received:`.
    column: usize,
    alike: usize,
}

impl HeaderScan {
    fn scan(&mut self, text: &[u8]) {
        const FIELD: &[u8] = b"received:";
        let mut rest = text;
        while let Some(&byte) = rest.first().filter(|_| !self.ended) {
            if byte == b'\n' {
                self.ended = self.column == 0;
                (self.column, self.alike) = (0, 0);
            } else {
                if self.alike == self.column && FIELD.get(self.column) == Some(&byte.to_ascii_lowercase()) {
                    self.alike += 1;
                    self.hops += usize::from(self.alike == FIELD.len());
                }
                self.column += 1;
            }
            rest = &rest[1..];
        }
    }
}

/// Messages up to this size stay in memory.
const IN_MEMORY: usize = 256 * 1024;

/// How much is copied at a time.
const COPY_SIZE: usize = 64 * 1024;

/// RFC 5322, 2.1.1: a line, and so a field name, has at most 998 characters.
const MAX_FIELD_NAME: usize = 998;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn spool(text: &[u8], piece: usize) -> Spool {
        let mut spool = Spool::new(None);
        text.chunks(piece).for_each(|piece| spool.push(piece));
        spool
    }

    #[test]
    fn hops_are_counted_in_the_header_only() {
        let text = b"Received: a\n\tfolded Received: no\nreceived:b\nX-Received: c\nReceived : d\n\nReceived: e\n";
        for piece in [1, 2, 5, 1000] {
            assert_eq!(spool(text, piece).hops(), 2);
        }
    }

    #[test]
    fn text_without_header_is_told_apart() {
        for (text, is_header) in [
            (&b"Subject: x\n\nbody"[..], true),
            (b"\nbody", true),
            (b"", false),
            (b"hello\nSubject: x", false),
            (b" folded\n", false),
            (b"From a@b Sat\n", false),
            (b"word\n: x\n", false),
            (b"Subject : x\n", true),
            (b"http://x\n", true),
        ] {
            assert_eq!(spool(text, 3).begins_with_header(), is_header, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn large_messages_come_back_whole() {
        let text: Vec<u8> = (0u32..300_000).flat_map(|n| n.to_le_bytes()).collect();
        let mut spool = spool(&text, 60_000);
        let mut copy = Vec::new();
        spool.text().unwrap().read_to_end(&mut copy).unwrap();
        assert!(copy == text);
    }
}
