//! Finds the lines of settings that belong together again in the text: messages quote these lines, and a configuration
//! keeps only their values.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::check::Finding;
use super::diagnostic::{Diagnostic, Severity};
use super::directive::{self, Line};
use super::lexer::{self, Word};
use super::pattern::Position;
use super::places;
use super::rules::Rules;
use super::settings::Setting;

/// Lines of settings, in the order of the text.
#[derive(Debug)]
pub(super) struct SettingLines(Vec<SettingLine>);

#[derive(Debug)]
pub(super) struct SettingLine {
    setting: Setting,
    value: QuotedWord,
}

/// A word of a line, for messages that quote the line.
#[derive(Debug)]
pub(super) struct QuotedWord {
    line: u32,
    text: String,
    /// Where the word begins after variables were replaced, and the word.
    start: usize,
    word: String,
}

impl SettingLines {
    /// Finds the lines of these settings. It is an error if a file cannot be read a second time.
    pub(super) fn find(rules: &Rules, is_wanted: impl Fn(&Setting) -> bool) -> Result<Self, Diagnostic> {
        let mut found = Vec::new();
        rules.sources.for_each_line(|number, text| {
            let Ok(prepared) = lexer::prepared(text) else { return };
            let Ok(Some(Line::Setting(setting))) = directive::line(&prepared) else { return };
            if !is_wanted(&setting) {
                return;
            }
            let mut words = prepared.words();
            words.next_word();
            if let Some(value) = words.next_word() {
                found.push(SettingLine { setting, value: QuotedWord::new(number, text, value) });
            }
        })?;
        Ok(Self(found))
    }

    /// The lines whose setting matches.
    pub(super) fn of<'l>(&'l self, is_such: impl Fn(&Setting) -> bool + 'l) -> impl Iterator<Item = &'l SettingLine> {
        self.0.iter().filter(move |line| is_such(&line.setting))
    }
}

impl QuotedWord {
    /// A word of the line with this number and text.
    pub(super) fn new(line: u32, text: &str, word: Word<'_>) -> Self {
        Self { line, text: text.to_owned(), start: word.start, word: word.text.to_owned() }
    }

    /// A finding about the word.
    pub(super) fn cite(&self, severity: Severity, message: String) -> Diagnostic {
        let position = Position { line: self.line, start: self.start };
        Finding::new(severity, position, &self.word, message).cite(&self.text)
    }
}

impl SettingLine {
    /// The first word behind the directive.
    pub(super) fn value(&self) -> &str {
        &self.value.word
    }

    /// The value as a path.
    pub(super) fn path(&self) -> &Path {
        Path::new(self.value())
    }

    /// A finding about the value.
    pub(super) fn cite(&self, severity: Severity, message: String) -> Diagnostic {
        self.value.cite(severity, message)
    }

    /// A finding about the file that the value names.
    pub(super) fn about(&self, severity: Severity, what: impl fmt::Display) -> Diagnostic {
        self.cite(severity, format!("{} {what:#}", self.value()))
    }

    /// A warning if everybody can read the file; `who_can` says what they can do then.
    pub(super) fn public_secret(&self, who_can: &str) -> Option<Diagnostic> {
        let mode = self.path().metadata().ok()?.permissions().mode();
        let message = || format!("can be read by everybody, who can then {who_can}: run chmod o-r {}", self.value());
        (mode & 0o004 != 0).then(|| self.about(Severity::Warning, message()))
    }

    /// A warning if its path means different files in different sessions.
    pub(super) fn written_oddly(&self) -> Option<Diagnostic> {
        places::written_oddly(self.path()).map(|message| self.cite(Severity::Warning, message))
    }
}
