//! The text of a message while it is received, and what of it matters before it is read again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::rc::Rc;

/// A file without a name for messages that are too large for memory, one after the other. It is opened before the
/// session confines itself, so that it needs no folder of its own then.
#[derive(Debug)]
pub struct SpoolFile(io::Result<File>);

impl SpoolFile {
    /// Makes the file in this folder, or else in the system's for temporary files. That it cannot be made matters only to
    /// a message that needs it.
    pub fn open(directory: Option<&PathBuf>) -> Self {
        Self(tempfile::tempfile_in(Self::folder(directory)))
    }

    /// The folder that it is in.
    pub fn folder(directory: Option<&PathBuf>) -> PathBuf {
        directory.cloned().unwrap_or_else(std::env::temp_dir)
    }

    /// Why there is none.
    pub fn failure(&self) -> Option<&io::Error> {
        self.0.as_ref().err()
    }

    fn file(&self) -> io::Result<&File> {
        self.0.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

/// The text of a message, lines ended by LF: in memory while it is small, then in a file.
pub struct Spool {
    /// All of the text, until it is too large.
    memory: Vec<u8>,
    file: Rc<SpoolFile>,
    is_in_file: bool,
    headers: HeaderScan,
    /// The beginning of the text, to see whether it begins with a header.
    beginning: Vec<u8>,
    length: usize,
    failure: Option<io::Error>,
}

impl Spool {
    /// An empty spool that uses the file once it outgrows memory; no other may use it meanwhile.
    pub fn new(file: Rc<SpoolFile>) -> Self {
        Self {
            memory: Vec::new(),
            file,
            is_in_file: false,
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
        self.failure = self.store(text).err();
    }

    fn store(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length <= IN_MEMORY {
            self.memory.extend_from_slice(text);
            return Ok(());
        }
        let mut file = self.file.file()?;
        if !self.is_in_file {
            file.seek(SeekFrom::Start(0))?;
            self.is_in_file = true;
            file.write_all(&std::mem::take(&mut self.memory))?;
        }
        file.write_all(text)
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
        let text = if self.is_in_file {
            let mut file = self.file.file()?;
            file.seek(SeekFrom::Start(0))?;
            // What stands behind it may be of a message before.
            Text::InFile(file.take(self.length as u64))
        } else {
            Text::InMemory(Cursor::new(&self.memory))
        };
        Ok(BufReader::with_capacity(self.piece(), text))
    }
}

/// Where the text is read from.
enum Text<'s> {
    InMemory(Cursor<&'s Vec<u8>>),
    InFile(io::Take<&'s File>),
}

impl Read for Text<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Text::InMemory(memory) => memory.read(buffer),
            Text::InFile(file) => file.read(buffer),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let (true, Ok(file)) = (self.is_in_file, self.file.file()) {
            // For the sake of room; no message reads further than its own end.
            let _ = file.set_len(0);
        }
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
    use super::*;

    fn spool(text: &[u8], piece: usize) -> Spool {
        let mut spool = Spool::new(Rc::new(SpoolFile::open(None)));
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

    /// What a message leaves behind is not the next one's.
    #[test]
    fn one_file_takes_one_message_after_the_other() {
        let file = Rc::new(SpoolFile::open(None));
        for (letter, length) in [(b'a', 700_000), (b'b', 300_000), (b'c', 10), (b'd', IN_MEMORY), (b'e', IN_MEMORY + 1)]
        {
            let text = vec![letter; length];
            let mut spool = Spool::new(Rc::clone(&file));
            text.chunks(1000).for_each(|piece| spool.push(piece));
            // As often as there are recipients.
            for _ in 0..2 {
                let mut copy = Vec::new();
                spool.text().unwrap().read_to_end(&mut copy).unwrap();
                assert!(copy == text, "{letter}");
            }
            drop(spool);
            assert_eq!(file.file().unwrap().metadata().unwrap().len(), 0);
        }
    }
}
