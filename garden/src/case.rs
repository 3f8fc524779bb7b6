//! A case: one session that is held with a server, octet by octet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One session: what is sent, and where it waits for a reply.
///
/// Octets may have [placeholders](Placeholder) in them; who holds the session puts in what they stand for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// What it is called in reports and on the command line, unique within a run: `end-of-data/LF.LF/paced`.
    pub name: String,
    /// What is done, in this order.
    pub units: Vec<Unit>,
}

/// A step of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// These octets are sent, in one piece, with no octet added.
    Send {
        /// Which part of the session they are, for who makes a case smaller or combines it with another.
        part: Part,
        /// The octets, placeholders among them.
        #[serde(with = "crate::case::escaped")]
        octets: Vec<u8>,
    },
    /// One reply is waited for, of one line or of several (RFC 5321, 4.2.1).
    Expect {
        /// If the reply is no such one, the rest of the session is not held: `2` for any positive one, `354` for this one;
        /// nothing where any reply will do.
        code: String,
    },
    /// For so long nothing is sent; replies that come meanwhile are read.
    Pause(Duration),
    /// TLS begins, with whatever certificate the server has; what follows is encrypted. In front of everything else it begins
    /// before the greeting (RFC 8314), else behind the reply to STARTTLS (RFC 3207).
    StartTls,
}

/// A part of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// HELO, EHLO or LHLO, with whatever comes before MAIL: STARTTLS, AUTH.
    Helo,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA or BDAT.
    Data,
    /// A line of the header, or some of them, their ends included.
    Header,
    /// The empty line behind the header, and the text.
    Body,
    /// What is meant to end the data, or not to.
    End,
    /// What follows the end of the data: a second transaction, or text that looks like one.
    Tail,
    /// QUIT.
    Quit,
}

/// What stands in the octets of a case for what is only known when it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// A word of letters and digits that no other session has; it tells whose message it is that comes out.
    Token,
    /// The address that mail comes from.
    Source,
    /// An address that the server delivers to, or passes on for, whichever role it is asked in.
    Destination,
    /// The domain that is the server's own.
    Domain,
    /// Another address of the kind of [`Placeholder::Destination`], for a second recipient.
    SecondDestination,
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Token, Self::Source, Self::Destination, Self::Domain, Self::SecondDestination];

    /// How it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Token => "__TOKEN__",
            Self::Source => "__SOURCE__",
            Self::Destination => "__DEST__",
            Self::Domain => "__DOMAIN__",
            Self::SecondDestination => "__DEST2__",
        }
    }
}

/// Octets as text that a person can read and that gives the same octets back: what is printable in ASCII as it is, a
/// backslash doubled, `\r`, `\n`, `\t`, and `\xHH` for the rest.
pub mod escaped {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The text.
    pub fn escape(octets: &[u8]) -> String {
        let mut text = String::with_capacity(octets.len());
        for &octet in octets {
            match octet {
                b'\\' => text.push_str(r"\\"),
                b'\r' => text.push_str(r"\r"),
                b'\n' => text.push_str(r"\n"),
                b'\t' => text.push_str(r"\t"),
                b' '..=b'~' => text.push(char::from(octet)),
                _ => text.push_str(&format!("\\x{octet:02x}")),
            }
        }
        text
    }

    /// The octets.
    ///
    /// # Errors
    ///
    /// A backslash with something behind it that it is never written with, with where it stands, counted in octets from 0.
    pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
        let mut octets = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&octet, behind)) = rest.split_first() {
            rest = behind;
            if octet != b'\\' {
                octets.push(octet);
                continue;
            }
            let at = text.len() - rest.len() - 1;
            let wrong =
                || format!("octet {at}: a backslash is written \\\\, and else one of \\r, \\n, \\t, \\xHH begins here");
            let (&kind, behind) = rest.split_first().ok_or_else(wrong)?;
            rest = behind;
            octets.push(match kind {
                b'\\' => b'\\',
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'x' => {
                    let digits = rest.get(..2).and_then(|digits| str::from_utf8(digits).ok()).ok_or_else(wrong)?;
                    rest = &rest[2..];
                    u8::from_str_radix(digits, 16).map_err(|_| wrong())?
                }
                _ => return Err(wrong()),
            });
        }
        Ok(octets)
    }

    /// Writes them as that text.
    ///
    /// # Errors
    ///
    /// As of the serializer.
    pub fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(octets))
    }

    /// Reads them from that text.
    ///
    /// # Errors
    ///
    /// As of [`unescape`] and of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        unescape(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
