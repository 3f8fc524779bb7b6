//! A case in the form for one server: with its greeting, and logged in if it requires that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::case::{Case, Part, Unit};

/// How a server has to be greeted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hello {
    /// As the case has it.
    #[default]
    AsItIs,
    /// With HELO, because it has no other greeting.
    Helo,
    /// With LHLO, because it speaks LMTP (RFC 2033).
    Lhlo,
}

/// The case adapted to this server: with its greeting, and logged in if it requires that. Only parts of kind
/// [`Part::Helo`] are changed, and in them only the first verb. Also returns, for each unit, the index of the original
/// unit that it came from or follows.
pub fn adapt(case: &Case, hello: Hello, login: Option<&str>) -> (Case, Vec<usize>) {
    let mut adapted = Case { name: case.name.clone(), units: Vec::with_capacity(case.units.len() + 2) };
    let mut origins = Vec::with_capacity(case.units.len() + 2);
    let mut login = login.map(|line| format!("{line}\r\n").into_bytes());
    // A login follows the reply to the greeting; if the greeting is sent in one piece with what follows, it follows the
    // greeting directly.
    let mut is_due = false;
    for (index, unit) in case.units.iter().enumerate() {
        let mut unit = unit.clone();
        let is_greeting = matches!(unit, Unit::Send { part: Part::Helo, .. });
        if let Unit::Send { part: Part::Helo, octets } = &mut unit {
            *octets = greeting(octets, hello);
            is_due = matches!(case.units.get(index + 1), Some(Unit::Expect { .. }));
            if !is_due && let Some(line) = login.take() {
                let end = octets.iter().position(|&octet| octet == b'\n').map_or(octets.len(), |at| at + 1);
                octets.splice(end..end, line);
            }
        }
        adapted.units.push(unit);
        origins.push(index);
        if is_due
            && !is_greeting
            && let Some(octets) = login.take()
        {
            adapted.units.extend([Unit::Send { part: Part::Helo, octets }, Unit::Expect { code: "2".into() }]);
            origins.extend([index; 2]);
        }
    }
    (adapted, origins)
}

fn greeting(octets: &[u8], hello: Hello) -> Vec<u8> {
    let verb = match hello {
        Hello::AsItIs => return octets.to_vec(),
        Hello::Helo => "HELO",
        Hello::Lhlo => "LHLO",
    };
    match octets.get(..5) {
        Some(first) if [&b"HELO "[..], b"EHLO ", b"LHLO "].iter().any(|known| first.eq_ignore_ascii_case(known)) => {
            [verb.as_bytes(), &octets[4..]].concat()
        }
        _ => octets.to_vec(),
    }
}

/// The line with which this user logs in (RFC 4616).
pub fn auth_plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
}
