//! The text of a message while it is received, and what of it matters before it is read again.
//!
//! It waits in memory while it is small, then in a file. Where no file can be made memory has to do for longer, but not for
//! everything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::files::temporary_folder;

/// A file without a name for messages that are too large for memory, one after the other. It is opened before the
/// session confines itself, so that it needs no folder of its own then.
#[derive(Debug)]
pub struct SpoolFile {
    file: io::Result<File>,
    folder: PathBuf,
}

impl SpoolFile {
    /// Makes the file in this folder, or else in the system's for temporary files. That it cannot be made matters only to
    /// a message that needs it.
    pub fn open(directory: Option<&PathBuf>) -> Self {
        let folder = directory.cloned().unwrap_or_else(temporary_folder);
        Self { file: tempfile::tempfile_in(&folder), folder }
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Why there is none.
    pub fn failure(&self) -> Option<&io::Error> {
        self.file.as_ref().err()
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().map_err(|error| {
            let cause = format!(
                "no file can be made for it in {} ({error}): name another folder with `spool_dir`",
                self.folder.display()
            );
            io::Error::new(io::ErrorKind::StorageFull, cause)
        })
    }
}

/// The text of a message, lines ended by LF: in memory while it is small, then in a file.
pub struct Spool {
    /// All of the text, until it is too large.
    memory: Vec<u8>,
    file: Rc<SpoolFile>,
    is_in_file: bool,
    hops: HopScan,
    header: HeaderScan,
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
            hops: HopScan::default(),
            header: HeaderScan::default(),
            length: 0,
            failure: None,
        }
    }

    /// Adds text. A failure is kept until [`Spool::failure`] is asked, because the peer is only told at the end.
    pub fn push(&mut self, text: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        self.hops.scan(text);
        self.header.scan(text);
        self.length += text.len();
        self.failure = self.store(text).err();
    }

    fn store(&mut self, text: &[u8]) -> io::Result<()> {
        let in_memory = if self.file.failure().is_none() { IN_MEMORY } else { IN_MEMORY_WITHOUT_FILE };
        if self.length <= in_memory {
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
        self.hops.count
    }

    /// Whether the text begins with a header field or with the empty line that ends the header. Text that does not would
    /// otherwise become a part of our own header.
    pub(super) fn begins_with_header(&self) -> bool {
        self.header.missing_empty_line() != Some(0)
    }

    /// The largest piece that [`Spool::text`] gives at a time, in bytes.
    pub fn piece(&self) -> usize {
        self.length.clamp(1, COPY_SIZE)
    }

    /// The whole text, from the beginning.
    pub fn text(&mut self) -> io::Result<impl BufRead + '_> {
        self.rewind()?;
        self.part(0..self.length)
    }

    /// The same with the empty line that the header of a message has at its end, if it runs into the text without one. The
    /// one in front of everything is not given ([`Spool::begins_with_header`]).
    pub(super) fn message(&mut self) -> io::Result<impl BufRead + '_> {
        self.rewind()?;
        let end = self.header.missing_empty_line().unwrap_or(0);
        let empty_line: &[u8] = if end == 0 { b"" } else { b"\n" };
        Ok(self.part(0..end)?.chain(empty_line).chain(self.part(end..self.length)?))
    }

    fn rewind(&self) -> io::Result<()> {
        if self.is_in_file { self.file.file()?.seek(SeekFrom::Start(0)).map(|_| ()) } else { Ok(()) }
    }

    /// A part of the text: the first, or the one behind that which was read before.
    fn part(&self, range: Range<usize>) -> io::Result<impl BufRead + '_> {
        let length = range.len();
        let text = if self.is_in_file {
            // What stands behind it may be of a message before.
            Text::InFile(self.file.file()?.take(length as u64))
        } else {
            Text::InMemory(&self.memory[range])
        };
        Ok(BufReader::with_capacity(length.min(COPY_SIZE), text))
    }
}

/// Where the text is read from.
enum Text<'s> {
    InMemory(&'s [u8]),
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
struct HopScan {
    ended: bool,
    count: usize,
    /// How much of the current line has come, and how much of it is like `Received:`.
    column: usize,
    alike: usize,
}

impl HopScan {
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
                    self.count += usize::from(self.alike == FIELD.len());
                }
                self.column += 1;
            }
            rest = &rest[1..];
        }
    }
}

