//! Text from a peer, a name server or a command, in a form that does no harm.
//!
//! Programs act on lines of the log and people read them on terminals, so such text must not be written as it came.
//! [`Untrusted`] writes control characters, quotes and brackets as `<0xNN>`, from which the original bytes can be
//! restored.

use std::fmt::{self, Write as _};

/// Text from a peer, a name server or a command. Its `Display` is safe in a log line, a header and on a terminal, and
/// there is no other way to write it.
#[derive(Clone, Copy)]
pub struct Untrusted<'t> {
    bytes: &'t [u8],
    keep_utf8: bool,
    keep_marks: bool,
    in_angles: bool,
    max: usize,
}

impl<'t> Untrusted<'t> {
    /// Text with everything but printable ASCII escaped.
    pub fn new(bytes: &'t [u8]) -> Self {
        Self { bytes, keep_utf8: false, keep_marks: false, in_angles: false, max: MAX_UNTRUSTED }
    }

    /// The same, but visible characters beyond ASCII are kept.
    pub fn with_utf8(self) -> Self {
        Self { keep_utf8: true, ..self }
    }

    /// The same, but tabs, apostrophes and brackets are kept too. Only for places where no program gives brackets or
    /// quotes a meaning.
    pub fn for_people(self) -> Self {
        Self { keep_utf8: true, keep_marks: true, ..self }
    }

    /// The same without a limit on its length.
    pub fn whole(self) -> Self {
        Self { max: usize::MAX, ..self }
    }

    /// The same for a place between angle brackets: `<` and `>` are escaped.
    pub fn in_angles(self) -> Self {
        Self { in_angles: true, ..self }
    }
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(self.max)];
        for chunk in shown.utf8_chunks() {
            for (at, character) in chunk.valid().char_indices() {
                let escape = match character {
                    '[' | ']' | '\'' | '\t' => !self.keep_marks,
                    // Text that looks like an escape is escaped too, so that the original can always be restored.
                    '<' => self.in_angles || chunk.valid()[at..].starts_with("<0x"),
                    '>' => self.in_angles,
                    ' '..='~' => false,
                    _ => !self.keep_utf8 || is_invisible(character),
                };
                if escape {
                    character.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "<0x{byte:02x}>"))?;
                } else {
                    f.write_char(character)?;
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "<0x{byte:02x}>"))?;
        }
        if shown.len() < self.bytes.len() {
            write!(f, "...({} bytes)", self.bytes.len())?;
        }
        Ok(())
    }
}

/// Whether a character is invisible but changes how a line is shown or where it ends: both ranges of controls, line and
/// paragraph separators, direction marks, and everything that Unicode calls default ignorable.
pub(crate) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A line of a message for people in a log that programs read too. It contains nothing that filters look for: no
/// address or host name in brackets, and no bracket at all if `ERROR` is in the line.
pub(crate) fn without_hosts<'t>(line: impl fmt::Display + 't) -> impl fmt::Display + 't {
    fmt::from_fn(move |f| {
        let text = line.to_string();
        match text.to_ascii_uppercase().contains("ERROR") || has_host_in_brackets(&text) {
            true => text.split_inclusive(['[', ']']).try_for_each(|piece| {
                match (piece.strip_suffix('['), piece.strip_suffix(']')) {
                    (Some(before), _) => write!(f, "{before}<0x5b>"),
                    (_, Some(before)) => write!(f, "{before}<0x5d>"),
                    (None, None) => f.write_str(piece),
                }
            }),
            false => write!(f, "{}", with_one_address(&text, "")),
        }
    })
}

/// Whether brackets contain what looks like a full host name, which a filter may look up.
fn has_host_in_brackets(text: &str) -> bool {
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_' | '^');
    text.split('[').skip(1).filter_map(|behind| behind.split(']').next()).any(|inside| {
        let inside = inside.trim();
        inside.contains('.') && inside.contains(char::is_alphanumeric) && inside.chars().all(is_part)
    })
}

/// A line of the log in which brackets around every address but this one are escaped. The administrator's words are in
/// it unescaped, and filters take an address in brackets for the peer.
pub(crate) fn with_one_address<'t>(line: impl fmt::Display + 't, address: &'t str) -> impl fmt::Display + 't {
    fmt::from_fn(move |f| {
        // The whole text is needed: bracket and address may be written in separate pieces.
        let text = line.to_string();
        let mut written = 0;
        while let Some(at) = bracket_of_address(&text, written) {
            let own = text[at..].strip_prefix('[').and_then(|rest| rest.strip_prefix(address)?.strip_prefix(']'));
            let end = if let Some(rest) = own { text.len() - rest.len() } else { at + 1 };
            f.write_str(&text[written..at])?;
            match own {
                Some(_) => f.write_str(&text[at..end])?,
                None => write!(f, "<0x{:02x}>", text.as_bytes()[at])?,
            }
            written = end;
        }
        f.write_str(&text[written..])
    })
}

