//! The text of a message as it is sent, and what is unusual about it (RFC 5321, 4.1.1.4 and 4.5.2).

use super::Reason;

/// Where the text at the beginning of these octets ends: the number of octets, including the final dot and its CR LF.
///
/// Only CR LF `.` CR LF ends it; the first CR LF may be that of the command before.
pub(super) fn end(octets: &[u8]) -> Option<usize> {
    if octets.starts_with(b".\r\n") {
        return Some(3);
    }
    let found = octets.windows(END.len()).position(|window| window == END);
    found.map(|found| found + END.len())
}

/// What ends a text.
const END: &[u8] = b"\r\n.\r\n";

/// The message in a text that is sent with DATA, from its first octet to its final dot and CR LF.
pub(super) fn unstuffed(text: &[u8]) -> Vec<u8> {
    let text = text.strip_suffix(b".\r\n").unwrap_or(text);
    let mut message = Vec::with_capacity(text.len());
    for line in lines(text) {
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    message
}

/// What is open about a message, each reason once.
pub(super) fn oddities(message: &[u8]) -> Vec<Reason> {
    let mut found = Vec::new();
    let mut add = |reason| {
        if !found.contains(&reason) {
            found.push(reason);
        }
    };
    for line in lines(message) {
        if line.len() > LONGEST_LINE {
            add(Reason::LongLine);
        }
        for octet in line.strip_suffix(b"\r\n").unwrap_or(line) {
            match octet {
                b'\r' => add(Reason::BareCr),
                b'\n' => add(Reason::BareLf),
                b'\t' | b' '..=b'~' => {}
                0x80.. => add(Reason::EightBit),
                _ => add(Reason::ControlCharacter),
            }
        }
    }
    found
}

/// The longest line with its end (RFC 5321, 4.5.3.1.6).
const LONGEST_LINE: usize = 1000;

/// The lines with their CR LF; the last may have none.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.windows(2).position(|window| window == b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, behind) = rest.split_at(end);
        rest = behind;
        Some(line)
    })
}
