//! The quoting of mboxrd files: it can be undone, whatever the text and however it is split.
//!
//! An input is the text of a message.

use mailrecv::deliver::mboxrd::Quoting;

use super::{pieces, reference};

/// Quotes the text in three ways.
pub fn check(input: &[u8]) {
    for pieces in pieces::three_ways(input) {
        check_pieces(&pieces);
    }
}

/// Quotes the text in this way.
pub fn check_pieces(pieces: &[&[u8]]) {
    let mut text = pieces.concat();
    let (mut quoting, mut file) = (Quoting::default(), FROM_LINE.to_vec());
    pieces.iter().for_each(|piece| quoting.quote(piece, &mut file));
    quoting.finish(&mut file);
    let beginnings = file.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"From ")).count();
    assert_eq!(beginnings, 1, "messages that a reader finds in the file");
    assert!(file.ends_with(b"\n\n"), "an empty line ends the message");
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    let read_back = reference::unquoted(&file[FROM_LINE.len()..]);
    assert_eq!(read_back.escape_ascii().to_string(), text.escape_ascii().to_string(), "what a reader sees");
}

const FROM_LINE: &[u8] = b"From MAILER-DAEMON Sat Nov 21 01:32:50 2026\n";
