//! Compiles patterns: regular expressions in the syntax of `regex`, matched byte by byte, ignoring letter case.
//!
//! Look-around and back-references do not exist, so matching takes time linear in the text, and the size of a compiled
//! pattern is bounded. An error is a single line.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::{self, Ast, ClassSetBinaryOp, ClassSetItem, Literal};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Capture, Class, ErrorKind, Hir, HirKind, Repetition};

use super::perl;

/// Parses a pattern for the compiler; an error says what is wrong with it.
pub(super) fn parse(source: &str) -> Result<Hir, String> {
    let source = &*perl::translated(source)?;
    let tree = ast::parse::Parser::new().parse(source).map_err(|error| match unsupported_construct(source) {
        Some((construct, instead)) => format!("{construct} cannot be used in a pattern here: {instead}"),
        None if source.starts_with('*') => format!(
            "bad pattern: `*` repeats what stands in front of it: write `.*` for any text, as in `^.*{}$`",
            regex_syntax::escape(&source[1..])
        ),
        None => format!("bad pattern: {}", error.kind()),
    })?;
    let literals = ast::visit(&tree, BeyondAscii::default())?;
    let pattern = match literals.is_empty() {
        true => translate(source, &tree)?,
        false => {
            let source = replaced(source, &literals);
            let tree =
                ast::parse::Parser::new().parse(&source).map_err(|error| format!("bad pattern: {}", error.kind()))?;
            translate(&source, &tree)?
        }
    };
    if pattern.properties().look_set().contains_word_unicode() {
        return Err(UNICODE.to_owned());
    }
    if steps(&pattern) > SURELY_TOO_LARGE { Err(TOO_LARGE.to_owned()) } else { Ok(pattern) }
}

fn translate(source: &str, tree: &Ast) -> Result<Hir, String> {
    let mut translator = TranslatorBuilder::new().unicode(false).utf8(false).case_insensitive(true).build();
    translator.translate(source, tree).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 | ErrorKind::InvalidLineTerminator => format!("bad pattern: {}", error.kind()),
        _ => UNICODE.to_owned(),
    })
}

/// Compiles a pattern that [`parse`] has accepted.
pub(super) fn compile(source: &str) -> Result<Regex, String> {
    RegexBuilder::new(&in_bytes(&perl::translated(source)?)?)
        .unicode(false)
        .case_insensitive(true)
        .size_limit(COMPILED_SIZE)
        .build()
        .map_err(|_| TOO_LARGE.to_owned())
}

/// Compiles a part of a pattern that [`parse`] has accepted.
pub(super) fn compile_parsed(pattern: &Hir) -> Result<Regex, String> {
    // The printed form is explicit about bytes and letter case, so the settings of `compile` are not needed.
    let source = grouped(pattern).to_string();
    RegexBuilder::new(&source).size_limit(COMPILED_SIZE).build().map_err(|_| TOO_LARGE.to_owned())
}

/// The same pattern with a group around each repetition that is itself repeated. Without it, `(a+)?` would be printed
/// as `a+?`, which means something else.
fn grouped(pattern: &Hir) -> Hir {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Literal(_) | HirKind::Class(_) => pattern.clone(),
        HirKind::Capture(group) => grouped(&group.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(grouped).collect()),
        HirKind::Alternation(branches) => Hir::alternation(branches.iter().map(grouped).collect()),
        HirKind::Repetition(repeated) => {
            let sub = Box::new(grouped(&repeated.sub));
            let sub = Box::new(Hir::capture(Capture { index: 1, name: None, sub }));
            Hir::repetition(Repetition { sub, ..repeated.clone() })
        }
    }
}

/// Whether a pattern is certainly small enough to compile.
pub(super) fn is_surely_small(pattern: &Hir) -> bool {
    steps(pattern) <= SURELY_SMALL
}

/// How many steps a pattern has, with counted repetitions expanded. Each step takes some tens of bytes when compiled.
fn steps(pattern: &Hir) -> usize {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Class(Class::Bytes(class)) => class.ranges().len(),
        // Ranges of Unicode expand to several ranges of bytes.
        HirKind::Class(Class::Unicode(class)) => class.ranges().len().saturating_mul(8),
        HirKind::Repetition(repeated) => {
            let times = repeated.max.unwrap_or(repeated.min.saturating_add(1)).max(repeated.min).max(1);
            usize::try_from(times).unwrap_or(usize::MAX).saturating_mul(steps(&repeated.sub).saturating_add(1))
        }
        HirKind::Capture(group) => steps(&group.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(steps).fold(parts.len(), usize::saturating_add)
        }
    }
}

/// The pattern for the compiler, with each character beyond ASCII written as its bytes.
fn in_bytes(source: &str) -> Result<Cow<'_, str>, String> {
    if source.is_ascii() && !["\\x", "\\u", "\\U"].iter().any(|escape| source.contains(escape)) {
        return Ok(Cow::Borrowed(source));
    }
    // `parse` has reported what is wrong with it.
    let Ok(tree) = ast::parse::Parser::new().parse(source) else { return Ok(Cow::Borrowed(source)) };
    Ok(Cow::Owned(replaced(source, &ast::visit(&tree, BeyondAscii::default())?)))
}

/// The pattern with these characters beyond ASCII written as their bytes. Patterns are matched byte by byte, because
/// tables of Unicode would make every session slower. Within brackets a character cannot be several bytes.
fn replaced(source: &str, literals: &[Literal]) -> String {
    let mut replaced = String::with_capacity(source.len());
    let mut at = 0;
    for literal in literals {
        replaced.push_str(&source[at..literal.span.start.offset]);
        replaced.push_str("(?-u:");
        let mut bytes = [0; 4];
        literal.c.encode_utf8(&mut bytes).bytes().for_each(|byte| replaced += &format!("\\x{byte:02X}"));
        replaced.push(')');
        at = literal.span.end.offset;
    }
    replaced.push_str(&source[at..]);
    replaced
}

