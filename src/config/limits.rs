//! The `limit.` directives: how much a peer may use of everything, and the reply when that is used up.
//!
//! There is one table with a row for each limit. The fields of [`Limits`], defaults, parsers, "did you mean" and the
//! test of the manual page come from it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use super::lexer::{Problem, Word, Words};
use super::value::{self, RefusalText};
use crate::peer;

/// A limit, and the reply to a peer that exceeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit<T> {
    /// The last value that is allowed; for a switch, whether the check is made.
    pub value: T,
    /// The reply.
    pub refusal: Refusal,
}

/// Which peers need a forward-confirmed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameCheck {
    /// None.
    #[default]
    Off,
    /// Peers with public addresses. Hosts in private networks (RFC 1918 and similar) often have no name, and strangers
    /// cannot have such an address.
    On,
    /// All.
    Strict,
}

impl NameCheck {
    /// Whether a peer at this address needs one.
    pub fn is_for(self, address: IpAddr) -> bool {
        match self {
            NameCheck::Off => false,
            NameCheck::On => !peer::is_private(address),
            NameCheck::Strict => true,
        }
    }
}

/// A reply that the administrator worded: `CODE TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code, 400 to 559.
    pub code: u16,
    /// The text, without code and without line end.
    pub text: Cow<'static, str>,
}

/// `limit.NAME VALUE [CODE TEXT]`
#[derive(Debug, PartialEq)]
pub(super) struct LimitLine<'t> {
    value: LimitValue,
    refusal: Option<RefusalText<'t>>,
}

impl<'t> LimitLine<'t> {
    pub(super) fn refusal(&self) -> Option<&RefusalText<'t>> {
        self.refusal.as_ref()
    }
}

