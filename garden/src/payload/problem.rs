//! Errors in a payload file, shown as compilers do: file, line, column, the text of the line, a caret, and advice.

use std::error::Error;
use std::fmt;
use std::ops::Range;

/// One thing that is wrong with a payload file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column, in characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// The line.
    pub source: String,
}

/// An error in a line, before its file and number are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The octets of the line that it is about.
    pub(super) at: Range<usize>,
    pub(super) message: String,
    pub(super) advice: String,
}

impl Fault {
    pub(super) fn new(at: Range<usize>, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { at, message: message.into(), advice: advice.into() }
    }

    /// The same error, with its position moved by this many octets.
    pub(super) fn moved(self, octets: usize) -> Self {
        Self { at: self.at.start + octets..self.at.end + octets, ..self }
    }

    pub(super) fn cite(self, file: &str, line: usize, source: &[u8]) -> Problem {
        let characters = |octets: &[u8]| String::from_utf8_lossy(octets).chars().count();
        let (start, end) = (self.at.start.min(source.len()), self.at.end.min(source.len()));
        Problem {
            file: file.to_owned(),
            line,
            column: characters(&source[..start]) + 1,
            width: characters(&source[start..end]).max(1),
            message: self.message,
            advice: self.advice,
            source: String::from_utf8_lossy(source).into_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, advice, .. } = self;
        writeln!(f, "{file}:{line}:{column}: {message}")?;
        // Of a very long line only the text around the error is shown.
        let first = (column - 1).saturating_sub(BEFORE);
        let visible = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '?' } else { c };
        let shown: String = self.source.chars().skip(first).take(SHOWN).map(visible).collect();
        let width = self.width.min(shown.chars().count().saturating_sub(column - 1 - first)).max(1);
        writeln!(f, "{line:>5} | {shown}")?;
        writeln!(f, "      | {}{}", " ".repeat(column - 1 - first), "^".repeat(width))?;
        write!(f, "      = {advice}")
    }
}

impl Error for Problem {}

/// How many characters of a long line are shown.
const SHOWN: usize = 100;
/// How many of them are before the error, at most.
const BEFORE: usize = 60;
