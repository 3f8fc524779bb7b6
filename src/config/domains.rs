//! An address whose domain is one of several: `*@{example.com,example.org}`.
//!
//! The list follows the last `@`, where no address has a brace. Blanks around commas and empty items are ignored,
//! because the list may come from the environment. A domain matches exactly, ignoring letter case: not its subdomains,
//! and not its form in another alphabet.

use super::lexer::{Problem, Word};
use super::ordered::wildcard_fits;
use super::value;
use crate::address::Mailbox;

/// A local part, which may contain `*`, and a list of domains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainList {
    source: Box<str>,
    /// The position of the `@`.
    at: usize,
    domains: Vec<Box<str>>,
}

impl DomainList {
    /// Reads a word in the place of an address; `None` if it has no list.
    pub(super) fn of_address(word: Word<'_>) -> Option<Result<Self, Problem>> {
        let text = word.text;
        let at = place_in(text)?;
        if text.starts_with('"') {
            return Some(Err(word.problem("a local part in quotes has one domain: write a line for each")));
        }
        let items = at + OPEN.len();
        let Some(end) = text.rfind('}').filter(|end| *end >= items) else {
            return Some(Err(
                value::part(word, at + 1..items).problem("this list has no `}`: put a word with blanks in quotes")
            ));
        };
        if end + 1 < text.len() {
            return Some(Err(value::part(word, end + 1..text.len()).problem("a list of domains ends the address")));
        }
        Some(domains(word, items, end).map(|domains| Self { source: text.into(), at, domains }))
    }

    /// The same in the place of a regular expression, which never begins with `*`.
    pub(super) fn of_pattern(word: Word<'_>) -> Option<Result<Self, Problem>> {
        if word.text.starts_with('*') { Self::of_address(word) } else { None }
    }

    /// Whether a word in the place of an address has a list.
    pub(super) fn is_in(text: &str) -> bool {
        place_in(text).is_some()
    }

    /// Whether this address is one of those that are meant.
    pub(super) fn fits(&self, full: &str) -> bool {
        let Some((local_part, domain)) = full.rsplit_once('@') else { return false };
        wildcard_fits(self.local_part(), local_part) && self.domains.iter().any(|it| it.eq_ignore_ascii_case(domain))
    }

    /// The part in front of the `@`.
    pub(super) fn local_part(&self) -> &str {
        &self.source[..self.at]
    }

    /// The first domain that is not ASCII, unless the list has ASCII forms (`xn--`) as well.
    pub(super) fn in_another_alphabet(&self) -> Option<&str> {
        let has_ascii = self.domains.iter().any(|domain| domain.contains("xn--"));
        self.domains.iter().map(|domain| &**domain).find(|domain| !has_ascii && !domain.is_ascii())
    }

    /// The list as it was written.
    pub(super) fn source(&self) -> &str {
        &self.source
    }
}

/// The position of the `@` of a list. A quoted local part may contain the same characters.
fn place_in(text: &str) -> Option<usize> {
    let begins = if text.starts_with('"') { text.rfind('"')? } else { 0 };
    memchr::memmem::find(&text.as_bytes()[begins..], OPEN.as_bytes()).map(|at| begins + at)
}

/// Reads the domains in this part of a word.
fn domains(word: Word<'_>, start: usize, end: usize) -> Result<Vec<Box<str>>, Problem> {
    let mut domains = Vec::new();
    let mut at = start;
    for item in word.text[start..end].split(',') {
        let domain = item.trim();
        let begins = at + (item.len() - item.trim_start().len());
        at += item.len() + 1;
        if domain.is_empty() {
            continue;
        }
        if !is_domain(domain) {
            let meant = domain.trim_start_matches(['*', '@', '.']).trim_end_matches('.');
            let advice = if meant != domain && is_domain(meant) {
                format!(": write `{meant}`")
            } else if domain.split([' ', '\t', ';', '|']).filter(|part| !part.is_empty()).all(is_domain) {
                ": commas stand between domains".to_owned()
            } else {
                String::new()
            };
            let item = value::part(word, begins..begins + domain.len());
            return Err(item.problem(format!("`{domain}` is no domain{advice}")));
        }
        domains.push(domain.into());
    }
    match domains.is_empty() {
        true => Err(value::part(word, start - 1..end + 1).problem("this list has no domain")),
        false => Ok(domains),
    }
}

