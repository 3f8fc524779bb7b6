//! `append FILE`: mboxrd files, shared with other mail software.
//!
//! All files of a message are locked before anything is written to one. Each is written to and synced, and stays as it was
//! until [`Mailboxes::commit`]: dropped before that, what was appended is cut off again. The locks are held until then, so
//! nobody sees what may still be taken back.
//!
//! Not every program respects a lock. So it is known which bytes are ours: what a file has become is looked at before the
//! message counts as delivered, and nobody else's bytes are cut off.

mod locks;

use std::fs::{File, Metadata};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::stat::Mode;

use locks::{age_of_dot_lock, dot_lock, has_dot_lock, try_lock};

use super::mboxrd::{self, rest_of_from_line};
use super::record::{self, Stretch};
use super::{Context, LOCK_PATIENCE, failure, names_of, tolerate_unsynced};
use crate::address::Mailbox;
use crate::files::{self, Entry, identity};
use crate::log::Event;
use crate::message::{RecipientCopy, Spool};
use crate::smtp::reply::{self, Reply};
use crate::wait::{GivenUp, Pauses, Woken, wait};

/// The files that a message is being appended to.
pub(super) struct Mailboxes<'a> {
    context: &'a Context<'a>,
    /// The names in the configuration, each with somebody whose mail goes there; two can be one file.
    names: Vec<(&'a str, Vec<&'a Mailbox>)>,
    /// The files, each once, from the first [`Mailboxes::append`] on.
    locked: Option<Locked<'a>>,
}

/// Open files, all of them locked.
#[derive(Default)]
struct Locked<'a> {
    files: Vec<Appending<'a>>,
    /// Which of them each name leads to.
    names: Vec<(&'a str, Identity)>,
}

/// Device and inode.
type Identity = (u64, u64);

/// An open file with something at its end that is not yet meant to stay.
struct Appending<'a> {
    context: &'a Context<'a>,
    name: &'a str,
    entry: Entry,
    file: File,
    identity: Identity,
    /// What we have appended, once the file is locked; `None` for a device or FIFO, from which nothing can be taken
    /// back.
    ours: Option<Ours>,
    /// Whether all of it is on stable storage.
    synced: bool,
    committed: bool,
    /// Where the copy will be that [`Appending::next`] is asked for next, if it has been asked before.
    next: Option<u64>,
    /// What an earlier session has left in front of that.
    left: Option<Left>,
}

/// A whole copy that an earlier session has left at the end of a file.
struct Left {
    copy: Ours,
    /// How many recipients the copy names.
    recipients: usize,
    /// For how many of them it is known that nobody has answered.
    unanswered: usize,
}

/// What we have appended to a file.
#[derive(Debug, Default)]
struct Ours {
    bytes: Range<u64>,
    /// How it begins, to know it again.
    beginning: Vec<u8>,
    /// Whether there is more of it in front, and something of another program in between.
    are_scattered: bool,
}

impl<'a> Mailboxes<'a> {
    /// Whether others may be waiting for one of them.
    pub(super) fn are_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// For a message that goes to files of these names, each of them there once.
    pub(super) fn new(context: &'a Context<'a>, names: impl Iterator<Item = (&'a str, Vec<&'a Mailbox>)>) -> Self {
        Self { context, names: names.collect(), locked: None }
    }

    /// Writes a copy to what has this name, if it is a FIFO, a device or the like; whether it is. Such a thing may make us
    /// wait, so it comes before anything is locked.
    pub(super) fn write_to_stream(
        &mut self,
        name: &'a str,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> Result<bool, Reply> {
        // Whose links lead there, and whether it can be opened at all, is seen when it is.
        if !std::fs::metadata(name).is_ok_and(|found| !found.is_file()) {
            return Ok(false);
        }
        // It may be a file by now, which has to be locked.
        let opened = Appending::open(self.context, name);
        let opened = opened.map_err(|error| failure(&error, &format!("opening {name}")))?;
        let Some(mut stream) = opened.filter(|opened| opened.ours.is_none()) else { return Ok(false) };
        self.context.log.event(&Event::OpeningMailbox(Path::new(name)));
        self.names.retain(|(known, _)| *known != name);
        stream.append(self.context, copy, spool).map_err(|error| failure(&error, &format!("appending to {name}")))?;
        Ok(true)
    }

