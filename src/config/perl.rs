//! Translates Perl's notation in patterns, which files of the original have, into that of `regex`.
//!
//! What means the same in both stays as it is, which is all of most patterns. What would need backtracking is an error:
//! look-around and back-references, which `regex` reports, and recursion and conditions, which it would not report
//! (pcrepattern(3)).

use std::borrow::Cow;
use std::fmt::Write as _;

/// The pattern in the notation of `regex`, or what in it is not supported.
pub(super) fn translated(source: &str) -> Result<Cow<'_, str>, String> {
    let is_plain =
        !source.contains(['\\', '[', '{']) && !["(?", "(*", "++", "*+", "?+"].iter().any(|it| source.contains(it));
    if is_plain || is_verbose(source) {
        return Ok(Cow::Borrowed(source));
    }
    let mut translator = Translator { rest: source, out: String::with_capacity(source.len() + 8) };
    translator.pattern()?;
    Ok(if translator.out == source { Cow::Borrowed(source) } else { Cow::Owned(translator.out) })
}

/// Whether a pattern ignores blanks and comments (flag `x`). Such patterns are not translated.
fn is_verbose(source: &str) -> bool {
    source.match_indices("(?").any(|(at, _)| {
        let flags = source[at + 2..].bytes().take_while(|byte| byte.is_ascii_alphabetic() || *byte == b'-');
        flags.take_while(|byte| *byte != b'-').any(|flag| flag == b'x')
    })
}

struct Translator<'s> {
    rest: &'s str,
    out: String,
}

/// What an item in brackets is, for the meaning of a hyphen behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    /// A single character, which can begin a range.
    Character,
    /// Several characters, or the end of a range; a hyphen behind it is a character.
    Several,
    /// There is no item yet.
    None,
}

