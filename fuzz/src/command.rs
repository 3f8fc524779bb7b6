//! Command lines and the addresses in them.
//!
//! An input is a digit, which chooses how lines are read, and a line without its end.

use mailrecv::address::{AddressError, Mailbox, ReversePath};
use mailrecv::smtp::LineEnding;
use mailrecv::smtp::command::{
    self, Command, Dialect, MAX_COMMAND_LINE, MAX_MAIL_PARAMETERS, MailParameters, SyntaxError,
};

/// Parses the line, and what must be the same line to the program.
pub fn check(input: &[u8]) {
    let Some((choice, line)) = input.split_first() else { return };
    let line_ending = if choice % 2 == 0 { LineEnding::Crlf } else { LineEnding::Lf };
    let dialect = Dialect { line_ending, ascii: choice / 2 % 2 == 0, own_domain: OWN_DOMAIN };
    check_line(line, dialect);
    if let Ok(text) = std::str::from_utf8(line) {
        check_address(text);
    }
}

fn check_line(line: &[u8], dialect: Dialect<'_>) {
    let parsed = command::parse(line, dialect);
    check_syntax(line, dialect, &parsed);
    assert_eq!(command::parse(&with_other_case(line), dialect).is_ok(), parsed.is_ok(), "letter case of the verb");
    if line.len() < MAX_COMMAND_LINE - 2 {
        assert_eq!(command::parse(&[line, b" "].concat(), dialect), parsed, "a blank at the end");
    }
    match parsed {
        Ok(Command::Helo(name) | Command::Ehlo(name)) => check_hello_name(name),
        Ok(Command::Mail(ReversePath::Mailbox(sender), parameters)) => {
            check_mailbox(&sender);
            check_same(
                &format!("MAIL FROM:<{sender}>{}", written(parameters)),
                dialect,
                &parsed_mail(sender, parameters),
            );
        }
        Ok(Command::Mail(ReversePath::Null, parameters)) => {
            let expected = Ok(Command::Mail(ReversePath::Null, parameters));
            check_same(&format!("mail from:<>{}", written(parameters)), dialect, &expected);
        }
        Ok(Command::Rcpt(recipient)) => {
            check_mailbox(&recipient);
            check_same(&format!("rcpt to:<{recipient}>"), dialect, &Ok(Command::Rcpt(recipient)));
        }
        _ => {}
    }
}

/// What lines of certain kinds can be at all.
fn check_syntax(line: &[u8], dialect: Dialect<'_>, parsed: &Result<Command<'_>, SyntaxError>) {
    if dialect.ascii && !line.is_ascii() {
        assert_eq!(*parsed, Err(SyntaxError::NotText));
    } else if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        assert_eq!(*parsed, Err(SyntaxError::ControlCharacter));
    }
    if line.len() > MAX_COMMAND_LINE {
        assert!(parsed.is_err() || line[..4].eq_ignore_ascii_case(b"MAIL"), "a command that is too long was taken");
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
    assert!((1..=255).contains(&name.len()), "{name:?}");
    assert!(!name.contains(|c: char| c.is_whitespace() || c.is_control() || "()<>\"'\\;,@".contains(c)), "{name:?}");
}

/// An address and its written form are one.
fn check_mailbox(mailbox: &Mailbox) {
    let (local_part, domain) = (mailbox.local_part(), mailbox.domain());
    assert!((1..=64).contains(&local_part.len()) && (1..=255).contains(&domain.len()), "{mailbox:?}");
    assert!(!local_part.contains(char::is_control) && !domain.contains(char::is_control), "{mailbox:?}");
    assert!(!domain.contains(['<', '>', '@', ' ', '"', '(', ';']), "{mailbox:?}");
    assert_eq!(mailbox.bare(), format!("{local_part}@{domain}"));
    assert!(mailbox.is_same(mailbox));
    match Mailbox::parse(&mailbox.to_string()) {
        Ok(again) => assert_eq!(again, *mailbox),
        // Quotes that the peer left out, or the domain that it did, can make the address longer than one may be.
        Err(error) => assert_eq!(error, AddressError::TooLong, "{mailbox:?}"),
    }
}

fn check_address(text: &str) {
    let parsed = Mailbox::parse(text);
    assert!(parsed.is_err() || Mailbox::parse_or_qualify(text, OWN_DOMAIN) == parsed);
    if let Ok(mailbox) = &parsed {
        check_mailbox(mailbox);
    }
}

/// A line that says the same again is the same command, unless it is too long now.
fn check_same(line: &str, dialect: Dialect<'_>, expected: &Result<Command<'_>, SyntaxError>) {
    match command::parse(line.as_bytes(), dialect) {
        Err(SyntaxError::LineTooLong) => assert!(line.len() > MAX_COMMAND_LINE - 2),
        Err(
            SyntaxError::SenderAddress(AddressError::TooLong) | SyntaxError::RecipientAddress(AddressError::TooLong),
        ) => {
            assert!(line.len() > 254);
        }
        parsed => assert_eq!(parsed, *expected, "{line:?}"),
    }
    assert!(line.len() <= MAX_COMMAND_LINE + MAX_MAIL_PARAMETERS);
}

fn parsed_mail(sender: Mailbox, parameters: MailParameters) -> Result<Command<'static>, SyntaxError> {
    Ok(Command::Mail(ReversePath::Mailbox(sender), parameters))
}

fn written(parameters: MailParameters) -> String {
    let size = parameters.size.map(|size| format!(" size={size}")).unwrap_or_default();
    size + if parameters.body { " body=8bitmime" } else { "" }
}

const OWN_DOMAIN: &str = "mx.example";
