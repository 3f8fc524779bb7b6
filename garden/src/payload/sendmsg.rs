//! The form of `sendmsg.py` from the SMTP Garden that this program follows: each line is a piece that is sent, with
//! escapes as in Python's byte strings.
//!
//! It is read in the same way: lines end with LF, CR LF or CR, the last character of each line is removed, even from a
//! last line without an end, and nothing is added. That program reads once after each piece, for at most 50 ms. Here a
//! reply is waited for after each piece that gets one from a server that follows the standard, and 50 ms pass after any
//! other piece.

use std::time::Duration;

use super::name_of;
use super::problem::{Fault, Problem};
use super::reader::{Draft, DraftUnit};
use super::variables::{Assignments, Piece, Template, is_placeholder, variable};
use crate::case::{Case, Unit};
use crate::oracle::Guide;

/// The cases of such a file. Only names that have a value are variables.
pub(super) fn read(file: &str, octets: &[u8], assignments: &Assignments) -> Result<Vec<Case>, Vec<Problem>> {
    let text = match str::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => return Err(vec![not_text(file, octets, error.valid_up_to())]),
    };
    let (mut draft, mut problems) = (Draft::default(), Vec::new());
    for (number, line) in (1..).zip(lines(text)) {
        match template(line, assignments) {
            // What each unit is, and what to wait for behind it, is determined when the values are known.
            Ok(template) => draft.units.push((number, 0, DraftUnit::Send(crate::case::Part::Body, template))),
            Err(fault) => problems.push(fault.cite(file, number, line.as_bytes())),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let drafts = draft.cases(&name_of(file), assignments).map_err(|faults| {
        let source = |number: usize| lines(text).nth(number - 1).unwrap_or_default();
        let cite = |(number, fault): (usize, Fault)| fault.cite(file, number, source(number).as_bytes());
        faults.into_iter().map(cite).collect::<Vec<_>>()
    })?;
    Ok(drafts.into_iter().map(with_replies).collect())
}

fn not_text(file: &str, octets: &[u8], at: usize) -> Problem {
    let before = &octets[..at];
    let start = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1);
    let number = before.iter().filter(|octet| **octet == b'\n').count() + 1;
    let line = octets[start..].split(|octet| *octet == b'\n').next().unwrap_or_default();
    let advice = format!("write \\x{:02x}", octets.get(at).copied().unwrap_or_default());
    Fault::new(at - start..at - start + 1, "an octet that is no text", advice).cite(file, number, line)
}

/// The lines without the character that is removed.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let line = match rest.find(['\r', '\n']) {
            Some(at) => {
                let line = &rest[..at];
                let end = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
                rest = &rest[at + end..];
                return Some(line);
            }
            None => std::mem::take(&mut rest),
        };
        let last = line.chars().next_back().map_or(0, char::len_utf8);
        Some(&line[..line.len() - last])
    })
}

/// The octets of a line, with those variables that have a value.
fn template(line: &str, assignments: &Assignments) -> Result<Template, Fault> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    let push = |pieces: &mut Vec<Piece>, text: &str, start: usize| -> Result<(), Fault> {
        pieces.push(Piece::Octets(unescape(text).map_err(|fault| fault.moved(start))?));
        Ok(())
    };
    while let Some(found) = line[at..].find("__").map(|found| found + at) {
        match variable(&line[found..]).filter(|name| assignments.has(name) || is_placeholder(name)) {
            Some(name) => {
                push(&mut pieces, &line[start..found], start)?;
                pieces.push(Piece::Variable(name.to_owned(), found));
                (start, at) = (found + name.len(), found + name.len());
            }
            None => at = found + 1,
        }
    }
    push(&mut pieces, &line[start..], start)?;
    Ok(Template(pieces))
}

/// The result of Python's `codecs.escape_decode`.
///
/// # Errors
///
/// What that function fails on: `\x` without two digits, or a backslash at the end.
fn unescape(text: &str) -> Result<Vec<u8>, Fault> {
    let mut octets = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&octet) = bytes.get(at) {
        at += 1;
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        let start = at - 1;
        let Some(&kind) = bytes.get(at) else {
            return Err(Fault::new(start..at, "a backslash with nothing behind it", "write \\\\ for a backslash"));
        };
        at += 1;
        match kind {
            b'\\' | b'\'' | b'"' => octets.push(kind),
            b'a' => octets.push(0x07),
            b'b' => octets.push(0x08),
            b'f' => octets.push(0x0c),
            b'n' => octets.push(b'\n'),
            b'r' => octets.push(b'\r'),
            b't' => octets.push(b'\t'),
            b'v' => octets.push(0x0b),
            b'0'..=b'7' => {
                let more = bytes[at..].iter().take(2).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
                let digits = &bytes[at - 1..at + more];
                // Three digits may exceed an octet; the excess is dropped.
                octets.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                at += more;
            }
            b'x' => {
                let digits = bytes.get(at..at + 2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let value = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
                let fault = || Fault::new(start..at, "`\\x` without two hexadecimal digits", "write \\x00 to \\xff");
                octets.push(value.ok_or_else(fault)?);
                at += 2;
            }
            _ => octets.extend([b'\\', kind]),
        }
    }
    Ok(octets)
}

/// The case with the waits behind each piece, and with the part that each piece belongs to.
fn with_replies(case: Case) -> Case {
    let mut guide = Guide::new();
    let mut units = Vec::new();
    for unit in case.units {
        let Unit::Send { octets, .. } = unit else { continue };
        let (part, replies) = guide.send(&octets);
        if !octets.is_empty() {
            units.push(Unit::Send { part, octets });
        }
        match replies {
            0 => units.push(Unit::Pause(PATIENCE)),
            replies => units.extend((0..replies).map(|_| Unit::Expect { code: String::new() })),
        }
    }
    Case { name: case.name, units }
}

/// How long that program waits for octets that may not come.
const PATIENCE: Duration = Duration::from_millis(50);
