//! The system log: a daemon such as rsyslogd or journald that listens at a well-known Unix socket (syslog(3)).
//!
//! The socket is usually a datagram socket, and may be a stream. In both cases a daemon that does not read must not
//! hold up a write. A daemon that was restarted has a new socket under the old name, which is found for the next line.
//! (Landlock does not keep a session from connecting to a Unix socket with a path.)

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use syslog::{Facility, Formatter3164, LogFormat};

use super::outlet::{LinePatience, Outlet};
use super::{IDENTITY, Severity};

/// The log daemon, connected or not.
pub(super) struct SystemLog {
    formatter: Formatter3164,
    connection: Option<Connection>,
}

struct Connection {
    outlet: Outlet,
    is_stream: bool,
}

impl SystemLog {
    /// Not connected yet.
    pub(super) fn new() -> Self {
        let formatter = Formatter3164 {
            facility: Facility::LOG_MAIL,
            hostname: None,
            process: IDENTITY.to_owned(),
            pid: std::process::id(),
        };
        Self { formatter, connection: None }
    }

    /// Connects. An error means that nobody listens; a daemon that is only too busy to accept is no error.
    pub(super) fn connect(&mut self) -> io::Result<()> {
        match Connection::open() {
            Ok(connection) => self.connection = Some(connection),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes a line, and connects again if needed.
    pub(super) fn write(&mut self, severity: Severity, text: &str, patience: &LinePatience<'_>) -> io::Result<()> {
        let mut message = Vec::new();
        let formatted = match severity {
            Severity::Error => self.formatter.err(&mut message, text),
            Severity::Warning => self.formatter.warning(&mut message, text),
            Severity::Info => self.formatter.info(&mut message, text),
        };
        formatted.map_err(io::Error::other)?;
        if let Some(connection) = &mut self.connection {
            let result = connection.send(&message, patience);
            // On a stream the next message would be taken for the rest of this one.
            let is_torn = connection.outlet.is_torn();
            let has_left = result.as_ref().is_err_and(has_left);
            if is_torn || has_left {
                self.connection = None;
            }
            if !has_left {
                return result;
            }
        }
        self.connection.insert(Connection::open()?).send(&message, patience)
    }
}

impl Connection {
    /// Connects to the first place where somebody listens. EAGAIN means that a stream socket has no room for another
    /// connection.
    fn open() -> nix::Result<Self> {
        let mut result = Err(Errno::ENOENT);
        for path in PLACES {
            result = Self::to(path);
            if !matches!(result, Err(Errno::ENOENT)) {
                break;
            }
        }
        result
    }

    fn to(path: &str) -> nix::Result<Self> {
        let address = UnixAddr::new(path)?;
        let connected = |kind| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Unix, kind, flags, None)?;
            connect(socket.as_raw_fd(), &address)?;
            Ok(Self { outlet: Outlet::socket(socket), is_stream: kind == SockType::Stream })
        };
        match connected(SockType::Datagram) {
            Err(Errno::EPROTOTYPE) => connected(SockType::Stream),
            result => result,
        }
    }

    /// Sends a message; on a stream it is ended by NUL.
    fn send(&mut self, message: &[u8], patience: &LinePatience<'_>) -> io::Result<()> {
        match self.is_stream {
            true => self.outlet.write_line(&[message, b"\0"].concat(), patience),
            false => self.outlet.write_line(message, patience),
        }
    }
}

/// Whether the daemon that we were connected to has closed its socket.
fn has_left(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected)
}

/// Where log daemons listen.
const PLACES: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
