//! A short cut for lines that consist of `deliver [allowgroup +NAME] rcpt_to ADDRESS append FILE`, or the same with
//! `maildir`, in plain characters only.
//!
//! Files with very many rules consist of such lines, and each connection reads all of them. This module finds in one
//! pass that such a line is correct. Either it says the same as `directive.rs`, or it does not recognise the line; two
//! tests make sure of that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::action::Need;

/// Reads the beginning of such a line: the group, and the rest of the line from its address on. `None` means that the
/// line is not recognised. Most lines in a long list begin like the one before, so the caller compares that first.
pub(super) fn beginning(line: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let rest = next(without_blanks(line).strip_prefix(b"deliver")?)?;
    let (group, rest) = match rest.strip_prefix(b"allowgroup").and_then(next) {
        Some(rest) => word(rest).and_then(|(name, rest)| Some((Some(name), next(rest)?)))?,
        None => (None, rest),
    };
    Some((group, next(rest.strip_prefix(b"rcpt_to")?)?))
}

/// Reads such a line: the group, and the address. It is for those who do not read all lines of a session.
#[cold]
pub(super) fn rule(line: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (group, rest) = beginning(line)?;
    Some((group, destination(rest)?.0))
}

/// Reads the rest of such a line: its address, and the file or maildir. Inlined where all lines are read: a call would take
/// as long as a tenth of the reading.
#[inline(always)]
pub(super) fn destination(rest: &[u8]) -> Option<(&[u8], Need<'_>)> {
    let (address, rest) = word(without_blanks(rest))?;
    let rest = next(rest)?;
    let (is_file, rest) = match rest.strip_prefix(b"append") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix(b"maildir")?),
    };
    let (path, rest) = word(next(rest)?)?;
    let path = Path::new(OsStr::from_bytes(path));
    let need = if is_file { Need::Mailbox(path) } else { Need::Maildir(path) };
    let is_address = matches!(address, [first, .., last] if !matches!(first, b'@' | b'/') && *last != b'@');
    let is_address = is_address && !address.starts_with(b"table:");
    (is_address && without_blanks(rest).is_empty()).then_some((address, need))
}

/// The text after at least one blank.
fn next(rest: &[u8]) -> Option<&[u8]> {
    let next = without_blanks(rest);
    (next.len() < rest.len()).then_some(next)
}

/// A word of plain characters, and what follows it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // Checking eight bytes at a time without branches takes half as long.
    let are_plain = |eight: &&[u8; 8]| eight.iter().fold(0, |other, byte| other | OTHER[usize::from(*byte)]) == 0;
    let whole = text.as_chunks().0.iter().take_while(are_plain).count() * 8;
    let length = whole + text[whole..].iter().take_while(|byte| OTHER[usize::from(**byte)] == 0).count();
    (length > 0).then(|| text.split_at(length))
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[blanks..]
}

