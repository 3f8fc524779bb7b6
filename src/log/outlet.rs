//! Where lines are written, without being held up by whoever does not read them.
//!
//! A FIFO, a pipe, a terminal or a socket is full when its reader hangs. Then a write must not wait for longer than
//! somebody allows ([`Patience`]), and it must not be our doing that the writes of others who share the descriptor fail:
//! O_NONBLOCK belongs to the open file description, which standard error has in common with who started us.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, send};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::signals::Signals;
use crate::wait::{PIPE_BUF, is_ready, timeout};

/// A descriptor that lines are written to.
pub(crate) struct Outlet {
    file: File,
    way: Way,
    /// Whether the last line broke off: the next one begins with a line end, so that it is a line.
    is_torn: bool,
}

/// How a write is kept from blocking.
#[derive(Clone, Copy)]
enum Way {
    /// The description is ours and has O_NONBLOCK, or it is a regular file's, which nobody has to read.
    Write,
    /// It is a socket: each call can say so (send(2), MSG_DONTWAIT).
    Send,
    /// It is others' too, and poll(2) is asked first. What is ready takes [`PIPE_BUF`] octets, unless somebody else has
    /// just filled it; so this is for where there is no other way.
    Ask,
}

/// How long a line may wait for its reader.
pub(crate) enum Patience<'a> {
    /// What is left of the time for all lines together.
    Budget(&'a Cell<Duration>),
    /// Until then, or until we are asked to stop.
    Until(Instant, &'a Signals),
}

impl Outlet {
    /// A file that was opened with O_NONBLOCK.
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

    /// What we have inherited under this number: a file at its end, a pipe or a terminal in a description of our own, which
    /// commands do not inherit from us.
    pub(crate) fn inherited(number: RawFd) -> io::Result<Self> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        match OpenOptions::new().append(true).custom_flags(flags).open(format!("/proc/self/fd/{number}")) {
            Ok(own) => Ok(Self::file(own)),
            // A socket has none but the one that it was made with; the kernel hands that out again.
            Err(_) => {
                let ourselves = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
                Self::shared(rustix::process::pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty())?)
            }
        }
    }

    /// The same one, for lines that have nothing to do with those before.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, way: self.way, is_torn: false })
    }

    /// What others write to as well.
    fn shared(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let kind = file.metadata()?.file_type();
        let way = if kind.is_socket() {
            Way::Send
        } else if kind.is_file() {
            Way::Write
        } else {
            // The same pipe or terminal in a description of our own. A pipe that another user made does not allow it.
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

    /// What it is, to whoever wants to know more of it.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Whether the last line broke off.
    pub(crate) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Writes a line with its end, in one piece if there is room for it (pipe(7) has room for [`PIPE_BUF`] octets or for
    /// none). An error is that of the system, or that nobody made room in time.
    pub(crate) fn write_line(&mut self, line: &[u8], patience: &Patience<'_>) -> io::Result<()> {
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

    /// Writes what can be written now.
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

impl Patience<'_> {
    /// Waits until there is room; an error if there is none in time.
    fn wait(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Patience::Budget(left) if left.get().is_zero() => Err(nobody_reads()),
            Patience::Budget(left) => {
                let start = Instant::now();
                let result = wait_for_room(descriptor, start + left.get(), None);
                left.set(left.get().saturating_sub(start.elapsed()));
                result
            }
            Patience::Until(until, signals) => wait_for_room(descriptor, *until, Some(signals)),
        }
    }
}

/// Waits until a write would not block, until this moment or until the signals ask us to stop.
fn wait_for_room(descriptor: BorrowedFd<'_>, until: Instant, signals: Option<&Signals>) -> io::Result<()> {
    loop {
        if signals.is_some_and(Signals::stop_requested) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "we are asked to stop"));
        }
        let mut descriptors = vec![PollFd::new(descriptor, PollFlags::POLLOUT)];
        descriptors.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut descriptors, timeout(until)) {
            Ok(0) if Instant::now() >= until => return Err(nobody_reads()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if is_ready(&descriptors[0]) {
            return Ok(());
        }
        if let Some(signals) = signals {
            signals.clear();
        }
    }
}

/// Waits for a turn that others take, too: until there is one, until this moment or until the signals ask us to stop.
pub(crate) fn wait_for_turn(
    until: Instant,
    signals: &Signals,
    mut try_to_take: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    while !try_to_take()? {
        if signals.stop_requested() || Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "others do not come to an end"));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

fn nobody_reads() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")
}
