//! `maildir DIR`: one file a message (maildir(5)).
//!
//! A message is written and synced in `tmp`, where readers do not look, and stays there until [`Maildirs::publish`]
//! renames it into `new`. If it is dropped before [`Maildirs::commit`], it is removed. What a crash leaves in `tmp` is
//! removed by readers.
//!
//! The folders are opened once and kept open, so that nobody can lead a message elsewhere by replacing one of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use super::record::Place;
use super::{Context, failure, sync_folder, tolerate_unsynced};
use crate::files::{self, Entry, make_folder, openat};
use crate::log::{Event, Log};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// The messages that wait to become visible.
pub(super) struct Maildirs<'a> {
    context: &'a Context<'a>,
    messages: Vec<Waiting<'a>>,
}

/// A message of this transaction, in `tmp` or `new`.
struct Waiting<'a> {
    context: &'a Context<'a>,
    maildir: Maildir<'a>,
    /// Where the file is now; unless it is delivered, it is removed when this value is dropped.
    place: Where,
    name_in_tmp: String,
    name_in_new: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Tmp,
    New,
    /// In `new`, and it stays there.
    Delivered,
}

/// The open folders of a maildir.
struct Maildir<'a> {
    path: &'a Path,
    folder: File,
    tmp: File,
    new: File,
}

impl<'a> Maildirs<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, messages: Vec::new() }
    }

    /// Writes a copy to stable storage; returns where it will be.
    pub(super) fn add(
        &mut self,
        directory: &'a str,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> Result<Place, Reply> {
        let number = self.messages.len();
        let directory = Path::new(directory);
        let message = self
            .write(directory, number, copy, spool)
            .map_err(|error| failure(&error, &format!("writing into {}", directory.display())))?;
        let place = Place::File { name: message.name_in_new.clone(), before: message.name_in_tmp.clone() };
        self.messages.push(message);
        Ok(place)
    }

    fn write(
        &self,
        directory: &'a Path,
        number: usize,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> io::Result<Waiting<'a>> {
        let context = self.context;
        let maildir = Maildir::open(context.log, directory)?;
        let (mut file, prefix, name_in_tmp) = create(&maildir.tmp, number)?;
        let mut waiting = Waiting { context, maildir, place: Where::Tmp, name_in_tmp, name_in_new: String::new() };
        context.log.event(&Event::WritingFile(&waiting.path()));
        for_each_piece(copy.reader(spool)?, |text| file.write_all(text))?;
        file.sync_all()?;
        let metadata = file.metadata()?;
        let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.len());
        waiting.name_in_new = format!("{prefix}V{device:016x}I{inode:016x}_{number}.{},S={size}", host_name());
        waiting.maildir.rehearse_rename(&waiting.name_in_new)?;
        Ok(waiting)
    }

    /// Whether there are no messages.
    pub(super) fn are_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes all messages visible. If this is dropped before [`Maildirs::commit`], they are removed again.
    pub(super) fn publish(&mut self) -> Result<(), Reply> {
        for message in &mut self.messages {
            let directory = message.maildir.path;
            message.publish().map_err(|error| failure(&error, &format!("delivering into {}", directory.display())))?;
        }
        Ok(())
    }

    /// Keeps all messages.
    pub(super) fn commit(mut self) {
        self.messages.iter_mut().for_each(|message| message.place = Where::Delivered);
        for message in &self.messages {
            self.context.log.event(&Event::FileDelivered(&message.path()));
        }
    }
}

/// Whether a message of this name is in the maildir: in `new`, or in `cur` with anything added to its name; that is
/// durable then. If it is not, its file `before` in `tmp` is removed.
pub(super) fn has(log: &Log, directory: &Path, name: &str, before: &str) -> io::Result<bool> {
    let Some(folder) = if_there(files::open_folder(directory, OFlag::O_PATH))? else { return Ok(false) };
    if let Some(new) = if_there(files::open_folder_in(&folder, directory, "new", OFlag::O_PATH))?
        && files::has_name(&new, name)?
    {
        sync_folder(log, &new, &directory.join("new"))?;
        return Ok(true);
    }
    if let Some(cur) = if_there(files::open_folder_in(&folder, directory, "cur", OFlag::O_RDONLY))? {
        for entry in rustix::fs::Dir::read_from(&cur)? {
            let entry = entry?;
            let rest = entry.file_name().to_bytes().strip_prefix(name.as_bytes());
            // Behind `:` are flags, and behind `,` a size that some readers add.
            if matches!(rest, Some([] | [b':' | b',', ..])) {
                sync_folder(log, &cur, &directory.join("cur"))?;
                return Ok(true);
            }
        }
    }
    if let Some(tmp) = if_there(files::open_folder_in(&folder, directory, "tmp", OFlag::O_PATH))? {
        // If this fails, a reader removes it later.
        let _ = unlinkat(&tmp, before, UnlinkatFlags::NoRemoveDir);
    }
    Ok(false)
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if is_missing(&error) => Ok(None),
        found => found.map(Some),
    }
}

