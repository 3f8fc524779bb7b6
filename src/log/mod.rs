//! The log: one line an event, one write(2) a line, the peer's address in every line.
//!
//! Administrators let programs act on these lines, so nothing that a peer sent may look like anything else: it appears
//! in quotes, as [`Untrusted`], with control characters, quotes and brackets written as `<0xNN>`. So no line shows a
//! bracketed address that is not the peer's.
//!
//! Nor does a log hold up mail that nobody reads: all lines of a session together wait for [`PATIENCE`], and what is not
//! taken then is counted, and told by the next line that is.

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
pub(crate) use outlet::{Outlet, Patience, wait_for_turn};
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
    /// The peer's address, or a word that stands for it.
    peer: String,
    /// Who the peer has logged in as: what is refused to somebody whom we know is no reason to ban anybody.
    user: RefCell<Option<String>>,
    /// Whether standard error may be used where there is no system log.
    stderr_is_ours: bool,
    /// Opened at the first line: most connections of scanners and many of mail servers write none.
    sink: RefCell<Sink>,
    /// How long all lines that are still to come may wait for whoever reads them.
    patience: Cell<Duration>,
    /// How many lines were not taken since the last one that was.
    lost: Cell<u64>,
    /// What is not to be said again.
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
    /// Whether it had nothing in it when it was opened: then its name may be as new.
    was_empty: bool,
}

impl Log {
    /// A log to this place about this peer; nothing is opened yet.
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

    /// The connection is under TLS: who the peer said it was counts for nothing.
    pub fn secured(&self) {
        *self.user.borrow_mut() = None;
    }

    /// Whether lines of this kind are wanted.
    pub fn wants(&self, flag: Flags) -> bool {
        self.flags.has(flag)
    }

    /// A log that does not fall back to standard error where there is no system log.
    pub fn without_stderr(mut self) -> Self {
        self.stderr_is_ours = false;
        self
    }

    /// Whether the last line went to standard error.
    pub fn is_on_stderr(&self) -> bool {
        matches!(*self.sink.borrow(), Sink::Stderr(..))
    }

    /// A log that takes lines at once or not at all, for somebody who must not wait.
    pub fn without_waiting(self) -> Self {
        self.patience.set(Duration::ZERO);
        self
    }

    /// Logs an event, if its line is wanted.
    pub fn event(&self, event: &Event<'_>) {
        if event.flag().is_none_or(|flag| self.wants(flag)) {
            self.write_or_count(&self.peer, event);
        }
    }

    /// Logs an event, if its line is wanted and this log had no line like it.
    pub fn event_once(&self, event: &Event<'_>) {
        if event.flag().is_none_or(|flag| self.wants(flag)) {
            let line = event.text(self).to_string();
            if !self.said_once.borrow().contains(&line) {
                self.write_or_count(&self.peer, event);
                self.said_once.borrow_mut().push(line);
            }
        }
    }

    /// Logs an event about this peer, whatever the flags, and closes the log: for a process that outlives log files and
    /// log daemons.
    pub fn event_about(&self, peer: &str, event: &Event<'_>) {
        self.write_or_count(peer, event);
        *self.sink.borrow_mut() = Sink::Closed;
    }

