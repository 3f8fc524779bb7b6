//! What an `include` line names: one file, or those in a folder whose names fit a pattern.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ordered::fits_with_stars;
use super::source::Version;

/// What is to be read in the place of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// This file.
    File(PathBuf),
    /// Those in this folder that fit: `*` is any number of bytes, `?` is one.
    Fitting { folder: PathBuf, pattern: String },
}

impl Named {
    /// Takes the word of a line in this file apart. What does not begin with `/` is in the folder of that file.
    pub(super) fn parse(word: &str, including: &Path) -> Result<Self, &'static str> {
        let has_pattern = |text: &str| text.contains(['*', '?']);
        let path = including.parent().unwrap_or(Path::new("")).join(word);
        let (folder, last) = word.rsplit_once('/').unwrap_or(("", word));
        if has_pattern(folder) {
            return Err("`*` and `?` stand for letters in the last part of a path only");
        }
        Ok(match path.parent() {
            Some(folder) if has_pattern(last) => Named::Fitting { folder: folder.to_owned(), pattern: last.to_owned() },
            _ => Named::File(path),
        })
    }
}

/// The files in a folder that fit.
#[derive(Debug)]
pub(super) struct Fitting {
    pub(super) paths: Vec<PathBuf>,
    /// Whether somebody is just changing which files there are. Many an editor moves a file away before it writes the new
    /// one, and who looks through a folder may not see a name that is given to another file meanwhile (readdir(3p)).
    pub(super) is_being_changed: bool,
}

/// The files in a folder whose names fit the pattern, in the order of the bytes of their names. Those that begin with a
/// dot never fit.
pub(super) fn fitting(folder: &Path, pattern: &str) -> io::Result<Fitting> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let before = Version::at(here);
    let mut names = Vec::new();
    for entry in here.read_dir()? {
        let name = entry?.file_name();
        if !name.as_bytes().starts_with(b".") && name_fits(pattern.as_bytes(), name.as_bytes()) {
            names.push(name);
        }
    }
    names.sort();
    let is_being_changed = before.is_none_or(|before| before.is_being_written()) || before != Version::at(here);
    Ok(Fitting { paths: names.into_iter().map(|name| folder.join(name)).collect(), is_being_changed })
}

fn name_fits(pattern: &[u8], name: &[u8]) -> bool {
    fits_with_stars(pattern, name, |of_pattern, of_name| of_pattern == b'?' || of_pattern == of_name)
}

/// How deep files may include each other.
pub(super) const MAX_DEPTH: usize = 8;

/// How many files there may be in all: each stays open.
pub(super) const MAX_FILES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_in_the_folder_of_the_file() {
        let file = |path: &str| Ok(Named::File(path.into()));
        let fitting =
            |folder: &str, pattern: &str| Ok(Named::Fitting { folder: folder.into(), pattern: pattern.to_owned() });
        for (word, including, named) in [
            ("/etc/users", "mailrecv.conf", file("/etc/users")),
            ("users", "mailrecv.conf", file("users")),
            ("users", "/etc/mailrecv.conf", file("/etc/users")),
            ("../users", "/etc/d/mailrecv.conf", file("/etc/d/../users")),
            ("/etc/d/*.conf", "mailrecv.conf", fitting("/etc/d", "*.conf")),
            ("d/?", "/etc/mailrecv.conf", fitting("/etc/d", "?")),
            ("*.conf", "/etc/mailrecv.conf", fitting("/etc", "*.conf")),
            ("*.conf", "mailrecv.conf", fitting("", "*.conf")),
            ("/*", "mailrecv.conf", fitting("/", "*")),
        ] {
            assert_eq!(Named::parse(word, Path::new(including)), named, "{word}");
        }
        for word in ["/etc/*/users", "d?/*.conf", "*/"] {
            assert!(Named::parse(word, Path::new("mailrecv.conf")).is_err(), "{word}");
        }
    }

    #[test]
    fn names_that_fit() {
        for (pattern, name, fits) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "A.CONF", false),
            ("*.conf", "a.conf~", false),
            ("*.conf", "a.conf.dpkg-new", false),
            ("?.conf", "a.conf", true),
            ("?.conf", "ab.conf", false),
            ("a*b?c", "aXbYbZc", true),
            ("*", "", true),
        ] {
            assert_eq!(name_fits(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