    /// Appends a copy to the file of this name.
    pub(super) fn append(&mut self, name: &str, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        let context = self.context;
        let appended = self.locked(name)?.append(context, copy, spool);
        appended.map_err(|error| failure(&error, &format!("appending to {name}")))
    }

    /// Whether the message is whole in the file of this name, in this stretch, where an earlier session was going to put
    /// it. If it is the end of the file, it is cut off: at once if it is not whole; together with what is appended if no
    /// recipient of it can have been answered for, which `is_unanswered` says of this one.
    pub(super) fn has(
        &mut self,
        name: &str,
        stretch: &Stretch,
        is_unanswered: bool,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> Result<bool, Reply> {
        let found = self.locked(name)?.has(stretch, is_unanswered, copy, spool);
        found.map_err(|error| failure(&error, &format!("looking for an earlier delivery in {name}")))
    }

    /// Where the next copy in the file of this name will be, before anything is appended. `None` if that is no file.
    pub(super) fn next(
        &mut self,
        name: &str,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> Result<Option<Stretch>, Reply> {
        let identity = self.locked(name)?.identity;
        let names = self.locked.iter().flat_map(|locked| &locked.names);
        let is_only = names.filter(|(_, known)| *known == identity).count() == 1;
        let place = self.locked(name)?.next(copy, (!is_only).then_some(spool));
        place.map_err(|error| failure(&error, &format!("examining {name}")))
    }

    /// The file of this name. The first time, all files are opened and locked.
    fn locked(&mut self, name: &str) -> Result<&mut Appending<'a>, Reply> {
        if self.locked.is_none() {
            self.locked = Some(lock(self.context, &self.names)?);
        }
        let file = self.locked.as_mut().and_then(|locked| locked.file(name));
        file.ok_or_else(|| reply::try_again(format!("{name} is not locked")))
    }

    /// Brings everything that was appended to stable storage.
    pub(super) fn sync(&mut self) -> Result<(), Reply> {
        for appending in self.files_mut().filter(|file| file.ours.is_some() && !file.synced) {
            let doing = || format!("syncing {}", appending.name);
            appending.file.sync_data().map_err(|error| failure(&error, &doing()))?;
            appending.synced = true;
        }
        Ok(())
    }

    /// An error if another program has done something to one of the files that puts the message in doubt.
    pub(super) fn verify(&self) -> Result<(), Reply> {
        for appending in self.locked.iter().flat_map(|locked| &locked.files) {
            let name = appending.name;
            match appending.what_happened().map_err(|error| failure(&error, &format!("examining {name}")))? {
                None => {}
                Some(event) => return Err(reply::mailbox_busy(format!("delivering to {name}: {event}"))),
            }
        }
        Ok(())
    }

    /// Lets everything stay and unlocks the files.
    pub(super) fn commit(mut self) {
        self.files_mut().for_each(|file| file.committed = true);
        for file in self.locked.take().unwrap_or_default().files {
            self.context.log.event(&Event::ClosingMailbox(file.path()));
        }
    }

    fn files_mut(&mut self) -> impl Iterator<Item = &mut Appending<'a>> {
        self.locked.iter_mut().flat_map(|locked| &mut locked.files)
    }
}

/// Opens and locks the files of these names; those that are missing are made. As long as another program has one of them,
/// all are left alone: who holds his own mailbox must not hold up mail for others.
fn lock<'a>(context: &'a Context<'a>, names: &[(&'a str, Vec<&Mailbox>)]) -> Result<Locked<'a>, Reply> {
    for (name, _) in names {
        context.log.event(&Event::OpeningMailbox(Path::new(name)));
    }
    let deadline = context.deadline.min(Instant::now() + LOCK_PATIENCE);
    let mut pauses = Pauses::until(deadline, context.signals);
    loop {
        let Busy(name, recipients) = match try_lock_all(context, names)? {
            Ok(locked) => {
                locked.files.iter().for_each(Appending::log_stale_lock);
                return Ok(locked);
            }
            Err(busy) => busy,
        };
        match pauses.pause() {
            Ok(()) => {}
            Err(GivenUp::TimedOut) => {
                let path = Path::new(name);
                let holder = if has_dot_lock(path) {
                    format!("there is {}", dot_lock(path).display())
                } else {
                    "it has a lock".to_owned()
                };
                let cause = format!("another session or program works on {name}: {holder}");
                return Err(reply::mailbox_busy(cause).about(names_of(recipients.iter().copied())));
            }
            Err(GivenUp::Stopped) => {
                let waiting = format!("while waiting for the lock of {name}");
                return Err(reply::shutting_down(&context.config.domain).because(waiting));
            }
        }
    }
}

