//! One line of a peer into one [`Command`] (RFC 5321, 4.1.1).

mod parameters;

use std::borrow::Cow;

pub use parameters::{MailParameters, RcptParameters};

use crate::address::{self, AddressError, Mailbox, ReversePath};
use crate::config::Protocol;

/// What a peer asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'l> {
    /// `HELO name`; the name as it may be shown.
    Helo(Cow<'l, str>),
    /// `EHLO name`; likewise.
    Ehlo(Cow<'l, str>),
    /// `LHLO name`, which is LMTP's (RFC 2033, 4.1); likewise.
    Lhlo(Cow<'l, str>),
    /// HELO or EHLO in LMTP, or LHLO in SMTP, with any name.
    OtherHello,
    /// `MAIL FROM:<path> parameters`
    Mail(ReversePath, MailParameters),
    /// `RCPT TO:<path> parameters`
    Rcpt(Mailbox, RcptParameters),
    /// `DATA`
    Data,
    /// `BDAT octets` or `BDAT octets LAST` (RFC 3030, 2): how many octets follow, and whether this chunk is the last.
    Bdat(u64, bool),
    /// `RSET`
    Rset,
    /// `NOOP anything`
    Noop,
    /// `VRFY something`
    Vrfy,
    /// `STARTTLS` (RFC 3207)
    StartTls,
    /// `AUTH mechanism initial-response` (RFC 4954, section 4), and what follows the verb.
    Auth(&'l str),
    /// `HELP`
    Help,
    /// `QUIT`
    Quit,
    /// EXPN, SEND, SOML, SAML, TURN: known, but not carried out.
    NotImplemented,
    /// Not a command.
    Unknown,
}

impl Command<'_> {
    /// Whether the command is carried out and neither its line nor the next one can be a secret.
    pub fn is_known(&self) -> bool {
        !matches!(self, Command::Auth(_) | Command::NotImplemented | Command::Unknown)
    }

    /// Whether it has an argument that can be anything.
    pub fn has_free_text(&self) -> bool {
        matches!(self, Command::Noop | Command::Vrfy | Command::Help | Command::Quit)
    }

    /// Whether it has parameters that were not offered.
    pub fn has_unoffered(&self) -> bool {
        match self {
            Command::Mail(_, parameters) => parameters.unoffered,
            Command::Rcpt(_, parameters) => parameters.unoffered,
            _ => false,
        }
    }
}

/// Why a line with a known command is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxError {
    /// A control character or a bare CR, LF or NUL in the line.
    ControlCharacter,
    /// Bytes that are not UTF-8, or bytes beyond ASCII where only ASCII is admitted.
    NotText,
    /// HELO, EHLO or LHLO without a name.
    HelloName,
    /// An argument where none belongs.
    UnexpectedArgument,
    /// VRFY without an argument.
    MissingArgument,
    /// BDAT without a readable number, or with something other than LAST behind it.
    Chunk,
    /// MAIL without `FROM:<...>`.
    Sender,
    /// The address of MAIL cannot be parsed.
    SenderAddress(AddressError),
    /// RCPT without `TO:<...>`.
    Recipient,
    /// The address of RCPT cannot be parsed.
    RecipientAddress(AddressError),
    /// A known parameter with a bad value.
    ParameterValue,
    /// A parameter that is not offered, and not one of the unoffered ones that are accepted either.
    UnknownParameter,
}

/// How a line is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Dialect<'c> {
    /// Which verbs there are.
    pub protocol: Protocol,
    /// Whether bytes beyond ASCII are refused, and SMTPUTF8 is not offered.
    pub ascii: bool,
    /// The domain that is added to addresses without one.
    pub own_domain: &'c str,
}

/// Parses a line without its end. Trailing blanks and CRs, which some programs send, are ignored.
pub fn parse<'l>(line: &'l [u8], dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    let line = &line[..line.iter().rposition(|byte| !b" \t\r".contains(byte)).map_or(0, |last| last + 1)];
    let (verb, argument) = line.split_at(line.iter().position(|byte| b" \t".contains(byte)).unwrap_or(line.len()));
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    // The name that a peer gives itself proves nothing, so it may be in any encoding.
    let is_hello = HELLOS.into_iter().any(is);
    // On ASCII lines the order of these checks tells binary junk (500) from a typing error.
    if dialect.ascii && !is_hello && !line.is_ascii() {
        return Err(SyntaxError::NotText);
    }
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(SyntaxError::ControlCharacter);
    }
    if !is_hello && std::str::from_utf8(line).is_err() {
        return Err(SyntaxError::NotText);
    }
    match VERBS.iter().find(|verb| is(verb.name)) {
        Some(verb) if verb.is_of(dialect.protocol) => (verb.read)(argument.trim_ascii_start(), dialect),
        Some(verb) if HELLOS.contains(&verb.name) => Ok(Command::OtherHello),
        Some(_) => Ok(Command::NotImplemented),
        None if NOT_IMPLEMENTED.into_iter().any(is) => Ok(Command::NotImplemented),
        None => Ok(Command::Unknown),
    }
}

