//! Mail addresses: paths, mailboxes, domains (RFC 5321, 4.1.2 and 4.1.3).
//!
//! A [`Mailbox`] keeps its local part without quotes and backslashes, so that `"fred"@x` and `fred@x` are the same
//! address to every rule. It is quoted again where it is written.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::untrusted::is_invisible;

/// `local-part@domain`, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    local_part: String,
    domain: String,
}

/// The argument of MAIL FROM: where reports about a message go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: the message is itself a report, and nobody gets reports about it.
    Null,
    /// An address.
    Mailbox(Mailbox),
}

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressError {
    /// It does not follow the grammar.
    Syntax,
    /// The domain is longer than RFC 5321 allows (4.5.3.1.2). Only the length of command lines bounds local parts and
    /// paths: 64 and 256 octets are what every server has to accept, and forwarders, bounces and reply tokens use
    /// longer ones.
    TooLong,
}

impl Mailbox {
    /// Parses `local-part@domain`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match split(text)? {
            (local_part, Some(domain)) => Self::new(local_part, domain),
            (_, None) => Err(AddressError::Syntax),
        }
    }

    /// Parses a mailbox. If it has no domain, it gets `own_domain`.
    pub fn parse_or_qualify(text: &str, own_domain: &str) -> Result<Self, AddressError> {
        match split(text)? {
            (local_part, Some(domain)) => Self::new(local_part, domain),
            (local_part, None) => Ok(Self { local_part, domain: own_domain.to_owned() }),
        }
    }

    fn new(local_part: String, domain: &str) -> Result<Self, AddressError> {
        let domain = without_final_dot(domain);
        if !is_domain(domain) {
            return Err(AddressError::Syntax);
        }
        if domain.len() > MAX_DOMAIN {
            return Err(AddressError::TooLong);
        }
        Ok(Self { local_part, domain: domain.to_owned() })
    }

    /// The local part without quoting.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// The domain, or an address literal with its brackets.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether both are the same address to the rules, which ignore letter case.
    pub fn is_same(&self, other: &Self) -> bool {
        self.local_part.eq_ignore_ascii_case(&other.local_part) && self.domain.eq_ignore_ascii_case(&other.domain)
    }

    /// The address in the form for rules: without quoting, in the letter case of the peer.
    pub fn bare(&self) -> String {
        format!("{}@{}", self.local_part, self.domain)
    }
}

/// The address in the form for headers: quoted if the grammar requires that.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local_part) {
            return write!(f, "{}@{}", self.local_part, self.domain);
        }
        f.write_str("\"")?;
        for character in self.local_part.chars() {
            if matches!(character, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{character}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

impl ReversePath {
    /// The address in the form for rules; empty for the null path.
    pub fn bare(&self) -> Cow<'static, str> {
        match self {
            ReversePath::Null => Cow::Borrowed(""),
            ReversePath::Mailbox(mailbox) => Cow::Owned(mailbox.bare()),
        }
    }
}

/// The path without its angle brackets; empty for the null path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => Ok(()),
            ReversePath::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Takes a path from the beginning of a text: `<path>`, or one word without brackets. Returns what is in the brackets,
/// without blanks at its ends and without a source route (4.1.1.3), and what follows. A `>` or a blank within a quoted
/// local part does not end the path. A display name in front of the brackets, as in headers, is skipped.
pub(super) fn path(text: &str) -> Result<(&str, &str), AddressError> {
    let text = match text.find('<') {
        Some(at) if is_display_name(&text[..at]) => &text[at..],
        _ => text,
    };
    let (inside, is_end): (_, fn(u8) -> bool) = match text.strip_prefix('<') {
        Some(inside) => (inside, |byte| byte == b'>'),
        None => (text, |byte| byte == b' ' || byte == b'\t'),
    };
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            end if is_end(end) && !quoted => {
                let rest = inside[at..].strip_prefix('>').unwrap_or(&inside[at..]);
                let is_separated = rest.is_empty() || rest.starts_with([' ', '\t']);
                let path = without_source_route(inside[..at].trim_ascii())?;
                return if is_separated { Ok((path, rest)) } else { Err(AddressError::Syntax) };
            }
            _ => {}
        }
    }
    let is_word = !text.starts_with('<') && !text.is_empty();
    if is_word { Ok((without_source_route(text)?, "")) } else { Err(AddressError::Syntax) }
}

