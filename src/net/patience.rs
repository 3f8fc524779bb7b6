//! Waiting for others: until a deadline, or until we are asked to stop. Nothing here blocks but poll(2).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::conn::{Woken, wait};
use crate::signals::Signals;

/// How long something is waited for, and what ends the waiting besides.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'p> {
    /// Until when.
    pub(crate) until: Instant,
    /// Where a request to stop is told, if that is to end it.
    pub(crate) signals: Option<&'p Signals>,
}

impl Patience<'_> {
    /// The same, but no longer than that.
    pub(crate) fn at_most(self, time: Duration) -> Self {
        Self { until: self.until.min(Instant::now() + time), ..self }
    }

    /// Whether its time is over.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.until
    }

    /// Whether it has ended because we were asked to stop, and is not to begin again.
    pub(crate) fn is_stopped(self) -> bool {
        self.signals.is_some_and(Signals::stop_requested)
    }

    /// Waits until this is possible. [`ErrorKind::Interrupted`] when we are asked to stop, [`ErrorKind::TimedOut`] when the
    /// time is over.
    pub(crate) fn wait_for(self, descriptor: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        loop {
            if self.is_stopped() {
                return Err(stopped());
            }
            if self.is_over() {
                // It may have come while we did something else.
                let mut descriptors = [PollFd::new(descriptor, events)];
                return match poll(&mut descriptors, PollTimeout::ZERO) {
                    Ok(1..) => Ok(()),
                    _ => Err(too_late()),
                };
            }
            match wait(descriptor, events, self.signals, self.until) {
                Ok(Woken::Ready) => return Ok(()),
                Ok(Woken::Signal | Woken::Nothing) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Connects to a server at this address; what comes of it does not block.
pub(crate) fn connect_tcp(address: &SocketAddr, patience: Patience<'_>) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SOCKET_FLAGS, None)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => patience.wait_for(socket.as_fd(), PollFlags::POLLOUT)?,
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.take_error()?.map_or(Ok(()), Err)?;
    // What is said is small, and waited for.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// We were asked to stop.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(ErrorKind::Interrupted, "we were asked to stop")
}

/// The time is over.
pub(crate) fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

/// What all sockets are.
pub(crate) const SOCKET_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
