//! The fault suite: what is promised of a message that got 250 holds while processes are killed, disks fill up and
//! other programs use the same mailboxes.
//!
//! `cargo test --test faults` runs every scenario in its short form; `cargo test --release --test faults -- --long` in
//! the long one. Names select scenarios, as libtest's filters select tests; what else Cargo hands to tests is taken and
//! ignored. It fails if a message with 250 is not at each of its destinations, whole, once, or if one without is
//! anywhere, but for those that were on the point of getting their 250 when the process was killed (RFC 1047).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, talks to people, and is nobody's interface"
)]

mod client;
mod crowd;
mod full_disk;
mod inject;
mod kill;
mod letters;
mod lmtp;
mod neighbours;
mod once;
mod order;
mod places;
mod power_cut;
mod readers;
mod relay;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod trace;

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sys::signal::Signal;
use report::Tally;
use testkit::{Form, Request, panic_text};

/// Every scenario: a name, and what runs it.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("kill", kill::run),
    ("inject", inject::run),
    ("lmtp", lmtp::run),
    ("relay", relay::run),
    ("order", order::run),
    ("power_cut", power_cut::run),
    ("full_disk", full_disk::run),
    ("crowd", crowd::run),
    ("neighbours", neighbours::run),
    ("once_calls", once::calls),
    ("once_errors", once::errors),
    ("once_refusals", once::refusals),
    ("once_cuts", once::cuts),
    ("once_kills_and_cuts", once::kills_and_cuts),
    ("once_kills", once::kills),
];

/// Given something that tells how much of how much is done.
type Scenario = fn(Form, &mut dyn FnMut(u64, u64)) -> Tally;

fn main() -> ExitCode {
    take_back_ignored_signals();
    let request = Request::of_command_line();
    let wanted: Vec<_> = SCENARIOS.iter().filter(|(name, _)| request.selects(name)).collect();
    if request.list {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut results = Vec::new();
    for (name, scenario) in wanted {
        results.push((*name, run(name, *scenario, request.form)));
    }
    if !results.is_empty() {
        println!("\n{}", report::table(&results));
    }
    for (name, tally) in &results {
        tally.notes.iter().for_each(|note| println!("{name}: {note}"));
        tally.problems.iter().take(MOST_PROBLEMS).for_each(|problem| println!("{name}: PROBLEM: {problem}"));
        if tally.problems.len() > MOST_PROBLEMS {
            println!("{name}: ... and {} more", tally.problems.len() - MOST_PROBLEMS);
        }
    }
    let passed = results.iter().filter(|(_, tally)| tally.passed()).count();
    let failed = results.len() - passed;
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts this program anew if SIGHUP or SIGINT is ignored, as nohup(1) and `&` in a script leave it. Receivers would
/// inherit that, and lose such a signal that comes before they have handlers, in place of dying of it.
fn take_back_ignored_signals() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default().trim();
    let bit = |signal: Signal| 1_u64 << (signal as u64 - 1);
    if u64::from_str_radix(ignored, 16).is_ok_and(|set| set & (bit(Signal::SIGHUP) | bit(Signal::SIGINT)) != 0) {
        let mut anew = Command::new("env");
        anew.arg("--default-signal=HUP,INT").args(std::env::args_os());
        panic!("env: {}", anew.exec());
    }
}

/// Runs one scenario and shows how it gets on. A panic in it is a problem that it found.
fn run(name: &str, scenario: Scenario, form: Form) -> Tally {
    let started = Instant::now();
    let mut bar = Bar::new(name, form);
    let result = catch_unwind(AssertUnwindSafe(|| scenario(form, &mut |done, total| bar.show(done, total))));
    bar.clear();
    let tally = result.unwrap_or_else(|panic| Tally { problems: vec![panic_text(&*panic)], ..Tally::default() });
    let verdict = if tally.passed() { "ok" } else { "FAILED" };
    println!("{name} ... {verdict}, {:.1} s", started.elapsed().as_secs_f64());
    tally
}

/// Shows how far a scenario is: a bar on a terminal, elsewhere a line at every tenth of a long run.
struct Bar<'a> {
    name: &'a str,
    is_terminal: bool,
    form: Form,
    started: Instant,
    /// What was shown last, in per cent or in tenths.
    shown: Option<u64>,
}

impl<'a> Bar<'a> {
    fn new(name: &'a str, form: Form) -> Self {
        Self { name, is_terminal: std::io::stderr().is_terminal(), form, started: Instant::now(), shown: None }
    }

    fn show(&mut self, done: u64, total: u64) {
        let per_cent = (done * 100).checked_div(total).unwrap_or(100).min(100);
        let step = if self.is_terminal { per_cent } else { per_cent / 10 };
        if self.shown.replace(step) == Some(step) {
            return;
        }
        let seconds = self.started.elapsed().as_secs();
        if self.is_terminal {
            let filled = usize::try_from(per_cent * BAR_WIDTH / 100).unwrap_or(0);
            let empty = usize::try_from(BAR_WIDTH).unwrap_or(0) - filled;
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(empty));
            eprint!("\r{:<12}[{bar}] {per_cent:>3} %  {done}/{total}  {seconds} s ", self.name);
            let _ = std::io::stderr().flush();
        } else if self.form == Form::Long && step > 0 {
            eprintln!("{}: {} %, {done}/{total}, {seconds} s", self.name, step * 10);
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// How many problems of one scenario are told in full.
const MOST_PROBLEMS: usize = 20;

/// In characters.
const BAR_WIDTH: u64 = 40;
