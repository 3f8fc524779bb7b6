//! Reads the files of a configuration line by line, each file in place of the line that includes it.
//!
//! Every line is checked, and all errors are reported together.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, anyhow, bail};

use super::auth::AuthLines;
use super::brokers::BrokerLines;
use super::diagnostic::{Diagnostic, Severity};
use super::directive::{self, Line};
use super::flags::Flags;
use super::include::{self, Fitting, MAX_DEPTH, MAX_FILES, Named};
use super::index::{self, Index, Maker, Run};
use super::lexer::{self, Prepared, Word};
use super::secrets::Cited;
use super::setting_lines::SettingLines;
use super::settings::{Config, Setting};
use super::source::{self, LineStart, Source};
use super::sources::shown;
use super::tls::TlsLines;

/// The result of reading.
pub(super) struct Reader {
    /// The configuration, as far as it could be read. It has its own place in memory, so that no function on its way up
    /// needs room for it on the stack.
    pub(super) config: Box<Config>,
    /// The errors in its lines, which are numbered through all files.
    pub(super) errors: Vec<Diagnostic>,
    /// Whether somebody was writing a file at that moment, and the end of that was not waited for.
    pub(super) is_unsettled: bool,
    /// The indexes that are to be made, each with the number of its file.
    pub(super) makers: Vec<(usize, Maker)>,
    waits: bool,
    indexes: Indexes,
    /// What makes the index of the file that is read.
    maker: Option<Maker>,
    /// The last line that was read, and the file that is read, and which line of it that is.
    line: u32,
    file: usize,
    in_file: u32,
    /// How many files were included, counting those that could not be read.
    included: usize,
}

/// What a reader does about indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indexes {
    /// Reads those that fit in the place of lines.
    Used,
    /// Reads all lines.
    PassedOver,
    /// The same, and prepares to make them.
    Made,
}

impl Reader {
    /// One that waits for the end of edits, or does not.
    pub(super) fn new(waits: bool, indexes: Indexes) -> Self {
        Self {
            config: Box::default(),
            errors: Vec::new(),
            is_unsettled: false,
            makers: Vec::new(),
            waits,
            indexes,
            maker: None,
            line: 0,
            file: 0,
            in_file: 0,
            included: 0,
        }
    }

