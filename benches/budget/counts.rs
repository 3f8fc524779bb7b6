//! What can be counted rather than timed: instructions (callgrind), page faults (the kernel) and system calls (strace).
//!
//! Counts are the same on a busy machine, so a change of one in a hundred shows. They say nothing of what the kernel
//! does in a call or a fault, which is most of a short session's time.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use testkit::certificates::{Authority, Key};

use crate::Result;
use crate::bench::Bench;
use crate::contest::{Contestant, Session, find_program};
use crate::rules::{IN_A_GROUP, PLAIN};
use crate::sessions::{ONE_RULE, PIPE, RECIPIENT, message};
use crate::table::{Figure, Unit};
use crate::tls::{Secured, name};

pub(crate) fn counts(bench: &mut Bench) -> Result<()> {
    let nothing = |_: &mut Session| Ok(());
    count(bench, "exec to greeting and QUIT", ONE_RULE, nothing)?;
    let mail = message(1_000);
    count(bench, "one small mail", ONE_RULE, |session| {
        session.offer(&[RECIPIENT])?;
        session.data(&mail)
    })?;
    let authority = Authority::new();
    for key in [Key::P256, Key::Rsa] {
        let Secured { anew, resumed, in_the_clear, .. } = Secured::new(bench, &authority, key)?;
        for (what, contestant) in [("STARTTLS", anew), ("STARTTLS with a ticket", resumed)] {
            let what = format!("EHLO, {what}, EHLO, {}", name(key));
            count_beside(bench, &what, &[contestant, in_the_clear.clone()], Session::hello)?;
        }
    }
    for (what, more) in [("a pipe within reach, the session alone", PIPE), ("sandbox strict", "sandbox strict\n")] {
        count(bench, what, &format!("{ONE_RULE}{more}"), nothing)?;
    }
    for number in [10_000, 100_000] {
        for form in [PLAIN, IN_A_GROUP] {
            count(bench, &format!("{number} {}", form.what), &form.rules(1..=number), nothing)?;
        }
    }
    Ok(())
}

/// Adds the rows of sessions in which `talk` comes between greeting and QUIT.
fn count(bench: &mut Bench, what: &str, rules: &str, talk: impl Fn(&mut Session) -> Result<()>) -> Result<()> {
    let contestants = [bench.mailrecv(rules)?, bench.do_nothing()];
    count_beside(bench, what, &contestants, talk)
}

fn count_beside(
    bench: &mut Bench,
    what: &str,
    contestants: &[Contestant],
    talk: impl Fn(&mut Session) -> Result<()>,
) -> Result<()> {
    let figures =
        [(Unit::Instructions, "instructions"), (Unit::PageFaults, "page faults"), (Unit::SystemCalls, "system calls")]
            .map(|(unit, counted)| Figure::new(&format!("{what}, {counted}"), unit, None));
    let counter = Counter {
        valgrind: find_program("valgrind").ok(),
        strace: find_program("strace").ok(),
        file: bench.scratch.join("counted"),
    };
    bench.measure(figures, TURNS, contestants, |contestant, listener| {
        Ok([
            counter.instructions(contestant, listener, &talk)?,
            page_faults(contestant, listener, &talk)?,
            counter.system_calls(contestant, listener, &talk)?,
        ])
    });
    Ok(())
}

type Talk<'t> = &'t dyn Fn(&mut Session) -> Result<()>;

fn page_faults(contestant: &Contestant, listener: &TcpListener, talk: Talk<'_>) -> Result<f64> {
    let mut session = Session::open(contestant, listener)?;
    talk(&mut session)?;
    session.quit_and_count_faults()
}

struct Counter {
    valgrind: Option<PathBuf>,
    strace: Option<PathBuf>,
    /// Where these two write.
    file: PathBuf,
}

impl Counter {
    /// NaN without valgrind.
    fn instructions(&self, contestant: &Contestant, listener: &TcpListener, talk: Talk<'_>) -> Result<f64> {
        let Some(valgrind) = &self.valgrind else { return Ok(f64::NAN) };
        let log = format!("--log-file={}", self.file.display());
        // What it would write there, the sandbox forbids; the total in its log is enough.
        let options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", &log];
        let log = self.report(&contestant.under(valgrind, &options), listener, talk)?;
        // `==PID== Collected : TOTAL`
        let total = log.lines().find_map(|line| line.split_once("Collected : ")).ok_or("no total from callgrind")?.1;
        Ok(total.trim().parse()?)
    }

    /// NaN without strace.
    fn system_calls(&self, contestant: &Contestant, listener: &TcpListener, talk: Talk<'_>) -> Result<f64> {
        let Some(strace) = &self.strace else { return Ok(f64::NAN) };
        let file = self.file.display().to_string();
        let trace = self.report(&contestant.under(strace, &["-o", &file]), listener, talk)?;
        // A line a call, but for signals and the end.
        Ok(trace.lines().filter(|line| !line.starts_with(['+', '-'])).count() as f64)
    }

    fn report(&self, contestant: &Contestant, listener: &TcpListener, talk: Talk<'_>) -> Result<String> {
        let mut session = Session::open(contestant, listener)?;
        talk(&mut session)?;
        session.quit()?;
        Ok(fs::read_to_string(&self.file)?)
    }
}

/// Enough for a median: a page more or less is touched, as addresses fall.
const TURNS: usize = 5;
