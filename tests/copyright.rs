//! The package's copyright file names every crate that is linked into the program, as Debian's policy has it for what is
//! linked statically (12.5), under a licence that the crate offers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test may panic, and is nobody's interface"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::process::output;
use testkit::repository;

/// With REGENERATE=1 in the environment the paragraphs about crates are written in place of being compared. What is in
/// front of them, and the texts of the licences behind them, are written by hand.
#[test]
fn the_copyright_file_names_every_crate_that_is_linked() {
    let file = repository::path("packaging/debian/copyright");
    let shipped = fs::read_to_string(&file).unwrap();
    let (head, rest) = shipped.split_at(shipped.find("Files: vendor/").unwrap_or(shipped.len()));
    let texts = rest.find("\nLicense: Expat\n Permission").map_or("", |at| &rest[at..]);
    let crates = linked();
    assert!(crates.len() > 20, "{} crates", crates.len());
    // Of other systems no crate may be here.
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let metadata = cargo(&["metadata", "--locked", "--offline", "--format-version=1", platform]);
    let paragraphs: Vec<String> = crates.iter().map(|linked| linked.paragraph(&metadata)).collect();
    let expected = format!("{head}{}{texts}", paragraphs.join("\n"));
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(&file, &expected).unwrap();
    }
    let shipped = fs::read_to_string(&file).unwrap();
    assert!(shipped == expected, "{} is out of date: run REGENERATE=1 cargo test --test copyright", file.display());
    let licences =
        paragraphs.iter().flat_map(|paragraph| paragraph.lines()).filter_map(|line| line.strip_prefix("License: "));
    for licence in licences.flat_map(|licences| licences.split(" and ")) {
        assert!(
            shipped.contains(&format!("\n\nLicense: {licence}\n ")),
            "the text of this licence is missing: {licence}"
        );
    }
}

/// A crate that is linked.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    /// What its authors offer (Cargo.toml, `license`).
    offered: String,
}

/// The crates that the program for this target consists of, itself not among them.
fn linked() -> BTreeSet<Crate> {
    let tree = [
        "tree",
        "--locked",
        "--offline",
        "--target=x86_64-unknown-linux-gnu",
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--format={p}|{l}",
        "--no-dedupe",
        "--package=mailrecv",
    ];
    let said = cargo(&tree);
    let crates = said.lines().map(|line| {
        let (package, licence) = line.split_once('|').unwrap_or_else(|| panic!("{line}"));
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
        Crate { name: name.to_owned(), version: version.to_owned(), offered: licence.to_owned() }
    });
    crates.filter(|linked| linked.name != "mailrecv").collect()
}

impl Crate {
    /// Its paragraph, in the form of the machine-readable copyright file.
    fn paragraph(&self, metadata: &str) -> String {
        let Self { name, version, offered } = self;
        let copyright = self.copyright(metadata).join("\n ");
        let licence = self.licence();
        format!(
            "Files: vendor/{name}-{version}/*\nCopyright: {copyright}\nLicense: {licence}\nComment: offered as {offered}\n"
        )
    }

    /// The licence that we take of those that are offered, by Debian's name for it.
    fn licence(&self) -> &'static str {
        let offers = |licence: &str| {
            // The old way to write it has a slash.
            self.offered == licence
                || self.offered.split(" OR ").flat_map(|them| them.split('/')).any(|it| it == licence)
        };
        let known = [
            ("MIT", "Expat"),
            ("(Apache-2.0 OR MIT) AND BSD-3-Clause", "Expat and BSD-3-clause"),
            ("0BSD", "0BSD"),
            ("BSD-3-Clause", "BSD-3-clause"),
            ("ISC", "ISC"),
            ("Zlib", "Zlib"),
            ("Apache-2.0", "Apache-2.0"),
            ("Apache-2.0 AND ISC", "Apache-2.0 and ISC"),
        ];
        known
            .into_iter()
            .find_map(|(licence, name)| offers(licence).then_some(name))
            .unwrap_or_else(|| panic!("{}: a licence that nobody has looked at: {}", self.name, self.offered))
    }

    /// Whose it is: the lines that its licence has, or else its authors.
    fn copyright(&self, metadata: &str) -> Vec<String> {
        let folder = self.source(metadata);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let is_licence = |file: &&PathBuf| {
            let name = file.file_name().unwrap().to_str().unwrap().to_uppercase();
            (name.starts_with("LICENSE") || name == "COPYRIGHT") && !name.contains("APACHE")
        };
        let texts = files.iter().filter(is_licence).map(|file| fs::read_to_string(file).unwrap());
        let mut holders = Vec::new();
        for line in texts.flat_map(|text| {
            text.lines().map(|line| line.trim_start_matches('/').trim().to_owned()).collect::<Vec<_>>()
        }) {
            let Some(holder) = line.strip_prefix("Copyright ") else { continue };
            let marked = holder.strip_prefix("(c) ");
            let holder = marked.unwrap_or(holder);
            let is_holder = marked.is_some() || holder.starts_with(|first: char| first.is_ascii_digit());
            let rights = holder.to_ascii_lowercase().find(" all rights reserved").unwrap_or(holder.len());
            let holder = holder[..rights].trim_end_matches('.').to_owned();
            if is_holder && !holders.contains(&holder) {
                holders.push(holder);
            }
        }
        if !holders.is_empty() {
            return holders;
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let authors =
            manifest.split("\nauthors = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
        let authors: Vec<String> = authors.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        if authors.is_empty() { vec![format!("the authors of {}", self.name)] } else { authors }
    }

    /// The folder with its source, as Cargo has unpacked it and its metadata say.
    fn source(&self, metadata: &str) -> PathBuf {
        let Self { name, version, .. } = self;
        let end = format!("/{name}-{version}/Cargo.toml");
        let mut manifests = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        let manifest = manifests.find(|path| path.ends_with(&end)).unwrap_or_else(|| panic!("no source of {name}"));
        Path::new(manifest).parent().unwrap().to_owned()
    }
}

fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(repository::path(""));
    let output = output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
