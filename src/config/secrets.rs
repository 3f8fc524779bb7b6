//! What messages quote of a line: all of it, with stars in place of a secret, even if the line is not what it was meant
//! to be.
//!
//! The secret is what proves an identity. Words for the administrator, as in `${NAME:?words}`, and the names of
//! variables are shown.

use std::borrow::Cow;
use std::ops::Range;

use super::lexer::{self, CONDITIONS, Prepared, Word, Words};
use super::spelling::closest;
use super::variables::{self, Otherwise, Variable};

/// A line as messages quote it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cited<'l> {
    /// As it is in the file.
    InFile(&'l str),
    /// With its variables replaced.
    Prepared(&'l Prepared<'l>),
}

impl<'l> Cited<'l> {
    /// The text that the positions of problems refer to.
    pub(super) fn text(self) -> &'l str {
        match self {
            Cited::InFile(line) => line,
            Cited::Prepared(prepared) => prepared.text(),
        }
    }

    /// Whether this byte is part of a secret.
    pub(super) fn hides(self, at: usize) -> bool {
        let before = self.text()[..at].chars().count();
        self.without_secrets().chars().nth(before) != self.text()[at..].chars().next()
    }

    /// The text with a star in place of each character of a secret.
    pub(super) fn without_secrets(self) -> Cow<'l, str> {
        let line = self.text();
        let (variables, end) = match self {
            Cited::InFile(line) => (variables::places(line), lexer::without_comment(line).len()),
            Cited::Prepared(_) => (Vec::new(), line.len()),
        };
        let words = match self {
            Cited::InFile(line) => Words::with_values(line, &variables),
            Cited::Prepared(prepared) => prepared.all_words(),
        };
        let Some(secret) = Text { line, end, variables: &variables }.secret(words) else { return Cow::Borrowed(line) };
        let shown: Vec<_> = variables.iter().filter_map(|range| shown(line, range.clone())).flatten().collect();
        let is_hidden = |at: usize| secret.contains(&at) && !shown.iter().any(|shown| shown.contains(&at));
        let star = |(at, character)| match character {
            ' ' | '\t' => character,
            _ if is_hidden(at) => '*',
            _ => character,
        };
        Cow::Owned(line.char_indices().map(star).collect())
    }
}

/// Which parts of a variable within a secret are shown: everything but its default.
fn shown(line: &str, range: Range<usize>) -> Option<[Range<usize>; 2]> {
    match Variable::parse(&line[range.start + 2..range.end - 1]).ok()?.otherwise {
        Otherwise::Default(text) => Some([range.start..range.end - 1 - text.len(), range.end - 1..range.end]),
        Otherwise::Unsaid | Otherwise::Error(_) => Some([range.clone(), range.end..range.end]),
    }
}

/// The directive with a secret that a word names or was meant to name, as it was typed.
pub(super) fn meant(word: &str) -> Option<&str> {
    let Head { text, .. } = Head::of(word);
    let is_secret = is_one_of(SECRETS, text)
        || closest(text, SECRETS.into_iter()).is_some()
        // Another program's name for it, or the name of a variable.
        || ["password", "secret"].iter().any(|it| text.to_ascii_lowercase().ends_with(it));
    is_secret.then_some(text)
}

/// The letters at the beginning of a word, ignoring characters that look like blanks or quotes.
struct Head<'w> {
    text: &'w str,
    /// How many bytes of the word that is.
    length: usize,
}

impl<'w> Head<'w> {
    fn of(word: &'w str) -> Self {
        let rest = word.trim_start_matches(|character: char| !character.is_ascii() || matches!(character, '"' | '\''));
        let is_other = |character: char| !character.is_ascii_alphanumeric() && !matches!(character, '_' | '-');
        let length = rest.find(is_other).unwrap_or(rest.len());
        Self { text: &rest[..length], length: word.len() - rest.len() + length }
    }
}

/// A line that may contain a secret.
struct Text<'l> {
    line: &'l str,
    /// Where its comment begins, or else its end.
    end: usize,
    /// The positions of `${...}` in it, where no character has a meaning.
    variables: &'l [Range<usize>],
}

