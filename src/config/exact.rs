//! The `deliver` lines of exact addresses, of which there may be 100,000: 12 bytes each, and their lines stay in the file.
//!
//! Of each line the hash of its address is kept, where the line begins, and its number. To find an address, its hash is
//! compared with all of these: a connection looks for a few addresses only, and building a hash table would take a
//! hundred times as long as one look. The line is then read again. If the file was written to meanwhile, the line may
//! say something else than when the connection began: [`Changed`].

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::rc::Rc;

use super::directive::{self, Delivery, Line, RuleLine};
use super::domains::DomainList;
use super::index::{Index, Run};
use super::lexer;
use super::plain;
use super::source::{LineStart, Source};
use super::sources::Sources;
use super::table::Table;
use crate::address::Mailbox;

/// The rules, but for their lines.
#[derive(Debug, Default)]
pub(super) struct ExactRules {
    /// In the order of their lines.
    hashes: Vec<u32>,
    /// Likewise.
    starts: Vec<LineStart>,
    /// Where in these each rule is, in the order of the hashes, if there will be many questions.
    sorted: Option<Vec<usize>>,
    /// Those of lines that were not looked at, because an index has them.
    indexed: Vec<Indexed>,
}

/// The rules of an index that are used.
#[derive(Debug)]
struct Indexed {
    index: Index,
    source: Rc<Source>,
    /// In their order, each with the number of its first line, counted through all files.
    runs: Vec<(Run, u32)>,
}

/// The file was written to since this connection began, so this line cannot be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) line: u32,
}

impl ExactRules {
    /// Takes in a line: its address as [`unquoted`] leaves it.
    pub(super) fn add(&mut self, address: &[u8], at: LineStart) {
        self.hashes.push(hash(address));
        self.starts.push(at);
    }

    /// Takes in those of these runs of lines that an index of this file has; each with the number of its first line.
    pub(super) fn add_index(&mut self, index: Index, source: Rc<Source>, runs: Vec<(Run, u32)>) {
        self.indexed.push(Indexed { index, source, runs });
    }

    /// Makes each question cheap. It takes as long as thousands of them.
    pub(super) fn sort(&mut self) {
        let mut sorted: Vec<usize> = (0..self.hashes.len()).collect();
        sorted.sort_unstable_by_key(|place| self.hashes[*place]);
        self.sorted = Some(sorted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.indexed.iter().all(|indexed| indexed.runs.is_empty())
    }

    /// The lines that may be about this address, in no order.
    pub(super) fn find(&self, address: &str) -> Result<Vec<LineStart>, Changed> {
        let wanted = hash(address.as_bytes());
        let fits = |(hash, _): &(&u32, _)| **hash == wanted;
        let mut found: Vec<_> = match &self.sorted {
            Some(sorted) => {
                let first = sorted.partition_point(|place| self.hashes[*place] < wanted);
                let same = sorted[first..].iter().take_while(|place| self.hashes[**place] == wanted);
                same.map(|place| self.starts[*place]).collect()
            }
            None => self.hashes.iter().zip(&self.starts).filter(fits).map(|(_, at)| *at).collect(),
        };
        for indexed in &self.indexed {
            indexed.find(wanted, &mut found)?;
        }
        Ok(found)
    }
}

impl Indexed {
    fn find(&self, wanted: u32, found: &mut Vec<LineStart>) -> Result<(), Changed> {
        match self.index.find(wanted) {
            Ok(lines) => {
                found.extend(lines.into_iter().filter_map(|at| {
                    let (run, number) =
                        self.runs.iter().find(|(run, _)| (run.first.offset..run.end).contains(&at.offset))?;
                    let behind = at.number.checked_sub(run.first.number)?;
                    Some(LineStart { number: number.checked_add(behind)?, ..at })
                }));
                Ok(())
            }
            // Somebody has written over it. The lines are still there.
            Err(_) => self.read_all(wanted, found),
        }
    }

