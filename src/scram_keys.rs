//! The keys of SCRAM-SHA-256 (RFC 5802, RFC 7677): how they are made from a password, and how they are used.

use std::num::NonZeroU32;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ring::{hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// A key, a proof or a signature.
pub type Key = [u8; SHA256_OUTPUT_LEN];

/// What the server keeps of a password (RFC 5802, section 3); nobody can log in with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Random octets that make the keys different even for equal passwords.
    pub salt: Vec<u8>,
    /// How many times HMAC is applied to the password.
    pub iterations: NonZeroU32,
    /// Verifies the client's proof.
    pub stored_key: Key,
    /// Proves to the client that we know its password.
    pub server_key: Key,
}

impl ScramKeys {
    /// Derives the keys of a password. It is not changed by SASLprep (RFC 4013), which has no effect on ASCII.
    pub fn of_password(password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = [0; SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let (stored_key, server_key) = (hash(&mac(&salted, b"Client Key")), mac(&salted, b"Server Key"));
        Self { salt, iterations, stored_key, server_key }
    }

    /// Whether these keys were derived from this password.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let typed = Self::of_password(password, self.salt.clone(), self.iterations);
        typed.stored_key.ct_eq(&self.stored_key).into()
    }

    /// Whether this proof over the messages of both sides (`AuthMessage`) shows that the client knows the password.
    pub fn is_proof(&self, auth_message: &[u8], proof: &[u8]) -> bool {
        let Ok(proof) = Key::try_from(proof) else { return false };
        let mut client_key = mac(&self.stored_key, auth_message);
        client_key.iter_mut().zip(proof).for_each(|(octet, other)| *octet ^= other);
        hash(&client_key).ct_eq(&self.stored_key).into()
    }

    /// The signature that proves to the client that we know its password (`ServerSignature`).
    pub fn server_signature(&self, auth_message: &[u8]) -> Key {
        mac(&self.server_key, auth_message)
    }
}

/// HMAC-SHA-256.
pub(crate) fn mac(key: &[u8], text: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    sized(tag.as_ref())
}

/// SHA-256.
fn hash(text: &[u8]) -> Key {
    sized(digest(&SHA256, text).as_ref())
}

/// A hash as an array.
fn sized(made: &[u8]) -> Key {
    let mut key = [0; SHA256_OUTPUT_LEN];
    key.copy_from_slice(made);
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use base64ct::{Base64, Encoding};

    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn example_of_the_rfc() {
        let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::of_password(b"pencil", salt, NonZeroU32::new(4096).unwrap());
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mut proof = Base64::decode_vec("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        assert!(keys.is_proof(message, &proof));
        let signature = Base64::encode_string(&keys.server_signature(message));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(keys.is_of(b"pencil") && !keys.is_of(b"Pencil"));
        assert!(!keys.is_proof(b"another message", &proof));
        for other in [&proof[1..], &proof[..31], &[&proof[..], &[0]].concat(), b""] {
            assert!(!keys.is_proof(message, other), "{other:?}");
        }
        proof[0] ^= 1;
        assert!(!keys.is_proof(message, &proof));
    }
}
