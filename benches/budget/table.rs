//! The figures, their targets, and the table they are shown in.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{fs, thread};

#[derive(Clone)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) target: Option<Target>,
}

impl Figure {
    pub(crate) fn new(what: &str, unit: Unit, target: Option<Target>) -> Self {
        Self { what: what.to_owned(), unit, target }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Milliseconds,
    /// Compared by difference, not by ratio.
    AddedMilliseconds,
    /// Of processor time.
    MicrosecondsPerByte,
    MegabytesPerSecond,
    PerSecond,
    Kibibytes,
    /// NaN where there is no valgrind.
    Instructions,
    PageFaults,
    /// NaN where there is no strace.
    SystemCalls,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds | Self::AddedMilliseconds => format!("{value:.2} ms"),
            Self::MicrosecondsPerByte => format!("{value:.2} us"),
            Self::MegabytesPerSecond => format!("{value:.0} MB/s"),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::Kibibytes => format!("{value:.0} KiB"),
            Self::Instructions if value.is_nan() => "no valgrind".to_owned(),
            Self::SystemCalls if value.is_nan() => "no strace".to_owned(),
            Self::Instructions | Self::PageFaults | Self::SystemCalls => format!("{value:.0}"),
        }
    }

    /// How far a figure may be from that of an older mailrecv.
    pub(crate) fn target_beside_older(self) -> Option<Target> {
        matches!(self, Self::Milliseconds).then_some(Target::RatioAtMost(1.05))
    }

    fn compare(self, (ours, theirs): (f64, f64)) -> f64 {
        if matches!(self, Self::AddedMilliseconds) { ours - theirs } else { ours / theirs }
    }

    fn show_comparison(self, value: f64) -> String {
        match self {
            Self::AddedMilliseconds => format!("{value:+.2} ms"),
            _ if value >= 100.0 => format!("{value:.0} x"),
            _ => format!("{value:.2} x"),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Target {
    RatioAtMost(f64),
    RatioAtLeast(f64),
    AddsAtMost(f64),
    AtMost(f64),
    AtLeast(f64),
}

/// Mailrecv beside one rival: both figures of each turn.
pub(crate) struct Row {
    pub(crate) figure: Figure,
    pub(crate) rival: String,
    pub(crate) pairs: Vec<(f64, f64)>,
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let unit = self.figure.unit;
        let (ours, theirs, compared) = medians(unit, &self.pairs);
        let (target, met) = match self.figure.target {
            None => (String::new(), ""),
            Some(Target::RatioAtMost(limit)) => (format!("at most {limit} x"), yes_or_no(compared <= limit)),
            Some(Target::RatioAtLeast(limit)) => (format!("at least {limit} x"), yes_or_no(compared >= limit)),
            Some(Target::AddsAtMost(limit)) => (format!("at most {limit:+} ms"), yes_or_no(compared <= limit)),
            Some(Target::AtMost(limit)) => (format!("at most {}", unit.show(limit)), yes_or_no(ours <= limit)),
            Some(Target::AtLeast(limit)) => (format!("at least {}", unit.show(limit)), yes_or_no(ours >= limit)),
        };
        vec![
            self.figure.what.clone(),
            unit.show(ours),
            format!("{} ({})", unit.show(theirs), self.rival),
            unit.show_comparison(compared),
            unit.show_comparison(unit.compare(best(unit, &self.pairs))),
            target,
            met.to_owned(),
        ]
    }
}

fn yes_or_no(met: bool) -> &'static str {
    if met { "yes" } else { "NO" }
}

/// Of ours, of theirs, and of the comparisons of each turn.
fn medians(unit: Unit, pairs: &[(f64, f64)]) -> (f64, f64, f64) {
    let (ours, theirs) = at_tenth(5, pairs);
    let (compared, _) = at_tenth(5, &pairs.iter().map(|pair| (unit.compare(*pair), 0.0)).collect::<Vec<_>>());
    (ours, theirs, compared)
}

/// What one turn in ten was as good as, ours and theirs: hardly touched by what else the machine had to do.
fn best(unit: Unit, pairs: &[(f64, f64)]) -> (f64, f64) {
    at_tenth(if matches!(unit, Unit::MegabytesPerSecond | Unit::PerSecond) { 9 } else { 1 }, pairs)
}

/// The values below which so many tenths of ours and of theirs are.
fn at_tenth(tenth: usize, pairs: &[(f64, f64)]) -> (f64, f64) {
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let place = pairs.len() * tenth / 10;
    (ours.get(place).copied().unwrap_or(f64::NAN), theirs.get(place).copied().unwrap_or(f64::NAN))
}

/// What is below which so many per cent of the values are, which are in their order.
pub(crate) fn share(values: &[f64], per_cent: usize) -> f64 {
    values.get(values.len() * per_cent / 100).copied().unwrap_or(f64::NAN)
}

/// The rows as a table.
pub(crate) fn of_rows(rows: &[Row]) -> Table {
    let mut table =
        Table::new("", &["what", "mailrecv", "compared with", "ratio or added", "best tenth", "target", "met"]);
    rows.iter().for_each(|row| table.add(row.cells()));
    table
}

/// A table of its own form.
pub(crate) struct Table {
    pub(crate) title: String,
    /// Its headline and what follows, cell by cell.
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: &str, head: &[&str]) -> Self {
        Self { title: title.to_owned(), lines: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn add(&mut self, cells: Vec<String>) {
        self.lines.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.len() == 1
    }

    /// In Markdown, so that it can go into a README as it is.
    pub(crate) fn markdown(&self) -> String {
        markdown(self.lines.clone())
    }
}

fn markdown(mut lines: Vec<Vec<String>>) -> String {
    let mut widths = vec![3; lines[0].len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    lines.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());

    let mut table = String::new();
    for line in lines {
        for (cell, &width) in line.iter().zip(&widths) {
            let _ = write!(table, "| {cell:width$} ");
        }
        table.push_str("|\n");
    }
    table
}

/// Date, machine, and the file system that the mail went to.
pub(crate) fn circumstances(mail_folder: &Path) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    format!(
        "{}, {}, {} x {}, mail written to {}",
        output_of(Command::new("date").arg("+%F")),
        output_of(Command::new("uname").arg("-sr")),
        thread::available_parallelism().map_or(1, usize::from),
        processor.unwrap_or("processor unknown"),
        output_of(Command::new("df").arg("--output=fstype").arg(mail_folder)),
    )
}

/// The last line that a command prints.
fn output_of(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().last().unwrap_or("unknown").to_owned()
}
