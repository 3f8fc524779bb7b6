//! Opens paths safely, even if others can change something on the way.
//!
//! Somebody who can write to a folder can replace a name between two looks at it. So no name is looked at twice: the
//! folders on the way are kept open, and each is found in the one before it. The owner of a symbolic link is checked by
//! the descriptor from which the link is read. The last name is opened in the folder that the way led to, and is not
//! followed if it is a link (path_resolution(7), openat(2)).

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

/// Opens a file, or makes it with this mode if the flags say so. Symbolic links on the way are followed only if they
/// belong to root or to us.
pub(crate) fn open(path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    match open_without_links(path, flags, mode) {
        Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => Entry::find(path)?.open(flags, mode),
        opened => Ok(opened?.into()),
    }
}

/// Opens a folder: with O_PATH to use names in it, with O_RDONLY to sync it too.
pub(crate) fn open_folder(path: &Path, access: OFlag) -> io::Result<File> {
    open(path, access | OFlag::O_DIRECTORY, Mode::empty())
}

/// Opens a folder inside an open one; `at` is the path of the latter, for messages.
pub(crate) fn open_folder_in(folder: impl AsFd, at: &Path, name: &str, access: OFlag) -> io::Result<File> {
    let flags = access | OFlag::O_DIRECTORY;
    match openat(&folder, OsStr::new(name), flags | OFlag::O_NOFOLLOW, Mode::empty()) {
        // This is also the error for a symbolic link.
        Err(Errno::ENOTDIR) => {
            let folder = folder.as_fd().try_clone_to_owned()?;
            Walk::new(folder, at, Path::new(name)).go()?.open(flags, Mode::empty())
        }
        opened => Ok(opened?.into()),
    }
}

/// A name in an open folder: what a path leads to when the symbolic links on its way have been followed.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Opened with O_PATH, so that names in it can be used.
    folder: OwnedFd,
    /// The path of the folder, for messages.
    at: PathBuf,
    name: OsString,
    /// The file with this name, opened with O_PATH; `None` if there is none.
    found: Option<File>,
    /// O_NOFOLLOW, except for names that the kernel itself provides in /proc.
    follows: OFlag,
}

impl Entry {
    /// Follows the path up to its last name. It is an error if a folder is missing, or if a symbolic link, even as the
    /// last name, belongs to neither root nor us: it could lead anywhere.
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

    /// Whether the name is one in /proc that stands for something a process has open.
    pub(crate) fn is_of_a_process(&self) -> bool {
        self.follows.is_empty()
    }

    /// The file that had this name when it was found. It cannot be read or written by this descriptor.
    pub(crate) fn found(&self) -> Option<&File> {
        self.found.as_ref()
    }

    /// The same, as a value to keep.
    pub(crate) fn into_found(self) -> Option<File> {
        self.found
    }

    /// The folder with the name. It cannot be read by this descriptor.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The same, as a value to keep.
    pub(crate) fn into_folder(self) -> OwnedFd {
        self.folder
    }

    /// The path of that folder, for messages.
    pub(crate) fn at(&self) -> &Path {
        if self.at.as_os_str().is_empty() { Path::new(".") } else { &self.at }
    }

    /// The last name of the path.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file that has the name now, or makes one with this mode if the flags say so. It is an error if the
    /// name has become a symbolic link.
    pub(crate) fn open(&self, flags: OFlag, mode: Mode) -> io::Result<File> {
        Ok(openat(&self.folder, &self.name, flags | self.follows, mode)?.into())
    }

    /// Makes the name of this file or folder durable. If we may not read its folder, the folder cannot be synced by
    /// itself; then the whole file system is.
    pub(crate) fn sync_name(&self, file: &File) -> io::Result<()> {
        match sync_folder(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(syncfs(file)?),
            synced => synced,
        }
    }
}

/// The state while a path is followed.
struct Walk {
    /// The folder that was reached, opened with O_PATH.
    folder: OwnedFd,
    /// Its path, for messages.
    at: PathBuf,
    /// The remaining names in reverse order.
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
            // What comes before the slash has to be a folder.
            self.way.push(".".into());
        }
        self.way.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
    }

    /// Follows the remaining names up to the last.
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
                    // What /proc/self/fd leads to may have no name elsewhere, and nobody can replace these links.
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
        // The path is the root directory.
        Ok(Entry { folder: self.folder, at: self.at, name: ".".into(), found: None, follows: OFlag::O_NOFOLLOW })
    }

    /// Fails if the link belongs to neither root nor us, or if there are too many links.
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

/// Makes a folder inside another, for our user alone, unless the name is taken.
pub(crate) fn make_folder(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(folder, name, Mode::S_IRWXU) {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made?),
    }
}

/// Makes the names in a folder durable; the folder may be opened with O_PATH.
pub(crate) fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    File::from(openat(folder, OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?).sync_all()
}