/// Collects the characters beyond ASCII, in the order of the pattern.
#[derive(Default)]
struct BeyondAscii {
    found: Vec<Literal>,
}

impl ast::Visitor for BeyondAscii {
    type Output = Vec<Literal>;
    type Err = String;

    fn finish(self) -> Result<Vec<Literal>, String> {
        Ok(self.found)
    }

    fn visit_pre(&mut self, tree: &Ast) -> Result<(), String> {
        if let Ast::Literal(literal) = tree
            && !literal.c.is_ascii()
        {
            self.found.push((**literal).clone());
        }
        Ok(())
    }

    /// A class within a class is a typing error, as in `[[:digt:]]`, and would mean something unexpected.
    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        let last = match item {
            ClassSetItem::Bracketed(_) => {
                return Err("bad pattern: brackets within brackets: write `\\[` for the character".to_owned());
            }
            ClassSetItem::Literal(literal) => literal.c,
            ClassSetItem::Range(range) => range.end.c,
            _ => return Ok(()),
        };
        match last.is_ascii() {
            true => Ok(()),
            false => {
                Err("a character beyond ASCII cannot stand in [ ] here: write the alternatives, as in `(a|b)`"
                    .to_owned())
            }
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), String> {
        Err("bad pattern: `&&`, `--` and `~~` within brackets: write a `\\` before each character".to_owned())
    }
}

/// The message about a pattern that needs tables of Unicode, which would make every session slower.
const UNICODE: &str = "bad pattern: classes and flags of Unicode are not known here: write the characters out";

/// The message about a pattern that is too large.
const TOO_LARGE: &str = "bad pattern: compiled regex exceeded size limit";

/// Finds a construct of Perl that needs backtracking; also returns what to write instead.
fn unsupported_construct(source: &str) -> Option<(&'static str, &'static str)> {
    const LOOK_AROUND: &str = "let a separate `error` or `deny` line in front of this one say what must not match";
    let mut bytes = source.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        match (first, rest) {
            (b'(', [b'?', b'=' | b'!', ..]) => return Some(("look-ahead", LOOK_AROUND)),
            (b'(', [b'?', b'<', b'=' | b'!', ..]) => return Some(("look-behind", LOOK_AROUND)),
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

/// The largest size of a compiled pattern, in bytes: enough for long lists of hosts, and small enough to do no harm.
pub(super) const COMPILED_SIZE: usize = 2 << 20;

/// A pattern with at most this many steps is certainly smaller.
const SURELY_SMALL: usize = 5_000;

/// A pattern with more steps is certainly larger, so it is not even compiled.
const SURELY_TOO_LARGE: usize = 500_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_within_brackets_is_an_error() {
        assert!(parse("^[[:digt:]]+$").is_err());
        for source in ["[[:digit]:]x]", "^[[:digit:]]+$", r"[\[a]", "[]a]", "[a&b]", "[a-]", "[~a]"] {
            assert!(parse(source).is_ok(), "{source}");
        }
    }

    #[test]
    fn what_is_far_too_large_is_not_compiled() {
        for source in ["((a{100}){100}){100}", "(((a|b){200}){200}){200}"] {
            assert_eq!(parse(source), Err(TOO_LARGE.to_owned()), "{source}");
            assert_eq!(compile(source).map(drop), Err(TOO_LARGE.to_owned()), "{source}");
        }
    }

    /// Every pattern that counts as small compiles: the short cut hides no error.
    #[test]
    fn small_patterns_compile() {
        for piece in
            [".", "[^a]", "\\w", "\\S", "a", "(a)", "(a|b)", "[a-z]*", "(?i:.)+?", "()", "|", "\\b", "[[:^alpha:]]"]
        {
            let times = SURELY_SMALL / (steps(&parse(&format!("({piece})")).unwrap()) + 1);
            let source = format!("({piece}){{{times}}}");
            assert!(is_surely_small(&parse(&source).unwrap()), "{source}");
            assert!(compile(&source).is_ok(), "{source}");
        }
    }

    #[test]
    fn characters_beyond_ascii_are_their_bytes() {
        for (source, text, is_match) in [
            ("^gr\u{fc}n@", "gr\u{fc}n@example.com", true),
            ("^(gr\u{fc}n|blau)[0-9]*@", "gr\u{fc}n7@example.com", true),
            ("^\u{fc}+@", "\u{fc}\u{fc}@example.com", true),
            ("(?x) ^ \u{fc} @ # \u{e4}", "\u{fc}@example.com", true),
            (r"^[a-z]\xFC@", "a\u{fc}@example.com", true),
            ("^.*@example\\.com$", "\u{fc}@example.com", true),
            ("^[^@]+@", "\u{fc}@example.com", true),
            // Only ASCII letters match in either case.
            ("^\u{dc}.*@", "\u{fc}@example.com", false),
            // It has two bytes.
            ("^.@", "\u{fc}@example.com", false),
            ("^..@", "\u{fc}@example.com", true),
        ] {
            assert_eq!(compile(source).unwrap().is_match(text.as_bytes()), is_match, "{source}");
        }
        for source in ["[\u{e4}\u{f6}]", "[a-\u{fc}]", r"[\xe4]"] {
            let message = compile(source).unwrap_err();
            assert!(message.contains("write the alternatives"), "{source}: {message}");
        }
    }
}