/// What another session or program works on, and whose mail waits for it.
struct Busy<'n>(&'n str, &'n [&'n Mailbox]);

fn try_lock_all<'a, 'n>(
    context: &'a Context<'a>,
    names: &'n [(&'a str, Vec<&'n Mailbox>)],
) -> Result<Result<Locked<'a>, Busy<'n>>, Reply> {
    let mut locked = Locked::default();
    for (name, recipients) in names {
        match Appending::open(context, name).map_err(not_opened(name, recipients))? {
            None => return Ok(Err(Busy(name, recipients))),
            Some(appending) => locked.add(name, appending),
        }
    }
    // All sessions take them in this order, so that no two wait for each other.
    locked.files.sort_unstable_by_key(|appending| appending.identity);
    for appending in &mut locked.files {
        let Some((name, recipients)) = names.iter().find(|(name, _)| *name == appending.name) else { continue };
        if !appending.lock().map_err(not_opened(name, recipients))? {
            return Ok(Err(Busy(name, recipients)));
        }
    }
    Ok(Ok(locked))
}

fn not_opened(name: &str, recipients: &[&Mailbox]) -> impl FnOnce(io::Error) -> Reply {
    move |error| failure(&error, &format!("opening {name}")).about(names_of(recipients.iter().copied()))
}

impl<'a> Locked<'a> {
    /// Must come before any lock: the drop of a second descriptor of the same file would release its record locks
    /// (fcntl(2)).
    fn add(&mut self, name: &'a str, appending: Appending<'a>) {
        self.names.push((name, appending.identity));
        if !self.files.iter().any(|known| known.identity == appending.identity) {
            self.files.push(appending);
        }
    }

    fn file(&mut self, name: &str) -> Option<&mut Appending<'a>> {
        let (_, identity) = self.names.iter().find(|(known, _)| *known == name)?;
        self.files.iter_mut().find(|appending| appending.identity == *identity)
    }
}

impl<'a> Appending<'a> {
    /// Opens the file for appending, or makes it. `None` if another program works on it.
    fn open(context: &'a Context<'a>, name: &'a str) -> io::Result<Option<Self>> {
        let entry = Entry::find(Path::new(name))?;
        let found = entry.found().map(File::metadata).transpose()?;
        // What is written to a FIFO without a reader is lost; opened for writing only, such a FIFO is an error.
        let is_fifo = found.is_some_and(|found| found.file_type().is_fifo());
        let access = if is_fifo { OFlag::O_WRONLY } else { OFlag::O_RDWR };
        let flags = access | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = entry.open(flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) if is_fifo => io::Error::other("nobody reads this FIFO"),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        if metadata.file_type().is_fifo() != is_fifo {
            return Ok(None);
        }
        if files::is_standard(&metadata) {
            return Err(io::Error::other("this is the connection to the peer"));
        }
        let identity = identity(&metadata);
        let ours = metadata.is_file().then(Ours::default);
        let (synced, committed, next, left) = (false, false, None, None);
        Ok(Some(Self { context, name, entry, file, identity, ours, synced, committed, next, left }))
    }

    /// Takes the locks. `false` if another program works on the file.
    fn lock(&mut self) -> io::Result<bool> {
        if self.ours.is_none() {
            return Ok(true);
        }
        // Some programs replace the file by a new one, release their lock just before that, and are then protected by
        // FILE.lock only (for example Python's `mailbox`). They made FILE.lock while they had the lock that we have
        // now, so it is enough to look for it once.
        if !try_lock(&self.file, self.path(), self.context.log)?
            || has_dot_lock(self.path())
            || !is_at(self.path(), self.identity)
        {
            return Ok(false);
        }
        let metadata = self.file.metadata()?;
        if metadata.nlink() > 1 {
            // Who can make names here could have given one to a file that is no mailbox.
            return Err(io::Error::other(format!(
                "the file has {} names (hard links), as `cp -al` gives them: put a copy in its place, `cp -p` and `mv`",
                metadata.nlink()
            )));
        }
        let length = metadata.len();
        if length == 0 {
            // Who made the file may have crashed before its name was durable. A file that is longer has a durable one.
            tolerate_unsynced(self.context.log, self.entry.at(), self.entry.sync_name(&self.file))?;
        }
        self.ours = Some(Ours { bytes: length..length, ..Ours::default() });
        Ok(true)
    }

