//! Errors and warnings about a configuration, shown as compilers do: file, line, column, the text of the line, and a
//! caret.

use std::fmt;

use super::lexer::Problem;
use super::secrets::Cited;

/// How serious a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used: no mail is taken.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

/// A finding about one place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the configuration can be used in spite of it.
    pub severity: Severity,
    /// The file, if it is not the main file but one that is included.
    pub file: Option<String>,
    /// The line, counted from 1; 0 if the finding is about the file as a whole.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines.
    pub width: usize,
    /// What is wrong and what to write instead.
    pub message: String,
    /// The line as it was read (after `${NAME}` was replaced).
    pub source: String,
}

impl Diagnostic {
    /// A finding about the whole file, such as that it cannot be read.
    pub(super) fn whole_file(message: String) -> Self {
        Self { severity: Severity::Error, file: None, line: 0, column: 0, width: 0, message, source: String::new() }
    }

    /// A warning about the whole file.
    pub(super) fn warning(message: String) -> Self {
        Self { severity: Severity::Warning, ..Self::whole_file(message) }
    }

    /// The finding in one line, for the log: `FILE:LINE:COLUMN: error: MESSAGE`. `file` is the main file.
    pub fn headline<'d>(&'d self, file: &'d str) -> impl fmt::Display + 'd {
        fmt::from_fn(move |f| {
            let severity = match self.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let file = self.file.as_deref().unwrap_or(file);
            // The message may quote the line, which may contain anything.
            let message: String = self.message.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            match self.line {
                0 => write!(f, "{file}: {severity}: {message}"),
                line => write!(f, "{file}:{line}:{}: {severity}: {message}", self.column),
            }
        })
    }

    /// The finding with its line and a caret, for people at a terminal.
    pub fn cited<'d>(&'d self, file: &'d str) -> impl fmt::Display + 'd {
        fmt::from_fn(move |f| {
            writeln!(f, "{}", self.headline(file))?;
            if self.line == 0 {
                return Ok(());
            }
            let number = self.line.to_string();
            // Tabs are kept in front of the caret, so that it is under its word at any tab width. Other control
            // characters, and bytes that are not UTF-8, are shown as `?`, one column wide.
            let line: String = self.source.chars().map(|c| if is_unprintable(c) { '?' } else { c }).collect();
            let before: String =
                line.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(f, "{number:>5} | {line}")?;
            writeln!(f, "      | {before}{}", "^".repeat(self.width.max(1)))
        })
    }
}

fn is_unprintable(character: char) -> bool {
    (character.is_control() && character != '\t') || character == char::REPLACEMENT_CHARACTER
}

impl Problem {
    /// The problem as an error about its line.
    pub(super) fn cite(self, cited: Cited<'_>, line: u32) -> Box<Diagnostic> {
        let source = cited.text();
        let (start, end) = (self.start.min(source.len()), self.end.min(source.len()));
        Box::new(Diagnostic {
            severity: Severity::Error,
            file: None,
            line,
            column: source[..start].chars().count() + 1,
            width: source[start..end].chars().count(),
            message: self.message,
            source: cited.without_secrets().into_owned(),
        })
    }
}
