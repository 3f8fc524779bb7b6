//! A listening Unix socket (unix(7)): made with the mode and group that the administrator wants, in place of one that
//! nobody uses any more, and removed at the end.
//!
//! If anything else has that name, be it a file, a symbolic link, or a socket in use, it is left alone.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::files;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// The mode of the socket file; write permission is needed to connect.
    pub mode: u32,
    /// The group of the file, if it should not be that of the process.
    pub group: Option<u32>,
}

/// A socket that we made. When this is dropped, the file is removed, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct OwnSocket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    identity: (u64, u64),
}

impl OwnSocket {
    pub(super) fn bind(path: &Path, access: SocketAccess) -> anyhow::Result<Self> {
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            bail!("the path of a socket has at most {LONGEST_PATH} bytes (unix(7)), and this one has {length}");
        }
        if is_left_behind(path)? {
            remove(path)?;
        }
        // umask(2) gives the file its mode from the first moment on.
        let before = umask(Mode::from_bits_truncate(!access.mode & 0o777));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound?;
        let own = Self { listener, path: path.to_owned(), identity: identity(path)? };
        if let Some(group) = access.group {
            lchown(path, None, Some(group)).context("giving the socket to its group")?;
        }
        own.listener.set_nonblocking(true)?;
        Ok(own)
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|metadata| files::identity(&metadata))
}

/// Whether there is a socket in which nobody listens. Anything else with that name is an error.
fn is_left_behind(path: &Path) -> anyhow::Result<bool> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        bail!("something that is no socket has this name: remove it, or choose another one");
    }
    // Non-blocking, because the listener's queue may be full.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Ok(()) | Err(Errno::EAGAIN) => bail!("somebody listens there already"),
        Err(error) => Err(error).context("finding out whether somebody listens there already"),
    }
}

/// Removes an unused socket, but not one that somebody has put in its place meanwhile.
fn remove(path: &Path) -> anyhow::Result<()> {
    let dead = identity(path)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    renameat_with(CWD, path, CWD, Path::new(&aside), RenameFlags::NOREPLACE)
        .context("removing the socket that was left there")?;
    if identity(Path::new(&aside))? != dead {
        // Puts the other socket back, unless its place is taken again.
        let _ = std::fs::hard_link(&aside, path);
        std::fs::remove_file(&aside)?;
        bail!("somebody else begins to listen there");
    }
    Ok(std::fs::remove_file(&aside)?)
}

/// The longest path in an address, without the zero behind it.
const LONGEST_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    const ACCESS: SocketAccess = SocketAccess { mode: 0o620, group: None };

    #[test]
    fn a_socket_is_there_as_long_as_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lmtp");
        let own = OwnSocket::bind(&path, ACCESS).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o620);
        let again = OwnSocket::bind(&path, ACCESS).unwrap_err();
        assert_eq!(again.to_string(), "somebody listens there already");
        assert!(UnixStream::connect(&path).is_ok());
        drop(own);
        assert!(!path.exists());
    }

    #[test]
    fn what_somebody_left_behind_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lmtp");
        drop(UnixListener::bind(&path).unwrap());
        let before = path.metadata().unwrap().ino();
        let own = OwnSocket::bind(&path, ACCESS).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        // What is not ours is not removed in the end.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, before.to_string()).unwrap();
        drop(own);
        assert!(path.exists());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        drop(UnixListener::bind(path("dead")).unwrap());
        symlink(path("dead"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        for name in ["file", "link", "dangling", "datagrams", ""] {
            let identity = |path: &Path| path.symlink_metadata().unwrap().ino();
            let before = identity(&path(name));
            assert!(OwnSocket::bind(&path(name), ACCESS).is_err(), "{name}");
            assert_eq!(identity(&path(name)), before, "{name}");
        }
        let long = path(&"x".repeat(108));
        let error = OwnSocket::bind(&long, ACCESS).unwrap_err().to_string();
        assert!(error.starts_with("the path of a socket has at most 107 bytes"), "{error}");
        assert!(OwnSocket::bind(&path("missing/lmtp"), ACCESS).is_err());
        // Where a socket that was left behind is put aside.
        let aside = path(&format!("dead.{}", std::process::id()));
        std::fs::write(&aside, "x").unwrap();
        assert!(OwnSocket::bind(&path("dead"), ACCESS).is_err());
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "x");
    }
}