impl Text<'_> {
    fn secret(&self, mut words: Words<'_>) -> Option<Range<usize>> {
        let (mut is_first, mut may_be_misspelt) = (true, true);
        let mut ahead = words;
        while let Some(word) = ahead.next_word() {
            if is_rule(word.text) {
                break;
            }
            let head = Head::of(word.text);
            let is_meant = may_be_misspelt && meant(word.text).is_some();
            if is_meant || is_one_of(SECRETS, head.text) {
                return self.behind(word, &head, ahead);
            }
            // The switch between may be any word.
            may_be_misspelt = is_first && CONDITIONS.contains(&word.text) || !is_first && may_be_misspelt;
            is_first = false;
        }
        let mut url = None;
        while let Some(word) = words.next_word() {
            if word.text == "relay" {
                url = words.clone().next_word();
            }
        }
        let begins = url.map(|url| url.start).or_else(|| self.scheme())?;
        self.password_in_url(begins)
    }

    /// The secret behind a directive that has one.
    fn behind(&self, word: Word<'_>, head: &Head<'_>, mut words: Words<'_>) -> Option<Range<usize>> {
        let is_like = |name: &str| closest(head.text, [name].into_iter()).is_some();
        if is_like("amqp_url") {
            return self.password_in_url(word.end);
        }
        if head.length < word.text.len() {
            let quote = usize::from(word.end - word.start > word.text.len());
            return Some(word.start + quote + head.length..self.line.len());
        }
        if !is_like("auth_user") {
            return Some(word.end..self.line.len());
        }
        // A name has no blanks, even if quotes are in it and in the password. A single word may be the password.
        let name = words.next_word().filter(|_| words.next_word().is_some());
        let ends = name.map_or(word.end, |name| match name.text {
            "" => name.end,
            _ => self.find(&[' ', '\t'], name.start..self.line.len()).unwrap_or(name.end),
        });
        Some(ends..self.line.len())
    }

    /// Where the first URL begins that may have a password.
    fn scheme(&self) -> Option<usize> {
        let line = self.line.to_ascii_lowercase();
        SCHEMES.iter().filter_map(|scheme| line.find(&format!("{scheme}://"))).min()
    }

    /// Where a URL may have a password: between the first colon of the user part and the last `@`. Without an `@`
    /// everything that is not a port counts.
    fn password_in_url(&self, from: usize) -> Option<Range<usize>> {
        let text = &self.line[from..];
        let from = from + (text.len() - text.trim_start_matches([' ', '\t', '"', '\'']).len());
        let text = &self.line[from..];
        let scheme = text.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        let begins = match scheme {
            Some((scheme, _)) if scheme == "lmtp+unix" => return None,
            Some((scheme, rest)) if rest.starts_with('/') || SCHEMES.contains(&&*scheme) => {
                self.line.len() - rest.trim_start_matches('/').len()
            }
            _ => from,
        };
        if let Some(at) = self.rfind('@', begins..self.end) {
            let colon = self.find(&[':'], begins..at)?;
            return Some(colon + 1..at);
        }
        let ends = self.find(&[' ', '\t'], begins..self.end).unwrap_or(self.end);
        let address = self.line[begins..ends].rfind(']').map_or(begins, |at| begins + at);
        let colon = self.find(&[':'], address..ends)?;
        let port = self.line[colon + 1..ends].trim_start_matches(|character: char| character.is_ascii_digit());
        (!port.is_empty() && !port.starts_with('/')).then_some(colon + 1..self.line.len())
    }

    fn find(&self, wanted: &[char], range: Range<usize>) -> Option<usize> {
        self.places(wanted, range).next()
    }

    fn rfind(&self, wanted: char, range: Range<usize>) -> Option<usize> {
        self.places(&[wanted], range).last()
    }

    /// The positions of these characters in a part of the line, except in variables.
    fn places(&self, wanted: &[char], range: Range<usize>) -> impl Iterator<Item = usize> {
        let text = self.line.get(range.clone()).unwrap_or_default();
        let places = text.match_indices(wanted).map(move |(at, _)| range.start + at);
        places.filter(|at| !self.variables.iter().any(|variable| variable.contains(at)))
    }
}

/// Whether this is the verb of a line with addresses and texts, in which any word may occur.
fn is_rule(verb: &str) -> bool {
    verb.starts_with("limit.")
        || ["deliver", "copy", "error", "allow", "deny", "allowgroup", "proxy_protocol", "deadletter_file"]
            .contains(&verb)
}

fn is_one_of<const N: usize>(names: [&str; N], text: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(text))
}

/// The directives that are followed by a secret.
const SECRETS: [&str; 4] = ["hpfeeds_secret", "relay_password", "auth_user", "amqp_url"];

