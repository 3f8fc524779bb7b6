//! Writes lines without being held up by a reader that does not read.
//!
//! A FIFO, pipe, terminal or socket is full when its reader hangs. A write must then wait no longer than allowed
//! ([`LinePatience`]). It must not disturb others who share the descriptor either: O_NONBLOCK belongs to the open file
//! description, and that of standard error is shared with whoever started us.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, send};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::signals::Signals;
use crate::wait::{PIPE_BUF, Pauses, Woken, wait};

/// A descriptor that lines are written to.
pub(crate) struct Outlet {
    file: File,
    way: Way,
    /// Whether the last line was cut off; then the next one begins with a line end.
    is_torn: bool,
}

/// How a write is kept from blocking.
#[derive(Clone, Copy)]
enum Way {
    /// O_NONBLOCK is set on a description of our own, or it is a regular file, which never blocks.
    Write,
    /// It is a socket, where each call can ask not to block (send(2), MSG_DONTWAIT).
    Send,
    /// The description is shared, so poll(2) is asked first. A pipe that is ready takes [`PIPE_BUF`] octets, unless
    /// somebody else has just filled it. This is used only if there is no better way.
    Ask,
}

/// How long a line may wait for its reader.
pub(crate) enum LinePatience<'a> {
    /// No longer than is left of the time for all lines together.
    Budget(&'a Cell<Duration>),
    /// Until this moment, or until we are asked to stop.
    Until(Instant, &'a Signals),
}

impl Outlet {
    /// A file, opened with O_NONBLOCK.
    pub(super) fn file(file: File) -> Self {
        Self { file, way: Way::Write, is_torn: false }
    }

    /// A socket.
    pub(super) fn socket(socket: OwnedFd) -> Self {
        Self { file: File::from(socket), way: Way::Send, is_torn: false }
    }

    /// Standard error.
    pub(super) fn stderr() -> io::Result<Self> {
        Self::shared(io::stderr().as_fd().try_clone_to_owned()?)
    }

    /// The descriptor with this number, which we have inherited. A file, a pipe or a terminal is opened again: for
    /// appending, in a description of our own, which commands do not inherit.
    pub(crate) fn inherited(number: RawFd) -> io::Result<Self> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        match OpenOptions::new().append(true).custom_flags(flags).open(format!("/proc/self/fd/{number}")) {
            Ok(own) => Ok(Self::file(own)),
            // A socket cannot be opened again; the kernel gives out its description once more.
            Err(_) => {
                let ourselves = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
                Self::shared(rustix::process::pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty())?)
            }
        }
    }

    /// The same outlet, for lines that do not continue the last one.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, way: self.way, is_torn: false })
    }

    /// A descriptor that others write to as well.
    fn shared(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let kind = file.metadata()?.file_type();
        let way = if kind.is_socket() {
            Way::Send
        } else if kind.is_file() {
            Way::Write
        } else {
            // Opens the same pipe or terminal again in a description of our own. That fails if another user made the
            // pipe.
            let own = OpenOptions::new()
                .write(true)
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
            match own {
                Ok(own) => return Ok(Self::file(own)),
                Err(_) => Way::Ask,
            }
        };
        Ok(Self { file, way, is_torn: false })
    }

    /// The underlying file.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Whether the last line was cut off.
    pub(crate) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Writes a line with its end, in one piece if there is room for it (a pipe has room for all of [`PIPE_BUF`] octets
    /// or for none, pipe(7)). It is an error of the system, or there was no room in time.
    pub(crate) fn write_line(&mut self, line: &[u8], patience: &LinePatience<'_>) -> io::Result<()> {
        let with_line_end = if self.is_torn { [b"\n", line].concat() } else { Vec::new() };
        let line = if self.is_torn { &with_line_end } else { line };
        let mut rest = line;
        while !rest.is_empty() {
            let result = match self.write(rest) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    rest = &rest[length..];
                    Ok(())
                }
                Err(Errno::EINTR) => Ok(()),
                Err(Errno::EAGAIN) => patience.wait(self.file.as_fd()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                self.is_torn |= rest.len() < line.len();
                return Err(error);
            }
        }
        self.is_torn = false;
        Ok(())
    }

    /// Writes what can be written without waiting.
    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.way {
            Way::Write => nix::unistd::write(&self.file, bytes),
            Way::Send => send(self.file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Way::Ask => match wait_for_room(self.file.as_fd(), Instant::now(), None) {
                Ok(()) => nix::unistd::write(&self.file, &bytes[..bytes.len().min(PIPE_BUF)]),
                Err(_) => Err(Errno::EAGAIN),
            },
        }
    }
}

impl LinePatience<'_> {
    /// Waits until there is room; an error if there is none in time.
    fn wait(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            LinePatience::Budget(left) if left.get().is_zero() => Err(nobody_reads()),
            LinePatience::Budget(left) => {
                let start = Instant::now();
                let result = wait_for_room(descriptor, start + left.get(), None);
                left.set(left.get().saturating_sub(start.elapsed()));
                result
            }
            LinePatience::Until(until, signals) => wait_for_room(descriptor, *until, Some(signals)),
        }
    }
}

/// Waits until a write would not block, until this moment or until the signals ask us to stop.
fn wait_for_room(descriptor: BorrowedFd<'_>, until: Instant, signals: Option<&Signals>) -> io::Result<()> {
    loop {
        if signals.is_some_and(Signals::stop_requested) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "we are asked to stop"));
        }
        match wait(descriptor, PollFlags::POLLOUT, signals, until)? {
            Woken::Ready => return Ok(()),
            Woken::Nothing if Instant::now() >= until => return Err(nobody_reads()),
            Woken::Signal | Woken::Nothing => {}
        }
    }
}

/// Waits for a turn that other processes also take, until this moment or until we are asked to stop.
pub(crate) fn wait_for_turn(
    until: Instant,
    signals: &Signals,
    mut try_to_take: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    let mut pauses = Pauses::until(until, signals);
    while !try_to_take()? {
        let given_up = |_| io::Error::new(io::ErrorKind::TimedOut, "others do not come to an end");
        pauses.pause().map_err(given_up)?;
    }
    Ok(())
}

fn nobody_reads() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")
}
