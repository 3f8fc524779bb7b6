//! Lines as long as a buffer may be, and ends of messages at the edges of the receiver's buffers (case E24): a dot is
//! special at the start of a line only, wherever a read ends. What has to come out is worked out here a second time, in
//! the plainest way.

use mailrecv::smtp::LineEnding;
use mailrecv::smtp::data::DataReader;

use crate::case::shown;
use crate::process::{Ending, Receiver, Run};
use crate::{difference, in_parallel, report};

#[test]
fn dots_beside_long_lines_are_text() {
    let lengths: Vec<usize> = BUFFER_SIZES.into_iter().flat_map(|size| size - 1..=size + 1).collect();
    report(in_parallel(&lengths, |length| long_lines(*length).err()).into_iter().flatten().collect());
}

/// The end of a message, and dots that are not its end, with each of their bytes as the first of a read: the receiver
/// reads 4 KiB at first, and 64 KiB at a time once so much has come.
#[test]
fn ends_at_the_edges_of_reads_are_ends() {
    let mut places: Vec<(usize, &str)> = Vec::new();
    for edge in [4 * 1024, (4 + 64) * 1024] {
        for marker in ["\r\n.\r\n", "\r\n..\r\n", "x.\r\n", "\r\n.x\r\n", "\n.\n", "\r.\r"] {
            places.extend((0..marker.len()).map(|at| (edge - at, marker)));
        }
    }
    report(in_parallel(&places, |(offset, marker)| at_edge(*offset, marker).err()).into_iter().flatten().collect());
}

fn long_lines(length: usize) -> Result<(), String> {
    let (letters, dots) = ("x".repeat(length), ".".repeat(length));
    let data =
        format!("{letters}.\r\n.{letters}\r\n..{letters}\r\n{dots}\r\n{letters}\r\n..\r\n{letters}\r.\n.\r\n.\r\n");
    let expected = unstuffed(&data);
    // Cut behind so many bytes, and beside every line end.
    let mut positions = vec![length - 1, length, length + 1];
    positions.extend(data.match_indices(['\r', '\n']).flat_map(|(at, _)| at..=at + 2));
    for at in positions.into_iter().filter(|at| *at <= data.len()) {
        let mut reader = DataReader::new(LineEnding::Crlf, 0);
        let mut text = Vec::new();
        let (first, ended_early) = reader.read(&data.as_bytes()[..at], &mut text);
        let (second, ended) = reader.read(&data.as_bytes()[first..], &mut text);
        if (ended_early, ended) != (at == data.len(), at != data.len()) || first + second != data.len() {
            return Err(format!("lines of {length}, cut at {at}: ended behind {first} and {second}"));
        }
        if text != expected.as_bytes() {
            return Err(format!("lines of {length}, cut at {at}: {}", shown(&text)));
        }
    }
    let input = [BEFORE, &data, "QUIT\r\n"].concat();
    let receiver = Receiver::new("accept");
    assert_delivered(&receiver.early(input.as_bytes())?, &expected)?;
    // The receiver's reads end behind the letters.
    let mut pieces = vec![BEFORE.as_bytes()];
    pieces.extend(data.as_bytes().chunks(length));
    pieces.push(b"QUIT\r\n");
    assert_delivered(&receiver.pieces(&pieces, Ending::HalfClose)?, &expected)
}

/// A message in which the marker begins at this byte of the connection.
fn at_edge(offset: usize, marker: &str) -> Result<(), String> {
    let header = "Subject: x\r\n\r\n";
    let filler = "y".repeat(offset - BEFORE.len() - header.len());
    let data = format!("{header}{filler}{marker}");
    let data = if marker == "\r\n.\r\n" { data } else { format!("{data}more\r\n.\r\n") };
    let input = [BEFORE, &data, "QUIT\r\n"].concat();
    let run = Receiver::new("accept").early(input.as_bytes())?;
    assert_delivered(&run, &unstuffed(&data)).map_err(|error| format!("{marker:?} at byte {offset}: {error}"))
}

fn assert_delivered(run: &Run, text: &str) -> Result<(), String> {
    let lines = text.strip_suffix('\n').unwrap().split('\n').map(|line| shown(line.as_bytes()));
    let message: String =
        ["<TRACE>".to_owned()].into_iter().chain(gap(text)).chain(lines).map(|line| line + "\n").collect();
    let expected = Run::of_one_message(REPLIES, &message);
    if *run == expected { Ok(()) } else { Err(difference("what was delivered", &expected, run)) }
}

/// The empty line that keeps a text without a header apart from ours.
fn gap(text: &str) -> Option<String> {
    (!text.starts_with("Subject: ")).then(String::new)
}

/// The text of a message that ends with CRLF.CRLF: one dot less at the start of each line, LF for CRLF.
fn unstuffed(data: &str) -> String {
    let lines = data.strip_suffix(".\r\n").unwrap().split("\r\n");
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix('.').unwrap_or(line)).collect();
    lines.join("\n")
}

const BEFORE: &str = "HELO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\n";

const REPLIES: [&str; 7] = [
    "220 mx.example ESMTP (RFC 821/822) mailrecv",
    "250 mx.example Hello mail.example.net [192.0.2.7]",
    "250 Sender ok",
    "250 Recipient ok",
    "354 Start mail input; end with <CRLF>.<CRLF>",
    "250 Message accepted for delivery, id=<ID>",
    "221 mx.example closing connection",
];

/// Sizes that buffers have, here and in other servers.
const BUFFER_SIZES: [usize; 7] = [512, 1000, 1024, 2048, 4096, 8192, 65536];