impl Translator<'_> {
    fn pattern(&mut self) -> Result<(), String> {
        // Settings in front of the whole pattern.
        while self.rest.starts_with("(*") {
            let name = self.rest[2..].split(')').next().unwrap_or_default();
            if !SETTINGS.contains(&name) || !self.rest.contains(')') {
                return Err(format!("`(*{name})` cannot be used in a pattern here: leave it out"));
            }
            self.skip(name.len() + 3);
        }
        let mut is_repeated = false;
        while let Some(character) = self.rest.chars().next() {
            let was_repeated = std::mem::take(&mut is_repeated);
            match character {
                // A possessive quantifier. Without backtracking it is the same as an ordinary one.
                '+' if was_repeated => self.skip(1),
                '*' | '+' | '?' => {
                    is_repeated = !was_repeated;
                    self.copy(1);
                }
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '{' => {
                    match quantifier(self.rest) {
                        Some(length) => {
                            is_repeated = true;
                            self.copy(length);
                        }
                        None => self.replace(1, "\\{"),
                    };
                }
                other => self.copy(other.len_utf8()),
            }
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(escaped) = self.rest[1..].chars().next() else {
            self.copy(1);
            return Ok(());
        };
        match escaped {
            'Q' => self.quoted(),
            'E' | 'K' => self.skip(2),
            'Z' => self.replace(2, "\\z"),
            'G' => self.replace(2, "\\A"),
            'h' => self.replace(2, "[\\t ]"),
            'H' => self.replace(2, "[^\\t ]"),
            'v' => self.replace(2, "[\\n\\x0B\\f\\r]"),
            'V' => self.replace(2, "[^\\n\\x0B\\f\\r]"),
            'R' => self.replace(2, "(?:\\r\\n|[\\n\\x0B\\f\\r])"),
            'N' => self.replace(2, "[^\\n]"),
            '0' => self.octal(1),
            // Octal: no pattern has that many groups to refer to.
            '1'..='3'
                if self.rest.bytes().skip(2).take_while(|byte| matches!(byte, b'0'..=b'7')).take(2).count() == 2 =>
            {
                self.octal(1);
            }
            '1'..='9' | 'g' | 'k' => self.copy(2),
            _ => self.character(escaped)?,
        }
        Ok(())
    }

    /// Translates an escape that means the same inside and outside brackets.
    fn character(&mut self, escaped: char) -> Result<(), String> {
        match escaped {
            'e' => self.replace(2, "\\x1B"),
            'c' => {
                let Some(control) = self.rest[2..].chars().next().filter(char::is_ascii) else {
                    return Err("bad pattern: `\\c` without a character".to_owned());
                };
                let code = control.to_ascii_uppercase() as u8 ^ 0x40;
                self.replace(3, &format!("\\x{code:02X}"));
            }
            'x' if self.rest[2..].starts_with('{') => {
                self.copy(self.rest.find('}').map_or(3, |end| end + 1));
            }
            'x' => {
                let digits = self.rest[2..].bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
                match digits {
                    2 => self.copy(4),
                    _ => {
                        let code = u8::from_str_radix(&self.rest[2..2 + digits], 16).unwrap_or(0);
                        self.replace(2 + digits, &format!("\\x{code:02X}"));
                    }
                }
            }
            'o' if self.rest[2..].starts_with('{') => {
                let end = self.rest.find('}').ok_or("bad pattern: `\\o{` without its `}`")?;
                let code = u32::from_str_radix(&self.rest[3..end], 8)
                    .map_err(|_| "bad pattern: no octal number in `\\o{}`")?;
                self.replace(end + 1, &format!("\\x{{{code:X}}}"));
            }
            'a' | 'b' | 'B' | 'A' | 'd' | 'D' | 'f' | 'n' | 'p' | 'P' | 'r' | 's' | 'S' | 't' | 'w' | 'W' | 'z' => {
                self.copy(2);
            }
            // Perl takes letters without a special meaning as themselves.
            'I' | 'J' | 'M' | 'O' | 'T' | 'Y' | 'i' | 'j' | 'm' | 'q' | 'y' => self.replace(2, &escaped.to_string()),
            '<' | '>' => self.replace(2, &escaped.to_string()),
            other if other.is_ascii() => self.copy(2),
            other => self.replace(1 + other.len_utf8(), &other.to_string()),
        }
        Ok(())
    }

    /// `\Q...\E`
    fn quoted(&mut self) {
        self.skip(2);
        let length = self.rest.find("\\E").unwrap_or(self.rest.len());
        let text = regex_syntax::escape(&self.rest[..length]);
        self.replace(length, &text);
        self.skip(2.min(self.rest.len()));
    }

    /// Translates an octal number, which begins at `at` behind the backslash.
    fn octal(&mut self, at: usize) {
        let digits = self.rest[at..].bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let code = u32::from_str_radix(&self.rest[at..at + digits], 8).unwrap_or(0);
        self.replace(at + digits, &format!("\\x{:02X}", code & 0xff));
    }

    fn group(&mut self) -> Result<(), String> {
        let Some(kind) = self.rest.strip_prefix("(?") else {
            if self.rest.starts_with("(*") {
                let name = self.rest[2..].split(')').next().unwrap_or_default();
                return Err(format!("`(*{name})` cannot be used in a pattern here: leave it out"));
            }
            self.copy(1);
            return Ok(());
        };
        let recursion = |what: &str| Err(format!("{what} cannot be used in a pattern here: write it out"));
        match kind.as_bytes() {
            [b'#', ..] => self.skip(self.rest.find(')').map_or(self.rest.len(), |end| end + 1)),
            [b'>' | b'|', ..] => self.replace(3, "(?:"),
            [b'\'', ..] => {
                let end = kind[1..].find('\'').ok_or("bad pattern: the name of a group without its end")?;
                let name = format!("(?<{}>", &kind[1..=end]);
                self.replace(end + 4, &name);
            }
            [b'R' | b'&' | b'0'..=b'9', ..] | [b'P', b'>', ..] => return recursion("recursion"),
            [b'+' | b'-', b'0'..=b'9', ..] => return recursion("recursion"),
            [b'P', b'=', ..] => return recursion("a back-reference"),
            [b'(', ..] => return recursion("a condition"),
            [b'C', ..] => self.skip(self.rest.find(')').map_or(self.rest.len(), |end| end + 1)),
            _ => self.copy(2),
        }
        Ok(())
    }

    /// Translates a class in brackets.
    fn class(&mut self) -> Result<(), String> {
        self.copy(if self.rest.starts_with("[^") { 2 } else { 1 });
        let mut last = Item::None;
        if self.rest.starts_with(']') {
            self.copy(1);
            last = Item::Character;
        }
        loop {
            let Some(character) = self.rest.chars().next() else { return Ok(()) };
            last = match character {
                ']' => {
                    self.copy(1);
                    return Ok(());
                }
                '-' => self.hyphen(last)?,
                _ => self.item()?,
            };
        }
    }

    /// Translates a hyphen in brackets, together with the end of its range if it forms one.
    fn hyphen(&mut self, last: Item) -> Result<Item, String> {
        let next = &self.rest[1..];
        if last == Item::Character && !next.is_empty() && !next.starts_with(']') && !is_several(next) {
            self.copy(1);
            match self.rest.starts_with('-') {
                true => self.replace(1, "\\-"),
                false => drop(self.item()?),
            }
            return Ok(Item::Several);
        }
        let stands_alone = next.starts_with(']') || (last == Item::None && !next.starts_with('-'));
        if stands_alone {
            self.copy(1)
        } else {
            self.replace(1, "\\-")
        }
        Ok(Item::Character)
    }

    /// Translates any other item in brackets.
    fn item(&mut self) -> Result<Item, String> {
        if let Some(length) = posix_class(self.rest) {
            self.copy(length);
            return Ok(Item::Several);
        }
        let mut characters = self.rest.chars();
        match (characters.next(), characters.next()) {
            (Some('['), _) => self.replace(1, "\\["),
            (Some(operator @ ('&' | '~')), Some(again)) if operator == again => {
                self.replace(1, &format!("\\{operator}"));
            }
            (Some('\\'), Some(escaped)) => {
                let several = is_several(self.rest);
                match escaped {
                    'Q' => self.quoted_in_class(),
                    'E' => self.skip(2),
                    'h' => self.replace(2, "\\t "),
                    'v' => self.replace(2, "\\n\\x0B\\f\\r"),
                    'H' | 'V' => {
                        return Err(format!("bad pattern: `\\{escaped}` in brackets: write the characters out"));
                    }
                    'b' => self.replace(2, "\\x08"),
                    '0'..='7' => self.octal(1),
                    'N' | 'R' | 'X' | 'B' | 'A' | 'Z' | 'z' | 'G' | 'K' => self.replace(2, &escaped.to_string()),
                    _ => self.character(escaped)?,
                }
                return Ok(if several { Item::Several } else { Item::Character });
            }
            (Some(other), _) => self.copy(other.len_utf8()),
            (None, _) => {}
        }
        Ok(Item::Character)
    }

    fn quoted_in_class(&mut self) {
        self.skip(2);
        let length = self.rest.find("\\E").unwrap_or(self.rest.len());
        let mut text = String::new();
        for character in self.rest[..length].chars() {
            match character.is_ascii_punctuation() {
                true => _ = write!(text, "\\x{:02X}", u32::from(character)),
                false => text.push(character),
            }
        }
        self.replace(length, &text);
        self.skip(2.min(self.rest.len()));
    }

    fn copy(&mut self, length: usize) {
        let length = length.min(self.rest.len());
        self.out.push_str(&self.rest[..length]);
        self.skip(length);
    }

    fn replace(&mut self, length: usize, text: &str) {
        self.out.push_str(text);
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }
}

