//! A line of the configuration into words: quotes, comments, variables, and where each word stands.
//!
//! Everything is borrowed from the line: of 100,000 rules a connection uses one or two, so nothing is copied for the
//! rest. Every error is a [`Problem`] that knows which bytes of the line it is about.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

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

    /// Whether the word begins with a quote that encloses no word: it has no partner, or more follows behind that.
    pub(super) fn begins_with_quote(&self) -> bool {
        self.end - self.start == self.text.len() && self.text.starts_with(['"', '\''])
    }

    /// Whether it begins with a quote that has no partner.
    fn is_unclosed(&self) -> bool {
        let quote = self.text.chars().next().filter(|_| self.begins_with_quote());
        quote.is_some_and(|quote| !self.text[1..].contains(quote))
    }
}

/// The words of a line, one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'t> {
    line: &'t str,
    at: usize,
    notes: Option<&'t Notes>,
}

impl<'t> Words<'t> {
    pub(super) fn new(line: &'t str) -> Self {
        Self { line, at: 0, notes: None }
    }

    /// The same for somebody who wants to know of what is hardly meant.
    pub(super) fn noting(line: &'t str, notes: Option<&'t Notes>) -> Self {
        Self { line, at: 0, notes }
    }

    /// Notes something about a word, if anybody wants to know.
    pub(super) fn note(&self, word: Word<'_>, message: impl FnOnce() -> String) {
        if let Some(notes) = self.notes {
            notes.borrow_mut().push(word.problem(message()));
        }
    }

    pub(super) fn next_word(&mut self) -> Option<Word<'t>> {
        self.skip_space();
        let bytes = self.line.as_bytes();
        let start = self.at;
        let first = *bytes.get(start)?;
        if matches!(first, b'"' | b'\'')
            && let Some(length) = memchr::memchr(first, &bytes[start + 1..])
        {
            let close = start + 1 + length;
            if matches!(bytes.get(close + 1), None | Some(b' ' | b'\t')) {
                self.at = close + 1;
                return Some(Word { text: &self.line[start + 1..close], start, end: close + 1 });
            }
            // A quoted local part is a part of its word, blanks and all.
            if first == b'"' && bytes[close + 1] == b'@' {
                let length = memchr::memchr2(b' ', b'\t', &bytes[close..]).unwrap_or(bytes.len() - close);
                self.at = close + length;
                return Some(Word { text: &self.line[start..self.at], start, end: self.at });
            }
        }
        let length = memchr::memchr2(b' ', b'\t', &bytes[start..]).unwrap_or(bytes.len() - start);
        self.at = start + length;
        Some(Word { text: &self.line[start..self.at], start, end: self.at })
    }

    pub(super) fn expect(&mut self, what: impl fmt::Display) -> Result<Word<'t>, Problem> {
        let word = self.expect_quietly(what)?;
        if word.is_unclosed() {
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
        if word.is_unclosed() {
            return Err(word.problem(UNCLOSED));
        }
        if word.begins_with_quote() {
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
        self.at = self.line.len();
        Ok(Word { text, start, end: start + text.len() })
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.line.len()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t') = self.line.as_bytes().get(self.at) {
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

/// The line as it can be shown, with stars in the place of a secret.
pub(super) fn without_secret(line: &str) -> Cow<'_, str> {
    let mut words = Words::new(line);
    match words.next_word() {
        Some(verb) if ["hpfeeds_secret", "relay_password"].contains(&verb.text) => {
            let (shown, secret) = line.split_at(verb.end);
            let hidden = |character: char| if matches!(character, ' ' | '\t') { character } else { '*' };
            Cow::Owned(shown.chars().chain(secret.chars().map(hidden)).collect())
        }
        Some(verb) if verb.text == "amqp_url" || RELAYED.iter().any(|scheme| line.contains(scheme)) => {
            let Some(password) = password_in_url(line) else { return Cow::Borrowed(line) };
            let stars = "*".repeat(line[password.clone()].chars().count());
            Cow::Owned([&line[..password.start], &stars, &line[password.end..]].concat())
        }
        _ => Cow::Borrowed(line),
    }
}

/// What URLs begin with that may have a password, wherever they stand.
const RELAYED: [&str; 3] = ["smtp://", "smtps://", "lmtp://"];

/// Where a password may stand in a line with a URL: between the first colon of what is in front of the host and its last `@`.
fn password_in_url(line: &str) -> Option<Range<usize>> {
    let begins = line.find("://")? + "://".len();
    let end = line.rfind('@').filter(|end| *end > begins)?;
    let colon = begins + line[begins..end].find(':')?;
    Some(colon + 1..end)
}

/// The line as its words are read, its comment taken off and its variables replaced.
pub(super) fn prepared(line: &str) -> Result<Cow<'_, str>, Problem> {
    let line = without_comment(line);
    if let Some(start) = line.find(char::REPLACEMENT_CHARACTER)
        && reply_text(line).is_none_or(|text| start < text)
    {
        let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
        return Err(Problem { start, end, message: "this line is not UTF-8 text".to_owned() });
    }
    let replaced = replace_variables(line, &|name| std::env::var(name).ok())?;
    Ok(replaced.map_or(Cow::Borrowed(line), Cow::Owned))
}

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

