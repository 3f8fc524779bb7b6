//! What a session and its runner say to each other over a socket pair: frames, each of which is a kind, a length and so
//! many bytes. Numbers are 32 bits, little-endian.
//!
//! | from the session | holds | |
//! | --- | --- | --- |
//! | `List` | the time limit in seconds, the commands | once, before the session confines itself |
//! | `Only` | numbers in that list | the peer has no other within its reach |
//! | `Run` | a number in that list, the values of [`config::VARIABLES`](crate::config::VARIABLES) | the message follows |
//! | `Piece` | some of the message | |
//! | `End` | nothing | that was all of the message |
//! | `Abandon` | nothing | the rest of the message cannot be had |
//!
//! After each `End` or `Abandon` the session waits for one answer: `Ended`, `TooSlow`, `NotStarted` or `Broken`.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Only,
    Run,
    Piece,
    End,
    Abandon,
    /// The command has ended; holds its wait status and the first line of its output.
    Ended,
    /// The command was killed because its time was up; holds the first line of its output.
    TooSlow,
    /// The command could not be started; holds the error number.
    NotStarted,
    /// The command could not be run to its end; holds the error number.
    Broken,
}

/// The longest frame, in bytes. Only the list of commands, which comes from the configuration, may be longer.
pub(super) const MAX_FRAME: usize = 64 * 1024;

/// Appends a frame.
pub(super) fn put(frames: &mut Vec<u8>, kind: Kind, payload: &[u8]) -> io::Result<()> {
    frames.push(kind as u8);
    put_text(frames, payload)
}

/// Appends a number.
pub(super) fn put_number(frames: &mut Vec<u8>, number: u32) {
    frames.extend_from_slice(&number.to_le_bytes());
}

/// Appends bytes with their length in front.
pub(super) fn put_text(frames: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    put_number(frames, u32::try_from(text.len()).map_err(io::Error::other)?);
    frames.extend_from_slice(text);
    Ok(())
}

/// Takes a number from the beginning of a payload.
pub(super) fn take_number(payload: &mut &[u8]) -> io::Result<u32> {
    let (number, rest) = payload.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    *payload = rest;
    Ok(u32::from_le_bytes(*number))
}

/// Takes bytes with their length in front from the beginning of a payload.
pub(super) fn take_text<'p>(payload: &mut &'p [u8]) -> io::Result<&'p [u8]> {
    let length = usize::try_from(take_number(payload)?).map_err(io::Error::other)?;
    let (text, rest) = payload.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
    *payload = rest;
    Ok(text)
}

/// A frame that is coming in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Kind and length.
    header: [u8; HEADER],
    /// How many bytes have come, header included.
    filled: usize,
    payload: Vec<u8>,
}

impl Incoming {
    /// Reads from a non-blocking socket; returns the kind once a frame is complete. A frame longer than `longest` is an
    /// error, and so is the end of the connection.
    pub(super) fn read(&mut self, mut socket: &UnixStream, longest: usize) -> io::Result<Option<Kind>> {
        loop {
            let missing = match self.filled.checked_sub(HEADER) {
                None => &mut self.header[self.filled..],
                Some(filled) => &mut self.payload[filled..],
            };
            if missing.is_empty() {
                self.filled = 0;
                return Kind::of(self.header[0]).map(Some);
            }
            match socket.read(missing) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.filled == HEADER {
                let length = usize::try_from(take_number(&mut &self.header[1..])?).map_err(io::Error::other)?;
                if length > longest {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.payload.resize(length, 0);
            }
        }
    }

    /// The payload of the last complete frame.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl Kind {
    fn of(number: u8) -> io::Result<Self> {
        const KINDS: [Kind; 10] = [
            Kind::List,
            Kind::Only,
            Kind::Run,
            Kind::Piece,
            Kind::End,
            Kind::Abandon,
            Kind::Ended,
            Kind::TooSlow,
            Kind::NotStarted,
            Kind::Broken,
        ];
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == number);
        kind.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The length of kind and length, in bytes.
const HEADER: usize = 5;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let mut frames = Vec::new();
        put(&mut frames, Kind::Piece, b"text").unwrap();
        put(&mut frames, Kind::End, b"").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (mut incoming, mut seen) = (Incoming::default(), Vec::new());
        for byte in frames {
            ours.write_all(&[byte]).unwrap();
            while let Some(kind) = incoming.read(&theirs, 4).unwrap() {
                seen.push((kind, incoming.payload().to_vec()));
            }
        }
        assert_eq!(seen, [(Kind::Piece, b"text".to_vec()), (Kind::End, Vec::new())]);
        drop(ours);
        assert_eq!(incoming.read(&theirs, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [&[99, 0, 0, 0, 0][..], &[Kind::Piece as u8, 5, 0, 0, 0], &[Kind::Piece as u8, 255, 255, 255, 255]]
        {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            theirs.set_nonblocking(true).unwrap();
            let error = Incoming::default().read(&theirs, 4).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn texts_are_within_their_payload() {
        let mut payload = Vec::new();
        put_text(&mut payload, b"one").unwrap();
        put_number(&mut payload, 2);
        let rest = &mut &payload[..];
        assert_eq!(take_text(rest).unwrap(), b"one");
        assert!(take_text(rest).is_err(), "there are no two bytes more");
        assert!(take_number(rest).is_err());
    }
}
