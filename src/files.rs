//! What opening and keeping files has to mind, wherever they are.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{self, AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::unistd::syncfs;

/// Opens a file, or makes it with this mode if the flags say so. Symbolic links on the way are followed only if they are
/// root's or ours.
pub(crate) fn open(path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC;
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    loop {
        let without_links = OpenHow::new().flags(flags).mode(mode).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let opened = match openat2(AT_FDCWD, path, without_links) {
            // There is a link; or an old kernel, or the filter of a unit, does not know this call.
            Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {
                refuse_foreign_links(path)?;
                fcntl::open(path, flags, mode)
            }
            opened => opened,
        };
        match opened {
            Err(Errno::EINTR) => {}
            opened => return Ok(opened?.into()),
        }
    }
}

/// An error if a symbolic link on the way to the file is neither root's nor ours: somebody else's could lead anywhere.
/// What cannot be looked at leads nowhere, as opening it will tell.
pub(crate) fn refuse_foreign_links(path: &Path) -> io::Result<()> {
    let mut way: Vec<_> = reversed_components(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(component) = way.pop() {
        at.push(component);
        let Some(link) = std::fs::symlink_metadata(&at).ok().filter(Metadata::is_symlink) else { continue };
        if link.uid() != 0 && link.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "{} is a symbolic link of user {}, who is neither root nor the user we run as",
                at.display(),
                link.uid()
            )));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        way.extend(reversed_components(&std::fs::read_link(&at)?));
        at.pop();
    }
    Ok(())
}

fn reversed_components(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|component| component.as_os_str().to_owned()).collect()
}

/// As many as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Makes the names in a folder durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes the file's name durable. A folder that we may pass through but not read cannot be synced by itself; then all of
/// its file system is.
pub(crate) fn sync_name(file: &File, path: &Path) -> io::Result<()> {
    match sync_directory(directory_of(&path.canonicalize()?)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(syncfs(file)?),
        synced => synced,
    }
}

/// The folder that holds the name of a file.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
