//! Splits a line of the configuration into words: quotes, comments, conditions, and where each word stands.
//!
//! Everything is borrowed from the line: of 100,000 rules a connection uses one or two, so nothing is copied for the
//! rest. Every error is a [`Problem`] that knows which bytes of the line it is about.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use super::variables::{self, Environment, VARIABLE, replaced, reply_text};

/// A word of the line and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'t> {
    /// The word, without the quotes that enclosed it.
    pub(super) text: &'t str,
    /// First byte of the word in its line, quotes included.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
}

/// What is wrong with a line, and which of its bytes are to blame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) message: String,
}

/// What is legal but hardly meant, found on the way by whoever reads a line; only `mailrecv check` asks for it.
pub(super) type Notes = RefCell<Vec<Problem>>;

impl<'t> Word<'t> {
    /// A word that is a line by itself.
    pub(super) fn alone(text: &'t str) -> Self {
        Self { text, start: 0, end: text.len() }
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { start: self.start, end: self.end, message: message.into() }
    }
}

/// The words of a line, one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'t> {
    line: &'t str,
    /// How far they have been read.
    pub(super) at: usize,
    /// Where values stand, in which neither blanks nor quotes mean anything; empty ones too.
    values: &'t [Range<usize>],
    /// How many of them are behind us.
    passed: usize,
    notes: Option<&'t Notes>,
}

impl<'t> Words<'t> {
    /// The words of a line without values.
    pub(super) fn new(line: &'t str) -> Self {
        Self { line, at: 0, values: &[], passed: 0, notes: None }
    }

    /// Those of a line in which values stand there.
    pub(super) fn with_values(line: &'t str, values: &'t [Range<usize>]) -> Self {
        Self { values, ..Self::new(line) }
    }

    /// The same for somebody who wants to know of what is hardly meant.
    pub(super) fn noting(self, notes: Option<&'t Notes>) -> Self {
        Self { notes, ..self }
    }

    /// Notes something about a word, if anybody wants to know.
    pub(super) fn note(&self, word: Word<'_>, message: impl FnOnce() -> String) {
        if let Some(notes) = self.notes {
            notes.borrow_mut().push(word.problem(message()));
        }
    }

