//! The `limit.` directives: how much of everything a peer gets, and what it is told when that is used up.
//!
//! One table: a limit is one row. From it come the field of [`Limits`], its default, its parser, "did you mean" and the
//! test that the manual page tells the truth.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use super::lexer::{Problem, Word, Words};
use super::value::{self, RefusalText};
use crate::peer;

/// A bound and what is said to the peer that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit<T> {
    /// The last value that is still allowed; for a switch, whether the check is made.
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
    /// Those that the whole world can reach: in a private network (RFC 1918 and its like) hosts often have no name, and
    /// nobody from elsewhere can have such an address.
    On,
    /// All.
    Strict,
}

impl NameCheck {
    /// Whether the peer at this address needs one.
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

/// Makes of each row a field, a variant of [`LimitValue`] and what goes from one to the other. A row is: what it bounds;
/// name, type, what of [`value`] reads it, the default as a line would have it; the reply.
macro_rules! limits {
    ($($(#[$doc:meta])+ $name:ident: $type:ty = $parser:ident($default:literal), $code:literal $text:literal;)+) => {
        /// The `limit.` directives, with their defaults in [`Limits::default`].
        #[derive(Debug)]
        pub struct Limits {
            $($(#[$doc])+ pub $name: Limit<$type>,)+
        }

        impl Limits {
            /// Each limit: its directive, and the value and the reply that it has by default.
            pub const DEFAULTS: &[(&str, &str, u16, &str)] =
                &[$((concat!("limit.", stringify!($name)), $default, $code, $text)),+];

            /// The directive of the limit that has us say this, if there is one.
            pub(crate) fn whose_reply(&self, code: u16, text: &str) -> Option<&'static str> {
                let is_of = |refusal: &Refusal| refusal.code == code && refusal.text == text;
                $(if is_of(&self.$name.refusal) {
                    return Some(concat!("limit.", stringify!($name)));
                })+
                None
            }

            /// Takes over what a line says.
            pub(super) fn set(&mut self, line: LimitLine<'_>) {
                match line.value {
                    $(LimitValue::$name(value) => self.$name.set(value, line.refusal),)+
                }
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                // That no default is refused by its own parser, a test below says.
                Self { $($name: Limit {
                    value: value::$parser(Word::alone($default)).unwrap_or_default(),
                    refusal: Refusal { code: $code, text: Cow::Borrowed($text) },
                },)+ }
            }
        }

        /// Which limit, and its value.
        #[allow(non_camel_case_types, reason = "each is named as its limit")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum LimitValue {
            $($name($type),)+
        }

        /// What reads the value of each limit.
        const PARSERS: &[(&str, ValueParser)] =
            &[$((concat!("limit.", stringify!($name)), |word| value::$parser(word).map(LimitValue::$name))),+];
    };
}

limits! {
    /// Commands since the last accepted message; accepted recipients do not count, they have their own limit.
    smtp_commands: u64 = count("25"), 421 "Too many SMTP commands received in session.";
    /// Commands that do not exist, since the last accepted message. Twenty, as many as Postfix takes
    /// (smtpd_hard_error_limit): who hangs up loses the mail of clients that do not remember which recipients are served.
    smtp_unknowncmd: u64 = count("20"), 421 "Too many bad commands.";
    /// Commands that were refused, likewise: a message may have some unknown recipients before a good one.
    smtp_failcmds: u64 = count("20"), 421 "Too many failed commands.";
    /// A message, from the greeting or the last accepted message to its end; every 500 octets of its text give it a second
    /// more.
    connection_secs: Duration = session_seconds("600"), 421 "Connection timeout.";
    /// Octets of a message, line ends counted as two (RFC 1870, section 3); 0 for no limit.
    smtp_data_size: u64 = size("24000000"), 552 "Too much mail data.";
    /// Recipients of a message (RFC 5321, 4.5.3.1.8: at least 100).
    smtp_rcpt_to: u64 = count("100"), 452 "Too many recipients.";
    /// Octets of a message times the places that it goes to, for recipients after the first; 0 for no limit.
    copies_size: u64 = any_number("240000000"), 452 "Too many copies of a message of this size.";
    /// Bytes that have to be free wherever messages are written to, or a twentieth of the file system if that is less; 0 to
    /// take what there is.
    min_free: u64 = any_number("100000000"), 452 "Not enough room for messages, try again later.";
    /// What a broker may take for a message, from the look-up of its name to its last word.
    broker_secs: Duration = seconds("60"), 451 "The broker that takes this mail does not answer, try again later.";
    /// One wait for the next server, where RFC 5321 (4.5.3.2) does not give it less.
    relay_secs: Duration = seconds("600"), 451 "The server that takes this mail does not answer, try again later.";
    /// Whether commands must be ASCII.
    smtp_ascii: bool = switch("on"), 500 "Binary data (non-ASCII) unsupported.";
    /// Who needs a forward-confirmed name.
    fcrdns_check: NameCheck = name_check("on"), 450 "Failed FcrDNS, try again later";
    /// Whether a bare CR or LF in a message from a CRLF connection is refused. By default it is content and ends nothing,
    /// because half of the libraries that programs send mail with let it through from a text with Unix line ends.
    bare_newline: bool = reject("accept"), 550 "Bare CR or LF in the message: lines end with CRLF (RFC 5321, 2.3.8).";
    /// Waiting for a command, or for data to move.
    idle_secs: Duration = seconds("300"), 421 "Idle for too long.";
    /// The same before the connection has had an accepted recipient. Five minutes, which RFC 5321 asks for in 4.5.3.2.7,
    /// would be an offer to everybody who wants to keep others out.
    greet_secs: Duration = seconds("30"), 421 "Idle for too long.";
    /// All name look-ups of a connection together. Its reply is never sent: without an answer in time a peer has no
    /// name, which is `fcrdns_check`'s affair.
    dns_secs: Duration = seconds("10"), 450 "";
    /// One `pipe` command.
    pipe_secs: Duration = seconds("300"), 451 "The command that takes this mail ran out of time.";
}

type ValueParser = fn(Word<'_>) -> Result<LimitValue, Problem>;

/// Reads the rest of the line of a limit; `None` if there is no limit of this name.
pub(super) fn line<'t>(name: &str, words: &mut Words<'t>) -> Option<Result<LimitLine<'t>, Problem>> {
    let (_, parse) = PARSERS.iter().find(|(known, _)| *known == name)?;
    Some(words.expect("the limit's value").and_then(|word| Ok((word, parse(word)?))).and_then(|(word, value)| {
        if let Some(effect) = odd_value(name, word.text) {
            words.note(word, || effect.to_owned());
        }
        // Most limits end the session, which the sender should not take for a refusal of its mail.
        let refusal = if words.is_at_end() { None } else { Some(value::refusal(words, 421)?) };
        Ok(LimitLine { value, refusal })
    }))
}

/// What comes of a value that the original took and hardly anybody means.
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
