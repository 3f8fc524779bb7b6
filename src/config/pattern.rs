//! Patterns: regular expressions that are parsed when they are first needed.
//!
//! Most are decided by `literal.rs` without being compiled. Matching takes time linear in the text for every pattern,
//! so neither a peer nor a careless pattern can stall a connection.

use std::cell::OnceCell;

use regex::bytes::Regex;

use super::compiler::{self, compile};
use super::literal::{self, PlainText};
use super::trace::{Note, Trace};
use crate::untrusted::Untrusted;

/// A regular expression that is parsed when it is first needed, and compiled only if it must be.
#[derive(Debug)]
pub(super) struct Pattern {
    source: Box<str>,
    position: Position,
    engine: OnceCell<Engine>,
}

/// How a pattern is matched. One that does not compile is either [`Engine::Broken`], or is compiled before anything is
/// decided: the short cuts never match for it.
#[derive(Debug)]
enum Engine {
    Plain(PlainText),
    /// `needed` are texts of which a match has to contain one; empty for a pattern that might be too large to compile.
    Regex {
        needed: Vec<Vec<u8>>,
        /// Whether it is certain to compile.
        is_small: bool,
        compiled: OnceCell<Result<Regex, String>>,
    },
    Broken(String),
}

/// A place in the configuration: the line, counted from 1 through all files, and the byte in it, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) start: usize,
}

/// A pattern that does not compile. It admits nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPattern {
    /// The line with the pattern, counted through all files ([`super::Rules::line`]).
    pub line: u32,
    /// Why it does not compile.
    pub message: String,
}

impl Pattern {
    pub(super) fn new(source: &str, position: Position) -> Self {
        Self { source: source.into(), position, engine: OnceCell::new() }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether the pattern is found in the text, ignoring letter case.
    pub(super) fn is_match(&self, text: &str) -> Result<bool, BrokenPattern> {
        let text = text.as_bytes();
        match self.engine() {
            Engine::Plain(plain) => Ok(plain.is_in(text)),
            Engine::Regex { needed, .. } if literal::lacks(text, needed) => Ok(false),
            Engine::Regex { compiled, .. } => match compiled.get_or_init(|| compile(&self.source)) {
                Ok(regex) => Ok(regex.is_match(text)),
                Err(message) => Err(self.broken(message)),
            },
            Engine::Broken(message) => Err(self.broken(message)),
        }
    }

    /// The same, and notes the result in the trace; `what` is the directive or group that asks.
    pub(super) fn fits(&self, text: &str, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let fits = self.is_match(text)?;
        self.note(text, fits, what, trace);
        Ok(fits)
    }

    /// Notes in the trace whether a text matches.
    pub(super) fn note(&self, text: &str, fits: bool, what: &str, trace: &mut Trace) {
        trace.note(|| Note::of_line(self.position.line, what, fits, self.said(text, fits)));
    }

    /// Whether a text matches, in words.
    pub(super) fn said(&self, text: &str, fits: bool) -> String {
        let verb = if fits { "matches" } else { "does not match" };
        format!("'{}' {verb} '{}'", Untrusted::new(text.as_bytes()), self.source)
    }

    /// Compiles the pattern; an error says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), BrokenPattern> {
        let compiled = match self.engine() {
            Engine::Plain(_) | Engine::Regex { is_small: true, .. } => return Ok(()),
            Engine::Regex { .. } => compile(&self.source).map(drop),
            Engine::Broken(message) => Err(message.clone()),
        };
        compiled.map_err(|message| self.broken(&message))
    }

    fn engine(&self) -> &Engine {
        self.engine.get_or_init(|| match PlainText::parse(&self.source) {
            Some(plain) => Engine::Plain(plain),
            None => match compiler::parse(&self.source) {
                Ok(hir) => {
                    let is_small = compiler::is_surely_small(&hir);
                    let needed = if is_small { literal::needed(&hir) } else { Vec::new() };
                    Engine::Regex { needed, is_small, compiled: OnceCell::new() }
                }
                Err(message) => Engine::Broken(message),
            },
        })
    }

    pub(super) fn broken(&self, message: &str) -> BrokenPattern {
        BrokenPattern { line: self.position.line, message: message.to_owned() }
    }

    /// Whether every alternative is anchored at the beginning or end of the text, so that none can match inside another
    /// name.
    pub(super) fn is_anchored(&self) -> bool {
        let ends = |part: &str| part.strip_suffix('$').is_some_and(|rest| trailing_backslashes(rest).is_multiple_of(2));
        &*self.source == ".*" || alternatives(&self.source).iter().all(|part| part.starts_with('^') || ends(part))
    }
}

fn trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

