//! The exchange of AUTH (RFC 4954): decoded responses of the peer in, challenges out; base64 is not dealt with here.
//! The mechanisms are PLAIN (RFC 4616), LOGIN, which has no RFC and many clients, and SCRAM-SHA-256 (RFC 7677), whose
//! messages `scram.rs` reads.
//!
//! This module knows no passwords and makes no nonces; it asks for what it needs ([`Progress`]).

use std::fmt;

use super::scram::{self, ClientFirst, Expected, Refused};
use crate::scram_keys::ScramKeys;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Name and password in one response.
    Plain,
    /// The name in one response, the password in the next.
    Login,
    /// A proof that the peer knows the password, which is not sent.
    ScramSha256,
}

impl Mechanism {
    /// Every mechanism, the best first.
    pub const ALL: [Self; 3] = [Self::ScramSha256, Self::Plain, Self::Login];

    /// Its registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
        }
    }
}

/// A name, and the password that the peer says belongs to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name of the account.
    pub name: String,
    /// The password, which is shown nowhere.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An exchange that waits for a response; each variant says what the response has to be.
#[derive(Debug)]
pub enum Exchange {
    /// Name and password of PLAIN.
    Plain,
    /// The name of LOGIN.
    LoginName,
    /// The password of LOGIN for this name.
    LoginPassword(String),
    /// The first message of SCRAM.
    ScramFirst,
    /// The last message of SCRAM, for an account with these keys.
    ScramFinal(Expected, ScramKeys),
    /// An empty response, which says that the peer has read our proof for this name.
    ScramRead(String),
}

/// Where a response leads.
#[derive(Debug)]
pub enum Progress {
    /// Send this and wait for the next response.
    Challenge(String, Exchange),
    /// Find out whether the password is right.
    Password(Credentials),
    /// Find out which keys the account has, and go on with [`Exchange::with_keys`].
    Keys(ClientFirst),
    /// The peer has shown that it is this account.
    Authenticated(String),
    /// The peer has not shown that it is this account.
    Failed(String),
    /// This is no response.
    Malformed,
}

impl Exchange {
    /// A mechanism's first challenge, and the exchange that waits for the response to it.
    pub fn begin(mechanism: Mechanism) -> (&'static str, Self) {
        match mechanism {
            Mechanism::Plain => ("", Exchange::Plain),
            Mechanism::Login => ("Username:", Exchange::LoginName),
            Mechanism::ScramSha256 => ("", Exchange::ScramFirst),
        }
    }

    /// Goes on with SCRAM once the keys of the account are known; `nonce` is our part of it, printable ASCII without a
    /// comma.
    pub fn with_keys(first: ClientFirst, keys: ScramKeys, nonce: &str) -> (String, Self) {
        let (challenge, expected) = first.challenge(nonce, &keys.salt, keys.iterations.get());
        (challenge, Exchange::ScramFinal(expected, keys))
    }

    /// The mechanism of this exchange.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Exchange::Plain => Mechanism::Plain,
            Exchange::LoginName | Exchange::LoginPassword(_) => Mechanism::Login,
            Exchange::ScramFirst | Exchange::ScramFinal(..) | Exchange::ScramRead(_) => Mechanism::ScramSha256,
        }
    }

    /// Takes a response.
    pub fn respond(self, response: Vec<u8>) -> Progress {
        match self {
            Exchange::Plain => plain(&response),
            Exchange::LoginName => match String::from_utf8(response) {
                Ok(name) if is_name(&name) => {
                    Progress::Challenge("Password:".to_owned(), Exchange::LoginPassword(name))
                }
                _ => Progress::Malformed,
            },
            Exchange::LoginPassword(name) => Progress::Password(Credentials { name, password: response }),
            Exchange::ScramFirst => match ClientFirst::parse(&response) {
                Ok(first) => Progress::Keys(first),
                Err(Refused::Failed(name)) => Progress::Failed(name),
                Err(Refused::Malformed) => Progress::Malformed,
            },
            Exchange::ScramFinal(expected, keys) => match expected.parse(&response) {
                Ok(last) if keys.is_proof(last.signed.as_bytes(), &last.proof) => {
                    let proof = scram::server_final(&keys.server_signature(last.signed.as_bytes()));
                    Progress::Challenge(proof, Exchange::ScramRead(expected.name))
                }
                Ok(_) | Err(Refused::Failed(_)) => Progress::Failed(expected.name),
                Err(Refused::Malformed) => Progress::Malformed,
            },
            Exchange::ScramRead(name) if response.is_empty() => Progress::Authenticated(name),
            Exchange::ScramRead(_) => Progress::Malformed,
        }
    }
}

