//! Variables of the environment in a line of the configuration: where they stand, and what takes their place.
//!
//! A value is a word or a part of one, whatever is in it: where words end is decided by what stands in the file.

use std::ffi::OsString;
use std::ops::Range;

use super::lexer::{Prepared, Problem, Words, is_condition};

/// What a variable begins with.
pub(super) const VARIABLE: &str = "${";

/// Where the variables of a line stand, each with its `}`; blanks and quotes in what is said of them end no word.
pub(super) fn places(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = line[at..].find(VARIABLE).map(|start| at + start)
        && let Some(length) = line[start..].find('}')
    {
        at = start + length + 1;
        found.push(start..at);
    }
    found
}

/// What the environment has by a name.
pub(super) type Environment<'e> = dyn Fn(&str) -> Option<OsString> + 'e;

/// The line with its variables replaced; a command is left to its shell.
pub(super) fn replaced<'l>(line: &'l str, environment: &Environment<'_>) -> Result<Prepared<'l>, Problem> {
    if memchr::memmem::find(line.as_bytes(), VARIABLE.as_bytes()).is_none() {
        return Ok(Prepared::unconditional(line, Vec::new()));
    }
    let end = shell_command(line).unwrap_or(line.len());
    if !line[..end].contains(VARIABLE) {
        return Ok(Prepared::unconditional(line, Vec::new()));
    }
    let (mut text, mut values) = (String::with_capacity(line.len() + 32), Vec::new());
    let mut at = 0;
    while let Some(found) = line[at..end].find(VARIABLE) {
        let start = at + found;
        let Some(length) = line[start..end].find('}') else {
            return Err(Problem { start, end, message: "`${` without its `}`".into() });
        };
        let behind = start + length + 1;
        let problem = |message: String| Problem { start, end: behind, message };
        let variable = Variable::parse(&line[start + 2..behind - 1]).map_err(problem)?;
        text.push_str(&line[at..start]);
        match variable.value(environment).map_err(problem)? {
            Some(value) => {
                values.push(text.len()..text.len() + value.len());
                text.push_str(&value);
            }
            None => match variable.otherwise {
                // As if the default stood there itself.
                Otherwise::Default(default) => text.push_str(default),
                // In the text of a reply the original knew no variables.
                _ if reply_text(line).is_some_and(|text| start >= text) => text.push_str(&line[start..behind]),
                Otherwise::Error(words) => return Err(problem(variable.missing(words))),
                Otherwise::Unsaid => return Err(problem(variable.missing(""))),
            },
        }
        at = behind;
    }
    text.push_str(&line[at..]);
    Ok(Prepared::unconditional(text, values))
}

/// What stands between `${` and `}`.
pub(super) struct Variable<'l> {
    name: &'l str,
    pub(super) otherwise: Otherwise<'l>,
}

