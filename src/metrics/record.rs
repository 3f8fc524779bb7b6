//! Counts in a file of fixed size, changed in place under a lock.
//!
//! A record is a mark, a number for the form of the table in [`super`], and the counts, all in one page. It is written
//! with a single `pwrite`, so that a writer that is killed leaves either the old or the new numbers. Its content is not
//! trusted: a record of another form is not used, and a file that is no record is never written to.
//!
//! There are two kinds. `metrics_file` is shared by all sessions. `listen` makes one in memory for each session, which
//! can do no more harm with it than report wrong numbers of its own.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use super::{Counts, FAMILIES, Form, NUMBERS};
use crate::files;
use crate::wait::Pauses;

/// An open file with a record.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
}

/// Why a file has no usable counts.
#[derive(Debug)]
pub(crate) enum NoCounts {
    /// The file is empty.
    Empty,
    /// It is from a version that counts other things, or was cut.
    OtherForm,
    /// It is not a record.
    Foreign,
    /// It cannot be read.
    Unreadable(io::Error),
}

impl Record {
    /// Opens the record of `metrics_file`. The file is made if it is missing, and started anew if its counts are
    /// unusable; but a file that is not a record stays as it is.
    pub(crate) fn at(path: &Path, patience: Duration) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let record = Self { file: files::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)? };
        let metadata = record.file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(io::Error::other("it is no ordinary file with one name"));
        }
        match record.read() {
            Ok(_) => {}
            Err(NoCounts::Empty | NoCounts::OtherForm) => record.begin(patience)?,
            Err(flaw) => return Err(flaw.into()),
        }
        Ok(record)
    }

    /// Opens the record for reading only.
    pub(crate) fn to_read(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(Self { file: files::open(path, flags, Mode::empty())? })
    }

    /// Makes a record in memory, whose size nobody can change (memfd_create(2), F_SEAL_GROW(2const)). Children inherit
    /// its descriptor until [`Record::keep`] is called.
    pub(crate) fn for_a_child() -> io::Result<Self> {
        let file = File::from(memfd_create(c"mailrecv-metrics", MFdFlags::MFD_ALLOW_SEALING)?);
        let record = Self { file };
        record.write(&Counts::default())?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&record.file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(record)
    }

    /// The number of the descriptor, which the child is told.
    pub(crate) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// From now on children do not inherit it.
    pub(crate) fn keep(&self) -> io::Result<()> {
        fcntl(self.file.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(())
    }

    /// The record that `listen` made for this session, if it did. The inherited descriptor is replaced by one that
    /// commands do not inherit.
    pub(super) fn inherited() -> Option<Self> {
        let number: RawFd = std::env::var(INHERITED).ok()?.parse().ok().filter(|number| *number > 2)?;
        let opened = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{number}"));
        let _ = nix::unistd::close(number);
        Some(Self { file: opened.ok()? })
    }

    /// Reads the counts.
    pub(crate) fn read(&self) -> Result<Counts, NoCounts> {
        let mut page = [0; SIZE];
        let length = self.file.read_at(&mut page, 0).map_err(NoCounts::Unreadable)?;
        parse(&page[..length])
    }

    /// Adds to the counts; waits up to `patience` for the lock.
    pub(super) fn add(&self, counts: &Counts, patience: Duration) -> io::Result<()> {
        self.locked(patience, || {
            let mut sum = self.read()?;
            sum.take_in(counts);
            self.write(&sum)
        })
    }

    /// Sets all counts to 0, unless another process has just done so.
    fn begin(&self, patience: Duration) -> io::Result<()> {
        self.locked(patience, || match self.read() {
            Ok(_) => Ok(()),
            Err(NoCounts::Empty | NoCounts::OtherForm) => {
                self.write(&Counts::default())?;
                self.file.set_len(SIZE as u64)
            }
            Err(flaw) => Err(flaw.into()),
        })
    }

    fn locked<T>(&self, patience: Duration, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut pauses = Pauses::short_until(Instant::now() + patience);
        while let Err(error) = self.file.try_lock() {
            match error {
                TryLockError::WouldBlock => {
                    pauses.pause().map_err(|_| io::Error::other("somebody else has it locked"))?;
                }
                TryLockError::Error(error) => return Err(error),
            }
        }
        let done = act();
        self.file.unlock()?;
        done
    }

    fn write(&self, counts: &Counts) -> io::Result<()> {
        let mut page = [0; SIZE];
        let (head, numbers) = page.split_at_mut(HEAD.len());
        head.copy_from_slice(&HEAD);
        for (place, number) in numbers.chunks_exact_mut(8).zip(counts.0) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.file.write_all_at(&page, 0)
    }
}

fn parse(page: &[u8]) -> Result<Counts, NoCounts> {
    if page.iter().all(|byte| *byte == 0) {
        // A system crash can also leave a new file with zeros only.
        return Err(NoCounts::Empty);
    }
    let Some(rest) = page.strip_prefix(MARK) else { return Err(NoCounts::Foreign) };
    let numbers = rest.strip_prefix(&FORM.to_le_bytes()).ok_or(NoCounts::OtherForm)?;
    let (numbers, []) = numbers.as_chunks() else { return Err(NoCounts::OtherForm) };
    let mut counts = Counts::default();
    if numbers.len() != NUMBERS {
        return Err(NoCounts::OtherForm);
    }
    for (place, number) in counts.0.iter_mut().zip(numbers) {
        *place = u64::from_le_bytes(*number);
    }
    // Nothing can have been counted that often.
    if counts.0.iter().any(|number| *number > MOST) { Err(NoCounts::OtherForm) } else { Ok(counts) }
}