/// Whether this is a single domain, and not two with something like a blank between them.
fn is_domain(text: &str) -> bool {
    !text.contains(char::is_whitespace)
        && Mailbox::parse(&format!("a@{text}")).is_ok_and(|mailbox| mailbox.domain() == text)
}

/// How a list begins.
const OPEN: &str = "@{";

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Option<Result<DomainList, Problem>> {
        DomainList::of_address(Word::alone(text))
    }

    #[test]
    fn domains_are_meant_exactly() {
        for (text, address, fits) in [
            ("*@{a.example}", "x@a.example", true),
            ("*@{a.example,b.example}", "x@B.EXAMPLE", true),
            ("*@{ A.example ,, b.example ,}", "x@a.example", true),
            ("*@{a.example,b.example}", "x@c.example", false),
            ("*@{a.example}", "x@sub.a.example", false),
            ("*@{a.example}", "x@nota.example", false),
            ("*@{a.example}", "x@a.example.evil", false),
            ("*@{a.example}", "x@a", false),
            ("*@{a.example}", "", false),
            ("*@{a.example}", "x@y@a.example", true),
            ("*@{[192.0.2.1],a.example}", "x@[192.0.2.1]", true),
            ("*@{b\u{fc}cher.example}", "x@B\u{fc}cher.example", true),
            ("*@{b\u{fc}cher.example}", "x@xn--bcher-kva.example", false),
            ("fred@{a.example,b.example}", "Fred@b.example", true),
            ("fred@{a.example,b.example}", "fredx@b.example", false),
            ("f*d@{a.example,b.example}", "fd@b.example", true),
        ] {
            assert_eq!(list(text).unwrap().unwrap().fits(address), fits, "{text} {address}");
        }
    }

    #[test]
    fn what_is_no_list() {
        for text in ["*", "a@b", "a{b}@c", "\"a@{b}\"@c", "a@b{c}", "{a@b}"] {
            assert!(list(text).is_none(), "{text}");
        }
        // In the place of a regular expression this is one.
        assert!(DomainList::of_pattern(Word::alone("x@{2}")).is_none());
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (text, at, message) in [
            ("*@{}", "{}", "this list has no domain"),
            ("*@{ , }", "{ , }", "this list has no domain"),
            ("*@{a.example", "{", "this list has no `}`: put a word with blanks in quotes"),
            ("*@{a.example}.b", ".b", "a list of domains ends the address"),
            ("*@{a.example}}", "a.example}", "`a.example}` is no domain"),
            ("*@{a.example, *.b.example}", "*.b.example", "`*.b.example` is no domain: write `b.example`"),
            ("*@{ @b.example}", "@b.example", "`@b.example` is no domain: write `b.example`"),
            (
                "*@{a.example b.example}",
                "a.example b.example",
                "`a.example b.example` is no domain: commas stand between domains",
            ),
            (
                "*@{a.example;b.example}",
                "a.example;b.example",
                "`a.example;b.example` is no domain: commas stand between domains",
            ),
            ("*@{a.example.}", "a.example.", "`a.example.` is no domain: write `a.example`"),
            ("*@{.}", ".", "`.` is no domain"),
            ("*@{a.example; }", "a.example;", "`a.example;` is no domain: commas stand between domains"),
            ("*@{a\u{a0}b.example}", "a\u{a0}b.example", "`a\u{a0}b.example` is no domain"),
            ("*@{a\u{200b}b.example}", "a\u{200b}b.example", "`a\u{200b}b.example` is no domain"),
            ("*@{a.example} discard", " discard", "a list of domains ends the address"),
            ("*@{*}", "*", "`*` is no domain"),
            ("\"a\"@{b,c}", "\"a\"@{b,c}", "a local part in quotes has one domain: write a line for each"),
        ] {
            let problem = list(text).unwrap().unwrap_err();
            assert_eq!((&text[problem.start..problem.end], &*problem.message), (at, message), "{text}");
        }
    }
}