/// The length of `{2}`, `{2,}` or `{2,3}`; other braces are ordinary characters.
fn quantifier(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let (least, most) = text[1..end].split_once(',').unwrap_or((&text[1..end], ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!least.is_empty() && is_number(least) && is_number(most)).then_some(end + 1)
}

/// Whether the text begins with an item that stands for several characters in brackets.
fn is_several(text: &str) -> bool {
    let escaped = text.strip_prefix('\\').and_then(|text| text.chars().next());
    posix_class(text).is_some() || escaped.is_some_and(|escaped| "dDwWsShHvVpP".contains(escaped))
}

/// The length of `[:name:]`.
fn posix_class(text: &str) -> Option<usize> {
    let name = text.strip_prefix("[:")?;
    let length = name.bytes().take_while(|byte| byte.is_ascii_alphabetic() || *byte == b'^').count();
    name[length..].starts_with(":]").then_some(length + 4)
}

/// Settings in front of a pattern that make no difference for addresses and names.
const SETTINGS: [&str; 8] = ["UTF8", "UTF", "UCP", "ANY", "ANYCRLF", "LF", "NO_START_OPT", "BSR_ANYCRLF"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (source, expected) in [
            (r"^[a-z0-9.-]+@x\.example$", r"^[a-z0-9.-]+@x\.example$"),
            (r"[\w-.]", r"[\w\-.]"),
            (r"[a-z\d-_.]", r"[a-z\d\-_.]"),
            ("[[]", r"[\[]"),
            ("[]a]", "[]a]"),
            ("[^]-a]", "[^]-a]"),
            ("[a-c-e]", r"[a-c\-e]"),
            ("[--/]", r"[\--/]"),
            ("[a&&b~~c]", r"[a\&&b\~~c]"),
            ("[[:alpha:]-z]", r"[[:alpha:]\-z]"),
            (r"[\b\e]", r"[\x08\x1B]"),
            ("a{", r"a\{"),
            ("{,3}", r"\{,3}"),
            ("a{2,3}b{2,}c{2}", "a{2,3}b{2,}c{2}"),
            (r"\Qa.b\E+", r"a\.b+"),
            (r"\Qa.b", r"a\.b"),
            (r"a\Z", r"a\z"),
            (r"\h\R\e\cA", r"[\t ](?:\r\n|[\n\x0B\f\r])\x1B\x01"),
            ("(?>a+)(?#note)b", "(?:a+)b"),
            (r"\<a\>", "<a>"),
            ("(?'name'a)", "(?<name>a)"),
            (r"\x4\x41\x{42}\0\012", r"\x04\x41\x{42}\x00\x0A"),
            (r"(*UTF8)a", "a"),
            (r"\j\y", "jy"),
            ("a++b*+c?+d{2}+e+?f", "a+b*c?d{2}e+?f"),
            (r"(?x) [\w-.] \Z", r"(?x) [\w-.] \Z"),
        ] {
            assert_eq!(translated(source).as_deref(), Ok(expected), "{source}");
        }
        for source in ["(?R)", "(a)(?1)", "(?&a)", "(?(1)a|b)", "(?P=a)", "a(*FAIL)", "(?P>a)"] {
            assert!(translated(source).is_err(), "{source}");
        }
    }
}
