//! The files of the repository that this crate is a part of.

use std::fs;
use std::path::{Path, PathBuf};

/// A file or folder, by its path in the repository.
pub fn path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder in the repository");
    root.join(name)
}

/// What a file holds, as it is shipped.
pub fn text(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The commands that a section of the README shows: its indented blocks, in their order.
pub fn readme_commands(section: &str) -> Vec<String> {
    let readme = text("README.md");
    let (_, behind) = readme.split_once(&format!("\n## {section}\n")).expect("a section of the README");
    let blocks = behind.split("\n## ").next().unwrap_or_default().split("\n\n");
    blocks
        .filter(|block| block.trim_start_matches('\n').starts_with("    "))
        .map(|block| block.lines().map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect())
        .collect()
}

/// What a manual page shows: its literal displays and the lines that stand by themselves, as they are read.
pub fn page_examples(page: &str) -> Vec<String> {
    let page = text(page);
    let blocks = page.split("\n.Bd -literal").skip(1).filter_map(|block| {
        let (_, behind) = block.split_once('\n')?;
        behind.split(".Ed").next()
    });
    let lines = page.lines().filter_map(|line| line.strip_prefix(".Dl "));
    blocks.chain(lines).map(|shown| shown.replace("\\e", "\\").replace("\\&", "").replace("\\(dq", "\"")).collect()
}

/// The example of a manual page that has these words.
pub fn page_example(page: &str, words: &str) -> String {
    let found = page_examples(page).into_iter().find(|example| example.contains(words));
    found.unwrap_or_else(|| panic!("{page} has no example with `{words}`"))
}

/// The files in a folder with this extension, in order.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = path(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// A shipped text with parts replaced. Every part has to be there: a test of a text that has changed under it would
/// test nothing.
pub fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` is not in the shipped text:\n{text}");
        text.replace(from, to)
    })
}
