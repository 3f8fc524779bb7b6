//! One line of a peer into one [`Command`] (RFC 5321, 4.1.1).

use super::LineEnding;
use crate::address::{AddressError, Mailbox, ReversePath, bracketed, is_domain};

/// What a peer asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'l> {
    /// `HELO name`
    Helo(&'l str),
    /// `EHLO name`
    Ehlo(&'l str),
    /// `MAIL FROM:<path> parameters`
    Mail(ReversePath, MailParameters),
    /// `RCPT TO:<path>`
    Rcpt(Mailbox),
    /// `DATA`
    Data,
    /// `RSET`
    Rset,
    /// `NOOP anything`
    Noop,
    /// `VRFY something`
    Vrfy,
    /// `HELP`
    Help,
    /// `QUIT`
    Quit,
    /// EXPN, SEND, SOML, SAML, TURN: known, and not done here.
    NotImplemented,
    /// Not a command.
    Unknown,
}

/// The parameters of MAIL that were announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// `SIZE=`: how many octets the message will have (RFC 1870). More digits than fit count as the largest number.
    pub size: Option<u64>,
    /// `BODY=` was given (RFC 6152); both its values are taken, bytes are bytes.
    pub body: bool,
}

/// Why a line with a known command is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxError {
    /// A control character or a bare CR, LF or NUL in the line.
    ControlCharacter,
    /// Bytes that are no text, or beyond ASCII where that is not admitted.
    NotText,
    /// The line is longer than the command may be.
    LineTooLong,
    /// HELO or EHLO without a name, or with something that is none.
    HelloName,
    /// An argument where none belongs.
    UnexpectedArgument,
    /// VRFY without one.
    MissingArgument,
    /// MAIL without `FROM:<...>`.
    Sender,
    /// The address of MAIL is none.
    SenderAddress(AddressError),
    /// RCPT without `TO:<...>`.
    Recipient,
    /// The address of RCPT is none.
    RecipientAddress(AddressError),
    /// A known parameter with a bad value, or twice.
    ParameterValue,
    /// A parameter that was not announced.
    UnknownParameter,
}

/// How a line is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Dialect<'c> {
    /// On an LF connection angle brackets may be left out.
    pub line_ending: LineEnding,
    /// Whether bytes beyond ASCII are refused.
    pub ascii: bool,
    /// The domain of recipients that have none.
    pub own_domain: &'c str,
}

/// The part of a line that the log may have: what follows AUTH may be a password, asked for or not.
pub fn without_credentials(line: &[u8]) -> &[u8] {
    match line.get(..4) {
        Some(verb) if verb.eq_ignore_ascii_case(b"AUTH") => verb,
        _ => line,
    }
}

/// Parses a line, its end taken off.
pub fn parse<'l>(line: &'l [u8], dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    // On ASCII lines this order tells binary junk (500) from a slip of the pen.
    if dialect.ascii && !line.is_ascii() {
        return Err(SyntaxError::NotText);
    }
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(SyntaxError::ControlCharacter);
    }
    let length = line.len();
    let line = std::str::from_utf8(line).map_err(|_| SyntaxError::NotText)?.trim_ascii_end();
    let (verb, argument) = match line.find([' ', '\t']) {
        Some(at) => (&line[..at], line[at..].trim_ascii_start()),
        None => (line, ""),
    };
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    let line_end = match dialect.line_ending {
        LineEnding::Crlf => 2,
        LineEnding::Lf => 1,
    };
    if length + line_end > MAX_COMMAND_LINE && !is("MAIL") {
        return Err(SyntaxError::LineTooLong);
    }
    match VERBS.iter().find(|verb| is(verb.name)) {
        Some(verb) => (verb.read)(argument, dialect),
        None if NOT_IMPLEMENTED.into_iter().any(is) => Ok(Command::NotImplemented),
        None => Ok(Command::Unknown),
    }
}

/// Whether a line, sound or not, is meant as this command.
pub(super) fn is_meant_as(line: &[u8], verb: &str) -> bool {
    let (word, rest) = line.split_at(line.len().min(verb.len()));
    word.eq_ignore_ascii_case(verb.as_bytes()) && rest.first().is_none_or(u8::is_ascii_whitespace)
}

/// A verb that is carried out.
pub(super) struct Verb {
    name: &'static str,
    /// What HELP says of it.
    pub(super) form: &'static str,
    /// Reads what follows it.
    read: for<'l> fn(&'l str, Dialect<'_>) -> Result<Command<'l>, SyntaxError>,
}

/// Every verb, in the order in which HELP shows them.
pub(super) const VERBS: [Verb; 10] = [
    Verb { name: "HELO", form: "HELO name", read: |name, _| hello_name(name).map(Command::Helo) },
    Verb { name: "EHLO", form: "EHLO name", read: |name, _| hello_name(name).map(Command::Ehlo) },
    Verb { name: "MAIL", form: "MAIL FROM:<address>", read: mail },
    Verb { name: "RCPT", form: "RCPT TO:<address>", read: rcpt },
    Verb { name: "DATA", form: "DATA", read: |rest, _| without_argument(rest, Command::Data) },
    Verb { name: "RSET", form: "RSET", read: |rest, _| without_argument(rest, Command::Rset) },
    Verb { name: "NOOP", form: "NOOP", read: |_, _| Ok(Command::Noop) },
    Verb { name: "VRFY", form: "VRFY", read: |address, _| with_argument(address, Command::Vrfy) },
    Verb { name: "HELP", form: "HELP", read: |_, _| Ok(Command::Help) },
    Verb { name: "QUIT", form: "QUIT", read: |rest, _| without_argument(rest, Command::Quit) },
];

