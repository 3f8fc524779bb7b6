//! Finds lines that can never apply, for `mailrecv check`: everything that they match is decided by earlier lines, or
//! never reaches them.
//!
//! Only certain cases are reported. A pattern that is plain text with anchors is compared as an equivalent address with
//! `*`, and each kind of these has an index, because a file may have thousands of such lines.

use std::collections::HashMap;

use super::check::{Finding, without_own_domain};
use super::diagnostic::Severity;
use super::ordered::{Effect, Matcher, OrderedRule, wildcard_fits};
use super::sources::{LineName, Sources};

/// What the file contains besides the rules that are tried in order.
pub(super) struct Others<'a> {
    /// The text of the configuration.
    pub(super) sources: &'a Sources,
    /// The exact addresses of `deliver` lines, without our own domain, with the first line of each.
    pub(super) exact: &'a HashMap<String, u32>,
    pub(super) own_domain: &'a str,
}

/// Warnings about those `rules` that never apply.
pub(super) fn never_applying(rules: &[OrderedRule], others: &Others<'_>) -> Vec<Finding> {
    let domains = served_domains(rules, others.own_domain);
    let mut earlier = Earlier::default();
    let mut findings = Vec::new();
    for rule in rules {
        if let Some(message) = why_never(rule, &earlier, others, &domains) {
            findings.push(Finding::new(Severity::Warning, rule.position, rule.matcher.source(), message));
        }
        earlier.add(rule, others.own_domain);
    }
    findings
}

fn why_never(rule: &OrderedRule, earlier: &Earlier<'_>, others: &Others<'_>, domains: &[String]) -> Option<String> {
    let name = |line: u32| others.sources.name_beside(line, rule.position.line);
    let why = |by: Decides, address: Option<&str>| by.why(name(by.line), address);
    let exact_first = |line: u32, address: &str| {
        let name = name(line);
        format!("{name} takes mail for `{address}`, whatever this line says: exact addresses are looked at first")
    };
    let Some(form) = rule.matcher.as_wildcard(others.own_domain) else {
        let within = enclosing_form(rule.matcher.source());
        let by_form = earlier.covering(&within, rule.group).filter(|_| matches!(rule.matcher, Matcher::Pattern(_)));
        let by = [earlier.same(rule), by_form].into_iter().flatten().min_by_key(|decides| decides.line)?;
        return Some(why(by, None));
    };
    let exact = |address: &str| others.exact.get(&without_own_domain(address, others.own_domain));
    if let Some(by) = earlier.covering(&form, rule.group) {
        return Some(why(by, None));
    }
    if !form.contains('*') {
        return exact(&form).map(|line| exact_first(*line, &form));
    }
    // `^name@` means that name at each of our domains.
    let local_part = form.strip_suffix('*').filter(|name| name.ends_with('@') && !name.contains('*'))?;
    domains.iter().find_map(|domain| {
        let address = format!("{local_part}{domain}");
        if let Some(line) = exact(&address) {
            return Some(exact_first(*line, &address));
        }
        earlier.covering(&address, rule.group).map(|by| why(by, Some(&address)))
    })
}

/// The domains for which `deliver` lines with `*` or patterns accept mail, as far as their text shows.
fn served_domains(rules: &[OrderedRule], own_domain: &str) -> Vec<String> {
    let delivering = rules.iter().filter(|rule| matches!(rule.effect, Effect::Deliver(_)));
    let mut domains: Vec<String> = Vec::new();
    for form in delivering.filter_map(|rule| rule.matcher.as_wildcard(own_domain)) {
        let Some((_, domain)) = form.rsplit_once('@') else { continue };
        if !domain.contains('*') && !domain.is_empty() && !domains.iter().any(|known| known == domain) {
            domains.push(domain.to_owned());
        }
        if domains.len() == MOST_DOMAINS {
            break;
        }
    }
    domains
}

