//! How the program ends, for whoever started it (sysexits(3)).

use std::process::ExitCode;

/// An exit status. A peer that broke off is no failure: super-servers would count it as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// `explain`: such mail would be refused. `check --strict`: there are warnings. `replay`: something would be
    /// another way.
    Refused = 1,
    /// Called wrongly.
    Usage = 64,
    /// `replay`: a file is no transcript.
    DataErr = 65,
    /// `replay`: a file cannot be read.
    NoInput = 66,
    /// Something in this program is broken.
    Software = 70,
    /// The system does not give what we need.
    OsErr = 71,
    /// `listen --json`: nobody reads what it prints any more.
    IoErr = 74,
    /// The configuration cannot be used.
    Config = 78,
    /// `listen --timeout`: the time was over (timeout(1)).
    TimedOut = 124,
}

impl Exit {
    /// This, unless it is that all is well: then the other.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Exit::Ok { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