/// Whether a text can be the name in front of an address, as in `"Fred Flint" <fred@example.com>`.
fn is_display_name(text: &str) -> bool {
    let is_closed = text.matches('"').count().is_multiple_of(2);
    is_closed && text.ends_with([' ', '\t', '"']) && !text.contains(['@', '>', ':', ',', ';', '=', '\\'])
}

/// Removes a source route: `@a,@b:user@domain` becomes `user@domain`.
fn without_source_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::Syntax)?;
    let is_hop = |hop: &str| hop.is_empty() || hop.strip_prefix('@').map(without_final_dot).is_some_and(is_domain);
    let sound = route.split(',').map(str::trim_ascii).all(is_hop);
    if sound { Ok(mailbox.trim_ascii_start()) } else { Err(AddressError::Syntax) }
}

/// Splits an address into the local part, without quoting, and the domain, if there is one. Blanks at both ends and
/// around the `@` are ignored.
fn split(text: &str) -> Result<(String, Option<&str>), AddressError> {
    let (local_part, rest) = local_part(text.trim_ascii())?;
    let rest = rest.trim_ascii_start();
    match rest.strip_prefix('@') {
        Some(domain) => Ok((local_part, Some(domain.trim_ascii_start()))),
        None if rest.is_empty() => Ok((local_part, None)),
        None => Err(AddressError::Syntax),
    }
}

/// Takes the local part from the beginning of a text and removes its quoting. It consists of words, quoted or not, with
/// dots between them. Repeated or trailing dots are accepted, because such addresses exist and get mail.
fn local_part(text: &str) -> Result<(String, &str), AddressError> {
    let (mut meant, mut rest) = (String::with_capacity(text.len()), text);
    loop {
        rest = match rest.strip_prefix('"') {
            Some(quoted) => quoted_word(quoted, &mut meant)?,
            None => word(rest, &mut meant)?,
        };
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind,
            None if meant.is_empty() => return Err(AddressError::Syntax),
            None => return Ok((meant, rest)),
        }
        meant.push('.');
    }
}

/// Takes an unquoted word, which may be empty. A backslash in front of a character that needs no quoting stands for
/// itself, as in `DOMAIN\user`; otherwise it quotes the next character.
fn word<'t>(text: &'t str, meant: &mut String) -> Result<&'t str, AddressError> {
    let mut characters = text.chars();
    loop {
        let rest = characters.as_str();
        match characters.next() {
            Some('\\') => match characters.clone().next() {
                Some(next) if is_atext(next) || next == '.' => meant.push('\\'),
                Some(next) if !is_invisible(next) => {
                    meant.push(next);
                    characters.next();
                }
                _ => return Err(AddressError::Syntax),
            },
            Some(character) if is_atext(character) => meant.push(character),
            _ => return Ok(rest),
        }
    }
}

/// Takes the rest of a quoted word, behind its opening quote.
fn quoted_word<'t>(quoted: &'t str, meant: &mut String) -> Result<&'t str, AddressError> {
    let mut characters = quoted.chars();
    loop {
        let character = match characters.next().ok_or(AddressError::Syntax)? {
            '"' => return Ok(characters.as_str()),
            '\\' => characters.next().ok_or(AddressError::Syntax)?,
            other => other,
        };
        if is_invisible(character) {
            return Err(AddressError::Syntax);
        }
        meant.push(character);
    }
}

/// Removes the dot of the root domain; with and without it a domain is the same.
fn without_final_dot(domain: &str) -> &str {
    domain.strip_suffix('.').unwrap_or(domain)
}

/// Whether a text is a domain or an address literal. Underscores are accepted, because hosts with such names send mail.
fn is_domain(text: &str) -> bool {
    if let Some(literal) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return match literal.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().is_ok(),
            _ => literal.parse::<Ipv4Addr>().is_ok(),
        };
    }
    !text.is_empty()
        && text.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_utf8_text(c))
        })
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// RFC 5322, 3.2.3; with RFC 6531, 3.3, characters beyond ASCII (which a session admits only with `smtp_ascii off`).
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character) || is_utf8_text(character)
}

fn is_utf8_text(character: char) -> bool {
    !character.is_ascii() && !is_invisible(character)
}

