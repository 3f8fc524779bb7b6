//! `cargo bench --bench budget`: the whole program, process start included, against its budget of time and memory.
//!
//! Each figure is that of a child started as a super-server would start it: a real TCP connection over loopback as
//! descriptors 0 and 1, nothing inherited. Machines are noisy, so mailrecv and what it is compared with take turns,
//! and the figures are medians of the turns; the comparison is the median over the *pairs* of each turn, so that a
//! slow moment of the machine slows both sides of it, and beside it that of the best tenth of each. The yardstick is
//! `do_nothing.c` beside this file, compiled here. Instructions, page faults and system calls are counted too: they
//! hardly vary, and show what times hide.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

// In a folder of their own: cargo takes every file beside this one for another benchmark.
#[path = "budget/aiosmtpd.rs"]
mod aiosmtpd;
#[path = "budget/auth.rs"]
mod auth;
#[path = "budget/bench.rs"]
mod bench;
#[path = "budget/brokers.rs"]
mod brokers;
#[path = "budget/connections.rs"]
mod connections;
#[path = "budget/contest.rs"]
mod contest;
#[path = "budget/counts.rs"]
mod counts;
#[path = "budget/greed.rs"]
mod greed;
#[path = "budget/peer.rs"]
mod peer;
#[path = "budget/peers.rs"]
mod peers;
#[path = "budget/relay.rs"]
mod relay;
#[path = "budget/rules.rs"]
mod rules;
#[path = "budget/sessions.rs"]
mod sessions;
#[path = "budget/super_servers.rs"]
mod super_servers;
#[path = "budget/table.rs"]
mod table;
#[path = "budget/tls.rs"]
mod tls;
#[path = "budget/tree.rs"]
mod tree;

use bench::Bench;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match Options::parse(env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("budget: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; false if some figure could not be had.
fn run(options: Options) -> Result<bool> {
    if options.help {
        print!("{USAGE}");
        return Ok(true);
    }
    let only = options.only.clone();
    let mut bench = Bench::new(options)?;
    for (name, measure) in SECTIONS {
        if only.as_deref().is_none_or(|only| only == name) {
            eprintln!("budget: measuring {name} ...");
            measure(&mut bench).map_err(|problem| format!("{name}: {problem}"))?;
        }
    }
    println!("\n{}", table::circumstances(&bench.scratch));
    let rows = table::of_rows(&bench.rows);
    for table in [&rows].into_iter().chain(&bench.tables).filter(|table| !table.is_empty()) {
        let title = if table.title.is_empty() { String::new() } else { format!("{}:\n\n", table.title) };
        print!("\n{title}{}", table.markdown());
    }
    for failure in &bench.failures {
        println!("\nNOT MEASURED: {failure}");
    }
    Ok(bench.failures.is_empty())
}

type Section = fn(&mut Bench) -> Result<()>;

const SECTIONS: [(&str, Section); 23] = [
    ("greeting", sessions::greeting),
    ("small-mail", sessions::small_mail),
    ("once", sessions::once),
    ("print", sessions::print),
    ("50mb", sessions::fifty_megabytes),
    ("tls", tls::tls),
    ("auth", auth::auth),
    ("lmtp", sessions::lmtp),
    ("brokers", brokers::brokers),
    ("relay", relay::relay),
    ("aiosmtpd", aiosmtpd::aiosmtpd),
    ("writers", sessions::writers),
    ("rules", rules::exact_addresses),
    ("index", rules::indexed_addresses),
    ("error-patterns", rules::error_patterns),
    ("greed", greed::greed),
    ("check", rules::check),
    ("idle", sessions::idle),
    ("sandbox", sessions::sandbox),
    ("super-servers", super_servers::super_servers),
    ("connections", connections::connections),
    ("peers", peers::peers),
    ("counts", counts::counts),
];

const USAGE: &str = "\
usage: cargo bench --bench budget -- [OPTION]...
  --runs N          turns of each measurement (default 200; what takes long or hardly varies, a twentieth, at least 3)
  --only NAME       one of: greeting, small-mail, once, print, 50mb, tls, auth, lmtp, brokers, relay,
                    aiosmtpd, writers, rules, index, error-patterns, greed, check, idle, sandbox, super-servers,
                    connections, peers, counts
  --seconds N       how long each super-server has 1000 connections a second in `connections` (default 60)
  --against COMMAND compare with another command that speaks SMTP on standard input, as 'exim4 -odq -bs', too;
                    it gets real mail for postmaster@localhost, 50 MB ones among it
  --mailrecv PATH   measure this binary (default: built as the README says)
  --baseline PATH   compare with an older mailrecv, too: what both can do
  --dir PATH        where mail is written (default: below target/; /dev/shm shows the figures without the disk)
";

struct Options {
    help: bool,
    runs: usize,
    seconds: u64,
    only: Option<String>,
    against: Option<String>,
    mailrecv: Option<PathBuf>,
    baseline: Option<PathBuf>,
    dir: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            help: false,
            runs: 200,
            seconds: 60,
            only: None,
            against: None,
            mailrecv: None,
            baseline: None,
            dir: env!("CARGO_TARGET_TMPDIR").into(),
        };
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{option} needs a value\n{USAGE}"));
            match option.as_str() {
                "--bench" => {} // cargo says so to every benchmark
                "--help" | "-h" => options.help = true,
                "--runs" => options.runs = value()?.parse().map_err(|problem| format!("--runs: {problem}"))?,
                "--seconds" => options.seconds = value()?.parse().map_err(|problem| format!("--seconds: {problem}"))?,
                "--only" => options.only = Some(value()?),
                "--against" => options.against = Some(value()?),
                "--mailrecv" => options.mailrecv = Some(value()?.into()),
                "--baseline" => options.baseline = Some(value()?.into()),
                "--dir" => options.dir = value()?.into(),
                _ => return Err(format!("unknown option {option}\n{USAGE}").into()),
            }
        }
        if let Some(only) = &options.only
            && !SECTIONS.iter().any(|(name, _)| name == only)
        {
            return Err(format!("--only {only}: no such measurement\n{USAGE}").into());
        }
        options.runs = options.runs.max(1);
        options.seconds = options.seconds.max(1);
        Ok(options)
    }
}