/// What is done if there is no value.
pub(super) enum Otherwise<'l> {
    /// `${NAME}`
    Unsaid,
    /// `${NAME:-text}`
    Default(&'l str),
    /// `${NAME:?words}`: what to tell the administrator.
    Error(&'l str),
}

impl<'l> Variable<'l> {
    pub(super) fn parse(text: &'l str) -> Result<Self, String> {
        let (name, otherwise) = match text.split_once(':') {
            None => (text, Otherwise::Unsaid),
            Some((name, rest)) => match rest.split_at_checked(1) {
                Some(("-", default)) => (name, Otherwise::Default(default)),
                Some(("?", words)) => (name, Otherwise::Error(words)),
                _ => (text, Otherwise::Unsaid),
            },
        };
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match otherwise {
            // It is not quoted, as it may be a part of a password.
            _ if !is_name => {
                Err("in braces stands the name of a variable, as in `${NAME}` or `${NAME:-default}`".to_owned())
            }
            // The first `}` ends it, so that the outer one would be left over.
            Otherwise::Default(text) | Otherwise::Error(text) if text.contains(VARIABLE) => {
                Err("no variable stands within another: give a default without one".to_owned())
            }
            otherwise => Ok(Self { name, otherwise }),
        }
    }

    /// What the environment has; an empty value counts only where nothing is said of what else there would be.
    fn value(&self, environment: &Environment<'_>) -> Result<Option<String>, String> {
        let Some(value) = environment(self.name) else { return Ok(None) };
        if value.is_empty() && !matches!(self.otherwise, Otherwise::Unsaid) {
            return Ok(None);
        }
        let name = self.name;
        let value = value.into_string().map_err(|_| format!("the value of `{name}` is not UTF-8 text"))?;
        match value.strip_suffix('\r').unwrap_or(&value).contains(['\n', '\r', '\0']) {
            true => Err(format!("the value of `{name}` is more than one line")),
            false if value.ends_with('\r') => {
                Err(format!("the value of `{name}` ends with a carriage return, as lines of Windows do: take it out"))
            }
            false => Ok(Some(value)),
        }
    }

    fn missing(&self, words: &str) -> String {
        let name = self.name;
        match words {
            "" => format!("the environment has no `{name}`: set it, or give a default as in `${{{name}:-default}}`"),
            words => format!("the environment has no `{name}`: {words}"),
        }
    }
}

/// Where the text of a reply begins, in a line that has one.
pub(super) fn reply_text(line: &str) -> Option<usize> {
    let places = places(line);
    let mut words = Words::with_values(line, &places);
    let mut verb = words.next_word()?;
    if is_condition(verb) {
        words.next_word()?;
        verb = words.next_word()?;
    }
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
    let places = places(line);
    let mut words = Words::with_values(line, &places);
    while words.next_word()?.text != "rcpt_to" {}
    words.next_word()?;
    matches!(words.next_word()?.text, "pipe" | "pipe_raw").then_some(words.at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::lexer::without_comment;

    #[test]
    fn variables_are_replaced_outside_shell_commands() {
        let variable = |name: &str| match name {
            "HOST" => Some("example.com".into()),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        let replace = |line| replaced(line, &variable).map(|line| line.text().to_owned());
        assert_eq!(replace("domain ${HOST}").unwrap(), "domain example.com");
        assert_eq!(replace("domain ${NONE:-x}.${HOST}").unwrap(), "domain x.example.com");
        assert_eq!(replace("domain ${EMPTY:-x}").unwrap(), "domain x");
        for line in ["deliver rcpt_to a@${HOST} pipe run ${SENDER}", "copy rcpt_to a@${HOST} pipe_raw run ${SENDER}"] {
            assert_eq!(replace(line).unwrap(), line.replace("${HOST}", "example.com"));
        }
        assert!(replace("domain ${NONE}").unwrap_err().message.contains("NONE"));
        assert!(replace("domain ${HOST").is_err());
    }

    /// The words of a line in an environment where `${V}` is this and nothing else is set.
    fn words_with(line: &str, value: &str) -> Result<Vec<String>, String> {
        let environment = |name: &str| (name == "V").then(|| value.into());
        let prepared = replaced(without_comment(line), &environment).map_err(|problem| problem.message)?;
        let mut words = prepared.words();
        Ok(std::iter::from_fn(|| words.next_word()).map(|word| word.text.to_owned()).collect())
    }

    #[test]
    fn a_value_is_a_word_or_a_part_of_one() {
        for (line, value, expected) in [
            ("domain ${V}", "a b", &["domain", "a b"][..]),
            ("domain ${V} c", "", &["domain", "", "c"]),
            ("domain ${V}", "", &["domain", ""]),
            ("domain ${V}${V} # c", " # ", &["domain", " #  # "]),
            ("x ${V} y", "'", &["x", "'", "y"]),
            ("x ${V} y'", "'", &["x", "'", "y'"]),
            ("x '${V}' y", "' b '", &["x", "' b '", "y"]),
            ("x '${V}'y z", "a", &["x", "'a'y", "z"]),
            ("x 'a'${V} z", "", &["x", "'a'", "z"]),
            ("x \"a b\"${V} z", "@c", &["x", "\"a", "b\"@c", "z"]),
            ("x \"a b\"@${V} z", "c d", &["x", "\"a b\"@c d", "z"]),
            ("x a@{${V}} z", "b, c", &["x", "a@{b, c}", "z"]),
            ("x ${W:-a b} z", "", &["x", "a", "b", "z"]),
            ("x '${W:-a b}' z", "", &["x", "a b", "z"]),
            ("x \"${V:-}\" z", "", &["x", "", "z"]),
        ] {
            assert_eq!(words_with(line, value).unwrap(), expected, "{line} with {value:?}");
        }
    }

    /// Where a text or a command begins does not depend on what is said of the variables in front of it.
    #[test]
    fn what_is_said_of_a_variable_is_no_word() {
        for (line, expected) in [
            ("deliver rcpt_to ${V:?who pipe} append ${V}", &["deliver", "rcpt_to", "b", "append", "b"][..]),
            ("deliver rcpt_to ${V:?who gets it} pipe ${V}", &["deliver", "rcpt_to", "b", "pipe", "${V}"]),
            ("error rcpt_to ${V:?who gets none} 550 ${W}", &["error", "rcpt_to", "b", "550", "${W}"]),
        ] {
            assert_eq!(words_with(line, "b").unwrap(), expected, "{line}");
        }
        let missing = words_with("error rcpt_to ${V:?who} ${W:?which code} no", "b").unwrap_err();
        assert_eq!(missing, "the environment has no `W`: which code");
    }

    #[test]
    fn variables_that_are_missing_are_told() {
        for (line, message) in [
            ("x ${W}", "the environment has no `W`: set it, or give a default as in `${W:-default}`"),
            ("x ${W:?who may send, a name}", "the environment has no `W`: who may send, a name"),
            ("x ${V:?}", "the environment has no `V`: set it, or give a default as in `${V:-default}`"),
            ("x ${V:=a}", "in braces stands the name of a variable, as in `${NAME}` or `${NAME:-default}`"),
            ("x ${W-a}", "in braces stands the name of a variable, as in `${NAME}` or `${NAME:-default}`"),
            ("x ${W:-${V}}", "no variable stands within another: give a default without one"),
            ("x ${", "`${` without its `}`"),
        ] {
            assert_eq!(words_with(line, "").unwrap_err(), message, "{line}");
        }
        for (value, message) in [
            ("a\n", "the value of `V` is more than one line"),
            ("a\rb", "the value of `V` is more than one line"),
            ("a\r\r", "the value of `V` is more than one line"),
            ("a\r", "the value of `V` ends with a carriage return, as lines of Windows do: take it out"),
        ] {
            assert_eq!(words_with("x ${V:-b}", value).unwrap_err(), message, "{value:?}");
        }
        let bad = |_: &str| Some(std::os::unix::ffi::OsStringExt::from_vec(b"a\xff".to_vec()));
        for line in ["x ${V}", "x ${V:-a}"] {
            assert_eq!(replaced(line, &bad).unwrap_err().message, "the value of `V` is not UTF-8 text");
        }
    }

    /// What lines are made of, and values.
    const PIECES: &[&str] =
        &["${V}", "${V}", "a", "'", "\"", " ", " ", "\t", "#", "@", "=", "{", "}", "$", "when ", "deliver "];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Which words there are depends on what stands in the file alone.
        #[test]
        fn no_value_ends_a_word_or_begins_a_comment(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12),
            value in prop::collection::vec(prop::sample::select(&PIECES[2..]), 0..6),
        ) {
            let (line, value) = (pieces.concat(), value.concat());
            const MARK: &str = "\u{1}";
            let expected = words_with(&line, MARK)
                .map(|words| words.iter().map(|word| word.replace(MARK, &value)).collect::<Vec<_>>());
            prop_assert_eq!(words_with(&line, &value), expected);
        }
    }
}