/// RFC 5321, 4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes() {
        for (text, local_part, domain) in [
            ("fred@example.com", "fred", "example.com"),
            ("\"fred\"@example.com", "fred", "example.com"),
            ("\"a b\"@c.example", "a b", "c.example"),
            (r#""a\"b"@c.example"#, "a\"b", "c.example"),
            ("\"r@ext\"@[192.0.2.1]", "r@ext", "[192.0.2.1]"),
            ("u@[IPv6:2001:db8::1]", "u", "[IPv6:2001:db8::1]"),
            ("-oQ/tmp@d", "-oQ/tmp", "d"),
            ("a..b@d_x", "a..b", "d_x"),
            ("a@d.", "a", "d"),
            (" a@d ", "a", "d"),
            ("a @ d", "a", "d"),
            (r"DOMAIN\user@d", r"DOMAIN\user", "d"),
            (r"a\@b@d", "a@b", "d"),
            (r"a\\b@d", r"a\b", "d"),
            (r"a\ b@d", "a b", "d"),
            (r#""foo..bar".baz@d"#, "foo..bar.baz", "d"),
            (r#"foo."b r"."baz"@d"#, "foo.b r.baz", "d"),
            (r#""a".@d"#, "a.", "d"),
        ] {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!((mailbox.local_part(), mailbox.domain()), (local_part, domain), "{text}");
            assert_eq!(Mailbox::parse(&mailbox.to_string()).as_ref(), Ok(&mailbox), "{text}");
        }
        for text in [
            "",
            "@",
            ".@.",
            "a",
            "@d",
            "a@",
            "a@@d",
            "a@b@d",
            "a@d..",
            "a@.",
            "a@.d",
            "a@d..e",
            "a b@d",
            "a@d e",
            "\"a@d",
            "\"a\"b@d",
            "\"a\\\"@d",
            "\"a\" \"b\"@d",
            "a\"b\"@d",
            "a\\",
            "a\\\t@d",
            "\"\"@d",
            "u(c)@d",
            "a@[1.2.3.256]",
            "a@[1.2.3]",
            "a@[::1]",
            "a@[IPv6::::]",
            "a@[IPv6:fe80::1%eth0]",
            "a@[",
            "a@[]",
            "a@[1.2.3.4].com",
            "a@-d",
            "a@d-",
            "a\u{7f}@d",
            "\"a\u{1}\"@d",
            ";sleep 66;",
            "a@b,c@d",
            "<a@d>",
        ] {
            assert_eq!(Mailbox::parse(text), Err(AddressError::Syntax), "{text}");
        }
    }

    #[test]
    fn lengths() {
        let local = |length: usize| format!("{}@d", "a".repeat(length));
        assert_eq!(Mailbox::parse(&local(2000)).unwrap().local_part().len(), 2000);
        let domain = |length: usize| format!("a@{}", "b.".repeat((length - 3) / 2) + "bbb");
        assert!(Mailbox::parse(&domain(255)).is_ok());
        assert_eq!(Mailbox::parse(&domain(257)), Err(AddressError::TooLong));
        assert!(Mailbox::parse(&format!("a@{}", "b".repeat(63))).is_ok());
        assert!(Mailbox::parse(&format!("a@{}", "b".repeat(64))).is_err());
    }

    #[test]
    fn paths() {
        assert_eq!(path("<a@b> SIZE=1"), Ok(("a@b", " SIZE=1")));
        assert_eq!(path("<>"), Ok(("", "")));
        assert_eq!(path("< >"), Ok(("", "")));
        assert_eq!(path("< a@b\t>"), Ok(("a@b", "")));
        assert_eq!(path("<\"a>b\"@c> x"), Ok(("\"a>b\"@c", " x")));
        assert_eq!(path("<@a,@b.c:u@d>"), Ok(("u@d", "")));
        assert_eq!(path("<@a.,@b.c ,: u@d>"), Ok(("u@d", "")));
        assert_eq!(path("a@b SIZE=1"), Ok(("a@b", " SIZE=1")));
        assert_eq!(path("\"a b\"@c\tx"), Ok(("\"a b\"@c", "\tx")));
        assert_eq!(path("@a:u@d"), Ok(("u@d", "")));
        assert_eq!(path("Fred Flint <u@d> SIZE=1"), Ok(("u@d", " SIZE=1")));
        assert_eq!(path("\"Fred\"<u@d>"), Ok(("u@d", "")));
        assert_eq!(path("\"a <b\"@c"), Ok(("\"a <b\"@c", "")));
        assert_eq!(path("u@d <x>"), Ok(("u@d", " <x>")));
        assert_eq!(path("u AUTH= <x>"), Ok(("u", " AUTH= <x>")));
        for bad in ["", "<a@b", "<\"a>b@c", "<@a,b:u@d>", "<@a>", "<a@b>x", "<a@b>,<c@d>", "<a\\>"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
