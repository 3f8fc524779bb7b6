//! The log: one line an event, one write(2) a line, the peer's address in every line.
//!
//! Administrators let programs act on these lines, so nothing that a peer sent may look like anything else: it appears
//! in quotes, as [`Untrusted`], with control characters, quotes and brackets written as `<0xNN>`. So no line shows a
//! bracketed address that is not the peer's.

mod event;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

pub use event::Event;
pub(crate) use event::{CommandEnd, said};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::syncfs;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

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
    /// Whether standard error may be used where there is no system log.
    stderr_is_ours: bool,
    /// Opened at the first line: most connections of scanners and many of mail servers write none.
    sink: RefCell<Sink>,
}

enum Sink {
    Closed,
    File(LogFile),
    Stderr,
    Syslog(Box<Logger<LoggerBackend, Formatter3164>>),
    /// Nothing took our lines so far; mail goes on.
    Nowhere,
}

struct LogFile {
    file: File,
    /// Whether it had nothing in it when it was opened: then its name may be as new.
    was_empty: bool,
}

impl Log {
    /// A log to this place about this peer; nothing is opened yet.
    pub fn new(target: LogTarget, flags: Flags, loghex: bool, peer: String) -> Self {
        Self { target, flags, loghex, peer, stderr_is_ours: true, sink: RefCell::new(Sink::Closed) }
    }

    /// Whether lines of this kind are wanted.
    pub fn wants(&self, flag: Flags) -> bool {
        self.flags.has(flag)
    }

    /// A log that does not fall back to standard error where there is no system log.
    pub fn without_stderr(self) -> Self {
        Self { stderr_is_ours: false, ..self }
    }

    /// Logs an event, if its line is wanted.
    pub fn event(&self, event: &Event<'_>) {
        if event.flag().is_none_or(|flag| self.wants(flag)) {
            // A failure to log is no reason to lose mail, and there is nobody to tell.
            let _ = self.write(event);
        }
    }

    /// Text that a peer chose, in the form this log has it.
    pub fn untrusted<'t>(&self, bytes: &'t [u8]) -> Untrusted<'t> {
        let text = Untrusted::new(bytes);
        if self.loghex { text } else { text.with_utf8() }
    }

    /// Writes one line of a message for people (the `print` action). Unlike the log itself, this can fail.
    pub fn print(&self, line: &[u8]) -> std::io::Result<()> {
        self.write(&Event::Print(line))
    }

    /// A line as it stands in a log file: `DATE MAILRECV[PID]: [PEER] TEXT`.
    pub fn line(&self, text: &dyn fmt::Display) -> String {
        format!("{} {IDENTITY}[{}]: [{}] {text}", date::Asctime::now_local(), std::process::id(), self.peer)
    }

    /// Waits until a log file is on stable storage.
    pub fn sync(&self) -> std::io::Result<()> {
        match &*self.sink.borrow() {
            Sink::File(LogFile { file, was_empty }) if file.metadata()?.is_file() => {
                // The sandbox keeps the folder from us, which has the name.
                if *was_empty { Ok(syncfs(file)?) } else { file.sync_data() }
            }
            _ => Ok(()),
        }
    }

    /// Opens a log file now, which could not be opened later.
    pub fn open(&self) {
        let mut sink = self.sink.borrow_mut();
        if let (Sink::Closed, LogTarget::File(_)) = (&*sink, &self.target) {
            *sink = self.opened();
        }
    }

    fn write(&self, event: &Event<'_>) -> std::io::Result<()> {
        let mut sink = self.sink.borrow_mut();
        if let Sink::Closed | Sink::Nowhere = *sink {
            *sink = self.opened();
        }
        let (peer, text) = (&self.peer, event.text(self));
        match &mut *sink {
            Sink::File(LogFile { file, .. }) => file.write_all((self.line(&text) + "\n").as_bytes()),
            Sink::Stderr => {
                let line = format!("{IDENTITY}[{}]: [{peer}] {text}\n", std::process::id());
                std::io::stderr().write_all(line.as_bytes())
            }
            Sink::Syslog(logger) => {
                let line = format!("[{peer}] {text}");
                let result = match event.severity() {
                    Severity::Error => logger.err(line),
                    Severity::Warning => logger.warning(line),
                    Severity::Info => logger.info(line),
                };
                result.map_err(std::io::Error::other)
            }
            Sink::Closed | Sink::Nowhere => Err(std::io::ErrorKind::NotConnected.into()),
        }
    }

    fn opened(&self) -> Sink {
        match &self.target {
            LogTarget::Stderr => Sink::Stderr,
            LogTarget::Syslog => self.syslog(),
            LogTarget::File(path) => match open_file(path) {
                Ok(file) => Sink::File(file),
                Err(error) => {
                    let mut sink = self.syslog();
                    if let Sink::Syslog(logger) = &mut sink {
                        let event = Event::LoggingHere(path, &error);
                        let _ = logger.warning(format!("[{}] {}", self.peer, event.text(self)));
                    }
                    sink
                }
            },
        }
    }

    fn syslog(&self) -> Sink {
        let formatter = Formatter3164 {
            facility: Facility::LOG_MAIL,
            hostname: None,
            process: IDENTITY.to_owned(),
            pid: std::process::id(),
        };
        match syslog::unix(formatter) {
            Ok(logger) => Sink::Syslog(Box::new(logger)),
            Err(_) if self.stderr_is_ours => Sink::Stderr,
            Err(_) => Sink::Nowhere,
        }
    }
}

fn open_file(path: &Path) -> std::io::Result<LogFile> {
    // Not blocking: a FIFO that nobody reads must not hold up mail.
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = files::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)?;
    let was_empty = file.metadata()?.len() == 0;
    Ok(LogFile { file, was_empty })
}

/// How urgent a line is, to the system log.
#[derive(Debug, Clone, Copy)]
enum Severity {
    Error,
    Warning,
    Info,
}

/// The program's name in log lines, as in the original.
pub const IDENTITY: &str = "MAILRECV";