/// Verbs that are known and not carried out here.
pub(super) const NOT_IMPLEMENTED: [&str; 5] = ["EXPN", "SEND", "SOML", "SAML", "TURN"];

fn without_argument<'l>(rest: &str, command: Command<'l>) -> Result<Command<'l>, SyntaxError> {
    if rest.is_empty() { Ok(command) } else { Err(SyntaxError::UnexpectedArgument) }
}

fn with_argument<'l>(argument: &str, command: Command<'l>) -> Result<Command<'l>, SyntaxError> {
    if argument.is_empty() { Err(SyntaxError::MissingArgument) } else { Ok(command) }
}

/// The name a peer gives itself: a host name or an address literal. It proves nothing, so only its characters matter:
/// none that could mean something in a header.
fn hello_name(argument: &str) -> Result<&str, SyntaxError> {
    let sound = !argument.is_empty()
        && argument.len() <= MAX_HELLO_NAME
        && !argument.starts_with('-')
        && match argument.strip_prefix('[') {
            Some(_) => is_domain(argument),
            None => argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)),
        };
    if sound { Ok(argument) } else { Err(SyntaxError::HelloName) }
}

fn mail<'l>(argument: &str, dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    let rest = keyword(argument, "FROM").ok_or(SyntaxError::Sender)?;
    let (path, rest) = path(rest, dialect).map_err(SyntaxError::SenderAddress)?;
    let sender = match path {
        "" => ReversePath::Null,
        // A sender without a domain is taken from a person at a keyboard only.
        path if dialect.line_ending == LineEnding::Lf => Mailbox::parse_or_qualify(path, dialect.own_domain)
            .map(ReversePath::Mailbox)
            .map_err(SyntaxError::SenderAddress)?,
        path => Mailbox::parse(path).map(ReversePath::Mailbox).map_err(SyntaxError::SenderAddress)?,
    };
    Ok(Command::Mail(sender, mail_parameters(rest)?))
}

fn mail_parameters(text: &str) -> Result<MailParameters, SyntaxError> {
    let mut parameters = MailParameters::default();
    for parameter in text.split_ascii_whitespace() {
        let (name, value) = parameter.split_once('=').map_or((parameter, None), |(name, value)| (name, Some(value)));
        if name.eq_ignore_ascii_case("SIZE") {
            let digits = value.unwrap_or_default();
            let sound =
                (1..=MAX_SIZE_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !sound || parameters.size.is_some() {
                return Err(SyntaxError::ParameterValue);
            }
            parameters.size = Some(digits.parse().unwrap_or(u64::MAX));
        } else if name.eq_ignore_ascii_case("BODY") {
            let known = |value: &str| ["7BIT", "8BITMIME"].iter().any(|known| value.eq_ignore_ascii_case(known));
            if parameters.body || !value.is_some_and(known) {
                return Err(SyntaxError::ParameterValue);
            }
            parameters.body = true;
        } else {
            return Err(SyntaxError::UnknownParameter);
        }
    }
    Ok(parameters)
}

fn rcpt<'l>(argument: &str, dialect: Dialect<'_>) -> Result<Command<'l>, SyntaxError> {
    let rest = keyword(argument, "TO").ok_or(SyntaxError::Recipient)?;
    let (path, rest) = path(rest, dialect).map_err(SyntaxError::RecipientAddress)?;
    if !rest.trim_ascii().is_empty() {
        return Err(SyntaxError::UnknownParameter);
    }
    Mailbox::parse_or_qualify(path, dialect.own_domain).map(Command::Rcpt).map_err(SyntaxError::RecipientAddress)
}

/// What follows `FROM:` or `TO:`; a blank before or after the colon does not matter.
fn keyword<'a>(argument: &'a str, keyword: &str) -> Option<&'a str> {
    let (name, rest) = argument.split_once(':')?;
    name.trim_ascii_end().eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// The content of the angle brackets, and the parameters. People may leave the brackets out.
fn path<'a>(text: &'a str, dialect: Dialect<'_>) -> Result<(&'a str, &'a str), AddressError> {
    if dialect.line_ending == LineEnding::Lf && !text.starts_with('<') && !text.is_empty() {
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        return Ok((&text[..end], &text[end..]));
    }
    let (path, rest) = bracketed(text)?;
    let separated = rest.is_empty() || rest.starts_with([' ', '\t']);
    if separated { Ok((path, rest)) } else { Err(AddressError::Syntax) }
}

