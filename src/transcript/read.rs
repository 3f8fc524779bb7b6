//! Reads a transcript line by line. What is not understood is an error with the line's number; nothing is guessed.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;

use super::octets::{self, Octets};
use super::{About, CLOSED, Entry, FIRST_LINE, Header, NAME, NO_NAME, Ruled};
use crate::config::Protocol;
use crate::peer::{Address, Peer, TERMINAL, is_valid_hostname};
use crate::smtp::auth::Mechanism;
use crate::smtp::reply::{Reply, Status};

/// A transcript.
#[derive(Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The circumstances.
    pub header: Header,
    /// The entries, each with the number of its line, counted from 1.
    pub entries: Vec<(usize, Entry)>,
}

/// A line that cannot be part of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// What is wrong with a line; empty if it is not a line of a transcript at all.
#[derive(Debug)]
pub(super) struct BadLine(pub(super) String);

impl From<&str> for BadLine {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

impl Transcript {
    /// The text of a file; of one that does not begin as a transcript only so much that [`Self::parse`] can tell, because
    /// it may have no end.
    pub fn text(mut file: impl Read) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        file.by_ref().take(FIRST_LINE.len() as u64).read_to_end(&mut text)?;
        if text.starts_with(NAME.as_bytes()) {
            file.read_to_end(&mut text)?;
        }
        Ok(text)
    }

    /// Reads a transcript. `None` if it is still empty: the session ended before it was known who the peer is.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut lines = Lines { rest: text, number: 0 };
        match lines.next() {
            None if FIRST_LINE.as_bytes().starts_with(text) => return Ok(None),
            None => return Err(Malformed { line: 1, message: not_this_version(text) }),
            Some(line) if line == FIRST_LINE.as_bytes() => {}
            Some(line) => return Err(lines.error(not_this_version(line))),
        }
        let Some(header) = header(&mut lines)? else { return Ok(None) };
        let (mut entries, mut has_ended) = (Vec::new(), false);
        while let Some(line) = lines.next() {
            let entry = entry(line).map_err(|flaw| lines.flaw(flaw))?;
            if has_ended && !matches!(entry, Entry::Reply(_)) {
                return Err(lines.error("this stands behind the end of the session"));
            }
            has_ended |= matches!(entry, Entry::Ended(_));
            entries.push((lines.number, entry));
        }
        Ok(Some(Self { header, entries }))
    }

    /// Whether it says that one side has ended the session in the regular way, so that nothing is missing.
    pub fn was_closed(&self) -> bool {
        self.entries.iter().any(|(_, entry)| matches!(entry, Entry::Ended(how) if how == CLOSED))
    }

    /// Whether it says how the session ended, so that it was not cut off.
    pub fn is_whole(&self) -> bool {
        self.entries.iter().any(|(_, entry)| matches!(entry, Entry::Ended(_)))
    }
}

/// The complete lines.
struct Lines<'t> {
    rest: &'t [u8],
    /// The number of the line that was read last.
    number: usize,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t [u8]> {
        let length = memchr::memchr(b'\n', self.rest)?;
        let line = &self.rest[..length];
        self.rest = &self.rest[length + 1..];
        self.number += 1;
        Some(line)
    }

    fn error(&self, message: impl Into<String>) -> Malformed {
        Malformed { line: self.number, message: message.into() }
    }

    fn flaw(&self, BadLine(message): BadLine) -> Malformed {
        self.error(if message.is_empty() { "no transcript has such a line" } else { &*message })
    }
}

fn not_this_version(line: &[u8]) -> String {
    match line.strip_prefix(NAME.as_bytes()) {
        Some(version) if !version.is_empty() && version.len() < 10 && version.iter().all(u8::is_ascii_digit) => {
            format!("this transcript has version {}, and version 1 is all that is known here", version.escape_ascii())
        }
        _ => format!("this is no transcript: one begins with `{FIRST_LINE}`"),
    }
}

/// Reads the circumstances. `None` if the lines break off.
fn header(lines: &mut Lines<'_>) -> Result<Option<Header>, Malformed> {
    let (mut time, mut protocol, mut proxy, mut peer, mut name) = (None, None, None, None, None);
    loop {
        let Some(line) = lines.next() else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        let (key, value) = keyed(line).map_err(|flaw| lines.flaw(flaw))?;
        let is_again = match key {
            b"time" => time.replace(value).is_some(),
            b"protocol" => protocol.replace(self::protocol(&value).map_err(|flaw| lines.flaw(flaw))?).is_some(),
            b"proxy" => proxy.replace(ip(&value).map_err(|flaw| lines.flaw(flaw))?).is_some(),
            b"peer" => peer.replace(address(&value).map_err(|flaw| lines.flaw(flaw))?).is_some(),
            b"name" if value == NO_NAME || value == TERMINAL || is_valid_hostname(&value) => {
                name.replace(value).is_some()
            }
            b"name" => return Err(lines.error("this is no host name")),
            _ => return Err(lines.error("no transcript has such a line")),
        };
        if is_again {
            return Err(lines.error("this was said before"));
        }
    }
    let (Some(time), Some(protocol), Some(address)) = (time, protocol, peer) else {
        return Err(lines.error("`time`, `protocol` or `peer` is missing above this line"));
    };
    let is_nameless = name.as_deref() == Some(NO_NAME);
    let peer = Peer { address, hostname: name.filter(|_| !is_nameless) };
    Ok(Some(Header { time, protocol, proxy, peer, is_nameless }))
}

