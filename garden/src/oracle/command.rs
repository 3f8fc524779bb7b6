//! Commands according to the grammar (RFC 5321, 4.1.1; RFC 3030, 2; RFC 4954, 4; RFC 3207, 4; RFC 2033, 4.1).

use super::path::{self, prefix_without_case};
use super::{Extension, Reason};
use crate::case::Placeholder;

/// A command, and what is unusual about it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) command: Command,
    pub(super) odd: Vec<Reason>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Helo,
    Ehlo,
    Lhlo,
    /// The path as it was sent, without its brackets.
    Mail(Vec<u8>, Body),
    Rcpt(Vec<u8>),
    Data,
    Bdat {
        size: usize,
        is_last: bool,
    },
    Rset,
    Noop,
    /// VRFY, EXPN, HELP, which may be answered in various ways.
    Question,
    Quit,
    StartTls,
    Auth,
    /// Not a command of any standard that is known here.
    Unknown,
}

/// What a sender announced about its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    SevenBit,
    EightBit,
    Binary,
}

/// Parses a line without its end.
pub(super) fn parse(line: &[u8]) -> Parsed {
    let mut odd = Vec::new();
    if line.len() + 2 > LONGEST_COMMAND {
        odd.push(Reason::LongCommand);
    }
    if line.iter().any(|octet| !matches!(octet, b'\t' | b' '..=b'~')) {
        odd.push(Reason::CommandLine);
    }
    let text = String::from_utf8_lossy(line);
    // Trailing blanks should be tolerated (4.1.1).
    let text = text.trim_end_matches([' ', '\t']);
    let (verb, argument) = match text.find([' ', '\t']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    if text.as_bytes().get(verb.len()) == Some(&b'\t') {
        odd.push(Reason::Syntax);
    }
    let is_hello = ["HELO", "EHLO", "LHLO"].iter().any(|hello| verb.eq_ignore_ascii_case(hello));
    if is_hello && argument.is_some_and(|name| name.len() > LONGEST_DOMAIN) {
        odd.push(Reason::LongCommand);
    }
    let mut is = |well_formed: bool| {
        if !well_formed {
            odd.push(Reason::Syntax);
        }
    };
    let command = match verb.to_ascii_uppercase().as_str() {
        "HELO" => {
            is(argument.is_some_and(|name| path::is_domain(&filled(name))));
            Command::Helo
        }
        hello @ ("EHLO" | "LHLO") => {
            let is_name = |name: &str| path::is_domain(name) || path::is_address_literal(name);
            is(argument.is_some_and(|name| is_name(&filled(name))));
            if hello == "EHLO" { Command::Ehlo } else { Command::Lhlo }
        }
        "MAIL" => match path_and_parameters(argument.unwrap_or_default(), "FROM:", &mut odd) {
            Some((path, parameters)) => {
                reverse_path(path, &mut odd);
                let body = mail_parameters(parameters, &mut odd);
                Command::Mail(path.as_bytes().to_vec(), body)
            }
            None => Command::Unknown,
        },
        "RCPT" => match path_and_parameters(argument.unwrap_or_default(), "TO:", &mut odd) {
            Some((path, parameters)) => {
                let mailbox = forward_path(path, &mut odd).as_bytes().to_vec();
                rcpt_parameters(parameters, &mut odd);
                Command::Rcpt(mailbox)
            }
            None => Command::Unknown,
        },
        "DATA" => {
            is(argument.is_none());
            Command::Data
        }
        "BDAT" => match argument.map(bdat) {
            Some(Some((size, is_last))) => Command::Bdat { size, is_last },
            _ => Command::Unknown,
        },
        "RSET" => {
            is(argument.is_none());
            Command::Rset
        }
        "NOOP" => Command::Noop,
        "VRFY" | "EXPN" => {
            is(argument.is_some());
            Command::Question
        }
        "HELP" => Command::Question,
        "QUIT" => {
            is(argument.is_none());
            Command::Quit
        }
        "STARTTLS" => {
            is(argument.is_none());
            Command::StartTls
        }
        "AUTH" => {
            is(argument.is_some());
            Command::Auth
        }
        _ => Command::Unknown,
    };
    Parsed { command, odd }
}

/// The longest command with its end (4.5.3.1.4). Parameters of extensions raise this limit, which is not distinguished
/// here.
const LONGEST_COMMAND: usize = 512;
/// In octets (4.5.3.1.2).
const LONGEST_DOMAIN: usize = 255;

/// The path of `FROM:<PATH> PARAMETERS` without its brackets, and the parameters; `None` if there is no path.
fn path_and_parameters<'l>(argument: &'l str, word: &str, odd: &mut Vec<Reason>) -> Option<(&'l str, &'l str)> {
    let behind = prefix_without_case(argument, word)?;
    let trimmed = behind.trim_start_matches([' ', '\t']);
    if trimmed.len() != behind.len() {
        odd.push(Reason::Syntax);
    }
    let Some(inside) = trimmed.strip_prefix('<') else {
        odd.push(Reason::Syntax);
        return Some(trimmed.split_once(' ').unwrap_or((trimmed, "")));
    };
    let Some(end) = closing_bracket(inside) else {
        odd.push(Reason::Syntax);
        return Some((inside, ""));
    };
    let (path, parameters) = (&inside[..end], &inside[end + 1..]);
    match parameters.strip_prefix(' ') {
        Some(parameters) => Some((path, parameters)),
        None => {
            if !parameters.is_empty() {
                odd.push(Reason::Syntax);
            }
            Some((path, parameters))
        }
    }
}

/// The position of the first `>` outside a quoted string.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '>' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    text.find('>')
}

