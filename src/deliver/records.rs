//! The table of `exactly_once`: messages that were or are being delivered, while their senders may not know yet.
//!
//! It is a file of fixed size in a folder that belongs to us alone. Its first page has a secret key, with which
//! messages are hashed, in another way for each configuration; each further page has eight records. The hash of a record
//! says in which page it is; if a page is full, a new record replaces the oldest one. Records are overwritten in place,
//! so that making one durable is a single write to the disk.
//!
//! A message that a sender has sent twice, without having read the first answer, has two records with the same hash.
//!
//! A damaged record counts as none. A table that others may have written to is not used at all, because they could make
//! mail vanish.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{UnlinkatFlags, unlinkat};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::record::{HASH, Record, SLOT, Tag, keyed_hash};
use crate::files::{self, Entry, make_folder, openat};
use crate::wait::Pauses;

/// The table, as a session has it open.
pub(crate) struct Records {
    file: File,
    /// Proves that a record is ours.
    key: hmac::Key,
    /// Hashes messages. It is another for each configuration that uses the table.
    tag_key: hmac::Key,
    /// How long a record counts.
    lifetime: Duration,
    /// The deliveries of this session whose 250 the sender may not have read yet, the oldest first.
    unconfirmed: RefCell<VecDeque<Unconfirmed>>,
    /// The deliveries that were found to be done already, for the log.
    repeated: RefCell<Vec<Repeated>>,
    /// Whether something was written that is not synced.
    is_unsynced: Cell<bool>,
    /// Whether a destination could not take back what it has of the message.
    has_left_something: Cell<bool>,
    /// Whether a record could not be read or written in this session.
    has_failed: Cell<bool>,
    /// Whether a page stayed locked for longer than it may.
    is_stuck: Cell<bool>,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) record: Record,
    /// Whether the system has been up since it was written. Otherwise a power cut may have brought it back.
    pub(super) is_of_this_boot: bool,
}

/// A delivery whose 250 the sender may not have read yet.
#[derive(Debug)]
struct Unconfirmed {
    tag: Tag,
    /// The identifier in its record.
    id: String,
    /// The identifier of the message in this session; another one than in the record if it had been delivered before.
    message: String,
}

/// A delivery that had been done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// The recipients.
    pub(crate) to: String,
    /// The destination, as the log writes it.
    pub(crate) action: String,
    /// The message's identifier at that time.
    pub(crate) first: String,
}

