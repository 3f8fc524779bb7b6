//! `relay URL [tls=...] [ca=FILE]`: the next server, how to speak with it, and as whom.
//!
//! The URL is `smtp://USER@HOST:PORT`, `smtps://` with TLS from the beginning (RFC 8314, 3.3), `lmtp://`, or
//! `lmtp+unix:/PATH`. Two lines that say the same name the same hop: by SMTP it gets a message once for all of its
//! recipients.

use std::path::PathBuf;

use super::lexer::{Problem, Word, Words};
use super::settings::Protocol;
use super::spelling::did_you_mean;
use super::url::Authority;
use super::value::{Secret, part};
use crate::net::client::Endpoint;

/// The next server on a message's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The address of the server.
    pub(crate) address: HopAddress,
    /// How TLS is used; [`super::Config::tls_with`] takes the login into account.
    pub(crate) tls: HopTls,
    /// The user to log in as, if the URL names one.
    pub(crate) user: Option<String>,
    /// The password, if the URL has one.
    pub(crate) password: Option<Secret>,
    /// The file with trusted authorities, if not that of `ca_file`.
    pub(crate) ca_file: Option<PathBuf>,
    /// The URL without a password, for people.
    shown: String,
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HopAddress {
    /// A host and port.
    Tcp(Endpoint),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How TLS is used with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HopTls {
    /// Never, even if the server offers it.
    Off,
    /// If the server offers it, with any certificate: this protects only against somebody who just listens.
    Opportunistic,
    /// Always, with a certificate that proves the server's name.
    Require,
    /// The same, from the beginning of the connection.
    Implicit,
}

impl Hop {
    /// Reads the operands of `relay`, up to the end of the line.
    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, Problem> {
        let word = words.expect("the next server, as in `smtp://mail.example.net`,")?;
        let mut hop = Self::parse_url(word)?;
        let mut tls = None;
        let mut ahead = *words;
        while let Some(option) = ahead.next_word() {
            match option.text.split_once('=') {
                Some(("tls", _)) => tls = Some((tls_use(part(option, "tls=".len()..option.text.len()))?, option)),
                Some(("ca", "")) => return Err(option.problem("a file is missing behind `ca=`")),
                Some(("ca", file)) => hop.ca_file = Some(PathBuf::from(file)),
                _ => return Err(option.problem(UNKNOWN_OPTION)),
            }
            *words = ahead;
        }
        hop.with_tls(tls, word)
    }

    /// The URL without its password.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it gets a message once for several recipients. In LMTP each recipient has its own answer.
    pub(crate) fn is_shared(&self) -> bool {
        self.protocol == Protocol::Smtp
    }

    /// Whether the connection stays on this machine.
    pub(super) fn is_here(&self) -> bool {
        match &self.address {
            HopAddress::Unix(_) => true,
            HopAddress::Tcp(Endpoint { host, .. }) => {
                host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
            }
        }
    }

    fn parse_url(word: Word<'_>) -> Result<Self, Problem> {
        let text = word.text;
        let scheme = text.split_once(':').map_or(text, |(scheme, _)| scheme);
        let (protocol, tls, port) = match scheme {
            "smtp" => (Protocol::Smtp, HopTls::Opportunistic, 25),
            "smtps" => (Protocol::Smtp, HopTls::Implicit, 465),
            "lmtp" => (Protocol::Lmtp, HopTls::Opportunistic, 24),
            "lmtp+unix" => return Self::at_unix_socket(word),
            _ => return Err(word.problem(FORMS)),
        };
        let Some(rest) = text[scheme.len()..].strip_prefix("://") else { return Err(word.problem(FORMS)) };
        if let Some(at) = rest.find(['?', '#']) {
            let at = text.len() - rest.len() + at;
            return Err(
                part(word, at..text.len()).problem("a URL has no options here: they follow it, as in `tls=require`")
            );
        }
        let Authority { user, password, endpoint, ends } =
            Authority::parse(word, text.len() - rest.len(), port, &format!("`{scheme}://HOST`"))?;
        if !["", "/"].contains(&&text[ends..]) {
            return Err(part(word, ends..text.len()).problem("the URL of a mail server ends with its port"));
        }
        // An empty user is none, so that `${RELAY_USERNAME:-}@` works if the variable is not set.
        let user = user.filter(|user| !user.is_empty());
        if user.as_ref().is_some_and(|user| user.contains(char::is_control)) {
            return Err(word.problem("a control character in a name"));
        }
        let password = password.filter(|_| user.is_some());
        let shown_user = user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        let shown = format!("{scheme}://{shown_user}{endpoint}");
        Ok(Self { protocol, address: HopAddress::Tcp(endpoint), tls, user, password, ca_file: None, shown })
    }

    fn at_unix_socket(word: Word<'_>) -> Result<Self, Problem> {
        let path = &word.text["lmtp+unix:".len()..];
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        if !path.starts_with('/') {
            return Err(word.problem("write the whole path of the socket, as in `lmtp+unix:/run/dovecot/lmtp`"));
        }
        let shown = format!("lmtp+unix:{path}");
        let address = HopAddress::Unix(PathBuf::from(path));
        Ok(Self {
            protocol: Protocol::Lmtp,
            address,
            tls: HopTls::Off,
            user: None,
            password: None,
            ca_file: None,
            shown,
        })
    }

    /// The same with TLS as the option says, or with the right default.
    fn with_tls(mut self, option: Option<(HopTls, Word<'_>)>, url: Word<'_>) -> Result<Self, Problem> {
        match (&self.address, self.tls, option) {
            (HopAddress::Unix(_), _, Some((HopTls::Off, _))) => {}
            (HopAddress::Unix(_), _, Some((_, option))) => {
                return Err(option.problem("there is no TLS at a Unix socket, which nobody can listen at"));
            }
            (_, HopTls::Implicit, Some((HopTls::Require, _)) | None) => {}
            (_, HopTls::Implicit, Some((_, option))) => {
                return Err(
                    option.problem("`smtps://` is under TLS from the beginning: write `smtp://`, or leave this out")
                );
            }
            (_, _, Some((HopTls::Opportunistic, option))) if self.user.is_some() => {
                return Err(option.problem(
                    "a password needs more: write `tls=require`, or `tls=off` if everybody on the way may hear it",
                ));
            }
            (_, _, Some((tls, _))) => self.tls = tls,
            (_, _, None) if self.user.is_some() => self.tls = HopTls::Require,
            (_, _, None) => {}
        }
        if self.ca_file.is_some() && self.tls == HopTls::Opportunistic {
            return Err(url.problem("no certificate is looked at here, so `ca=` says nothing: write `tls=require`"));
        }
        Ok(self)
    }
}

/// Reads the value of `tls=`. Values of other programs' switches are accepted; "on" means TLS with a verified
/// certificate.
fn tls_use(word: Word<'_>) -> Result<HopTls, Problem> {
    match &*word.text.to_ascii_lowercase() {
        "require" | "true" | "yes" | "on" | "1" => Ok(HopTls::Require),
        "opportunistic" => Ok(HopTls::Opportunistic),
        "off" | "false" | "no" | "0" => Ok(HopTls::Off),
        other => Err(word.problem(format!(
            "write `require`, `opportunistic` or `off`{}",
            did_you_mean(other, ["require", "opportunistic", "off"].into_iter())
        ))),
    }
}

const FORMS: &str =
    "write `smtp://HOST`, `smtps://HOST` for TLS from the beginning, `lmtp://HOST:PORT` or `lmtp+unix:/PATH`";

/// The option may be the rest of a password with a blank in it, so messages do not quote it.
const UNKNOWN_OPTION: &str =
    "behind the URL there can be `tls=require`, `tls=opportunistic` or `tls=off`, and `ca=FILE`";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Hop, String> {
        Hop::parse(&mut Words::new(text))
            .map_err(|problem| format!("{}: {}", &text[problem.start..problem.end.min(text.len())], problem.message))
    }

    #[test]
    fn urls_say_where_and_how() {
        use HopTls::{Implicit, Off, Opportunistic, Require};
        for (text, shown, tls, user, password) in [
            ("smtp://mx.example", "smtp://mx.example:25", Opportunistic, None, None),
            ("smtp://mx.example/", "smtp://mx.example:25", Opportunistic, None, None),
            ("smtp://@mx.example:26", "smtp://mx.example:26", Opportunistic, None, None),
            ("smtp://:@mx.example", "smtp://mx.example:25", Opportunistic, None, None),
            ("smtp://a@mx.example tls=off", "smtp://a@mx.example:25", Off, Some("a"), None),
            (
                "smtp://a@b.example@mx.example:587",
                "smtp://a@b.example@mx.example:587",
                Require,
                Some("a@b.example"),
                None,
            ),
            ("smtp://a:b%40c%25@[::1]:99", "smtp://a@[::1]:99", Require, Some("a"), Some("b@c%")),
            ("smtp://[2001:db8::1]", "smtp://[2001:db8::1]:25", Opportunistic, None, None),
            ("smtps://mx.example", "smtps://mx.example:465", Implicit, None, None),
            ("smtps://mx.example tls=True ca=/a", "smtps://mx.example:465", Implicit, None, None),
            ("lmtp://127.0.0.1:2424 tls=False", "lmtp://127.0.0.1:2424", Off, None, None),
            ("lmtp://mx.example", "lmtp://mx.example:24", Opportunistic, None, None),
            ("lmtp+unix:/run/lmtp", "lmtp+unix:/run/lmtp", Off, None, None),
            ("lmtp+unix:///run/lmtp", "lmtp+unix:/run/lmtp", Off, None, None),
        ] {
            let hop = parsed(text).unwrap();
            assert_eq!((hop.shown(), hop.tls, hop.user.as_deref()), (shown, tls, user), "{text}");
            assert_eq!(hop.password.as_ref().map(Secret::reveal), password, "{text}");
        }
        assert!(parsed("smtp://localhost").unwrap().is_here() && !parsed("smtp://192.0.2.1").unwrap().is_here());
    }

    #[test]
    fn what_is_no_url_is_told_with_its_place() {
        for (text, place) in [
            ("mx.example", "mx.example: write `smtp://HOST`"),
            ("http://mx.example", "http://mx.example: "),
            ("smtp:mx.example", "smtp:mx.example: "),
            ("smtp://", "smtp://: the host is missing"),
            ("smtp://a@", "smtp://a@: the host is missing"),
            ("smtp://a:x", "x: a port"),
            ("smtp://a/b", "/b: "),
            ("smtp://a?tls=off", "?tls=off: "),
            ("smtp://a tls=perhaps", "perhaps: "),
            ("smtp://a tls", "tls: "),
            ("smtp://a:b c@d", "b: a port"),
            ("smtp://a ca=", "ca=: "),
            ("smtp://a ca=/b", "smtp://a: "),
            ("smtp://u@a tls=opportunistic", "tls=opportunistic: a password needs more"),
            ("smtp://u%0a@a", "smtp://u%0a@a: a control character"),
            ("smtps://a tls=off", "tls=off: "),
            ("lmtp+unix:lmtp", "lmtp+unix:lmtp: "),
            ("lmtp+unix:/a tls=require", "tls=require: there is no TLS"),
            ("", ": the next server"),
        ] {
            let problem = parsed(text).unwrap_err();
            assert!(problem.starts_with(place), "{text}: {problem}");
        }
    }
}
