//! The messages of SCRAM-SHA-256 (RFC 5802, section 7; RFC 7677): read from the client, written for it.
//!
//! Neither side ever sends a password. What is computed from these messages and the keys of an account is in
//! `scram_keys.rs`. Channel binding is not offered, so a client that asks for it is refused, as is an extension that
//! must be understood (`m=`).

use base64ct::{Base64, Encoding};

/// The first message of a client: who it wants to be, and its part of the nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst {
    /// The name of the account.
    pub name: String,
    /// What precedes the bare message; the client repeats it in its last message.
    gs2_header: String,
    bare: String,
    nonce: String,
}

/// Why an exchange ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The message is malformed, or wants something that is not offered.
    Malformed,
    /// The message is well formed, but cannot lead to success for this account.
    Failed(String),
}

impl ClientFirst {
    /// Reads `gs2-header client-first-message-bare`.
    pub fn parse(message: &[u8]) -> Result<Self, Refused> {
        let message = std::str::from_utf8(message).map_err(|_| Refused::Malformed)?;
        let mut parts = message.splitn(3, ',');
        let (Some(binding), Some(authorized), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Refused::Malformed);
        };
        // `y` says that the client could bind to the channel, but believes that we do not offer it.
        if !matches!(binding, "n" | "y") {
            return Err(Refused::Malformed);
        }
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|attribute| attribute.strip_prefix("n=")).and_then(unescaped);
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let (Some(name), Some(nonce)) = (name, nonce) else { return Err(Refused::Malformed) };
        if !is_nonce(nonce) || name.contains('\0') || !attributes.all(is_extension) {
            return Err(Refused::Malformed);
        }
        let first = Self {
            gs2_header: message[..message.len() - bare.len()].to_owned(),
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
            name,
        };
        match authorized {
            "" => Ok(first),
            authorized => match authorized.strip_prefix("a=").and_then(unescaped) {
                // Acting for somebody else is not possible.
                Some(other) if other == first.name => Ok(first),
                Some(_) => Err(Refused::Failed(first.name)),
                None => Err(Refused::Malformed),
            },
        }
    }

    /// Writes the server's first message, with our part of the nonce; also returns what the client has to answer.
    pub fn challenge(self, nonce: &str, salt: &[u8], iterations: u32) -> (String, Expected) {
        let nonce = format!("{}{nonce}", self.nonce);
        let server_first = format!("r={nonce},s={},i={iterations}", Base64::encode_string(salt));
        let expected = Expected {
            name: self.name,
            begin: format!("c={},r={nonce}", Base64::encode_string(self.gs2_header.as_bytes())),
            transcript: format!("{},{server_first},", self.bare),
        };
        (server_first, expected)
    }
}

/// What the last message of a client has to be.
#[derive(Debug)]
pub struct Expected {
    /// The name of the account.
    pub name: String,
    /// Its channel binding and nonce, with which it has to begin.
    begin: String,
    /// The messages before it; both sides sign them together with it.
    transcript: String,
}

/// The last message of a client, whose proof has to be verified.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFinal {
    /// AuthMessage of RFC 5802, section 3: what client and server sign.
    pub signed: String,
    /// ClientProof.
    pub proof: Vec<u8>,
}

impl Expected {
    /// Reads `client-final-message`.
    pub fn parse(&self, message: &[u8]) -> Result<ClientFinal, Refused> {
        let message = std::str::from_utf8(message).map_err(|_| Refused::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Refused::Malformed)?;
        let proof = Base64::decode_vec(proof).map_err(|_| Refused::Malformed)?;
        let mut attributes = without_proof.split(',');
        let has_begin = attributes.next().is_some_and(|attribute| attribute.starts_with("c="))
            && attributes.next().is_some_and(|attribute| attribute.starts_with("r="));
        if !has_begin || !attributes.all(is_extension) {
            return Err(Refused::Malformed);
        }
        let rest = without_proof.strip_prefix(&*self.begin);
        let rest = rest.ok_or_else(|| Refused::Failed(self.name.clone()))?;
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(Refused::Failed(self.name.clone()));
        }
        Ok(ClientFinal { signed: format!("{}{without_proof}", self.transcript), proof })
    }
}

/// The server's last message, which proves that the server knows the account too.
pub fn server_final(signature: &[u8]) -> String {
    format!("v={}", Base64::encode_string(signature))
}

/// Decodes a name: `=2C` is a comma, `=3D` an equals sign, and no other `=` is allowed.
fn unescaped(name: &str) -> Option<String> {
    let mut pieces = name.split('=');
    let mut unescaped = pieces.next()?.to_owned();
    for piece in pieces {
        let (character, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return None,
        };
        unescaped.push(character);
        unescaped.push_str(rest);
    }
    (!unescaped.is_empty()).then_some(unescaped)
}

