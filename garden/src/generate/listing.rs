//! The command `payloads`.

use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::{Options, Set, select};
use crate::case::Case;
use crate::oracle;
use crate::payload::{self, EXTENSION, HEADING};

/// Without words lists the sets, each with the number of its cases; otherwise lists the cases that the words name (see
/// [`select`]), each with what the standard says of it.
///
/// # Errors
///
/// A word that names nothing; the list cannot be written.
pub fn list(to: &mut impl Write, words: &[String], options: Options) -> Result<()> {
    if words.is_empty() {
        for set in Set::EVERY {
            writeln!(to, "{:<12}{:>5}  {}", set.name(), set.cases(options).len(), set.about())?;
        }
        return Ok(());
    }
    let cases = select(words, options).map_err(|wrong| anyhow!(wrong))?;
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or_default();
    for case in cases {
        writeln!(to, "{:<width$}  {}", case.name, oracle::expected(&case))?;
    }
    Ok(())
}

/// Writes the cases that the words name, or all cases, as payload files into a folder, which is made if it is missing.
/// Case `a/b` becomes `a/b.payload` and replaces an existing file. Returns the number of files.
///
/// # Errors
///
/// A word that names nothing; a file cannot be written.
pub fn write(folder: &Path, words: &[String], options: Options) -> Result<usize> {
    let cases = match words.is_empty() {
        true => Set::All.cases(options),
        false => select(words, options).map_err(|wrong| anyhow!(wrong))?,
    };
    for case in &cases {
        let file = folder.join(path_of(&case.name));
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making the folder {}", parent.display()))?;
        }
        fs::write(&file, text_of(case)).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(cases.len())
}

/// The payload file, with what the standard says of the case as a comment.
fn text_of(case: &Case) -> String {
    let text = payload::write(case);
    let units = text.strip_prefix(HEADING).unwrap_or(&text);
    format!("{HEADING}\n# RFC 5321: {}{units}", oracle::expected(case))
}

/// The name as a path within the folder.
fn path_of(name: &str) -> PathBuf {
    let path = PathBuf::from(format!("{name}.{EXTENSION}"));
    let parts = path.components().map(|part| match part {
        Component::Normal(part) => part.to_owned(),
        _ => "_".into(),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Assignments;

    fn listed(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut octets = Vec::new();
        list(&mut octets, &words, Options { mutations: 12, ..Options::default() }).unwrap();
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn the_sets_are_listed_and_what_is_in_them() {
        let sets = listed(&[]);
        assert_eq!(sets.lines().count(), Set::EVERY.len());
        assert!(sets.contains("\nend-of-data    76  19 forms of an end"), "{sets}");
        assert!(sets.contains("\nmutations      12  "), "{sets}");
        assert_eq!(
            listed(&["end-of-data/LF.LF/blob", "duplicates/From"]).lines().collect::<Vec<_>>(),
            [
                "end-of-data/LF.LF/blob/crlf-header  at most 1 message; open: bare-lf",
                "end-of-data/LF.LF/blob/lf-header    at most 1 message; open: bare-lf",
                "duplicates/From                     1 message",
                "duplicates/From/first               1 message",
                "duplicates/From/both                1 message",
            ]
        );
        assert!(list(&mut Vec::new(), &["nothing".to_owned()], Options::default()).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = std::env::temp_dir().join(format!("garden-listing-{}", std::process::id()));
        let words = ["short".to_owned(), "lines/first".to_owned()];
        let number = write(&folder, &words, Options::default());
        let mut read: Vec<Case> = super::super::corpus::folder(&folder).unwrap().cases;
        let file = folder.join("end-of-data/LF.LF/blob/crlf-header.payload");
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            text.starts_with(&format!("{HEADING}\n# RFC 5321: at most 1 message; open: bare-lf\nname end-of-data/")),
            "{text}"
        );
        let mut cases = select(&words, Options::default()).unwrap();
        assert_eq!(number.unwrap(), cases.len());
        cases.sort_by(|one, other| one.name.cmp(&other.name));
        read.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(read, cases);
        assert_eq!(payload::read("x", text.as_bytes(), &Assignments::new()).unwrap().len(), 1);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for (name, path) in
            [("a/b", "a/b.payload"), ("../x", "_/x.payload"), ("/etc/x", "_/etc/x.payload"), ("a/..", "a/...payload")]
        {
            assert_eq!(path_of(name), Path::new(path), "{name}");
        }
    }
}
