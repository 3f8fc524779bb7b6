//! What can be told about a pattern without compiling it, which takes a hundred times as long: most patterns are plain
//! text with an anchor or two, and most others need some text that a name does not have.

use regex_syntax::hir::{Class, Hir, HirKind};
use regex_syntax::is_escapeable_character;

/// A pattern without operators: `^`, text, `$`, each of which may be missing. In the place of a missing one may stand
/// `.*`, which makes no difference there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlainText {
    at_start: bool,
    text: Vec<u8>,
    at_end: bool,
}

impl PlainText {
    /// `None` if the pattern may have an operator in it, or be none at all.
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

    /// Whether the pattern is found in a text, the case of ASCII letters aside.
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

/// Whether a text has this in it, the case of ASCII letters aside.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// The longest text that whatever matches has in it, the case of ASCII letters aside. The pattern was parsed to ignore
/// case, so that a letter is a class of two.
pub(super) fn needed(pattern: &Hir) -> Vec<u8> {
    let mut runs = Runs::default();
    runs.take(pattern);
    runs.end();
    runs.longest
}

/// What must stand side by side in a match.
#[derive(Default)]
struct Runs {
    current: Vec<u8>,
    longest: Vec<u8>,
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
            // They match between characters.
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Repetition(repeated) => {
                self.end();
                if repeated.min > 0 {
                    self.take(&repeated.sub);
                    self.end();
                }
            }
            HirKind::Alternation(_) => self.end(),
        }
    }

    /// What comes next need not stand beside what came last.
    fn end(&mut self) {
        if self.current.len() > self.longest.len() {
            std::mem::swap(&mut self.current, &mut self.longest);
        }
        self.current.clear();
    }
}

/// The letter, if a class consists of nothing but one in both its cases.
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
            (r"^(sales|info)\.7.*@", ".7"),
            ("[0-9][0-9]+-7@host$", "-7@host"),
            ("a[bc]d", "a"),
            ("ab?cd", "cd"),
            ("a(bc)+d", "bc"),
            ("a(bcd|bce)", "abc"),
            ("a(bc)d", "abcd"),
            (r"a\bb", "ab"),
            (".*", ""),
            ("a|b", ""),
            ("(?-i:aB)c", "abc"),
        ] {
            let mut parser =
                regex_syntax::ParserBuilder::new().unicode(false).utf8(false).case_insensitive(true).build();
            let needed = String::from_utf8(needed(&parser.parse(pattern).unwrap())).unwrap();
            assert!(needed.eq_ignore_ascii_case(text), "{pattern}: {needed}");
        }
    }
}
