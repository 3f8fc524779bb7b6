//! `cargo bench --bench budget`: the whole program, process start included, against its budget of time and memory.
//!
//! Each figure is that of a child started as a super-server would start it: a real TCP connection over loopback as
//! descriptors 0 and 1, nothing inherited. Machines are noisy, so mailrecv and what it is compared with take turns,
//! and the figures are medians of the turns; the comparison is the median over the *pairs* of each turn, so that a
//! slow moment of the machine slows both sides of it. The yardstick is `do_nothing.c` beside this file, compiled here.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

// In a folder of their own: cargo takes every file beside this one for another benchmark.
#[path = "budget/contest.rs"]
mod contest;
#[path = "budget/table.rs"]
mod table;

use contest::{Contestant, Session, build_do_nothing, install};
use table::{Figure, Row, Target, Unit};

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
    let mut bench = Bench::new(options)?;
    for (name, measure) in SECTIONS {
        if bench.options.only.as_deref().is_none_or(|only| only == name) {
            eprintln!("budget: measuring {name} ...");
            measure(&mut bench).map_err(|problem| format!("{name}: {problem}"))?;
        }
    }
    print!("\n{}\n\n{}", table::circumstances(&bench.scratch), table::markdown(&bench.rows));
    for failure in &bench.failures {
        println!("\nNOT MEASURED: {failure}");
    }
    Ok(bench.failures.is_empty())
}

const USAGE: &str = "\
usage: cargo bench --bench budget -- [OPTION]...
  --runs N          turns of each measurement (default 200; 50mb, writers and idle take a twentieth, at least 3)
  --only NAME       one of: greeting, small-mail, 50mb, writers, rules, error-patterns, idle
  --against COMMAND compare with another command that speaks SMTP on standard input, as 'exim4 -odq -bs', too;
                    it gets real mail for postmaster@localhost, 50 MB ones among it
  --mailrecv PATH   measure this binary (default: the one that cargo just built)
  --dir PATH        where mail is written (default: below target/; /dev/shm shows the figures without the disk)
";

struct Options {
    help: bool,
    runs: usize,
    only: Option<String>,
    against: Option<String>,
    mailrecv: PathBuf,
    dir: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            help: false,
            runs: 200,
            only: None,
            against: None,
            mailrecv: env!("CARGO_BIN_EXE_mailrecv").into(),
            dir: env!("CARGO_TARGET_TMPDIR").into(),
        };
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{option} needs a value\n{USAGE}"));
            match option.as_str() {
                "--bench" => {} // cargo says so to every benchmark
                "--help" | "-h" => options.help = true,
                "--runs" => options.runs = value()?.parse().map_err(|problem| format!("--runs: {problem}"))?,
                "--only" => options.only = Some(value()?),
                "--against" => options.against = Some(value()?),
                "--mailrecv" => options.mailrecv = value()?.into(),
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
        Ok(options)
    }
}

// ---- what is measured ----------------------------------------------------------------------------------------------

type Section = fn(&mut Bench) -> Result<()>;

const SECTIONS: [(&str, Section); 7] = [
    ("greeting", greeting),
    ("small-mail", small_mail),
    ("50mb", fifty_megabytes),
    ("writers", writers),
    ("rules", rules),
    ("error-patterns", error_patterns),
    ("idle", idle),
];

fn greeting(bench: &mut Bench) -> Result<()> {
    let figures = [Figure::new("exec to greeting", Unit::Milliseconds, Some(Target::RatioAtMost(1.6)))];
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing()]);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        let mut session = Session::open(contestant, listener)?;
        session.quit()?;
        Ok([milliseconds(session.to_greeting)])
    });
    Ok(())
}

fn small_mail(bench: &mut Bench) -> Result<()> {
    let what = "one small mail, connect to exit, durable";
    let figures = [Figure::new(what, Unit::Milliseconds, Some(Target::RatioAtMost(2.0)))];
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing(), bench.do_nothing_durable()]);
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        let mailbox = contestant.mailbox_length();
        let mut session = Session::open(contestant, listener)?;
        session.offer(RECIPIENT)?;
        session.data(&mail)?;
        session.quit()?;
        let connect_to_exit = session.connected.elapsed();
        contestant.check_mailbox_grew(mailbox, mail.len())?;
        Ok([milliseconds(connect_to_exit)])
    });
    Ok(())
}

