//! `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS: where an AMQP broker is, and who we are there.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Range;

use super::lexer::{Problem, Word};
use super::value::{Secret, host_name, part, port_number};
use crate::net::client::Endpoint;

/// What such a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpUrl {
    /// Where the broker is.
    pub(crate) endpoint: Endpoint,
    /// Whether the connection is under TLS.
    pub(crate) uses_tls: bool,
    /// Who we are there.
    pub(crate) user: String,
    /// What shows it; `None` if it is in a file.
    pub(crate) password: Option<Secret>,
    /// Which of the broker's virtual hosts.
    pub(crate) vhost: String,
}

impl AmqpUrl {
    /// Reads it. No message quotes what may be the password.
    pub(super) fn parse(word: Word<'_>) -> Result<Self, Problem> {
        let text = word.text;
        let (uses_tls, begins) = match text.split_once("://") {
            Some(("amqp", _)) => (false, "amqp://".len()),
            Some(("amqps", _)) => (true, "amqps://".len()),
            _ => return Err(word.problem("write `amqp://USER@HOST/VHOST`, or `amqps://` for TLS")),
        };
        if let Some(at) = text.find(['?', '#']) {
            return Err(part(word, at..text.len()).problem("a URL has no options here"));
        }
        // Behind the last `@`: a password may have some that should have been written as `%40`.
        let user_ends = text.rfind('@');
        let host_begins = user_ends.map_or(begins, |at| at + 1);
        let host_ends = text[host_begins..].find('/').map_or(text.len(), |length| host_begins + length);
        let (user, password) = match user_ends {
            Some(ends) => user_and_password(word, begins..ends)?,
            None => (GUEST.to_owned(), Some(Secret(GUEST.to_owned()))),
        };
        let is_address = text[host_begins..host_ends].parse::<Ipv6Addr>().is_ok();
        let colon = text[host_begins..host_ends].rfind(':').map(|at| host_begins + at);
        let colon = colon.filter(|at| !is_address && !text[*at..host_ends].contains(']'));
        let (host, port) = match colon {
            Some(colon) => (host_begins..colon, port_number(part(word, colon + 1..host_ends))?),
            None => (host_begins..host_ends, if uses_tls { PORT_OF_TLS } else { PORT }),
        };
        if host.is_empty() {
            return Err(word.problem("the host is missing: write `amqp://USER@HOST/VHOST`"));
        }
        let host = host_name(part(word, host))?;
        let vhost = match text.get(host_ends + 1..) {
            None | Some("") => "/".to_owned(),
            Some(_) => decoded(part(word, host_ends + 1..text.len()))?,
        };
        Ok(Self { endpoint: Endpoint { host, port }, uses_tls, user, password, vhost })
    }
}

/// `USER` or `USER:PASSWORD`
fn user_and_password(word: Word<'_>, range: Range<usize>) -> Result<(String, Option<Secret>), Problem> {
    let text = &word.text[range.clone()];
    let Some((user, _)) = text.split_once(':') else { return Ok((decoded(part(word, range))?, None)) };
    let colon = range.start + user.len();
    let password = decoded(part(word, colon + 1..range.end))?;
    Ok((decoded(part(word, range.start..colon))?, Some(Secret(password))))
}

/// A part of a URL with the characters that `%HH` stand for (RFC 3986, 2.1).
fn decoded(word: Word<'_>) -> Result<String, Problem> {
    let problem = || word.problem("in a URL `%` and two hexadecimal digits stand for a character, `%25` for `%`");
    let mut bytes = Vec::with_capacity(word.text.len());
    let mut rest = word.text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (digits, behind) = rest.split_at_checked(2).ok_or_else(problem)?;
            let digits = std::str::from_utf8(digits).ok().filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()));
            bytes.push(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(problem)?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| word.problem("this is not UTF-8 text"))?;
    if text.len() > LONGEST_NAME || text.contains('\0') {
        return Err(word.problem("a part of a URL has at most 255 bytes, and none of them is NUL"));
    }
    Ok(text)
}

/// Without the password.
impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, uses_tls, user, vhost, .. } = self;
        let scheme = if *uses_tls { "amqps" } else { "amqp" };
        let vhost = if vhost == "/" { "" } else { vhost };
        write!(f, "{scheme}://{user}@{endpoint}/{vhost}")
    }
}

/// Ports as IANA has them.
const PORT: u16 = 5672;
const PORT_OF_TLS: u16 = 5671;

/// The user of a broker that nobody has configured, who may come from its own machine only.
const GUEST: &str = "guest";

/// The protocol has one octet for the length of a virtual host.
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<String>), String> {
        let url = AmqpUrl::parse(Word::alone(text))
            .map_err(|problem| format!("{}: {}", &text[problem.start..problem.end], problem.message))?;
        Ok((url.to_string(), url.password.map(|password| password.reveal().to_owned())))
    }

    #[test]
    fn urls_say_where_and_who() {
        for (text, shown, password) in [
            ("amqp://mq.example", "amqp://guest@mq.example:5672/", Some("guest")),
            ("amqp://mq.example/", "amqp://guest@mq.example:5672/", Some("guest")),
            ("amqps://a@mq.example/%2f", "amqps://a@mq.example:5671/", None),
            ("amqp://a:b%40c%25@[::1]:99/v%20h", "amqp://a@[::1]:99/v h", Some("b@c%")),
            ("amqp://a:b:c@d@127.0.0.1/mail", "amqp://a@127.0.0.1:5672/mail", Some("b:c@d")),
            ("amqp://a:@[2001:db8::1]", "amqp://a@[2001:db8::1]:5672/", Some("")),
        ] {
            assert_eq!(parsed(text), Ok((shown.to_owned(), password.map(str::to_owned))), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_told_with_its_place() {
        for (text, place) in [
            ("http://a/", "http://a/: "),
            ("amqp:/a", "amqp:/a: "),
            ("amqp://a@/v", "amqp://a@/v: "),
            ("amqp://a@b:x/v", "x: "),
            ("amqp://a@b:0/v", "0: "),
            ("amqp://a@b,c/v", "b,c: "),
            ("amqp://a@::1/v", "::1: "),
            ("amqp://a:%zz@b", "%zz: "),
            ("amqp://a@b/v?heartbeat=5", "?heartbeat=5: "),
        ] {
            let problem = parsed(text).unwrap_err();
            assert!(problem.starts_with(place), "{text}: {problem}");
        }
    }
}