    /// Tells of a `FILE.lock` that is not respected.
    fn log_stale_lock(&self) {
        let path = dot_lock(self.path());
        if let (Some(_), Some(age)) = (&self.ours, age_of_dot_lock(&path)) {
            self.context.log.event(&Event::StaleLock { path: &path, age: age.as_secs() });
        }
    }

    fn append(&mut self, context: &Context<'_>, copy: RecipientCopy<'_>, spool: &mut Spool) -> io::Result<()> {
        self.synced = false;
        if let Some(ours) = &self.ours
            && ours.bytes.is_empty()
        {
            let missing = missing_end(&self.file, ours.bytes.start)?;
            self.write(context, missing.as_bytes())?;
        }
        let mut unsynced = 0;
        mboxrd::write(copy, spool, WRITE_SIZE, |text| {
            self.write(context, text)?;
            unsynced += text.len();
            if unsynced >= EARLY_SYNC {
                start_writing_back(&mut self.file, unsynced);
                unsynced = 0;
            }
            Ok(())
        })
    }

    /// Where a copy will be, if this is a file. The message tells how long the copy is, if others may come behind it.
    fn next(&mut self, copy: RecipientCopy<'_>, message: Option<&mut Spool>) -> io::Result<Option<Stretch>> {
        let Some(ours) = self.ours.as_ref().filter(|ours| ours.bytes.is_empty()) else { return Ok(None) };
        let start = match self.next {
            Some(start) => start,
            None => ours.bytes.start + missing_end(&self.file, ours.bytes.start)?.len() as u64,
        };
        if let Some(spool) = message {
            let mut end = start;
            mboxrd::write(copy, spool, WRITE_SIZE, |text| {
                end += text.len() as u64;
                Ok(())
            })?;
            self.next = Some(end);
        }
        let beginning = mboxrd::beginning(copy);
        Ok(Some(Stretch { start, beginning: (beginning.len() as u64, record::hash(&beginning)) }))
    }

