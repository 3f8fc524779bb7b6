//! The text of a configuration: read line by line, never held as a whole.
//!
//! Memory does not grow with the file: a rule for one exact address is remembered as the place of its line, and read
//! again if it is the one that matters.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use super::parse;

/// An open configuration file that nobody but root and ourselves could have written.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    /// What was opened, if it is a file that can be written while we read it.
    version: Option<Version>,
}

/// What changes with the content of a file.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    /// When it was written last, and when it or what is known of it changed: seconds since 1970, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Source {
    /// Opens the file. One that somebody is just writing may not be whole yet, and what it does not say yet must not
    /// make us refuse mail: the first moment is waited for in which nobody does.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        for _ in 0..MAX_WAITS {
            let source = Self::open_at_once(path)?;
            if !source.is_being_written() {
                return Ok(source);
            }
            std::thread::sleep(QUIET);
        }
        bail!("is being written all the time")
    }

    /// Whether what was read since the file was opened is one version of it, and all of that.
    pub(super) fn is_as_opened(&self) -> io::Result<bool> {
        Ok(match &self.version {
            Some(version) => *version == Version::of(&self.file.metadata()?),
            None => true,
        })
    }

    fn is_being_written(&self) -> bool {
        let Some(Version { modified: (seconds, nanoseconds), .. }) = self.version else { return false };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // What was written before 1970 or in the future is not being written now.
        let modified = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        since_1970.checked_sub(modified).is_some_and(|age| age < QUIET)
    }

    fn open_at_once(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(path).context("cannot be read")?;
        let metadata = file.metadata().context("cannot be examined")?;
        if metadata.is_dir() {
            bail!("is a folder");
        }
        if metadata.len() >= MAX_SIZE {
            bail!("is larger than {MAX_SIZE} bytes");
        }
        if !metadata.file_type().is_char_device() {
            refuse_if_others_write(&metadata)?;
        }
        let version = metadata.is_file().then(|| Version::of(&metadata));
        if version.is_none() {
            // A pipe cannot be read twice.
            let mut copy = tempfile::tempfile().context("cannot be copied")?;
            io::copy(&mut file.take(MAX_SIZE), &mut copy).context("cannot be read")?;
            file = copy;
        }
        Ok(Self { file, version })
    }

    /// Calls `each` with every line, its end taken off, and the byte of the file it begins at.
    pub(super) fn for_each_line(&self, mut each: impl FnMut(&[u8], u32)) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(READ_SIZE);
        let mut buffer = vec![0; (size + 1).min(READ_SIZE)];
        // The buffer holds bytes `start..end` of what was read; byte `start` is byte `offset` of the file.
        let (mut start, mut end, mut offset) = (0, 0, 0_u32);
        loop {
            while let Some(length) = memchr::memchr(b'\n', &buffer[start..end]) {
                each(without_cr(&buffer[start..start + length]), offset);
                start += length + 1;
                // The size of the file was checked, but it may be growing.
                offset = u32::try_from(length + 1)
                    .ok()
                    .and_then(|length| offset.checked_add(length))
                    .ok_or_else(too_large)?;
            }
            if start == 0 && end == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match file.read(&mut buffer[end..]) {
                Ok(0) if end == 0 => return Ok(()),
                Ok(0) => {
                    each(without_cr(&buffer[..end]), offset);
                    return Ok(());
                }
                Ok(length) => end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The line at a place that [`Source::for_each_line`] gave.
    pub(super) fn line_at(&self, offset: u32) -> io::Result<String> {
        let mut bytes = vec![0; 512];
        let mut filled = 0;
        loop {
            let length = self.file.read_at(&mut bytes[filled..], u64::from(offset) + filled as u64)?;
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
        bytes.truncate(filled);
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
        Ok(text(&bytes).into_owned())
    }

    /// The number of the line at a place, counted from 1.
    pub(super) fn line_number(&self, offset: u32) -> u32 {
        let mut number = 0;
        // A file that cannot be read any more has other troubles than the number of a line.
        let _ = self.for_each_line(|_, at| number += u32::from(at <= offset));
        number
    }

    /// The text of the line with this number.
    pub(super) fn numbered_line(&self, wanted: u32) -> String {
        let mut number = 0;
        let mut found = String::new();
        let _ = self.for_each_line(|line, _| {
            number += 1;
            if number == wanted {
                found = text(line).into_owned();
            }
        });
        found
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { size: metadata.len(), modified, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

/// A line as text. Comments in files of old may be in another encoding; each byte that is not UTF-8 becomes a
/// [`char::REPLACEMENT_CHARACTER`], which [`prepared`] lets pass nowhere else.
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

/// The line as [`parse`] wants it, its comment taken off and its variables replaced.
pub(super) fn prepared(line: &str) -> Result<Option<String>, parse::Problem> {
    let line = parse::without_comment(line);
    if let Some(start) = line.find(char::REPLACEMENT_CHARACTER) {
        let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
        return Err(parse::Problem { start, end, message: "this line is not UTF-8 text".to_owned() });
    }
    parse::replace_variables(line, &|name| std::env::var(name).ok())
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

/// A configuration holds commands: whoever can write it can run them.
fn refuse_if_others_write(metadata: &Metadata) -> anyhow::Result<()> {
    let mode = metadata.mode();
    let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    if mode & 0o002 != 0 {
        bail!("is writable by everybody, and it can hold commands: run chmod o-w on it");
    }
    if metadata.uid() != 0 && metadata.uid() != user {
        bail!("belongs to user {}, who is neither root nor the user we run as ({user})", metadata.uid());
    }
    if mode & 0o020 != 0 && metadata.gid() != 0 && metadata.gid() != group {
        bail!(
            "is writable by group {}, which is neither root's nor ours ({group}): run chmod g-w on it",
            metadata.gid()
        );
    }
    Ok(())
}

/// Places in the file are kept in 32 bits.
const MAX_SIZE: u64 = 1 << 32;

/// How much is read at a time: small enough to stay in the processor's cache.
const READ_SIZE: usize = 32 * 1024;

/// A file that has not changed for so long counts as written: programs leave no such gap between two writes.
const QUIET: Duration = Duration::from_millis(100);

/// How often the end of [`QUIET`] is waited for.
const MAX_WAITS: usize = 20;