/// Replaces `${NAME}` and `${NAME:-default}` by what `variable` knows; a command is left to its shell. `None` when there is
/// nothing to replace.
fn replace_variables(line: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    if memchr::memmem::find(line.as_bytes(), b"${").is_none() {
        return Ok(None);
    }
    let end = shell_command(line).unwrap_or(line.len());
    if !line[..end].contains("${") {
        return Ok(None);
    }
    let mut replaced = String::with_capacity(line.len() + 32);
    let mut at = 0;
    while let Some(found) = line[at..end].find("${") {
        let start = at + found;
        let problem = |end: usize, message: String| Problem { start, end, message };
        let Some(length) = line[start..end].find('}') else {
            return Err(problem(end, "`${` without its `}`".into()));
        };
        let (name, default) = match line[start + 2..start + length].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&line[start + 2..start + length], None),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(problem(start + length + 1, format!("`{name}` is not the name of an environment variable")));
        }
        let value = match (variable(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => value,
            (None, Some(default)) => default.to_owned(),
            // In the text of a reply the original knew no variables.
            (None, None) if reply_text(line).is_some_and(|text| start >= text) => {
                line[start..=start + length].to_owned()
            }
            (None, None) => {
                return Err(problem(
                    start + length + 1,
                    format!("the environment has no `{name}`: set it, or give a default as in `${{{name}:-default}}`"),
                ));
            }
        };
        if value.contains(['\n', '\r', '\0']) {
            return Err(problem(start + length + 1, format!("the value of `{name}` is more than one line")));
        }
        replaced.push_str(&line[at..start]);
        replaced.push_str(&value);
        at = start + length + 1;
    }
    replaced.push_str(&line[at..]);
    Ok(Some(replaced))
}

/// Where the text of a reply begins, in a line that has one.
fn reply_text(line: &str) -> Option<usize> {
    let mut words = Words::new(line);
    let verb = words.next_word()?;
    if verb.text == "error" {
        while !["rcpt_to", "mail_from"].contains(&words.next_word()?.text) {}
    } else if !verb.text.starts_with("limit.") {
        return None;
    }
    // A pattern or a value, and the code.
    words.next_word()?;
    words.next_word()?;
    Some(words.at)
}

/// Where a shell command begins: the third word after `rcpt_to`, if the second is an action that has one.
fn shell_command(line: &str) -> Option<usize> {
    let mut words = Words::new(line);
    while words.next_word()?.text != "rcpt_to" {}
    words.next_word()?;
    matches!(words.next_word()?.text, "pipe" | "pipe_raw").then_some(words.at)
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
    fn variables_are_replaced_outside_shell_commands() {
        let variable = |name: &str| match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let replace = |line| replace_variables(line, &variable).map(|line: Option<String>| line.unwrap_or_default());
        assert_eq!(replace("domain ${HOST}").unwrap(), "domain example.com");
        assert_eq!(replace("domain ${NONE:-x}.${HOST}").unwrap(), "domain x.example.com");
        assert_eq!(replace("domain ${EMPTY:-x}").unwrap(), "domain x");
        for line in ["deliver rcpt_to a@${HOST} pipe run ${SENDER}", "copy rcpt_to a@${HOST} pipe_raw run ${SENDER}"] {
            assert_eq!(replace(line).unwrap(), line.replace("${HOST}", "example.com"));
        }
        assert!(replace("domain ${NONE}").unwrap_err().message.contains("NONE"));
        assert!(replace("domain ${HOST").is_err());
    }
}
