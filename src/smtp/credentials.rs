//! Names and passwords that peers send unasked: which lines may contain one or announce one.
//!
//! Printers, scanners and clients of other protocols log in even if nobody offered it. All that is done about that here
//! is to keep such lines out of the log. A line hidden without need costs somebody a question, a line shown by mistake
//! a password.

use super::auth::Mechanism;
use super::command;

/// Whether a line that is no command may contain a password or be followed by one: AUTH, misspelled or not, the
/// commands that POP3 (RFC 1939, 7), FTP (RFC 959, 4.1.1) and IMAP (RFC 9051, 6.2) have in its place, and the fields of
/// HTTP that are secrets. A line with a bare CR or LF in it was meant as two, and each part is looked at.
pub fn are_announced(line: &[u8]) -> bool {
    let pieces = line.split(|byte| byte.is_ascii_control() && *byte != b'\t');
    pieces.filter(|piece| command::is_meant_as(piece, AUTH) || !command::has_verb(piece)).any(|piece| {
        let mut words = piece.split(|byte| b" \t:".contains(byte)).filter(|word| !word.is_empty());
        words.next().is_some_and(|verb| is_login(verb) || is_mechanism(verb))
            || words.next().is_some_and(|second| is_login(second) || is_mechanism(second))
    })
}

/// The part of such a line that can be shown: AUTH, if it begins with that.
pub fn shown(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_start();
    command::is_meant_as(line, AUTH).then(|| &line[..AUTH.len()])
}

/// The verb that a line begins with, if it is one that we know.
pub fn verb_of(line: &[u8]) -> &[u8] {
    if command::has_verb(line) { command::verb(line) } else { b"" }
}

/// A line for a transcript: words that may be shown, and placeholders for the others. `line` has no line end, and
/// `shown` is the beginning of it that the log has.
pub fn without_secrets<'l>(line: &'l [u8], shown: &'l [u8]) -> impl Iterator<Item = Word<'l>> {
    let hidden = line.trim_ascii_start().get(shown.len()..).unwrap_or_default();
    let words = hidden.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is_auth = shown.eq_ignore_ascii_case(AUTH.as_bytes());
    let word = move |(place, word): (usize, &'l [u8])| match is_auth && place == 0 && is_offered(word) {
        true => Word::Shown(word),
        false => Word::Secret,
    };
    std::iter::once(Word::Shown(shown)).chain(words.enumerate().map(word))
}

/// A word of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'l> {
    /// Everybody may see it.
    Shown(&'l [u8]),
    /// It may be a password.
    Secret,
}

fn is_offered(word: &[u8]) -> bool {
    Mechanism::ALL.iter().any(|mechanism| word.eq_ignore_ascii_case(mechanism.name().as_bytes()))
}

fn is_login(word: &[u8]) -> bool {
    let begins_so = word.get(..AUTH.len()).is_some_and(|start| start.eq_ignore_ascii_case(AUTH.as_bytes()));
    // A misspelling with letters swapped, doubled or left out still consists of the same letters.
    let is_misspelled = word.len() + 1 >= AUTH.len()
        && word.iter().all(|letter| AUTH.as_bytes().contains(&letter.to_ascii_uppercase()));
    begins_so || is_misspelled || is_one_of(word, &LOGINS)
}

fn is_mechanism(word: &[u8]) -> bool {
    is_one_of(word, &MECHANISMS)
}

fn is_one_of(word: &[u8], known: &[&str]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

/// RFC 4954.
const AUTH: &str = "AUTH";

/// AUTHENTICATE and Authorization are not listed: they begin with AUTH.
const LOGINS: [&str; 8] = ["USER", "PASS", "ACCT", "APOP", "LOGIN", "Proxy-Authorization", "Cookie", "X-Api-Key"];

/// Mechanisms (RFC 4422) whose responses contain a password, or let one be found by trying all of them.
const MECHANISMS: [&str; 8] =
    ["PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "NTLM", "XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-1"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_announce_a_password() {
        for line in [
            "AUTH",
            "auth login",
            "  AUTH PLAIN x",
            "\tAUTH\tLOGIN",
            "AUTH=PLAIN x",
            "AUTHPLAIN x",
            "AUTH:x",
            "AUHT LOGIN",
            "ATUH x",
            "AUT PLAIN x",
            "AUTTH x",
            "AITH PLAIN x",
            "a1 LOGIN fred x",
            "a1 AUTHENTICATE PLAIN x",
            "USER fred",
            "pass x",
            "APOP fred x",
            "Authorization: Basic x",
            "Proxy-Authorization:Basic x",
            "Cookie: session=x",
            "EHLO x\rAUTH PLAIN x",
            "EHLO x\nAUTH PLAIN x",
            "FOO\0PASS x",
        ] {
            assert!(are_announced(line.as_bytes()), "{line:?}");
        }
        for line in [
            "",
            "FOO",
            "EHLO login",
            "HELP AUTH",
            "MAIL FROM:<a@b.example> AUTH=<>",
            "RCPT TO:<auth@b.example>",
            "RCPT TO: <auth@b.example>",
            "VRFY user",
            "EXPN user",
            "STARTTLS",
            "GET / HTTP/1.1",
            "Date: x",
        ] {
            assert!(!are_announced(line.as_bytes()), "{line:?}");
        }
        assert_eq!(shown(b" auth PLAIN x"), Some(&b"auth"[..]));
        assert_eq!(shown(b"AUTHPLAIN x"), None);
        assert_eq!(shown(b"PASS x"), None);
    }
}