fn reverse_path(path: &str, odd: &mut Vec<Reason>) {
    let path = filled(path);
    if path.is_empty() {
        return;
    }
    match path::mailbox_of(&path) {
        Some(mailbox) => lengths(&path, mailbox, odd),
        None => odd.push(Reason::Syntax),
    }
}

/// The mailbox of a path; notes what the standard leaves open about it.
fn forward_path<'l>(path: &'l str, odd: &mut Vec<Reason>) -> &'l str {
    let sample = filled(path);
    // A source route is to be accepted and ignored (appendix C). Placeholders contain no colon.
    let mailbox = match path.starts_with('@') {
        true => path.split_once(':').map_or(path, |(_, mailbox)| mailbox),
        false => path,
    };
    if sample.eq_ignore_ascii_case("postmaster") {
        return mailbox;
    }
    match path::mailbox_of(&sample) {
        Some(found) => {
            lengths(&sample, found, odd);
            if !is_of_the_garden(found) {
                odd.push(Reason::Recipient);
            }
        }
        None => odd.push(Reason::Syntax),
    }
    mailbox
}

/// Whether this is one of the recipients that placeholders stand for, or the postmaster of one of their domains.
fn is_of_the_garden(mailbox: &str) -> bool {
    let Some((local, domain)) = path::split(mailbox) else { return false };
    let local = path::unquoted(local);
    let known = [Placeholder::Destination, Placeholder::SecondDestination].map(sample);
    let is_known = known
        .iter()
        .any(|known| path::split(known).is_some_and(|(user, host)| user == local && host.eq_ignore_ascii_case(domain)));
    is_known || (local.eq_ignore_ascii_case("postmaster") && domain.eq_ignore_ascii_case(&sample(Placeholder::Domain)))
}

/// Checks the lengths that a server has to accept (4.5.3.1.1 to 4.5.3.1.3).
fn lengths(path: &str, mailbox: &str, odd: &mut Vec<Reason>) {
    let (local, domain) = path::split(mailbox).unwrap_or_default();
    if local.len() > 64
        || domain.len() > LONGEST_DOMAIN
        || path.len() + 2 > 256
        || domain.split('.').any(|label| label.len() > 63)
    {
        odd.push(Reason::LongCommand);
    }
    if !path.is_ascii() {
        odd.push(Reason::Extension(Extension::SmtpUtf8));
    }
}

fn mail_parameters(parameters: &str, odd: &mut Vec<Reason>) -> Body {
    let mut body = Body::SevenBit;
    each_parameter(parameters, odd, |keyword, value| {
        let (extension, is_well_formed) = match keyword {
            "SIZE" => (Extension::Size, value.is_some_and(|size| is_number(size) && size.len() <= 20)),
            "BODY" => match value.unwrap_or_default().to_ascii_uppercase().as_str() {
                "7BIT" => (Extension::EightBitMime, true),
                "8BITMIME" => {
                    body = Body::EightBit;
                    (Extension::EightBitMime, true)
                }
                "BINARYMIME" => {
                    body = Body::Binary;
                    (Extension::BinaryMime, true)
                }
                _ => (Extension::EightBitMime, false),
            },
            "SMTPUTF8" => (Extension::SmtpUtf8, value.is_none()),
            "RET" | "ENVID" => (Extension::Dsn, value.is_some()),
            "AUTH" => (Extension::Auth, value.is_some()),
            _ => return None,
        };
        Some((extension, is_well_formed))
    });
    body
}

fn rcpt_parameters(parameters: &str, odd: &mut Vec<Reason>) {
    each_parameter(parameters, odd, |keyword, value| match keyword {
        "NOTIFY" | "ORCPT" => Some((Extension::Dsn, value.is_some())),
        _ => None,
    });
}

/// Notes the extension that each parameter needs, and parameters that are malformed or occur twice.
fn each_parameter<'p>(
    parameters: &'p str,
    odd: &mut Vec<Reason>,
    mut meaning: impl FnMut(&str, Option<&'p str>) -> Option<(Extension, bool)>,
) {
    let mut seen = Vec::new();
    for parameter in parameters.split(' ').filter(|_| !parameters.is_empty()) {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        };
        let keyword = keyword.to_ascii_uppercase();
        let is_keyword = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
            && keyword.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        let is_value = value.is_none_or(|value| {
            !value.is_empty() && value.bytes().all(|octet| matches!(octet, b'!'..=b'~' if octet != b'='))
        });
        if !is_keyword || !is_value || seen.contains(&keyword) {
            odd.push(Reason::Syntax);
        }
        match meaning(&keyword, value) {
            Some((extension, is_well_formed)) => {
                odd.push(Reason::Extension(extension));
                if !is_well_formed {
                    odd.push(Reason::Syntax);
                }
            }
            None => odd.push(Reason::Parameter),
        }
        seen.push(keyword);
    }
}

fn bdat(argument: &str) -> Option<(usize, bool)> {
    let (size, is_last) = match argument.split_once(' ') {
        Some((size, last)) => (size, last.eq_ignore_ascii_case("LAST").then_some(true)?),
        None => (argument, false),
    };
    is_number(size).then(|| size.parse().ok()).flatten().map(|size| (size, is_last))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

/// The text with plausible values in place of placeholders.
fn filled(text: &str) -> String {
    String::from_utf8_lossy(&Placeholder::fill(text.as_bytes(), sample)).into_owned()
}

fn sample(placeholder: Placeholder) -> String {
    match placeholder {
        Placeholder::Token => "t0t0t0t0t",
        Placeholder::Source => "sender@client.example",
        Placeholder::Destination => "recipient@server.example",
        Placeholder::SecondDestination => "other@server.example",
        Placeholder::Domain | Placeholder::Host => "server.example",
        Placeholder::User => "recipient",
    }
    .to_owned()
}