impl Records {
    /// Opens the table in this folder; table and folder are made if they are missing. Records older than `days` do not
    /// count, nor do those of other configurations than `config`, where the same words can name another destination. It
    /// is an error if anybody but us or root could have written to them.
    pub(crate) fn open(path: &Path, days: u64, config: &Path) -> io::Result<Self> {
        let folder = match files::open_folder(path, OFlag::O_RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let entry = Entry::find(path.components().as_path())?;
                make_folder(entry.folder(), entry.name())?;
                files::open_folder(path, OFlag::O_RDONLY)?
            }
            opened => opened?,
        };
        if let Some(why) = files::open_to_others(&folder.metadata()?) {
            return Err(io::Error::other(why));
        }
        let file = match files::open_own(&folder, NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Who made the folder may have been killed before its name was durable. One with a table has been
                // synced.
                let entry = Entry::find(path.components().as_path())?;
                entry.sync_name(&folder).or_else(tolerated)?;
                make(&folder)?;
                files::open_own(&folder, NAME)?
            }
            opened => opened?,
        };
        let mut header = [0; MAGIC.len() + HASH];
        if file.metadata()?.size() == LENGTH {
            file.read_exact_at(&mut header, 0)?;
        }
        let Some(key) = header.strip_prefix(MAGIC) else {
            return Err(io::Error::other(format!("`{NAME}` in it is not of this form: remove it")));
        };
        let (unconfirmed, repeated) = (RefCell::default(), RefCell::default());
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        // Two super-servers may start the same configuration in different folders.
        let tag_key = keyed_hash(&key, &[std::path::absolute(config)?.as_os_str().as_bytes()]);
        let tag_key = hmac::Key::new(hmac::HMAC_SHA256, &tag_key);
        let lifetime = Duration::from_secs(days.saturating_mul(24 * 60 * 60));
        Ok(Self {
            file,
            key,
            tag_key,
            lifetime,
            unconfirmed,
            repeated,
            is_unsynced: Cell::new(false),
            has_left_something: Cell::new(false),
            has_failed: Cell::new(false),
            is_stuck: Cell::new(false),
        })
    }

    /// The tag of a message that is identified by these parts.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> Tag {
        Tag(keyed_hash(&self.tag_key, parts))
    }

    /// Locks a tag, unless another session has the lock.
    pub(super) fn try_lock(&self, tag: Tag) -> io::Result<bool> {
        match files::lock_byte(&self.file, tag.lock()) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Releases the lock of a tag.
    pub(super) fn unlock(&self, tag: Tag) {
        let _ = files::unlock_byte(&self.file, tag.lock());
    }

    /// A record of a tag, whose lock we have to hold: one that says "delivered", if there are several, and else the
    /// oldest. It is left out if this session has just answered for it, before this message or for another of its
    /// recipients, because a peer that sends a message twice in one session wants two. It is not left out if only this
    /// message was found to be a repeated one.
    pub(super) fn find(&self, tag: Tag, message: &str) -> io::Result<Option<Found>> {
        let unconfirmed = self.unconfirmed.borrow();
        let is_own = |id: &str| {
            unconfirmed.iter().any(|it| it.tag == tag && it.id == id && (it.message != message || id == message))
        };
        let page = self.read(tag)?;
        let slots = page.chunks_exact(SLOT).filter_map(|slot| Record::decode(slot, &self.key));
        let ours = slots.filter(|(known, at, record)| *known == tag && self.counts(*at) && !is_own(&record.id));
        let first = ours.min_by_key(|(_, at, record)| (!record.is_delivered, *at));
        Ok(first.map(|(_, at, record)| Found { record, is_of_this_boot: is_of_this_boot(at) }))
    }

    /// Writes the record of a tag: over the one with its identifier, or else over the one with the identifier
    /// `earlier`, whose place it takes.
    pub(super) fn write(&self, tag: Tag, record: &Record, earlier: Option<&str>) -> io::Result<()> {
        let slot = record.encode(tag, now(), &self.key)?;
        self.with_page(tag, |page| {
            let known: Vec<_> = page.chunks_exact(SLOT).map(|slot| Record::decode(slot, &self.key)).collect();
            let of = |id: &str| {
                let mut slots = known.iter();
                slots.position(|slot| matches!(slot, Some((known, _, it)) if *known == tag && it.id == id))
            };
            let is_free =
                |slot: &Option<(Tag, Duration, Record)>| !matches!(slot, Some((_, at, _)) if self.counts(*at));
            let oldest = || known.iter().enumerate().min_by_key(|(_, slot)| slot.as_ref().map(|(_, at, _)| *at));
            let place = of(&record.id).or_else(|| of(earlier?)).or_else(|| known.iter().position(is_free));
            (place.or_else(|| oldest().map(|(place, _)| place)).unwrap_or_default(), slot)
        })?;
        self.is_unsynced.set(true);
        Ok(())
    }

    /// Makes all written records durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.is_unsynced.replace(false) { self.file.sync_data() } else { Ok(()) }
    }

    /// Removes the record of a tag if it has this identifier. That need not be durable.
    pub(super) fn erase(&self, tag: Tag, id: &str) -> io::Result<()> {
        let is_it = |slot: &[u8]| {
            let decoded = Record::decode(slot, &self.key);
            decoded.is_some_and(|(known, _, record)| known == tag && record.id == id)
        };
        if self.read(tag)?.chunks_exact(SLOT).any(is_it) {
            self.with_page(tag, |page| {
                let place = page.chunks_exact(SLOT).position(is_it);
                place.map_or((0, page[..SLOT].try_into().unwrap_or([0; SLOT])), |place| (place, [0; SLOT]))
            })?;
        }
        Ok(())
    }

    /// Takes note that the 250 for this message is on its way; `id` is the identifier in its record. Who reads nothing
    /// for that long has the oldest of its other messages forgotten.
    pub(super) fn set_unconfirmed(&self, tag: Tag, id: &str, message: &str) {
        let (id, message) = (id.to_owned(), message.to_owned());
        let mut unconfirmed = self.unconfirmed.borrow_mut();
        let is_full = unconfirmed.len() >= MAX_UNCONFIRMED;
        if is_full
            && unconfirmed.front().is_some_and(|oldest| oldest.message != message)
            && let Some(oldest) = unconfirmed.pop_front()
        {
            let _ = self.erase(oldest.tag, &oldest.id);
        }
        unconfirmed.push_back(Unconfirmed { tag, id, message });
    }

    /// Whether there are messages whose 250 the peer may not have read yet.
    pub(crate) fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.borrow().is_empty()
    }

    /// Whether they will be recognised if they come again.
    pub(crate) fn will_recognise(&self) -> bool {
        self.has_unconfirmed() && !self.has_failed.get()
    }

    /// Takes note that a record could not be read or written; whether it is the first time in this session.
    pub(super) fn note_failure(&self) -> bool {
        !self.has_failed.replace(true)
    }

    /// Takes note that a destination could not take back what it has of the message.
    pub(super) fn note_left_behind(&self) {
        self.has_left_something.set(true);
    }

    /// Whether that was so, since this was asked last.
    pub(super) fn take_left_behind(&self) -> bool {
        self.has_left_something.take()
    }

    /// The peer has shown that it has read all replies, so it will not send these messages again.
    pub(crate) fn forget_confirmed(&self) {
        for Unconfirmed { tag, id, .. } in self.unconfirmed.take() {
            // If this fails, the record is too old some days later.
            let _ = self.erase(tag, &id);
        }
    }

    pub(super) fn add_repeated(&self, repeated: Repeated) {
        self.repeated.borrow_mut().push(repeated);
    }

    /// Takes the deliveries that were found to be done already.
    pub(crate) fn take_repeated(&self) -> Vec<Repeated> {
        self.repeated.take()
    }

    /// Changes one record of a page while no other session does: `change` gets the page and returns the record's index
    /// and new content.
    fn with_page(&self, tag: Tag, change: impl FnOnce(&[u8; PAGE]) -> (usize, [u8; SLOT])) -> io::Result<()> {
        let start = tag.page();
        // One who was stopped with the lock may have it for any time, and mail must not wait for that again and again.
        let patience = if self.is_stuck.get() { Duration::ZERO } else { PATIENCE };
        let mut pauses = Pauses::short_until(Instant::now() + patience);
        while let Err(error) = files::lock_byte(&self.file, start) {
            match error {
                Errno::EINTR => {}
                Errno::EAGAIN | Errno::EACCES if pauses.pause().is_ok() => {}
                Errno::EAGAIN | Errno::EACCES => {
                    self.is_stuck.set(true);
                    return Err(io::Error::other("somebody has it locked"));
                }
                error => return Err(error.into()),
            }
        }
        let changed = self.read(tag).and_then(|page| {
            let (place, slot) = change(&page);
            self.file.write_all_at(&slot, start + (place * SLOT) as u64)
        });
        files::unlock_byte(&self.file, start)?;
        changed
    }

    fn read(&self, tag: Tag) -> io::Result<[u8; PAGE]> {
        let mut page = [0; PAGE];
        self.file.read_exact_at(&mut page, tag.page())?;
        Ok(page)
    }

    /// Whether a record of this time still counts. The clock may have been set back since; but if it was wrong by years,
    /// its records must not stay that long.
    fn counts(&self, at: Duration) -> bool {
        now().abs_diff(at) < self.lifetime
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Tag {
    /// The offset of its page.
    fn page(self) -> u64 {
        (1 + self.number(0) % PAGES) * PAGE as u64
    }

    /// The octet whose lock stands for this tag; it is far beyond the end of the file.
    fn lock(self) -> u64 {
        LOCKS | (self.number(8) % LOCKS)
    }
}

/// Makes the table, durable and complete, unless another session was faster. Of several sessions one makes it and the
/// others wait. What a killed one has left is overwritten.
fn make(folder: &File) -> io::Result<()> {
    lock_to_make(folder)?;
    if files::has_name(folder, NAME)? {
        return Ok(());
    }
    let mut header = [0; MAGIC.len() + HASH];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    SystemRandom::new().fill(&mut header[MAGIC.len()..]).map_err(|_| io::Error::other("no random numbers"))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
    let mut file = File::from(openat(folder, OsStr::new(NEW_NAME), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let mut fill = || -> io::Result<()> {
        // The whole file is written, so that later no write of a single record has to allocate room and make that
        // durable.
        for _ in 0..LENGTH / PIECE as u64 {
            file.write_all(&[0; PIECE])?;
        }
        file.write_all_at(&header, 0)?;
        file.sync_all()
    };
    match fill().and_then(|()| Ok(renameat(folder, NEW_NAME, folder, NAME)?)) {
        Ok(()) => files::sync_folder(folder).or_else(tolerated),
        Err(error) => {
            let _ = unlinkat(folder, NEW_NAME, UnlinkatFlags::NoRemoveDir);
            Err(error)
        }
    }
}

/// Where folders cannot be synced, the table is used all the same.
fn tolerated(error: io::Error) -> io::Result<()> {
    if files::cannot_sync_folders(&error) { Ok(()) } else { Err(error) }
}

/// Locks the folder until it is closed; another session that makes the table is waited for.
fn lock_to_make(folder: &File) -> io::Result<()> {
    let mut pauses = Pauses::short_until(Instant::now() + PATIENCE);
    while let Err(error) = folder.try_lock() {
        match error {
            TryLockError::WouldBlock if pauses.pause().is_ok() => {}
            TryLockError::WouldBlock => {
                return Err(io::Error::other(format!("somebody has it locked, and does not make `{NAME}` in it")));
            }
            TryLockError::Error(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether the system has been up since this time.
fn is_of_this_boot(at: Duration) -> bool {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    now().checked_sub(at).is_some_and(|ago| ago < up)
}

/// The name of the table in its folder.
const NAME: &str = files::RECORDS;

/// Its name while it is made.
const NEW_NAME: &str = ".records.new";

/// How long others may take to make the table, or to change a page of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first bytes of the table.
const MAGIC: &[u8] = b"mailrecv: once 1\n";

/// How many deliveries of one session, or else of one message, are remembered while its peer does not show that it reads
/// our answers.
const MAX_UNCONFIRMED: usize = 4096;

/// The length of a page, which is read as a whole, in bytes.
const PAGE: usize = 4096;

/// How many pages of records there are: room for 32,768.
const PAGES: u64 = 4096;

/// The length of the table, in bytes: 16 MiB and its first page.
const LENGTH: u64 = (1 + PAGES) * PAGE as u64;

/// How many bytes are written at a time when the table is made.
const PIECE: usize = PAGE;

/// Where the octets begin that are locked for tags, and how many there are.
const LOCKS: u64 = 1 << 48;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::record::{Place, Stretch};

    fn open(path: &Path, days: u64) -> Records {
        Records::open(path, days, Path::new("/etc/mailrecv.conf")).unwrap()
    }

    fn tag(page: u64, number: u8) -> Tag {
        let mut tag = [number; HASH];
        tag[..8].copy_from_slice(&page.to_be_bytes());
        Tag(tag)
    }

    fn record(id: &str, place: Place) -> Record {
        Record { id: id.to_owned(), is_delivered: true, place }
    }

    fn found(records: &Records, tag: Tag) -> Option<Record> {
        records.find(tag, "this message").unwrap().map(|found| found.record)
    }

    #[test]
    fn what_was_written_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("once");
        let places = [
            Place::Nowhere,
            Place::Mailbox(Stretch { start: u64::MAX, beginning: (7, [0xab; HASH]) }),
            Place::File { name: "1.M2P3V4I5_0.host,S=6".to_owned(), before: "1.M2P3_0.host".to_owned() },
        ];
        for (number, place) in (1..).zip(&places) {
            let records = open(&path, 5);
            records.write(tag(7, number), &record("a", place.clone()), None).unwrap();
        }
        let records = open(&path, 5);
        for (number, place) in (1..).zip(places) {
            assert_eq!(found(&records, tag(7, number)), Some(record("a", place)));
            // By another name it is another delivery.
            records.erase(tag(7, number), "b").unwrap();
            assert!(found(&records, tag(7, number)).is_some());
            records.erase(tag(7, number), "a").unwrap();
            assert_eq!(found(&records, tag(7, number)), None);
        }
        assert_eq!(std::fs::metadata(path.join(NAME)).unwrap().len(), LENGTH);
    }

    #[test]
    fn what_is_too_old_counts_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (young, old) = (open(folder.path(), 5), open(folder.path(), 0));
        young.write(tag(0, 1), &record("a", Place::Nowhere), None).unwrap();
        assert!(found(&young, tag(0, 1)).is_some());
        assert_eq!(found(&old, tag(0, 1)), None);
    }

    /// The clock may be set back by some days, or have been wrong by years.
    #[test]
    fn what_is_from_the_future_counts_for_as_long() {
        const DAY: i64 = 24 * 60 * 60;
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 5);
        for (number, (seconds, counts)) in (1..).zip([
            (-5 * DAY, false),
            (-5 * DAY + 60, true),
            (0, true),
            (5 * DAY - 60, true),
            (5 * DAY + 60, false),
            (10 * 365 * DAY, false),
        ]) {
            let at = Duration::from_secs(now().as_secs().saturating_add_signed(seconds));
            let slot = record("a", Place::Nowhere).encode(tag(3, number), at, &records.key).unwrap();
            records.file.write_all_at(&slot, tag(3, number).page()).unwrap();
            assert_eq!(found(&records, tag(3, number)).is_some(), counts, "{seconds} seconds");
        }
        // Eight of them do not keep others from having a place.
        let far = now() + Duration::from_secs(10 * 365 * 24 * 60 * 60);
        for number in 0..8 {
            let slot = record("a", Place::Nowhere).encode(tag(4, 100 + number), far, &records.key).unwrap();
            records.file.write_all_at(&slot, tag(4, 0).page() + u64::from(number) * SLOT as u64).unwrap();
        }
        for number in 1..=8 {
            records.write(tag(4, number), &record("a", Place::Nowhere), None).unwrap();
        }
        assert!((1..=8).all(|number| found(&records, tag(4, number)).is_some()));
    }

    /// A page has room for eight; the next takes the place of the oldest, and no other page is touched.
    #[test]
    fn the_oldest_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 5);
        records.write(tag(1, 99), &record("a", Place::Nowhere), None).unwrap();
        for number in 1..=20 {
            records.write(tag(2, number), &record("a", Place::Nowhere), None).unwrap();
        }
        let count = (1..=20).filter(|number| found(&records, tag(2, *number)).is_some()).count();
        assert_eq!(count, PAGE / SLOT);
        assert!(found(&records, tag(2, 20)).is_some() && found(&records, tag(1, 99)).is_some());
        // One that is there is written over.
        records.write(tag(2, 20), &record("b", Place::Nowhere), Some("a")).unwrap();
        let count = (1..=20).filter(|number| found(&records, tag(2, *number)).is_some()).count();
        assert_eq!(count, PAGE / SLOT);
    }

    /// A message that was sent twice has two: what was delivered is found first, and else what is older.
    #[test]
    fn a_tag_has_as_many_records_as_there_were_messages() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 5);
        let prepared = |id: &str| Record { is_delivered: false, ..record(id, Place::Nowhere) };
        let first = || found(&records, tag(1, 2)).map(|it| it.id);
        records.write(tag(1, 2), &prepared("a"), None).unwrap();
        records.write(tag(1, 2), &prepared("b"), None).unwrap();
        assert_eq!(first().as_deref(), Some("a"));
        records.write(tag(1, 2), &record("b", Place::Nowhere), Some("a")).unwrap();
        assert_eq!(first().as_deref(), Some("b"));
        records.set_unconfirmed(tag(1, 2), "b", "b");
        assert_eq!(first().as_deref(), Some("a"));
        records.write(tag(1, 2), &record("c", Place::Nowhere), Some("a")).unwrap();
        assert_eq!(first().as_deref(), Some("c"));
        records.forget_confirmed();
        records.erase(tag(1, 2), "c").unwrap();
        assert_eq!(first(), None);
    }

    /// What was written before the system was started may be older than what a power cut has lost; so may what seems to
    /// be of the future.
    #[test]
    fn a_record_of_before_the_start_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 100_000);
        let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
        let minute = Duration::from_secs(60);
        for (number, at, is_of_this_boot) in
            [(1, now() - up.min(minute) / 2, true), (2, now() - up - minute, false), (3, now() + minute, false)]
        {
            let slot = record("a", Place::Nowhere).encode(tag(5, number), at, &records.key).unwrap();
            records.file.write_all_at(&slot, tag(5, number).page()).unwrap();
            let found = records.find(tag(5, number), "this message").unwrap().unwrap();
            assert_eq!(found.is_of_this_boot, is_of_this_boot, "{number}");
        }
    }

    /// Who never reads an answer cannot make a session remember without end.
    #[test]
    fn what_a_session_remembers_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 5);
        records.write(tag(1, 1), &record("a", Place::Nowhere), None).unwrap();
        records.set_unconfirmed(tag(1, 1), "a", "a");
        for _ in 1..MAX_UNCONFIRMED {
            records.set_unconfirmed(tag(1, 2), "b", "b");
        }
        assert!(open(folder.path(), 5).find(tag(1, 1), "c").unwrap().is_some());
        records.set_unconfirmed(tag(1, 2), "b", "b");
        assert_eq!(open(folder.path(), 5).find(tag(1, 1), "c").unwrap(), None);
        assert_eq!(records.unconfirmed.borrow().len(), MAX_UNCONFIRMED);
    }

    #[test]
    fn a_record_with_any_octet_changed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), 5);
        let place = Place::File { name: "name".to_owned(), before: "before".to_owned() };
        let slot = record("a", place).encode(tag(1, 2), now(), &records.key).unwrap();
        assert!(Record::decode(&slot, &records.key).is_some());
        for at in 0..SLOT {
            let mut other = slot;
            other[at] ^= 1;
            assert!(Record::decode(&other, &records.key).is_none(), "{at}");
        }
    }

    /// Whoever guesses at texts learns nothing from a table, and no two tables or configurations have a hash in common.
    #[test]
    fn the_key_is_the_tables_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tag = |folder: &tempfile::TempDir| open(folder.path(), 5).tag(&[b"a", b"bc"]);
        assert_eq!(tag(&one), tag(&one));
        assert_ne!(tag(&one), tag(&other));
        let records = open(one.path(), 5);
        assert_ne!(records.tag(&[b"a", b"bc"]), records.tag(&[b"ab", b"c"]));
        let other = Records::open(one.path(), 5, Path::new("/etc/other.conf")).unwrap();
        assert_ne!(records.tag(&[b"a", b"bc"]), other.tag(&[b"a", b"bc"]));
    }
}