    /// Text that a peer chose, in the form this log has it.
    pub fn untrusted<'t>(&self, bytes: &'t [u8]) -> Untrusted<'t> {
        let text = Untrusted::new(bytes);
        if self.loghex { text } else { text.with_utf8() }
    }

    /// A line as it stands in a log file: `DATE MAILRECV[PID]: [PEER] TEXT`.
    pub fn line(&self, text: &dyn fmt::Display) -> String {
        line_about(&self.peer, text)
    }

    /// Waits until a log file is on stable storage.
    pub fn sync(&self) -> io::Result<()> {
        if let Sink::File(LogFile { outlet, was_empty }) = &*self.sink.borrow() {
            let file = outlet.as_file();
            if file.metadata()?.is_file() {
                // The sandbox keeps the folder from us, which has the name.
                return if *was_empty { Ok(syncfs(file)?) } else { file.sync_data() };
            }
        }
        Ok(())
    }

    /// Opens now what could not be opened later; the system log, which most sessions need not, only if that is wanted.
    pub fn open(&self, and_system_log: bool) {
        let mut sink = self.sink.borrow_mut();
        let is_wanted = and_system_log || !matches!(self.target, LogTarget::Syslog);
        if let (Sink::Closed, true) = (&*sink, is_wanted) {
            *sink = self.opened();
        }
    }

    /// A failure to log is no reason to lose mail, and there is nobody to tell but who reads the next line.
    fn write_or_count(&self, peer: &str, event: &Event<'_>) {
        let patience = Patience::Budget(&self.patience);
        if self.tell_of_lost_lines(&patience).and_then(|()| self.write(peer, event, &patience)).is_err() {
            self.lost.set(self.lost.get() + 1);
        }
    }

    fn tell_of_lost_lines(&self, patience: &Patience<'_>) -> io::Result<()> {
        if self.lost.get() > 0 {
            self.write(&self.peer, &Event::LinesLost(self.lost.get()), patience)?;
            self.lost.set(0);
        }
        Ok(())
    }

    fn write(&self, peer: &str, event: &Event<'_>, patience: &Patience<'_>) -> io::Result<()> {
        let mut sink = self.sink.borrow_mut();
        match (&*sink, &self.target) {
            (Sink::Closed, _) => *sink = self.opened(),
            // Standard error stands in for the system log, and may be nothing but /dev/null.
            (Sink::Stderr(..), LogTarget::Syslog) => {
                let mut log = SystemLog::new();
                if log.connect().is_ok() {
                    *sink = Sink::System(log);
                }
            }
            _ => {}
        }
        let text = event.text(self);
        match &mut *sink {
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
                    if let Sink::System(log) = &mut sink {
                        let event = Event::LoggingHere(path, &error);
                        let text = format!("[{}] {}", self.peer, event.text(self));
                        if log.write(event.severity(), &text, &Patience::Budget(&self.patience)).is_err() {
                            self.lost.set(self.lost.get() + 1);
                        }
                    }
                    sink
                }
            },
        }
    }

    /// The system log; standard error where nobody listens, if it is ours.
    fn system_log(&self) -> Sink {
        let mut log = SystemLog::new();
        match log.connect() {
            Err(_) if self.stderr_is_ours => stderr(),
            // Mail goes on, and each line looks again.
            _ => Sink::System(log),
        }
    }
}

impl Drop for Log {
    /// There is no other line that could tell of those that were lost.
    fn drop(&mut self) {
        let _ = self.tell_of_lost_lines(&Patience::Budget(&self.patience));
    }
}

/// Says something to whoever started us, on standard error, unless that takes longer than this.
pub(crate) fn say(text: &dyn fmt::Display, patience: Duration) {
    if let Ok(mut outlet) = Outlet::stderr() {
        // Nobody has to be interested.
        let _ = outlet.write_line(format!("mailrecv: {text}\n").as_bytes(), &Patience::Budget(&Cell::new(patience)));
    }
}

fn stderr() -> Sink {
    Outlet::stderr().map_or(Sink::Closed, |outlet| Sink::Stderr(outlet, Reader::of_stderr()))
}

fn line_about(peer: &str, text: &dyn fmt::Display) -> String {
    format!("{} {IDENTITY}[{}]: [{peer}] {text}", date::Asctime::now_local(), std::process::id())
}

fn open_file(path: &Path) -> io::Result<LogFile> {
    // Not blocking: a FIFO that nobody reads must not hold up mail.
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
    /// As the journal finds it in front of a line (sd-daemon(3)).
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

/// How long the lines of a session together wait for whoever reads the log. A daemon that is merely busy catches up in
/// that; one that hangs costs each session no more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
