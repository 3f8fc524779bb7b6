//! Sessions that are recorded, and what of them would be another way on another configuration: with the built binary, and
//! with the programs that people send mail with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod changes;
mod clients;
mod corpus;
mod format;
mod many;
mod readme;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod trouble;

use support::{CONFIG, MAILRECV, Scratch};

/// Where sessions are recorded.
const FOLDER: &str = "t";

/// A folder in which sessions are recorded; `directives` follow.
fn scratch(directives: &str) -> Scratch {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path(FOLDER)).unwrap();
    scratch.write(CONFIG, config(directives));
    scratch
}

/// The configuration of such a folder.
fn config(directives: &str) -> String {
    format!("domain mx.example\ndebug t\ntranscript_dir ./{FOLDER}\nlimit.fcrdns_check off\n{directives}\n")
}

/// The transcripts that there are, by their names.
fn transcripts(scratch: &Scratch) -> Vec<String> {
    let names = std::fs::read_dir(scratch.path(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| format!("{FOLDER}/{}", name.into_string().unwrap())).collect();
    names.sort();
    names
}

/// The only transcript.
#[track_caller]
fn transcript(scratch: &Scratch) -> String {
    let names = transcripts(scratch);
    let [name] = &names[..] else { panic!("{names:?}") };
    scratch.read(name)
}

/// What `replay` says of all of them, and its status; it says nothing on standard error.
#[track_caller]
fn replay(scratch: &Scratch, options: &[&str]) -> (i32, String) {
    let names = transcripts(scratch);
    let names = names.iter().map(|name| &**name);
    let arguments: Vec<&str> =
        ["-c", CONFIG, "replay"].into_iter().chain(options.iter().copied()).chain(names).collect();
    let output = scratch.run(MAILRECV, &arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Nothing would be another way.
#[track_caller]
fn assert_same(scratch: &Scratch) {
    let count = transcripts(scratch).len();
    let (status, text) = replay(scratch, &[]);
    let plural = if count == 1 { "" } else { "s" };
    assert_eq!(text, format!("{count} session{plural}, none of which would be another today\n"));
    assert_eq!(status, 0);
}

/// The line of the transcript that is this.
#[track_caller]
fn line_of(transcript: &str, line: &str) -> usize {
    transcript.lines().position(|other| other == line).unwrap_or_else(|| panic!("no {line:?} in\n{transcript}")) + 1
}
