//! Hostile input: each file of tests/hostile/cases is what a peer sends, with the replies and the mailboxes that come of
//! it. tests/hostile/README describes the format and says which attack is where.
//!
//! Every case goes to the built binary whole, and then cut: in two at a position, byte by byte, and broken off behind a
//! position, where nothing or a complete message may be left. Cuts at every single position are made in memory, with
//! the same session, line reader and data reader that the binary has; the binary, of which each run is a process with
//! synced files, gets a sample of them ([`cuts::sample`]), or every one with `HOSTILE_EVERY_CUT=1`.
//!
//! `HOSTILE=part-of-a-name` runs some of the cases, `BLESS=1` writes down what comes of them: to be read, then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod case;
mod cuts;
#[path = "../../fuzz/src/driver.rs"]
mod driver;
mod index;
mod lengths;
mod log;
mod mailbox;
mod memory;
mod process;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Case, Expectation};
use process::{Ending, Receiver};

#[test]
fn every_case_goes_as_written() {
    let mut cases = case::wanted();
    let expectations: Vec<(&Case, &Expectation)> = case::expectations(&cases);
    let outcomes = in_parallel(&expectations, |(case, expectation)| {
        let receiver = Receiver::new(&expectation.config);
        let early = receiver.early(&case.input)?;
        let network = receiver.network(&case.input)?;
        match early == network {
            true => Ok(early.to_string()),
            false => Err(difference("what comes of it over TCP", &early, &network)),
        }
    });
    let is_blessing = std::env::var_os("BLESS").is_some();
    let compare = |((case, expectation), outcome): (&(&Case, &Expectation), &Result<String, String>)| {
        let trouble = match outcome {
            Ok(text) if is_blessing || *text == expectation.text => return None,
            Ok(text) => difference("what comes of it", &expectation.text, text),
            Err(trouble) => trouble.clone(),
        };
        Some(format!("{} with {}: {trouble}", case.name, expectation.config))
    };
    let failures = expectations.iter().zip(&outcomes).filter_map(compare).collect();
    if is_blessing {
        let mut outcomes = outcomes.into_iter();
        cases.iter_mut().for_each(|case| case.bless(&mut outcomes));
    }
    report(failures);
}

/// In memory: two pieces cut at every position, and the state behind every byte.
#[test]
fn no_cut_makes_a_difference_to_the_session() {
    for_each_case(|case, expectation| {
        let receiver = Receiver::new(&expectation.config);
        let setting = memory::Setting::new(&receiver);
        let history = setting.byte_by_byte(&case.input);
        let replies = history.replies(case.input.len());
        let expected = case::replies(&expectation.text);
        if process::reply_lines(replies)? != expected {
            return Err(format!("the session alone answers {}", String::from_utf8_lossy(replies)));
        }
        for at in cuts::in_memory(&case.input) {
            setting.in_two(&case.input, at, &history)?;
        }
        Ok(())
    });
}

#[test]
fn no_cut_makes_a_difference_to_the_process() {
    for_each_case(|case, expectation| {
        let receiver = Receiver::new(&expectation.config);
        let whole = receiver.early(&case.input)?;
        let check = |what: &str, pieces: &[&[u8]]| {
            let run = receiver.pieces(pieces, Ending::HalfClose).map_err(|error| format!("{what}: {error}"))?;
            if run == whole { Ok(()) } else { Err(difference(what, &whole, &run)) }
        };
        if case.input.len() <= cuts::LONGEST_BYTE_BY_BYTE {
            check("byte by byte", &case.input.chunks(1).collect::<Vec<_>>())?;
        }
        for at in cuts::sample(&case.input, case.number) {
            let (before, behind) = case.input.split_at(at);
            check(&format!("cut at byte {at}"), &[before, behind])?;
        }
        Ok(())
    });
}

/// What a peer leaves that says no more, or is gone, behind some byte: the replies so far, and whole messages.
#[test]
fn what_breaks_off_leaves_whole_messages() {
    for_each_case(|case, expectation| {
        let receiver = Receiver::new(&expectation.config);
        let setting = memory::Setting::new(&receiver);
        let history = setting.byte_by_byte(&case.input);
        let whole = receiver.early(&case.input)?;
        for at in cuts::sample(&case.input, case.number + 1) {
            let said = &case.input[..at];
            let run = receiver.pieces(&[said], Ending::HalfClose)?;
            let replies = process::reply_lines(history.replies(at))?;
            if run.replies != replies {
                return Err(format!("ended behind byte {at}: {:?} in place of {replies:?}", run.replies));
            }
            if run.copies() != history.copies(at) || !run.is_beginning_of(&whole) {
                return Err(difference(&format!("left when ended behind byte {at}"), &whole, &run));
            }
            if history.copies(case.input.len()) == 0 {
                continue;
            }
            // The peer is gone: it gets no replies, and what they told it was lost with them.
            let run = receiver.pieces(&[said], Ending::Close)?;
            if run.copies() > history.copies(at) || !run.is_beginning_of(&whole) {
                return Err(difference(&format!("left when gone behind byte {at}"), &whole, &run));
            }
        }
        Ok(())
    });
}

/// Commands are whoever's they are: none of any run may be left when all are over. Orphans become children of this
/// process, because it says so before the first run.
#[test]
fn commands_leave_no_process_behind() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let cases = case::all();
    let case = cases.iter().find(|case| case.expectations.iter().any(|found| found.config == "command")).unwrap();
    let receiver = Receiver::new("command");
    let run = receiver.early(&case.input).unwrap();
    assert!(run.copies() > 0, "no command was run: {run}");
    let children = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let of_task = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
        };
        tasks.flat_map(|task| of_task(task).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    // The other tests' receivers are children too.
    for child in children() {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        assert!(!["sh", "env", "grep", "sort", "cat"].contains(&name.trim_end()), "{name} is left");
    }
}

fn for_each_case(check: impl Fn(&Case, &Expectation) -> Result<(), String> + Sync) {
    let cases = case::wanted();
    let expectations = case::expectations(&cases);
    let outcomes = in_parallel(&expectations, |(case, expectation)| {
        check(case, expectation).map_err(|trouble| format!("{} with {}: {trouble}", case.name, expectation.config))
    });
    report(outcomes.into_iter().filter_map(Result::err).collect());
}

/// Runs the jobs on some threads; a process under test is waited for more than it computes.
fn in_parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((number, job)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).map(|job| {
                    let number = jobs.element_offset(job).unwrap();
                    (number, job)
                }) {
                    let result = work(job);
                    results.lock().unwrap().push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Two texts from a little before the first line that differs.
fn difference(what: &str, expected: &impl std::fmt::Display, got: &impl std::fmt::Display) -> String {
    let (expected, got) = (expected.to_string(), got.to_string());
    let same = expected.lines().zip(got.lines()).take_while(|(expected, got)| expected == got).count();
    let part = |text: &str| {
        let lines = text.lines().skip(same.saturating_sub(3)).take(15);
        lines.map(|line| format!("  {line:.200}\n")).collect::<String>()
    };
    format!("{what} is different behind line {same}.\nexpected:\n{}got:\n{}", part(&expected), part(&got))
}

const WORKERS: usize = 6;
