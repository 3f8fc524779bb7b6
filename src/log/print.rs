//! Mail for people, in the place where the log is: what each line of it is, and what it looks like there.
//!
//! Programs read logs, so there a line has the peer in front, and nothing in it that a filter could take for a refusal.
//! The journal knows time and process by itself. A person at a terminal needs neither prefix nor mark, and gets colours
//! and the time. Nothing of what a stranger wrote acts on a terminal: only what can be seen is shown as it is.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::outlet::{Patience, wait_for_turn};
use super::{Event, Log, LogFile, Sink};
use crate::date;
use crate::files;
use crate::signals::Signals;
use crate::untrusted::Untrusted;

/// A line of what is shown.
#[derive(Debug)]
pub enum Line {
    /// Where a message begins or ends.
    Frame(String),
    /// A field, of the envelope or the header, and what stands in it.
    Field(&'static str, String),
    /// A line of the message.
    Text(Vec<u8>),
    /// Something that is said of the message.
    Note(String),
}

/// Who reads standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Some program.
    Program,
    /// The journal, which keeps time, process and urgency of each line (systemd.exec(5), JOURNAL_STREAM).
    Journal,
    /// Somebody at a terminal.
    Person {
        /// Whether it is to have colours.
        in_colours: bool,
    },
}

/// Shows messages, until a moment or until we are asked to stop. Unlike the log itself, this can fail.
pub(crate) struct Printer<'a> {
    log: &'a Log,
    until: Instant,
    signals: &'a Signals,
    reader: Reader,
    /// What is for a person and not yet written: a screen that is filled at once does not flicker.
    pending: String,
    has_turn: bool,
}

impl Log {
    /// Begins to show something to people.
    pub(crate) fn printer<'a>(&'a self, until: Instant, signals: &'a Signals) -> Printer<'a> {
        self.open(true);
        let reader = match &*self.sink.borrow() {
            Sink::Stderr(_, reader) => *reader,
            Sink::Closed | Sink::File(_) | Sink::System(_) => Reader::Program,
        };
        Printer { log: self, until, signals, reader, pending: String::new(), has_turn: false }
    }
}

impl Printer<'_> {
    /// Waits until no other session shows a message, so that what follows stands together.
    pub(crate) fn take_turn(&mut self) -> io::Result<()> {
        wait_for_turn(self.until, self.signals, || match self.lock(files::lock_as_process) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            // It is of a kind that cannot be locked; then lines are told apart by who is in front of them.
            Err(_) => Ok(true),
        })?;
        self.has_turn = true;
        Ok(())
    }

    /// Locks what is written to, or unlocks it: as a process, because its description may be others' too.
    fn lock(&self, lock: fn(&File) -> nix::Result<()>) -> nix::Result<()> {
        match &*self.log.sink.borrow() {
            Sink::File(LogFile { outlet, .. }) | Sink::Stderr(outlet, _) => lock(outlet.as_file()),
            Sink::Closed | Sink::System(_) => Ok(()),
        }
    }

    fn patience(&self) -> Patience<'_> {
        Patience::Until(self.until, self.signals)
    }

    /// Shows a line.
    pub(crate) fn print(&mut self, line: &Line) -> io::Result<()> {
        match self.reader {
            Reader::Program => {
                self.log.tell_of_lost_lines(&self.patience())?;
                self.log.write(&self.log.peer, &Event::Print(&line.to_bytes()), &self.patience())
            }
            Reader::Journal => {
                let text = Event::Print(&line.to_bytes()).text(self.log).to_string() + "\n";
                self.write(&text)
            }
            Reader::Person { in_colours } => {
                self.pending += &line.for_a_person(in_colours).to_string();
                self.pending.push('\n');
                if self.pending.len() > MAX_PENDING { self.flush() } else { Ok(()) }
            }
        }
    }

    /// Waits until all of it is where it should be: a log file on stable storage.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.log.sync()
    }

    fn flush(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.pending) {
            pending if pending.is_empty() => Ok(()),
            pending => self.write(&pending),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        match &mut *self.log.sink.borrow_mut() {
            Sink::Stderr(outlet, _) => outlet.write_line(text.as_bytes(), &self.patience()),
            Sink::Closed | Sink::File(_) | Sink::System(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Printer<'_> {
    fn drop(&mut self) {
        if self.has_turn {
            // If that fails, it is free when the session ends.
            let _ = self.lock(files::unlock_as_process);
        }
    }
}

impl Reader {
    pub(super) fn of_stderr() -> Self {
        let stderr = io::stderr();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if stderr.is_terminal() {
            // no-color.org
            let in_colours = !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
            return Reader::Person { in_colours };
        }
        let journal = std::env::var("JOURNAL_STREAM").ok();
        let is_journal = fstat(stderr.as_fd())
            .is_ok_and(|found| journal.is_some_and(|journal| journal == format!("{}:{}", found.st_dev, found.st_ino)));
        if is_journal { Reader::Journal } else { Reader::Program }
    }
}

impl Line {
    /// Without colours, as it came.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Line::Frame(text) | Line::Note(text) => text.clone().into_bytes(),
            Line::Field(name, text) => format!("{name}: {text}").into_bytes(),
            Line::Text(text) => text.clone(),
        }
    }

    /// As a person at a terminal sees it.
    pub fn for_a_person(&self, in_colours: bool) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            let coloured = |colour, text: &str| match in_colours {
                true => format!("\x1b[{colour}m{text}\x1b[0m"),
                false => text.to_owned(),
            };
            let harmless = |text: &[u8]| Untrusted::new(text).for_people().whole().to_string();
            match self {
                Line::Frame(text) if text == NEW => {
                    write!(f, "{} {}", coloured(BOLD_GREEN, text), date::Asctime::now_local())
                }
                Line::Frame(text) => f.write_str(&coloured(GREEN, &harmless(text.as_bytes()))),
                Line::Field(name, text) => {
                    write!(f, "{} {}", coloured(CYAN, &format!("{name}:")), harmless(text.as_bytes()))
                }
                Line::Text(text) => f.write_str(&harmless(text)),
                Line::Note(text) => f.write_str(&coloured(YELLOW, &harmless(text.as_bytes()))),
            }
        })
    }
}

/// What stands in front of a message.
pub(crate) const NEW: &str = "=== NEW EMAIL ===";

/// Colours of ECMA-48, 8.3.117: they are of the terminal's own choice of colours, so that they can be read on it.
const BOLD_GREEN: &str = "1;32";
const GREEN: &str = "32";
const CYAN: &str = "36";
const YELLOW: &str = "33";

/// How much of a message waits to be written at once, in bytes; most are shorter.
const MAX_PENDING: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_acts_on_a_terminal() {
        let hostile = "\x1b]8;;http://x\x07\u{9b}31m\u{202e}\u{200b}\r\x08a\t[1] 'b'";
        for line in [
            Line::Frame(hostile.to_owned()),
            Line::Field("Subject", hostile.to_owned()),
            Line::Text(hostile.as_bytes().to_vec()),
            Line::Note(hostile.to_owned()),
        ] {
            let shown = line.for_a_person(false).to_string();
            assert!(!shown.contains(|character: char| character.is_control() && character != '\t'), "{shown:?}");
            assert!(shown.ends_with("a\t[1] 'b'"), "{shown:?}");
            let mut without_colours = line.for_a_person(true).to_string();
            for colour in [GREEN, CYAN, YELLOW, "0"] {
                without_colours = without_colours.replace(&format!("\x1b[{colour}m"), "");
            }
            assert_eq!(without_colours, shown);
        }
    }
}