    /// Whether the text of a message is whole in the file, behind a beginning with this hash. If only a part of it is
    /// there, at the end of the file, that part is cut off: nobody has appended anything behind it.
    fn has(
        &mut self,
        stretch: &Stretch,
        is_unanswered: bool,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> io::Result<bool> {
        let Some(ours) = self.ours.as_ref().filter(|ours| ours.bytes.is_empty()) else { return Ok(false) };
        let length = ours.bytes.end;
        let Stretch { start, beginning: (beginning_length, beginning_hash) } = *stretch;
        let mut at = start.saturating_add(beginning_length);
        if at > length || beginning_length > MAX_KNOWN_BEGINNING {
            return Ok(false);
        }
        let mut beginning = vec![0; usize::try_from(beginning_length).unwrap_or_default()];
        self.file.read_exact_at(&mut beginning, start)?;
        if record::hash(&beginning) != beginning_hash {
            return Ok(false);
        }
        // The beginning is skipped, because this copy has another date in it.
        let mut other_beginning = mboxrd::beginning(copy).len();
        let (mut is_same, mut is_whole) = (true, true);
        let mut found = Vec::new();
        mboxrd::write(copy, spool, WRITE_SIZE, |text| {
            let skipped = text.len().min(other_beginning);
            other_beginning -= skipped;
            let text = &text[skipped..];
            let left = usize::try_from(length - at).unwrap_or(usize::MAX).min(text.len());
            if is_same && is_whole {
                found.resize(left, 0);
                self.file.read_exact_at(&mut found, at)?;
                is_same = found == text[..left];
                is_whole = left == text.len();
                at += left as u64;
            }
            Ok(())
        })?;
        if is_same && is_whole && at == length && is_unanswered {
            self.is_left(start..length, beginning);
        }
        let is_torn = is_same && !is_whole;
        if is_torn && self.file.metadata()?.len() == length {
            self.file.set_len(start)?;
            self.file.sync_data()?;
            self.ours = Some(Ours { bytes: start..start, ..Ours::default() });
        }
        Ok(is_same && is_whole)
    }

    /// Takes note that an earlier session has left this copy at the end of the file, whose beginning this is, for one
    /// recipient of it, or for one more.
    fn is_left(&mut self, bytes: Range<u64>, mut beginning: Vec<u8>) {
        let unanswered = self.left.as_ref().map_or(0, |left| left.unanswered) + 1;
        let recipients =
            beginning.split(|octet| *octet == b'\n').filter(|line| line.starts_with(b"Delivered-To: ")).count();
        beginning.truncate(MAX_BEGINNING);
        let copy = Ours { bytes, beginning, are_scattered: false };
        self.left = Some(Left { copy, recipients, unanswered });
    }

    /// Writes everything. The reader of a FIFO gets some time when it falls behind.
    fn write(&mut self, context: &Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    let (written, rest) = bytes.split_at(length);
                    if let Some(ours) = &mut self.ours {
                        let end = self.file.stream_position();
                        // If lseek(2) fails, they count as appended at the end: they must be cut off.
                        ours.add(written, *end.as_ref().unwrap_or(&(ours.bytes.end + length as u64)))?;
                        end?;
                    }
                    bytes = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_reader(&self.file, context)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What another program has done to the file, as far as it concerns the message.
    fn what_happened(&self) -> io::Result<Option<&'static str>> {
        let Some(ours) = &self.ours else { return Ok(None) };
        let metadata = self.file.metadata()?;
        Ok(if metadata.nlink() != 1 || !is_at(self.path(), self.identity) {
            Some("another program has removed the file, put another one in its place or given it a second name")
        } else if metadata.len() != ours.bytes.end || !ours.are_in(&self.file, metadata.len())? {
            Some("another program has changed the file without a lock")
        } else if self.may_have_been_read(&metadata) {
            Some("another program has made a lock file, and may have read the file before the message was whole")
        } else {
            None
        })
    }

    /// Whether there is a `FILE.lock` that somebody made before we had written everything. Whoever made it later found the
    /// message whole; or has not read anything yet, because it waits for our lock as well, as most do.
    fn may_have_been_read(&self, metadata: &Metadata) -> bool {
        has_dot_lock(self.path())
            && !std::fs::symlink_metadata(dot_lock(self.path()))
                .is_ok_and(|lock| (lock.mtime(), lock.mtime_nsec()) > (metadata.mtime(), metadata.mtime_nsec()))
    }

    fn path(&self) -> &'a Path {
        Path::new(self.name)
    }

    /// Cuts off what we have appended, and in front of it what an earlier session has left for the same recipients.
    fn take_all_back(&self, ours: &Ours) -> Result<(), String> {
        self.take_back(ours)?;
        match &self.left {
            Some(Left { copy, recipients, unanswered }) if recipients == unanswered => self.take_back(copy),
            _ => Ok(()),
        }
    }

    /// Cuts off these bytes, as long as they are the end of the file.
    fn take_back(&self, ours: &Ours) -> Result<(), String> {
        let say = |error: io::Error| error.to_string();
        if ours.bytes.is_empty() {
            return Ok(());
        }
        // A program that uses only FILE.lock may be about to append.
        let patience = Instant::now() + ROLLBACK_PATIENCE;
        while has_dot_lock(self.path()) && Instant::now() < patience {
            std::thread::sleep(DOT_LOCK_PAUSE);
        }
        let Range { start, end } = ours.bytes;
        let length = self.file.metadata().map_err(say)?.len();
        if length > start {
            let are_ours = length <= end && ours.are_in(&self.file, length).map_err(say)?;
            // This look comes directly before the cut, so that another program has hardly any time in between.
            if !are_ours || self.file.metadata().map_err(say)?.len() != length {
                return Err("another program has changed the file, and nothing of that is cut off".to_owned());
            }
            let cut = self.file.set_len(start).and_then(|()| self.file.sync_data());
            cut.map_err(|error| format!("it could not be cut back to {start} bytes ({error})"))?;
        }
        if ours.are_scattered {
            return Err("another program has appended to the file in the middle of the message".to_owned());
        }
        Ok(())
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if let (false, Some(ours)) = (self.committed, &self.ours)
            // Once more, for an error that does not last: what stays is mail that was refused.
            && let Err(why) = self.take_all_back(ours).or_else(|_| self.take_all_back(ours))
        {
            self.context.not_taken_back(self.path(), &why);
        }
    }
}