/// The schemes of URLs that may have a password.
const SCHEMES: [&str; 5] = ["smtp", "smtps", "lmtp", "amqp", "amqps"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        for (line, shown) in [
            ("hpfeeds_secret a b", "hpfeeds_secret * *"),
            ("auth_user fred 'a b'", "auth_user fred ** **"),
            ("auth_user fred", "auth_user ****"),
            ("auth_user \"fred a\" b", "auth_user \"fred ** *"),
            ("relay_password a", "relay_password *"),
            ("when on deliver rcpt_to * relay smtp://a:bcd@e", "when on deliver rcpt_to * relay smtp://a:***@e"),
            ("auth_user", "auth_user"),
            ("when ${A:-b c} auth_user fred abc", "when ${A:-b c} auth_user fred ***"),
            ("unless 'a b hpfeeds_secret abc", "unless 'a b hpfeeds_secret ***"),
            ("when on amqp_url amqp://a:bcd@e/", "when on amqp_url amqp://a:***@e/"),
            // Where it is not a directive.
            ("deliver rcpt_to auth_user append abc", "deliver rcpt_to auth_user append abc"),
            ("when on error rcpt_to a 550 no auth_user b", "when on error rcpt_to a 550 no auth_user b"),
            ("relay_password_file /a", "relay_password_file /a"),
            ("when ${RELAY_PASSWORD:-off} domain a", "when ${RELAY_PASSWORD:-off} domain a"),
            // Where it was meant as a directive.
            ("auth_usr fred abc", "auth_usr fred ***"),
            ("relay_pasword abc", "relay_pasword ***"),
            ("RELAY_PASSWORD abc", "RELAY_PASSWORD ***"),
            ("relay_password=abc", "relay_password****"),
            ("relay_password: abc", "relay_password* ***"),
            ("SMTP_AUTH_PASSWORD='abc'", "SMTP_AUTH_PASSWORD******"),
            ("\u{feff}relay_password abc", "\u{feff}relay_password ***"),
            ("\u{a0}relay_password abc", "\u{a0}relay_password ***"),
            ("relay_password\u{a0}abc", "relay_password****"),
            ("wenn on auth_user fred abc", "wenn on auth_user fred ***"),
            ("whenon auth_user fred abc", "whenon auth_user fred ***"),
            ("when on auth_usr fred abc", "when on auth_usr fred ***"),
            ("hpfeeds_ident x hpfeeds_secret abc", "hpfeeds_ident x hpfeeds_secret ***"),
            ("amqp_urls amqp://a:bcd@e/", "amqp_urls amqp://a:***@e/"),
            ("deliver rcpt_to * relay smpt://a:bcd@e", "deliver rcpt_to * relay smpt://a:***@e"),
            ("deliver rcpt_to * rely SMTP://a:bcd@e", "deliver rcpt_to * rely SMTP://a:***@e"),
            ("deliver rcpt_to * relay smtp:/a:bcd@e", "deliver rcpt_to * relay smtp:/a:***@e"),
            ("deliver rcpt_to * relay a:bcd@e:25", "deliver rcpt_to * relay a:***@e:25"),
            ("deliver rcpt_to * relay smtp://a:bcd", "deliver rcpt_to * relay smtp://a:***"),
            ("deliver rcpt_to * relay smtp://a:25 # b@c", "deliver rcpt_to * relay smtp://a:25 # b@c"),
            ("deliver rcpt_to * relay smtp://[::1]:25/ tls=on", "deliver rcpt_to * relay smtp://[::1]:25/ tls=on"),
            ("deliver rcpt_to * relay lmtp+unix:/a:b@c", "deliver rcpt_to * relay lmtp+unix:/a:b@c"),
            // Words for the administrator are shown; a default may be the secret.
            ("auth_user ${U:?who may send} ${P:?set it: now}", "auth_user ${U:?who may send} ${P:?set it: now}"),
            ("auth_user fred ${P:-abc}x${Q}", "auth_user fred ${P:-***}*${Q}"),
            ("relay_password a${b c!}d ${", "relay_password **** **** **"),
            ("deliver rcpt_to * relay smtp://${U:?a@b: c}:d@e", "deliver rcpt_to * relay smtp://${U:?a@b: c}:*@e"),
        ] {
            assert_eq!(Cited::InFile(line).without_secrets(), shown);
        }
    }

    /// The value of a variable is hidden like text in the file.
    #[test]
    fn values_are_hidden() {
        for (line, name, value, shown) in [
            ("auth_user ${U} ${P}", "", "my abc", "auth_user  ** ***"),
            ("auth_user ${U} ${P}", "fred", "my abc", "auth_user fred ** ***"),
            ("auth_user ${U} ${P}", "fred", "a${U:?b}", "auth_user fred ********"),
            ("auth_user ${U:-} ${P}", "", "abc", "auth_user  ***"),
            ("auth_user ${U} x", "fred abc", "", "auth_user fred *** *"),
            ("deliver rcpt_to * relay smtp://a:${P}@e", "", "b c@d", "deliver rcpt_to * relay smtp://a:* ***@e"),
            ("deliver rcpt_to * relay smtp://${U}:${P}", "a", "b c", "deliver rcpt_to * relay smtp://a:* *"),
            ("when on relay_password \"${P}\"", "", "\" b", "when on relay_password ** **"),
        ] {
            let environment = |variable: &str| Some(if variable == "U" { name } else { value }.into());
            let prepared = variables::replaced(line, &environment).unwrap();
            assert_eq!(Cited::Prepared(&prepared).without_secrets(), shown, "{line}");
        }
    }
}
