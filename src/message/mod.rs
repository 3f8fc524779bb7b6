//! The message while it is received, and the trace headers that are put in front of it.

use std::fmt::Write as _;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use tempfile::SpooledTempFile;

use crate::address::Mailbox;
use crate::date::HeaderDate;
use crate::peer::Peer;
use crate::smtp::session::Transaction;

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
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// How many servers have handled the message before us (RFC 5321, 6.3).
    pub fn hops(&self) -> usize {
        self.headers.hops
    }

    /// Whether the text begins with a header field or with the empty line that ends the header. Text that does not would
    /// otherwise become a part of our own header.
    fn begins_with_header(&self) -> bool {
        let name = self.beginning.iter().take_while(|byte| byte.is_ascii_graphic() && **byte != b':').count();
        let behind_name = self.beginning[name..].iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        let is_field = name > 0 && behind_name == Some(&b':');
        is_field || self.beginning.starts_with(b"\n")
    }

    /// The largest piece that [`Spool::copy_to`] gives, in bytes.
    pub fn piece(&self) -> usize {
        self.length.clamp(1, COPY_SIZE)
    }

    /// Gives the whole text, piece by piece.
    pub fn copy_to(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; self.piece()];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => take(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
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

/// Everything about a message but its text: what headers and the environment of commands are made from.
pub struct Envelope<'a> {
    /// Our name for the message, in headers, replies and the log.
    pub id: &'a str,
    /// Who we are.
    pub domain: &'a str,
    /// Whom it came from.
    pub peer: &'a Peer,
    /// Sender and recipients.
    pub transaction: &'a Transaction<'a>,
}

impl Envelope<'_> {
    /// `ESMTP` or `SMTP` (RFC 5321, 4.4; RFC 3848).
    pub fn protocol(&self) -> &'static str {
        if self.transaction.hello.extended { "ESMTP" } else { "SMTP" }
    }

    /// The headers for one recipient's copy (RFC 5321, 4.4), an empty line behind them if the text needs it.
    pub fn trace_headers(&self, recipient: &Mailbox, spool: &Spool) -> String {
        let mut headers = String::with_capacity(400);
        let Transaction { reverse_path, hello, recipients, .. } = self.transaction;
        // Writing to a String cannot fail.
        let _ = write!(headers, "Return-Path: <{reverse_path}>\nDelivered-To: {recipient}\n");
        let address = self.peer.address;
        let literal = match address {
            IpAddr::V4(_) => format!("[{address}]"),
            IpAddr::V6(_) => format!("[IPv6:{address}]"),
        };
        let _ = writeln!(headers, "Received: from {} ({} {literal})", hello.name, self.peer.name());
        let _ = write!(headers, "\tby {} (mailrecv) with {} id {}", self.domain, self.protocol(), self.id);
        if recipients.len() == 1 {
            let _ = write!(headers, "\n\tfor <{recipient}>");
        }
        let _ = writeln!(headers, "; {}", HeaderDate::now());
        if !spool.begins_with_header() {
            headers.push('\n');
        }
        headers
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
        spool
            .copy_to(|piece| {
                copy.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert!(copy == text);
    }
}