/// The alternatives of a pattern: the parts between those `|`s that are in no group and no class.
fn alternatives(source: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut in_class, mut escaped) = (Vec::new(), 0, 0_usize, false, false);
    for (at, byte) in source.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b']' => in_class = false,
            _ if in_class => {}
            b'[' => in_class = true,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => {
                parts.push(&source[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&source[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::RegexBuilder;

    use super::*;
    use crate::config::compiler::COMPILED_SIZE;
    use crate::config::perl;

    const POSITION: Position = Position { line: 7, start: 0 };

    #[test]
    fn anchors() {
        for (source, is_anchored) in [
            ("^a", true),
            ("a$", true),
            (".*", true),
            ("a", false),
            (r"a\$", false),
            (r"a\\$", true),
            ("^a$|b", false),
            ("^a|b$", true),
            ("^(a|b)", true),
            ("(^a|b)", false),
            ("[|]a$", true),
            (r"a\|b$", true),
        ] {
            assert_eq!(Pattern::new(source, POSITION).is_anchored(), is_anchored, "{source}");
        }
    }

    #[test]
    fn patterns_are_unanchored_and_ignore_case() {
        let pattern = Pattern::new(r"\.example\.com$", POSITION);
        assert_eq!(pattern.is_match("MAIL.Example.com"), Ok(true));
        assert_eq!(pattern.is_match("mail.example.com.evil"), Ok(false));
        let pattern = Pattern::new(r"^mail[0-9]+\.Example\.com$", POSITION);
        assert_eq!(pattern.is_match("MAIL7.eXAMPLE.com"), Ok(true));
        assert_eq!(pattern.is_match("mail7.example.org"), Ok(false));
    }

    #[test]
    fn what_backtracks_is_refused_with_advice() {
        for (source, part) in [
            (r"^(?!x)", "look-ahead"),
            (r"(?<=x)y", "look-behind"),
            (r"(a)\1", "back-reference"),
            (r"(?R)", "recursion"),
            (r"(a", "bad pattern"),
            (r"((a{100}){100}){100}", "bad pattern"),
            (r"\pL", "bad pattern"),
        ] {
            let message = Pattern::new(source, POSITION).is_match("x").unwrap_err().message;
            assert!(message.contains(part) && !message.contains('\n'), "{source}: {message}");
        }
        assert!(Pattern::new(r"\\1", POSITION).check().is_ok());
    }

    /// Nobody knows whom such a pattern was meant to keep out, so it must not say no to any text.
    #[test]
    fn what_does_not_compile_answers_nothing() {
        for source in ["^needed(", "needed[", "^needed(a{100}){100}{100}", "needed[\u{e4}]", "^needed\\"] {
            let pattern = Pattern::new(source, POSITION);
            for text in ["", "other", "needed", "xneeded"] {
                assert!(pattern.is_match(text).is_err(), "{source}: {text}");
            }
        }
    }

    /// A list of hosts in one pattern, as long as was ever accepted.
    #[test]
    fn a_pattern_has_room_for_a_list_of_hosts() {
        let hosts: Vec<String> = (0..500).map(|number| format!(r"mail{number}\.example\.com")).collect();
        let pattern = Pattern::new(&format!("^({})$", hosts.join("|")), POSITION);
        assert_eq!(pattern.is_match("mail499.example.com"), Ok(true));
        assert_eq!(pattern.is_match("mail500.example.com"), Ok(false));
    }

    const PIECES: &[&str] = &[
        "a",
        "b",
        "A",
        "k",
        "s",
        "1",
        "-",
        "@",
        " ",
        "/",
        "#",
        r"\.",
        r"\-",
        r"\@",
        r"\\",
        r"\$",
        r"\d",
        r"\W",
        r"\b",
        r"\B",
        r"\s",
        r"\<",
        r"\z",
        r"\n",
        ".",
        "[ab]",
        "[^a]",
        "[a-k]",
        "[^a-k]",
        "[aA]",
        "[[:alpha:]]",
        "[aB&&ab]",
        "[ab--b]",
        "[ab~~b]",
        "[]a]",
        "(",
        ")",
        "(?:",
        "|",
        "*",
        "+",
        "?",
        "*?",
        "{2}",
        "{0,1}",
        "{,2}",
        "{",
        "}",
        "]",
        "[",
        "^",
        "$",
        "(?i)",
        "(?-i)",
        "(?s)",
        "(?x)",
        "(?m)",
        "(?i-s:",
        "(?-i:",
        "(?R)",
        "(?U)",
        "(?u)",
        "(?-u)",
        "ab",
        "aba",
        "@a.b",
        "",
    ];

    /// Few characters, so that texts often match.
    const COMMON: &[&str] = &["a", "b", "[ab]", ".", ".*", "(", ")", "+", "?", "^", "$"];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The short cuts decide the same as the whole pattern.
        #[test]
        fn short_cuts_say_what_the_pattern_says(
            pieces in prop::collection::vec(prop_oneof![prop::sample::select(PIECES), prop::sample::select(COMMON)], 0..8),
            texts in prop::collection::vec(prop_oneof!["[abAKks1@. \\-\\\\$\n]{0,6}", "[ab]{0,6}"], 6),
        ) {
            let source = pieces.concat();
            let Ok(translated) = perl::translated(&source) else {
                prop_assert!(Pattern::new(&source, POSITION).check().is_err());
                return Ok(());
            };
            let whole =
                RegexBuilder::new(&translated).unicode(false).case_insensitive(true).size_limit(COMPILED_SIZE).build();
            let pattern = Pattern::new(&source, POSITION);
            if let Err(broken) = pattern.check()
                && whole.is_ok()
            {
                // Typing errors that are refused, although they would compile, match nothing either.
                prop_assert!(broken.message.contains("within brackets"), "{}", broken.message);
                prop_assert!(texts.iter().all(|text| pattern.is_match(text).is_err()));
                return Ok(());
            }
            prop_assert_eq!(pattern.check().is_ok(), whole.is_ok(), "{:?}", whole);
            for text in &texts {
                let expected = whole.as_ref().ok().map(|whole| whole.is_match(text.as_bytes()));
                prop_assert_eq!(pattern.is_match(text).ok(), expected, "{:?}", text);
            }
        }
    }
}