impl fmt::Display for NoCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoCounts::Empty => f.write_str("nothing has been counted yet"),
            NoCounts::OtherForm => f.write_str("it is of a version of mailrecv that counts otherwise, or damaged"),
            NoCounts::Foreign => f.write_str("it is no file of metrics, and is left alone: name another, or remove it"),
            NoCounts::Unreadable(error) => error.fmt(f),
        }
    }
}

impl From<NoCounts> for io::Error {
    fn from(flaw: NoCounts) -> Self {
        match flaw {
            NoCounts::Unreadable(error) => error,
            flaw => io::Error::other(flaw.to_string()),
        }
    }
}

/// The environment variable with which `listen` tells a session the descriptor number of its record.
pub(crate) const INHERITED: &str = "MAILRECV_METRICS";

/// The first bytes of a record; the form of the table follows.
const MARK: &[u8; 8] = b"mailrecv";
const HEAD: [u8; 16] = {
    let (mut head, form) = ([0; 16], FORM.to_le_bytes());
    let mut at = 0;
    while at < 8 {
        (head[at], head[at + 8]) = (MARK[at], form[at]);
        at += 1;
    }
    head
};

/// The length of a record in octets. It has to fit into one page, so that a `write` leaves either the old or the new
/// content.
const SIZE: usize = HEAD.len() + 8 * NUMBERS;
const _: () = assert!(SIZE <= 4096);

/// Prometheus represents integers exactly up to here; a larger number was made up.
const MOST: u64 = 1 << 53;

/// Identifies the form of the table: a hash (FNV-1a) of its families and their order.
const FORM: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut number = 0;
    while number < FAMILIES.len() {
        hash = hashed(hash, FAMILIES[number].name.as_bytes());
        match FAMILIES[number].form {
            Form::Counter | Form::Gauge | Form::Version => {}
            Form::By(label, values) => {
                hash = hashed(hash, label.as_bytes());
                let mut value = 0;
                while value < values.len() {
                    hash = hashed(hash, values[value].as_bytes());
                    value += 1;
                }
            }
            Form::Histogram(bounds) => {
                let mut bound = 0;
                while bound < bounds.len() {
                    hash = hashed(hash, &bounds[bound].to_le_bytes());
                    bound += 1;
                }
            }
        }
        number += 1;
    }
    hash
};

const fn hashed(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at <= bytes.len() {
        // An octet behind the last one marks the end of each text.
        let byte = if at < bytes.len() { bytes[at] } else { 0xff };
        hash = (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::metrics::Family;

    fn counted(number: u64) -> Counts {
        let mut counts = Counts::default();
        counts.add(Family::AcceptedOctets.counter(), number);
        counts
    }

    #[test]
    fn many_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let patience = Duration::from_mins(3);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        Record::at(&path, patience).unwrap().add(&counted(3), patience).unwrap();
                    }
                });
            }
        });
        assert_eq!(Record::to_read(&path).unwrap().read().unwrap(), counted(8 * 50 * 3));
    }

    #[test]
    fn what_is_no_record_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let record = Record::at(&path, Duration::ZERO).unwrap();
        record.add(&counted(5), Duration::ZERO).unwrap();
        let sound = std::fs::read(&path).unwrap();
        assert_eq!(sound.len(), SIZE);
        let mut other_form = sound.clone();
        other_form[9] ^= 1;
        let mut too_much = sound.clone();
        too_much[SIZE - 1] = 0xff;
        let flaw = |bytes: &[u8]| parse(bytes).unwrap_err();
        for length in 0..SIZE {
            let flaw = flaw(&sound[..length]);
            let is_expected = match length {
                0 => matches!(flaw, NoCounts::Empty),
                1..8 => matches!(flaw, NoCounts::Foreign),
                _ => matches!(flaw, NoCounts::OtherForm),
            };
            assert!(is_expected, "{length}: {flaw:?}");
        }
        assert!(matches!(flaw(&[0; SIZE]), NoCounts::Empty));
        assert!(matches!(flaw(b"From fred@example.com"), NoCounts::Foreign));
        for bytes in [other_form, too_much, sound[..100].to_owned()] {
            assert!(matches!(flaw(&bytes), NoCounts::OtherForm));
            std::fs::write(&path, &bytes).unwrap();
            // A session that had opened it before does not spoil it.
            assert!(record.add(&counted(1), Duration::ZERO).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            Record::at(&path, Duration::ZERO).unwrap().add(&counted(2), Duration::ZERO).unwrap();
            assert_eq!(record.read().unwrap(), counted(2));
        }
        let other_name = folder.path().join("other");
        std::fs::write(&other_name, "").unwrap();
        std::fs::hard_link(&other_name, folder.path().join("link")).unwrap();
        assert!(Record::at(&other_name, Duration::ZERO).is_err());
        std::fs::write(&path, "From fred@example.com").unwrap();
        assert!(Record::at(&path, Duration::ZERO).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"From fred@example.com");
    }

    #[test]
    fn who_holds_the_lock_for_ever_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let record = Record::at(&path, Duration::ZERO).unwrap();
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        assert!(record.add(&counted(1), Duration::from_millis(20)).is_err());
        other.unlock().unwrap();
        record.add(&counted(1), Duration::ZERO).unwrap();
        assert_eq!(record.read().unwrap(), counted(1));
    }

    #[test]
    fn a_child_cannot_change_the_size_of_its_record() {
        let record = Record::for_a_child().unwrap();
        assert!(record.file.set_len(1 << 20).is_err() && record.file.set_len(0).is_err());
        assert!(record.file.write_at(&[0; 2], SIZE as u64 - 1).map_or(true, |length| length < 2));
        record.add(&counted(4), Duration::ZERO).unwrap();
        assert_eq!(record.read().unwrap(), counted(4));
    }
}
