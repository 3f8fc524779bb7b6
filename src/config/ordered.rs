//! Rules that are tried one after the other, in the order of the file: `deliver`, `copy` and `error` lines with patterns.

use std::fmt;

use super::action::Action;
use super::domains::DomainList;
use super::exact::{Addressee, is_exact, unquoted};
use super::lexer::Word;
use super::limits::Refusal;
use super::pattern::{BrokenPattern, Pattern, Position};
use super::table::Table;
use super::trace::{Note, Trace};
use crate::untrusted::Untrusted;

#[derive(Debug)]
pub(super) struct OrderedRule {
    pub(super) matcher: Matcher,
    pub(super) group: Option<usize>,
    pub(super) position: Position,
    pub(super) effect: Effect,
}

#[derive(Debug)]
pub(super) enum Matcher {
    Address(Box<str>),
    Wildcard(Box<str>),
    Pattern(Pattern),
    Table(Table),
    Domains(DomainList),
}

#[derive(Debug)]
pub(super) enum Effect {
    Deliver(Action),
    Refuse(Refusal),
}

impl OrderedRule {
    pub(super) fn fits(&self, addressee: Addressee<'_>, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        self.matcher.fits(addressee, self.position.line, format_args!("{what} rcpt_to"), trace)
    }
}

impl Matcher {
    pub(super) fn new(recipient: Word<'_>, position: Position) -> Self {
        match recipient.text {
            text if Table::name_in(text).is_some() => Self::of_text(recipient, position),
            address if is_exact(address) => Matcher::Address(unquoted(address).into()),
            text => match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
                Some(source) => {
                    Matcher::Pattern(Pattern::new(source, Position { start: position.start + 1, ..position }))
                }
                None => match DomainList::of_address(recipient) {
                    Some(Ok(list)) => Matcher::Domains(list),
                    // Errors in the list were reported before.
                    Some(Err(_)) | None => Matcher::Wildcard(text.into()),
                },
            },
        }
    }

    /// The matcher for an `error` line, or a line about senders: a regular expression without slashes, or the same
    /// forms as in a `deliver` line.
    pub(super) fn of_text(word: Word<'_>, position: Position) -> Self {
        let text = word.text;
        if let Some(Ok(list)) = DomainList::of_pattern(word) {
            return Matcher::Domains(list);
        }
        if let Some(name) = Table::name_in(text) {
            return Matcher::Table(Table::open(name));
        }
        match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
            Some(source) => Matcher::Pattern(Pattern::new(source, Position { start: position.start + 1, ..position })),
            // A regular expression cannot begin with `*`.
            None if text.starts_with('*') => Matcher::Wildcard(text.into()),
            None => Matcher::Pattern(Pattern::new(text, position)),
        }
    }

    /// Whether an address matches. `line` and `what` say who asks, for the trace.
    pub(super) fn fits(
        &self,
        addressee: Addressee<'_>,
        line: u32,
        what: fmt::Arguments<'_>,
        trace: &mut Trace,
    ) -> Result<bool, BrokenPattern> {
        let fits = match self {
            Matcher::Address(address) => addressee.is(address),
            Matcher::Wildcard(wildcard) => wildcard_fits(wildcard, addressee.full),
            Matcher::Domains(list) => list.fits(addressee.full),
            Matcher::Pattern(pattern) => pattern.is_match(addressee.full)?,
            // A table that cannot be read matches nothing, like a pattern that does not compile.
            Matcher::Table(table) => table.has(addressee).map_err(|message| BrokenPattern { line, message })?,
        };
        trace.note(|| {
            let verb = if fits { "matches" } else { "does not match" };
            let full = Untrusted::new(addressee.full.as_bytes());
            Note::of_line(line, what, fits, format_args!("'{full}' {verb} '{}'", self.source()))
        });
        Ok(fits)
    }

    /// Whether this matches everybody in some domain, or everybody at all.
    pub(super) fn is_everybody(&self) -> bool {
        match self {
            Matcher::Address(_) | Matcher::Table(_) => false,
            Matcher::Domains(list) => list.local_part().bytes().all(|byte| byte == b'*'),
            Matcher::Wildcard(wildcard) => {
                let rest = wildcard.trim_start_matches('*');
                wildcard.starts_with('*') && (rest.is_empty() || rest.starts_with('@'))
            }
            Matcher::Pattern(pattern) => {
                let rest = pattern.source().trim_start_matches('^');
                let rest = [".*", ".+", "[^@]+", "[^@]*"].iter().find_map(|all| rest.strip_prefix(all)).unwrap_or(rest);
                let is_all = rest.is_empty() || rest == "$" || rest == "." || rest.starts_with('@');
                // One of several alternatives may name a single recipient.
                is_all && !rest.contains('|')
            }
        }
    }

    pub(super) fn source(&self) -> &str {
        match self {
            Matcher::Address(text) | Matcher::Wildcard(text) => text,
            Matcher::Pattern(pattern) => pattern.source(),
            Matcher::Table(table) => table.name(),
            Matcher::Domains(list) => list.source(),
        }
    }
}

/// Whether a text matches an address in which `*` stands for any number of characters, ignoring letter case.
pub(super) fn wildcard_fits(wildcard: &str, text: &str) -> bool {
    fits_with_stars(wildcard.as_bytes(), text.as_bytes(), |one, other| one.eq_ignore_ascii_case(&other))
}

/// The same, with another comparison of bytes.
pub(super) fn fits_with_stars(wildcard: &[u8], text: &[u8], is_same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut w, mut t) = (0, 0);
    // Where the last `*` was, and how much of the text it has consumed; on a mismatch it consumes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match wildcard.get(w) {
            Some(b'*') => {
                star = Some((w, t));
                w += 1;
            }
            Some(byte) if is_same(*byte, text[t]) => {
                w += 1;
                t += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (w, t) = (star_at + 1, taken + 1);
            }
        }
    }
    wildcard[w..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (wildcard, text, fits) in [
            ("*", "", true),
            ("*", "a@b", true),
            ("*@example.com", "Fred@EXAMPLE.com", true),
            ("*@example.com", "fred@notexample.com", false),
            ("*@example.com", "fred@example.com.evil", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("a", "", false),
            ("**", "x", true),
        ] {
            assert_eq!(wildcard_fits(wildcard, text), fits, "{wildcard} {text}");
        }
    }
}
