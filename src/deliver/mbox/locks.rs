//! The locks by which programs keep each other away from a mailbox: flock(2), fcntl(2) and `FILE.lock`.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::files;
use crate::log::{Event, Log};

/// Takes the locks that other mail software respects, flock(2) and fcntl(2), if they are free; whether they are ours now.
/// A file system may lack one kind.
pub(super) fn try_lock(file: &File, path: &Path, log: &Log) -> io::Result<bool> {
    let no_flock = match file.try_lock() {
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => Some(only_if_lacking(error)?),
    };
    let no_record_lock = match files::lock_as_process(file) {
        Ok(()) => None,
        Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
        Err(error) => Some(only_if_lacking(error.into())?),
    };
    match (&no_flock, &no_record_lock) {
        (None, None) => {}
        (Some(error), None) => log.event_once(&Event::OneLockOnly { path, missing: "flock(2)", error }),
        (None, Some(error)) => log.event_once(&Event::OneLockOnly { path, missing: "fcntl(2)", error }),
        (Some(error), Some(_)) => {
            return Err(io::Error::other(format!(
                "neither flock(2) nor fcntl(2) locks a file there ({error}): deliver into a maildir there, which needs no lock"
            )));
        }
    }
    Ok(true)
}

/// The error of a lock, if it means that the file system, or the system, has no such lock (flock(2), fcntl(2)); EINVAL is
/// that of POSIX for a file that cannot be locked.
fn only_if_lacking(error: io::Error) -> io::Result<io::Error> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(error),
        _ => Err(error),
    }
}

/// `FILE.lock`, by which programs keep others away that do not share their kind of lock. We wait for it and make none:
/// one that a crash left behind would stop all mail for the file.
pub(super) fn dot_lock(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Whether there is a `FILE.lock` that is not just left over from a crash.
pub(super) fn has_dot_lock(path: &Path) -> bool {
    age_of_dot_lock(&dot_lock(path)).is_some_and(|age| age < STALE_LOCK)
}

pub(super) fn age_of_dot_lock(path: &Path) -> Option<Duration> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(metadata.modified().ok().and_then(|made| made.elapsed().ok()).unwrap_or_default())
}

/// The age at which a `FILE.lock` counts as left behind.
const STALE_LOCK: Duration = Duration::from_secs(600);
