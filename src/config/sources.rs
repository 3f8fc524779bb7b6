//! The files of a configuration as one text: the main file, with included files in place of the lines that include
//! them.
//!
//! Lines are numbered through this whole text, so that a line is identified by one number, and lines are ordered as
//! they apply. Only messages to people name the file and the line in it ([`LineName`]). All files stay open, because a
//! session that has become another user and is in its sandbox could not open them again.

use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::Diagnostic;
use super::source::{self, LineStart, Source, Version};

/// The files that were opened.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// In the order of the text; the main file is the first.
    files: Vec<Opened>,
    /// The places where the text continues in another file, in the order of the text.
    pieces: Vec<Piece>,
    /// What else affects what is included: files that could not be used, and folders that were searched.
    others: Vec<(PathBuf, Option<Version>)>,
}

/// One of the files.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    source: Rc<Source>,
    /// The line that includes the file; 0 for the main file.
    included_by: u32,
}

/// Consecutive lines of one file.
#[derive(Debug)]
struct Piece {
    /// The number of the first line in the whole text.
    first: u32,
    /// The index of the file.
    file: usize,
    /// The number of the first line in that file.
    in_file: u32,
}

/// The name of a line in messages: `line 7`, or `line 7 of FILE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineName<'s> {
    number: u32,
    /// `None` if it is clear which file is meant.
    file: Option<&'s Path>,
}

/// The versions of the included files when they were read, and of everything else that affects what is included.
#[derive(Debug, Clone)]
pub(crate) struct Versions(Vec<(PathBuf, Option<Version>)>);

// Reading.
impl Sources {
    /// Adds a file whose lines come next, beginning with number `first`; returns its index.
    pub(super) fn add(&mut self, path: &Path, source: Source, included_by: u32, first: u32) -> usize {
        let file = self.files.len();
        self.files.push(Opened { path: path.to_owned(), source: Rc::new(source), included_by });
        self.pieces.push(Piece { first, file, in_file: 1 });
        file
    }

    /// Notes that the text continues in this file, whose line `in_file` gets the number `first`.
    pub(super) fn go_on_in(&mut self, file: usize, first: u32, in_file: u32) {
        self.pieces.push(Piece { first, file, in_file });
    }

    /// Notes that what is included depends on this file or folder.
    pub(super) fn depend_on(&mut self, path: &Path) {
        self.others.push((path.to_owned(), Version::at(path)));
    }

    pub(super) fn path(&self, file: usize) -> &Path {
        &self.files[file].path
    }

    pub(super) fn source(&self, file: usize) -> Rc<Source> {
        Rc::clone(&self.files[file].source)
    }

