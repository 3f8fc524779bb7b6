//! How decisions came about: what was looked at and what the result was, for the `r` flag and for `explain`.

use std::fmt::{self, Display};

use super::rules::Rules;
use super::sources::LineName;

/// The notes since they were last taken.
#[derive(Debug, Default)]
pub struct Trace {
    notes: Option<Vec<Note>>,
}

/// A note about something that was looked at.
#[derive(Debug)]
pub(crate) struct Note {
    /// The line of the configuration, counted through all files, if it is about one.
    line: Option<u32>,
    rule: Option<String>,
    verdict: Verdict,
    text: String,
}

/// Something that was looked at for a decision. Its `Display` is the text for the log.
#[derive(Debug)]
pub struct Finding<'c> {
    /// The line of the configuration, if it is about one.
    pub line: Option<LineName<'c>>,
    /// The rule: the first words of the line, such as `deliver rcpt_to`, or the name of a group; `None` if it is not
    /// about a rule.
    pub rule: Option<String>,
    /// The result.
    pub verdict: Verdict,
    /// The result in words, without the line.
    pub text: String,
}

/// Whether a rule matches the peer, sender or recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It matches.
    Matches,
    /// It does not match.
    DoesNotMatch,
    /// The same was asked just before, and has the same answer.
    AsBefore,
}

impl Trace {
    /// A trace that keeps notes if `wanted`, and otherwise costs nothing.
    pub fn new(wanted: bool) -> Self {
        Self { notes: wanted.then(Vec::new) }
    }

    /// Takes the notes so far; `rules` provide the names of lines.
    pub fn take<'c>(&mut self, rules: &'c Rules) -> Vec<Finding<'c>> {
        let notes = self.notes.as_mut().map(std::mem::take).unwrap_or_default();
        let found = |Note { line, rule, verdict, text }| {
            let line = line.map(|number| rules.line(number));
            Finding { line, rule, verdict, text }
        };
        notes.into_iter().map(found).collect()
    }

    /// Notes something; `note` is called only if notes are wanted.
    pub(crate) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push(note());
        }
    }
}

impl Note {
    /// A note about a line: whether it matches, and what to add behind the name of the rule.
    pub(super) fn of_line(line: u32, rule: impl Display, fits: bool, said: impl Display) -> Self {
        let rule = rule.to_string();
        let text = format!("{rule}: {said}");
        Self { line: Some(line), rule: Some(rule), verdict: Verdict::of(fits), text }
    }

    /// A note about a rule without a line, or about something else.
    pub(super) fn beside_lines(rule: Option<&str>, fits: bool, text: String) -> Self {
        Self { line: None, rule: rule.map(str::to_owned), verdict: Verdict::of(fits), text }
    }

    /// A note that an earlier answer was used again.
    pub(crate) fn as_before() -> Self {
        Self { line: None, rule: None, verdict: Verdict::AsBefore, text: "decided as before".to_owned() }
    }

    /// The same note with another text.
    pub(super) fn worded(self, text: String) -> Self {
        Self { text, ..self }
    }
}

impl Verdict {
    fn of(fits: bool) -> Self {
        if fits { Verdict::Matches } else { Verdict::DoesNotMatch }
    }
}

impl Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        f.write_str(&self.text)
    }
}
