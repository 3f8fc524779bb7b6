//! Files that are opened early and read only when they are needed.
//!
//! A session opens them before it becomes another user and enters its sandbox. With most peers none of them is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::libc::O_NONBLOCK;

/// An open file, or why it cannot be opened.
#[derive(Debug)]
pub(crate) struct Unread {
    path: PathBuf,
    file: io::Result<File>,
}

impl Unread {
    /// Opens a file. Symbolic links are followed: administrators, and tools such as certbot, use them.
    pub(crate) fn open(path: &Path) -> Self {
        // Non-blocking: a FIFO without a writer must not hold up mail.
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
        Self { path: path.to_owned(), file }
    }

    /// Reads and parses the file; errors name it.
    pub(crate) fn parsed<T>(&self, parse: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.read().and_then(|text| parse(&text)).with_context(|| self.path.display().to_string())
    }

    /// Reads the file; errors do not name it.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let mut file = match &self.file {
            Ok(file) => file,
            Err(error) => bail!("cannot be opened: {error}"),
        };
        let mut text = Vec::new();
        // Read from the beginning, because it may have been read before.
        file.rewind().and_then(|()| file.take(LARGEST + 1).read_to_end(&mut text)).context("cannot be read")?;
        if text.len() as u64 > LARGEST {
            bail!("has more than {} MiB", LARGEST >> 20);
        }
        Ok(text)
    }
}

/// The largest file, in octets: enough for about 30,000 accounts, and for any chain of certificates.
const LARGEST: u64 = 4 << 20;
