//! Scratch folders.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::{debian, output};

/// A folder of one test; dropped, it is gone. It is the current folder of what is started in it.
pub struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        Self(TempDir::with_prefix("test-").expect("a temporary folder"))
    }

    /// The path of something in it; the folder's own for an empty name.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; its path.
    pub fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// The content of a file, with `\xHH` for bytes that are no text; empty if there is no such file.
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        bytes
            .utf8_chunks()
            .flat_map(|chunk| {
                let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                [chunk.valid().to_owned(), invalid]
            })
            .collect()
    }

    /// How many files there are in a folder of it and below that.
    pub fn count_files(&self, name: impl AsRef<Path>) -> usize {
        let Ok(entries) = fs::read_dir(self.path(name)) else { return 0 };
        let count = |path: PathBuf| if path.is_dir() { self.count_files(path) } else { 1 };
        entries.flatten().map(|entry| count(entry.path())).sum()
    }

    /// What is in the files of a folder of it, in the order of their names; nothing if there is no such folder.
    pub fn contents(&self, name: impl AsRef<Path>) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.path(name)).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().filter_map(|path| fs::read(path).ok()).collect()
    }

    /// A program, to be started in this folder with nothing to read.
    pub fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// What a program says that ends by itself.
    #[track_caller]
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Output {
        output(self.command(program, arguments))
    }

    /// Runs Python with a script; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn python(&self, script: &str, arguments: &[&str]) -> String {
        let python = debian::program("python3", "python3");
        let output = self.run(python, &[&["-c", script], arguments].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "python3: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