/// Turns each row into a field, a variant of [`LimitValue`] and the conversion between them. A row is: what it limits;
/// name, type, function of [`value`] that reads it, default as it would be written; reply.
macro_rules! limits {
    ($($(#[$doc:meta])+ $name:ident: $type:ty = $parser:ident($default:literal), $code:literal $text:literal;)+) => {
        /// The `limit.` directives, with their defaults in [`Limits::default`].
        #[derive(Debug)]
        pub struct Limits {
            $($(#[$doc])+ pub $name: Limit<$type>,)+
        }

        impl Limits {
            /// Each limit: its directive, and its default value and reply.
            pub const DEFAULTS: &[(&str, &str, u16, &str)] =
                &[$((concat!("limit.", stringify!($name)), $default, $code, $text)),+];

            /// The directive of the limit that has this reply, if there is one.
            pub(crate) fn whose_reply(&self, code: u16, text: &str) -> Option<&'static str> {
                let is_of = |refusal: &Refusal| refusal.code == code && refusal.text == text;
                $(if is_of(&self.$name.refusal) {
                    return Some(concat!("limit.", stringify!($name)));
                })+
                None
            }

            /// Sets the limit of a line.
            pub(super) fn set(&mut self, line: LimitLine<'_>) {
                match line.value {
                    $(LimitValue::$name(value) => self.$name.set(value, line.refusal),)+
                }
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                // A test below makes sure that every default can be parsed.
                Self { $($name: Limit {
                    value: value::$parser(Word::alone($default)).unwrap_or_default(),
                    refusal: Refusal { code: $code, text: Cow::Borrowed($text) },
                },)+ }
            }
        }

        /// The value of one limit.
        #[allow(non_camel_case_types, reason = "each is named as its limit")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum LimitValue {
            $($name($type),)+
        }

        /// The parser for the value of each limit.
        const PARSERS: &[(&str, ValueParser)] =
            &[$((concat!("limit.", stringify!($name)), |word| value::$parser(word).map(LimitValue::$name))),+];
    };
}

limits! {
    /// Commands since the last accepted message. Accepted recipients do not count, because they have their own limit.
    smtp_commands: u64 = count("25"), 421 "Too many SMTP commands received in session.";
    /// Unknown commands since the last accepted message. The default of twenty is that of Postfix
    /// (smtpd_hard_error_limit): if we hung up earlier, clients that do not remember which recipients were accepted
    /// could not deliver.
    smtp_unknowncmd: u64 = count("20"), 421 "Too many bad commands.";
    /// Refused commands since the last accepted message: a message may have some unknown recipients before a good one.
    smtp_failcmds: u64 = count("20"), 421 "Too many failed commands.";
    /// Seconds for a message, from the greeting or the last accepted message to its end; every 500 octets of text add a
    /// second.
    connection_secs: Duration = session_seconds("600"), 421 "Connection timeout.";
    /// Octets of a message, line ends counted as two (RFC 1870, section 3); 0 for no limit.
    smtp_data_size: u64 = size("24000000"), 552 "Too much mail data.";
    /// Recipients of a message (RFC 5321, 4.5.3.1.8: at least 100).
    smtp_rcpt_to: u64 = count("100"), 452 "Too many recipients.";
    /// Octets of a message times the number of places that it goes to, for recipients after the first; 0 for no limit.
    copies_size: u64 = any_number("240000000"), 452 "Too many copies of a message of this size.";
    /// Bytes that have to be free on every file system that messages are written to, or a twentieth of it if that is
    /// less; 0 for no check.
    min_free: u64 = any_number("100000000"), 452 "Not enough room for messages, try again later.";
    /// Seconds for publishing a message, from looking up the broker's name to its last answer.
    broker_secs: Duration = seconds("60"), 451 "The broker that takes this mail does not answer, try again later.";
    /// Seconds for one answer of the next server, unless RFC 5321 (4.5.3.2) allows less.
    relay_secs: Duration = seconds("600"), 451 "The server that takes this mail does not answer, try again later.";
    /// Whether commands must be ASCII.
    smtp_ascii: bool = switch("on"), 500 "Binary data (non-ASCII) unsupported.";
    /// Which peers need a forward-confirmed name.
    fcrdns_check: NameCheck = name_check("on"), 450 "Failed FcrDNS, try again later";
    /// Whether a bare CR or LF in a message from a CRLF connection is refused. By default it is content and ends
    /// nothing, because half of the libraries for sending mail do not convert texts with Unix line ends.
    bare_newline: bool = reject("accept"), 550 "Bare CR or LF in the message: lines end with CRLF (RFC 5321, 2.3.8).";
    /// Seconds without a command or progress of data.
    idle_secs: Duration = seconds("300"), 421 "Idle for too long.";
    /// The same before the connection has had an accepted recipient. Five minutes, as RFC 5321 asks for in 4.5.3.2.7,
    /// would make it easy to keep others out.
    greet_secs: Duration = seconds("30"), 421 "Idle for too long.";
    /// Seconds for all name look-ups of a connection together. The reply is never sent: a peer whose name is not found
    /// in time has no name, and `fcrdns_check` decides what that means.
    dns_secs: Duration = seconds("10"), 450 "";
    /// Seconds for one `pipe` command.
    pipe_secs: Duration = seconds("300"), 451 "The command that takes this mail ran out of time.";
}

type ValueParser = fn(Word<'_>) -> Result<LimitValue, Problem>;

/// Reads the rest of a limit's line; `None` if there is no limit of this name.
pub(super) fn line<'t>(name: &str, words: &mut Words<'t>) -> Option<Result<LimitLine<'t>, Problem>> {
    let (_, parse) = PARSERS.iter().find(|(known, _)| *known == name)?;
    Some(words.expect("the limit's value").and_then(|word| Ok((word, parse(word)?))).and_then(|(word, value)| {
        if let Some(effect) = odd_value(name, word.text) {
            words.note(word, || effect.to_owned());
        }
        // Most limits end the session, so the default code is 421, which does not refuse the mail permanently.
        let refusal = if words.is_at_end() { None } else { Some(value::refusal(words, 421)?) };
        Ok(LimitLine { value, refusal })
    }))
}

/// What a value means that the original accepted and hardly anybody wants.
fn odd_value(name: &str, value: &str) -> Option<&'static str> {
    let value: i64 = value.parse().ok().filter(|value| *value <= 0)?;
    match (name, value) {
        ("limit.smtp_commands" | "limit.smtp_unknowncmd" | "limit.smtp_failcmds", _) => {
            Some("the first one is one too many: write how many there may be, at least 1")
        }
        ("limit.smtp_rcpt_to", _) => Some("no message may have a recipient: write how many there may be, at least 1"),
        ("limit.connection_secs", 0) => Some("every session is over as it begins: write the seconds that it may take"),
        ("limit.connection_secs", _) => Some("this is no limit: write the seconds that a session may take"),
        ("limit.smtp_data_size", ..0) => Some("this is no limit, which is written 0"),
        _ => None,
    }
}

impl<T> Limit<T> {
    fn set(&mut self, value: T, refusal: Option<RefusalText<'_>>) {
        self.value = value;
        if let Some(refusal) = refusal {
            self.refusal = refusal.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_a_value_that_a_line_could_give() {
        for (name, default, code, text) in Limits::DEFAULTS {
            let mut words = Words::new(default);
            assert!(line(name, &mut words).is_some_and(|line| line.is_ok()), "{name}");
            let reply = format!("{code} {text}");
            assert!(text.is_empty() || value::refusal(&mut Words::new(&reply), 550).is_ok(), "{name}");
        }
    }
}