fn fifty_megabytes(bench: &mut Bench) -> Result<()> {
    let figures = [
        // Five times what the original mailrecv reaches at best, and that without making the mail durable.
        Figure::new("50 MB to a file, rate", Unit::MegabytesPerSecond, Some(Target::AtLeast(5.0 * 115.0))),
        Figure::new("50 MB to a file, peak memory", Unit::Kibibytes, Some(Target::AtMost(8.0 * 1024.0))),
    ];
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing(), bench.do_nothing_durable()]);
    let mail = message(50_000_000);
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        contestant.empty_mailbox()?;
        let mut session = Session::open(contestant, listener)?;
        session.offer(RECIPIENT)?;
        let began = Instant::now();
        session.data(&mail)?;
        let rate = 50.0 / began.elapsed().as_secs_f64();
        // Not ru_maxrss: that starts from the size of the process that forked, and ours holds the 50 MB.
        let peak = session.memory("status", "VmHWM:")?;
        session.quit()?;
        contestant.check_mailbox_grew(0, mail.len())?;
        contestant.empty_mailbox()?;
        Ok([rate, peak])
    });
    Ok(())
}

/// What waiting for each other costs those who append to one mailbox at once.
fn writers(bench: &mut Bench) -> Result<()> {
    const MESSAGES: usize = 640;
    const ALONE: &str = "mailrecv, 1 session";
    let what = "messages into one mailbox, 64 sessions";
    let figures = [Figure::new(what, Unit::PerSecond, Some(Target::RatioAtLeast(0.7)))];
    let contestants = [bench.mailrecv(ONE_RULE)?, bench.mailrecv(ONE_RULE)?.named(ALONE)];
    let mail = message(1_000);
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        contestant.empty_mailbox()?;
        let count = if contestant.name == ALONE { 1 } else { 64 };
        let mut sessions = (0..count).map(|_| Session::open(contestant, listener)).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let sent: Result<()> = thread::scope(|scope| {
            let send = |session: &mut Session| {
                (0..MESSAGES / count).try_for_each(|_| {
                    session.offer(RECIPIENT)?;
                    session.data(&mail)
                })
            };
            let threads: Vec<_> = sessions
                .iter_mut()
                .map(|session| scope.spawn(move || send(session).map_err(|problem| problem.to_string())))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "a writer panicked")?.map_err(Into::into))
        });
        sent?;
        let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
        sessions.iter_mut().try_for_each(Session::quit)?;
        contestant.check_mailbox_grew(0, MESSAGES * mail.len())?;
        contestant.empty_mailbox()?;
        Ok([rate])
    });
    Ok(())
}

/// What many exact addresses cost by the time of the greeting, and by the time that the last of them was looked up.
fn rules(bench: &mut Bench) -> Result<()> {
    for (count, target) in [(10_000, 1.0), (100_000, 8.0)] {
        let target = Some(Target::AddsAtMost(target));
        let figures = [
            Figure::new(&format!("{count} exact rules, exec to greeting"), Unit::AddedMilliseconds, target),
            Figure::new(&format!("{count} exact rules, exec to RCPT of the last"), Unit::AddedMilliseconds, target),
        ];
        let rule = |number| format!("deliver rcpt_to user{number}@example.com append /var/mail/user{number}\n");
        let many: String = (1..=count).map(rule).collect();
        let contestants = [bench.mailrecv(&many)?, bench.mailrecv(&rule(count))?.named("mailrecv, 1 rule")];
        bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
            let mut session = Session::open(contestant, listener)?;
            session.offer(&format!("user{count}@example.com"))?; // and no DATA: nothing is written there
            let to_recipient = session.started.elapsed();
            session.quit()?;
            Ok([milliseconds(session.to_greeting), milliseconds(to_recipient)])
        });
    }
    Ok(())
}