/// Whether this error means that the file system cannot sync folders at all, as CIFS, vboxsf and some FUSE file systems
/// (fsync(2)). EROFS is not such an error: ext4 returns it after a disk error.
pub(crate) fn cannot_sync_folders(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::EBADF | Errno::EOPNOTSUPP))
}

/// Device and inode, which identify a file whatever its names.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Why others than us could write to a folder and make mail vanish there, in words for people; `None` if they cannot.
pub(crate) fn open_to_others(folder: &Metadata) -> Option<&'static str> {
    if is_others(folder) {
        Some("it belongs to another user, who could make mail vanish")
    } else if folder.mode() & 0o022 != 0 {
        Some("others can write to it, and could make mail vanish (chmod 700)")
    } else {
        None
    }
}

/// Opens a file in an open folder to read and write it. It is an error if others than us and root may touch it.
pub(crate) fn open_own(folder: &File, name: &str) -> io::Result<File> {
    let error = |what: &str| io::Error::other(format!("`{name}` in it {what}"));
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match openat(folder, OsStr::new(name), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Err(io::ErrorKind::NotFound.into()),
        Err(errno) => return Err(error(&format!("cannot be opened: {}", errno.desc()))),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        Err(error("is no file that is ours alone: it has another name, or is no ordinary one"))
    } else if is_others(&metadata) {
        Err(error("is no file that is ours alone: it belongs to another user"))
    } else if metadata.mode() & 0o077 != 0 {
        Err(error("is no file that is ours alone: others may read it (chmod 600)"))
    } else {
        Ok(file)
    }
}

/// The name of the table of `exactly_once` in its folder.
pub(crate) const RECORDS: &str = "records";

/// Whether a file belongs to neither root nor us.
pub(crate) fn is_others(metadata: &Metadata) -> bool {
    metadata.uid() != 0 && metadata.uid() != geteuid().as_raw()
}

/// Whether this is a socket; no, if that cannot be known.
pub(crate) fn is_socket(descriptor: impl AsFd) -> bool {
    fstat(descriptor).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK)
}

/// Whether a pipe or socket is our standard input or output, under any name such as /dev/stdout. In a session that is
/// the connection to the peer.
pub(crate) fn is_standard(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    let is_same = |stat: FileStat| (stat.st_dev, stat.st_ino) == identity(metadata);
    (kind.is_fifo() || kind.is_socket())
        && (fstat(io::stdin()).is_ok_and(is_same) || fstat(io::stdout()).is_ok_and(is_same))
}

/// The size of a file system and its free space, in bytes.
pub(crate) struct Room {
    pub(crate) size: u64,
    /// For users other than root.
    pub(crate) free: u64,
}

/// The system's folder for temporary files (environ(7)); an empty TMPDIR is ignored.
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

/// Reads a file of the system (passwd(5), hosts(5)). Everything that matters in it is ASCII; names and comments in
/// another encoding must not prevent that.
pub(crate) fn read_text(path: &str) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The folder that a file is in.
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

/// Whether a folder has this name; a symbolic link counts, wherever it leads.
pub(crate) fn has_name(folder: impl AsFd, name: &str) -> io::Result<bool> {
    match openat(folder, OsStr::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks a whole file for this process, through whichever descriptors, unless another process has locked it (fcntl(2)).
pub(crate) fn lock_as_process(file: &File) -> nix::Result<()> {
    set_process_lock(file, libc::F_WRLCK)
}

/// Releases that lock.
pub(crate) fn unlock_as_process(file: &File) -> nix::Result<()> {
    set_process_lock(file, libc::F_UNLCK)
}

/// Locks one octet of a file, which may be beyond its end, for this process, unless another process has locked it.
pub(crate) fn lock_byte(file: &File, at: u64) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(libc::F_WRLCK, at, 1))).map(drop)
}

/// Releases that lock.
pub(crate) fn unlock_byte(file: &File, at: u64) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(libc::F_UNLCK, at, 1))).map(drop)
}

fn set_process_lock(file: &File, kind: libc::c_int) -> nix::Result<()> {
    fcntl::fcntl(file, fcntl::FcntlArg::F_SETLK(&range(kind, 0, 0))).map(drop)
}

/// A range of octets in a file; length 0 stands for everything from `start` on.
#[expect(clippy::cast_possible_truncation, reason = "`struct flock` has another type for these constants of one digit")]
fn range(kind: libc::c_int, start: u64, length: i64) -> libc::flock {
    let l_whence = libc::SEEK_SET as libc::c_short;
    let l_start = start.cast_signed();
    libc::flock { l_type: kind as libc::c_short, l_whence, l_start, l_len: length, l_pid: 0 }
}

/// Opens a path in which no part is a symbolic link. The error is ELOOP if there is a link, and ENOSYS or EPERM if the
/// kernel, or a unit's filter, does not know the call.
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

/// The most symbolic links that are followed, as in Linux (path_resolution(7)).
pub(crate) const MAX_LINKS: usize = 40;
