//! The forms in which a password is kept, and how much work and memory each may take.

use std::fmt;
use std::num::NonZeroU32;

use anyhow::{Context, anyhow, bail, ensure};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error, PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use base64ct::{Base64, Encoding};
use ring::rand::{SecureRandom, SystemRandom};
use sha_crypt::ShaCrypt;
use yescrypt::{Mode, Yescrypt};

use crate::scram_keys::{Key, ScramKeys};

/// A hash of a password, or keys made from it.
#[derive(Debug)]
pub(crate) enum Hash {
    /// `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH` (RFC 9106).
    Argon2id(Box<PasswordHash>),
    /// `$y$PARAMETERS$SALT$HASH` (crypt(5)).
    Yescrypt(Box<str>),
    /// `$6$rounds=ROUNDS$SALT$HASH`, or `$5$...` (crypt(5)).
    ShaCrypt(Box<str>),
    /// `SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER`, as PostgreSQL writes it, or Dovecot's
    /// `{SCRAM-SHA-256}ITERATIONS,SALT,STORED,SERVER`.
    Scram(ScramKeys),
}

/// The kinds of hashes that `mailrecv passwd` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Best protected if the file is stolen.
    Argon2id,
    /// Lets clients log in without sending the password.
    ScramSha256,
}

impl Kind {
    /// All kinds, the default first.
    pub(crate) const ALL: [Self; 2] = [Kind::Argon2id, Kind::ScramSha256];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Argon2id => "argon2id",
            Kind::ScramSha256 => "scram-sha-256",
        }
    }

    /// Hashes a password; returns what is written behind the account's name.
    pub(crate) fn hash(self, password: &[u8]) -> anyhow::Result<String> {
        let mut salt = [0; SALT];
        SystemRandom::new().fill(&mut salt).map_err(|_| anyhow!("the system has no random numbers"))?;
        Ok(match self {
            Kind::Argon2id => Argon2::default().hash_password_with_salt(password, &salt)?.to_string(),
            Kind::ScramSha256 => Hash::Scram(ScramKeys::of_password(password, salt.to_vec(), ITERATIONS)).to_string(),
        })
    }
}

impl Hash {
    /// Reads a hash; an error says why it cannot be used.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(fields) = text.strip_prefix(POSTGRESQL) {
            return scram_keys(&fields.split([':', '$']).collect::<Vec<_>>());
        }
        if let Some(fields) = text.strip_prefix(DOVECOT) {
            return scram_keys(&fields.split(',').collect::<Vec<_>>());
        }
        let fields: Vec<&str> = text.split('$').collect();
        match fields[..] {
            ["", "argon2id", ..] => argon2id(text),
            ["", "y", parameters, salt, hash] => yescrypt(text, parameters, salt, hash),
            ["", kind @ ("5" | "6"), salt, hash] => sha_crypt(text, kind, None, salt, hash),
            ["", kind @ ("5" | "6"), rounds, salt, hash] => sha_crypt(text, kind, Some(rounds), salt, hash),
            ["", "y" | "5" | "6", ..] => bail!(DAMAGED),
            _ => bail!(
                "this is no hash of a kind that mailrecv knows: {KINDS}; `mailrecv passwd NAME` makes a \
                    line, and `mkpasswd` a hash"
            ),
        }
    }

    /// Whether this consists of SCRAM keys, whose salt is told to anybody who asks.
    pub(crate) fn is_scram(&self) -> bool {
        matches!(self, Hash::Scram(_))
    }

    /// Whether it is the hash of this password. The work is the same for right and wrong ones. It is an error if the
    /// hash is damaged in a way that only shows when it is used.
    pub(crate) fn is_of(&self, password: &[u8]) -> anyhow::Result<bool> {
        // `mailrecv passwd` makes no hash of other lengths. An empty password does not count, so that a hash that
        // mkpasswd made of empty input by mistake opens no account.
        let is_possible = (1..=LONGEST).contains(&password.len());
        let password = &password[..password.len().min(LONGEST)];
        let verified = match self {
            Hash::Argon2id(hash) => Argon2::default().verify_password(password, &**hash),
            Hash::Yescrypt(hash) => Yescrypt::default().verify_password(password, &**hash),
            Hash::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, &**hash),
            Hash::Scram(keys) => return Ok(keys.is_of(password) && is_possible),
        };
        match verified {
            Ok(()) => Ok(is_possible),
            Err(Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(error).context(DAMAGED),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hash::Argon2id(hash) => hash.fmt(f),
            Hash::Yescrypt(hash) | Hash::ShaCrypt(hash) => f.write_str(hash),
            Hash::Scram(ScramKeys { salt, iterations, stored_key, server_key }) => {
                let [salt, stored, server] = [&salt[..], stored_key, server_key].map(Base64::encode_string);
                write!(f, "{POSTGRESQL}{iterations}:{salt}${stored}:{server}")
            }
        }
    }
}

