//! Opening what a path leads to, where others may be able to change what is on its way.
//!
//! Who can write to a folder can put something else in the place of a name between two looks at it. So no name is looked
//! at twice: the folders on the way are held open, each found in the one before it, a symbolic link is judged by the
//! descriptor that it is read from, and the last name is opened in the folder that the way led to and never followed
//! (path_resolution(7), openat(2)).

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{self, AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{geteuid, syncfs};

/// Opens a file, or makes it with this mode if the flags say so. Symbolic links on the way are followed only if they are
/// root's or ours.
pub(crate) fn open(path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    match open_without_links(path, flags, mode) {
        Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => Entry::find(path)?.open(flags, mode),
        opened => Ok(opened?.into()),
    }
}

/// Opens a folder: with O_PATH, so that names can be used in it; with O_RDONLY, so that it can be synced too.
pub(crate) fn open_folder(path: &Path, access: OFlag) -> io::Result<File> {
    open(path, access | OFlag::O_DIRECTORY, Mode::empty())
}

/// The same for a folder in one that is open; `at` is where that is, for messages.
pub(crate) fn open_folder_in(folder: impl AsFd, at: &Path, name: &str, access: OFlag) -> io::Result<File> {
    let flags = access | OFlag::O_DIRECTORY;
    match openat(&folder, OsStr::new(name), flags | OFlag::O_NOFOLLOW, Mode::empty()) {
        // A symbolic link is no folder, either.
        Err(Errno::ENOTDIR) => {
            let folder = folder.as_fd().try_clone_to_owned()?;
            Walk::new(folder, at, Path::new(name)).go()?.open(flags, Mode::empty())
        }
        opened => Ok(opened?.into()),
    }
}

/// A name in an open folder: where a path leads once the symbolic links on its way have been followed.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Held by O_PATH: names can be used in it.
    folder: OwnedFd,
    /// The path of the folder, for messages.
    at: PathBuf,
    name: OsString,
    /// What has this name, held by O_PATH; `None` if nothing has.
    found: Option<File>,
    /// O_NOFOLLOW, but for a name that is the kernel's own.
    follows: OFlag,
}

impl Entry {
    /// Walks to the last name of the path. An error if a folder on the way is missing, or a symbolic link, also under the
    /// last name, is neither root's nor ours: somebody else's could lead anywhere.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        let ends_in_name =
            path.file_name().filter(|name| path.as_os_str().as_encoded_bytes().ends_with(name.as_encoded_bytes()));
        if let Some(name) = ends_in_name {
            let above = directory_of(path);
            match open_without_links(above, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
                Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {}
                folder => return Walk::new(folder?, above, Path::new(name)).go(),
            }
        }
        let here = openat(AT_FDCWD, OsStr::new("."), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        Walk::new(here, Path::new(""), path).go()
    }

    /// Whether the name is that of something that a process has open, in /proc.
    pub(crate) fn is_of_a_process(&self) -> bool {
        self.follows.is_empty()
    }

    /// What has the name, or had when it was found. It cannot be read or written by this descriptor.
    pub(crate) fn found(&self) -> Option<&File> {
        self.found.as_ref()
    }

    /// The same, to keep.
    pub(crate) fn into_found(self) -> Option<File> {
        self.found
    }

    /// The folder that holds the name. It cannot be read by this descriptor.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The same, to keep.
    pub(crate) fn into_folder(self) -> OwnedFd {
        self.folder
    }

    /// The path of that folder, for people.
    pub(crate) fn at(&self) -> &Path {
        if self.at.as_os_str().is_empty() { Path::new(".") } else { &self.at }
    }

    /// The last name of the path.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens what has the name now, or makes a file with this mode if the flags say so. An error if it has become a
    /// symbolic link.
    pub(crate) fn open(&self, flags: OFlag, mode: Mode) -> io::Result<File> {
        Ok(openat(&self.folder, &self.name, flags | self.follows, mode)?.into())
    }

