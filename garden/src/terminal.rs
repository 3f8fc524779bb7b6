//! What is said to who started us: results on standard output, all else on standard error.

use std::io::{IsTerminal as _, Write as _};

/// A line of a result. Nobody may be left to read it.
pub(crate) fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line about what is going on or went wrong.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether what is printed may have colours: a terminal reads it, and nobody asked for none (https://no-color.org).
pub(crate) fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
