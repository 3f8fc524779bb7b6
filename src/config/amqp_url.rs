//! `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS: where an AMQP broker is, and how we log in.

use std::fmt;

use super::lexer::{Problem, Word};
use super::url::{Authority, decoded};
use super::value::{Secret, part};
use crate::net::client::Endpoint;

/// The parts of such a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpUrl {
    /// Where the broker is.
    pub(crate) endpoint: Endpoint,
    /// Whether TLS is used.
    pub(crate) uses_tls: bool,
    /// The user to log in as.
    pub(crate) user: String,
    /// The password; `None` if it is in a file.
    pub(crate) password: Option<Secret>,
    /// The virtual host on the broker.
    pub(crate) vhost: String,
}

impl AmqpUrl {
    /// Reads a URL. Messages never quote what may be the password.
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
        let port = if uses_tls { PORT_OF_TLS } else { PORT };
        let Authority { user, password, endpoint, ends } =
            Authority::parse(word, begins, port, "`amqp://USER@HOST/VHOST`")?;
        let (user, password) = match user {
            Some(user) => (user, password),
            None => (GUEST.to_owned(), Some(Secret(GUEST.to_owned()))),
        };
        let vhost = match text.get(ends + 1..) {
            None | Some("") => "/".to_owned(),
            Some(_) => decoded(part(word, ends + 1..text.len()))?,
        };
        Ok(Self { endpoint, uses_tls, user, password, vhost })
    }
}

/// The URL without its password.
impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, uses_tls, user, vhost, .. } = self;
        let scheme = if *uses_tls { "amqps" } else { "amqp" };
        let vhost = if vhost == "/" { "" } else { vhost };
        write!(f, "{scheme}://{user}@{endpoint}/{vhost}")
    }
}

/// The registered ports (IANA).
const PORT: u16 = 5672;
const PORT_OF_TLS: u16 = 5671;

/// The user of a broker that was never configured; it can log in only from the broker's own machine.
const GUEST: &str = "guest";

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
