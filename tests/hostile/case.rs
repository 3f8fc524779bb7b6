//! The files of the corpus: reading, comparing, blessing.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use testkit::repository;

/// One file: what a peer sends, and what comes of it under some configurations.
pub struct Case {
    pub name: String,
    /// The place among all cases, from which samples differ from case to case.
    pub number: usize,
    pub input: Vec<u8>,
    pub expectations: Vec<Expectation>,
    file: PathBuf,
    /// The part of the file that people write: comment and input.
    head: String,
}

/// What comes of the input under one configuration, as [`crate::process::Run`] shows it.
pub struct Expectation {
    pub config: String,
    pub text: String,
}

/// The cases that `HOSTILE` selects.
pub fn wanted() -> Vec<Case> {
    let wanted = std::env::var("HOSTILE").unwrap_or_default();
    let mut cases = all();
    cases.retain(|case| case.name.contains(&wanted));
    assert!(!cases.is_empty(), "no case has `{wanted}` in its name");
    cases
}

pub fn all() -> Vec<Case> {
    let files = repository::files("tests/hostile/cases", "txt");
    files.iter().enumerate().map(|(number, file)| Case::read(number, file)).collect()
}

/// Each case with each configuration that it is for.
pub fn expectations(cases: &[Case]) -> Vec<(&Case, &Expectation)> {
    cases.iter().flat_map(|case| case.expectations.iter().map(move |expectation| (case, expectation))).collect()
}

/// The lines of replies that an expectation has.
pub fn replies(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.strip_prefix("< ")?.to_owned())).collect()
}

impl Case {
    fn read(number: usize, file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (mut head, mut input, mut expectations) = (String::new(), Vec::new(), Vec::<Expectation>::new());
        let mut configs = 0;
        for (number, line) in (1..).zip(text.lines()) {
            assert_eq!(line.trim_end(), line, "{name}:{number}: blanks at the end cannot be seen: write \\x20 or \\t");
            if let Some(names) = line.strip_prefix("= ") {
                let new = names.split(' ').map(|config| Expectation { config: config.into(), text: String::new() });
                configs = new.clone().count();
                expectations.extend(new);
                continue;
            }
            if let 1.. = configs {
                let first = expectations.len() - configs;
                expectations[first..].iter_mut().for_each(|expectation| expectation.text += &format!("{line}\n"));
                continue;
            }
            head += &format!("{line}\n");
            match line.split_once(' ') {
                Some((">", sent)) => input.extend(bytes_of(sent)),
                _ => assert!(line.is_empty() || line.starts_with('#'), "{name}:{number}: not a line of a case"),
            }
        }
        assert!(!expectations.is_empty(), "{name}: no line says for which configurations it is: `= NAME...`");
        Self { name, number, input, expectations, file: file.to_owned(), head }
    }

    /// Writes the file anew, with the texts in place of its expectations (but for those that went wrong); equal ones that
    /// follow each other are one.
    pub fn bless(&mut self, outcomes: &mut impl Iterator<Item = Result<String, String>>) {
        let mut file = self.head.clone();
        let mut last = None;
        for (expectation, outcome) in self.expectations.iter_mut().zip(outcomes) {
            let text = outcome.unwrap_or_else(|_| std::mem::take(&mut expectation.text));
            match last.as_ref() == Some(&text) {
                true => {
                    let end = file.len() - text.len() - 1;
                    file.insert_str(end, &format!(" {}", expectation.config));
                }
                false => file += &format!("= {}\n{text}", expectation.config),
            }
            last = Some(text);
        }
        std::fs::write(&self.file, file).unwrap();
    }
}

/// What a line of input stands for: `\r \n \t \0 \xHH \\` as in C, and `<x*70>` is `x` 70 times.
fn bytes_of(text: &str) -> Vec<u8> {
    static REPETITION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<([^<>*]+)\*([0-9]+)>").unwrap());
    let text = REPETITION
        .replace_all(text, |found: &regex::Captures<'_>| found[1].repeat(found[2].parse().expect("a number of times")));
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.expect("two digits")));
                    u8::from_str_radix(&String::from_iter(digits), 16).expect("two hexadecimal digits")
                }
                other => panic!("`\\` and {other:?} in `{text}`"),
            },
            byte => byte,
        });
    }
    bytes
}

/// The same the other way: every byte can be seen. Long runs of one byte become `<x*70>`.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let run = rest.iter().take_while(|next| **next == byte).count();
        let one = match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0 => "\\0".to_owned(),
            b' ' if rest.len() == run => "\\x20".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        text += &if run >= LONG_RUN { format!("<{one}*{run}>") } else { one.repeat(run) };
        rest = &rest[run..];
    }
    text
}

const LONG_RUN: usize = 20;