/// Whether this is printable ASCII without a comma, and not too long.
fn is_nonce(nonce: &str) -> bool {
    (1..=MAX_NONCE).contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// Whether this attribute may be ignored.
fn is_extension(attribute: &str) -> bool {
    matches!(attribute.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic() && *name != b'm')
}

/// How long a client's nonce may be, because our first message repeats it; 24 octets are usual.
const MAX_NONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    fn expected() -> Expected {
        let first = ClientFirst::parse(FIRST.as_bytes()).unwrap();
        first.challenge(NONCE, &Base64::decode_vec(SALT).unwrap(), 4096).1
    }

    #[test]
    fn the_exchange_of_rfc_7677() {
        let first = ClientFirst::parse(FIRST.as_bytes()).unwrap();
        assert_eq!(first.name, "user");
        let (server_first, expected) = first.challenge(NONCE, &Base64::decode_vec(SALT).unwrap(), 4096);
        assert_eq!(server_first, format!("r=rOprNGfwEbeRWgbNEkqO{NONCE},s={SALT},i=4096"));
        let last = expected.parse(FINAL.as_bytes()).unwrap();
        let without_proof = FINAL.split_once(",p=").unwrap().0;
        assert_eq!(last.signed, format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{server_first},{without_proof}"));
        assert_eq!(Base64::encode_string(&last.proof), FINAL.split_once(",p=").unwrap().1);
    }

    #[test]
    fn first_messages() {
        for (message, name) in [
            ("n,,n=fred,r=x", Ok("fred")),
            ("y,,n=fred,r=x", Ok("fred")),
            ("n,a=fred,n=fred,r=x", Ok("fred")),
            ("n,,n=fred,r=x,z=more", Ok("fred")),
            ("n,,n=a=2Cb=3Dc=2C,r=x", Ok("a,b=c,")),
            ("n,a=a=2Cb,n=a=2Cb,r=x", Ok("a,b")),
            ("n,,n=\u{e9},r=x", Ok("\u{e9}")),
            ("n,a=ann,n=fred,r=x", Err(Refused::Failed("fred".to_owned()))),
            ("p=tls-exporter,,n=fred,r=x", Err(Refused::Malformed)),
            ("n,,m=1,n=fred,r=x", Err(Refused::Malformed)),
            ("n,,n=fred,r=x,m=1", Err(Refused::Malformed)),
            ("n,b=fred,n=fred,r=x", Err(Refused::Malformed)),
            ("n,a=,n=fred,r=x", Err(Refused::Malformed)),
            ("n,,n=,r=x", Err(Refused::Malformed)),
            ("n,,n=fr\0ed,r=x", Err(Refused::Malformed)),
            ("n,,n=fr=ed,r=x", Err(Refused::Malformed)),
            ("n,,n=fred=2c,r=x", Err(Refused::Malformed)),
            ("n,,n=fred,r=", Err(Refused::Malformed)),
            ("n,,n=fred,r=x y", Err(Refused::Malformed)),
            ("n,,r=x,n=fred", Err(Refused::Malformed)),
            ("n,,n=fred", Err(Refused::Malformed)),
            ("n,,", Err(Refused::Malformed)),
            ("n,", Err(Refused::Malformed)),
            ("", Err(Refused::Malformed)),
        ] {
            let first = ClientFirst::parse(message.as_bytes()).map(|first| first.name);
            assert_eq!(first, name.map(str::to_owned), "{message:?}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=x"), Err(Refused::Malformed));
    }

    #[test]
    fn last_messages() {
        let sound = FINAL.split_once(",p=").unwrap().0;
        for (message, outcome) in [
            (FINAL.to_owned(), Ok(())),
            (format!("{sound},x=more,p=AAAA"), Ok(())),
            (format!("{sound},p="), Ok(())),
            (format!("{sound}x,p=AAAA"), Err(Refused::Failed("user".to_owned()))),
            (FINAL.replace("biws", "eSws"), Err(Refused::Failed("user".to_owned()))),
            (FINAL.replace("biws", ""), Err(Refused::Failed("user".to_owned()))),
            (FINAL.replace("k0,", "k1,"), Err(Refused::Failed("user".to_owned()))),
            (FINAL.replace(NONCE, ""), Err(Refused::Failed("user".to_owned()))),
            (format!("{sound},m=more,p=AAAA"), Err(Refused::Malformed)),
            (format!("{sound},p=A"), Err(Refused::Malformed)),
            (sound.to_owned(), Err(Refused::Malformed)),
            ("p=AAAA".to_owned(), Err(Refused::Malformed)),
            (String::new(), Err(Refused::Malformed)),
        ] {
            assert_eq!(expected().parse(message.as_bytes()).map(drop), outcome, "{message:?}");
        }
        assert_eq!(expected().parse(b"c=\xff"), Err(Refused::Malformed));
    }
}