    /// Makes the name of this file, or folder, durable. A folder that we may pass through but not read cannot be synced by
    /// itself; then all of its file system is.
    pub(crate) fn sync_name(&self, file: &File) -> io::Result<()> {
        match sync_folder(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(syncfs(file)?),
            synced => synced,
        }
    }
}

/// On the way along a path.
struct Walk {
    /// Where we are, held by O_PATH.
    folder: OwnedFd,
    /// The same, for messages.
    at: PathBuf,
    /// What is still to go, the next name last.
    way: Vec<OsString>,
    links: usize,
}

impl Walk {
    fn new(folder: OwnedFd, at: &Path, path: &Path) -> Self {
        let mut walk = Self { folder, at: at.to_owned(), way: Vec::new(), links: 0 };
        walk.go_on_along(path);
        walk
    }

    fn go_on_along(&mut self, path: &Path) {
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            // What stands before it has to be a folder.
            self.way.push(".".into());
        }
        self.way.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
    }

    /// Goes to the last name.
    fn go(mut self) -> io::Result<Entry> {
        while let Some(name) = self.way.pop() {
            if name == Component::RootDir.as_os_str() {
                self.folder = openat(AT_FDCWD, &name, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
                self.at = PathBuf::from(name);
                continue;
            }
            let found = match openat(&self.folder, &name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
                Err(Errno::ENOENT) if self.way.is_empty() => None,
                found => Some(File::from(found?)),
            };
            let mut follows = OFlag::O_NOFOLLOW;
            let found = match found {
                Some(link) if link.metadata()?.is_symlink() => {
                    self.judge(&link, &name)?;
                    if fstatfs(&link)?.filesystem_type() != PROC_SUPER_MAGIC {
                        let target = readlinkat(&link, "")?;
                        self.go_on_along(Path::new(&target));
                        continue;
                    }
                    // What /proc/self/fd leads to may have no name at all, and nobody can put a link there.
                    follows = OFlag::empty();
                    Some(openat(&self.folder, &name, OFlag::O_PATH, Mode::empty())?.into())
                }
                found => found,
            };
            match found {
                Some(folder) if !self.way.is_empty() => {
                    self.folder = folder.into();
                    self.at.push(name);
                }
                found => return Ok(Entry { folder: self.folder, at: self.at, name, found, follows }),
            }
        }
        // The path is the root.
        Ok(Entry { folder: self.folder, at: self.at, name: ".".into(), found: None, follows: OFlag::O_NOFOLLOW })
    }

    /// An error if the link is neither root's nor ours.
    fn judge(&mut self, link: &File, name: &OsStr) -> io::Result<()> {
        let owner = link.metadata()?.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "{} is a symbolic link of user {owner}, who is neither root nor the user we run as",
                self.at.join(name).display(),
            )));
        }
        self.links += 1;
        if self.links > MAX_LINKS { Err(Errno::ELOOP.into()) } else { Ok(()) }
    }
}

/// Makes a folder in another, for nobody but us, if nothing has its name.
pub(crate) fn make_folder(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(folder, name, Mode::S_IRWXU) {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made?),
    }
}

/// Makes the names in a folder durable, which may be held by O_PATH.
pub(crate) fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    File::from(openat(folder, OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?).sync_all()
}

/// Whether a file system has no such thing as syncing a folder, which is not to fail at it: CIFS, vboxsf, some of FUSE
/// (fsync(2)). EROFS is none of these: ext4 says so when it has given up after an error of the disk.
pub(crate) fn cannot_sync_folders(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::EBADF | Errno::EOPNOTSUPP))
}

/// Device and inode: what makes a file the same file, whatever its names.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What of a folder lets others than us write to it, who could make mail vanish there, for people.
pub(crate) fn open_to_others(folder: &Metadata) -> Option<&'static str> {
    if is_others(folder) {
        Some("it belongs to another user, who could make mail vanish")
    } else if folder.mode() & 0o022 != 0 {
        Some("others can write to it, and could make mail vanish (chmod 700)")
    } else {
        None
    }
}

