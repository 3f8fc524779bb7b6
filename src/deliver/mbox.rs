//! `append FILE`: mboxrd files, shared with other mail software.
//!
//! The file is locked, written to and synced, and stays as it was until [`Mailboxes::commit`]: dropped before that, it is
//! cut back to its old length. The lock is held until then, so nobody sees what may still be taken back.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;

use super::mboxrd::{Quoting, from_line, rest_of_from_line};
use super::{Context, LOCK_PATIENCE, failure};
use crate::files::{self, sync_name};
use crate::log::{Event, Log};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::{self, Reply};
use crate::wait::timeout;

/// The files that a message is being appended to.
pub(super) struct Mailboxes<'a> {
    context: &'a Context<'a>,
    files: Vec<Appending<'a>>,
}

/// A locked file with something at its end that is not yet meant to stay.
struct Appending<'a> {
    log: &'a Log,
    path: &'a Path,
    file: File,
    /// Device and inode: two names can be one file, which is locked once.
    identity: (u64, u64),
    /// Whether there is a length to go back to; /dev/null has none.
    revocable: Option<u64>,
    /// Whether all of it is on stable storage.
    synced: bool,
    committed: bool,
}

impl<'a> Mailboxes<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, files: Vec::new() }
    }

    /// Appends one recipient's copy to the file.
    pub(super) fn append(&mut self, path: &'a str, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        let file = self.open(Path::new(path))?;
        file.synced = false;
        write(&mut file.file, copy, spool).map_err(|error| failure(&error, &format!("appending to {path}")))
    }

    /// Brings everything that was appended to stable storage.
    pub(super) fn sync(&mut self) -> Result<(), Reply> {
        for appending in self.files.iter_mut().filter(|file| file.revocable.is_some() && !file.synced) {
            let doing = || format!("syncing {}", appending.path.display());
            appending.file.sync_data().map_err(|error| failure(&error, &doing()))?;
            appending.synced = true;
        }
        Ok(())
    }

    /// Lets everything stay and unlocks the files.
    pub(super) fn commit(mut self) {
        self.files.iter_mut().for_each(|file| file.committed = true);
        for file in self.files.drain(..) {
            self.context.log.event(&Event::ClosingMailbox(file.path));
        }
    }

    /// The open, locked file for this path.
    fn open(&mut self, path: &'a Path) -> Result<&mut Appending<'a>, Reply> {
        let known = std::fs::metadata(path).ok().map(|metadata| identity(&metadata));
        let number = match self.files.iter().position(|file| Some(file.identity) == known) {
            Some(number) => number,
            None => {
                self.context.log.event(&Event::OpeningMailbox(path));
                self.files.push(wait_for(self.context, path)?);
                self.files.len() - 1
            }
        };
        Ok(&mut self.files[number])
    }
}

/// Opens and locks the file. If another program has it, it is tried again at growing intervals, for a while.
fn wait_for<'a>(context: &'a Context<'a>, path: &'a Path) -> Result<Appending<'a>, Reply> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let opened = Appending::open(context.log, path);
        if let Some(file) = opened.map_err(|error| failure(&error, &format!("opening {}", path.display())))? {
            return Ok(file);
        }
        if Instant::now() >= deadline {
            let lock_file = dot_lock(path);
            let holder =
                if lock_file.exists() { format!("there is {}", lock_file.display()) } else { "it has a lock".into() };
            return Err(reply::mailbox_busy(format!(
                "another session or program works on {}: {holder}",
                path.display()
            )));
        }
        context.signals.clear();
        if context.signals.stop_requested() {
            let waiting = format!("while waiting for the lock of {}", path.display());
            return Err(reply::shutting_down(&context.config.domain).because(waiting));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl<'a> Appending<'a> {
    /// `None` if another program works on the file.
    fn open(log: &'a Log, path: &'a Path) -> io::Result<Option<Self>> {
        let file = open_or_create(path)?;
        let metadata = file.metadata()?;
        let identity = identity(&metadata);
        let mut appending = Self { log, path, file, identity, revocable: None, synced: false, committed: false };
        if !metadata.is_file() {
            return Ok(Some(appending));
        }
        if metadata.nlink() > 1 {
            // Who can make names here could have given one to a file that is no mailbox.
            return Err(io::Error::other(format!("the file has {} names (hard links)", metadata.nlink())));
        }
        // A program that puts a new file in this one's place lets go of its lock just before it does, and protects
        // itself with FILE.lock only (Python's `mailbox`, for one). It made that while it had the lock that is ours
        // now, so there is nothing to see later that is not there now.
        if !try_lock(&appending.file)? || has_dot_lock(path, log) || !is_at(path, identity) {
            return Ok(None);
        }
        let length = appending.file.metadata()?.len();
        if length == 0 {
            // Who made the file may have crashed before its name was durable. A file that is longer has a durable one.
            sync_name(&appending.file, path)?;
        }
        appending.revocable = Some(length);
        close_torn_tail(&mut appending.file, length)?;
        Ok(Some(appending))
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if let (false, Some(length)) = (self.committed, self.revocable) {
            let cut = || self.file.set_len(length).and_then(|()| self.file.sync_data());
            if let Err(error) = cut().or_else(|_| cut()) {
                self.log.event(&Event::NotCutBack { path: self.path, length, error: &error });
            }
        }
    }
}

/// Opens the file for appending.
fn open_or_create(path: &Path) -> io::Result<File> {
    // What is written to a FIFO without a reader is lost; opened for writing only, such a FIFO is an error.
    let is_fifo = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let access = if is_fifo { OFlag::O_WRONLY } else { OFlag::O_RDWR };
    let flags = access | OFlag::O_APPEND | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    match files::open(path, flags, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files::open(path, flags | OFlag::O_CREAT, Mode::S_IRUSR | Mode::S_IWUSR)
        }
        opened => opened,
    }
}