/// A line without the blanks in front of it, if it is a command then: somebody may have pasted an example. Only blanks
/// are skipped, never a CR: where other servers take a CR for a line end, the rest of the line would be another command
/// to them.
pub(super) fn pasted(line: &[u8]) -> &[u8] {
    let bare = &line[line.iter().take_while(|octet| b" \t".contains(octet)).count()..];
    if VERBS.iter().any(|verb| is_meant_as(bare, verb.name)) { bare } else { line }
}

/// Whether a line, even a malformed one, begins with a verb that exists.
pub(super) fn has_verb(line: &[u8]) -> bool {
    VERBS.iter().map(|verb| verb.name).chain(NOT_IMPLEMENTED).any(|verb| is_meant_as(line, verb))
}

/// Whether a line that has no verb begins as a field of a header does, with a name (RFC 5322, 3.6.8) and a colon, and maybe
/// blanks between them (RFC 5322, 4.5).
pub(super) fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let Some(last) = line[..colon].iter().rposition(|byte| !b" \t".contains(byte)) else { return false };
    line[..=last].iter().all(u8::is_ascii_graphic) && !has_verb(line)
}

/// The verb of a line, which is everything before its argument.
pub(super) fn verb(line: &[u8]) -> &[u8] {
    line.split(u8::is_ascii_whitespace).next().unwrap_or_default()
}

/// Whether a line, even a malformed one, begins with this verb.
pub(super) fn is_meant_as(line: &[u8], verb: &str) -> bool {
    let (word, rest) = line.split_at(line.len().min(verb.len()));
    word.eq_ignore_ascii_case(verb.as_bytes()) && rest.first().is_none_or(u8::is_ascii_whitespace)
}

/// A verb that is carried out, and how.
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// What HELP says of it.
    pub(super) form: &'static str,
    /// Reads what follows it.
    read: for<'l> fn(&'l [u8], Dialect<'_>) -> Result<Command<'l>, SyntaxError>,
}

impl Verb {
    /// Whether this protocol has it: the three verbs of a hello tell SMTP and LMTP apart (RFC 2033, 4.1). LMTP has no
    /// chunks here: it is not defined how many answers a refused chunk gets, and a side that guesses wrong takes the
    /// answer to the next command for one about a recipient.
    pub(super) fn is_of(&self, protocol: Protocol) -> bool {
        match self.name {
            "HELO" | "EHLO" | "BDAT" => protocol == Protocol::Smtp,
            "LHLO" => protocol == Protocol::Lmtp,
            _ => true,
        }
    }
}

/// The verbs by which a peer introduces itself.
const HELLOS: [&str; 3] = ["HELO", "EHLO", "LHLO"];

/// Every verb, in the order in which HELP shows them.
pub(super) const VERBS: [Verb; 14] = [
    Verb { name: "HELO", form: "HELO name", read: |name, _| hello_name(name).map(Command::Helo) },
    Verb { name: "EHLO", form: "EHLO name", read: |name, _| hello_name(name).map(Command::Ehlo) },
    Verb { name: "LHLO", form: "LHLO name", read: |name, _| hello_name(name).map(Command::Lhlo) },
    Verb { name: "MAIL", form: "MAIL FROM:<address>", read: mail },
    Verb { name: "RCPT", form: "RCPT TO:<address>", read: rcpt },
    Verb { name: "DATA", form: "DATA", read: |rest, _| without_argument(rest, Command::Data) },
    Verb { name: "BDAT", form: "BDAT octets LAST", read: |argument, _| bdat(argument) },
    Verb { name: "RSET", form: "RSET", read: |rest, _| without_argument(rest, Command::Rset) },
    Verb { name: "NOOP", form: "NOOP", read: |_, _| Ok(Command::Noop) },
    Verb { name: "VRFY", form: "VRFY", read: |address, _| with_argument(address, Command::Vrfy) },
    Verb { name: "STARTTLS", form: "STARTTLS", read: |rest, _| without_argument(rest, Command::StartTls) },
    Verb { name: "AUTH", form: "AUTH mechanism", read: |argument, _| text(argument).map(Command::Auth) },
    Verb { name: "HELP", form: "HELP", read: |_, _| Ok(Command::Help) },
    Verb { name: "QUIT", form: "QUIT", read: |_, _| Ok(Command::Quit) },
];

