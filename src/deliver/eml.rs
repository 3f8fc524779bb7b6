//! `eml DIR`: one file for each message, with a name that mail programs can open.
//!
//! A message is written and synced under a name that begins with a dot, which nobody reads, and gets its final name
//! when everything else is prepared. If it is dropped before [`Files::commit`], it is removed. What a crash leaves
//! under such a name stays there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::record::Place;
use super::{Context, failure, sync_folder, tolerate_unsynced};
use crate::files::{self, Entry, make_folder, openat};
use crate::log::{Event, Log};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// The messages of this transaction.
pub(super) struct Files<'a> {
    context: &'a Context<'a>,
    messages: Vec<Waiting<'a>>,
}

/// A message in a file. The file is removed when this value is dropped, unless it is delivered.
struct Waiting<'a> {
    context: &'a Context<'a>,
    path: &'a Path,
    folder: File,
    /// The current name.
    name: String,
    /// The final name.
    name_for_good: String,
    is_delivered: bool,
}

impl<'a> Files<'a> {
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
        let directory = Path::new(directory);
        let message = self
            .write(directory, copy, spool)
            .map_err(|error| failure(&error, &format!("writing into {}", directory.display())))?;
        let place = Place::File { name: message.name_for_good.clone(), before: message.name.clone() };
        self.messages.push(message);
        Ok(place)
    }

    /// Writes a file with this content; its name begins and ends as given. Returns the path that it will have.
    pub(super) fn add_content(
        &mut self,
        directory: &'a Path,
        beginning: &str,
        end: &str,
        content: &[u8],
    ) -> Result<PathBuf, Reply> {
        let write = || {
            let folder = open_folder(self.context.log, directory)?;
            let name = free_name(&folder, beginning, end)?;
            let (waiting, mut file) = self.begin(directory, folder, name)?;
            file.write_all(content)?;
            file.sync_all()?;
            Ok(waiting)
        };
        let written: io::Result<Waiting<'a>> = write();
        let waiting = written.map_err(|error| failure(&error, &format!("writing into {}", directory.display())))?;
        let path = directory.join(&waiting.name_for_good);
        self.messages.push(waiting);
        Ok(path)
    }

    fn write(&self, path: &'a Path, copy: RecipientCopy<'_>, spool: &mut Spool) -> io::Result<Waiting<'a>> {
        let folder = open_folder(self.context.log, path)?;
        let name_for_good = free_name(&folder, copy.envelope.id, ".eml")?;
        let (waiting, mut file) = self.begin(path, folder, name_for_good)?;
        for_each_piece(copy.reader(spool)?, |text| file.write_all(text))?;
        file.sync_all()?;
        Ok(waiting)
    }

    fn begin(&self, path: &'a Path, folder: File, name_for_good: String) -> io::Result<(Waiting<'a>, File)> {
        let context = self.context;
        let name = format!(".{name_for_good}.new");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let file = File::from(openat(&folder, OsStr::new(&name), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let waiting = Waiting { context, path, folder, name, name_for_good, is_delivered: false };
        context.log.event(&Event::WritingFile(&waiting.path()));
        Ok((waiting, file))
    }

    /// Whether there are no messages.
    pub(super) fn are_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Gives all messages their final names. If this is dropped before [`Files::commit`], they are removed again.
    pub(super) fn publish(&mut self) -> Result<(), Reply> {
        for message in &mut self.messages {
            let path = message.path;
            message.publish().map_err(|error| failure(&error, &format!("delivering into {}", path.display())))?;
        }
        Ok(())
    }

    /// Keeps all messages.
    pub(super) fn commit(mut self) {
        self.messages.iter_mut().for_each(|message| message.is_delivered = true);
        for message in &self.messages {
            self.context.log.event(&Event::FileDelivered(&message.path()));
        }
    }
}

impl Waiting<'_> {
    fn publish(&mut self) -> io::Result<()> {
        renameat(&self.folder, self.name.as_str(), &self.folder, self.name_for_good.as_str())?;
        self.name.clone_from(&self.name_for_good);
        sync_folder(self.context.log, &self.folder, self.path)
    }

    fn path(&self) -> PathBuf {
        self.path.join(&self.name)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_delivered {
            return;
        }
        let removed = unlinkat(&self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(io::Error::from);
        if let Err(error) = removed.and_then(|()| sync_folder(self.context.log, &self.folder, self.path)) {
            self.context.not_taken_back(&self.path(), &error);
        }
    }
}

/// Whether a message of this name is in the folder; that is durable then. If it is not, its file `before` is removed.
pub(super) fn has(log: &Log, path: &Path, name: &str, before: &str) -> io::Result<bool> {
    let folder = match files::open_folder(path, OFlag::O_PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        folder => folder?,
    };
    let is_there = files::has_name(&folder, name)?;
    if is_there {
        sync_folder(log, &folder, path)?;
    } else {
        let _ = unlinkat(&folder, before, UnlinkatFlags::NoRemoveDir);
    }
    Ok(is_there)
}

/// Makes the folder if it is missing, and checks that files can be made in it.
pub(crate) fn try_folder(log: &Log, path: &Path) -> io::Result<()> {
    open_folder(log, path)?;
    tempfile::tempfile_in(path).map(drop)
}

/// Opens the folder, which is made if it is missing.
fn open_folder(log: &Log, path: &Path) -> io::Result<File> {
    let folder = match files::open_folder(path, OFlag::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let entry = Entry::find(path.components().as_path())?;
            make_folder(entry.folder(), entry.name())?;
            files::open_folder(path, OFlag::O_RDONLY)?
        }
        opened => opened?,
    };
    if is_empty(&folder)? {
        // Who made it may have been interrupted before its name was durable. One that has files has a durable name.
        let entry = Entry::find(path.components().as_path())?;
        tolerate_unsynced(log, entry.at(), entry.sync_name(&folder))?;
    }
    Ok(folder)
}

fn is_empty(folder: &File) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A name that no file has, with this beginning and end. A number is needed if LMTP delivers a message to several
/// recipients; otherwise the identifier in `beginning` is unique.
fn free_name(folder: &File, beginning: &str, end: &str) -> io::Result<String> {
    let mut name = format!("{beginning}{end}");
    for number in 2.. {
        if !files::has_name(folder, &name)? {
            break;
        }
        name = format!("{beginning}-{number}{end}");
    }
    Ok(name)
}