fn argon2id(text: &str) -> anyhow::Result<Hash> {
    let hash = PasswordHash::new(text)
        .ok()
        .filter(|hash| hash.salt.is_some() && hash.hash.is_some_and(|hash| hash.len() == 32));
    let hash = hash.context(DAMAGED)?;
    let parameters = Params::try_from(&hash).ok().context(DAMAGED)?;
    let (kibibytes, passes) = (u64::from(parameters.m_cost()), u64::from(parameters.t_cost()));
    bounded(kibibytes * 1024, kibibytes * passes, MOST_ARGON2)?;
    Ok(Hash::Argon2id(Box::new(hash)))
}

fn yescrypt(text: &str, parameters: &str, salt: &str, hash: &str) -> anyhow::Result<Hash> {
    ensure!(is_crypt(salt) && is_crypt(hash) && salt.len() <= 86 && hash.len() == 43, DAMAGED);
    let asked: yescrypt::Params = parameters.parse().ok().context(DAMAGED)?;
    let usual = yescrypt::Params::new(Mode::default(), asked.n(), asked.r(), 1);
    ensure!(usual == Ok(asked), "these parameters are none that mkpasswd makes: make the hash anew");
    let memory = u128::from(asked.n()) * u128::from(asked.r()) * 128;
    let memory = u64::try_from(memory).unwrap_or(u64::MAX);
    bounded(memory, 0, 0)?;
    Ok(Hash::Yescrypt(text.into()))
}

fn sha_crypt(text: &str, kind: &str, rounds: Option<&str>, salt: &str, hash: &str) -> anyhow::Result<Hash> {
    let length = if kind == "6" { 86 } else { 43 };
    ensure!(is_crypt(hash) && hash.len() == length && salt.len() <= SALT && !salt.contains(':'), DAMAGED);
    let rounds = match rounds.map(|rounds| rounds.strip_prefix("rounds=").map(str::parse)) {
        None => 5000,
        Some(Some(Ok(rounds @ 1000..=999_999_999))) => rounds,
        Some(_) => bail!(DAMAGED),
    };
    bounded(0, rounds, MOST_ROUNDS)?;
    Ok(Hash::ShaCrypt(text.into()))
}

fn scram_keys(fields: &[&str]) -> anyhow::Result<Hash> {
    let [iterations, salt, stored, server] = fields else { bail!(DAMAGED) };
    let key = |field| Base64::decode_vec(field).ok().and_then(|key| Key::try_from(key).ok()).context(DAMAGED);
    let (stored_key, server_key) = (key(stored)?, key(server)?);
    let salt = Base64::decode_vec(salt).ok().filter(|salt| !salt.is_empty()).context(DAMAGED)?;
    let iterations: NonZeroU32 = iterations.parse().ok().context(DAMAGED)?;
    bounded(0, u64::from(iterations.get()), MOST_ITERATIONS)?;
    Ok(Hash::Scram(ScramKeys { salt, iterations, stored_key, server_key }))
}