    pub(super) fn next_word(&mut self) -> Option<Word<'t>> {
        if self.is_at_end() {
            return None;
        }
        let start = self.at;
        let mut word = Word { text: "", start, end: self.end_of_word(start) };
        word.text = &self.line[start..word.end];
        if let Some(quote @ (b'"' | b'\'')) = self.mark_at(start)
            && let Some(close) = self.find(start + 1, |rest| memchr::memchr(quote, rest))
        {
            let end = close + 1;
            if self.is_end_of_word(end) {
                word = Word { text: &self.line[start + 1..close], start, end };
            } else if quote == b'"' && self.mark_at(end) == Some(b'@') {
                // A quoted local part is a part of its word, blanks and all.
                let end = self.end_of_word(end);
                word = Word { text: &self.line[start..end], start, end };
            }
        }
        self.at = word.end;
        self.passed += self.values[self.passed..].iter().take_while(|value| value.end <= word.end).count();
        Some(word)
    }

    fn end_of_word(&self, from: usize) -> usize {
        self.find(from, |rest| memchr::memchr2(b' ', b'\t', rest)).unwrap_or(self.line.len())
    }

    /// The first place from here on that `next` finds and that is in no value.
    fn find(&self, mut from: usize, next: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        loop {
            let found = from + next(&self.line.as_bytes()[from..])?;
            match self.values.iter().find(|value| value.contains(&found)) {
                Some(value) => from = value.end,
                None => return Some(found),
            }
        }
    }

    /// What stands here, unless it is a value.
    fn mark_at(&self, at: usize) -> Option<u8> {
        let is_value = self.values.iter().any(|value| value.start == at || value.contains(&at));
        self.line.as_bytes().get(at).copied().filter(|_| !is_value)
    }

    fn is_end_of_word(&self, at: usize) -> bool {
        let begins_value = self.values.iter().any(|value| value.start == at);
        !begins_value && (at == self.line.len() || matches!(self.mark_at(at), Some(b' ' | b'\t')))
    }

    /// Whether a word begins with a quote that encloses no word: it has no partner, or more follows behind that.
    fn begins_with_quote(&self, word: Word<'_>) -> bool {
        word.end - word.start == word.text.len() && matches!(self.mark_at(word.start), Some(b'"' | b'\''))
    }

    /// Whether it begins with a quote that has no partner.
    fn is_unclosed(&self, word: Word<'_>) -> bool {
        let quote = word.text.chars().next().filter(|_| self.begins_with_quote(word));
        quote.is_some_and(|quote| !word.text[1..].contains(quote))
    }

    pub(super) fn expect(&mut self, what: impl fmt::Display) -> Result<Word<'t>, Problem> {
        let word = self.expect_quietly(what)?;
        if self.is_unclosed(word) {
            self.note(word, || UNCLOSED.to_owned());
        }
        Ok(word)
    }

    fn expect_quietly(&mut self, what: impl fmt::Display) -> Result<Word<'t>, Problem> {
        match self.next_word() {
            Some(word) if !word.text.is_empty() => Ok(word),
            Some(word) => Err(word.problem(format!("empty: {what} is expected"))),
            None => Err(self.missing(what)),
        }
    }

    /// The name of a file or folder.
    pub(super) fn path(&mut self, what: &str) -> Result<Word<'t>, Problem> {
        let word = self.expect_quietly(what)?;
        if self.is_unclosed(word) {
            return Err(word.problem(UNCLOSED));
        }
        if self.begins_with_quote(word) {
            return Err(word.problem("quotes enclose a whole word: put them around all of the name"));
        }
        Ok(word)
    }

    pub(super) fn keyword(&mut self, keyword: &str, form: &str) -> Result<(), Problem> {
        let word = self.expect(form)?;
        match word.text == keyword {
            true => Ok(()),
            false => Err(word.problem(format!("`{}` found where {form} is expected", word.text))),
        }
    }

    /// Everything that is left, as it stands, white space at both ends taken off.
    pub(super) fn rest(&mut self, what: &str) -> Result<Word<'t>, Problem> {
        self.skip_space();
        let text = self.line[self.at..].trim_ascii_end();
        if text.is_empty() {
            return Err(self.missing(what));
        }
        let start = self.at;
        (self.at, self.passed) = (self.line.len(), self.values.len());
        Ok(Word { text, start, end: start + text.len() })
    }

    /// Whether there is a value in what is left.
    pub(super) fn has_values(&self) -> bool {
        self.values.len() > self.passed
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        // An empty value is a word, too.
        self.at == self.line.len() && !self.has_values()
    }

    fn skip_space(&mut self) {
        let end = self.values.get(self.passed).map_or(self.line.len(), |value| value.start);
        while let Some(b' ' | b'\t') = self.line.as_bytes()[..end].get(self.at) {
            self.at += 1;
        }
    }

    pub(super) fn missing(&self, what: impl fmt::Display) -> Problem {
        let end = self.line.trim_ascii_end().len();
        Problem { start: end, end: end + 1, message: format!("{what} is missing") }
    }
}

/// The first character of a line that looks like a blank or a quote and is none, as pages on the web and word processors
/// have them.
pub(super) fn look_alike(line: &str) -> Option<Problem> {
    let (start, character, meant) = line.char_indices().find_map(|(start, character)| {
        let meant = match character {
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => "a blank",
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}' | '\u{feff}' => "nothing",
            '\u{201c}'..='\u{201f}' => "`\"`",
            '\u{2018}'..='\u{201b}' => "`'`",
            _ => return None,
        };
        Some((start, character, meant))
    })?;
    let code = u32::from(character);
    let message = match meant {
        "nothing" => format!("this is U+{code:04X}, which cannot be seen: take it out"),
        meant => format!("this is U+{code:04X}, which looks like {meant}: type {meant} in its place"),
    };
    Some(Problem { start, end: start + character.len_utf8(), message })
}

/// What is said of a word that begins with a quote and does not end with one.
const UNCLOSED: &str = "this quote is not closed";

/// A line as its words are read, its comment taken off and its variables replaced.
#[derive(Debug)]
pub(super) struct Prepared<'l> {
    text: Cow<'l, str>,
    /// Where in it values from the environment stand, in their order.
    values: Vec<Range<usize>>,
    /// Whether it begins with a condition, which holds.
    is_conditional: bool,
}