impl Ours {
    /// Takes note of bytes that were written up to this position. An error if they are not behind those before: then
    /// another program has changed the length of the file, and only these are sure to be at its end.
    fn add(&mut self, written: &[u8], end: u64) -> io::Result<()> {
        let start = end.saturating_sub(written.len() as u64);
        let are_behind = start == self.bytes.end;
        if !are_behind {
            *self = Self { bytes: start..end, beginning: Vec::new(), are_scattered: start > self.bytes.end };
        }
        self.bytes.end = end;
        let room = MAX_BEGINNING - self.beginning.len();
        self.beginning.extend_from_slice(&written[..written.len().min(room)]);
        if are_behind { Ok(()) } else { Err(io::Error::other("another program has changed the file without a lock")) }
    }

    /// Whether our bytes are still in the file, which has this length; only their beginning is compared.
    fn are_in(&self, file: &File, length: u64) -> io::Result<bool> {
        let mut buffer = [0; MAX_BEGINNING];
        let left = length.saturating_sub(self.bytes.start);
        let expected = &self.beginning[..self.beginning.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let found = &mut buffer[..expected.len()];
        file.read_exact_at(found, self.bytes.start)?;
        Ok(found == expected)
    }
}

/// Waits until the reader of a FIFO has taken something. An error if it does not, or if we are to stop.
fn wait_for_reader(fifo: &File, context: &Context<'_>) -> io::Result<()> {
    let deadline = context.deadline.min(Instant::now() + LOCK_PATIENCE);
    match wait(fifo.as_fd(), PollFlags::POLLOUT, Some(context.signals), deadline)? {
        _ if context.signals.stop_requested() => Err(io::Error::other("asked to stop while its reader was waited for")),
        Woken::Nothing if Instant::now() >= deadline => Err(io::ErrorKind::TimedOut.into()),
        Woken::Ready | Woken::Signal | Woken::Nothing => Ok(()),
    }
}

/// Whether the file is still what the path leads to; another one may have been put in its place.
fn is_at(path: &Path, file: Identity) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| identity(&metadata) == file)
}

/// A crash in the middle of a delivery leaves a message without its end; without an empty line behind it, the next
/// `From ` line would be a part of it. One that ends inside its own `From ` line would become a part of the message
/// before it, so that line is completed.
fn missing_end(file: &File, length: u64) -> io::Result<String> {
    let mut buffer = [0; MAX_FROM_LINE];
    let tail = &mut buffer[..usize::try_from(length).map_or(MAX_FROM_LINE, |length| length.min(MAX_FROM_LINE))];
    file.read_exact_at(tail, length - tail.len() as u64)?;
    let lines = memchr::memrchr(b'\n', tail).map_or(0, |at| at + 1);
    let (lines, torn) = tail.split_at(lines);
    let begins_message = lines.ends_with(b"\n\n") || torn.len() as u64 == length;
    Ok(match (lines, torn) {
        ([], []) | ([.., b'\n', b'\n'], []) => String::new(),
        (_, []) => "\n".to_owned(),
        _ => begins_message.then(|| rest_of_from_line(torn)).flatten().unwrap_or_default() + "\n\n",
    })
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

/// How long somebody else's `FILE.lock` is waited for before a refused message is cut off, and the pauses meanwhile.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(1);
const DOT_LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Room for the longest `From ` line that anybody writes.
const MAX_FROM_LINE: usize = 1024;

/// How much of what we wrote is kept, to know it again, in bytes: enough for the name of the message, in most.
const MAX_BEGINNING: usize = 1024;

/// The most that stands in front of the text of a message, in bytes: more recipients than one transaction has.
const MAX_KNOWN_BEGINNING: u64 = 16 * 1024 * 1024;

/// How much is collected before it is written.
const WRITE_SIZE: usize = 128 * 1024;

/// How much of a large message is written before the disk is told to begin with it.
const EARLY_SYNC: usize = 1024 * 1024;