/// It is an error if a hash takes more memory, in octets, or more work than we spend on a peer that is not logged in.
fn bounded(memory: u64, work: u64, most_work: u64) -> anyhow::Result<()> {
    ensure!(
        memory <= MOST_MEMORY,
        "this hash asks for {} MiB of memory, and there are {}",
        memory >> 20,
        MOST_MEMORY >> 20
    );
    ensure!(
        work <= most_work,
        "this hash asks for about {} times as much time as there is, which is a second",
        work.div_ceil(most_work)
    );
    Ok(())
}

/// Whether the text consists of the digits of crypt(5).
fn is_crypt(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'.' || octet == b'/')
}

const POSTGRESQL: &str = "SCRAM-SHA-256$";

const DOVECOT: &str = "{SCRAM-SHA-256}";

/// The kinds of hashes, for messages to people.
const KINDS: &str =
    "argon2id (`$argon2id$`), yescrypt (`$y$`), SHA-crypt (`$6$`, `$5$`) and scram-sha-256 (`SCRAM-SHA-256$`)";

const DAMAGED: &str = "this hash is damaged: make it anew with `mailrecv passwd NAME`";

/// The longest password, in octets: SHA-crypt's work grows with it.
pub(crate) const LONGEST: usize = 256;

/// How many octets of salt our hashes have, and SHA-crypt can have at most.
const SALT: usize = 16;

/// As many iterations as RFC 7677, section 4, recommends.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(15_000).unwrap();

/// The most memory, in octets. Within this and the following bounds an ordinary password takes up to about a second.
const MOST_MEMORY: u64 = 64 << 20;

/// The most KiB times passes of argon2id. The default, 38,912, takes 50 ms.
const MOST_ARGON2: u64 = 512 << 10;

/// The most rounds of SHA-crypt. The default, 5,000, takes 1.5 ms, and ten times that with the longest password.
const MOST_ROUNDS: u64 = 1_000_000;