impl<'l> Prepared<'l> {
    /// All of it, for people.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same, the condition in front left out.
    pub(super) fn directive(&self) -> &str {
        &self.text[self.words().at..]
    }

    /// Whether a variable was replaced.
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }

    /// Its words, those of a condition left out.
    pub(super) fn words(&self) -> Words<'_> {
        let mut words = self.all_words();
        if self.is_conditional {
            words.next_word();
            words.next_word();
        }
        words
    }

    /// All of its words.
    pub(super) fn all_words(&self) -> Words<'_> {
        Words::with_values(&self.text, &self.values)
    }

    /// A line without a condition, in which values stand there.
    pub(super) fn unconditional(text: impl Into<Cow<'l, str>>, values: Vec<Range<usize>>) -> Self {
        Self { text: text.into(), values, is_conditional: false }
    }
}

/// Prepares a line.
pub(super) fn prepared(line: &str) -> Result<Prepared<'_>, Problem> {
    let line = without_comment(line);
    if let Some(start) = line.find(char::REPLACEMENT_CHARACTER)
        && reply_text(line).is_none_or(|text| start < text)
    {
        let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
        return Err(Problem { start, end, message: "this line is not UTF-8 text".to_owned() });
    }
    let variable = |name: &str| std::env::var_os(name);
    match condition(line)? {
        None => replaced(line, &variable),
        // The rest of the line is not looked at if it does not count, because its variables may be missing.
        Some(condition) if !condition.holds(line, &variable)? => Ok(Prepared::unconditional("", Vec::new())),
        Some(_) => Ok(Prepared { is_conditional: true, ..replaced(line, &variable)? }),
    }
}

/// `when SWITCH` or `unless SWITCH` in front of a line.
struct Condition<'l> {
    wanted: bool,
    switch: Word<'l>,
}

impl Condition<'_> {
    fn holds(&self, line: &str, environment: &Environment<'_>) -> Result<bool, Problem> {
        let replaced = replaced(&line[..self.switch.end], environment)?;
        let mut words = replaced.all_words();
        words.next_word();
        let switch = words.next_word().map_or("", |word| word.text);
        match truth(switch) {
            Some(is_on) => Ok(is_on == self.wanted),
            // The message does not show the variable's value. It may be a password, as the switch can be used to test
            // whether one is set.
            None if self.switch.text.contains(VARIABLE) => {
                Err(self.switch.problem(format!("`{}` stands for neither `on` nor `off`", self.switch.text)))
            }
            None => Err(self.switch.problem(format!("`{switch}` is neither `on` nor `off`"))),
        }
    }
}

/// The condition in front of a line, if there is one.
fn condition(line: &str) -> Result<Option<Condition<'_>>, Problem> {
    let Some(first) = Words::new(line).next_word().filter(|word| is_condition(*word)) else { return Ok(None) };
    let places = variables::places(line);
    let mut words = Words::with_values(line, &places);
    words.next_word();
    let switch = words.expect(SWITCH)?;
    let rest = words.expect("the line that counts only then")?;
    if is_condition(rest) {
        return Err(rest.problem("a line has one condition"));
    }
    // Borrowed from `line`, because `places` ends here.
    let switch = Word { text: &line[switch.start..switch.end], ..switch };
    Ok(Some(Condition { wanted: first.text == WHEN, switch }))
}

pub(super) fn is_condition(word: Word<'_>) -> bool {
    CONDITIONS.contains(&word.text)
}

/// The directive of a line whose condition does not hold, if it stands there as it is.
pub(super) fn skipped_directive(line: &str) -> Option<Word<'_>> {
    let line = without_comment(line);
    let switch = condition(line).ok()??.switch;
    let mut words = Words { at: switch.end, ..Words::new(line) };
    words.next_word().filter(|word| !word.text.contains(VARIABLE))
}

/// Whether a switch is on: `on`, `yes`, `true` or `1`, against `off`, `no`, `false` or `0`, letter case aside.
pub(super) fn truth(word: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 4]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    match (is_one_of(["on", "yes", "true", "1"]), is_one_of(["off", "no", "false", "0"])) {
        (false, false) => None,
        (is_on, _) => Some(is_on),
    }
}

/// What stands in front of a line that counts only when a switch is on, or off.
pub(super) const CONDITIONS: [&str; 2] = [WHEN, "unless"];
const WHEN: &str = "when";

