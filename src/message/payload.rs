//! A message as subscribers of a broker get it: as it was received, with CRLF line ends, or the same in JSON.
//!
//! We put nothing in front of it, so that the same message gives the same bytes at every receiver.

use std::io;

use ring::digest::{SHA256, digest};

use super::{Spool, for_each_piece};
use crate::hexadecimal;

/// The message as it was received, lines ended by CRLF; `None` if it is longer than `limit` bytes.
pub(crate) fn as_received(spool: &mut Spool, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let mut is_too_large = false;
    for_each_piece(spool.text()?, |piece| {
        if !is_too_large {
            with_crlf(piece, &mut text);
            is_too_large = text.len() > limit;
        }
        Ok(())
    })?;
    Ok((!is_too_large).then_some(text))
}

/// How many bytes [`as_received`] would return.
pub(crate) fn length_as_received(spool: &mut Spool) -> io::Result<u64> {
    let mut length = 0;
    for_each_piece(spool.text()?, |piece| {
        length += piece.len() as u64 + memchr::memchr_iter(b'\n', piece).count() as u64;
        Ok(())
    })?;
    Ok(length)
}

/// Appends a text whose lines end with LF, each LF as CRLF.
pub(crate) fn with_crlf(text: &[u8], into: &mut Vec<u8>) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                into.extend_from_slice(line);
                into.extend_from_slice(b"\r\n");
            }
            None => into.extend_from_slice(line),
        }
    }
}

/// Returns `{"msg": "...", "sha256": "..."}`: the message and the SHA-256 of its bytes, exactly as Python's
/// `json.dumps` writes them, which is ASCII. A byte that is not part of valid UTF-8 is written as one of the code
/// points U+DC80 to U+DCFF, which no text contains, so that a reader gets the bytes back; in Python with
/// `json.loads(payload)["msg"].encode("utf-8", "surrogateescape")`.
pub(crate) fn json(message: &[u8]) -> Vec<u8> {
    let mut json = Vec::with_capacity(message.len() + message.len() / 8 + 128);
    json.extend_from_slice(b"{\"msg\": \"");
    for chunk in message.utf8_chunks() {
        chunk.valid().chars().for_each(|character| put_character(character, &mut json));
        chunk.invalid().iter().for_each(|byte| put_unit(0xdc00 + u16::from(*byte), &mut json));
    }
    json.extend_from_slice(b"\", \"sha256\": \"");
    json.extend_from_slice(hexadecimal::digits(digest(&SHA256, message).as_ref()).as_bytes());
    json.extend_from_slice(b"\"}");
    json
}

fn put_character(character: char, json: &mut Vec<u8>) {
    match character {
        '"' => json.extend_from_slice(b"\\\""),
        '\\' => json.extend_from_slice(b"\\\\"),
        '\n' => json.extend_from_slice(b"\\n"),
        '\r' => json.extend_from_slice(b"\\r"),
        '\t' => json.extend_from_slice(b"\\t"),
        '\x08' => json.extend_from_slice(b"\\b"),
        '\x0c' => json.extend_from_slice(b"\\f"),
        ' '..='~' => json.extend(u8::try_from(character)),
        other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| put_unit(*unit, json)),
    }
}

/// Writes a code unit of UTF-16 as an escape (RFC 8259, section 7).
fn put_unit(unit: u16, json: &mut Vec<u8>) {
    let digit = |place: u16| b"0123456789abcdef"[usize::from(unit >> (4 * place) & 0xf)];
    json.extend_from_slice(b"\\u");
    json.extend((0..4).rev().map(digit));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(message: &[u8]) -> String {
        String::from_utf8(json(message)).unwrap()
    }

    #[test]
    fn a_message_in_json_is_ascii() {
        assert_eq!(
            text_of(b"a\"\\\r\n\t\x08\x0c\x00\x1b\x7f/ b"),
            "{\"msg\": \"a\\\"\\\\\\r\\n\\t\\b\\f\\u0000\\u001b\\u007f/ b\", \
             \"sha256\": \"63f242c1694a60bb822ca2c7603197da0bbae4b5d5ddd08193dba245ef4001b9\"}"
        );
        assert!(text_of("ä\u{20ac}\u{1f600}".as_bytes()).starts_with(r#"{"msg": "\u00e4\u20ac\ud83d\ude00","#));
    }

    #[test]
    fn bytes_that_are_no_text_are_code_points_that_no_text_has() {
        for (bytes, shown) in [
            (&b"\xe9"[..], r"\udce9"),
            (b"\xff\xfe", r"\udcff\udcfe"),
            // The beginning of a character, and a character of its own behind it.
            (b"\xe2\x82a", r"\udce2\udc82a"),
            // Such a code point as somebody may have written it: it is no text either.
            (b"\xed\xb2\x80", r"\udced\udcb2\udc80"),
            (b"\xc3\xa4\xa4", r"\u00e4\udca4"),
        ] {
            assert!(text_of(bytes).starts_with(&format!("{{\"msg\": \"{shown}\", ")), "{bytes:?}");
        }
    }

    #[test]
    fn lines_end_by_two_bytes_wherever_the_text_is_split() {
        let mut text = Vec::new();
        for piece in [&b"a\nb\r"[..], b"\n", b"\n\nc"] {
            with_crlf(piece, &mut text);
        }
        assert_eq!(text, b"a\r\nb\r\r\n\r\n\r\nc");
    }
}