/// The most iterations of SCRAM, of which 15,000 take 3 ms.
const MOST_ITERATIONS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// What others make of `correct horse`: mkpasswd, openssl, argon2(1), and what Python computes of SCRAM's keys.
    const OF_OTHERS: [&str; 10] = [
        "$y$j9T$97vG9gFNFFRIAwT9zCbuV.$0gfT0FjVfrIg4rr5f77A6H7CWPHcdyxhrjcvMSC/S83",
        "$y$j75$MNYM77NpbimzvLTR8.f3G/$mzpb2cikOP7fEPMQLEzrWmPkRZuCiarJw1zbnuvJ36D",
        "$6$f6Hz8zPc5YL061WF$a47Gu1gsOOdw6gAtdRtnvCYCtr.L7Re/9D4wgkCKaO3c/rTho6Bw3FN/rs6dHDdaBTy2XV8LxJeryMgvZJ2FB0",
        "$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56CcilGrHKLffBsp6dLMG.",
        "$6$rounds=10000$Qew7N5qPmxuLI8Bk$\
         C5JCwZSxPxy5WGbjnRy23.0lZqIiyTvEYl/FrP1fz7DgcBYGXvRzRUgc4i1ixxBZbbQIngWTurCuH7PJ.jFF01",
        "$5$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8",
        "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$jpXUL38Mq1C/yJArTHvcb/vRnqFj2HYfQX712rx2/10",
        "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$uYQQtFzU847rVOhVuuSJYayEiaN9phiSarX38vUXOcY",
        "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==\
         $tSgetjYW5SQlNzIxJAKMryuDGH8Snw5oWcj1eOW0ZyI=:bbZ1dJMgYYaKKR1fU1oGHkWJzi9OQY4yU8Fuksa1t70=",
        "{SCRAM-SHA-256}4096,MDEyMzQ1Njc4OWFiY2RlZg==,\
         tSgetjYW5SQlNzIxJAKMryuDGH8Snw5oWcj1eOW0ZyI=,bbZ1dJMgYYaKKR1fU1oGHkWJzi9OQY4yU8Fuksa1t70=",
    ];

    /// What each bound refuses, and what it says.
    const TOO_MUCH: [(&str, &str); 4] = [
        ("$y$jFT$TwsM0M8O0cIGqaR08jrJX1$TiuFT4KXg7d9i/GWCNFXZJdnZPlNjXHOWnVkBFmvJsB", "1024 MiB"),
        ("$argon2id$v=19$m=65537,t=1,p=1$c2FsdHNhbHRzYWx0$jpXUL38Mq1C/yJArTHvcb/vRnqFj2HYfQX712rx2/10", "MiB"),
        ("$argon2id$v=19$m=65536,t=80,p=1$c2FsdHNhbHRzYWx0$jpXUL38Mq1C/yJArTHvcb/vRnqFj2HYfQX712rx2/10", "10 times"),
        ("$5$rounds=999999999$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8", "1000 times"),
    ];

    #[test]
    fn hashes_that_ask_for_too_much() {
        for (text, why) in TOO_MUCH {
            let error = Hash::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("this hash asks for ") && error.contains(why), "{text}: {error}");
        }
        let error = Hash::parse(&OF_OTHERS[8].replace("4096", "4000000")).unwrap_err().to_string();
        assert!(error.contains("4 times"), "{error}");
    }

    /// A hash that lost a character, or has one too many, is told of before anybody logs in.
    #[test]
    fn damaged_hashes() {
        for text in OF_OTHERS {
            for damaged in [&text[..text.len() - 1], &format!("{text}x"), &format!("{text}:1:2"), &text[1..]] {
                let error = Hash::parse(damaged).unwrap_err().to_string();
                assert!(error == DAMAGED || error.starts_with("this is no hash"), "{damaged}: {error}");
            }
        }
    }

    #[test]
    fn hashes_of_others() {
        for text in OF_OTHERS {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.is_of(b"correct horse").unwrap(), "{text}");
            assert!(!hash.is_of(b"correct horsf").unwrap(), "{text}");
        }
    }

    #[test]
    fn own_hashes() {
        for kind in Kind::ALL {
            let [one, other] = [b"correct horse"; 2].map(|password| kind.hash(password).unwrap());
            assert_ne!(one, other, "the salt is new each time");
            let hash = Hash::parse(&one).unwrap();
            assert!(hash.is_of(b"correct horse").unwrap() && !hash.is_of(b"").unwrap(), "{one}");
        }
    }

    /// Whoever made a hash of it.
    #[test]
    fn passwords_that_nobody_has() {
        for kind in Kind::ALL {
            for password in [&[b'x'; LONGEST + 1][..], b""] {
                let hash = Hash::parse(&kind.hash(password).unwrap()).unwrap();
                assert!(!hash.is_of(password).unwrap(), "{hash}");
                assert!(!hash.is_of(&password[..password.len().min(LONGEST)]).unwrap(), "{hash}");
            }
            let longest = [b'x'; LONGEST];
            assert!(Hash::parse(&kind.hash(&longest).unwrap()).unwrap().is_of(&longest).unwrap());
        }
    }

    /// However the parameters of yescrypt are damaged, the library reads them or refuses them.
    #[test]
    fn parameters_of_yescrypt() {
        let digits: Vec<char> = ('.'..='9').chain('A'..='Z').chain('a'..='z').collect();
        let rest = "$x5rGDvYPgKV.qbnGmmGBB/$5zSDjRLYMpQDAHhBCRbFkcJxaEBJHzPuAVF4TYdqZB2";
        let mut usable = 0;
        for number in 0..digits.len().pow(2) {
            let (first, second) = (digits[number % digits.len()], digits[number / digits.len()]);
            for (head, tail) in
                [("j", ""), ("", "T"), ("j", "1"), ("jz", ""), ("j9", "z/"), ("j95", "..."), ("j", "xxxxx")]
            {
                usable += u32::from(Hash::parse(&format!("$y${head}{first}{second}{tail}{rest}")).is_ok());
            }
        }
        assert!(usable > 100, "{usable}");
    }
}
