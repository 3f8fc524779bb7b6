//! The text of a configuration file: read line by line, never kept as a whole.
//!
//! Memory does not grow with the file: of a rule for an exact address only the position of its line is kept, and the
//! line is read again when it is needed.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::files;

use super::fingerprint::{BLOCK, Fingerprint, Key};
use super::writers::{Content, refuse_others};

/// An open configuration file that nobody but root and ourselves could have written.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    /// The version that was opened, if it is a file that can be written to meanwhile.
    version: Option<Version>,
}

/// What changes when the content of a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    size: u64,
    /// When its content was last written, and when its content or metadata last changed: seconds since 1970, and
    /// nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Where a line begins. Lines are ordered by their numbers, which count through all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineStart {
    /// The line, counted from 1.
    pub(super) number: u32,
    /// The position in its file in bytes, counted from 0.
    pub(super) offset: u32,
}

impl LineStart {
    /// The first line of a file.
    pub(super) const FIRST: Self = Self { number: 1, offset: 0 };

    /// Where the next line begins, if this one has so many bytes. The size of the file was checked, but it may be growing.
    fn next(self, length: usize) -> Option<Self> {
        let offset = self.offset.checked_add(u32::try_from(length).ok()?)?;
        Some(Self { number: self.number.checked_add(1)?, offset })
    }
}

