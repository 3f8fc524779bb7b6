//! How the program ends, for whoever started it (sysexits(3)).

use std::process::ExitCode;

/// An exit status. A peer that broke off is no failure: super-servers would count it as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// `explain`: such mail would be refused. `check --strict`: there are warnings.
    Refused = 1,
    /// Called wrongly.
    Usage = 64,
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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
