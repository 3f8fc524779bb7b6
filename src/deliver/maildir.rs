//! `maildir DIR`: one file a message (maildir(5)).
//!
//! A message is written and synced in `tmp`, where readers do not look, and stays there until [`Maildirs::commit`]
//! renames it into `new`. Dropped before that, it is removed. What a crash leaves in `tmp` is the reader's to remove.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::unistd::{AccessFlags, access};

use super::{Context, failure};
use crate::files::{directory_of, refuse_foreign_links, sync_directory};
use crate::log::Event;
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// The messages that wait to become visible.
pub(super) struct Maildirs<'a> {
    context: &'a Context<'a>,
    messages: Vec<Waiting<'a>>,
}

/// A message in `tmp` that has a place in `new`.
struct Waiting<'a> {
    directory: &'a Path,
    /// Where it is now; removed when this value is dropped, unless it is to stay.
    path: PathBuf,
    name: String,
    /// The folder that it is meant for.
    new: File,
    stays: bool,
}

impl<'a> Maildirs<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, messages: Vec::new() }
    }

    /// Writes one recipient's copy to stable storage.
    pub(super) fn add(&mut self, directory: &'a str, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        let number = self.messages.len();
        let directory = Path::new(directory);
        let message = self
            .write(directory, number, copy, spool)
            .map_err(|error| failure(&error, &format!("writing into {}", directory.display())))?;
        self.messages.push(message);
        Ok(())
    }

    fn write(
        &self,
        directory: &'a Path,
        number: usize,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> io::Result<Waiting<'a>> {
        for path in [directory.join("tmp"), directory.join("new")] {
            refuse_foreign_links(&path)?;
        }
        let (path, mut file, prefix) = match create(directory, number) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folders(directory)?;
                create(directory, number)?
            }
            created => created?,
        };
        self.context.log.event(&Event::WritingFile(&path));
        // What could stand in the way later is looked for now, while everything can still be taken back.
        let new = open_new(directory).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        let mut waiting = Waiting { directory, path, name: String::new(), new, stays: false };
        for_each_piece(copy.reader(spool)?, |text| file.write_all(text))?;
        file.sync_all()?;
        let metadata = file.metadata()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        waiting.name = format!("{prefix}V{device:016x}I{inode:016x}_{number}.{},S={}", host_name(), metadata.len());
        Ok(waiting)
    }

    /// Makes all messages visible, or none: those that already are become invisible again if one cannot.
    pub(super) fn commit(mut self) -> Result<(), Reply> {
        for message in &mut self.messages {
            let directory = message.directory;
            message.publish().map_err(|error| failure(&error, &format!("delivering into {}", directory.display())))?;
            self.context.log.event(&Event::FileDelivered(&message.path));
        }
        self.messages.iter_mut().for_each(|message| message.stays = true);
        Ok(())
    }
}

impl Waiting<'_> {
    fn publish(&mut self) -> io::Result<()> {
        let path = self.directory.join("new").join(&self.name);
        match std::fs::rename(&self.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.new = open_new(self.directory)?;
                std::fs::rename(&self.path, &path)?;
            }
            renamed => renamed?,
        }
        self.path = path;
        self.new.sync_all()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.stays {
            // Readers do not look into `tmp`; if the file is in `new` already, one of them may have been faster.
            let _ = std::fs::remove_file(&self.path);
            let _ = sync_directory(directory_of(&self.path));
        }
    }
}

/// Opens a new file in `tmp`; with it the beginning of its final name, `SECONDS.MmicrosecondsPpid`.
fn create(directory: &Path, number: usize) -> io::Result<(PathBuf, File, String)> {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{}.M{:06}P{}", now.as_secs(), now.subsec_micros(), std::process::id());
        let path = directory.join("tmp").join(format!("{prefix}_{number}.{}", host_name()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            // The clock went back to where it was before; it will not stay there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return Ok((path, created?, prefix)),
        }
    }
}

/// Opens `new`, which is made if it is missing and can be written.
fn open_new(directory: &Path) -> io::Result<File> {
    let path = directory.join("new");
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&path);
    let new = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(directory)?;
            open()?
        }
        opened => opened?,
    };
    access(&path, AccessFlags::W_OK | AccessFlags::X_OK)?;
    Ok(new)
}

/// Makes what is missing of the maildir, for nobody but us. `tmp` is made last, when the others' names are durable: a
/// maildir with a `tmp` is a whole one, whoever was interrupted while making it.
fn make_folders(directory: &Path) -> io::Result<()> {
    let make = |folder: &Path| match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    make(directory)?;
    make(&directory.join("new"))?;
    make(&directory.join("cur"))?;
    sync_directory(directory)?;
    sync_directory(directory_of(directory))?;
    make(&directory.join("tmp"))?;
    sync_directory(directory)
}

/// This machine's name, with the two characters that names of messages cannot have written as maildir(5) wants.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().replace('/', "\\057").replace(':', "\\072")
}
