//! Messages in mboxrd files: the quoting can be undone, whatever the text and however it is split, and no field of the header
//! is one that readers keep for themselves.
//!
//! An input is a message.

use mailrecv::deliver::mboxrd::Encoder;

use super::{pieces, reference};

/// Writes the message in three ways.
pub fn check(input: &[u8]) {
    for pieces in pieces::three_ways(input) {
        check_pieces(&pieces);
    }
}

/// Writes the message in this way.
pub fn check_pieces(pieces: &[&[u8]]) {
    let mut text = pieces.concat();
    let (mut encoder, mut file) = (Encoder::default(), FROM_LINE.to_vec());
    pieces.iter().for_each(|piece| encoder.encode(piece, &mut file));
    encoder.finish(&mut file);
    let beginnings = file.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"From ")).count();
    assert_eq!(beginnings, 1, "messages that a reader finds in the file");
    assert!(file.ends_with(b"\n\n"), "an empty line ends the message");
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    let read_back = reference::unquoted(&file[FROM_LINE.len()..]);
    let text = reference::with_renamed_fields(&text);
    assert_eq!(read_back.escape_ascii().to_string(), text.escape_ascii().to_string(), "what a reader sees");
}

const FROM_LINE: &[u8] = b"From MAILER-DAEMON Sat Nov 21 01:32:50 2026\n";
