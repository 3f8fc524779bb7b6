//! Session tickets: kept by peers, so that their next session begins with a shorter handshake (RFC 8446, 2.2; RFC
//! 5077).
//!
//! The next session is another process, so the key for tickets is in a file that processes share. It yields a key for
//! each period of some hours. A ticket has the number of its period in front. Tickets of this period and the one before
//! are accepted; an older one leads to a full handshake.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// Makes tickets, and reads those of other processes with the same key.
pub(crate) struct Tickets {
    master: hmac::Key,
}

impl Tickets {
    /// Uses the content of a key file; an error says what is wrong with it.
    pub(crate) fn new(key: &[u8]) -> anyhow::Result<Self> {
        match key.len() {
            KEY_LEN => Ok(Self { master: hmac::Key::new(hmac::HMAC_SHA256, key) }),
            other => bail!(
                "has {other} bytes, and a key for tickets has {KEY_LEN}: make one with `head -c {KEY_LEN} /dev/urandom`"
            ),
        }
    }

    /// The key of a period.
    fn key(&self, period: Period) -> Option<LessSafeKey> {
        let key = hmac::sign(&self.master, &[PURPOSE, &period.to_be_bytes()].concat());
        UnboundKey::new(&AES_256_GCM, key.as_ref()).ok().map(LessSafeKey::new)
    }

    fn encrypt_in(&self, period: Period, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = plain.to_vec();
        let number = period.to_be_bytes();
        self.key(period)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(number), &mut text)
            .ok()?;
        Some([&number, &nonce[..], &text].concat())
    }

    fn decrypt_in(&self, now: Period, ticket: &[u8]) -> Option<Vec<u8>> {
        let (number, rest) = ticket.split_first_chunk()?;
        let (nonce, text) = rest.split_first_chunk()?;
        let period = Period::from_be_bytes(*number);
        if !(now.saturating_sub(1)..=now).contains(&period) {
            return None;
        }
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key(period)?.open_in_place(nonce, Aad::from(*number), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_in(this_period(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_in(this_period(), ticket)
    }
}

/// Does not show the key.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

/// The number of a period since 1970.
type Period = u32;

fn this_period() -> Period {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    Period::try_from(now / u64::from(PERIOD_SECS)).unwrap_or(Period::MAX)
}

/// Six hours: a ticket is valid for at least that long, and at most twice as long.
const PERIOD_SECS: u32 = 6 * 60 * 60;

/// The length of a key file in octets.
const KEY_LEN: usize = 32;

/// Makes these keys different from any others that may be derived from the same file.
const PURPOSE: &[u8] = b"mailrecv session ticket";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_serve_for_two_periods_and_with_one_key() {
        let (tickets, others) = (Tickets::new(&[1; 32]).unwrap(), Tickets::new(&[2; 32]).unwrap());
        let ticket = tickets.encrypt_in(1000, b"state").unwrap();
        let same = Tickets::new(&[1; 32]).unwrap();
        for (now, is_taken) in [(999, false), (1000, true), (1001, true), (1002, false), (Period::MAX, false)] {
            assert_eq!(same.decrypt_in(now, &ticket).is_some_and(|state| state == b"state"), is_taken, "{now}");
        }
        assert_eq!(others.decrypt_in(1000, &ticket), None);
        // No two are the same, and none can be changed.
        assert_ne!(tickets.encrypt_in(1000, b"state").unwrap(), ticket);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt_in(1000, &changed), None, "byte {at}");
            assert_eq!(tickets.decrypt_in(1000, &ticket[..at]), None, "{at} bytes");
        }
        assert!(Tickets::new(&[1; 31]).is_err() && Tickets::new(&[1; 33]).is_err());
    }
}
