//! The text of a message while it is received, and what has to be known of it before it is read again.
//!
//! It is kept in memory while it is small, then in a file. If no file can be made, memory may hold more of it, but not
//! without limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ring::digest::{Context as Digest, SHA256};

use super::amend::{Amended, HeaderScan};
use crate::files::temporary_folder;

/// A file without a name for messages that are too large for memory, one after the other. It is opened before the
/// session enters its sandbox, in which it could not be made.
#[derive(Debug)]
pub struct SpoolFile {
    file: io::Result<File>,
    folder: PathBuf,
}

impl SpoolFile {
    /// Makes the file in this folder, or in the system's folder for temporary files. A failure is kept: it matters only
    /// for a message that needs the file.
    pub fn open(directory: Option<&PathBuf>) -> Self {
        let folder = directory.cloned().unwrap_or_else(temporary_folder);
        Self { file: tempfile::tempfile_in(&folder), folder }
    }

    /// The folder that the file is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Why there is no file, if there is none.
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
    /// The whole text, until it is too large.
    memory: Vec<u8>,
    file: Rc<SpoolFile>,
    is_in_file: bool,
    hops: HopScan,
    header: HeaderScan,
    length: usize,
    failure: Option<io::Error>,
    /// The channels of brokers in which the message was published.
    published: Vec<String>,
    /// The hash of the text so far, if it is wanted.
    digest: Option<Digest>,
}

impl Spool {
    /// An empty spool that uses the file once it outgrows memory. No other spool may use the file meanwhile.
    pub fn new(file: Rc<SpoolFile>) -> Self {
        Self {
            memory: Vec::new(),
            file,
            is_in_file: false,
            hops: HopScan::default(),
            header: HeaderScan::default(),
            length: 0,
            failure: None,
            published: Vec::new(),
            digest: None,
        }
    }

    /// The same spool, which also hashes its text.
    pub(crate) fn with_hash(mut self) -> Self {
        self.digest = Some(Digest::new(&SHA256));
        self
    }

    /// The SHA-256 of the text as it was received, if the spool hashes it.
    pub(crate) fn hash(&self) -> Option<ring::digest::Digest> {
        self.digest.clone().map(Digest::finish)
    }

    /// Whether the message was already published in this channel: it is published once for all of its recipients.
    pub(crate) fn is_published(&self, channel: &str) -> bool {
        self.published.iter().any(|known| known == channel)
    }

    /// Takes note that the message was published in this channel.
    pub(crate) fn set_published(&mut self, channel: &str) {
        self.published.push(channel.to_owned());
    }

    /// Adds text. A failure is kept for [`Spool::failure`], because the peer is told only at the end.
    pub fn push(&mut self, text: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        self.hops.scan(text);
        self.header.scan(text);
        if let Some(digest) = &mut self.digest {
            digest.update(text);
        }
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

    /// Why text could not be added, if so.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// How many servers have handled the message before us (RFC 5321, 6.3).
    pub fn hops(&self) -> usize {
        self.hops.count
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
            // The file may be longer: an earlier message may have left something in it.
            Text::InFile(file.take(self.length as u64))
        } else {
            Text::InMemory(&self.memory)
        };
        Ok(BufReader::with_capacity(self.length.min(COPY_SIZE), text))
    }

    /// The first `most` octets of [`Spool::message`], and how many octets of the text are left out.
    pub fn beginning(&mut self, most: usize) -> io::Result<(Vec<u8>, usize)> {
        let left_out = self.length.saturating_sub(most);
        let mut beginning = Vec::with_capacity(self.length.min(most));
        self.message()?.take(most as u64).read_to_end(&mut beginning)?;
        Ok((beginning, left_out))
    }

    /// The text with a well-formed header, as it has to be behind our own headers.
    pub(crate) fn message(&mut self) -> io::Result<impl BufRead + '_> {
        let amendments = self.header.amendments();
        Ok(Amended::new(self.text()?, amendments))
    }
}

/// What the text is read from.
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
            // This only frees room: no message is read beyond its own length.
            let _ = file.set_len(0);
        }
    }
}

/// Counts the Received fields of the header, in whatever pieces the text comes.
#[derive(Debug, Default)]
struct HopScan {
    ended: bool,
    count: usize,
    /// How many bytes of the current line have come, and how many of them match `Received:`.
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

/// Messages up to this size stay in memory, in octets.
const IN_MEMORY: usize = 256 * 1024;

/// The same where there is no file: enough for most mail without attachments, and bearable with two hundred sessions.
const IN_MEMORY_WITHOUT_FILE: usize = 1024 * 1024;

/// How many octets are read at a time.
const COPY_SIZE: usize = 64 * 1024;

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
    fn the_header_of_a_large_message_is_amended_too() {
        for header in [100, 200_000, 400_000] {
            let (header, body) = (format!("A: {}\n", "b".repeat(header)), "no header\n".repeat(50_000));
            let mut spool = spool(format!("From x\n{header}{body}").as_bytes(), 10_000);
            for _ in 0..2 {
                let mut message = String::new();
                spool.message().unwrap().read_to_string(&mut message).unwrap();
                assert!(message == format!("X-Mailbox-Line: From x\n{header}\n{body}"));
            }
            let mut text = String::new();
            spool.text().unwrap().read_to_string(&mut text).unwrap();
            assert!(text == format!("From x\n{header}{body}"));
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