/// What many patterns cost a recipient that has to be tried against all of them: it matches none and is delivered by a
/// pattern below them, since an exact address would be found before any pattern is looked at.
fn error_patterns(bench: &mut Bench) -> Result<()> {
    let figures = [Figure::new("1000 `error` patterns, exec to RCPT", Unit::AddedMilliseconds, None)];
    let error = |number| {
        let pattern = match number % 4 {
            0 => format!("^former{number}@"),
            1 => format!("old-list-{number}"),
            2 => format!("[0-9][0-9]+-{number}@localhost$"),
            _ => format!("^(sales|info)\\.{number}.*@"),
        };
        format!("error rcpt_to {pattern} 550 No longer here\n")
    };
    let deliver = "deliver rcpt_to *@localhost append \"{dir}/mailbox-mailrecv\"\n";
    let config = |count| (1..=count).map(error).collect::<String>() + deliver;
    let contestants = [bench.mailrecv(&config(1000))?, bench.mailrecv(&config(1))?.named("mailrecv, 1 pattern")];
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        let mut session = Session::open(contestant, listener)?;
        session.offer(RECIPIENT)?;
        let to_recipient = session.started.elapsed();
        session.quit()?;
        Ok([milliseconds(to_recipient)])
    });
    Ok(())
}

/// Memory of a session that waits after EHLO. Processes share the pages of their program, and a busy receiver has many,
/// so the target is for one among fifty; a session that is alone has the whole program counted as its own.
fn idle(bench: &mut Bench) -> Result<()> {
    let contestants = bench.contestants(&[bench.mailrecv(ONE_RULE)?, bench.do_nothing()]);
    for (what, connections, target) in [("one of 50", 50, Some(Target::AtMost(300.0))), ("alone", 1, None)] {
        let figures = [Figure::new(&format!("idle connection, {what}, PSS"), Unit::Kibibytes, target)];
        bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
            let open = |_| Session::open(contestant, listener);
            let mut sessions = (0..connections).map(open).collect::<Result<Vec<_>>>()?;
            sessions.iter_mut().try_for_each(Session::hello)?;
            let memory = sessions.first().ok_or("no session")?.memory("smaps_rollup", "Pss:")?;
            sessions.iter_mut().try_for_each(Session::quit)?;
            Ok([memory])
        });
    }
    Ok(())
}

const ONE_RULE: &str = "deliver rcpt_to postmaster@localhost append \"{dir}/mailbox-mailrecv\"\n";

/// Every mail server takes mail for its postmaster, so `--against` needs no account.
const RECIPIENT: &str = "postmaster@localhost";

/// A message of about `size` bytes that looks like one with an attachment, ready to be sent behind DATA.
fn message(size: usize) -> Vec<u8> {
    let mut message = b"From: Bench <bench@localhost>\r\nTo: Postmaster <postmaster@localhost>\r\n\
        Date: Sat, 21 Nov 2026 01:32:50 +0000\r\nMessage-ID: <1@bench.localhost>\r\nSubject: bench\r\n\r\n"
        .to_vec();
    while message.len() < size {
        message.extend_from_slice(b"VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZy4gVGhlIHF1aWNrIGJy\r\n");
    }
    message.extend_from_slice(b".\r\n");
    message
}

// ---- who is measured -----------------------------------------------------------------------------------------------

