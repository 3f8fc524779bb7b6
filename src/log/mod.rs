//! The log: one line for each event, one write(2) for each line, the peer's address in every line.
//!
//! Programs act on these lines, so text from a peer must not look like anything else: it is in quotes, as
//! [`Untrusted`], with control characters, quotes and brackets written as `<0xNN>`. So the only bracketed address in a
//! line is the peer's.
//!
//! A log that nobody reads must not hold up mail: all lines of a session together wait for [`PATIENCE`]. Lines that are
//! not taken by then are counted, and the next line that is taken says how many they were.

mod event;
mod outlet;
mod print;
mod refusals;
mod system;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

pub use event::Event;
pub(crate) use event::{CommandEnd, said};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::syncfs;
pub(crate) use outlet::{LinePatience, Outlet, wait_for_turn};
pub use print::Line;
use print::Reader;
pub(crate) use print::{NEW, Printer};
pub use refusals::Refusals;
use system::SystemLog;

use crate::config::{Flags, LogTarget};
use crate::date;
use crate::files;
use crate::untrusted::Untrusted;

/// The log of one connection.
pub struct Log {
    target: LogTarget,
    flags: Flags,
    loghex: bool,
    /// The peer's address, or a word in its place.
    peer: String,
    /// The account that the peer has logged in to; somebody we know is not banned for a refusal.
    user: RefCell<Option<String>>,
    /// Whether lines may go to standard error if there is no system log.
    stderr_is_ours: bool,
    /// Opened for the first line: most sessions with scanners, and many with mail servers, write none.
    sink: RefCell<Sink>,
    /// How much longer lines may wait for the reader of the log.
    patience: Cell<Duration>,
    /// How many lines were lost since the last one that was written.
    lost: Cell<u64>,
    /// The lines that are written only once.
    said_once: RefCell<Vec<String>>,
}

enum Sink {
    Closed,
    File(LogFile),
    Stderr(Outlet, Reader),
    System(SystemLog),
}

struct LogFile {
    outlet: Outlet,
    /// Whether the file was empty when it was opened: then its name may be new and not durable.
    was_empty: bool,
}

impl Log {
    /// A log to this target about this peer; nothing is opened yet.
    pub fn new(target: LogTarget, flags: Flags, loghex: bool, peer: String) -> Self {
        Self {
            target,
            flags,
            loghex,
            peer,
            user: RefCell::default(),
            stderr_is_ours: true,
            sink: RefCell::new(Sink::Closed),
            patience: Cell::new(PATIENCE),
            lost: Cell::new(0),
            said_once: RefCell::default(),
        }
    }

    /// The peer has logged in as this user.
    pub fn authenticated(&self, user: &str) {
        *self.user.borrow_mut() = Some(user.to_owned());
    }

    /// TLS has begun, so the account that the peer has logged in to before is forgotten.
    pub fn secured(&self) {
        *self.user.borrow_mut() = None;
    }

    /// Whether lines of this kind are wanted.
    pub fn wants(&self, flag: Flags) -> bool {
        self.flags.has(flag)
    }

    /// The same log, which never falls back to standard error.
    pub fn without_stderr(mut self) -> Self {
        self.stderr_is_ours = false;
        self
    }

    /// Whether the last line went to standard error.
    pub fn is_on_stderr(&self) -> bool {
        matches!(*self.sink.borrow(), Sink::Stderr(..))
    }

    /// The same log, which never waits: a line that is not taken at once is lost.
    pub fn without_waiting(self) -> Self {
        self.patience.set(Duration::ZERO);
        self
    }

    /// Logs an event, if its line is wanted.
    pub fn event(&self, event: &Event<'_>) {
        if event.is_wanted(self.flags) {
            self.write_or_count(&self.peer, event);
        }
    }

    /// Logs an event, if its line is wanted and was not written before.
    pub fn event_once(&self, event: &Event<'_>) {
        if event.is_wanted(self.flags) {
            let line = event.text(self).to_string();
            if !self.said_once.borrow().contains(&line) {
                self.write_or_count(&self.peer, event);
                self.said_once.borrow_mut().push(line);
            }
        }
    }

    /// Logs an event about this peer, whatever the flags, and closes the log. `listen` uses this, because it runs
    /// longer than log files and log daemons stay in place.
    pub fn event_about(&self, peer: &str, event: &Event<'_>) {
        self.write_or_count(peer, event);
        *self.sink.borrow_mut() = Sink::Closed;
    }

