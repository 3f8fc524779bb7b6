//! A short cut for lines that are nothing but `deliver [allowgroup +NAME] rcpt_to ADDRESS append FILE`, or `maildir`, in
//! plain characters.
//!
//! Files with very many rules consist of such lines, and each connection reads them all: this tells in one pass that such
//! a line is sound. It says the same as `directive.rs` or nothing, to which two tests hold it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::action::Need;

/// What such a line says.
#[derive(Debug, PartialEq)]
pub(super) struct PlainDelivery<'l> {
    pub(super) group: Option<&'l [u8]>,
    pub(super) address: &'l [u8],
    /// The file that is appended to, or the maildir.
    pub(super) need: Need<'l>,
}

/// Reads such a line. `None` says nothing about a line.
pub(super) fn delivery(line: &[u8]) -> Option<PlainDelivery<'_>> {
    let mut rest = blanks_off(line).strip_prefix(b"deliver")?;
    let mut group = None;
    let mut word = next_word(&mut rest)?;
    if word == b"allowgroup" {
        group = Some(next_word(&mut rest)?);
        word = next_word(&mut rest)?;
    }
    if word != b"rcpt_to" {
        return None;
    }
    let address = next_word(&mut rest)?;
    let verb = next_word(&mut rest)?;
    let path = Path::new(OsStr::from_bytes(next_word(&mut rest)?));
    let need = match verb {
        b"append" => Need::Mailbox(path),
        b"maildir" => Need::Maildir(path),
        _ => return None,
    };
    let is_address = matches!(address, [first, .., last] if !matches!(first, b'@' | b'/') && *last != b'@');
    (is_address && blanks_off(rest).is_empty()).then_some(PlainDelivery { group, address, need })
}

/// The next word behind at least one blank, if it has plain characters only.
fn next_word<'l>(rest: &mut &'l [u8]) -> Option<&'l [u8]> {
    let text = blanks_off(rest);
    let length = text.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(text.len());
    let has_blank = text.len() < rest.len();
    let (word, behind) = text.split_at(length);
    *rest = behind;
    (has_blank && length > 0).then_some(word)
}

fn blanks_off(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[blanks..]
}

/// Printable ASCII that has no meaning in the grammar of a line, an address or a pattern.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] =
            !matches!(byte, b'#' | b'$' | b'"' | b'\'' | b'*' | b'<' | b'>' | b',' | b';' | b'(' | b')' | b'\\' | b'`');
        byte += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::directive::{self, Line, RuleLine};
    use crate::config::exact::{is_exact, unquoted};
    use crate::config::lexer::prepared;

    /// What the grammar says about such a line is the same.
    fn assert_is_what_the_grammar_says(line: &str, plain: &PlainDelivery<'_>) {
        let prepared = prepared(line).unwrap_or_else(|problem| panic!("{line:?}: {problem:?}"));
        let Ok(Some(Line::Rule(RuleLine::Deliver(delivery)))) = directive::line(&prepared) else { panic!("{line:?}") };
        assert_eq!(delivery.group.map(|group| group.text.as_bytes()), plain.group, "{line:?}");
        assert!(is_exact(delivery.recipient.text), "{line:?}");
        assert_eq!(unquoted(delivery.recipient.text).as_bytes(), plain.address, "{line:?}");
        assert_eq!(delivery.action.needs(), plain.need, "{line:?}");
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
        ] {
            let plain = delivery(line.as_bytes());
            assert_eq!(plain.as_ref().map(|plain| plain.address), address.map(str::as_bytes), "{line}");
            plain.iter().for_each(|plain| assert_is_what_the_grammar_says(line, plain));
        }
    }

    /// Words that such lines are made of, and what must not be taken for one.
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
            if let Some(plain) = delivery(line.as_bytes()) {
                assert_is_what_the_grammar_says(&line, &plain);
            }
        }

        #[test]
        fn lines_of_any_pieces_are_what_the_grammar_says(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..16)) {
            let line = pieces.concat();
            if let Some(plain) = delivery(line.as_bytes()) {
                assert_is_what_the_grammar_says(&line, &plain);
            }
        }
    }
}
