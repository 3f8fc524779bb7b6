//! What is said to who started us: results on standard output, all else on standard error.

use std::io::Write as _;

/// A line of a result. Nobody may be left to read it.
pub(crate) fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line about what is going on or went wrong.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
