//! The connection to the peer: standard input and output, plain or under TLS, with deadlines in both directions.
//!
//! Nothing here blocks without a deadline, and after a request to stop little time is left for the rest. Nothing else
//! in the program writes to these descriptors. Replies are collected until there is no more input, so that pipelined
//! commands are answered with one `write`; the caller limits how many are collected.

use std::io::{self, Read, Stdin, Stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, send, setsockopt, shutdown, sockopt};
use rustix::net::sockopt::set_tcp_quickack;

use super::tls::{Acceptor, Tls, TlsParameters};
use crate::files;
use crate::signals::Signals;
use crate::wait::{PIPE_BUF, Woken, wait};

/// Buffered input and output of one connection.
pub(crate) struct Connection<'s> {
    input: Stdin,
    output: Stdout,
    output_is_socket: bool,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether the last read filled the buffer, so that there may be more input.
    last_read_was_full: bool,
    replies: Vec<u8>,
    /// The state of TLS, once it has begun.
    tls: Option<Tls>,
    /// Tells when we are asked to stop.
    signals: Option<&'s Signals>,
    /// When everything has to be written after a request to stop.
    last_moment: Option<Instant>,
}

/// What waiting for input led to.
#[derive(Debug)]
pub(crate) enum Input {
    /// There is more in the buffer.
    More,
    /// The peer will send nothing more.
    End,
    /// The deadline passed.
    TimedOut,
    /// We have been asked to stop.
    Stop,
    /// The peer is gone, or takes no replies.
    Gone(io::Error),
}

impl<'s> Connection<'s> {
    /// Takes over standard input and output.
    pub(crate) fn standard_io() -> Self {
        let output = io::stdout();
        let output_is_socket = files::is_socket(output.as_fd());
        Self {
            input: io::stdin(),
            output,
            output_is_socket,
            buffer: vec![0; COMMAND_BUFFER],
            start: 0,
            end: 0,
            last_read_was_full: false,
            replies: Vec::new(),
            tls: None,
            signals: None,
            last_moment: None,
        }
    }

    /// Turns off Nagle's algorithm (TCP_NODELAY, tcp(7)), which makes a second write wait until the peer has confirmed
    /// the first. On anything but TCP this does nothing.
    pub(crate) fn send_at_once(&self) {
        let _ = setsockopt(&self.output, sockopt::TcpNoDelay, &true);
    }

    /// The same connection, whose waiting ends when these signals arrive.
    pub(crate) fn stopped_by(self, signals: &'s Signals) -> Self {
        Self { signals: Some(signals), ..self }
    }

    /// The input that has come and is not consumed yet.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Removes bytes from the buffered input.
    pub(crate) fn consume(&mut self, length: usize) {
        self.start += length;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether no unused input has come. Input that comes later was sent later, unless it was on its way.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let has_tls_input = self.tls.as_mut().is_some_and(Tls::has_input);
        let asked = wait(self.input.as_fd(), PollFlags::POLLIN, None, Instant::now());
        self.buffered().is_empty() && !has_tls_input && !matches!(asked, Ok(Woken::Ready) | Err(_))
    }

    /// The queue of replies, which the next [`Connection::fill`] or [`Connection::flush`] writes.
    pub(crate) fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Writes the replies out and waits for more input.
    pub(crate) fn fill(&mut self, until: Instant) -> Input {
        if let Err(error) = self.flush(until) {
            return Input::Gone(error);
        }
        self.make_room();
        loop {
            // The last TLS record may have held more than the buffer had room for, which poll(2) does not know.
            let mut read = self.decrypted();
            if would_block(&read) {
                if let Err(other) = self.await_input(until) {
                    return other;
                }
                read = self.read();
            }
            match read {
                Ok(0) => return Input::End,
                Ok(length) => {
                    self.end += length;
                    self.last_read_was_full = self.end == self.buffer.len();
                    return Input::More;
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.gone(error, until),
            }
            // TLS records without text may need an answer too.
            if let Err(error) = self.flush(until) {
                return Input::Gone(error);
            }
        }
    }

    /// Begins TLS as the server and does the handshake, until this moment at most. Buffered input is taken as the
    /// beginning of the handshake, never as something said under TLS. After an error the connection can only be hung
    /// up.
    pub(crate) fn start_tls(&mut self, acceptor: Acceptor, until: Instant) -> Result<(), Input> {
        self.flush(until).map_err(Input::Gone)?;
        // The handshake ends with two short writes; the second must not wait until the first is confirmed (Nagle).
        self.send_at_once();
        self.tls = Some(Tls::new(acceptor).map_err(Input::Gone)?);
        let begun = self.buffered().to_vec();
        let mut begun = begun.as_slice();
        (self.start, self.end) = (0, 0);
        loop {
            self.flush(until).map_err(Input::Gone)?;
            match &mut self.tls {
                Some(tls) if tls.is_handshaking() => {}
                _ => break,
            }
            if begun.is_empty() {
                self.await_input(until)?;
            }
            let Some(tls) = &mut self.tls else { break };
            let received = match begun.is_empty() {
                true => tls.receive(Descriptor(self.input.as_fd())),
                false => tls.receive(&mut begun),
            };
            match received {
                Ok(0) => return Err(Input::End),
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(self.gone(error, until)),
            }
        }
        // Many peers send their next command only when their last packet is confirmed (Nagle), and we have nothing to
        // send that would confirm it.
        let _ = set_tcp_quickack(&self.output, true);
        Ok(())
    }

    /// The parameters of TLS, once the handshake is done.
    pub(crate) fn tls_parameters(&self) -> Option<TlsParameters> {
        self.tls.as_ref().filter(|tls| !tls.is_handshaking()).map(Tls::parameters)
    }

    /// Waits until there is something to read; anything else that ends the wait is the error.
    fn await_input(&self, until: Instant) -> Result<(), Input> {
        loop {
            if self.signals.is_some_and(Signals::stop_requested) {
                return Err(Input::Stop);
            }
            // Checked before poll(2), which would not notice the deadline while a peer keeps sending.
            if Instant::now() >= until {
                return Err(Input::TimedOut);
            }
            match wait(self.input.as_fd(), PollFlags::POLLIN, self.signals, until) {
                Ok(Woken::Ready) => return Ok(()),
                Ok(Woken::Signal | Woken::Nothing) => {}
                Err(error) => return Err(Input::Gone(error.into())),
            }
        }
    }

    /// Reads input that has come, without waiting.
    fn read(&mut self) -> io::Result<usize> {
        let mut descriptor = Descriptor(self.input.as_fd());
        match &mut self.tls {
            None => descriptor.read(&mut self.buffer[self.end..]),
            Some(tls) => {
                tls.receive(descriptor)?;
                self.decrypted()
            }
        }
    }

    /// Takes decrypted input that did not fit into the buffer before.
    fn decrypted(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(tls) => tls.plaintext(&mut self.buffer[self.end..]),
        }
    }

