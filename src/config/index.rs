//! The index of a file with very many plain rules: made beforehand, so that a session need not look at each line.
//!
//! It says which lines are nothing but plain `deliver` lines and comments, what these need, and in which line each hash of
//! an address is. It never says what a rule does: the line is read again, as without an index. And it counts only if it
//! fits the file byte for byte ([`super::fingerprint`]), was made by this very program, is whole, and can have been
//! written by nobody but root and the owner of the file. Otherwise the session reads all lines, as if there were none.
//!
//! The file is a header, which a session reads as a whole, and blocks of entries in the order of their hashes, of which it
//! reads those that it asks for.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use ring::digest::{SHA256, digest};

use super::bytes::{Bytes, put};
use super::exact;
use super::fingerprint::{BLOCK, Fingerprint, Key};
use super::needs::Written;
use super::plain;
use super::source::{LineStart, READ_SIZE, Source};
use crate::files;

/// The addresses of an index, as a session asks for them.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    /// How many there are.
    entries: u32,
    /// Where the blocks begin.
    start: u32,
    blocks: Vec<Block>,
}

/// Lines in a row that an index describes; both ends are places in their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: LineStart,
    /// Where the line behind them begins.
    pub(super) end: u32,
    /// How many they are, with their comments.
    pub(super) lines: u32,
    /// The allow groups that they name: to be defined above them.
    pub(super) groups: Vec<Vec<u8>>,
    /// Where mail could be written according to the lines above them, and where with them ([`Written::encode`]).
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

/// Entries in a row: the hash of the first, and what they are known by.
#[derive(Debug)]
struct Block {
    first: u32,
    digest: [u8; DIGEST],
}

/// An address: its hash and its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u32,
    at: LineStart,
}

/// Why an index is not used, for people.
pub(super) type Unused = String;

/// Where the index of a file is. The dot keeps it out of what an `include` line with `*` names.
pub(super) fn beside(file: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name()?);
    name.push(".index");
    Some(file.with_file_name(name))
}

/// Whether a file is too small for an index to be of use, or is none that has a content of its own.
pub(super) fn is_beneath(source: &Source, size: u64) -> bool {
    size < READ_SIZE as u64 || source.version().is_none()
}

// Reading.
impl Index {
    /// Opens the index beside a file, which is open as well; `None` if there is none.
    pub(super) fn open(path: &Path, source: &Source) -> Option<Result<(Self, Vec<Run>), Unused>> {
        match files::open(
            path,
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
            Mode::empty(),
        ) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(format!("it cannot be read: {error}"))),
            Ok(file) => Some(Self::fitting(file, source)),
        }
    }

    fn fitting(file: File, source: &Source) -> Result<(Self, Vec<Run>), Unused> {
        let unreadable = |error: io::Error| format!("it cannot be read: {error}");
        let (metadata, of_source) = (file.metadata().map_err(unreadable)?, source.metadata().map_err(unreadable)?);
        distrust(&metadata, &of_source)?;
        let mut begin = [0; BEGIN];
        file.read_exact_at(&mut begin, 0).map_err(|_| DAMAGED)?;
        let length = header_length(&begin).ok_or(OF_ANOTHER_VERSION)?;
        if u64::from(length) > metadata.len() {
            return Err(DAMAGED.to_owned());
        }
        let mut header = vec![0; usize::try_from(length).map_err(|_| DAMAGED)?];
        file.read_exact_at(&mut header, 0).map_err(|_| DAMAGED)?;
        let header = Header::parse(&header).ok_or(DAMAGED)?;
        let entries = u64::from(header.entries) * ENTRY as u64;
        if metadata.len() != u64::from(length) + entries {
            return Err(DAMAGED.to_owned());
        }
        // Most changes are seen by the size, without reading the file for that alone.
        if header.size != of_source.len()
            || header.fingerprint != source.fingerprint(&header.key).map_err(unreadable)?
        {
            return Err("the file was written to since it was made".to_owned());
        }
        Ok((Self { file, entries: header.entries, start: length, blocks: header.blocks }, header.runs))
    }

    /// The lines of this file whose addresses have this hash. The error is that what it says can no longer be read.
    pub(super) fn find(&self, hash: u32) -> io::Result<Vec<LineStart>> {
        let mut found = Vec::new();
        // The first that have it may be at the end of the block before the first one that begins with it.
        let first = self.blocks.partition_point(|block| block.first < hash).saturating_sub(1);
        for (number, block) in self.blocks.iter().enumerate().skip(first).take_while(|(_, block)| block.first <= hash) {
            let before = number * BLOCK_ENTRIES;
            let length = (self.entries as usize).saturating_sub(before).min(BLOCK_ENTRIES) * ENTRY;
            let mut bytes = vec![0; length];
            self.file.read_exact_at(&mut bytes, u64::from(self.start) + (before * ENTRY) as u64)?;
            if digest_of(&bytes) != block.digest {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let entries = bytes.chunks_exact(ENTRY).filter_map(Entry::parse);
            found.extend(entries.filter(|entry| entry.hash == hash).map(|entry| entry.at));
        }
        Ok(found)
    }
}