/// Reads a response of PLAIN: whom the peer wants to act for, its name and its password, with NUL between them. Acting
/// for somebody else is refused.
fn plain(response: &[u8]) -> Progress {
    let mut parts = response.split(|octet| *octet == 0);
    let (Some(authorized), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Progress::Malformed;
    };
    match std::str::from_utf8(name) {
        Ok(name) if is_name(name) && (authorized.is_empty() || authorized == name.as_bytes()) => {
            Progress::Password(Credentials { name: name.to_owned(), password: password.to_owned() })
        }
        Ok(name) if is_name(name) => Progress::Failed(name.to_owned()),
        _ => Progress::Malformed,
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}

/// The longest line of an exchange, its end included (RFC 4954, section 4).
pub const MAX_RESPONSE_LINE: usize = 12288;

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding};

    use super::*;

    fn credentials(name: &str, password: &[u8]) -> Option<Credentials> {
        Some(Credentials { name: name.to_owned(), password: password.to_owned() })
    }

    fn asked(progress: Progress) -> Option<Credentials> {
        if let Progress::Password(credentials) = progress { Some(credentials) } else { None }
    }

    #[test]
    fn plain_responses() {
        for (response, credentials) in [
            (&b"\0tim\0tanstaaftanstaaf"[..], credentials("tim", b"tanstaaftanstaaf")),
            (b"tim\0tim\0x", credentials("tim", b"x")),
            (b"\0tim\0", credentials("tim", b"")),
            (b"\0t im\0\xff", credentials("t im", b"\xff")),
            ("\0\u{e9}\0x".as_bytes(), credentials("\u{e9}", b"x")),
        ] {
            assert_eq!(asked(Exchange::Plain.respond(response.to_owned())), credentials, "{response:?}");
        }
        for response in [&b""[..], b"tim", b"tim\0x", b"\0\0x", b"\0tim\0x\0", b"\0tim\0x\0y", b"\0\xff\0x"] {
            assert!(matches!(Exchange::Plain.respond(response.to_owned()), Progress::Malformed), "{response:?}");
        }
        let other = Exchange::Plain.respond(b"ann\0tim\0x".to_vec());
        assert!(matches!(other, Progress::Failed(name) if name == "tim"));
    }

    #[test]
    fn login_responses() {
        let Progress::Challenge(challenge, exchange) = Exchange::LoginName.respond(b"tim".to_vec()) else { panic!() };
        assert_eq!(challenge, "Password:");
        assert_eq!(asked(exchange.respond(b"x\0\xff".to_vec())), credentials("tim", b"x\0\xff"));
        for name in [&b""[..], b"\xff", b"t\0im"] {
            assert!(matches!(Exchange::LoginName.respond(name.to_owned()), Progress::Malformed), "{name:?}");
        }
    }

    /// RFC 7677, section 3.
    #[test]
    fn scram_proves_both_sides() {
        let keys = || {
            let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
            ScramKeys::of_password(b"pencil", salt, std::num::NonZeroU32::new(4096).unwrap())
        };
        let after_first = || {
            let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO".to_vec();
            let Progress::Keys(first) = Exchange::ScramFirst.respond(first) else { panic!() };
            Exchange::with_keys(first, keys(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").1
        };
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let Progress::Challenge(proof, exchange) = after_first().respond(last.into()) else { panic!() };
        assert_eq!(proof, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(matches!(exchange.respond(Vec::new()), Progress::Authenticated(name) if name == "user"));
        for (last, is_malformed) in [
            (last.replace("p=dH", "p=dI"), false),
            (last.replace("biws", "eSws"), false),
            (last.replace("rOpr", "rOpq"), false),
            (last.replace("p=dHzb", "p="), false),
            (last.replace(",p=", ",q="), true),
            ("*".to_owned(), true),
        ] {
            match after_first().respond(last.clone().into()) {
                Progress::Failed(name) => assert!(name == "user" && !is_malformed, "{last}"),
                Progress::Malformed => assert!(is_malformed, "{last}"),
                other => panic!("{last}: {other:?}"),
            }
        }
        let Progress::Challenge(_, exchange) = after_first().respond(last.into()) else { panic!() };
        assert!(matches!(exchange.respond(b"x".to_vec()), Progress::Malformed));
    }

    #[test]
    fn no_password_is_shown() {
        let shown = format!("{:?}", Progress::Password(credentials("tim", b"SECRET").unwrap()));
        assert!(shown.contains("tim") && !shown.contains("SECRET") && !shown.contains("83"), "{shown}");
    }
}
