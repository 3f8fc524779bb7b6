//! A case: one session with a server, described octet by octet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One session: what is sent, and where it waits for a reply.
///
/// Octets may contain [placeholders](Placeholder), which are replaced when the session is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// Its name in reports and on the command line, unique within a run: `end-of-data/LF.LF/paced`.
    pub name: String,
    /// The steps, in order.
    pub units: Vec<Unit>,
}

/// A step of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Sends these octets in one piece and adds nothing. Consecutive steps of this kind are sent in one piece too: see
    /// [`piece`].
    Send {
        /// The part of the session that they belong to, used when a case is made smaller or combined with another.
        part: Part,
        /// The octets, with placeholders.
        #[serde(with = "crate::case::escaped")]
        octets: Vec<u8>,
    },
    /// Waits for one reply of one or more lines (RFC 5321, 4.2.1).
    Expect {
        /// The beginning of the expected code: `2` for any positive reply, `354` for exactly that one, empty for any
        /// reply. If another reply comes, the rest of the session is not held.
        code: String,
    },
    /// Sends nothing for this long. Replies that come meanwhile are read, and no later [`Unit::Expect`] waits for them.
    Pause(Duration),
    /// Begins TLS and accepts any certificate; what follows is encrypted. As the first step it begins before the
    /// greeting (RFC 8314), otherwise after the reply to STARTTLS (RFC 3207).
    StartTls,
}

/// The octets that are sent in one piece from the beginning of these units, and the number of units in that piece:
/// everything before the next wait. So a case can distinguish its parts and still send them in one segment.
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
    /// HELO, EHLO or LHLO, and everything else before MAIL: STARTTLS, AUTH.
    Helo,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA or BDAT.
    Data,
    /// One or more lines of the header, with their ends.
    Header,
    /// The empty line behind the header, and the text.
    Body,
    /// What should end the data, or should not.
    End,
    /// What follows the end of the data: a second transaction, or text that looks like one.
    Tail,
    /// QUIT.
    Quit,
}

impl Part {
    /// All parts, in the order of a session.
    pub const ALL: [Self; 9] =
        [Self::Helo, Self::Mail, Self::Rcpt, Self::Data, Self::Header, Self::Body, Self::End, Self::Tail, Self::Quit];

    /// Its name in payload files and reports.
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

/// Stands in the octets of a case for something that is known only when the session is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// A word of letters and digits that no other session has; it shows which session a message belongs to. It has
    /// [`TOKEN_LENGTH`] octets, as many as the placeholder itself, so that lengths in a case (BDAT) stay correct.
    Token,
    /// The address of the sender.
    Source,
    /// An address that the server delivers to, or passes mail on for, depending on the role in which it is asked.
    Destination,
    /// The server's own domain.
    Domain,
    /// Another address of the same kind as [`Placeholder::Destination`], for a second recipient.
    SecondDestination,
    /// The part of [`Placeholder::Destination`] before its last `@`.
    User,
    /// The part of [`Placeholder::Destination`] behind its last `@`.
    Host,
}

/// The length of a token in octets.
pub const TOKEN_LENGTH: usize = Placeholder::Token.text().len();

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Token, Self::Source, Self::Destination, Self::Domain, Self::SecondDestination, Self::User, Self::Host];

    /// How it is written in a case.
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

    /// Replaces each placeholder in these octets. The replacements are not searched again.
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

/// Octets as readable text from which the same octets can be restored: printable ASCII as it is, backslashes doubled,
/// `\r`, `\n`, `\t`, and `\xHH` for the rest.
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

    /// Restores the octets from their text.
    ///
    /// # Errors
    ///
    /// An escape that does not exist, with its position in octets, counted from 0.
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

    /// Writes the octets as text.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(octets))
    }

    /// Reads the octets from text.
    ///
    /// # Errors
    ///
    /// Those of [`unescape`] and of the deserializer.
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
