//! The text of messages: [`DataReader`] in any split against the rule in [`reference`].
//!
//! An input is a digit, which chooses line ends and the largest size, and what a peer sends behind 354.

use mailrecv::smtp::LineEnding;
use mailrecv::smtp::data::DataReader;

use super::{pieces, reference};

/// Reads the message in three ways.
pub fn check(input: &[u8]) {
    let Some((choice, sent)) = input.split_first() else { return };
    let ending = if choice % 2 == 0 { LineEnding::Crlf } else { LineEnding::Lf };
    let max_size = [0, 10, 100][usize::from(choice / 2 % 3)];
    for pieces in pieces::three_ways(sent) {
        check_pieces(ending, max_size, &pieces);
    }
}

/// Reads the message in this way.
pub fn check_pieces(ending: LineEnding, max_size: u64, pieces: &[&[u8]]) {
    let sent = pieces.concat();
    let expected = reference::message(ending, &sent);
    let mut reader = DataReader::new(ending, max_size);
    let (mut text, mut taken, mut has_ended) = (Vec::new(), 0, false);
    for piece in pieces {
        let (used, ended) = reader.read(piece, &mut text);
        taken += used;
        has_ended = ended;
        if ended {
            break;
        }
        assert_eq!(used, piece.len(), "only the end of the message leaves something behind");
    }
    assert_eq!(has_ended, expected.has_ended, "whether the message has ended");
    if has_ended {
        assert_eq!(taken, sent.len() - expected.rest.len(), "where the message ends");
        assert_eq!(reader.text().size(), expected.size);
        assert_eq!(reader.text().has_bare_newline(), expected.has_bare_newline);
    }
    let largest = if max_size == 0 { u64::MAX } else { max_size };
    assert_eq!(reader.text().is_too_large(), reader.text().size() > largest);
    let mut whole = expected.text;
    if !has_ended {
        whole.extend_from_slice(expected.rest.strip_prefix(b".").unwrap_or(expected.rest));
    }
    assert!(whole.starts_with(&text), "{:?} is not the beginning of {:?}", show(&text), show(&whole));
    if reader.text().is_too_large() {
        assert!(text.len() as u64 <= largest, "more was kept than may be");
    } else {
        // A CR may be held back until it is known what follows it.
        let held_back = &whole[text.len()..];
        let may_hold_back: &[&[u8]] = if has_ended { &[b""] } else { &[b"", b"\r"] };
        assert!(may_hold_back.contains(&held_back), "{:?} is missing", show(held_back));
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
