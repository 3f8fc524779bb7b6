//! What can be done with a message: the last words of a `deliver` or `copy` line.
//!
//! What can be taken back and what cannot are two types, because delivery without a queue depends on the difference: a
//! recipient has any number of [`Keep`]s and at most one [`HandOver`]. Every `match` over them is exhaustive, so that a
//! destination nobody wrote code for does not compile.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<'t> {
    /// To a place of ours, from which it can be taken back.
    Keep(Keep<'t>),
    /// To somebody else, who will not give it back.
    HandOver(HandOver<'t>),
}

/// A destination that can be prepared, and taken back until it is committed. They are prepared in the order in which
/// they stand here: what others may have to wait for comes late.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep<'t> {
    /// A file of its own in this maildir.
    Maildir(Cow<'t, str>),
    /// Append to this file in mboxrd form.
    Append(Cow<'t, str>),
    /// Show in the log, for people.
    Print,
    /// Take and drop.
    Discard,
}

/// A destination that cannot be undone. It has its say when everything else is prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver<'t> {
    /// Give to this shell command on its standard input.
    Pipe(Cow<'t, str>),
}

/// What a destination needs of the system, for the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// A file that is appended to, or made.
    Mailbox(&'a Path),
    /// A maildir, which is made if it is missing.
    Maildir(&'a Path),
    /// To run programs.
    Programs,
    /// What every session has.
    Nothing,
}

impl Action<'_> {
    /// The same action, independent of the line it was read from.
    pub(super) fn into_owned(self) -> Action<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Action::Keep(Keep::Maildir(directory)) => Action::Keep(Keep::Maildir(owned(directory))),
            Action::Keep(Keep::Append(file)) => Action::Keep(Keep::Append(owned(file))),
            Action::Keep(Keep::Print) => Action::Keep(Keep::Print),
            Action::Keep(Keep::Discard) => Action::Keep(Keep::Discard),
            Action::HandOver(HandOver::Pipe(command)) => Action::HandOver(HandOver::Pipe(owned(command))),
        }
    }

    /// What the sandbox must leave to a session that may do this.
    pub(super) fn needs(&self) -> Need<'_> {
        match self {
            Action::Keep(Keep::Maildir(directory)) => Need::Maildir(Path::new(&**directory)),
            Action::Keep(Keep::Append(file)) => Need::Mailbox(Path::new(&**file)),
            Action::Keep(Keep::Print | Keep::Discard) => Need::Nothing,
            Action::HandOver(HandOver::Pipe(_)) => Need::Programs,
        }
    }
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Keep(keep) => keep.fmt(f),
            Action::HandOver(hand_over) => hand_over.fmt(f),
        }
    }
}

impl fmt::Display for Keep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Maildir(directory) => write!(f, "maildir '{directory}'"),
            Keep::Append(file) => write!(f, "append '{file}'"),
            Keep::Print => f.write_str("print"),
            Keep::Discard => f.write_str("discard"),
        }
    }
}

impl fmt::Display for HandOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandOver::Pipe(command) => write!(f, "pipe '{command}'"),
        }
    }
}

/// Where one recipient's mail goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destinations<'c> {
    /// What can be taken back.
    pub keep: Vec<Destination<Keep<'c>>>,
    /// What cannot.
    pub hand_over: Option<Destination<HandOver<'c>>>,
}

/// One place that mail goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination<A> {
    /// What to do.
    pub action: A,
    /// What of the configuration says so.
    pub origin: Origin,
}

/// Where in the configuration a destination was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The line with this number.
    Line(u32),
    /// The dead letter file.
    DeadLetterFile,
}

/// A recipient has two destinations that cannot be taken back: when one of them fails the other may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecondHandOver;

impl<'c> Destinations<'c> {
    /// Adds what a line says.
    pub(super) fn add(&mut self, action: Action<'c>, origin: Origin) -> Result<(), SecondHandOver> {
        match action {
            Action::Keep(action) => self.keep.push(Destination { action, origin }),
            Action::HandOver(action) if self.hand_over.is_none() => {
                self.hand_over = Some(Destination { action, origin });
            }
            Action::HandOver(_) => return Err(SecondHandOver),
        }
        Ok(())
    }

    /// Each of them for people, in the order in which they are seen to, and where it was found.
    pub fn shown(&self) -> impl Iterator<Item = (&dyn fmt::Display, Origin)> {
        let keep = self.keep.iter().map(|to| (&to.action as &dyn fmt::Display, to.origin));
        keep.chain(self.hand_over.iter().map(|to| (&to.action as &dyn fmt::Display, to.origin)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(line) => write!(f, "line {line}"),
            Origin::DeadLetterFile => f.write_str("deadletter_file"),
        }
    }
}
