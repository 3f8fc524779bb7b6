//! Patterns: regular expressions, compiled when first asked, and addresses with `*`.
//!
//! Matching takes time linear in the text whatever the pattern (no back-references, no look-around), and a compiled
//! pattern has a bounded size, so neither a peer nor a slip of the pen can stall a connection.

use std::cell::OnceCell;

use regex_lite::{Regex, RegexBuilder};

/// A regular expression that is compiled at its first use.
#[derive(Debug)]
pub(super) struct Pattern {
    source: Box<str>,
    position: Position,
    compiled: OnceCell<Option<Regex>>,
}

/// Where in the configuration something stands: the line, counted from 1, and the byte of it, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) start: usize,
}

/// A pattern that turned out not to compile; it lets nothing through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPattern {
    /// The line of the configuration that holds the pattern.
    pub line: u32,
    /// Why it does not compile.
    pub message: String,
}

impl Pattern {
    pub(super) fn new(source: &str, position: Position) -> Self {
        Self { source: source.into(), position, compiled: OnceCell::new() }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether the pattern is found in the text, letter case aside.
    pub(super) fn is_match(&self, text: &str) -> Result<bool, BrokenPattern> {
        match self.compiled.get_or_init(|| compile(&self.source).ok()) {
            Some(regex) => Ok(regex.is_match(text)),
            None => {
                Err(self.check().err().unwrap_or(BrokenPattern { line: self.position.line, message: String::new() }))
            }
        }
    }

    /// Compiles the pattern and says what is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), BrokenPattern> {
        compile(&self.source).map(drop).map_err(|message| BrokenPattern { line: self.position.line, message })
    }

    /// Whether each alternative of the pattern is tied to the beginning or end of the text, so that none can match inside
    /// another name.
    pub(super) fn is_anchored(&self) -> bool {
        let ends = |part: &str| part.strip_suffix('$').is_some_and(|rest| trailing_backslashes(rest).is_multiple_of(2));
        &*self.source == ".*" || alternatives(&self.source).iter().all(|part| part.starts_with('^') || ends(part))
    }
}

fn trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

/// The alternatives of a pattern: its parts between the `|`s that stand in no group and no class.
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

fn compile(source: &str) -> Result<Regex, String> {
    RegexBuilder::new(source).case_insensitive(true).size_limit(COMPILED_SIZE).build().map_err(|error| {
        match unsupported_construct(source) {
            Some((construct, instead)) => format!("{construct} cannot be used in a pattern here: {instead}"),
            None => format!("bad pattern: {error}"),
        }
    })
}

/// Perl's constructs that need backtracking, and what does their work here.
fn unsupported_construct(source: &str) -> Option<(&'static str, &'static str)> {
    const LOOK_AROUND: &str = "let a separate `error` or `deny` line in front of this one say what must not match";
    let mut bytes = source.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        match (first, rest) {
            (b'(', [b'?', b'=' | b'!', ..]) => return Some(("look-ahead", LOOK_AROUND)),
            (b'(', [b'?', b'<', b'=' | b'!', ..]) => return Some(("look-behind", LOOK_AROUND)),
            (b'(', [b'?', b'>', ..]) => return Some(("an atomic group", "write `(?:` instead of `(?>`")),
            (b'\\', [b'1'..=b'9' | b'k' | b'g', ..]) => {
                return Some(("a back-reference", "write out the alternatives, as in `(a|b)`"));
            }
            (b'\\', [_, after @ ..]) => {
                bytes = after;
                continue;
            }
            _ => {}
        }
        bytes = rest;
    }
    None
}

/// Whether an address with `*` (any run of characters, empty ones too) fits the text, letter case aside.
pub(super) fn wildcard_fits(wildcard: &str, text: &str) -> bool {
    let (wildcard, text) = (wildcard.as_bytes(), text.as_bytes());
    let (mut w, mut t) = (0, 0);
    // Where the last `*` stood and how much of the text it has taken so far: on a mismatch it takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match wildcard.get(w) {
            Some(b'*') => {
                star = Some((w, t));
                w += 1;
            }
            Some(byte) if byte.eq_ignore_ascii_case(&text[t]) => {
                w += 1;
                t += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (w, t) = (star_at + 1, taken + 1);
            }
        }
    }
    wildcard[w..].iter().all(|byte| *byte == b'*')
}

/// Upper bound for one compiled pattern, in bytes: ample for lists of hosts, far below what could hurt.
const COMPILED_SIZE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn wildcards() {
        for (wildcard, text, fits) in [
            ("*", "", true),
            ("*", "a@b", true),
            ("*@example.com", "Fred@EXAMPLE.com", true),
            ("*@example.com", "fred@notexample.com", false),
            ("*@example.com", "fred@example.com.evil", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("a", "", false),
            ("**", "x", true),
        ] {
            assert_eq!(wildcard_fits(wildcard, text), fits, "{wildcard} {text}");
        }
    }

    #[test]
    fn patterns_are_unanchored_and_ignore_case() {
        let pattern = Pattern::new(r"\.example\.com$", POSITION);
        assert_eq!(pattern.is_match("MAIL.Example.com"), Ok(true));
        assert_eq!(pattern.is_match("mail.example.com.evil"), Ok(false));
    }

    #[test]
    fn what_backtracks_is_refused_with_advice() {
        for (source, part) in [
            (r"^(?!x)", "look-ahead"),
            (r"(?<=x)y", "look-behind"),
            (r"(a)\1", "back-reference"),
            (r"(?>a)", "atomic"),
            (r"(a", "bad pattern"),
            (r"((a{100}){100}){100}", "bad pattern"),
        ] {
            let message = Pattern::new(source, POSITION).is_match("x").unwrap_err().message;
            assert!(message.contains(part), "{source}: {message}");
        }
        assert!(Pattern::new(r"\\1", POSITION).check().is_ok());
    }
}
