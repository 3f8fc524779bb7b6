//! Decides about patterns without compiling them, which would take a hundred times as long. Most patterns are plain
//! text with an anchor or two, and most others require some text that a name does not contain.

use regex_syntax::hir::{Class, Hir, HirKind};
use regex_syntax::is_escapeable_character;

/// A pattern without operators: `^`, text, `$`, each of which may be missing. Where an anchor is missing there may be
/// `.*`, which makes no difference there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlainText {
    at_start: bool,
    text: Vec<u8>,
    at_end: bool,
}

impl PlainText {
    /// Reads a pattern; `None` if it may contain an operator, or may be malformed.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let (at_start, pattern) = match pattern.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, pattern.strip_prefix(".*").unwrap_or(pattern)),
        };
        let mut text = String::with_capacity(pattern.len());
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => text.push(characters.next().filter(|escaped| is_escapeable_character(*escaped))?),
                '$' if characters.as_str().is_empty() => {
                    return Some(Self { at_start, text: text.into_bytes(), at_end: true });
                }
                '.' if characters.as_str() == "*" => break,
                '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
                plain => text.push(plain),
            }
        }
        Some(Self { at_start, text: text.into_bytes(), at_end: false })
    }

    /// Whether the pattern is found in a text, ignoring the case of ASCII letters.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        let Some(rest) = text.len().checked_sub(self.text.len()) else { return false };
        match (self.at_start, self.at_end) {
            (true, true) => text.eq_ignore_ascii_case(&self.text),
            (true, false) => text[..self.text.len()].eq_ignore_ascii_case(&self.text),
            (false, true) => text[rest..].eq_ignore_ascii_case(&self.text),
            (false, false) => contains(text, &self.text),
        }
    }
}

/// Whether a text contains `part`, ignoring the case of ASCII letters.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// Texts of which every match contains at least one, ignoring the case of ASCII letters; none if nothing can be said.
/// The pattern was parsed to ignore case, so a letter appears as a class of two characters.
pub(super) fn needed(pattern: &Hir) -> Vec<Vec<u8>> {
    let mut runs = Runs::default();
    runs.take(pattern);
    runs.end();
    runs.best
}

/// Whether a text contains none of the texts that [`needed`] found, so that it cannot match.
pub(super) fn lacks(text: &[u8], needed: &[Vec<u8>]) -> bool {
    !needed.is_empty() && !needed.iter().any(|part| contains(text, part))
}

/// Collects runs of characters that every match has to contain.
#[derive(Default)]
struct Runs {
    current: Vec<u8>,
    /// Every match contains one of these: the longest run so far, or what each branch of an alternation needs, if those
    /// are longer.
    best: Vec<Vec<u8>>,
}

impl Runs {
    fn take(&mut self, pattern: &Hir) {
        match pattern.kind() {
            HirKind::Literal(literal) => self.current.extend_from_slice(&literal.0),
            HirKind::Class(class) => match one_letter(class) {
                Some(letter) => self.current.push(letter),
                None => self.end(),
            },
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.take(part)),
            HirKind::Capture(group) => self.take(&group.sub),
            // These match between characters.
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Repetition(repeated) => {
                self.end();
                if repeated.min > 0 {
                    self.take(&repeated.sub);
                    self.end();
                }
            }
            HirKind::Alternation(branches) => {
                self.end();
                let needed: Vec<_> = branches.iter().map(needed).collect();
                if needed.iter().all(|needed| !needed.is_empty()) {
                    self.offer(needed.concat());
                }
            }
        }
    }

    /// Ends the current run: what comes next need not be adjacent.
    fn end(&mut self) {
        let run = std::mem::take(&mut self.current);
        if !run.is_empty() {
            self.offer(vec![run]);
        }
    }

    /// Makes these texts the best if the shortest of them is longer than the shortest so far.
    fn offer(&mut self, texts: Vec<Vec<u8>>) {
        let shortest = |texts: &[Vec<u8>]| texts.iter().map(Vec::len).min().unwrap_or(0);
        if texts.len() <= MOST_BRANCHES && shortest(&texts) > shortest(&self.best) {
            self.best = texts;
        }
    }
}

/// Searching for more texts would cost more than it saves.
const MOST_BRANCHES: usize = 16;

/// The letter, if a class consists of one letter in both cases.
fn one_letter(class: &Class) -> Option<u8> {
    let Class::Bytes(bytes) = class else { return None };
    match bytes.ranges() {
        [one, two] if one.start() == one.end() && two.start() == two.end() => {
            one.start().eq_ignore_ascii_case(&two.start()).then_some(one.start())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_recognized() {
        for (pattern, text) in [
            (r"^bugs@example\.com$", Some((true, "bugs@example.com", true))),
            (r"\.example\.com$", Some((false, ".example.com", true))),
            (r"^192\.0\.2\.", Some((true, "192.0.2.", false))),
            ("old-list", Some((false, "old-list", false))),
            (r"a\$", Some((false, "a$", false))),
            ("^gr\u{fc}n@", Some((true, "gr\u{fc}n@", false))),
            ("", Some((false, "", false))),
            ("^$", Some((true, "", true))),
            (".*", Some((false, "", false))),
            (r".*@example\.com$", Some((false, "@example.com", true))),
            ("^bugs.*", Some((true, "bugs", false))),
            ("^.*", Some((true, "", false))),
            (r"a\.*", None),
            ("^.*a", None),
            ("a.*$", None),
            (".*?", None),
            ("a.b", None),
            ("a|b", None),
            ("^^a", None),
            ("a$b", None),
            ("a$$", None),
            (r"\d", None),
            (r"\", None),
            ("a{", None),
            ("(?i)a", None),
        ] {
            let parsed = PlainText::parse(pattern);
            let parsed = parsed.map(|it| (it.at_start, String::from_utf8(it.text).unwrap_or_default(), it.at_end));
            assert_eq!(parsed, text.map(|(start, text, end)| (start, text.to_owned(), end)), "{pattern}");
        }
    }

    #[test]
    fn what_every_match_needs_is_found() {
        for (pattern, text) in [
            (r"^mail[a-z0-9-]*\.google\.com$", ".google.com"),
            (r"^(sales|info)\.7.*@", "sales|info"),
            ("[0-9][0-9]+-7@host$", "-7@host"),
            ("a[bc]d", "a"),
            ("ab?cd", "cd"),
            ("a(bc)+d", "bc"),
            ("a(bcd|bce)", "abc"),
            ("a(bc)d", "abcd"),
            (r"a\bb", "ab"),
            (".*", ""),
            ("^(foo7|bar|quux)@", "foo7|bar|quux"),
            ("(foo|.*)@", "@"),
            ("(a|bc)def", "def"),
            ("(?-i:aB)c", "abc"),
        ] {
            let mut parser =
                regex_syntax::ParserBuilder::new().unicode(false).utf8(false).case_insensitive(true).build();
            let needed = needed(&parser.parse(pattern).unwrap()).join(&b'|');
            let needed = String::from_utf8(needed).unwrap();
            assert!(needed.eq_ignore_ascii_case(text), "{pattern}: {needed}");
        }
    }
}
