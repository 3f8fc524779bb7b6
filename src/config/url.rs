//! What the URLs of servers have in common: `USER:PASSWORD@HOST:PORT`, and `%HH` for characters (RFC 3986).
//!
//! Messages never quote what may be a password.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::lexer::{Problem, Word};
use super::value::{Secret, host_name, part, port_number};
use crate::hexadecimal;
use crate::net::client::Endpoint;

/// The part of a URL behind `//`.
pub(super) struct Authority {
    /// The user; `None` without an `@`.
    pub(super) user: Option<String>,
    /// The password.
    pub(super) password: Option<Secret>,
    /// Host and port.
    pub(super) endpoint: Endpoint,
    /// Where it ends in the word's text: at a `/`, or at the end.
    pub(super) ends: usize,
}

impl Authority {
    /// Reads an authority, which begins at `begins`. `port` is the default port, and `form` is shown if the host is
    /// missing.
    pub(super) fn parse(word: Word<'_>, begins: usize, port: u16, form: &str) -> Result<Self, Problem> {
        let text = word.text;
        // The last `@` counts: a name or password may contain others that should have been written as `%40`.
        let user_ends = text.rfind('@').filter(|at| *at >= begins);
        let host_begins = user_ends.map_or(begins, |at| at + 1);
        let ends = text[host_begins..].find('/').map_or(text.len(), |length| host_begins + length);
        let (user, password) = match user_ends {
            Some(user_ends) => user_and_password(word, begins..user_ends)?,
            None => (None, None),
        };
        if text[host_begins..ends].parse::<Ipv6Addr>().is_ok() {
            // Perhaps it has a port, which looks like the last part of the address.
            let host = part(word, host_begins..ends);
            return Err(host.problem("an address of IPv6 stands in brackets, as in `[2001:db8::1]:25`"));
        }
        let colon = text[host_begins..ends].rfind(':').map(|at| host_begins + at);
        let colon = colon.filter(|at| !text[*at..ends].contains(']'));
        let (host, port) = match colon {
            Some(colon) => (host_begins..colon, port_number(part(word, colon + 1..ends))?),
            None => (host_begins..ends, port),
        };
        if host.is_empty() {
            return Err(word.problem(format!("the host is missing: write {form}")));
        }
        let host = host_name(part(word, host))?;
        Ok(Self { user, password, endpoint: Endpoint { host, port }, ends })
    }
}

/// `USER` or `USER:PASSWORD`
fn user_and_password(word: Word<'_>, range: Range<usize>) -> Result<(Option<String>, Option<Secret>), Problem> {
    let text = &word.text[range.clone()];
    let Some((user, _)) = text.split_once(':') else { return Ok((Some(decoded(part(word, range))?), None)) };
    let colon = range.start + user.len();
    let password = decoded(part(word, colon + 1..range.end))?;
    Ok((Some(decoded(part(word, range.start..colon))?), Some(Secret(password))))
}

/// Decodes `%HH` in a part of a URL (RFC 3986, 2.1).
pub(super) fn decoded(word: Word<'_>) -> Result<String, Problem> {
    let problem = || word.problem("in a URL `%` and two hexadecimal digits stand for a character, `%25` for `%`");
    let mut bytes = Vec::with_capacity(word.text.len());
    let mut rest = word.text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (digits, behind) = rest.split_first_chunk().ok_or_else(problem)?;
            bytes.push(hexadecimal::octet(*digits).ok_or_else(problem)?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| word.problem("this is not UTF-8 text"))?;
    if text.len() > LONGEST_PART || text.contains('\0') {
        return Err(word.problem("a part of a URL has at most 255 bytes, and none of them is NUL"));
    }
    Ok(text)
}

/// AMQP has one octet for the length of a virtual host, and AUTH PLAIN allows 255 octets for a name or password (RFC
/// 4616).
const LONGEST_PART: usize = 255;
