//! Writes a case as a payload file.

use std::time::Duration;

use super::HEADING;
use super::variables::{is_placeholder, variable};
use crate::case::{Case, Unit, escaped};

/// The payload file of a case; [`super::read`] restores the same case from it.
///
/// The name has to consist of visible ASCII characters, and expected codes of digits, as in all cases that are made
/// here. Otherwise reading the file reports an error.
pub fn write(case: &Case) -> String {
    let mut text = format!("{HEADING}\nname {}\n\n", case.name);
    for unit in &case.units {
        match unit {
            Unit::Send { part, octets } => text.push_str(&line(part.name(), &octets_as_text(octets))),
            Unit::Expect { code } => text.push_str(&line("expect", code)),
            Unit::Pause(duration) => text.push_str(&line("pause", &pause(*duration))),
            Unit::StartTls => text.push_str(&line("starttls", "")),
        }
    }
    text
}

fn line(word: &str, text: &str) -> String {
    match text.is_empty() {
        true => format!("{word}\n"),
        false => format!("{word} {text}\n"),
    }
}

/// The octets as text in which only placeholders are variables, without a blank at the end.
fn octets_as_text(octets: &[u8]) -> String {
    let escaped = escaped::escape(octets);
    let mut text = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(at) = rest.find("__") {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match variable(rest) {
            Some(name) if is_placeholder(name) => name.len(),
            Some(_) => {
                text.push_str("\\x5f");
                rest = &rest[1..];
                continue;
            }
            None => 1,
        };
        text.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    text.push_str(rest);
    if text.ends_with(' ') {
        text.pop();
        text.push_str("\\x20");
    }
    text
}

fn pause(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let (name, unit) = PAUSES.iter().find(|(_, unit)| nanoseconds.is_multiple_of(*unit)).unwrap_or(&("ns", 1));
    format!("{}{name}", nanoseconds / unit)
}

/// Units of time in nanoseconds, the longest first.
pub(super) const PAUSES: [(&str, u128); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];