/// A command line, its end included (RFC 5321, 4.5.3.1.4).
pub const MAX_COMMAND_LINE: usize = 512;
/// How much longer a MAIL command may be: 26 octets for SIZE (RFC 1870, section 3), 17 for BODY (RFC 6152, section 2).
pub const MAX_MAIL_PARAMETERS: usize = 26 + 17;
/// RFC 1870, section 3: up to 20 digits.
const MAX_SIZE_DIGITS: usize = 20;
/// A domain has at most 255 octets (RFC 5321, 4.5.3.1.2).
const MAX_HELLO_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    const CRLF: Dialect<'static> = Dialect { line_ending: LineEnding::Crlf, ascii: true, own_domain: "own.example" };
    const LF: Dialect<'static> = Dialect { line_ending: LineEnding::Lf, ..CRLF };

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    #[test]
    fn verbs() {
        for (line, command) in [
            ("eHlO client.example", Command::Ehlo("client.example")),
            ("HELO [IPv6:2001:db8::1]", Command::Helo("[IPv6:2001:db8::1]")),
            ("DATA  ", Command::Data),
            ("NOOP what\tever", Command::Noop),
            ("TURN", Command::NotImplemented),
            ("", Command::Unknown),
            (" NOOP", Command::Unknown),
            ("BDAT 86 LAST", Command::Unknown),
        ] {
            assert_eq!(parse(line.as_bytes(), CRLF), Ok(command), "{line}");
        }
        for (line, error) in [
            (&b"HELO"[..], SyntaxError::HelloName),
            (b"HELO a b", SyntaxError::HelloName),
            (b"HELO a(b)", SyntaxError::HelloName),
            (b"EHLO [1.2.3]", SyntaxError::HelloName),
            (b"QUIT now", SyntaxError::UnexpectedArgument),
            (b"VRFY", SyntaxError::MissingArgument),
            (b"NOOP \x1b[2J", SyntaxError::ControlCharacter),
            (b"NO\rOP", SyntaxError::ControlCharacter),
            (b"NOOP \0", SyntaxError::ControlCharacter),
            (b"NOOP \xff", SyntaxError::NotText),
            (b"MAIL", SyntaxError::Sender),
            (b"MAIL TO:<a@b>", SyntaxError::Sender),
            (b"MAIL FROM:", SyntaxError::SenderAddress(AddressError::Syntax)),
            (b"MAIL FROM:a@b", SyntaxError::SenderAddress(AddressError::Syntax)),
            (b"MAIL FROM:<a>", SyntaxError::SenderAddress(AddressError::Syntax)),
            (b"RCPT TO:<>", SyntaxError::RecipientAddress(AddressError::Syntax)),
            (b"RCPT TO:<a@b> NOTIFY=NEVER", SyntaxError::UnknownParameter),
        ] {
            assert_eq!(parse(line, CRLF), Err(error), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn paths() {
        for (line, recipient) in [
            ("RCPT TO:<postmaster>", "postmaster@own.example"),
            ("rcpt to: <a@b>", "a@b"),
            ("RCPT TO:<@x,@y:a@b>", "a@b"),
            ("RCPT TO:<\"a>b\"@c>", "\"a>b\"@c"),
        ] {
            assert_eq!(parse(line.as_bytes(), CRLF), Ok(Command::Rcpt(mailbox(recipient))), "{line}");
        }
        assert_eq!(parse(b"rcpt to: fred", LF), Ok(Command::Rcpt(mailbox("fred@own.example"))));
        assert_eq!(
            parse(b"mail from: a@b SIZE=3", LF),
            Ok(Command::Mail(ReversePath::Mailbox(mailbox("a@b")), MailParameters { size: Some(3), body: false }))
        );
        assert_eq!(parse(b"MAIL FROM:<>", CRLF), Ok(Command::Mail(ReversePath::Null, MailParameters::default())));
    }

    #[test]
    fn parameters() {
        let parameters = |text: &str| mail_parameters(text);
        assert_eq!(parameters(" size=18446744073709551616 BODY=8bitmime").unwrap().size, Some(u64::MAX));
        for text in
            ["SIZE", "SIZE=", "SIZE=-1", "SIZE=+1", "SIZE=1e3", "SIZE=0x10", "SIZE=1 SIZE=2", "BODY", "BODY=", "BODY=X"]
        {
            assert_eq!(parameters(text), Err(SyntaxError::ParameterValue), "{text}");
        }
        for text in ["FOO=BAR", "=x", "A==b", "SMTPUTF8", "AUTH=<>"] {
            assert_eq!(parameters(text), Err(SyntaxError::UnknownParameter), "{text}");
        }
    }

    #[test]
    fn line_lengths() {
        let noop = |length: usize| format!("NOOP {}", "x".repeat(length - 2 - 5));
        assert_eq!(parse(noop(512).as_bytes(), CRLF), Ok(Command::Noop));
        assert_eq!(parse(noop(513).as_bytes(), CRLF), Err(SyntaxError::LineTooLong));
        let blanks = format!("NOOP{}", " ".repeat(513 - 2 - 4));
        assert_eq!(parse(blanks.as_bytes(), CRLF), Err(SyntaxError::LineTooLong));
    }
}