    /// The same without the index.
    fn read_all(&self, wanted: u32, found: &mut Vec<LineStart>) -> Result<(), Changed> {
        for (run, number) in &self.runs {
            let changed = |_: io::Error| Changed { line: *number };
            let mut next = *number;
            let look_at = |line: &[u8], at| {
                if plain::rule(line).is_some_and(|(_, address)| hash(address) == wanted) {
                    found.push(LineStart { number: next, ..at });
                }
                next = next.saturating_add(1);
            };
            self.source.lines_between(run.first, run.end.into(), look_at).map_err(changed)?;
            if !self.source.has_content_as_opened() {
                return Err(Changed { line: *number });
            }
        }
        Ok(())
    }
}

/// Reads a line again that [`ExactRules::find`] returned, and passes it to `take`; `None` if it is about another
/// address with the same hash. If `take` returns `None`, the line counts as changed as well.
pub(super) fn read_again<T>(
    sources: &Sources,
    at: LineStart,
    wanted: &str,
    take: impl FnOnce(Delivery<'_>) -> Option<T>,
) -> Result<Option<T>, Changed> {
    let changed = Changed { line: at.number };
    let line = sources.line_at(at).ok_or(changed)?;
    let line = lexer::prepared(&line).map_err(|_| changed)?;
    let Ok(Some(Line::Rule(RuleLine::Deliver(delivery)))) = directive::line(&line) else { return Err(changed) };
    let address = unquoted(delivery.recipient.text);
    if address.eq_ignore_ascii_case(wanted) {
        return take(delivery).map(Some).ok_or(changed);
    }
    if hash(address.as_bytes()) == hash(wanted.as_bytes()) { Ok(None) } else { Err(changed) }
}

/// Whether a recipient of a rule is one address, and no pattern.
pub(super) fn is_exact(recipient: &str) -> bool {
    !recipient.starts_with('/')
        && Table::name_in(recipient).is_none()
        && memchr::memchr(b'*', recipient.as_bytes()).is_none()
        && !DomainList::is_in(recipient)
}

/// The address as rules compare it: a quoted local part counts as its content (RFC 5321, 4.1.2).
pub(super) fn unquoted(address: &str) -> Cow<'_, str> {
    if !address.starts_with('"') {
        return Cow::Borrowed(address);
    }
    match Mailbox::parse(address) {
        Ok(mailbox) => Cow::Owned(mailbox.bare()),
        Err(_) => Cow::Borrowed(address),
    }
}

/// A hash of an address, letter case aside: bit 5, which tells upper from lower case, is set in every byte. Other
/// characters that this makes equal only cost a comparison.
#[expect(clippy::cast_possible_truncation, reason = "a hash may lose bits")]
pub(super) fn hash(address: &[u8]) -> u32 {
    const FOLD: u64 = u64::from_ne_bytes([0x20; 8]);
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    let fold = |word: [u8; 8]| u64::from_ne_bytes(word) | FOLD;
    let (words, rest) = address.as_chunks();
    words.iter().for_each(|word| hasher.write_u64(fold(*word)));
    // The last eight again, of which some may have been hashed: quicker than what is left over by itself.
    let last = address.last_chunk().copied().unwrap_or_else(|| {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last
    });
    hasher.write_u64(fold(last));
    hasher.finish() as u32
}
/// An address that rules are asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addressee<'a> {
    /// The address with its domain, without quoting.
    pub(super) full: &'a str,
    /// The local part of one at our own domain, where a rule may leave the domain out.
    pub(super) local_part: Option<&'a str>,
}

impl<'a> Addressee<'a> {
    /// This full address with this local part, which is at our own domain or not.
    pub(super) fn of(full: &'a str, local_part: &'a str, is_ours: bool) -> Self {
        // The local part of `"a@b"@our.domain` must not match a rule for `a@b`.
        Self { full, local_part: Some(local_part).filter(|local_part| is_ours && !local_part.contains('@')) }
    }

    /// Whether an address of a rule is this one.
    pub(super) fn is(self, of_rule: &str) -> bool {
        of_rule.eq_ignore_ascii_case(self.full)
            || self.local_part.is_some_and(|local_part| of_rule.eq_ignore_ascii_case(local_part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted or not: the same lines.
    #[test]
    fn sorted_rules_are_the_same() {
        let mut rules = ExactRules::default();
        for number in 0..300_u32 {
            let address = format!("user{}@mx.example", number % 100);
            rules.add(address.as_bytes(), LineStart { number: number + 1, offset: number * 40 });
        }
        let found = |rules: &ExactRules, address: &str| {
            let mut found = rules.find(address).unwrap();
            found.sort_unstable();
            found
        };
        let wanted: Vec<String> = (0..110).map(|number| format!("USER{number}@mx.example")).collect();
        let before: Vec<_> = wanted.iter().map(|address| found(&rules, address)).collect();
        assert!(before[99].len() == 3 && before[100].is_empty());
        rules.sort();
        let after: Vec<_> = wanted.iter().map(|address| found(&rules, address)).collect();
        assert_eq!(after, before);
    }
}
