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
    /// These octets are sent, in one piece, with no octet added. Such steps that follow one another are one piece as well:
    /// see [`piece`].
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
    /// For so long nothing is sent; replies that come meanwhile are read, and no later [`Unit::Expect`] is about them.
    Pause(Duration),
    /// TLS begins, with whatever certificate the server has; what follows is encrypted. In front of everything else it begins
    /// before the greeting (RFC 8314), else behind the reply to STARTTLS (RFC 3207).
    StartTls,
}

/// The octets that go out in one piece where these units begin, and the number of units that they are: all that is sent
/// before anything is waited for. So a case may tell its parts from one another, and send them in one segment all the same.
pub fn piece(units: &[Unit]) -> (Vec<u8>, usize) {
    let sent = |unit: &Unit| match unit {
        Unit::Send { octets, .. } => Some(octets.clone()),
        Unit::Expect { .. } | Unit::Pause(_) | Unit::StartTls => None,
    };
    let pieces: Vec<_> = units.iter().map_while(sent).collect();
    (pieces.concat(), pieces.len())
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

impl Part {
    /// All of them, in the order of a session.
    pub const ALL: [Self; 9] =
        [Self::Helo, Self::Mail, Self::Rcpt, Self::Data, Self::Header, Self::Body, Self::End, Self::Tail, Self::Quit];

    /// What it is called in payload files and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Helo => "helo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Header => "header",
            Self::Body => "body",
            Self::End => "end",
            Self::Tail => "tail",
            Self::Quit => "quit",
        }
    }
}

/// What stands in the octets of a case for what is only known when it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// A word of letters and digits that no other session has; it tells whose message it is that comes out. It has
    /// [`TOKEN_LENGTH`] octets, as many as what stands for it, so that lengths which a case gives (BDAT) hold for what is sent.
    Token,
    /// The address that mail comes from.
    Source,
    /// An address that the server delivers to, or passes on for, whichever role it is asked in.
    Destination,
    /// The domain that is the server's own.
    Domain,
    /// Another address of the kind of [`Placeholder::Destination`], for a second recipient.
    SecondDestination,
    /// What stands before the last `@` of [`Placeholder::Destination`].
    User,
    /// What stands behind the last `@` of [`Placeholder::Destination`].
    Host,
}

/// How many octets a token has.
pub const TOKEN_LENGTH: usize = Placeholder::Token.text().len();

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Token, Self::Source, Self::Destination, Self::Domain, Self::SecondDestination, Self::User, Self::Host];

    /// How it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Token => "__TOKEN__",
            Self::Source => "__SOURCE__",
            Self::Destination => "__DEST__",
            Self::Domain => "__DOMAIN__",
            Self::SecondDestination => "__DEST2__",
            Self::User => "__USER__",
            Self::Host => "__HOST__",
        }
    }

    /// These octets with each placeholder replaced by what it stands for; what is put in is not looked through again.
    pub fn fill(octets: &[u8], stands_for: impl Fn(Self) -> String) -> Vec<u8> {
        let mut filled = Vec::with_capacity(octets.len());
        let mut rest = octets;
        while let Some(&octet) = rest.first() {
            let placeholder = match octet {
                b'_' => Self::ALL.into_iter().find(|placeholder| rest.starts_with(placeholder.text().as_bytes())),
                _ => None,
            };
            match placeholder {
                Some(placeholder) => {
                    filled.extend(stands_for(placeholder).into_bytes());
                    rest = &rest[placeholder.text().len()..];
                }
                None => {
                    filled.push(octet);
                    rest = &rest[1..];
                }
            }
        }
        filled
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
                    let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                    let digits = digits.and_then(|digits| str::from_utf8(digits).ok()).ok_or_else(wrong)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_escape_is_written_in_one_way() {
        for wrong in ["\\", "\\q", "\\x", "\\x1", "\\x+f", "\\x-1", "\\xg0", "\\x é", "\\0", "\\101"] {
            assert!(escaped::unescape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn placeholders_are_filled_in_once() {
        let value = |placeholder| match placeholder {
            Placeholder::Token => "__DEST__".to_owned(),
            Placeholder::User => String::new(),
            other => other.text().to_lowercase(),
        };
        let filled = Placeholder::fill(b"___TOKEN____USER__@__HOST__ __NAME__ _ __ __DEST__", value);
        assert_eq!(filled, b"___DEST__@__host__ __NAME__ _ __ __dest__");
    }

    #[test]
    fn a_token_is_as_long_as_what_stands_for_it() {
        assert_eq!(TOKEN_LENGTH, 9);
    }

    #[test]
    fn what_is_sent_before_anything_is_waited_for_is_one_piece() {
        let send = |octets: &[u8]| Unit::Send { part: Part::Body, octets: octets.to_vec() };
        let units = [send(b"a"), send(b""), send(b"b"), Unit::Expect { code: String::new() }, send(b"c")];
        assert_eq!(piece(&units), (b"ab".to_vec(), 3));
        assert_eq!(piece(&units[3..]), (Vec::new(), 0));
    }

    proptest! {
        #[test]
        fn octets_written_as_text_are_read_as_they_were(octets: Vec<u8>) {
            let text = escaped::escape(&octets);
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(escaped::unescape(&text), Ok(octets));
        }
    }
}