/// An error if others could have written it than root and the owner of the file that it is of.
fn distrust(index: &Metadata, of: &Metadata) -> Result<(), Unused> {
    if !index.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if index.uid() != 0 && index.uid() != of.uid() {
        let user = index.uid();
        return Err(format!("it belongs to user {user}, who is neither root nor the owner of the file that it is of"));
    }
    // With an ACL the bits of the group are its mask (acl(5)).
    if index.mode() & 0o022 != 0 {
        return Err("others than its owner can write it".to_owned());
    }
    Ok(())
}

/// What is in front of the blocks.
struct Header {
    /// The size of the file, in bytes.
    size: u64,
    fingerprint: Fingerprint,
    key: Key,
    entries: u32,
    runs: Vec<Run>,
    blocks: Vec<Block>,
}

/// The length of the header that begins so, in bytes; `None` if it is not one of ours.
fn header_length(begin: &[u8; BEGIN]) -> Option<u32> {
    let mut begin = Bytes(begin);
    let is_ours = begin.take(MAGIC.len())? == MAGIC && begin.u64()? == this_program();
    begin.u32().filter(|_| is_ours)
}

impl Header {
    /// Reads one; `None` if it is not as [`Header::encode`] left it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (bytes, of_it) = bytes.split_last_chunk::<DIGEST>()?;
        let mut bytes = Bytes(bytes.get(BEGIN..).filter(|_| digest_of(bytes) == *of_it)?);
        let size = bytes.u64()?;
        let fingerprint = bytes.take(size_of::<Fingerprint>())?.try_into().ok()?;
        let key = Key::of(bytes.take(BLOCK)?.try_into().ok()?);
        let entries = bytes.u32()?;
        let runs = (0..bytes.u32()?).map(|_| Run::parse(&mut bytes)).collect::<Option<_>>()?;
        let blocks = (0..(entries as usize).div_ceil(BLOCK_ENTRIES)).map(|_| {
            let first = bytes.u32()?;
            Some(Block { first, digest: bytes.take(DIGEST)?.try_into().ok()? })
        });
        let blocks = blocks.collect::<Option<_>>()?;
        bytes.0.is_empty().then_some(Self { size, fingerprint, key, entries, runs, blocks })
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        text.extend(self.size.to_le_bytes());
        text.extend(self.fingerprint);
        text.extend(self.key.bytes());
        text.extend(self.entries.to_le_bytes());
        text.extend(u32::try_from(self.runs.len()).ok()?.to_le_bytes());
        self.runs.iter().try_for_each(|run| run.encode(&mut text))?;
        for block in &self.blocks {
            text.extend(block.first.to_le_bytes());
            text.extend(block.digest);
        }
        let mut header = MAGIC.to_vec();
        header.extend(this_program().to_le_bytes());
        header.extend(u32::try_from(BEGIN + text.len() + DIGEST).ok()?.to_le_bytes());
        header.extend(text);
        header.extend(digest_of(&header));
        Some(header)
    }
}