/// Verbs that are known and not carried out here.
pub(super) const NOT_IMPLEMENTED: [&str; 5] = ["EXPN", "SEND", "SOML", "SAML", "TURN"];

fn text(argument: &[u8]) -> Result<&str, SyntaxError> {
    std::str::from_utf8(argument).map_err(|_| SyntaxError::NotText)
}

fn without_argument<'l>(rest: &[u8], command: Command<'l>) -> Result<Command<'l>, SyntaxError> {
    if rest.is_empty() { Ok(command) } else { Err(SyntaxError::UnexpectedArgument) }
}

fn with_argument<'l>(argument: &[u8], command: Command<'l>) -> Result<Command<'l>, SyntaxError> {
    if argument.is_empty() { Err(SyntaxError::MissingArgument) } else { Ok(command) }
}

/// The name that a peer gives itself, a host name, an address literal or anything else, in a form that can stand in a
/// header and in the environment of a command. It proves nothing, so every name is accepted, and each character that
/// cannot be part of a name becomes `?`, as with Postfix.
fn hello_name(argument: &[u8]) -> Result<Cow<'_, str>, SyntaxError> {
    if argument.is_empty() {
        return Err(SyntaxError::HelloName);
    }
    let shown = &argument[..argument.len().min(MAX_HELLO_NAME)];
    let is_literal = matches!(shown, [b'[', _, .., b']']);
    let is_part = |(at, byte): (usize, u8)| match byte {
        b'[' | b']' => is_literal && (at == 0 || at == shown.len() - 1),
        // Not in front: the name may become an argument of a command, where a hyphen would begin an option.
        b'-' => at > 0,
        byte => byte.is_ascii_alphanumeric() || b"._:".contains(&byte),
    };
    let bytes = || shown.iter().copied().enumerate();
    Ok(match std::str::from_utf8(shown) {
        Ok(name) if bytes().all(is_part) => Cow::Borrowed(name),
        _ => Cow::Owned(bytes().map(|(at, byte)| if is_part((at, byte)) { char::from(byte) } else { '?' }).collect()),
    })
}

fn mail<'l>(argument: &'l [u8], dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    let rest = keyword(argument, "FROM")?.ok_or(SyntaxError::Sender)?;
    let (path, rest) = address::path(rest).map_err(SyntaxError::SenderAddress)?;
    let sender = match path {
        "" => ReversePath::Null,
        path => Mailbox::parse_or_qualify(path, dialect.own_domain)
            .map(ReversePath::Mailbox)
            .map_err(SyntaxError::SenderAddress)?,
    };
    Ok(Command::Mail(sender, MailParameters::parse(rest, dialect)?))
}

fn rcpt<'l>(argument: &'l [u8], dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    let rest = keyword(argument, "TO")?.ok_or(SyntaxError::Recipient)?;
    let (path, rest) = address::path(rest).map_err(SyntaxError::RecipientAddress)?;
    // An unknown parameter is refused first, whoever the recipient is.
    let parameters = RcptParameters::parse(rest)?;
    let mailbox = Mailbox::parse_or_qualify(path, dialect.own_domain).map_err(SyntaxError::RecipientAddress)?;
    Ok(Command::Rcpt(mailbox, parameters))
}

/// Reads `octets` or `octets LAST`. Leading zeros are accepted, more than [`MAX_SIZE_DIGITS`] digits are not.
fn bdat<'l>(argument: &[u8]) -> Result<Command<'l>, SyntaxError> {
    let mut words = argument.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let digits = words.next().filter(|digits| digits.len() <= MAX_SIZE_DIGITS && digits.iter().all(u8::is_ascii_digit));
    let octets = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).ok_or(SyntaxError::Chunk)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(Command::Bdat(octets, false)),
        (Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => Ok(Command::Bdat(octets, true)),
        _ => Err(SyntaxError::Chunk),
    }
}

/// What follows `FROM:` or `TO:`, or `None` if the keyword is missing; blanks around the colon do not matter.
fn keyword<'a>(argument: &'a [u8], keyword: &str) -> Result<Option<&'a str>, SyntaxError> {
    Ok(text(argument)?
        .split_once(':')
        .and_then(|(name, rest)| name.trim_ascii_end().eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())))
}