/// The position, from this byte on, of the first bracket with an address directly inside it.
pub(crate) fn bracket_of_address(text: &str, from: usize) -> Option<usize> {
    let brackets = text[from..].match_indices(['[', ']']).map(|(at, bracket)| (from + at, bracket));
    let is_part = |character: char| character.is_ascii_hexdigit() || matches!(character, '.' | ':');
    let mut of_addresses = brackets.filter(|(at, bracket)| {
        let address = match *bracket {
            "[" => {
                let inside = text[at + 1..].trim_start();
                // The tag of an address literal is skipped (RFC 5321, 4.1.3).
                let inside = inside
                    .split_at_checked(5)
                    .filter(|(tag, _)| tag.eq_ignore_ascii_case("IPv6:"))
                    .map_or(inside, |(_, rest)| rest);
                &inside[..inside.len() - inside.trim_start_matches(is_part).len()]
            }
            _ => {
                let inside = text[..*at].trim_end();
                &inside[inside.trim_end_matches(is_part).len()..]
            }
        };
        let count = |separator| address.matches(separator).count();
        count(':') >= 2 || (count('.') >= 3 && address.contains(|character: char| character.is_ascii_digit()))
    });
    of_addresses.next().map(|(at, _)| at)
}

/// How many bytes of one text are shown in a line.
const MAX_UNTRUSTED: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_one_address_in_brackets() {
        for (line, shown) in [
            ("No one here [8.8.8.8]", "No one here <0x5b>8.8.8.8<0x5d>"),
            ("You are [192.0.2.7], not [8.8.8.8]", "You are [192.0.2.7], not <0x5b>8.8.8.8<0x5d>"),
            ("[192.0.2.77] [192.0.2.7", "<0x5b>192.0.2.77<0x5d> <0x5b>192.0.2.7"),
            ("[2001:db8::1] [::] [IPv6:::1]", "<0x5b>2001:db8::1<0x5d> <0x5b>::<0x5d> <0x5b>IPv6:::1<0x5d>"),
            (
                "[8.8.8.8]:25 [8.8.8.8:25] [ 8.8.8.8 ]",
                "<0x5b>8.8.8.8<0x5d>:25 <0x5b>8.8.8.8:25<0x5d> <0x5b> 8.8.8.8 <0x5d>",
            ),
            ("[8.8.8.8, 1.1.1.1]", "<0x5b>8.8.8.8, 1.1.1.1<0x5d>"),
            ("^mail[0-9a-f:.]+[.:]$ [...] [x] []", "^mail[0-9a-f:.]+[.:]$ [...] [x] []"),
            ("\u{e9}[\u{e9}]\u{e9} [", "\u{e9}[\u{e9}]\u{e9} ["),
        ] {
            assert_eq!(with_one_address(line, "192.0.2.7").to_string(), shown);
            // Written in pieces it is the same.
            let pieces = fmt::from_fn(|f| line.chars().try_for_each(|character| write!(f, "{character}")));
            assert_eq!(with_one_address(pieces, "192.0.2.7").to_string(), shown);
        }
    }

    #[test]
    fn no_host_stands_in_brackets_for_programs() {
        for (line, shown) in [
            ("[PATCH 1/2] it's\tdone", "[PATCH 1/2] it's\tdone"),
            ("[192.0.2.7] [8.8.8.8]", "<0x5b>192.0.2.7<0x5d> <0x5b>8.8.8.8<0x5d>"),
            ("x [mail.example] ERROR: 550 No", "x <0x5b>mail.example<0x5d> ERROR: 550 No"),
            ("[1.5] [mail.example]:", "<0x5b>1.5<0x5d> <0x5b>mail.example<0x5d>:"),
            ("[...] [a, b.c] [x", "[...] [a, b.c] [x"),
            ("[]Error[", "<0x5b><0x5d>Error<0x5b>"),
        ] {
            let text = Untrusted::new(line.as_bytes()).for_people().whole();
            assert_eq!(without_hosts(text).to_string(), shown);
        }
    }

    #[test]
    fn untrusted_text_is_one_harmless_line() {
        let show = |bytes, keep_utf8| Untrusted { keep_utf8, max: 40, ..Untrusted::new(bytes) }.to_string();
        for (bytes, hex, utf8) in [
            (&b"fred@example.com"[..], "fred@example.com", "fred@example.com"),
            (b"<a@b>", "<a@b>", "<a@b>"),
            (b"<0x41>", "<0x3c>0x41>", "<0x3c>0x41>"),
            (b"[8.8.8.8] 'x'", "<0x5b>8.8.8.8<0x5d> <0x27>x<0x27>", "<0x5b>8.8.8.8<0x5d> <0x27>x<0x27>"),
            (b"a\r\n\t\0\x1b\x7f", "a<0x0d><0x0a><0x09><0x00><0x1b><0x7f>", "a<0x0d><0x0a><0x09><0x00><0x1b><0x7f>"),
            ("\u{e9}".as_bytes(), "<0xc3><0xa9>", "\u{e9}"),
            (
                "\u{85}\u{2028}\u{202e}".as_bytes(),
                "<0xc2><0x85><0xe2><0x80><0xa8><0xe2><0x80><0xae>",
                "<0xc2><0x85><0xe2><0x80><0xa8><0xe2><0x80><0xae>",
            ),
            (b"\xff\xc0\xaf", "<0xff><0xc0><0xaf>", "<0xff><0xc0><0xaf>"),
        ] {
            assert_eq!(show(bytes, false), hex);
            assert_eq!(show(bytes, true), utf8);
        }
        assert_eq!(show(&[b'x'; 50], false), format!("{}...(50 bytes)", "x".repeat(40)));
    }
}