impl Run {
    fn parse(bytes: &mut Bytes<'_>) -> Option<Self> {
        let first = LineStart { number: bytes.u32()?, offset: bytes.u32()? };
        let (end, lines) = (bytes.u32()?, bytes.u32()?);
        let groups = (0..bytes.u32()?).map(|_| Some(bytes.piece()?.to_owned())).collect::<Option<_>>()?;
        Some(Self { first, end, lines, groups, before: bytes.piece()?.to_owned(), after: bytes.piece()?.to_owned() })
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Option<()> {
        let groups = u32::try_from(self.groups.len()).ok()?;
        for number in [self.first.number, self.first.offset, self.end, self.lines, groups] {
            bytes.extend(number.to_le_bytes());
        }
        self.groups.iter().chain([&self.before, &self.after]).for_each(|piece| put(bytes, piece));
        Some(())
    }
}

impl Entry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        Some(Self { hash: bytes.u32()?, at: LineStart { number: bytes.u32()?, offset: bytes.u32()? } })
    }

    fn encode(self) -> impl Iterator<Item = u8> {
        [self.hash, self.at.number, self.at.offset].into_iter().flat_map(u32::to_le_bytes)
    }
}

fn digest_of(bytes: &[u8]) -> [u8; DIGEST] {
    let mut short = [0; DIGEST];
    short.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..DIGEST]);
    short
}

// Making.

/// Makes the index of a file while all of it is read.
#[derive(Debug)]
pub(super) struct Maker {
    key: Key,
    /// What the file was before it was read.
    fingerprint: Fingerprint,
    /// Those of all runs, in the order of their lines.
    entries: Vec<Entry>,
    runs: Vec<Run>,
    /// The run that goes on, and which of the entries is its first.
    run: Option<(Run, usize)>,
}

/// An index that was written.
#[derive(Debug)]
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    /// How large it is, in bytes.
    pub size: usize,
    /// How many rules it has.
    pub rules: usize,
}

impl Maker {
    /// One for this open file, which is then to be read.
    pub(super) fn new(source: &Source) -> io::Result<Self> {
        let key = Key::random().ok_or_else(|| io::Error::other("no random numbers"))?;
        let fingerprint = source.fingerprint(&key)?;
        Ok(Self { key, fingerprint, entries: Vec::new(), runs: Vec::new(), run: None })
    }

    /// Looks at the next line, which is taken in afterwards: `written` is where mail may be written so far.
    pub(super) fn look_at(&mut self, line: &[u8], at: LineStart, written: &Written) {
        let Some((group, address)) = plain::rule(line) else {
            match &mut self.run {
                Some((run, _)) if says_nothing(line) => run.lines = run.lines.saturating_add(1),
                _ => self.end_run(at.offset, written),
            }
            return;
        };
        let (run, _) = self.run.get_or_insert_with(|| {
            let (groups, before, after) = (Vec::new(), written.encode(), Vec::new());
            (Run { first: at, end: at.offset, lines: 0, groups, before, after }, self.entries.len())
        });
        run.lines = run.lines.saturating_add(1);
        if let Some(group) = group
            && run.groups.iter().all(|known| known != group)
        {
            run.groups.push(group.to_owned());
        }
        self.entries.push(Entry { hash: exact::hash(address), at });
    }

    /// Ends the run that goes on, if one does, where a line begins that is none of it.
    pub(super) fn end_run(&mut self, end: u32, written: &Written) {
        let Some((run, first)) = self.run.take() else { return };
        if self.entries.len() - first >= MIN_RULES && self.runs.len() < MAX_RUNS {
            self.runs.push(Run { end, after: written.encode(), ..run });
        } else {
            self.entries.truncate(first);
        }
    }