/// Warnings about `copy` lines none of whose recipients is in a `deliver` line.
pub(super) fn copies_of_nothing(copies: &[OrderedRule], rules: &[OrderedRule], others: &Others<'_>) -> Vec<Finding> {
    let delivering: Vec<&OrderedRule> = rules.iter().filter(|rule| matches!(rule.effect, Effect::Deliver(_))).collect();
    if copies.len().saturating_mul(delivering.len()) > MOST_PAIRS {
        return Vec::new();
    }
    let forms: Vec<Option<String>> =
        delivering.iter().map(|rule| rule.matcher.as_wildcard(others.own_domain)).collect();
    let is_delivered = |copy: &OrderedRule| {
        let form = copy.matcher.as_wildcard(others.own_domain);
        let by_pattern = delivering.iter().zip(&forms).any(|(rule, rule_form)| match (&form, rule_form) {
            (Some(one), Some(other)) => wildcards_meet(one.as_bytes(), other.as_bytes()),
            (Some(one), None) if !one.contains('*') => rule.takes(one, others.own_domain),
            (None, Some(other)) if !other.contains('*') => copy.takes(other, others.own_domain),
            _ => true,
        });
        by_pattern
            || form
                .as_deref()
                .filter(|form| !form.contains('*'))
                .is_some_and(|address| others.exact.contains_key(&without_own_domain(address, others.own_domain)))
    };
    let mut undecided: Vec<&OrderedRule> = copies.iter().filter(|copy| !is_delivered(copy)).collect();
    let has_star =
        |copy: &OrderedRule| copy.matcher.as_wildcard(others.own_domain).is_none_or(|form| form.contains('*'));
    if undecided.iter().filter(|copy| has_star(copy)).count() > MOST_COPIES {
        return Vec::new();
    }
    for address in others.exact.keys() {
        if undecided.iter().all(|copy| !has_star(copy)) {
            break;
        }
        undecided.retain(|copy| !has_star(copy) || !copy.takes(address, others.own_domain));
    }
    let message = "no `deliver` line takes mail for a recipient of this line, so nothing is ever copied: `copy` adds to a \
                   `deliver` line, it does not replace it";
    let finding =
        |copy: &OrderedRule| Finding::new(Severity::Warning, copy.position, copy.matcher.source(), message.to_owned());
    undecided.into_iter().map(finding).collect()
}