    /// Nothing more can be read, for this reason. TLS may have an alert for the peer, which is sent.
    fn gone(&mut self, error: io::Error, until: Instant) -> Input {
        let _ = self.flush(until);
        Input::Gone(error)
    }

    /// Sends the last replies and closes the connection. Input is read and thrown away for a moment: closing a socket
    /// with unread input resets the connection, and the peer might never see our last reply.
    pub(crate) fn hang_up(&mut self, until: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.close_behind(&self.replies)?;
            self.replies.clear();
        }
        self.flush(until)?;
        if !self.output_is_socket || shutdown(self.output.as_raw_fd(), Shutdown::Write).is_err() {
            return Ok(());
        }
        let mut patience = Duration::ZERO;
        for _ in 0..MAX_DISCARDED_READS {
            let until = self.deadline(until).min(Instant::now() + patience);
            match wait(self.input.as_fd(), PollFlags::POLLIN, self.signals, until) {
                Ok(Woken::Ready) => {}
                Ok(Woken::Signal) => continue,
                Ok(Woken::Nothing) | Err(_) => break,
            }
            if !matches!(nix::unistd::read(&self.input, &mut self.buffer), Ok(1..)) {
                break;
            }
            // A peer that is still sending may have more on the way.
            patience = Duration::from_secs(1);
        }
        Ok(())
    }

    /// The deadline, or an earlier one if we have been asked to stop.
    fn deadline(&mut self, until: Instant) -> Instant {
        if !self.signals.is_some_and(Signals::stop_requested) {
            return until;
        }
        until.min(*self.last_moment.get_or_insert_with(|| Instant::now() + STOP_PATIENCE))
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.last_read_was_full {
            self.buffer.resize(DATA_BUFFER, 0);
        }
    }

    /// Writes the queued replies. After an error the connection is of no more use.
    pub(crate) fn flush(&mut self, until: Instant) -> io::Result<()> {
        let mut outgoing = std::mem::take(&mut self.replies);
        if let Some(tls) = &mut self.tls {
            outgoing = tls.seal(&outgoing)?;
        }
        let mut written = 0;
        let result = loop {
            let rest = &outgoing[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match self.write(rest) {
                Ok(length) => written += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let until = self.deadline(until);
                    match wait(self.output.as_fd(), PollFlags::POLLOUT, self.signals, until) {
                        Ok(_) if Instant::now() >= until => {
                            break Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read our replies"));
                        }
                        Ok(_) => {}
                        Err(error) => break Err(error.into()),
                    }
                }
                Err(error) => break Err(error.into()),
            }
        };
        outgoing.clear();
        self.replies = outgoing;
        result
    }

    /// Writes what can be written without waiting. A terminal or pipe is polled first and gets no more than it is sure
    /// to take.
    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        if self.output_is_socket {
            return send(self.output.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
        match wait(self.output.as_fd(), PollFlags::POLLOUT, None, Instant::now()) {
            Ok(Woken::Ready) => nix::unistd::write(&self.output, &bytes[..bytes.len().min(PIPE_BUF)]),
            _ => Err(Errno::EAGAIN),
        }
    }
}

/// Reads a descriptor without a buffer.
struct Descriptor<'d>(BorrowedFd<'d>);

impl Read for Descriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(self.0, buffer)?)
    }
}

fn would_block<T>(read: &io::Result<T>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether trying again may succeed.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The size of the input buffer: enough for several commands, or a small message.
const COMMAND_BUFFER: usize = 4 * 1024;

/// Its size once a peer has sent more than that at a time, so that large messages are read quickly.
const DATA_BUFFER: usize = 64 * 1024;

/// How many pieces of input are thrown away when a connection is closed.
const MAX_DISCARDED_READS: usize = 1024;

/// How long a peer is waited for once we have been asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
