//! A record of `exactly_once`: what the table says of one delivery, and how it is written there.

use std::io;
use std::time::Duration;

use ring::digest::{Context as Digest, SHA256};
use ring::hmac;

use crate::hexadecimal;

/// Identifies a message for one recipient at one destination: a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(pub(super) [u8; HASH]);

/// What the table says of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The message's identifier.
    pub(super) id: String,
    /// Whether the delivery was done; otherwise it was about to be done.
    pub(super) is_delivered: bool,
    pub(super) place: Place,
}

/// Where the message is at its destination, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// At a destination that cannot be looked at.
    Nowhere,
    /// In a mailbox.
    Mailbox(Stretch),
    /// A file of its own: its final name, and its name before that.
    File { name: String, before: String },
}

/// Where a message is in a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The offset of its first byte.
    pub(super) start: u64,
    /// How many bytes are in front of its text, and their SHA-256.
    pub(super) beginning: (u64, [u8; HASH]),
}

impl Record {
    /// As it is written to the table, for this tag and with this time since 1970. In front stands its keyed hash, which
    /// proves that it is ours. It is an error if it is too long.
    pub(super) fn encode(&self, tag: Tag, at: Duration, key: &hmac::Key) -> io::Result<[u8; SLOT]> {
        let state = if self.is_delivered { "delivered" } else { "prepared" };
        let mut text = format!("{} {state} {} ", at.as_secs(), self.id);
        text += &match &self.place {
            Place::Nowhere => "-".to_owned(),
            Place::Mailbox(Stretch { start, beginning: (length, hash) }) => {
                format!("mailbox {start} {length} {}", hexadecimal::digits(hash))
            }
            Place::File { name, before } => format!("file {before} {name}"),
        };
        let mut slot = [0; SLOT];
        slot[HASH..2 * HASH].copy_from_slice(&tag.0);
        let room = &mut slot[2 * HASH..];
        match room.get_mut(..text.len()) {
            Some(room) => room.copy_from_slice(text.as_bytes()),
            None => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let proof = hmac::sign(key, &slot[HASH..]);
        slot[..HASH].copy_from_slice(proof.as_ref());
        Ok(slot)
    }

    /// Reads one: its tag, its time and its content. `None` if it is empty, damaged or not ours.
    pub(super) fn decode(slot: &[u8], key: &hmac::Key) -> Option<(Tag, Duration, Self)> {
        let (proof, rest) = slot.split_at_checked(HASH)?;
        let (tag, text) = rest.split_at_checked(HASH)?;
        if tag.iter().all(|octet| *octet == 0) {
            return None;
        }
        hmac::verify(key, rest, proof).ok()?;
        let text = std::str::from_utf8(text).ok()?.trim_end_matches('\0');
        let mut words = text.splitn(7, ' ');
        let at = Duration::from_secs(words.next()?.parse().ok()?);
        let is_delivered = words.next()? == "delivered";
        let id = words.next()?.to_owned();
        let place = match words.next()? {
            "mailbox" => {
                let (start, length) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Place::Mailbox(Stretch { start, beginning: (length, octets_of_digits(words.next()?)?) })
            }
            "file" => Place::File { before: words.next()?.to_owned(), name: words.next()?.to_owned() },
            _ => Place::Nowhere,
        };
        Some((Tag(octets_of(tag)), at, Self { id, is_delivered, place }))
    }
}

impl Tag {
    /// In hexadecimal, for a command's environment.
    pub(super) fn hex(self) -> String {
        hexadecimal::digits(&self.0)
    }

    /// The number that its octets from `at` on make.
    pub(super) fn number(self, at: usize) -> u64 {
        self.0[at..at + 8].iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
    }
}

/// The SHA-256 of this.
pub(super) fn hash(octets: &[u8]) -> [u8; HASH] {
    let mut digest = Digest::new(&SHA256);
    digest.update(octets);
    octets_of(digest.finish().as_ref())
}

/// The keyed hash of these parts, each with its length in front.
pub(super) fn keyed_hash(key: &hmac::Key, parts: &[&[u8]]) -> [u8; HASH] {
    let mut hash = hmac::Context::with_key(key);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    octets_of(hash.sign().as_ref())
}

fn octets_of(hash: &[u8]) -> [u8; HASH] {
    let mut octets = [0; HASH];
    octets.copy_from_slice(&hash[..HASH]);
    octets
}

fn octets_of_digits(digits: &str) -> Option<[u8; HASH]> {
    let (digits, _) = digits.as_bytes().as_chunks();
    let octets: Option<Vec<u8>> = digits.iter().map(|digits| hexadecimal::octet(*digits)).collect();
    octets?.try_into().ok()
}

/// The length of a hash, in bytes.
pub(super) const HASH: usize = 32;

/// The length of a record, in bytes.
pub(super) const SLOT: usize = 512;