/// Whether some text matches both of these addresses with `*`.
fn wildcards_meet(one: &[u8], other: &[u8]) -> bool {
    // `row[at]` says whether the part of `one` so far and `other[..at]` can match the same text.
    let mut row: Vec<bool> = (0..=other.len()).map(|at| other[..at].iter().all(|byte| *byte == b'*')).collect();
    for byte in one {
        let mut next = vec![*byte == b'*' && row[0]];
        for (at, other_byte) in other.iter().enumerate() {
            let meets = match (byte, other_byte) {
                // A `*` matches one more byte of the other side, or none.
                (b'*', _) | (_, b'*') => row[at + 1] || next[at],
                (byte, other_byte) => row[at] && byte.eq_ignore_ascii_case(other_byte),
            };
            next.push(meets);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// An earlier line that decides about recipients of a later one.
#[derive(Debug, Clone, Copy)]
struct Decides {
    line: u32,
    refuses: bool,
}

impl Decides {
    /// The warning; `name` is the name of the earlier line.
    fn why(self, name: LineName<'_>, address: Option<&str>) -> String {
        let does = if self.refuses { "refuses" } else { "takes mail for" };
        match address {
            None => format!("{name} {does} every recipient of this line, so it never applies: put it above that one"),
            Some(address) => format!("{name} {does} `{address}` before this line is asked: put it above that one"),
        }
    }
}

/// The lines so far, by what they match.
#[derive(Default)]
struct Earlier<'r> {
    /// Lines for a single address.
    addresses: HashMap<(Option<usize>, String), Decides>,
    /// Lines with only one `*`, in front, by the text behind it.
    ends: HashMap<(Option<usize>, String), Decides>,
    /// Lines with only one `*`, at the end, by the text before it.
    beginnings: HashMap<(Option<usize>, String), Decides>,
    /// The first [`MOST_PATTERNS`] of other addresses with `*`.
    wildcards: Vec<(Option<usize>, String, Decides)>,
    patterns: Vec<(&'r OrderedRule, Decides)>,
    /// All patterns by their text.
    sources: HashMap<(Option<usize>, &'r str), Decides>,
}

impl<'r> Earlier<'r> {
    fn add(&mut self, rule: &'r OrderedRule, own_domain: &str) {
        let decides = Decides { line: rule.position.line, refuses: matches!(rule.effect, Effect::Refuse(_)) };
        let Some(form) = rule.matcher.as_wildcard(own_domain) else {
            self.sources.entry((rule.group, rule.matcher.source())).or_insert(decides);
            if self.patterns.len() < MOST_PATTERNS {
                self.patterns.push((rule, decides));
            }
            return;
        };
        let is_one = |text: &str| !text.contains('*');
        let (map, key) = match (form.strip_prefix('*'), form.strip_suffix('*')) {
            _ if is_one(&form) => (&mut self.addresses, &*form),
            (Some(end), _) if is_one(end) => (&mut self.ends, end),
            (_, Some(beginning)) if is_one(beginning) => (&mut self.beginnings, beginning),
            _ => {
                if self.wildcards.len() < MOST_PATTERNS {
                    self.wildcards.push((rule.group, form, decides));
                }
                return;
            }
        };
        map.entry((rule.group, key.to_owned())).or_insert(decides);
    }

    /// The first line that matches everything that this address with `*` matches, for everybody or for the same group.
    fn covering(&self, form: &str, group: Option<usize>) -> Option<Decides> {
        let mut found: Option<Decides> = None;
        let mut offer = |decides: Option<&Decides>| {
            if let Some(decides) = decides.filter(|it| found.is_none_or(|found| it.line < found.line)) {
                found = Some(*decides);
            }
        };
        let mut groups = vec![None];
        groups.extend(group.map(Some));
        for group in groups {
            offer(self.addresses.get(&(group, form.to_owned())));
            for (at, _) in form.char_indices().chain([(form.len(), ' ')]) {
                offer(self.ends.get(&(group, form[at..].to_owned())));
                offer(self.beginnings.get(&(group, form[..at].to_owned())));
            }
            let wildcards =
                self.wildcards.iter().filter(|(of, wildcard, _)| *of == group && wildcard_fits(wildcard, form));
            wildcards.for_each(|(_, _, decides)| offer(Some(decides)));
            if !form.contains('*') {
                let takes = |rule: &OrderedRule| match &rule.matcher {
                    Matcher::Pattern(pattern) => pattern.is_match(form).unwrap_or(false),
                    Matcher::Address(_) | Matcher::Wildcard(_) | Matcher::Table(_) | Matcher::Domains(_) => false,
                };
                let patterns = self.patterns.iter().filter(|(rule, _)| rule.group == group && takes(rule));
                patterns.for_each(|(_, decides)| offer(Some(decides)));
            }
        }
        found
    }

    /// The first line with exactly this pattern, or one that matches everything.
    fn same(&self, rule: &OrderedRule) -> Option<Decides> {
        let all = [None, rule.group].map(|group| self.sources.get(&(group, rule.matcher.source())).copied());
        // A line with `*` alone covers every pattern.
        let everything = self.covering(EVERYTHING, rule.group);
        all.into_iter().chain([everything]).flatten().min_by_key(|decides| decides.line)
    }
}

impl Matcher {
    /// The address with `*`, in lower case, that matches the same; `None` for a pattern that is more than plain text
    /// with anchors. A bare dot is read as a dot.
    pub(super) fn as_wildcard(&self, own_domain: &str) -> Option<String> {
        match self {
            Matcher::Address(address) if address.contains('@') => Some(address.to_ascii_lowercase()),
            Matcher::Address(local_part) => Some(format!("{local_part}@{own_domain}").to_ascii_lowercase()),
            Matcher::Wildcard(wildcard) => Some(with_single_stars(wildcard.to_ascii_lowercase())),
            Matcher::Pattern(pattern) => plain_form(pattern.source()),
            Matcher::Table(_) | Matcher::Domains(_) => None,
        }
    }

    /// Whether this matches every address.
    pub(super) fn is_everything(&self) -> bool {
        self.as_wildcard("").is_some_and(|form| form == EVERYTHING)
    }
}

/// Whether a regular expression matches every text, perhaps except the empty one.
pub(super) fn is_everything(source: &str) -> bool {
    plain_form(source).is_some_and(|form| form == EVERYTHING)
}

/// A regular expression that consists of plain text, as an address with `*`.
fn plain_form(source: &str) -> Option<String> {
    let (mut form, rest) = match source.strip_prefix('^') {
        Some(rest) => (String::new(), rest),
        None => ("*".to_owned(), source),
    };
    let mut characters = rest.chars().peekable();
    let mut ends = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => form.push(characters.next().filter(|escaped| escaped.is_ascii_punctuation() && *escaped != '*')?),
            '$' if characters.peek().is_none() => ends = true,
            '.' if characters.next_if(|next| matches!(next, '*' | '+')).is_some() => form.push('*'),
            '*' | '+' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            plain => form.push(plain.to_ascii_lowercase()),
        }
    }
    if !ends {
        form.push('*');
    }
    Some(with_single_stars(form))
}

/// Replaces each run of `*` by a single one.
fn with_single_stars(mut form: String) -> String {
    while let Some(at) = form.find("**") {
        form.remove(at);
    }
    form
}

/// An address with `*` that matches everything a regular expression matches: its literal beginning and end.
fn enclosing_form(source: &str) -> String {
    if source.replace("(?:", "").contains("(?") {
        return EVERYTHING.to_owned();
    }
    let (begins, rest) = source.strip_prefix('^').map_or((false, source), |rest| (true, rest));
    let (mut first, mut last, mut ends, mut depth) = (None, String::new(), false, 0_usize);
    let mut characters = rest.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return EVERYTHING.to_owned(),
            _ => {}
        }
        match character {
            '\\' if characters.peek().is_some_and(char::is_ascii_punctuation) => last.extend(characters.next()),
            '$' if characters.peek().is_none() => ends = true,
            '\\' | '.' | '*' | '+' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => {
                if matches!(character, '*' | '+' | '?' | '{') {
                    // The quantifier belongs to the character before it.
                    last.pop();
                }
                first.get_or_insert(std::mem::take(&mut last));
                last.clear();
                match character {
                    '\\' => drop(characters.next()),
                    '{' => drop(characters.by_ref().find(|next| *next == '}')),
                    '[' => {
                        characters.next_if_eq(&'^');
                        characters.next_if_eq(&']');
                        while let Some(next) = characters.next() {
                            match next {
                                '\\' => drop(characters.next()),
                                ']' => break,
                                _ => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
            plain => last.push(plain.to_ascii_lowercase()),
        }
    }
    let beginning = first.filter(|first| begins && !first.contains('*')).unwrap_or_default();
    let end = if ends && !last.contains('*') { last } else { String::new() };
    format!("{beginning}*{end}")
}

/// Matches every address.
const EVERYTHING: &str = "*";

/// At how many domains a local part is looked up.
const MOST_DOMAINS: usize = 32;

/// How many patterns that have to be tried are tried for each later line.
const MOST_PATTERNS: usize = 100;

/// How many `copy` lines are compared with every exact address.
const MOST_COPIES: usize = 20;

/// How many pairs of a `copy` and a `deliver` line are compared.
const MOST_PAIRS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_that_meet() {
        for (one, other, meet) in [
            ("a@b", "a@b", true),
            ("a@b", "a@c", false),
            ("*@b", "a@*", true),
            ("*@b", "*@c", false),
            ("*", "a", true),
            ("a*", "*b", true),
            ("a*c", "ab*", true),
            ("a*c", "b*c", false),
            ("*x*", "*@b", true),
            ("fred@a.example", "*@b.example", false),
            ("", "*", true),
            ("a", "", false),
            ("**", "ab", true),
            ("a*", "a", true),
            ("ab", "a", false),
        ] {
            assert_eq!(wildcards_meet(one.as_bytes(), other.as_bytes()), meet, "{one} {other}");
            assert_eq!(wildcards_meet(other.as_bytes(), one.as_bytes()), meet, "{other} {one}");
        }
    }

    #[test]
    fn patterns_within_wildcards() {
        for (source, form) in [
            (r"^info\d+@x\.example$", "info*@x.example"),
            (r"^ab*c+@x\.example$", "a*@x.example"),
            (r"^[a-z]+@x\.example$", "*@x.example"),
            (r"^a[\]]b@x$", "a*b@x"),
            (r"^a{2}b@x$", "*b@x"),
            (r"x\.example", "*"),
            (r"^(a|b)@x$", "*@x"),
            (r"^x(?:a|bc)+@x$", "x*@x"),
            (r"^a@x$|^b@x$", "*"),
            (r"^(?i)a.b@x$", "*"),
        ] {
            assert_eq!(enclosing_form(source), form, "{source}");
        }
    }

    #[test]
    fn plain_patterns_as_wildcards() {
        for (source, form) in [
            (r"^fred@x\.example$", Some("fred@x.example")),
            ("^Fred@x.example$", Some("fred@x.example")),
            ("^spamtrap@", Some("spamtrap@*")),
            (".*", Some("*")),
            ("", Some("*")),
            ("spam", Some("*spam*")),
            (".*@dom$", Some("*@dom")),
            ("^.+@dom$", Some("*@dom")),
            ("^a|b$", None),
            ("^a+", None),
            (r"^\d", None),
            (r"^a\*", None),
        ] {
            assert_eq!(plain_form(source).as_deref(), form, "{source}");
        }
    }
}
