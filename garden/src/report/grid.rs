//! A grid for a terminal: a row for each case, a column for each server, and a letter at each crossing.
//!
//! Without colours it says the same: they only repeat the letters.

use std::fmt::Write as _;

use super::{Finding, Mutations, OTHER_LETTERS, Report, letter, verdict_of};
use crate::compare::{Chain, Class, Kind, Stand};

/// The grid, an explanation of its letters, and the findings, each with the command that shows it again; `again` is the
/// result of [`Report::again`]. With `has_colours`, letters are coloured for a terminal (ECMA-48).
pub fn grid(report: &Report, again: &str, has_colours: bool) -> String {
    let mut text = String::new();
    let names: Vec<&str> =
        report.servers.iter().filter(|server| server.absent.is_none()).map(|server| server.name.as_str()).collect();
    let cases: Vec<_> = report.cases.iter().filter(|entry| entry.of.is_none()).collect();
    let width = cases.iter().map(|entry| entry.case.name.chars().count()).max().unwrap_or(0).max(4);
    head(&mut text, &names, width);
    let mut used = Vec::new();
    for entry in &cases {
        let _ = write!(text, "{:width$} ", entry.case.name);
        for server in &names {
            let stand = verdict_of(entry, server).map(|verdict| &verdict.stand);
            let letter = stand.map_or(' ', letter);
            if !used.contains(&letter) {
                used.push(letter);
            }
            let _ = write!(text, " {}", coloured(letter, stand, has_colours));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text.push('\n');
    let kinds = Kind::ALL.map(|kind| (kind.letter(), kind.meaning()));
    for (letter, meaning) in OTHER_LETTERS.into_iter().chain(kinds) {
        if used.contains(&letter) && letter != ' ' {
            let _ = writeln!(text, "{letter}  {meaning}");
        }
    }
    for server in &report.servers {
        if let Some(reason) = &server.absent {
            let _ = writeln!(text, "{} did not take part: {reason}", server.name);
        }
        for doubt in server.learned.iter().flat_map(|learned| &learned.unexplained) {
            let _ = writeln!(text, "{}: {doubt}", server.name);
        }
    }
    findings(&mut text, report, again);
    text
}

/// The names of servers vertically, one letter in each line.
fn head(text: &mut String, names: &[&str], width: usize) {
    let height = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for row in 0..height {
        let mut line = " ".repeat(width + 1);
        for name in names {
            let length = name.chars().count();
            let character = (row + length).checked_sub(height).and_then(|at| name.chars().nth(at)).unwrap_or(' ');
            line.push(' ');
            line.push(character);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn coloured(letter: char, stand: Option<&Stand>, has_colours: bool) -> String {
    const RED: &str = "1;31";
    const YELLOW: &str = "33";
    const DIM: &str = "2";
    let Some(stand) = stand.filter(|_| has_colours) else {
        return letter.to_string();
    };
    let colour = match stand {
        Stand::WithTheOthers | Stand::Refuses => DIM,
        Stand::Unknown(_) | Stand::Unsteady { .. } => YELLOW,
        Stand::Apart(differences) => match differences.first().map(|first| first.kind.class()) {
            Some(Class::Died | Class::Count | Class::Forged | Class::Cut | Class::Header) => RED,
            _ => YELLOW,
        },
    };
    format!("\x1b[{colour}m{letter}\x1b[0m")
}

fn findings(text: &mut String, report: &Report, again: &str) {
    let numbers = &report.numbers;
    let _ = writeln!(
        text,
        "\n{} cases, {} sessions; apart {} times, {} without what servers do to every message, {} of those each time; \
         {} findings, {} unsteady",
        numbers.cases,
        numbers.sessions,
        numbers.apart_unscreened,
        numbers.apart,
        numbers.steady,
        numbers.findings,
        report.unsteady.len()
    );
    if let Some(Mutations { seed, made }) = report.mutations {
        let _ = writeln!(text, "{made} mutations; `mutations --seed {seed} --mutations {made}` makes them again");
    }
    let mut class = None;
    for finding in &report.findings {
        if class != Some(finding.kind.class()) {
            class = Some(finding.kind.class());
            let _ = writeln!(text, "\n{}", finding.kind.class().name());
        }
        let public: Vec<_> = finding.public.iter().map(|public| public.name.as_str()).collect();
        let public = if public.is_empty() { String::new() } else { format!(" [{}]", public.join(", ")) };
        let _ = writeln!(text, "  {}: {}{public}", finding.server, finding.kind.meaning());
        let _ = writeln!(text, "    {}", finding.detail);
        let _ = writeln!(text, "    {}", Report::command(again, &finding.case, &needed(report, finding)));
    }
    if !report.unsteady.is_empty() {
        let _ = writeln!(text, "\nnot each time");
    }
    for unsteady in &report.unsteady {
        let what = unsteady.differences.first().map_or("apart", |difference| difference.kind.meaning());
        let _ = writeln!(text, "  {}, {}: {what}; {} of 3 times", unsteady.server, unsteady.case, unsteady.again);
    }
    if !report.chains.is_empty() {
        let _ = writeln!(text, "\nrelay and receiver");
    }
    for entry in &report.chains {
        let Chain { relay, receiver, case, variant } = &entry.chain;
        let stand = match &entry.stand {
            None => "to be confirmed".to_owned(),
            Some(Stand::Apart(differences)) => {
                differences.first().map_or_else(String::new, |difference| difference.kind.meaning().to_owned())
            }
            Some(Stand::Unknown(reason)) => reason.clone(),
            Some(_) => "nothing comes of it".to_owned(),
        };
        let _ = writeln!(text, "  {relay} before {receiver}, {variant} of {case}: {stand}");
    }
}

/// The servers that show a finding: its own, and some that it differs from, so that they are the majority.
fn needed<'r>(report: &'r Report, finding: &'r Finding) -> Vec<&'r str> {
    const OTHERS: usize = 2;
    let entry = report.case(&finding.case);
    let others = entry.into_iter().flat_map(|entry| entry.judgement.reference()).take(OTHERS);
    [finding.server.as_str()].into_iter().chain(others).collect()
}