/// `KEY: VALUE`
fn keyed(line: &[u8]) -> Result<(&[u8], String), BadLine> {
    let end = line.windows(2).position(|two| two == b": ").ok_or("no transcript has such a line")?;
    Ok((&line[..end], text(&line[end + 2..])?))
}

fn protocol(value: &str) -> Result<Protocol, BadLine> {
    let known = [Protocol::Smtp, Protocol::Lmtp].into_iter().find(|protocol| protocol.to_string() == value);
    known.ok_or_else(|| BadLine::from("the protocol is `SMTP` or `LMTP`"))
}

fn ip(value: &str) -> Result<IpAddr, BadLine> {
    value.parse().map_err(|_| BadLine::from("this is no address"))
}

fn address(value: &str) -> Result<Address, BadLine> {
    match value.strip_prefix("local:") {
        Some("?") => Ok(Address::Local(None)),
        Some(uid) => uid.parse().map(|uid| Address::Local(Some(uid))).map_err(|_| BadLine::from("this is no user")),
        None => ip(value).map(Address::from),
    }
}

fn entry(line: &[u8]) -> Result<Entry, BadLine> {
    let (kind, rest) = match line {
        [kind, b':', b' ', rest @ ..] => (*kind, rest),
        _ => return Err("no transcript has such a line".into()),
    };
    match kind {
        b'C' => Ok(Entry::Said(Octets::parse(rest)?)),
        b'T' => Ok(Entry::Text(Octets::parse(rest)?)),
        b'S' => Ok(Entry::Reply(text(rest)?)),
        b'E' => Ok(Entry::Ended(text(rest)?)),
        b'D' => decision(&fields(rest)?),
        b'N' => note(&fields(rest)?),
        _ => Err("no transcript has such a line".into()),
    }
}

fn fields(line: &[u8]) -> Result<Vec<String>, BadLine> {
    line.split(|octet| *octet == b'\t').map(text).collect()
}

fn decision(fields: &[String]) -> Result<Entry, BadLine> {
    let mut fields = fields.iter().map(|field| &**field);
    let first = fields.next().unwrap_or_default();
    let (second, third, fourth) = (fields.next(), fields.next(), fields.next());
    let unknown = || BadLine::from("no decision is written like this");
    if fields.next().is_some() {
        return Err(unknown());
    }
    if let Some((about, _)) = About::ALL.into_iter().find(|(_, word)| *word == first) {
        return match (second, third, fourth) {
            (Some(verdict), by, None) => {
                Ok(Entry::Ruled(Ruled { about, verdict: verdict.to_owned(), by: by.map(str::to_owned) }))
            }
            _ => Err(unknown()),
        };
    }
    match (first, second, third, fourth) {
        ("asked", Some(words), fault, None) => Ok(Entry::Asked(reply(words, fault)?)),
        ("message", Some("delivered"), Some(id), words) => {
            Ok(Entry::Delivered(id.to_owned(), words.map(|words| reply(words, None)).transpose()?))
        }
        ("message", Some("not delivered"), Some(words), fault) => Ok(Entry::NotDelivered(reply(words, fault)?)),
        _ => Err(unknown()),
    }
}

fn note(fields: &[String]) -> Result<Entry, BadLine> {
    match fields {
        [kind, parameters] if kind == "tls" => Ok(Entry::Secured(parameters.clone())),
        [kind, user, mechanism] if kind == "login" => {
            let is_known = Mechanism::ALL.iter().any(|known| known.name() == mechanism);
            if is_known {
                Ok(Entry::Authenticated(user.clone(), mechanism.clone()))
            } else {
                Err("this is no mechanism".into())
            }
        }
        _ => Err("nothing is noted like this".into()),
    }
}

/// Reads `CODE STATUS TEXT`, with `-` for a missing enhanced code. `fault` is the next field, which may say that it was
/// our fault.
fn reply(words: &str, fault: Option<&str>) -> Result<Reply, BadLine> {
    let is_our_fault = match fault {
        None => false,
        Some(OUR_FAULT) => true,
        Some(_) => return Err("behind a reply stands `our fault` or nothing".into()),
    };
    let mut words = words.splitn(3, ' ');
    let (code, status, text) = (words.next(), words.next(), words.next());
    let code = code.filter(|code| code.len() == 3).and_then(|code| code.parse().ok());
    let status = status.and_then(|status| if status == "-" { Some(None) } else { Some(Some(self::status(status)?)) });
    match (code, status, text) {
        (Some(code), Some(status), Some(text)) => Ok(Reply::passed_on(code, status, text.to_owned(), is_our_fault)),
        _ => Err("this is no reply".into()),
    }
}

fn status(text: &str) -> Option<Status> {
    let mut numbers = text.splitn(3, '.').map(|number| number.parse().ok());
    Some(Status(numbers.next()??, numbers.next()??, numbers.next()??))
}

/// A field as text.
fn text(field: &[u8]) -> Result<String, BadLine> {
    String::from_utf8(octets::field(field)?).map_err(|_| BadLine::from("this is not UTF-8"))
}

/// The field behind a reply that is not the peer's fault.
pub(super) const OUR_FAULT: &str = "our fault";
