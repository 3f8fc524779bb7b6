//! Text of a peer in the log: whatever it is, a line stays one line, and shows no brackets but those of the program.
//!
//! An input is the text.

use mailrecv::config::{Flags, LogTarget};
use mailrecv::log::{Event, Log};
use mailrecv::untrusted::Untrusted;

/// Writes the text in each of the forms that there are.
pub fn check(input: &[u8]) {
    let escaped = Untrusted::new(input).to_string();
    assert!(is_printable_ascii(&escaped), "{escaped:?}");
    check_readable(input, &escaped);
    for loghex in [true, false] {
        let log = Log::new(LogTarget::Stderr, Flags::default(), loghex, PEER.to_owned());
        let shown = log.untrusted(input);
        check_readable(input, &shown.to_string());
        check_line(&log.line(&format_args!("ERROR: 550 No '{shown}'")), PEER, loghex);
        check_printed(&Event::Print(input).text(&log).to_string());
    }
}

/// A line as it stands in a log file: `DATE MAILRECV[PID]: [PEER] TEXT`. `ascii` is what `loghex` says.
pub fn check_line(line: &str, peer: &str, ascii: bool) {
    let (process, text) = line.split_once("]: ").expect("a process in its brackets");
    let (_, process) = process.rsplit_once(" MAILRECV[").expect("the name of the program");
    assert!(process.bytes().all(|byte| byte.is_ascii_digit()), "{line:?}");
    check_text(text, peer, ascii);
}

/// `[PEER] TEXT`: nothing in the text could be taken for another peer or for another line.
pub fn check_text(text: &str, peer: &str, ascii: bool) {
    assert!(text.starts_with(&format!("[{peer}] ")), "{text:?}");
    let foreign = text.replace(&format!("[{peer}]"), "");
    assert!(!foreign.contains(['[', ']']), "a bracket that is not the peer's: {text:?}");
    assert!(!text.contains(is_misleading), "{text:?}");
    assert!(!ascii || is_printable_ascii(text), "{text:?}");
}

/// A line of a message for people, behind the peer: nothing in it ends a line or hides, and no filter that looks for a host
/// in brackets finds one.
pub fn check_printed(text: &str) {
    assert!(text.starts_with("| "), "{text:?}");
    assert!(!text.contains(|character| is_misleading(character) && character != '\t'), "{text:?}");
    assert!(!text.to_ascii_uppercase().contains("ERROR") || !text.contains(['[', ']']), "{text:?}");
    for inside in text.split('[').skip(1).filter_map(|behind| behind.split(']').next()) {
        assert!(inside.trim().parse::<std::net::IpAddr>().is_err(), "{text:?}");
    }
}

/// Text that was escaped has nothing in it that could end the quotes around it, and says what it was made from.
fn check_readable(input: &[u8], escaped: &str) {
    assert!(!escaped.contains(['[', ']', '\'']), "{escaped:?}");
    assert!(!escaped.contains(is_misleading), "{escaped:?}");
    let mark = format!("...({} bytes)", input.len());
    let (escaped, shown) = match escaped.strip_suffix(&mark) {
        Some(escaped) if input.len() > LONGEST_SHOWN => (escaped, &input[..LONGEST_SHOWN]),
        _ => (escaped, input),
    };
    assert_eq!(unescaped(escaped).escape_ascii().to_string(), shown.escape_ascii().to_string(), "{escaped:?}");
}

/// What `<0xNN>` stand for.
fn unescaped(mut text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((before, rest)) = text.split_once("<0x") {
        bytes.extend_from_slice(before.as_bytes());
        let (digits, behind) = rest.split_once('>').expect("the end of an escape");
        assert_eq!(digits.len(), 2, "the digits of an escape");
        bytes.push(u8::from_str_radix(digits, 16).expect("the digits of an escape"));
        text = behind;
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Whether a character ends lines, or changes the order in which others are shown.
pub fn is_misleading(character: char) -> bool {
    character.is_control()
        || "\u{2028}\u{2029}\u{202a}\u{202b}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}".contains(character)
}

const PEER: &str = "192.0.2.7";

/// How many bytes of one text a line shows.
const LONGEST_SHOWN: usize = 400;