/// Whether it belongs to somebody who is neither root nor us.
pub(crate) fn is_others(metadata: &Metadata) -> bool {
    metadata.uid() != 0 && metadata.uid() != geteuid().as_raw()
}

/// Whether a pipe or socket is our standard input or output, by whatever name: /dev/stdout, say. In a session that is the
/// connection to the peer.
pub(crate) fn is_standard(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    let is_same = |stat: FileStat| (stat.st_dev, stat.st_ino) == identity(metadata);
    (kind.is_fifo() || kind.is_socket())
        && (fstat(io::stdin()).is_ok_and(is_same) || fstat(io::stdout()).is_ok_and(is_same))
}

/// A file system's size and what of it is free, in bytes.
pub(crate) struct Room {
    pub(crate) size: u64,
    /// To those who are not root.
    pub(crate) free: u64,
}

/// The system's folder for temporary files (environ(7)); an empty TMPDIR names none.
pub(crate) fn temporary_folder() -> PathBuf {
    let folder = std::env::temp_dir();
    if folder.as_os_str().is_empty() { PathBuf::from("/tmp") } else { folder }
}

/// How much room there is on the file system of this path (statvfs(3)).
pub(crate) fn room(path: &Path) -> io::Result<Room> {
    let stat = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Room { size: bytes(stat.blocks()), free: bytes(stat.blocks_available()) })
}

/// A file of the system (passwd(5), hosts(5)) as text. What matters in it is ASCII; people's names and comments may be in an
/// encoding of old, and are no reason to do without the rest.
pub(crate) fn read_text(path: &str) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The folder that holds the name of a file.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens a name in a folder.
pub(crate) fn openat(folder: impl AsFd, name: &OsStr, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    loop {
        match fcntl::openat(folder.as_fd(), name, flags | OFlag::O_CLOEXEC, mode) {
            Err(Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// Locks the whole of a file for this process, however many descriptors it has for it, unless another one has (fcntl(2)).
pub(crate) fn lock_as_process(file: &File) -> nix::Result<()> {
    set_process_lock(file, libc::F_WRLCK)
}

/// Gives up that lock.
pub(crate) fn unlock_as_process(file: &File) -> nix::Result<()> {
    set_process_lock(file, libc::F_UNLCK)
}

/// Locks one octet of a file, there or not, for this process, unless another one has.
pub(crate) fn lock_byte(file: &File, at: u64) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(libc::F_WRLCK, at, 1))).map(drop)
}

/// The same, and waits for whoever has it, who must not have it for long.
pub(crate) fn wait_for_byte(file: &File, at: u64) -> nix::Result<()> {
    loop {
        match fcntl::fcntl(file, fcntl::FcntlArg::F_SETLKW(&range(libc::F_WRLCK, at, 1))) {
            Err(Errno::EINTR) => {}
            locked => return locked.map(drop),
        }
    }
}

/// Gives up that lock.
pub(crate) fn unlock_byte(file: &File, at: u64) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(libc::F_UNLCK, at, 1))).map(drop)
}

fn set_process_lock(file: &File, kind: libc::c_int) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(kind, 0, 0))).map(drop)
}

/// So many octets of a file from here on; none stands for all.
#[expect(clippy::cast_possible_truncation, reason = "`struct flock` has another type for these constants of one digit")]
fn range(kind: libc::c_int, start: u64, length: i64) -> libc::flock {
    let l_whence = libc::SEEK_SET as libc::c_short;
    let l_start = start.cast_signed();
    libc::flock { l_type: kind as libc::c_short, l_whence, l_start, l_len: length, l_pid: 0 }
}

/// The short way, for a path without any symbolic link. ELOOP if there is one; ENOSYS or EPERM if the kernel, or the
/// filter of a unit, does not know the call.
fn open_without_links(path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        match openat2(AT_FDCWD, path, how) {
            Err(Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// As many as Linux follows (path_resolution(7)).
pub(crate) const MAX_LINKS: usize = 40;
