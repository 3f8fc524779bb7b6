//! Waiting until a deadline, or until we are asked to stop. Only poll(2) blocks here.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::signals::Signals;
use crate::wait::{Woken, wait};

/// How long to wait, and what else ends the wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'p> {
    /// The deadline.
    pub(crate) until: Instant,
    /// Tells when we are asked to stop; `None` if that does not end the wait.
    pub(crate) signals: Option<&'p Signals>,
}

impl Patience<'_> {
    /// The same, but no longer than `time` from now.
    pub(crate) fn at_most(self, time: Duration) -> Self {
        Self { until: self.until.min(Instant::now() + time), ..self }
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.until
    }

    /// Whether we are asked to stop, and that ends every wait.
    pub(crate) fn is_stopped(self) -> bool {
        self.signals.is_some_and(Signals::stop_requested)
    }

    /// Waits until the descriptor is ready. The error is [`ErrorKind::Interrupted`] if we are asked to stop, and
    /// [`ErrorKind::TimedOut`] if the deadline has passed.
    pub(crate) fn wait_for(self, descriptor: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        loop {
            if self.is_stopped() {
                return Err(stopped());
            }
            if self.is_over() {
                // The descriptor may have become ready while we did something else.
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

/// Connects to a server; the stream does not block.
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
    // Messages are short and the server waits for them, so Nagle's algorithm is turned off.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The error after a request to stop.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(ErrorKind::Interrupted, "we were asked to stop")
}

/// The error after the deadline.
pub(crate) fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

/// The flags of all sockets for clients.
pub(crate) const SOCKET_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
