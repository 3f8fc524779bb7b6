//! How decisions came about, line by line, for the `r` flag and for `explain`.

use super::rules::Rules;

/// What was noted since it was last taken.
#[derive(Debug, Default)]
pub struct Trace {
    notes: Option<Vec<Note>>,
}

#[derive(Debug)]
struct Note {
    /// The line of the configuration that it is about, if it is about one.
    line: Option<u32>,
    text: String,
}

impl Trace {
    /// A trace that is kept if `wanted`, and costs nothing otherwise.
    pub fn new(wanted: bool) -> Self {
        Self { notes: wanted.then(Vec::new) }
    }

    /// Hands out what was noted so far about decisions of these rules, a line each.
    pub fn take(&mut self, rules: &Rules) -> Vec<String> {
        let notes = self.notes.as_mut().map(std::mem::take).unwrap_or_default();
        let told = |Note { line, text }| match line {
            Some(line) => format!("{}: {text}", rules.line(line)),
            None => text,
        };
        notes.into_iter().map(told).collect()
    }

    /// Notes something, which is worded only if it is wanted.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note { line: None, text: text() });
        }
    }

    /// The same about a line of the configuration.
    pub(super) fn note_of_line(&mut self, line: u32, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note { line: Some(line), text: text() });
        }
    }
}
