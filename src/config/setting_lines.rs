//! The lines of settings that go together, found once more in the text: what is said about them cites the line, and a
//! configuration keeps only what they say.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::check::Finding;
use super::diagnostic::{Diagnostic, Severity};
use super::directive::{self, Line};
use super::lexer;
use super::pattern::Position;
use super::places;
use super::rules::Rules;
use super::settings::Setting;

/// Lines of settings, in the order of the text.
#[derive(Debug)]
pub(super) struct SettingLines(Vec<SettingLine>);

#[derive(Debug)]
pub(super) struct SettingLine {
    number: u32,
    text: String,
    setting: Setting,
    /// Where its value stands once variables are replaced, and that value.
    start: usize,
    value: String,
}

impl SettingLines {
    /// Those of these settings. An error if a file cannot be read a second time.
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
                let (start, value) = (value.start, value.text.to_owned());
                found.push(SettingLine { number, text: text.to_owned(), setting, start, value });
            }
        })?;
        Ok(Self(found))
    }

    /// The lines of some of them.
    pub(super) fn of<'l>(&'l self, is_such: impl Fn(&Setting) -> bool + 'l) -> impl Iterator<Item = &'l SettingLine> {
        self.0.iter().filter(move |line| is_such(&line.setting))
    }
}

impl SettingLine {
    /// The first word behind its directive.
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// Its value as a path.
    pub(super) fn path(&self) -> &Path {
        Path::new(&self.value)
    }

    /// A finding about its value.
    pub(super) fn cite(&self, severity: Severity, message: String) -> Diagnostic {
        let position = Position { line: self.number, start: self.start };
        Finding::new(severity, position, &self.value, message).cite(&self.text)
    }

    /// Something about the file that it names.
    pub(super) fn about(&self, severity: Severity, what: impl fmt::Display) -> Diagnostic {
        self.cite(severity, format!("{} {what:#}", self.value))
    }

    /// A warning if everybody can read the file, who can then do this.
    pub(super) fn public_secret(&self, who_can: &str) -> Option<Diagnostic> {
        let mode = self.path().metadata().ok()?.permissions().mode();
        let message = || format!("can be read by everybody, who can then {who_can}: run chmod o-r {}", self.value);
        (mode & 0o004 != 0).then(|| self.about(Severity::Warning, message()))
    }

    /// A warning if its path is not the same wherever a session is.
    pub(super) fn written_oddly(&self) -> Option<Diagnostic> {
        places::written_oddly(self.path()).map(|message| self.cite(Severity::Warning, message))
    }
}
