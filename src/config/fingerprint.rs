//! The fingerprint of a file: a keyed hash that takes less time to compute than the file takes to read.
//!
//! Each block of the file is made into 16 bytes by the function NH: a word of the key is added to each of its words,
//! these sums are multiplied in pairs, and the products are added up. Two different blocks give the same bytes with a
//! chance of 1 in 2^64, unless somebody who knew the key chose them (Black and others, "UMAC: Fast and Secure Message
//! Authentication", 1999). The bytes of all blocks and the length of the file are hashed by SHA-256; to hash the file
//! itself by that would take eight times as long.

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// The key, a random one for each index that is made.
#[derive(Debug)]
pub(super) struct Key(Vec<[u64; 2]>);

/// What a file is known by.
pub(super) type Fingerprint = [u8; 32];

/// How much of a file becomes 16 bytes, and the length of a key.
pub(super) const BLOCK: usize = 2048;

impl Key {
    /// A new one; `None` if the system gives no random numbers.
    pub(super) fn random() -> Option<Self> {
        let mut bytes = [0; BLOCK];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self::of(&bytes))
    }

    /// The key that [`Key::bytes`] gave.
    pub(super) fn of(bytes: &[u8; BLOCK]) -> Self {
        Self(words(bytes).collect())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The fingerprint of what `next` reads, piece by piece, into a buffer with room for so many blocks. It returns how
    /// many bytes it has read, which is all that there is room for until the end is reached.
    pub(super) fn fingerprint<E>(
        &self,
        blocks: usize,
        mut next: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Fingerprint, E> {
        let mut buffer = vec![0; blocks * BLOCK];
        let (mut digest, mut length) = (Context::new(&SHA256), 0_u64);
        loop {
            let filled = next(&mut buffer)?;
            length += filled as u64;
            let (whole, rest) = buffer[..filled].as_chunks::<BLOCK>();
            whole.iter().for_each(|block| digest.update(&self.sum(block)));
            if filled == buffer.len() {
                continue;
            }
            // The last block is filled up with zeros. The length tells it from a block that has them.
            let mut last = [0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            digest.update(&self.sum(&last));
            digest.update(&length.to_le_bytes());
            let mut fingerprint = Fingerprint::default();
            fingerprint.copy_from_slice(digest.finish().as_ref());
            return Ok(fingerprint);
        }
    }

    fn sum(&self, block: &[u8; BLOCK]) -> [u8; 16] {
        let products = words(block).zip(&self.0).map(|([one, other], [key, other_key])| {
            u128::from(one.wrapping_add(*key)) * u128::from(other.wrapping_add(*other_key))
        });
        products.fold(0, u128::wrapping_add).to_le_bytes()
    }
}

/// The words of a block, two by two.
fn words(block: &[u8; BLOCK]) -> impl Iterator<Item = [u64; 2]> {
    block.as_chunks::<16>().0.iter().map(|pair| {
        let words = pair.as_chunks::<8>().0;
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(key: &Key, text: &[u8]) -> Fingerprint {
        let mut rest = text;
        let read = |buffer: &mut [u8]| std::io::Read::read(&mut rest, buffer);
        key.fingerprint(2, read).unwrap()
    }

    #[test]
    fn every_byte_counts_and_where_it_is() {
        let key = Key::random().unwrap();
        for length in [0, 1, 7, 16, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK] {
            let text: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let of_text = fingerprint(&key, &text);
            assert_eq!(of_text, fingerprint(&Key::of(&key.bytes().try_into().unwrap()), &text));
            assert_ne!(of_text, fingerprint(&Key::random().unwrap(), &text));
            assert_ne!(of_text, fingerprint(&key, &[&text[..], &[0]].concat()));
            for at in (0..length).step_by(97).chain(length.checked_sub(1)) {
                let mut other = text.clone();
                other[at] ^= 1;
                assert_ne!(of_text, fingerprint(&key, &other), "{at} of {length}");
                other.clone_from(&text);
                other.swap(at, 0);
                assert_eq!(other == text, of_text == fingerprint(&key, &other), "{at} of {length}");
            }
        }
    }

    #[test]
    fn blocks_in_another_order_are_another_text() {
        let key = Key::random().unwrap();
        let (one, other) = ([b'a'; BLOCK], [b'b'; BLOCK]);
        assert_ne!(fingerprint(&key, &[one, other].concat()), fingerprint(&key, &[other, one].concat()));
    }
}