impl Waiting<'_> {
    fn publish(&mut self) -> io::Result<()> {
        let Self { maildir, name_in_tmp, name_in_new, .. } = self;
        match renameat(&maildir.tmp, name_in_tmp.as_str(), &maildir.new, name_in_new.as_str()) {
            Err(Errno::ENOENT) => {
                // `new` may have been removed.
                maildir.new = open_new(self.context.log, &maildir.folder, maildir.path)?;
                renameat(&maildir.tmp, name_in_tmp.as_str(), &maildir.new, name_in_new.as_str())?;
            }
            renamed => renamed?,
        }
        self.place = Where::New;
        tolerate_unsynced(self.context.log, &self.maildir.path.join("new"), self.maildir.new.sync_all())
    }

    fn path(&self) -> PathBuf {
        match self.place {
            Where::Tmp => self.maildir.path.join("tmp").join(&self.name_in_tmp),
            Where::New | Where::Delivered => self.maildir.path.join("new").join(&self.name_in_new),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (folder, name) = match self.place {
            Where::Tmp => (&self.maildir.tmp, &self.name_in_tmp),
            // A reader may already have moved it.
            Where::New => (&self.maildir.new, &self.name_in_new),
            Where::Delivered => return,
        };
        let removed = unlinkat(folder, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(io::Error::from);
        let path = self.path();
        if let Err(error) = removed.and_then(|()| sync_folder(self.context.log, folder, files::directory_of(&path))) {
            self.context.not_taken_back(&path, &error);
        }
    }
}

impl<'a> Maildir<'a> {
    /// Opens the folders and makes missing ones. Everything that could make the rename fail is tried now, while all can
    /// still be taken back.
    fn open(log: &Log, path: &'a Path) -> io::Result<Self> {
        let open = || {
            let folder = files::open_folder(path, OFlag::O_PATH)?;
            let tmp = files::open_folder_in(&folder, path, "tmp", OFlag::O_PATH)?;
            Ok((folder, tmp))
        };
        let (folder, tmp) = match open() {
            Err(error) if is_missing(&error) => {
                make_folders(log, path)?;
                open()?
            }
            opened => opened?,
        };
        let new = open_new(log, &folder, path)?;
        Ok(Self { path, folder, tmp, new })
    }

    /// Tries whether a file could be renamed from `tmp` to `new`, with a name that does not exist. Linux reports
    /// different file systems or mounts, or one that is read-only, before it reports the missing file (rename(2)).
    fn rehearse_rename(&self, no_such_file: &str) -> io::Result<()> {
        match renameat(&self.tmp, no_such_file, &self.new, no_such_file) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes a new file in `tmp`; also returns the beginning of its final name, `SECONDS.MmicrosecondsPpid`, and its name
/// in `tmp`.
fn create(tmp: &File, number: usize) -> io::Result<(File, String, String)> {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{}.M{:06}P{}", now.as_secs(), now.subsec_micros(), std::process::id());
        let name = format!("{prefix}_{number}.{}", host_name());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        match openat(tmp, OsStr::new(&name), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            // The clock was set back to a time that was used before; it will go on.
            Err(Errno::EEXIST) => {}
            created => return Ok((created?.into(), prefix, name)),
        }
    }
}

/// Opens `new`, which is made if it is missing, and checks that it can be written to.
fn open_new(log: &Log, folder: &File, path: &Path) -> io::Result<File> {
    let open = || files::open_folder_in(folder, path, "new", OFlag::O_RDONLY);
    let new = match open() {
        Err(error) if is_missing(&error) => {
            make_folder(folder, OsStr::new("new"))?;
            sync_folder(log, folder, path)?;
            open()?
        }
        opened => opened?,
    };
    faccessat(&new, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::empty())?;
    Ok(new)
}

/// Makes what is missing of the maildir, for our user alone. `tmp` is made last, when the other folders are durable: so
/// a maildir that has a `tmp` is complete, even if somebody was interrupted while making it.
fn make_folders(log: &Log, path: &Path) -> io::Result<()> {
    let maildir = Entry::find(path.components().as_path())?;
    make_folder(maildir.folder(), maildir.name())?;
    let folder = files::open_folder(path, OFlag::O_PATH)?;
    make_folder(&folder, OsStr::new("new"))?;
    make_folder(&folder, OsStr::new("cur"))?;
    sync_folder(log, &folder, path)?;
    sync_folder(log, maildir.folder(), maildir.at())?;
    make_folder(&folder, OsStr::new("tmp"))?;
    sync_folder(log, &folder, path)
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// This machine's name, in which the two characters that file names of messages cannot have are escaped as maildir(5)
/// says.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().replace('/', "\\057").replace(':', "\\072")
}