    /// Writes the index beside the file; `None` if it would say nothing, and then there is none any more. An error if the
    /// file is another than it was, or the index cannot be written.
    pub(super) fn write(mut self, file: &Path, source: &Source) -> io::Result<Option<Made>> {
        let Some(path) = beside(file) else { return Ok(None) };
        if self.runs.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            };
        }
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        if !source.is_as_opened()? || source.fingerprint(&self.key)? != self.fingerprint {
            return Err(io::Error::other(format!("{} was changed while it was read", file.display())));
        }
        self.entries.sort_unstable();
        let entries: Vec<u8> = self.entries.iter().flat_map(|entry| entry.encode()).collect();
        let blocks = self.entries.chunks(BLOCK_ENTRIES).zip(entries.chunks(BLOCK_ENTRIES * ENTRY));
        let blocks =
            blocks.map(|(entries, bytes)| Block { first: entries[0].hash, digest: digest_of(bytes) }).collect();
        let count = u32::try_from(self.entries.len()).map_err(|_| too_large())?;
        let Self { key, fingerprint, runs, .. } = self;
        let metadata = source.metadata()?;
        let header = Header { size: metadata.len(), fingerprint, key, entries: count, runs, blocks };
        let mut bytes = header.encode().ok_or_else(too_large)?;
        bytes.extend(entries);
        replace(&path, &bytes, &metadata)?;
        Ok(Some(Made { path, size: bytes.len(), rules: self.entries.len() }))
    }
}

/// Puts these bytes in the place of a file in one step. Whoever can read the file that it is beside, and has this metadata,
/// can read it, and nobody else.
fn replace(path: &Path, bytes: &[u8], beside: &Metadata) -> io::Result<()> {
    if !geteuid().is_root() && geteuid().as_raw() != beside.uid() {
        return Err(io::Error::other(
            "sessions believe only what root wrote, or the owner of the file that it is beside",
        ));
    }
    let mut new = tempfile::Builder::new()
        .prefix(&path.file_name().unwrap_or_default())
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(files::directory_of(path))?;
    let is_of_its_group = fchown(new.as_file(), Some(beside.uid()), Some(beside.gid())).is_ok();
    let readers = beside.mode() & if is_of_its_group { 0o444 } else { 0o404 };
    new.as_file().set_permissions(Permissions::from_mode(0o200 | readers))?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}

/// Whether a line is empty or a comment, whatever the environment is.
fn says_nothing(line: &[u8]) -> bool {
    matches!(line.iter().find(|byte| !matches!(byte, b' ' | b'\t')), None | Some(b'#'))
}

/// What an index is known by that this program has made: the version of it, what decides which lines are plain and what
/// becomes of them, and how an address is hashed, for which another version of that hash, or an order of bytes, counts too.
fn this_program() -> u64 {
    SOURCES ^ u64::from(exact::hash(b"postmaster@localhost"))
}

/// Made of the sources themselves: who changes one of them need not think of the indexes that are there.
const SOURCES: u64 = {
    let mut hash = FNV_BASIS;
    hash = fnv(hash, env!("CARGO_PKG_VERSION").as_bytes());
    hash = fnv(hash, include_bytes!("bytes.rs"));
    hash = fnv(hash, include_bytes!("exact.rs"));
    hash = fnv(hash, include_bytes!("fingerprint.rs"));
    hash = fnv(hash, include_bytes!("index.rs"));
    hash = fnv(hash, include_bytes!("needs.rs"));
    fnv(hash, include_bytes!("plain.rs"))
};

/// The hash FNV-1a, which can be made while the program is compiled.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    hash
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

const MAGIC: &[u8; 16] = b"mailrecv index\r\n";

/// The length of the magic text, of who made it, and of the length of the header.
const BEGIN: usize = MAGIC.len() + 8 + 4;

/// The length of an entry.
const ENTRY: usize = 12;

/// How many entries are read at a time.
const BLOCK_ENTRIES: usize = 256;

/// The length of what a block or a header is known by: what is damaged is meant to be noticed, not what is forged.
const DIGEST: usize = 16;

/// Fewer rules in a row are sooner read.
const MIN_RULES: usize = 16;

/// What is behind so many runs is read line by line.
const MAX_RUNS: usize = 256;

const DAMAGED: &str = "it is damaged";
const OF_ANOTHER_VERSION: &str = "it is none, or was made by another version of mailrecv";