struct Bench {
    options: Options,
    listener: TcpListener,
    /// Configs, mailboxes and the log; gone with the value.
    scratch: PathBuf,
    do_nothing: PathBuf,
    against: Option<Contestant>,
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Bench {
    fn new(mut options: Options) -> Result<Self> {
        options.mailrecv = install(&options.mailrecv, "mailrecv")?;
        let against = options.against.as_deref().map(Contestant::from_command).transpose()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let do_nothing = build_do_nothing()?;
        let scratch = options.dir.join(format!("budget-{}", process::id()));
        fs::create_dir(&scratch).map_err(|problem| format!("{}: {problem}", scratch.display()))?;
        let scratch = fs::canonicalize(scratch)?;
        Ok(Self { options, listener, scratch, do_nothing, against, rows: Vec::new(), failures: Vec::new() })
    }

    fn runs(&self) -> usize {
        self.options.runs
    }

    /// For what takes long, or hardly varies.
    fn few_runs(&self) -> usize {
        (self.options.runs / 20).max(3)
    }

    /// Mailrecv with `rules`, in which `{dir}` stands for the scratch folder.
    fn mailrecv(&self, rules: &str) -> Result<Contestant> {
        let dir = self.scratch.display().to_string();
        let number = self.scratch.read_dir()?.count();
        let config = self.scratch.join(format!("{number}.conf"));
        let rules = rules.replace("{dir}", &dir);
        let text = format!(
            "domain localhost\nlogfile \"{dir}/log\"\nspool_dir \"{dir}\"\n\
             limit.fcrdns_check off\nlimit.smtp_data_size 60000000\n{rules}"
        );
        fs::write(&config, text)?;
        Ok(Contestant {
            name: "mailrecv".to_owned(),
            program: self.options.mailrecv.clone(),
            arguments: vec!["-c".to_owned(), config.display().to_string()],
            mailbox: Some(self.scratch.join("mailbox-mailrecv")),
        })
    }

    fn do_nothing(&self) -> Contestant {
        let name = "do-nothing".to_owned();
        Contestant { name, program: self.do_nothing.clone(), arguments: Vec::new(), mailbox: None }
    }

    /// What the disk costs: the same, but the mail is written and synced.
    fn do_nothing_durable(&self) -> Contestant {
        let mailbox = self.scratch.join("mailbox-do-nothing");
        Contestant {
            name: "do-nothing + fsync".to_owned(),
            program: self.do_nothing.clone(),
            arguments: vec!["-w".to_owned(), mailbox.display().to_string()],
            mailbox: Some(mailbox),
        }
    }

    fn contestants(&self, ours: &[Contestant]) -> Vec<Contestant> {
        ours.iter().chain(&self.against).cloned().collect()
    }

    /// Takes a sample of each contestant in turn, and again, and adds a row for each that the first one, mailrecv, is
    /// compared with. The first turn fills caches and does not count; a contestant that failed once is out.
    fn measure<const N: usize>(
        &mut self,
        figures: [Figure; N],
        runs: usize,
        contestants: &[Contestant],
        sample: impl Fn(&Contestant, &TcpListener) -> Result<[f64; N]>,
    ) {
        let mut all: Vec<Result<Vec<[f64; N]>>> = contestants.iter().map(|_| Ok(Vec::new())).collect();
        for turn in 0..=runs {
            for (contestant, series) in contestants.iter().zip(&mut all) {
                if let Ok(samples) = series {
                    match sample(contestant, &self.listener) {
                        Ok(values) if turn > 0 => samples.push(values),
                        Ok(_) => {}
                        Err(problem) => *series = Err(problem),
                    }
                }
            }
        }
        for (contestant, series) in contestants.iter().zip(&all) {
            if let Err(problem) = series {
                let what: Vec<_> = figures.iter().map(|figure| figure.what.as_str()).collect();
                self.failures.push(format!("{}: {}: {problem}", what.join("; "), contestant.name));
            }
        }
        let mut rivals = contestants.iter().zip(&all);
        let Some((_, Ok(ours))) = rivals.next() else { return };
        let rivals: Vec<_> = rivals.collect();
        for (place, figure) in figures.into_iter().enumerate() {
            for (index, (rival, theirs)) in rivals.iter().enumerate() {
                // The first rival is the yardstick that targets speak of.
                let target = figure.target.filter(|_| index == 0);
                let Ok(theirs) = theirs else { continue };
                let pairs = ours.iter().zip(theirs).filter_map(|(a, b)| Some((*a.get(place)?, *b.get(place)?)));
                self.rows.push(Row {
                    figure: Figure { target, ..figure.clone() },
                    rival: rival.name.clone(),
                    pairs: pairs.collect(),
                });
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