/// 1 for every byte except printable ASCII characters without a meaning in lines, addresses or patterns.
const OTHER: [u8; 256] = {
    let mut other = [1; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        other[byte as usize] = matches!(
            byte,
            b'#' | b'$' | b'"' | b'\'' | b'*' | b'<' | b'>' | b',' | b';' | b'(' | b')' | b'\\' | b'`' | b'{'
        ) as u8;
        byte += 1;
    }
    other
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::directive::{self, Line, RuleLine};
    use crate::config::exact::{is_exact, unquoted};
    use crate::config::lexer::prepared;

    /// The address of a line that is recognised; checks that the grammar says the same about it.
    fn checked_address(line: &str) -> Option<&[u8]> {
        let (group, rest) = beginning(line.as_bytes())?;
        let (address, need) = destination(rest)?;
        let prepared = prepared(line).unwrap_or_else(|problem| panic!("{line:?}: {problem:?}"));
        let Ok(Some(Line::Rule(RuleLine::Deliver(delivery)))) = directive::line(&prepared) else { panic!("{line:?}") };
        assert_eq!(delivery.group.map(|group| group.text.as_bytes()), group, "{line:?}");
        assert!(is_exact(delivery.recipient.text), "{line:?}");
        assert_eq!(unquoted(delivery.recipient.text).as_bytes(), address, "{line:?}");
        assert_eq!(delivery.action.needs(), need, "{line:?}");
        Some(address)
    }

    #[test]
    fn plain_deliveries_are_what_the_grammar_says() {
        for (line, address) in [
            ("deliver rcpt_to fred@example.com append /var/mail/fred", Some("fred@example.com")),
            ("deliver rcpt_to fred append mbox", Some("fred")),
            ("deliver rcpt_to fred append mbox ", Some("fred")),
            ("deliver rcpt_to fred append mbox \t ", Some("fred")),
            ("deliver  rcpt_to\t\tfred \tappend   mbox", Some("fred")),
            ("\tdeliver rcpt_to fred append mbox", Some("fred")),
            ("deliver rcpt_to fred maildir /home/fred/Maildir", Some("fred")),
            ("deliver allowgroup +l rcpt_to fred append mbox", Some("fred")),
            ("deliver\tallowgroup +l  rcpt_to fred maildir m\t", Some("fred")),
            ("deliver allowgroup rcpt_to rcpt_to fred append mbox", Some("fred")),
            ("deliver rcpt_to allowgroup append mbox", Some("allowgroup")),
            ("deliver rcpt_to fred append rcpt_to", Some("fred")),
            ("deliver allowgroup +l append a", None),
            ("deliver allowgroup '+l' rcpt_to a append b", None),
            ("deliverrcpt_to a append b", None),
            ("deliver rcpt_to fred append a b", None),
            ("deliver rcpt_to fred append", None),
            ("deliver rcpt_to fred append ", None),
            ("deliver rcpt_to fred maildir\t", None),
            ("deliver rcpt_to fred pipe cat", None),
            ("deliver rcpt_to fred pipe_raw cat", None),
            ("deliver rcpt_to fred print", None),
            ("deliver rcpt_to *@x append a", None),
            ("deliver rcpt_to /x/ append a", None),
            ("deliver rcpt_to @x append a", None),
            ("deliver rcpt_to x@ append a", None),
            ("deliver rcpt_to a,b append a", None),
            ("deliver rcpt_to ab append #", None),
            ("deliver rcpt_to ab append c # d", None),
            ("deliver rcpt_to ab append ${X}", None),
            ("deliver rcpt_to ab append 'b'", None),
            ("deliver rcpt_to ab append b\u{b}", None),
            ("deliver rcpt_to \"a\"@b append b", None),
            ("deliver rcpt_to a\u{e9} append b", None),
            ("copy rcpt_to ab append b", None),
            ("deliver rcpt_to table:/etc/x append b", None),
            ("deliver rcpt_to a@{b} append b", None),
        ] {
            assert_eq!(checked_address(line), address.map(str::as_bytes), "{line}");
        }
    }

    /// Words of such lines, and words that must not be mistaken for them.
    const PIECES: &[&str] = &[
        "deliver",
        "copy",
        "allowgroup",
        "+l",
        "rcpt_to",
        "fred",
        "fred@example.com",
        "@",
        "/",
        "append",
        "maildir",
        "pipe",
        "/var/mail/a",
        " ",
        " ",
        "\t",
        "'",
        "\"",
        "#",
        "${X:-y}",
        "*",
        "\\",
        "\u{b}",
        "\u{e9}",
        "<",
        "@{a,b}",
        "when on ",
        "print",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn lines_nearly_plain_are_what_the_grammar_says(
            has_group in any::<bool>(),
            blanks in prop::collection::vec("[ \t]{1,2}", 8),
            strange in prop::option::weighted(0.7, (0..8_usize, prop::sample::select(PIECES), any::<bool>())),
        ) {
            let group: &[&str] = if has_group { &["allowgroup", "+l"] } else { &[] };
            let mut words = [&["deliver"], group, &["rcpt_to", "fred@example.com", "append", "/var/mail/a"]].concat();
            let mut joined;
            if let Some((at, piece, is_word)) = strange {
                let at = at % words.len();
                joined = words[at].to_owned();
                joined.push_str(piece);
                words[at] = if is_word { piece } else { &joined };
            }
            let line: String = words.iter().zip(&blanks).flat_map(|(word, blank)| [word, blank.as_str()]).collect();
            checked_address(&line);
        }

        #[test]
        fn lines_of_any_pieces_are_what_the_grammar_says(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..16)) {
            let line = pieces.concat();
            checked_address(&line);
        }
    }
}
