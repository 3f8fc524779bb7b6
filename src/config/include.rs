//! What an `include` line names: a file, or all files of a folder whose names match a pattern.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ordered::fits_with_stars;
use super::source::Version;

/// What to read in place of the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A file.
    File(PathBuf),
    /// The files in a folder that match a pattern: `*` stands for any number of bytes, `?` for one.
    Fitting { folder: PathBuf, pattern: String },
}

impl Named {
    /// Interprets the word of an `include` line. A relative path is in the folder of the including file.
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

/// The files of a folder that match.
#[derive(Debug)]
pub(super) struct Fitting {
    pub(super) paths: Vec<PathBuf>,
    /// Whether somebody is changing the folder just now. Many editors move a file away before they write the new one,
    /// and a name that is given to another file meanwhile may be missed (readdir(3p)).
    pub(super) is_being_changed: bool,
}

/// The files in a folder whose names match the pattern, sorted by the bytes of their names. Names that begin with a dot
/// never match.
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

/// How deeply files may include each other.
pub(super) const MAX_DEPTH: usize = 8;

/// How many files there may be in all, because each stays open.
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
