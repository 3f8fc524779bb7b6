//! What is kept of a password, in the forms that are in use, and how much each may ask for.

use std::num::NonZeroU32;

use anyhow::{Context, bail};
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use base64ct::{Base64, Encoding};
use sha_crypt::ShaCrypt;
use yescrypt::Yescrypt;

use super::scram::ScramKeys;

/// What is kept of a password.
#[derive(Debug)]
pub(crate) enum Hash {
    /// `$argon2id$...` (RFC 9106).
    Argon2id(Box<PasswordHash>),
    /// `$y$...` (crypt(5)).
    Yescrypt(Box<str>),
    /// `$6$...` or `$5$...` (crypt(5)).
    ShaCrypt(Box<str>),
    /// `SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER`.
    Scram(ScramKeys),
}

impl Hash {
    /// Reads a hash; why it cannot be used.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
            return scram_keys(rest).map(Hash::Scram);
        }
        match text.get(1..).and_then(|rest| rest.split('$').next()).filter(|_| text.starts_with('$')) {
            Some("argon2id") => Ok(Hash::Argon2id(Box::new(PasswordHash::new(text).context("no hash of argon2id")?))),
            Some("y") => Ok(Hash::Yescrypt(text.into())),
            Some("5" | "6") => Ok(Hash::ShaCrypt(text.into())),
            _ => bail!("no kind of hash that there is"),
        }
    }

    /// Whether it is the hash of this password.
    pub(crate) fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Hash::Argon2id(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Hash::Yescrypt(hash) => Yescrypt::default().verify_password(password, &**hash).is_ok(),
            Hash::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, &**hash).is_ok(),
            Hash::Scram(keys) => keys.is_of(password),
        }
    }
}

/// `ITERATIONS:SALT$STORED:SERVER`
fn scram_keys(text: &str) -> anyhow::Result<ScramKeys> {
    let fields: Vec<&str> = text.split([':', '$']).collect();
    let [iterations, salt, stored, server] = fields[..] else { bail!("not four fields") };
    let key = |field| Base64::decode_vec(field).ok().and_then(|key| key.try_into().ok()).context("no key");
    Ok(ScramKeys {
        salt: Base64::decode_vec(salt).ok().context("no salt")?,
        iterations: iterations.parse::<NonZeroU32>().context("no number of iterations")?,
        stored_key: key(stored)?,
        server_key: key(server)?,
    })
}