impl Source {
    /// Opens the file, once nobody is writing to it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        once_quiet(|| Self::open_at_once(path), Self::is_being_written)
    }

    /// The same for a file that another includes.
    pub(super) fn open_included(path: &Path) -> anyhow::Result<Self> {
        once_quiet(|| Self::open_included_at_once(path), Self::is_being_written)
    }

    /// Whether everything that was read since the file was opened is one complete version of it.
    pub(super) fn is_as_opened(&self) -> io::Result<bool> {
        Ok(match &self.version {
            Some(version) => *version == Version::of(&self.file.metadata()?),
            None => true,
        })
    }

    /// Whether the content is still that version. Unlike [`Source::is_as_opened`], this also holds if another file has
    /// replaced it, which is the proper way to change a file.
    pub(super) fn has_content_as_opened(&self) -> bool {
        let Some(opened) = &self.version else { return true };
        let now = self.file.metadata().map(|metadata| Version::of(&metadata));
        now.is_ok_and(|now| (now.size, now.modified) == (opened.size, opened.modified))
    }

    /// Whether it was written to just before it was opened, so that it may be incomplete.
    pub(super) fn is_being_written(&self) -> bool {
        self.version.as_ref().is_some_and(Version::is_being_written)
    }

    /// Opens the file without waiting for the end of an edit.
    pub(super) fn open_at_once(path: &Path) -> anyhow::Result<Self> {
        Self::open_with(Content::Configuration, path)
    }

    /// The same for a table.
    pub(super) fn open_table(path: &Path) -> anyhow::Result<Self> {
        Self::open_with(Content::Table, path)
    }

    fn open_with(content: Content, path: &Path) -> anyhow::Result<Self> {
        let (mut file, metadata) = opened(path, OFlag::O_RDONLY)?;
        if metadata.is_dir() {
            bail!("is a folder");
        }
        if !metadata.file_type().is_char_device() {
            refuse_others(&file, &metadata, path, content)?;
        }
        let version = metadata.is_file().then(|| Version::of(&metadata));
        if version.is_none() {
            file = copied(file)?;
        }
        Ok(Self { file, version })
    }

    /// Opens an included file without waiting for the end of an edit. It has to be a regular file: a typing error must
    /// not make us wait for a FIFO or device.
    pub(super) fn open_included_at_once(path: &Path) -> anyhow::Result<Self> {
        let (file, metadata) = opened(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        if metadata.is_dir() {
            bail!("is a folder: for the files in it write `/*.conf` behind its name");
        }
        if !metadata.is_file() {
            bail!("is no regular file");
        }
        refuse_others(&file, &metadata, path, Content::Configuration)?;
        Ok(Self { file, version: Some(Version::of(&metadata)) })
    }

    /// Device and inode, which identify the file whatever its names.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        Ok(files::identity(&self.file.metadata()?))
    }

    /// The version that was opened, if it is a file that can be written to meanwhile.
    pub(super) fn version(&self) -> Option<Version> {
        self.version
    }

    /// Calls `each` with every line, its end taken off, and where it begins.
    pub(super) fn for_each_line(&self, each: impl FnMut(&[u8], LineStart)) -> io::Result<()> {
        // What is written behind the end meanwhile is another version; and some files of /proc have no end.
        self.lines_between(LineStart::FIRST, self.file.metadata()?.len(), each)
    }

    /// The same for those from this line on that begin before the byte `until`, at which a line ends.
    pub(super) fn lines_between(
        &self,
        from: LineStart,
        until: u64,
        mut each: impl FnMut(&[u8], LineStart),
    ) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(from.offset.into()))?;
        let size = until.saturating_sub(from.offset.into());
        let mut file = file.take(size);
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(READ_SIZE).saturating_add(1).min(READ_SIZE)];
        // The buffer holds bytes `start..end` of what was read; byte `start` is the first of the line `at`.
        let (mut start, mut end, mut at) = (0, 0, from);
        loop {
            if at.offset == 0 && buffer[start..end].starts_with(BYTE_ORDER_MARK) {
                start += BYTE_ORDER_MARK.len();
                at = LineStart { number: 1, ..at.next(BYTE_ORDER_MARK.len()).ok_or(io::ErrorKind::FileTooLarge)? };
            }
            while let Some(length) = memchr::memchr(b'\n', &buffer[start..end]) {
                each(without_cr(&buffer[start..start + length]), at);
                start += length + 1;
                at = at.next(length + 1).ok_or(io::ErrorKind::FileTooLarge)?;
            }
            if start == 0 && end == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match file.read(&mut buffer[end..]) {
                Ok(0) if end == 0 => return Ok(()),
                Ok(0) => {
                    each(without_cr(&buffer[..end]), at);
                    return Ok(());
                }
                Ok(length) => end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What the bytes of the file are known by under this key.
    pub(super) fn fingerprint(&self, key: &Key) -> io::Result<Fingerprint> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut file = file.take(file.metadata()?.len());
        key.fingerprint(FINGERPRINTED / BLOCK, |buffer| {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(length) => filled += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// What is known of the file beside its content.
    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// The line that began here when [`Source::for_each_line`] gave it; `None` if the file was written to since.
    pub(super) fn line_at(&self, offset: u32) -> Option<String> {
        let mut bytes = vec![0; 512];
        let mut filled = 0;
        loop {
            let length = self.file.read_at(&mut bytes[filled..], u64::from(offset) + filled as u64).ok()?;
            filled += length;
            if let Some(end) = memchr::memchr(b'\n', &bytes[..filled]) {
                filled = end;
                break;
            }
            if length == 0 {
                break;
            }
            bytes.resize(bytes.len() * 2, 0);
        }
        self.has_content_as_opened().then(|| text(without_cr(&bytes[..filled])).into_owned())
    }
}

#[cfg(test)]
impl Source {
    /// A source for a file that was opened elsewhere.
    pub(super) fn of(file: File) -> Self {
        Self { file, version: None }
    }
}

/// Looks again until nobody is writing what was found. A file that is being written may be incomplete, and we must not
/// refuse mail because of what it does not contain yet.
pub(super) fn once_quiet<T>(
    look: impl Fn() -> anyhow::Result<T>,
    is_being_written: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    for _ in 0..MAX_WAITS {
        let found = look()?;
        if !is_being_written(&found) {
            return Ok(found);
        }
        std::thread::sleep(QUIET);
    }
    bail!("is being written all the time")
}

/// Copies a pipe to a file, because a pipe cannot be read twice. It is not inlined, so that its buffer of 8 KB does not
/// enlarge the caller's stack at each start.
#[cold]
#[inline(never)]
fn copied(pipe: File) -> anyhow::Result<File> {
    let mut copy = tempfile::tempfile_in(files::temporary_folder()).context("cannot be copied to a temporary file")?;
    io::copy(&mut pipe.take(MAX_SIZE), &mut copy).context("cannot be read")?;
    Ok(copy)
}

/// Opens a file; also returns its metadata. It is an error if the file is too large.
fn opened(path: &Path, flags: OFlag) -> anyhow::Result<(File, Metadata)> {
    let file = files::open(path, flags, Mode::empty()).context("cannot be read")?;
    let metadata = file.metadata().context("cannot be examined")?;
    if metadata.len() >= MAX_SIZE {
        bail!("is larger than {MAX_SIZE} bytes");
    }
    Ok((file, metadata))
}

impl Version {
    /// The current version of the file with this name, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { size: metadata.len(), modified, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Whether the file was written to a moment ago.
    pub(super) fn is_being_written(&self) -> bool {
        let (seconds, nanoseconds) = self.modified;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Times before 1970 or in the future do not count.
        let modified = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        since_1970.checked_sub(modified).is_some_and(|age| age < QUIET)
    }
}

/// Whether reading this file could take time, because somebody is writing to it or it is not a regular file.
pub(crate) fn would_wait(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() || Version::of(&metadata).is_being_written())
}

/// A line as text. Comments in old files may be in another encoding: each byte that is not UTF-8 becomes a
/// [`char::REPLACEMENT_CHARACTER`], which is allowed in comments and texts of replies only.
pub(super) fn text(line: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(line) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => line
            .utf8_chunks()
            .flat_map(|chunk| {
                let bad = std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len());
                chunk.valid().chars().chain(bad)
            })
            .collect(),
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Some editors put this in front of UTF-8 text (RFC 3629, 6).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The largest file, in bytes: positions in it are stored in 32 bits.
const MAX_SIZE: u64 = 1 << 32;

/// How much is read at a time: small enough to stay in the processor's cache.
pub(super) const READ_SIZE: usize = 32 * 1024;

/// The same where nothing else has to stay there beside it.
const FINGERPRINTED: usize = 64 * 1024;

/// A file that has not changed for this long counts as complete: programs do not pause that long between two writes.
const QUIET: Duration = Duration::from_millis(100);

/// How many times [`QUIET`] is waited.
const MAX_WAITS: usize = 20;