    /// Reads the main file and everything that it includes. Errors in lines are collected; an error is returned if a
    /// whole file cannot be used.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), Diagnostic> {
        let whole_file = |error: anyhow::Error| Diagnostic::whole_file(format!("{error:#}"));
        let source = if self.waits { Source::open(path) } else { Source::open_at_once(path) }.map_err(whole_file)?;
        self.is_unsettled |= source.is_being_written();
        self.read_file(path, source, 0).map_err(whole_file)?;
        let sources = &self.config.rules.sources;
        if let Some(file) = sources.first_changed().context("cannot be examined").map_err(whole_file)? {
            self.is_unsettled = true;
            let changed = whole_file(anyhow!(CHANGED));
            return Err(Diagnostic { file: sources.shown_beside_main(file), ..changed });
        }
        self.find_missing_lines();
        self.find_missing_folder_of_transcripts();
        if self.config.lacks_broker_lines() && self.errors.is_empty() {
            let missing = BrokerLines::find(&self.config.rules);
            self.errors.extend(missing.map_or_else(|error| vec![error], |lines| lines.missing(&self.config)));
        }
        // Errors in an included file may have been found before errors in earlier lines.
        self.errors.sort_by_key(|error| error.line);
        Ok(())
    }

    /// Searches all lines again for errors if the lines about TLS, or those about authentication, are incomplete.
    fn find_missing_lines(&mut self) {
        let Config { rules, .. } = &*self.config;
        if self.config.lacks_tls_lines() && !self.may_have_another("tls") {
            self.errors.extend(TlsLines::find(rules).map_or_else(|error| vec![error], |lines| lines.missing()));
        }
        // Whether passwords can be sent depends on TLS.
        if self.config.lacks_auth_lines() && !self.may_have_another("auth") && !self.may_have_another("tls") {
            let missing = AuthLines::find(rules).map_or_else(|error| vec![error], |lines| lines.missing(&self.config));
            self.errors.extend(missing);
        }
    }

    /// Searches for the line that asks for transcripts if no line names their folder.
    fn find_missing_folder_of_transcripts(&mut self) {
        let Config { rules, debug, transcripts, .. } = &*self.config;
        if !debug.has(Flags::TRANSCRIPTS) || transcripts.is_some() || self.may_have_another("transcript_dir") {
            return;
        }
        let message = "the flag `t` needs a folder for transcripts: write `transcript_dir DIR`";
        self.errors.extend(match SettingLines::find(rules, |setting| matches!(setting, Setting::debug(_))) {
            Ok(lines) => lines.of(|_| true).last().map(|line| line.cite(Severity::Error, message.to_owned())),
            Err(error) => Some(error),
        });
    }

    /// Whether the missing line may be there after all, in a line with an error or in a file that could not be read.
    /// Then only that error is reported.
    fn may_have_another(&self, directive: &str) -> bool {
        self.errors.iter().any(|error| {
            let mut words = error.source.split_ascii_whitespace();
            let is_meant = |word: &str| word.starts_with(directive) || word.starts_with("include");
            match words.next() {
                // The switch between may be any word.
                Some(first) if lexer::CONDITIONS.contains(&first) => words.any(is_meant),
                first => first.is_some_and(is_meant),
            }
        })
    }

    /// Reads an open file, whose lines come next.
    fn read_file(&mut self, path: &Path, source: Source, included_by: u32) -> anyhow::Result<()> {
        let file = self.config.rules.sources.add(path, source, included_by, self.line.saturating_add(1));
        let source = self.config.rules.sources.source(file);
        let size = source.metadata().context("cannot be examined")?.len();
        let read = match self.index_of(path, &source, size) {
            Some((index, runs)) => self.read_around(file, &source, size, index, runs),
            None if self.indexes == Indexes::Made => self.read_and_index(file, &source, size),
            None => self.read_lines(file, &source, LineStart::FIRST, size),
        };
        match !read.context("cannot be read")? {
            // Somebody may have begun to write it anew.
            true if !source.is_as_opened().context("cannot be examined")? => {
                self.is_unsettled = true;
                bail!(CHANGED)
            }
            true => bail!("is empty"),
            false => Ok(()),
        }
    }

    /// Reads the lines from this one on that begin before the byte `until`; whether they are more than blanks.
    fn read_lines(&mut self, file: usize, source: &Source, from: LineStart, until: u64) -> io::Result<bool> {
        let mut says_something = false;
        source.lines_between(from, until, |line, at| {
            says_something = says_something || !line.trim_ascii().is_empty();
            (self.file, self.in_file) = (file, at.number);
            self.line = self.line.saturating_add(1);
            self.take_line(line, LineStart { number: self.line, ..at });
        })?;
        Ok(says_something)
    }

    /// The index of a file, if it has one that fits.
    fn index_of(&mut self, path: &Path, source: &Source, size: u64) -> Option<(Index, Vec<Run>)> {
        if self.indexes != Indexes::Used || index::is_beneath(source, size) {
            return None;
        }
        let beside = index::beside(path)?;
        match Index::open(&beside, source)? {
            Ok(opened) => Some(opened),
            Err(why) => {
                self.config.rules.unused_indexes.push((beside, why));
                None
            }
        }
    }

    /// Reads the lines of a file that its index does not describe, and those that are not what they were to whom made it.
    fn read_around(
        &mut self,
        file: usize,
        source: &Rc<Source>,
        size: u64,
        index: Index,
        runs: Vec<Run>,
    ) -> io::Result<bool> {
        let (mut from, mut used, mut are_all_used) = (LineStart::FIRST, Vec::new(), true);
        for run in runs {
            self.read_lines(file, source, from, run.first.offset.into())?;
            from = LineStart { number: run.first.number.saturating_add(run.lines), offset: run.end };
            if self.config.rules.add_run(&run).is_some() {
                let first = self.line.saturating_add(1);
                self.line = self.line.saturating_add(run.lines);
                used.push((run, first));
            } else {
                are_all_used = false;
                self.read_lines(file, source, run.first, run.end.into())?;
            }
        }
        self.read_lines(file, source, from, size)?;
        self.config.rules.exact.add_index(index, Rc::clone(source), used);
        if !are_all_used {
            let beside = index::beside(self.config.rules.sources.path(file)).unwrap_or_default();
            let why = "lines above those that it is about say something else than when it was made".to_owned();
            self.config.rules.unused_indexes.push((beside, why));
        }
        Ok(true)
    }

    /// Reads all lines, and prepares to make an index of them.
    fn read_and_index(&mut self, file: usize, source: &Source, size: u64) -> io::Result<bool> {
        let maker = if index::is_beneath(source, size) { None } else { Some(Maker::new(source)?) };
        let including = std::mem::replace(&mut self.maker, maker);
        let read = self.read_lines(file, source, LineStart::FIRST, size);
        if let Some(mut maker) = std::mem::replace(&mut self.maker, including) {
            maker.end_run(u32::try_from(size).unwrap_or(u32::MAX), self.config.rules.written());
            self.makers.push((file, maker));
        }
        read
    }

    fn take_line(&mut self, line: &[u8], at: LineStart) {
        if let Some(maker) = &mut self.maker {
            maker.look_at(line, LineStart { number: self.in_file, ..at }, self.config.rules.written());
        }
        if self.config.rules.add_plain(line, at).is_some() {
            return;
        }
        let text = &*source::text(line);
        match lexer::prepared(text) {
            Ok(prepared) => self.take_text(&prepared, at),
            Err(problem) => self.errors.push(*problem.cite(Cited::InFile(text), at.number)),
        }
    }

    /// The same for a line whose comment and variables are already dealt with.
    fn take_text(&mut self, prepared: &Prepared<'_>, at: LineStart) {
        let text = prepared.text();
        let taken = match directive::line(prepared) {
            Ok(Some(Line::Setting(setting))) => {
                self.config.set(setting);
                Ok(())
            }
            Ok(Some(Line::Limit(limit))) => {
                self.config.limits.set(limit);
                Ok(())
            }
            Ok(Some(Line::Rule(rule))) => self.config.rules.add(rule, at),
            Ok(Some(Line::Include(path))) => return self.include(path, Cited::Prepared(prepared)),
            Ok(None) => Ok(()),
            // A character that looks like another one explains the error better.
            Err(problem) => Err(lexer::look_alike(text).unwrap_or(problem)),
        };
        if let Err(problem) = taken {
            self.errors.push(*problem.cite(Cited::Prepared(prepared), at.number));
        }
    }

    /// Reads the files that a line includes, before the next line.
    fn include(&mut self, word: Word<'_>, cited: Cited<'_>) {
        let (file, line, in_file) = (self.file, self.line, self.in_file);
        let way = self.config.rules.sources.told_way_from(file);
        let error = |message: String| *word.problem(message + &way).cite(cited, line);
        match self.named(word.text, file) {
            Ok(paths) => {
                for path in paths {
                    if let Err(message) = self.include_file(&path, file, line) {
                        self.errors.push(error(message));
                    }
                }
            }
            Err(message) => self.errors.push(error(message)),
        }
        if self.line > line {
            self.config.rules.sources.go_on_in(file, self.line.saturating_add(1), in_file.saturating_add(1));
        }
    }

    /// The files that the word of an `include` line names; or why they cannot be found.
    fn named(&mut self, word: &str, file: usize) -> Result<Vec<PathBuf>, String> {
        let sources = &mut self.config.rules.sources;
        match Named::parse(word, sources.path(file))? {
            Named::File(path) => Ok(vec![path]),
            Named::Fitting { folder, pattern } => {
                sources.depend_on(&folder);
                let fitting = self.fitting(&folder, &pattern).map_err(|error| {
                    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                        Some(io::ErrorKind::NotFound) => format!("there is no folder {}", shown(&folder)),
                        _ => format!("{} {error:#}", shown(&folder)),
                    }
                })?;
                self.is_unsettled |= fitting.is_being_changed;
                Ok(fitting.paths)
            }
        }
    }

    /// The files in this folder that match the pattern.
    fn fitting(&self, folder: &Path, pattern: &str) -> anyhow::Result<Fitting> {
        let look = || include::fitting(folder, pattern).context("cannot be looked through");
        if self.waits() { source::once_quiet(look, |fitting| fitting.is_being_changed) } else { look() }
    }

    /// Reads a file that a line includes. An error says why it cannot be used.
    fn include_file(&mut self, path: &Path, including: usize, line: u32) -> Result<(), String> {
        self.included += 1;
        match self.included {
            ..=MAX_FILES => {}
            // Only the first file too many is reported, because there may be thousands more.
            FIRST_TOO_MANY => {
                return Err(format!("more than {MAX_FILES} files are included: put some of them together"));
            }
            _ => return Ok(()),
        }
        let read = self.open_included(path, including).and_then(|source| self.read_file(path, source, line));
        read.map_err(|error| {
            self.config.rules.sources.depend_on(path);
            format!("{} {error:#}", shown(path))
        })
    }

    /// Whether to wait for the end of an edit. If there is an error already, no mail will be accepted however long we
    /// wait.
    fn waits(&self) -> bool {
        self.waits && self.errors.is_empty()
    }

    fn open_included(&mut self, path: &Path, including: usize) -> anyhow::Result<Source> {
        let source = if self.waits() { Source::open_included(path) } else { Source::open_included_at_once(path) }?;
        self.is_unsettled |= source.is_being_written();
        let sources = &self.config.rules.sources;
        let mut depth = 0;
        for file in sources.way_from(including) {
            depth += 1;
            if sources.source(file).identity()? == source.identity()? {
                bail!("would include itself without end");
            }
        }
        if depth > MAX_DEPTH {
            bail!("is included more than {MAX_DEPTH} files deep");
        }
        Ok(source)
    }
}

/// The error if a file was changed since it was opened.
const CHANGED: &str = "was changed while it was read";

const FIRST_TOO_MANY: usize = MAX_FILES + 1;
