//! Mail addresses: paths, mailboxes, domains (RFC 5321, 4.1.2 and 4.1.3).
//!
//! A [`Mailbox`] keeps its local part as the text that is meant, quotes and backslashes resolved, so that `"fred"@x`
//! and `fred@x` are one address to every rule; it is quoted again where it is written.

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

/// Where reports about a message go: the argument of MAIL FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: nobody; the message is itself a report.
    Null,
    /// Somebody.
    Mailbox(Mailbox),
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressError {
    /// It does not follow the grammar.
    Syntax,
    /// A part is longer than section 4.5.3.1 allows.
    TooLong,
}

impl Mailbox {
    /// Parses `local-part@domain`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local_part, rest) = local_part(text)?;
        let domain = rest.strip_prefix('@').ok_or(AddressError::Syntax)?;
        Self::new(local_part.into_owned(), domain, text.len())
    }

    /// Parses a mailbox whose domain may be left out; then it is one in `own_domain`.
    pub fn parse_or_qualify(text: &str, own_domain: &str) -> Result<Self, AddressError> {
        let (local_part, rest) = local_part(text)?;
        match rest.strip_prefix('@') {
            Some(domain) => Self::new(local_part.into_owned(), domain, text.len()),
            None if rest.is_empty() && local_part.len() <= MAX_LOCAL_PART => {
                Ok(Self { local_part: local_part.into_owned(), domain: own_domain.to_owned() })
            }
            None => Err(if rest.is_empty() { AddressError::TooLong } else { AddressError::Syntax }),
        }
    }

    fn new(local_part: String, domain: &str, length: usize) -> Result<Self, AddressError> {
        if !is_domain(domain) {
            return Err(AddressError::Syntax);
        }
        if local_part.len() > MAX_LOCAL_PART || domain.len() > MAX_DOMAIN || length + "<>".len() > MAX_PATH {
            return Err(AddressError::TooLong);
        }
        Ok(Self { local_part, domain: domain.to_owned() })
    }

    /// The local part as meant, without quoting.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// The domain, or an address literal in its brackets.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether both are one address to the rules: letter case aside.
    pub fn is_same(&self, other: &Self) -> bool {
        self.local_part.eq_ignore_ascii_case(&other.local_part) && self.domain.eq_ignore_ascii_case(&other.domain)
    }

    /// The address as rules see it: no quoting, letter case as the peer wrote it.
    pub fn bare(&self) -> String {
        format!("{}@{}", self.local_part, self.domain)
    }
}

/// The address as headers have it: quoted where the grammar needs it.
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
    /// The address as rules see it; empty for the null path.
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

/// Takes `<path>` off the front of a text: the content of the brackets, a source route dropped (4.1.1.3), and what
/// follows. A `>` inside a quoted local part does not end the path.
pub(super) fn bracketed(text: &str) -> Result<(&str, &str), AddressError> {
    let inside = text.strip_prefix('<').ok_or(AddressError::Syntax)?;
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Ok((without_source_route(&inside[..at])?, &inside[at + 1..])),
            _ => {}
        }
    }
    Err(AddressError::Syntax)
}

/// `@a,@b:user@domain` is `user@domain`.
fn without_source_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::Syntax)?;
    let sound = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
    if sound { Ok(mailbox) } else { Err(AddressError::Syntax) }
}

/// Splits off the local part, unquoted, and what follows it (which begins with `@`, or is empty).
fn local_part(text: &str) -> Result<(Cow<'_, str>, &str), AddressError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('@').unwrap_or(text.len());
        let (local_part, rest) = text.split_at(end);
        // Dots are not looked at closely: addresses with two in a row, or one at the end, exist and get mail.
        let sound =
            !local_part.is_empty() && local_part.chars().all(|character| is_atext(character) || character == '.');
        return if sound { Ok((Cow::Borrowed(local_part), rest)) } else { Err(AddressError::Syntax) };
    };
    let mut content = String::with_capacity(quoted.len());
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        let meant = match character {
            '"' => {
                let sound = !content.is_empty();
                return if sound { Ok((Cow::Owned(content), &quoted[at + 1..])) } else { Err(AddressError::Syntax) };
            }
            '\\' => characters.next().ok_or(AddressError::Syntax)?.1,
            other => other,
        };
        if is_invisible(meant) {
            return Err(AddressError::Syntax);
        }
        content.push(meant);
    }
    Err(AddressError::Syntax)
}

/// Whether a text is a domain or an address literal. Underscores are let through, because hosts with them send mail.
pub(super) fn is_domain(text: &str) -> bool {
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

/// RFC 5321, 4.5.3.1.1.
const MAX_LOCAL_PART: usize = 64;
/// RFC 5321, 4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// RFC 5321, 4.5.3.1.3, angle brackets included.
const MAX_PATH: usize = 256;
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
            "a@d.",
            "a@.d",
            "a@d..e",
            "a b@d",
            "a@d e",
            "\"a@d",
            "\"a\"b@d",
            "\"a\\\"@d",
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
        assert!(Mailbox::parse(&local(64)).is_ok());
        assert_eq!(Mailbox::parse(&local(65)), Err(AddressError::TooLong));
        let path = |length: usize| {
            format!("a@{}", "b.".repeat((length - 2) / 2 - 1) + if length.is_multiple_of(2) { "bb" } else { "bbb" })
        };
        assert_eq!(path(254).len(), 254);
        assert!(Mailbox::parse(&path(254)).is_ok());
        assert_eq!(Mailbox::parse(&path(255)), Err(AddressError::TooLong));
        assert!(Mailbox::parse(&format!("a@{}", "b".repeat(63))).is_ok());
        assert!(Mailbox::parse(&format!("a@{}", "b".repeat(64))).is_err());
    }

    #[test]
    fn paths() {
        assert_eq!(bracketed("<a@b> SIZE=1"), Ok(("a@b", " SIZE=1")));
        assert_eq!(bracketed("<>"), Ok(("", "")));
        assert_eq!(bracketed("<\"a>b\"@c>x"), Ok(("\"a>b\"@c", "x")));
        assert_eq!(bracketed("<@a,@b.c:u@d>"), Ok(("u@d", "")));
        for bad in ["a@b", "<a@b", "<\"a>b@c", "<@a,b:u@d>", "<@a>"] {
            assert!(bracketed(bad).is_err(), "{bad}");
        }
    }
}