/// Looks for the first line that is no part of a header (RFC 5322, 2.2), however the text is split: whoever sends it without
/// an empty line before it means it as text, and readers would take it, or all of the header behind it, for something else.
#[derive(Debug, Default)]
struct HeaderScan {
    line: HeaderLine,
    /// Where the line begins, and how much of it has come.
    start: usize,
    column: usize,
}

/// What a line of the header is, as far as it has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum HeaderLine {
    /// Nothing has come of it.
    #[default]
    Start,
    /// Perhaps the name of a field.
    Name,
    /// Blanks behind a name.
    BehindName,
    /// A field, or the continuation of one.
    Field,
    /// The empty line: all before it is header.
    Empty,
    /// No part of a header; nothing behind it is looked at either.
    Text,
}

impl HeaderScan {
    fn scan(&mut self, text: &[u8]) {
        use HeaderLine::{BehindName, Empty, Field, Name, Start, Text};
        let mut rest = text;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            self.line = match (self.line, byte) {
                (Empty | Text, _) => return,
                (Start, b'\n') => Empty,
                (Start, b' ' | b'\t') if self.start > 0 => Field,
                (Field, b'\n') => {
                    self.start += self.column + 1;
                    self.column = 0;
                    self.line = Start;
                    continue;
                }
                (Field, _) => {
                    // Most of a header: no need to look at each byte.
                    let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    self.column += length;
                    rest = &rest[length..];
                    Field
                }
                (Name | BehindName, b':') => Field,
                (Name | BehindName, b' ' | b'\t') => BehindName,
                (Start | Name, byte) if byte.is_ascii_graphic() && byte != b':' && self.column < MAX_FIELD_NAME => Name,
                (Start | Name | BehindName, _) => Text,
            };
            self.column += 1;
        }
    }

    /// Where an empty line has to be put in front of what is no header: behind so many bytes.
    fn missing_empty_line(&self) -> Option<usize> {
        match self.line {
            HeaderLine::Name | HeaderLine::BehindName | HeaderLine::Text => Some(self.start),
            // There is nothing at all.
            HeaderLine::Start if self.start == 0 => Some(0),
            HeaderLine::Start | HeaderLine::Field | HeaderLine::Empty => None,
        }
    }
}

/// Messages up to this size stay in memory, in octets.
const IN_MEMORY: usize = 256 * 1024;

/// The same where there is no file: enough for most mail without attachments, and not too much for two hundred sessions.
const IN_MEMORY_WITHOUT_FILE: usize = 1024 * 1024;

/// How much is copied at a time.
const COPY_SIZE: usize = 64 * 1024;

/// RFC 5322, 2.1.1: a line, and so a field name and its colon, have at most 998 characters.
const MAX_FIELD_NAME: usize = 997;

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
            (&long_name, None),
            (&no_name, Some("nnn")),
        ] {
            let place = place.map(|line| text.find(line).unwrap());
            for piece in [1, 2, 3, 5, 1000] {
                let mut spool = spool(text.as_bytes(), piece);
                assert_eq!(spool.header.missing_empty_line(), place, "{text:?} in pieces of {piece}");
                let mut expected = text.to_owned();
                place.into_iter().for_each(|place| expected.insert(place, '\n'));
                let mut message = String::new();
                spool.message().unwrap().read_to_string(&mut message).unwrap();
                assert_eq!(message, expected);
            }
        }
    }

    #[test]
    fn the_header_of_a_large_message_is_ended_too() {
        for header in [100, 200_000, 400_000] {
            let (header, body) = (format!("A: {}\n", "b".repeat(header)), "no header\n".repeat(50_000));
            let mut spool = spool(format!("{header}{body}").as_bytes(), 10_000);
            for _ in 0..2 {
                let mut message = String::new();
                spool.message().unwrap().read_to_string(&mut message).unwrap();
                assert!(message == format!("{header}\n{body}"));
            }
            let mut text = String::new();
            spool.text().unwrap().read_to_string(&mut text).unwrap();
            assert!(text == format!("{header}{body}"));
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
            assert_eq!(file.file.as_ref().unwrap().metadata().unwrap().len(), 0);
        }
    }
}