/// What stands behind that.
const SWITCH: &str = "a switch, as in `when ${NAME:-off}`,";

/// The line without its comment: `#` at the start or after white space, outside quotes.
pub(super) fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    if memchr::memchr(b'#', bytes).is_none() {
        return line;
    }
    let mut at = 0;
    while at < bytes.len() {
        let after_space = at == 0 || bytes[at - 1].is_ascii_whitespace();
        match bytes[at] {
            b'#' if after_space => return &line[..at],
            // A quote opens at the start of a word or behind `=`, so that an apostrophe in a text is none; without
            // its partner on the line it is an ordinary character.
            quote @ (b'\'' | b'"') if after_space || bytes[at - 1] == b'=' => {
                at = memchr::memchr(quote, &bytes[at + 1..]).map_or(at, |length| at + 1 + length);
            }
            _ => {}
        }
        at += 1;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_lines_outside_quotes_only() {
        for (line, kept) in [
            ("domain a # b", "domain a "),
            ("# all", ""),
            ("allow remotehost ^a#b$", "allow remotehost ^a#b$"),
            ("deliver rcpt_to a pipe x '# y' # z", "deliver rcpt_to a pipe x '# y' "),
            ("deliver rcpt_to a pipe x --k=\"# y\" # z", "deliver rcpt_to a pipe x --k=\"# y\" "),
            ("error rcpt_to a 550 don't # write", "error rcpt_to a 550 don't "),
            ("error rcpt_to a 550 'tis # so", "error rcpt_to a 550 'tis "),
        ] {
            assert_eq!(without_comment(line), kept);
        }
    }

    #[test]
    fn lines_count_under_their_condition() {
        for (line, expected) in [
            ("when yes domain a", Ok(&["domain", "a"][..])),
            ("when TRUE domain a", Ok(&["domain", "a"])),
            ("unless Off domain a", Ok(&["domain", "a"])),
            ("when 0 domain a", Ok(&[])),
            ("unless on domain ${NO_SUCH_VARIABLE_IS_SET}", Ok(&[])),
            ("when ${NO_SUCH_VARIABLE_IS_SET:-false} domain a", Ok(&[])),
            ("when ${NO_SUCH_VARIABLE_IS_SET:-1} domain ${NO_SUCH_VARIABLE_IS_SET:-a}", Ok(&["domain", "a"])),
            ("when on domain ${NO_SUCH_VARIABLE_IS_SET}", Err("the environment has no `NO_SUCH_VARIABLE_IS_SET`: set")),
            ("when ${NO_SUCH_VARIABLE_IS_SET} domain a", Err("the environment has no `NO_SUCH_VARIABLE_IS_SET`: set")),
            ("when maybe domain a", Err("`maybe` is neither `on` nor `off`")),
            ("when \"\" domain a", Err("empty: a switch, as in")),
            ("when ${NO_SUCH_VARIABLE_IS_SET:-} domain a", Err("`${NO_SUCH_VARIABLE_IS_SET:-}` stands for neither")),
            (
                "when ${NO_SUCH_VARIABLE_IS_SET:-a b} domain a",
                Err("`${NO_SUCH_VARIABLE_IS_SET:-a b}` stands for neither"),
            ),
            (
                "when ${NO_SUCH_VARIABLE_IS_SET:?say 'on' or off} x",
                Err("the environment has no `NO_SUCH_VARIABLE_IS_SET`: say 'on'"),
            ),
            ("when ${PATH:?which way} domain a", Err("`${PATH:?which way}` stands for neither `on` nor `off`")),
            ("when", Err("a switch, as in `when ${NAME:-off}`, is missing")),
            ("unless on # domain a", Err("the line that counts only then is missing")),
            ("when on unless off domain a", Err("a line has one condition")),
        ] {
            let prepared = prepared(line);
            let words = prepared.as_ref().map_err(|problem| problem.message.as_str()).map(|prepared| {
                let mut words = prepared.words();
                std::iter::from_fn(|| words.next_word()).map(|word| word.text).collect::<Vec<_>>()
            });
            match (words, expected) {
                (Ok(words), Ok(expected)) => assert_eq!(words, expected, "{line}"),
                (Err(message), Err(expected)) => assert!(message.starts_with(expected), "{line}: {message}"),
                (words, _) => panic!("{line}: {words:?}"),
            }
        }
    }
}
