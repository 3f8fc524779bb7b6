//! Mail shown to people where the log goes: what kinds of lines there are, and how they look.
//!
//! Programs read logs, so a line in a log begins with the peer and contains nothing that a filter could take for a
//! refusal. The journal records time and process itself. A person at a terminal needs neither, and gets colours and the
//! time. Nothing that a stranger wrote can act on a terminal: only visible characters are shown as they are.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::outlet::{LinePatience, wait_for_turn};
use super::{Event, Log, LogFile, Sink};
use crate::date;
use crate::files;
use crate::signals::Signals;
use crate::untrusted::Untrusted;

/// A line that is shown.
#[derive(Debug)]
pub enum Line {
    /// Where a message begins or ends.
    Frame(String),
    /// A field of the envelope or the header: its name and its value.
    Field(&'static str, String),
    /// A line of the message.
    Text(Vec<u8>),
    /// A remark about the message.
    Note(String),
}

/// Who reads standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// A program.
    Program,
    /// The journal, which records time, process and severity of each line (systemd.exec(5), JOURNAL_STREAM).
    Journal,
    /// A person at a terminal.
    Person {
        /// Whether the terminal shows colours.
        in_colours: bool,
    },
}

/// Shows messages until this moment, or until we are asked to stop. Unlike logging, this can fail.
pub(crate) struct Printer<'a> {
    log: &'a Log,
    until: Instant,
    signals: &'a Signals,
    reader: Reader,
    /// Text for a person that is not written yet: written at once, it does not make the screen flicker.
    pending: String,
    has_turn: bool,
}

impl Log {
    /// Begins to show a message to people.
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
    /// Waits until no other session shows a message, so that the lines of a message stay together.
    pub(crate) fn take_turn(&mut self) -> io::Result<()> {
        wait_for_turn(self.until, self.signals, || match self.lock(files::lock_as_process) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            // If the target cannot be locked, lines are told apart by the peer in front of them.
            Err(_) => Ok(true),
        })?;
        self.has_turn = true;
        Ok(())
    }

    /// Locks or unlocks the target. It is a lock of the process, because the file description may be shared.
    fn lock(&self, lock: fn(&File) -> nix::Result<()>) -> nix::Result<()> {
        match &*self.log.sink.borrow() {
            Sink::File(LogFile { outlet, .. }) | Sink::Stderr(outlet, _) => lock(outlet.as_file()),
            Sink::Closed | Sink::System(_) => Ok(()),
        }
    }

    fn patience(&self) -> LinePatience<'_> {
        LinePatience::Until(self.until, self.signals)
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

    /// Waits until everything is written; a log file is synced.
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
            // If this fails, the lock is released when the session ends.
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
    /// The line as it came, without colours.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Line::Frame(text) | Line::Note(text) => text.clone().into_bytes(),
            Line::Field(name, text) => format!("{name}: {text}").into_bytes(),
            Line::Text(text) => text.clone(),
        }
    }

    /// The line as a person at a terminal sees it.
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

/// The first line of a message.
pub(crate) const NEW: &str = "=== NEW EMAIL ===";

/// Colours of ECMA-48, 8.3.117. The terminal chooses their shades, so that they are readable on it.
const BOLD_GREEN: &str = "1;32";
const GREEN: &str = "32";
const CYAN: &str = "36";
const YELLOW: &str = "33";

/// How many bytes of a message are collected before they are written; most messages are shorter.
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