/// The longest command line, its end included. RFC 5321 wants at least 512 octets (4.5.3.1.4) and more for parameters;
/// this is as much as Postfix takes (line_length_limit). Local parts have no other limit.
pub const MAX_COMMAND_LINE: usize = 2048;
/// RFC 1870, section 3: up to 20 digits.
const MAX_SIZE_DIGITS: usize = 20;
/// How much of a name is shown: a domain has at most 255 octets (RFC 5321, 4.5.3.1.2).
const MAX_HELLO_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect<'static> = Dialect { protocol: Protocol::Smtp, ascii: true, own_domain: "own.example" };

    fn parse(line: &[u8]) -> Result<Command<'_>, SyntaxError> {
        super::parse(line, DIALECT)
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn sender(text: &str) -> Command<'static> {
        Command::Mail(ReversePath::Mailbox(mailbox(text)), MailParameters::default())
    }

    fn recipient(text: &str) -> Command<'static> {
        Command::Rcpt(mailbox(text), RcptParameters::default())
    }

    #[test]
    fn fields() {
        for line in [
            "Subject: x",
            "subject:",
            "X-Y_z: x",
            "Received :",
            "From\t : a@b.example",
            "EHLO: x",
            "Host:x",
            "{\"a\":1}",
        ] {
            assert!(is_field(line.as_bytes()), "{line:?}");
        }
        for line in ["", ":", " : x", "EHLO", "MAIL FROM:<a@b.example>", "RCPT TO:<a@b.example>", "rcpt :x", "expn a:b"]
        {
            assert!(!is_field(line.as_bytes()), "{line:?}");
        }
        for line in ["GET http://a.example/", " Subject: x", "Two words: x", "Sch\u{f6}n: x", "a\rb: x", "a\r: x"] {
            assert!(!is_field(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn verbs() {
        for (line, command) in [
            (&b"eHlO client.example"[..], Command::Ehlo("client.example".into())),
            (b"HELO [IPv6:2001:db8::1]", Command::Helo("[IPv6:2001:db8::1]".into())),
            (b"DATA  ", Command::Data),
            (b"DATA\t\r", Command::Data),
            (b"RSET\r", Command::Rset),
            (b"QUIT \r\r", Command::Quit),
            (b"QUIT now", Command::Quit),
            (b"NOOP what\tever", Command::Noop),
            (b"TURN", Command::NotImplemented),
            (b"", Command::Unknown),
            (b"\r", Command::Unknown),
            (b" NOOP", Command::Unknown),
            (b"BDAT 86 LAST", Command::Bdat(86, true)),
            (b"bdat\t0  last \r", Command::Bdat(0, true)),
            (b"BDAT 0086", Command::Bdat(86, false)),
            (b"BDAT 18446744073709551615", Command::Bdat(u64::MAX, false)),
            (b" BDAT 86 LAST", Command::Unknown),
            (b"BDATA 86 LAST", Command::Unknown),
        ] {
            assert_eq!(parse(line), Ok(command), "{}", line.escape_ascii());
        }
        for (line, error) in [
            (&b"HELO"[..], SyntaxError::HelloName),
            (b"HELO \t\r", SyntaxError::HelloName),
            (b"EHLO a\x1bb", SyntaxError::ControlCharacter),
            (b"EHLO a\rb", SyntaxError::ControlCharacter),
            (b"EHLO a\0", SyntaxError::ControlCharacter),
            (b"RSET now", SyntaxError::UnexpectedArgument),
            (b"DATA now", SyntaxError::UnexpectedArgument),
            (b"VRFY", SyntaxError::MissingArgument),
            (b"BDAT", SyntaxError::Chunk),
            (b"BDAT LAST", SyntaxError::Chunk),
            (b"BDAT 86LAST", SyntaxError::Chunk),
            (b"BDAT 86 FIRST", SyntaxError::Chunk),
            (b"BDAT 86 LAST LAST", SyntaxError::Chunk),
            (b"BDAT -1", SyntaxError::Chunk),
            (b"BDAT +1", SyntaxError::Chunk),
            (b"BDAT 0x10", SyntaxError::Chunk),
            (b"BDAT 1e3", SyntaxError::Chunk),
            (b"BDAT 1.5", SyntaxError::Chunk),
            (b"BDAT 18446744073709551616", SyntaxError::Chunk),
            (b"BDAT 000000000000000000001", SyntaxError::Chunk),
            (b"NOOP \x1b[2J", SyntaxError::ControlCharacter),
            (b"NO\rOP", SyntaxError::ControlCharacter),
            (b"\rNOOP", SyntaxError::ControlCharacter),
            (b"NOOP \0", SyntaxError::ControlCharacter),
            (b"NOOP \xff", SyntaxError::NotText),
            (b"MAIL", SyntaxError::Sender),
            (b"MAIL TO:<a@b>", SyntaxError::Sender),
            (b"MAIL FROM:", SyntaxError::SenderAddress(AddressError::Syntax)),
            (b"MAIL FROM:a b@c", SyntaxError::UnknownParameter),
            (b"RCPT TO:<>", SyntaxError::RecipientAddress(AddressError::Syntax)),
            (b"RCPT TO:< >", SyntaxError::RecipientAddress(AddressError::Syntax)),
            (b"RCPT TO:<a@b>,<c@d>", SyntaxError::RecipientAddress(AddressError::Syntax)),
            (b"RCPT TO:<a@b> FOO=BAR", SyntaxError::UnknownParameter),
        ] {
            assert_eq!(parse(line), Err(error), "{}", line.escape_ascii());
        }
        let not_ascii = Dialect { ascii: false, ..DIALECT };
        assert_eq!(super::parse(b"MAIL FROM:<\xff@b>", not_ascii), Err(SyntaxError::NotText));
    }

    #[test]
    fn each_protocol_has_its_own_hello() {
        let lmtp = Dialect { protocol: Protocol::Lmtp, ..DIALECT };
        for (dialect, line, command) in [
            (lmtp, &b"lhlo mta.example"[..], Ok(Command::Lhlo("mta.example".into()))),
            (lmtp, b"LHLO", Err(SyntaxError::HelloName)),
            (lmtp, b"EHLO mta.example", Ok(Command::OtherHello)),
            (lmtp, b"HELO", Ok(Command::OtherHello)),
            (DIALECT, b"LHLO mta.example", Ok(Command::OtherHello)),
            (DIALECT, b"LHLO", Ok(Command::OtherHello)),
        ] {
            assert_eq!(super::parse(line, dialect), command, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn whatever_a_peer_calls_itself_can_be_shown() {
        for (name, shown) in [
            (&b"under_score.example"[..], "under_score.example"),
            (b"[192.0.2.1]", "[192.0.2.1]"),
            (b"[::1]", "[::1]"),
            (b"[fe80::1%eth0]", "[fe80::1?eth0]"),
            (b"-host", "?host"),
            (b"(none)", "?none?"),
            (b"HP LaserJet 4345", "HP?LaserJet?4345"),
            (b"John's-PC", "John?s-PC"),
            ("m\u{fc}ller".as_bytes(), "m??ller"),
            (b"\xff\xfe", "??"),
            (b"a\tb", "a?b"),
            (b"[", "?"),
            (b"[]", "??"),
            (b"a[b]", "a?b?"),
            (b"<a>;\"b\"\\", "?a???b??"),
        ] {
            let line = [b"EHLO ", name].concat();
            assert_eq!(parse(&line), Ok(Command::Ehlo(shown.into())), "{}", name.escape_ascii());
        }
        let long = [b"HELO ".to_vec(), vec![b'x'; 1000]].concat();
        assert_eq!(parse(&long), Ok(Command::Helo("x".repeat(255).into())));
    }

    #[test]
    fn paths() {
        for (line, address) in [
            ("RCPT TO:<postmaster>", "postmaster@own.example"),
            ("rcpt to: <a@b>", "a@b"),
            ("RCPT TO:<@x,@y:a@b>", "a@b"),
            ("RCPT TO:<\"a>b\"@c>", "\"a>b\"@c"),
            ("RCPT TO: fred", "fred@own.example"),
            ("RCPT TO:a@b\r", "a@b"),
            ("RCPT TO:< a@b >", "a@b"),
            ("RCPT TO:<a@b.>", "a@b"),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(recipient(address)), "{line}");
        }
        for (line, address) in [
            ("MAIL FROM:a@b", "a@b"),
            ("MAIL FROM:<root>", "root@own.example"),
            ("MAIL FROM: MAILER-DAEMON", "MAILER-DAEMON@own.example"),
            ("MAIL FROM:<DOMAIN\\user@b.example>", "\"DOMAIN\\\\user\"@b.example"),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(sender(address)), "{line}");
        }
        for line in ["MAIL FROM:<>", "MAIL FROM:< >", "mail from: <\t>\r"] {
            assert_eq!(
                parse(line.as_bytes()),
                Ok(Command::Mail(ReversePath::Null, MailParameters::default())),
                "{line}"
            );
        }
    }
}
