//! Command lines and the addresses in them.
//!
//! An input is a digit, which chooses how lines are read, and a line without its end.

use mailrecv::address::{Mailbox, ReversePath};
use mailrecv::config::Protocol;
use mailrecv::smtp::command::{self, Command, Dialect, MailParameters, RcptParameters, SyntaxError};

/// Parses the line, and what must be the same line to the program.
pub fn check(input: &[u8]) {
    let Some((choice, line)) = input.split_first() else { return };
    let protocol = if choice / 4 % 2 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let dialect = Dialect { protocol, ascii: choice / 2 % 2 == 0, own_domain: OWN_DOMAIN };
    check_line(line, dialect);
    if let Ok(text) = std::str::from_utf8(line) {
        check_address(text);
    }
}

fn check_line(line: &[u8], dialect: Dialect<'_>) {
    let parsed = command::parse(line, dialect);
    check_syntax(line, dialect, &parsed);
    assert_eq!(command::parse(&with_other_case(line), dialect).is_ok(), parsed.is_ok(), "letter case of the verb");
    for surplus in [&b" "[..], b"\r", b"\t\r\r"] {
        assert_eq!(
            command::parse(&[line, surplus].concat(), dialect),
            parsed,
            "{:?} at the end",
            surplus.escape_ascii()
        );
    }
    match parsed {
        Ok(Command::Helo(name) | Command::Ehlo(name)) if dialect.protocol == Protocol::Smtp => check_hello_name(&name),
        Ok(Command::Lhlo(name)) if dialect.protocol == Protocol::Lmtp => check_hello_name(&name),
        Ok(Command::Helo(_) | Command::Ehlo(_) | Command::Lhlo(_)) => panic!("the other protocol's hello"),
        Ok(Command::Mail(ReversePath::Mailbox(sender), parameters)) => {
            check_mailbox(&sender);
            check_same(
                &format!("MAIL FROM:<{sender}>{}", written(parameters)),
                dialect,
                &Ok(Command::Mail(ReversePath::Mailbox(sender), parameters)),
            );
        }
        Ok(Command::Mail(ReversePath::Null, parameters)) => {
            let expected = Ok(Command::Mail(ReversePath::Null, parameters));
            check_same(&format!("mail from:<>{}", written(parameters)), dialect, &expected);
        }
        Ok(Command::Rcpt(recipient, parameters)) => {
            check_mailbox(&recipient);
            let original = parameters.original.as_deref().unwrap_or_default();
            assert!(original.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{original:?}");
            let without = RcptParameters::default();
            check_same(&format!("rcpt to:<{recipient}>"), dialect, &Ok(Command::Rcpt(recipient, without)));
        }
        _ => {}
    }
}

/// What lines of certain kinds can be at all.
fn check_syntax(line: &[u8], dialect: Dialect<'_>, parsed: &Result<Command<'_>, SyntaxError>) {
    let line = line.trim_ascii_end();
    let is_hello = matches!(parsed, Ok(Command::Helo(_) | Command::Ehlo(_) | Command::Lhlo(_) | Command::OtherHello));
    if dialect.ascii && !line.is_ascii() && !is_hello {
        assert!(matches!(parsed, Err(SyntaxError::NotText | SyntaxError::ControlCharacter)), "{parsed:?}");
    } else if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        assert_eq!(*parsed, Err(SyntaxError::ControlCharacter));
    }
}

/// The line with the letters of its first four bytes in the other case.
fn with_other_case(line: &[u8]) -> Vec<u8> {
    let mut line = line.to_vec();
    let other_case = |byte: &mut u8| *byte ^= if byte.is_ascii_alphabetic() { 0x20 } else { 0 };
    line.iter_mut().take(4).for_each(other_case);
    line
}

/// A name goes into a header as it is.
fn check_hello_name(name: &str) {
    assert!((1..=255).contains(&name.len()) && !name.starts_with('-'), "{name:?}");
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:?[]".contains(&byte);
    assert!(name.bytes().all(is_part), "{name:?}");
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    assert!(!inside.contains(['[', ']']), "{name:?}");
}

/// An address and its written form are one.
fn check_mailbox(mailbox: &Mailbox) {
    let (local_part, domain) = (mailbox.local_part(), mailbox.domain());
    assert!(!local_part.is_empty() && (1..=255).contains(&domain.len()), "{mailbox:?}");
    assert!(!local_part.contains(char::is_control) && !domain.contains(char::is_control), "{mailbox:?}");
    assert!(!domain.contains(['<', '>', '@', ' ', '"', '(', ';', '\\']) && !domain.ends_with('.'), "{mailbox:?}");
    assert_eq!(mailbox.bare(), format!("{local_part}@{domain}"));
    assert!(mailbox.is_same(mailbox));
    assert_eq!(Mailbox::parse(&mailbox.to_string()).as_ref(), Ok(mailbox));
}

fn check_address(text: &str) {
    let parsed = Mailbox::parse(text);
    assert!(parsed.is_err() || Mailbox::parse_or_qualify(text, OWN_DOMAIN) == parsed);
    if let Ok(mailbox) = &parsed {
        check_mailbox(mailbox);
    }
}

/// A line that says the same again is the same command.
fn check_same(line: &str, dialect: Dialect<'_>, expected: &Result<Command<'_>, SyntaxError>) {
    assert_eq!(command::parse(line.as_bytes(), dialect), *expected, "{line:?}");
}

fn written(parameters: MailParameters) -> String {
    let MailParameters { size, body, utf8, unoffered } = parameters;
    let size = size.map(|size| format!(" size={size}")).unwrap_or_default();
    size + if body { " body=8bitmime" } else { "" }
        + if utf8 { " smtputf8" } else { "" }
        + if unoffered { " auth=<>" } else { "" }
}

const OWN_DOMAIN: &str = "mx.example";
