//! The parameters of MAIL and RCPT (RFC 5321, 4.1.1.11).

use super::{Dialect, MAX_SIZE_DIGITS, SyntaxError};
use crate::hexadecimal;

/// The parameters of MAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// `SIZE=`: how many octets the message will have (RFC 1870). More digits than fit count as the largest number.
    pub size: Option<u64>,
    /// `BODY=` was given (RFC 6152); both of its values are accepted, because every message is taken as bytes.
    pub body: bool,
    /// `SMTPUTF8` was given (RFC 6531, 3.4), where it is offered.
    pub utf8: bool,
    /// Whether parameters of [`UNOFFERED_AT_MAIL`] were given.
    pub unoffered: bool,
}

impl MailParameters {
    /// Reads what stands behind the path.
    pub(super) fn parse(text: &str, dialect: Dialect<'_>) -> Result<Self, SyntaxError> {
        let mut parameters = Self::default();
        for (name, value) in each_parameter(text) {
            if name.eq_ignore_ascii_case("SIZE") {
                let digits = value.unwrap_or_default();
                let sound =
                    (1..=MAX_SIZE_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
                if !sound {
                    return Err(SyntaxError::ParameterValue);
                }
                parameters.size = Some(digits.parse().unwrap_or(u64::MAX));
            } else if name.eq_ignore_ascii_case("BODY") {
                let known = |value: &str| ["7BIT", "8BITMIME"].iter().any(|known| value.eq_ignore_ascii_case(known));
                if !value.is_some_and(known) {
                    return Err(SyntaxError::ParameterValue);
                }
                parameters.body = true;
            } else if name.eq_ignore_ascii_case("SMTPUTF8") && !dialect.ascii {
                if value.is_some() {
                    return Err(SyntaxError::ParameterValue);
                }
                parameters.utf8 = true;
            } else if is_one_of(name, &UNOFFERED_AT_MAIL) {
                parameters.unoffered = true;
            } else {
                return Err(SyntaxError::UnknownParameter);
            }
        }
        Ok(parameters)
    }
}

/// The parameters of RCPT, of which none is offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// `ORCPT=`: whom the message was for at first (RFC 3461, 4.2), in printable ASCII.
    pub original: Option<String>,
    /// Whether there were any.
    pub unoffered: bool,
}

impl RcptParameters {
    /// Reads what stands behind the path.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parameters = Self::default();
        for (name, value) in each_parameter(text) {
            if !is_one_of(name, &UNOFFERED_AT_RCPT) {
                return Err(SyntaxError::UnknownParameter);
            }
            parameters.unoffered = true;
            if name.eq_ignore_ascii_case("ORCPT") {
                parameters.original = value.map(original_recipient);
            }
        }
        Ok(parameters)
    }
}

/// The address of `type;address`, where the address is xtext (RFC 3461, 4.2): `+` and two hexadecimal digits stand for
/// a byte. Commands get it in their environment, so what is not printable ASCII becomes `?`.
fn original_recipient(value: &str) -> String {
    let mut rest = value.split_once(';').map_or(value, |(_, address)| address).as_bytes();
    let mut address = String::with_capacity(rest.len());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let digits = rest.first_chunk().filter(|_| byte == b'+');
        let encoded = digits.and_then(|digits| hexadecimal::octet(*digits));
        if encoded.is_some() {
            rest = &rest[2..];
        }
        let byte = encoded.unwrap_or(byte);
        address.push(if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '?' });
    }
    address
}

/// Each parameter, with its value if it has one (RFC 5321, 4.1.2).
fn each_parameter(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let words = text.split_ascii_whitespace();
    words.map(|word| word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))))
}

fn is_one_of(name: &str, known: &[&str]) -> bool {
    known.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Parameters that clients send to servers that do not offer them, and that change nothing about a final delivery: who
/// submitted the message (RFC 4954, 5), what a report should look like (RFC 3461, 4.3 and 4.4), and that the header is
/// UTF-8 (RFC 6531, 3.4). Exim and Postfix accept these too. Any other parameter asks for something that we would not
/// do (RFC 5321, 4.1.1.11), and both of them refuse it.
const UNOFFERED_AT_MAIL: [&str; 4] = ["AUTH", "RET", "ENVID", "SMTPUTF8"];
/// The same for RCPT: when to report and about which address (RFC 3461, 4.1 and 4.2); Postfix accepts these.
const UNOFFERED_AT_RCPT: [&str; 2] = ["NOTIFY", "ORCPT"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

    const DIALECT: Dialect<'static> = Dialect { protocol: Protocol::Smtp, ascii: true, own_domain: "own.example" };

    #[test]
    fn parameters_of_mail() {
        let parameters = |text: &str| MailParameters::parse(text, DIALECT);
        assert_eq!(parameters(" size=18446744073709551616 BODY=8bitmime").unwrap().size, Some(u64::MAX));
        assert_eq!(parameters(" SIZE=1 SIZE=2 BODY=7BIT BODY=7BIT").unwrap().size, Some(2));
        for text in ["SIZE", "SIZE=", "SIZE=-1", "SIZE=+1", "SIZE=1e3", "SIZE=0x10", "BODY", "BODY=", "BODY=X"] {
            assert_eq!(parameters(text), Err(SyntaxError::ParameterValue), "{text}");
        }
        for text in ["AUTH=<>", "AUTH=<user>", "auth", "RET=HDRS", "ENVID=x", "SMTPUTF8"] {
            assert_eq!(parameters(text), Ok(MailParameters { unoffered: true, ..MailParameters::default() }), "{text}");
        }
        let utf8 = |text: &str| MailParameters::parse(text, Dialect { ascii: false, ..DIALECT });
        assert_eq!(utf8("smtputf8"), Ok(MailParameters { utf8: true, ..MailParameters::default() }));
        assert_eq!(utf8("SMTPUTF8="), Err(SyntaxError::ParameterValue));
        for text in
            ["FOO=BAR", "=x", "A==b", "NOTIFY=NEVER", "SOLICIT=x", "BY=100;R", "HOLDFOR=5", "REQUIRETLS", "PRDR"]
        {
            assert_eq!(parameters(text), Err(SyntaxError::UnknownParameter), "{text}");
        }
    }

    #[test]
    fn parameters_of_rcpt() {
        for (text, original) in [
            ("NOTIFY=NEVER", None),
            ("notify", None),
            ("ORCPT", None),
            ("ORCPT=rfc822;x", Some("x")),
            ("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb+40c.example", Some("a+b@c.example")),
            ("ORCPT=x", Some("x")),
            ("ORCPT=;", Some("")),
            ("ORCPT=rfc822;a+0Ab+00c+1B+7f+C3+BC", Some("a?b?c????")),
            ("ORCPT=rfc822;a+b+4+4x+", Some("a+b+4+4x+")),
            ("ORCPT=rfc822;+2B41", Some("+41")),
        ] {
            let original = original.map(str::to_owned);
            assert_eq!(RcptParameters::parse(text), Ok(RcptParameters { original, unoffered: true }), "{text}");
        }
        for text in ["SIZE=1", "BODY=7BIT", "AUTH=<>", "FOO", "<c@d>"] {
            assert_eq!(RcptParameters::parse(text), Err(SyntaxError::UnknownParameter), "{text}");
        }
    }
}