/// Takes the locks that other mail software respects, flock(2) and fcntl(2), if they are free.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let whole_file = libc::flock { l_type: F_WRLCK, l_whence: SEEK_SET, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(file, FcntlArg::F_SETLK(&whole_file)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `FILE.lock`, by which programs keep others away that do not share their kind of lock. We wait for it and make none:
/// one that a crash left behind would stop all mail for the file.
fn dot_lock(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Whether there is a `FILE.lock` that is not just left over from a crash.
fn has_dot_lock(path: &Path, log: &Log) -> bool {
    let path = dot_lock(path);
    let Ok(metadata) = std::fs::symlink_metadata(&path) else { return false };
    let age = metadata.modified().ok().and_then(|made| made.elapsed().ok()).unwrap_or_default();
    if age < STALE_LOCK {
        return true;
    }
    log.event(&Event::StaleLock { path: &path, age: age.as_secs() });
    false
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether the file is still what the path leads to; another one may have been put in its place.
fn is_at(path: &Path, file: (u64, u64)) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| identity(&metadata) == file)
}

/// A crash in the middle of a delivery leaves a message without its end; without an empty line behind it, the next
/// `From ` line would be a part of it. One that ends inside its own `From ` line would become a part of the message
/// before it, so that line is completed.
fn close_torn_tail(file: &mut File, length: u64) -> io::Result<()> {
    let mut buffer = [0; MAX_FROM_LINE];
    let tail = &mut buffer[..usize::try_from(length).map_or(MAX_FROM_LINE, |length| length.min(MAX_FROM_LINE))];
    file.read_exact_at(tail, length - tail.len() as u64)?;
    let lines = memchr::memrchr(b'\n', tail).map_or(0, |at| at + 1);
    let (lines, torn) = tail.split_at(lines);
    let begins_message = lines.ends_with(b"\n\n") || torn.len() as u64 == length;
    let missing = match (lines, torn) {
        ([], []) | ([.., b'\n', b'\n'], []) => return Ok(()),
        (_, []) => "\n".to_owned(),
        _ => begins_message.then(|| rest_of_from_line(torn)).flatten().unwrap_or_default() + "\n\n",
    };
    file.write_all(missing.as_bytes())
}

fn write(file: &mut File, copy: RecipientCopy<'_>, spool: &mut Spool) -> io::Result<()> {
    let mut out = Vec::with_capacity(1024 + 2 * spool.piece());
    out.extend_from_slice(from_line(&copy.envelope.transaction.reverse_path).as_bytes());
    let mut quoting = Quoting::default();
    let mut unsynced = 0;
    // No line of the headers begins like one that is quoted.
    for_each_piece(copy.reader(spool)?, |text| {
        quoting.quote(text, &mut out);
        if out.len() >= WRITE_SIZE {
            write_all(file, &out)?;
            unsynced += out.len();
            out.clear();
        }
        if unsynced >= EARLY_SYNC {
            start_writing_back(file, unsynced);
            unsynced = 0;
        }
        Ok(())
    })?;
    quoting.finish(&mut out);
    write_all(file, &out)
}

/// Has Linux begin to write the last `length` bytes to the disk, which then works while we go on (posix_fadvise(2)). It
/// is advice only; `sync` makes sure. And it is for these bytes only: of those that are on the disk already it would
/// empty the memory, where the mailbox's reader may want them.
fn start_writing_back(file: &mut File, length: usize) {
    if let (Ok(end), Ok(length)) = (file.stream_position(), i64::try_from(length)) {
        let start = end.cast_signed() - length;
        let _ = posix_fadvise(&*file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Writes everything. The reader of a FIFO gets some time when it falls behind.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut descriptors = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut descriptors, timeout(Instant::now() + LOCK_PATIENCE)) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The type that `struct flock` has for its constants, which are of another.
#[expect(clippy::cast_possible_truncation, reason = "constants of one digit")]
const F_WRLCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "constants of one digit")]
const SEEK_SET: libc::c_short = libc::SEEK_SET as libc::c_short;

/// The age at which a `FILE.lock` counts as left behind.
const STALE_LOCK: Duration = Duration::from_secs(600);

/// The longest time between two tries to take a lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Room for the longest `From ` line that anybody writes.
const MAX_FROM_LINE: usize = 1024;

/// How much is collected before it is written.
const WRITE_SIZE: usize = 128 * 1024;

/// How much of a large message is written before the disk is told to begin with it.
const EARLY_SYNC: usize = 1024 * 1024;
