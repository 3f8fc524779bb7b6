//! Files that are opened while they can be, and read when they are needed.
//!
//! A session opens them before it becomes another user and gives up the rest of the file system. Few peers make it read
//! one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::libc::O_NONBLOCK;

/// A file that is open, or why it is not.
#[derive(Debug)]
pub(crate) struct Unread {
    path: PathBuf,
    file: io::Result<File>,
}

impl Unread {
    /// Opens a file, wherever links lead: to put them there is the business of the administrator, and of certbot.
    pub(crate) fn open(path: &Path) -> Self {
        // Not blocking: a FIFO that nobody writes to must not hold up mail.
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
        Self { path: path.to_owned(), file }
    }

    /// What its content is; an error names it.
    pub(crate) fn parsed<T>(&self, parse: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.read().and_then(|text| parse(&text)).with_context(|| self.path.display().to_string())
    }

    /// Its content; an error does not name it.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let mut file = match &self.file {
            Ok(file) => file,
            Err(error) => bail!("cannot be opened: {error}"),
        };
        let mut text = Vec::new();
        // From its beginning, also when a peer asks a second time.
        file.rewind().and_then(|()| file.take(LARGEST + 1).read_to_end(&mut text)).context("cannot be read")?;
        if text.len() as u64 > LARGEST {
            bail!("has more than {} MiB", LARGEST >> 20);
        }
        Ok(text)
    }
}

/// In octets: some 30,000 accounts, and more than any chain of certificates.
const LARGEST: u64 = 4 << 20;
