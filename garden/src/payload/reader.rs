//! Our own form of payload files: a line for each unit, which begins with what it is.

use std::time::Duration;

use super::problem::{Fault, Problem};
use super::variables::{Assignments, MOST_COMBINATIONS, Template, is_variable};
use super::{HEADING, name_of};
use crate::case::{Case, Part, Unit};

/// The cases of a file that begins with the heading.
pub(super) fn read(file: &str, octets: &[u8], assignments: &Assignments) -> Result<Vec<Case>, Vec<Problem>> {
    let lines: Vec<&[u8]> = lines(octets).collect();
    let mut draft = Draft::default();
    let mut problems = Vec::new();
    // The heading is the first line.
    for (number, line) in (1..).zip(&lines).skip(1) {
        if let Err(fault) = draft.line(number, line) {
            problems.push(fault.cite(file, number, line));
        }
    }
    if draft.units.is_empty() && problems.is_empty() {
        let fault = Fault::new(0..HEADING.len(), "no unit", "add lines such as `mail MAIL FROM:<__SOURCE__>\\r\\n`");
        problems.push(fault.cite(file, 1, HEADING.as_bytes()));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let name = draft.name.take().unwrap_or_else(|| name_of(file));
    let cite =
        |number: usize, fault: Fault| fault.cite(file, number, lines.get(number - 1).copied().unwrap_or_default());
    draft
        .cases(&name, assignments)
        .map_err(|faults| faults.into_iter().map(|(number, fault)| cite(number, fault)).collect())
}

/// The lines without their ends. A line end at the very end does not begin another line.
pub(super) fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let octets = octets.strip_suffix(b"\n").unwrap_or(octets);
    octets.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// One or more cases, before variables have their values.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) name: Option<String>,
    pub(super) assignments: Assignments,
    /// Each unit with the number of its line, and the position of its text in the line.
    pub(super) units: Vec<(usize, usize, DraftUnit)>,
}

pub(super) enum DraftUnit {
    Send(Part, Template),
    Other(Unit),
}

impl Draft {
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), Fault> {
        let line = match str::from_utf8(line) {
            Ok(line) => line,
            Err(error) => {
                let at = error.valid_up_to();
                let advice = format!("write \\x{:02x}", line.get(at).copied().unwrap_or_default());
                return Err(Fault::new(at..at + 1, "an octet that is no text", advice));
            }
        };
        if line.trim_matches([' ', '\t']).is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some((name, value)) = assignment(line) {
            let start = line.len() - value.len();
            self.assignments.add(name, Template::parse(value).map_err(|fault| fault.moved(start))?);
            return Ok(());
        }
        let (word, text) = line.split_once(' ').unwrap_or((line, ""));
        let start = line.len() - text.len();
        let moved = |fault: Fault| fault.moved(start);
        if let Some(part) = Part::ALL.into_iter().find(|part| part.name() == word) {
            let template = Template::parse(text).map_err(moved)?;
            self.units.push((number, start, DraftUnit::Send(part, template)));
            return Ok(());
        }
        let unit = match word {
            "expect" => Unit::Expect { code: code(text).map_err(moved)? },
            "pause" => Unit::Pause(pause(text).map_err(moved)?),
            "starttls" if text.is_empty() => Unit::StartTls,
            "starttls" => return Err(Fault::new(start..line.len(), "a word too many", "write `starttls` alone")),
            "name" if self.name.is_some() => {
                return Err(Fault::new(0..word.len(), "a second name", "take it away: a file has one"));
            }
            "name" => {
                self.name = Some(name(text).map_err(moved)?);
                return Ok(());
            }
            _ => return Err(Fault::new(0..word.len(), format!("`{word}` is no unit"), KNOWN)),
        };
        self.units.push((number, start, DraftUnit::Other(unit)));
        Ok(())
    }

    /// The cases, one for each combination of values; or errors with the numbers of their lines.
    pub(super) fn cases(&self, name: &str, given: &Assignments) -> Result<Vec<Case>, Vec<(usize, Fault)>> {
        let assignments = given.over(&self.assignments);
        let sends: Vec<_> = self
            .units
            .iter()
            .filter_map(|(number, start, unit)| match unit {
                DraftUnit::Send(_, template) => Some((*number, *start, template)),
                DraftUnit::Other(_) => None,
            })
            .collect();
        let needed = assignments.needed(sends.iter().map(|(_, _, template)| *template)).map_err(|faults| {
            let placed = |(send, fault): (usize, Fault)| (sends[send].0, fault.moved(sends[send].1));
            faults.into_iter().map(placed).collect::<Vec<_>>()
        })?;
        let combinations = assignments.combinations(&needed).map_err(|number| {
            let message = format!("the values of the variables have {number} combinations");
            vec![(
                1,
                Fault::new(
                    0..HEADING.len(),
                    message,
                    format!("assign fewer values: up to {MOST_COMBINATIONS} combinations"),
                ),
            )]
        })?;
        let unit = |unit: &DraftUnit, combination: &super::variables::Combination<'_>| match unit {
            DraftUnit::Send(part, template) => Unit::Send { part: *part, octets: combination.fill(template) },
            DraftUnit::Other(unit) => unit.clone(),
        };
        Ok(combinations
            .iter()
            .map(|combination| Case {
                name: format!("{name}{}", combination.suffix),
                units: self.units.iter().map(|(_, _, draft)| unit(draft, combination)).collect(),
            })
            .collect())
    }
}

const KNOWN: &str = "a line begins with one of helo, mail, rcpt, data, header, body, end, tail, quit, expect, pause, starttls, name, \
                     with # or with __NAME__ =";

/// The name and the value of `__NAME__ = VALUE`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches(' ');
    is_variable(name).then(|| (name, value.strip_prefix(' ').unwrap_or(value)))
}

fn code(text: &str) -> Result<String, Fault> {
    let text = text.trim_end_matches(' ');
    let is_code = text.len() <= 3
        && text.bytes().all(|octet| octet.is_ascii_digit())
        && text.bytes().next().is_none_or(|first| (b'2'..=b'5').contains(&first));
    let fault =
        || Fault::new(0..text.len(), "not the beginning of a code", "write `expect`, `expect 2` or `expect 354`");
    if is_code { Ok(text.to_owned()) } else { Err(fault()) }
}

fn name(text: &str) -> Result<String, Fault> {
    let is_name = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic());
    let fault = || Fault::new(0..text.len(), "not a name", "write letters, digits and signs of ASCII, without blanks");
    if is_name { Ok(text.to_owned()) } else { Err(fault()) }
}

fn pause(text: &str) -> Result<Duration, Fault> {
    let text = text.trim_end_matches(' ');
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = super::writer::PAUSES.iter().find(|(name, _)| *name == unit);
    let nanoseconds = number.parse::<u128>().ok().zip(unit).and_then(|(number, (_, unit))| number.checked_mul(*unit));
    let duration = nanoseconds.and_then(|nanoseconds| {
        let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
        let rest = u32::try_from(nanoseconds % 1_000_000_000).ok()?;
        Some(Duration::new(seconds, rest))
    });
    duration.ok_or_else(|| Fault::new(0..text.len(), "not a time", "write `pause 500ms` or `pause 2s`"))
}
