//! How decisions came about: what was looked at and what that said, for the `r` flag and for `explain`.

use std::fmt::{self, Display};

use super::rules::Rules;
use super::sources::LineName;

/// What was noted since it was last taken.
#[derive(Debug, Default)]
pub struct Trace {
    notes: Option<Vec<Note>>,
}

/// Something that was looked at.
#[derive(Debug)]
pub(crate) struct Note {
    /// The line of the configuration that it is about, counted through all files, if it is about one.
    line: Option<u32>,
    rule: Option<String>,
    verdict: Verdict,
    text: String,
}

/// Something that was looked at on the way to a decision. Its `Display` is what the log has of it.
#[derive(Debug)]
pub struct Finding<'c> {
    /// The line of the configuration that it is about, if it is about one.
    pub line: Option<LineName<'c>>,
    /// What asks: the words that the line begins with, as `deliver rcpt_to`, or the name of a group; `None` for what is no
    /// rule.
    pub rule: Option<String>,
    /// What it says.
    pub verdict: Verdict,
    /// The same for people, without the line.
    pub text: String,
}

/// What something that was looked at says of peer, sender or recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is about them.
    Matches,
    /// It is not.
    DoesNotMatch,
    /// That was asked a moment ago and has the same answer.
    AsBefore,
}

impl Trace {
    /// A trace that is kept if `wanted`, and costs nothing otherwise.
    pub fn new(wanted: bool) -> Self {
        Self { notes: wanted.then(Vec::new) }
    }

    /// Hands out what was noted so far about decisions of these rules.
    pub fn take<'c>(&mut self, rules: &'c Rules) -> Vec<Finding<'c>> {
        let notes = self.notes.as_mut().map(std::mem::take).unwrap_or_default();
        let found = |Note { line, rule, verdict, text }| {
            let line = line.map(|number| rules.line(number));
            Finding { line, rule, verdict, text }
        };
        notes.into_iter().map(found).collect()
    }

    /// Notes something, which is worded only if it is wanted.
    pub(crate) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push(note());
        }
    }
}

impl Note {
    /// Of a line: whether it fits, and what there is to say of that behind the rule's name.
    pub(super) fn of_line(line: u32, rule: impl Display, fits: bool, said: impl Display) -> Self {
        let rule = rule.to_string();
        let text = format!("{rule}: {said}");
        Self { line: Some(line), rule: Some(rule), verdict: Verdict::of(fits), text }
    }

    /// Of a rule as a whole, or of something beside the rules.
    pub(super) fn beside_lines(rule: Option<&str>, fits: bool, text: String) -> Self {
        Self { line: None, rule: rule.map(str::to_owned), verdict: Verdict::of(fits), text }
    }

    /// Nothing had to be looked at.
    pub(crate) fn as_before() -> Self {
        Self { line: None, rule: None, verdict: Verdict::AsBefore, text: "decided as before".to_owned() }
    }

    /// The same in other words.
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