    /// The file, the file that includes it, and so on up to the main file.
    pub(super) fn way_from(&self, file: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(file), |file| Some(self.place(self.including_line(*file)?).0))
    }

    /// That way in words: ` (included from FILE line N, included from FILE line N)`; empty for the main file.
    pub(super) fn told_way_from(&self, file: usize) -> String {
        let lines = self.way_from(file).filter_map(|file| self.including_line(file));
        let including = lines.map(|line| {
            let (file, number) = self.place(line);
            format!("included from {} line {number}", shown(self.path(file)))
        });
        let way: Vec<String> = including.collect();
        if way.is_empty() { String::new() } else { format!(" ({})", way.join(", ")) }
    }

    fn including_line(&self, file: usize) -> Option<u32> {
        Some(self.files[file].included_by).filter(|line| *line > 0)
    }

    /// The first file that was written to since it was opened.
    pub(super) fn first_changed(&self) -> io::Result<Option<usize>> {
        for (number, file) in self.files.iter().enumerate() {
            if !file.source.is_as_opened()? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

// What was read.
impl Sources {
    /// The line at this position; `None` if its file was written to since.
    pub(super) fn line_at(&self, at: LineStart) -> Option<String> {
        self.files.get(self.place(at.number).0)?.source.line_at(at.offset)
    }

    /// Reads the whole text again and calls `each` with the number and text of each line. It is an error if a file can
    /// no longer be read; then the remaining lines are not read.
    pub(super) fn for_each_line(&self, mut each: impl FnMut(u32, &str)) -> Result<(), Diagnostic> {
        let (mut line, mut next) = (0, 1);
        if self.files.is_empty() { Ok(()) } else { self.lines_of(0, &mut line, &mut next, &mut each) }
    }

    /// Reads this file and what it includes. `line` is the number of the last line that was read, `next` the index of
    /// the next file.
    fn lines_of(
        &self,
        file: usize,
        line: &mut u32,
        next: &mut usize,
        each: &mut dyn FnMut(u32, &str),
    ) -> Result<(), Diagnostic> {
        let mut included = Ok(());
        let read = self.files[file].source.for_each_line(|text, _| {
            if included.is_err() {
                return;
            }
            *line = line.saturating_add(1);
            let number = *line;
            each(number, &source::text(text));
            while included.is_ok() && self.files.get(*next).is_some_and(|file| file.included_by == number) {
                *next += 1;
                included = self.lines_of(*next - 1, line, next, each);
            }
        });
        included?;
        read.map_err(|error| {
            let message = format!("cannot be read a second time, so not all of its lines were looked at: {error}");
            Diagnostic { file: self.shown_beside_main(file), ..Diagnostic::whole_file(message) }
        })
    }

    /// The paths of the included files.
    pub(super) fn included(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().skip(1).map(|file| &*file.path)
    }

    /// The versions for [`Versions::are_current`].
    pub(super) fn versions(&self) -> Versions {
        let included = self.files.iter().skip(1).map(|file| (file.path.clone(), file.source.version()));
        Versions(included.chain(self.others.iter().cloned()).collect())
    }

    /// The name of a line, if lines without a file name are those of the main file.
    pub(super) fn name(&self, line: u32) -> LineName<'_> {
        self.name_in(line, 0)
    }

    /// The name of a line in a message about the line `other`.
    pub(super) fn name_beside(&self, line: u32, other: u32) -> LineName<'_> {
        self.name_in(line, self.place(other).0)
    }

    fn name_in(&self, line: u32, understood: usize) -> LineName<'_> {
        let (file, number) = self.place(line);
        LineName { number, file: (file != understood).then(|| self.path(file)) }
    }

    /// Replaces the line numbers of these findings by file and line in that file.
    pub(super) fn locate(&self, found: &mut [Diagnostic]) {
        for diagnostic in found.iter_mut().filter(|diagnostic| diagnostic.line > 0 && diagnostic.file.is_none()) {
            let (file, number) = self.place(diagnostic.line);
            diagnostic.line = number;
            diagnostic.file = self.shown_beside_main(file);
        }
    }

    /// The name of a file for a [`Diagnostic`]; `None` for the main file.
    pub(super) fn shown_beside_main(&self, file: usize) -> Option<String> {
        (file > 0).then(|| shown(self.path(file)))
    }

    /// The file that contains a line, and the line's number there. 0, which is no line, is in the main file.
    fn place(&self, line: u32) -> (usize, u32) {
        let begun = self.pieces.partition_point(|piece| piece.first <= line);
        match self.pieces[..begun].last() {
            Some(piece) => (piece.file, piece.in_file + (line - piece.first)),
            None => (0, line),
        }
    }
}

/// A path for messages. Other users may have chosen names in it, so control characters are replaced.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl<'s> LineName<'s> {
    /// The number of the line in its file.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Its file, unless it is clear which one is meant.
    pub fn file(self) -> Option<&'s Path> {
        self.file
    }

    /// The same where no file is clear from the context: `line 7 of the configuration`.
    pub fn of_the_configuration(self) -> impl Display {
        fmt::from_fn(move |f| match self.file {
            Some(_) => self.fmt(f),
            None => write!(f, "{self} of the configuration"),
        })
    }
}

impl Display for LineName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(file) => write!(f, "line {} of {}", self.number, shown(file)),
            None => write!(f, "line {}", self.number),
        }
    }
}

impl Versions {
    /// Whether all of them are unchanged.
    pub(crate) fn are_current(&self) -> bool {
        self.0.iter().all(|(path, version)| Version::at(path) == *version)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::config::diagnostic::Severity;

    #[test]
    fn a_file_that_cannot_be_read_again_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let sound = || Source::of(File::open(&path).unwrap());
        let unreadable = || Source::of(File::options().write(true).open(&path).unwrap());
        let lines = |sources: &Sources| {
            let mut lines = Vec::new();
            let read = sources.for_each_line(|number, text| lines.push((number, text.to_owned())));
            (lines, read)
        };
        let mut sources = Sources::default();
        assert_eq!(lines(&sources), (vec![], Ok(())));
        sources.add(Path::new("main"), sound(), 0, 1);
        let whole = lines(&sources);
        assert_eq!(whole.1, Ok(()));
        assert_eq!(whole.0.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        sources.add(Path::new("included"), unreadable(), 2, 3);
        let (seen, read) = lines(&sources);
        let error = read.unwrap_err();
        assert_eq!(seen, whole.0[..2]);
        assert_eq!((error.severity, error.file.as_deref(), error.line), (Severity::Error, Some("included"), 0));
        assert!(error.message.contains("Bad file descriptor"), "{error:?}");
    }

    #[test]
    fn what_is_no_line_is_in_the_main_file() {
        let mut sources = Sources::default();
        assert_eq!(sources.place(0), (0, 0));
        assert_eq!(sources.name(7).to_string(), "line 7");
        assert_eq!(sources.line_at(LineStart { number: 7, offset: 0 }), None);
        sources.add(Path::new("main"), Source::of(tempfile::tempfile().unwrap()), 0, 1);
        assert_eq!(sources.place(0), (0, 0));
        assert_eq!(sources.place(3), (0, 3));
    }
}