    /// Text from a peer, in the form for this log.
    pub fn untrusted<'t>(&self, bytes: &'t [u8]) -> Untrusted<'t> {
        let text = Untrusted::new(bytes);
        if self.loghex { text } else { text.with_utf8() }
    }

    /// A line as it stands in a log file: `DATE MAILRECV[PID]: [PEER] TEXT`.
    pub fn line(&self, text: &dyn fmt::Display) -> String {
        line_about(&self.peer, text)
    }

    /// Waits until the log file is on stable storage.
    pub fn sync(&self) -> io::Result<()> {
        if let Sink::File(LogFile { outlet, was_empty }) = &*self.sink.borrow() {
            let file = outlet.as_file();
            if file.metadata()?.is_file() {
                // The file's name has to be durable too, but in the sandbox its folder cannot be opened.
                return if *was_empty { Ok(syncfs(file)?) } else { file.sync_data() };
            }
        }
        Ok(())
    }

    /// Opens what could not be opened in the sandbox. The system log, which most sessions do not need, is opened only
    /// if `and_system_log`.
    pub fn open(&self, and_system_log: bool) {
        let mut sink = self.sink.borrow_mut();
        let is_wanted = and_system_log || !matches!(self.target, LogTarget::Syslog);
        if let (Sink::Closed, true) = (&*sink, is_wanted) {
            *sink = self.opened();
        }
    }

    /// If logging fails, mail goes on; the next line that can be written says how many are missing.
    fn write_or_count(&self, peer: &str, event: &Event<'_>) {
        let patience = LinePatience::Budget(&self.patience);
        if self.tell_of_lost_lines(&patience).and_then(|()| self.write(peer, event, &patience)).is_err() {
            self.lost.set(self.lost.get() + 1);
        }
    }

    fn tell_of_lost_lines(&self, patience: &LinePatience<'_>) -> io::Result<()> {
        if self.lost.get() > 0 {
            self.write(&self.peer, &Event::LinesLost(self.lost.get()), patience)?;
            self.lost.set(0);
        }
        Ok(())
    }

    fn write(&self, peer: &str, event: &Event<'_>, patience: &LinePatience<'_>) -> io::Result<()> {
        let mut sink = self.sink.borrow_mut();
        match (&*sink, &self.target) {
            (Sink::Closed, _) => *sink = self.opened(),
            // Standard error was a substitute for the system log, and may lead to /dev/null; so the system log is tried
            // again.
            (Sink::Stderr(..), LogTarget::Syslog) => {
                let mut log = SystemLog::new();
                if log.connect().is_ok() {
                    *sink = Sink::System(log);
                }
            }
            _ => {}
        }
        self.write_to(&mut sink, peer, event, patience)
    }

    fn write_to(&self, sink: &mut Sink, peer: &str, event: &Event<'_>, patience: &LinePatience<'_>) -> io::Result<()> {
        let text = event.text(self);
        match sink {
            Sink::File(LogFile { outlet, .. }) => {
                outlet.write_line((line_about(peer, &text) + "\n").as_bytes(), patience)
            }
            Sink::Stderr(outlet, reader) => {
                let line = match reader {
                    Reader::Journal => format!("<{}>[{peer}] {text}\n", event.severity().number()),
                    Reader::Program | Reader::Person { .. } => {
                        format!("{IDENTITY}[{}]: [{peer}] {text}\n", std::process::id())
                    }
                };
                outlet.write_line(line.as_bytes(), patience)
            }
            Sink::System(log) => log.write(event.severity(), &format!("[{peer}] {text}"), patience),
            Sink::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn opened(&self) -> Sink {
        match &self.target {
            LogTarget::Stderr => stderr(),
            LogTarget::Syslog => self.system_log(),
            LogTarget::File(path) => match open_file(path) {
                Ok(file) => Sink::File(file),
                Err(error) => {
                    let mut sink = self.system_log();
                    let (event, patience) = (Event::LoggingHere(path, &error), LinePatience::Budget(&self.patience));
                    if self.write_to(&mut sink, &self.peer, &event, &patience).is_err() {
                        self.lost.set(self.lost.get() + 1);
                    }
                    sink
                }
            },
        }
    }

    /// The system log, or standard error if there is no system log and standard error is ours.
    fn system_log(&self) -> Sink {
        let mut log = SystemLog::new();
        match log.connect() {
            Err(_) if self.stderr_is_ours => stderr(),
            // Mail goes on without a log, and each line tries again to connect.
            _ => Sink::System(log),
        }
    }
}

impl Drop for Log {
    /// No later line can say how many were lost.
    fn drop(&mut self) {
        let _ = self.tell_of_lost_lines(&LinePatience::Budget(&self.patience));
    }
}

/// Writes a line to standard error for whoever started us, unless that takes longer than `patience`.
pub(crate) fn say(text: &dyn fmt::Display, patience: Duration) {
    if let Ok(mut outlet) = Outlet::stderr() {
        // It does not matter whether anybody reads it.
        let _ =
            outlet.write_line(format!("mailrecv: {text}\n").as_bytes(), &LinePatience::Budget(&Cell::new(patience)));
    }
}

fn stderr() -> Sink {
    Outlet::stderr().map_or(Sink::Closed, |outlet| Sink::Stderr(outlet, Reader::of_stderr()))
}

fn line_about(peer: &str, text: &dyn fmt::Display) -> String {
    format!("{} {IDENTITY}[{}]: [{peer}] {text}", date::Asctime::now_local(), std::process::id())
}

fn open_file(path: &Path) -> io::Result<LogFile> {
    // It does not block: a FIFO without a reader must not hold up mail.
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = files::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)?;
    let was_empty = file.metadata()?.len() == 0;
    Ok(LogFile { outlet: Outlet::file(file), was_empty })
}

/// How urgent a line is, to the system log.
#[derive(Debug, Clone, Copy)]
enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    /// The number in angle brackets that the journal expects in front of a line (sd-daemon(3)).
    fn number(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
        }
    }
}

/// The program's name in log lines, as in the original.
pub const IDENTITY: &str = "MAILRECV";

/// How long the lines of a session may wait in all for the reader of the log. A daemon that is only busy catches up in
/// this time; one that hangs does not cost a session more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
