//! The exit status of the program (sysexits(3)).

use std::process::ExitCode;

/// An exit status. If the peer broke off it is `Ok`, because super-servers would count anything else as a failure of
/// ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success.
    Ok = 0,
    /// `explain`: the mail would be refused. `check --strict`: there are warnings. `replay`: something would be
    /// different today.
    Refused = 1,
    /// The command line is wrong.
    Usage = 64,
    /// `replay`: a file is not a transcript.
    DataErr = 65,
    /// `replay`: a file cannot be read.
    NoInput = 66,
    /// A fault in this program.
    Software = 70,
    /// The system does not provide what we need.
    OsErr = 71,
    /// `listen --json`: nobody reads what it prints any more.
    IoErr = 74,
    /// The configuration cannot be used.
    Config = 78,
    /// `listen --timeout`: the time is up (timeout(1)).
    TimedOut = 124,
}

impl Exit {
    /// This status, or if it is `Ok` the other one.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Exit::Ok { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
