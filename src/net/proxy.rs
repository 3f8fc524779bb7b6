//! The header with which a proxy says whose connection it passes on (haproxy's "The PROXY protocol", versions 1 and 2):
//! bytes in, address out.
//!
//! Whoever may send this header chooses who the peer is. So it is read only if the configuration names the proxy, and
//! it has to be correct to the last byte. Ports are checked and then ignored. Extensions behind the addresses in
//! version 2 are skipped, its checksum too, because TCP has one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::peer::canonical;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The address of the client, [`canonical`]; `None` if the proxy speaks for itself, as in a health check (LOCAL),
    /// or does not know the client (UNKNOWN).
    pub client: Option<IpAddr>,
    /// The length of the header in bytes.
    pub length: usize,
}

/// The input is not a header, for this reason, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHeader(pub &'static str);

/// Reads the header at the beginning of a connection; `None` while it is not complete.
pub fn parse(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    if let Some(rest) = input.strip_prefix(SIGNATURE_2) {
        return binary(rest);
    }
    if input.starts_with(SIGNATURE_1) {
        return line(input);
    }
    match SIGNATURE_1.starts_with(input) || SIGNATURE_2.starts_with(input) {
        true => Ok(None),
        false => Err(NotAHeader("it begins otherwise")),
    }
}

/// Reads version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT`, ended by CRLF.
fn line(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    let within = &input[..input.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() < LONGEST_LINE { Ok(None) } else { Err(NotAHeader("the line is too long")) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(NotAHeader("the line does not end with CRLF"))?;
    let text = std::str::from_utf8(line).map_err(|_| NotAHeader("the line is not ASCII"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let client = match words[..] {
        // Anything may follow.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", source, destination, from, to] => {
            let source = addresses::<Ipv4Addr>(source, destination, [from, to])?;
            Some(IpAddr::V4(source))
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            let source = addresses::<Ipv6Addr>(source, destination, [from, to])?;
            Some(IpAddr::V6(source))
        }
        _ => return Err(NotAHeader("the line is not PROXY, TCP4 or TCP6, two addresses and two ports")),
    };
    Ok(Some(Header { client: client.map(canonical), length: end + 1 }))
}

/// The source address, if both addresses and both ports are valid.
fn addresses<A: std::str::FromStr>(source: &str, destination: &str, ports: [&str; 2]) -> Result<A, NotAHeader> {
    let is_port = |port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        digits && (port == "0" || !port.starts_with('0')) && port.parse::<u16>().is_ok()
    };
    match (source.parse(), destination.parse::<A>()) {
        (Ok(source), Ok(_)) if ports.into_iter().all(is_port) => Ok(source),
        (Ok(_), Ok(_)) => Err(NotAHeader("a port is none")),
        _ => Err(NotAHeader("an address is none of its family")),
    }
}

/// Reads version 2 behind its signature: version and command, family, length, and so many bytes, which begin with
/// addresses.
fn binary(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    // Each byte is checked as soon as it comes, so that nobody waits for the rest of something wrong.
    let is_local = match input.first() {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(NotAHeader("its version or its command is unknown")),
    };
    let Some((&[_, family, high, low], rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if SIGNATURE_2.len() + 4 + length > LONGEST {
        return Err(NotAHeader("it is too long"));
    }
    // Source and destination address, and two ports for the network families.
    let needed = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 2 * 4 + 2 * 2,
        0x21 => 2 * 16 + 2 * 2,
        // A Unix socket on the proxy's machine.
        0x31 => 2 * 108,
        _ => return Err(NotAHeader("its family is not one of TCP")),
    };
    if length < needed {
        return Err(NotAHeader("it has no room for its addresses"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let client = match family {
        _ if is_local => None,
        0x11 => body.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        0x21 => body.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    };
    Ok(Some(Header { client: client.map(canonical), length: SIGNATURE_2.len() + 4 + length }))
}

/// The longest header that is accepted: longer than any that proxies send, and short enough for one read.
pub const LONGEST: usize = 4096;

/// The longest line of version 1, with its end (section 2.1).
const LONGEST_LINE: usize = 107;

const SIGNATURE_1: &[u8] = b"PROXY ";

/// (Section 2.2.)
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str, length: usize) -> Result<Option<Header>, NotAHeader> {
        Ok(Some(Header { client: Some(address.parse().unwrap()), length }))
    }

    fn nobody(length: usize) -> Result<Option<Header>, NotAHeader> {
        Ok(Some(Header { client: None, length }))
    }

    /// A header of version 2.
    fn second(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[command, family], &length, body].concat()
    }

    /// Whatever follows, and however much of it is there.
    fn check(header: &[u8], expected: Result<Option<Header>, NotAHeader>) {
        let shown = header.escape_ascii().to_string();
        let with_more = [header, b"EHLO x\r\n"].concat();
        assert_eq!(parse(header), expected, "{shown}");
        assert_eq!(parse(&with_more), expected, "{shown}");
        if expected.is_ok() {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{length} bytes of {shown}");
            }
        }
    }

    #[test]
    fn lines() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", client("192.0.2.7", 44)),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255", 56)),
            ("PROXY TCP4 192.0.2.7 192.0.2.7 0 1\r\n", client("192.0.2.7", 36)),
            ("PROXY TCP6 2001:db8::7 ::1 1 25\r\n", client("2001:db8::7", 33)),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n", client("192.0.2.7", 38)),
            ("PROXY UNKNOWN\r\n", nobody(15)),
            ("PROXY UNKNOWN ffff::1 192.0.2.7 x\r\n", nobody(35)),
        ] {
            check(line.as_bytes(), expected);
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE - 16));
        check(longest.as_bytes(), nobody(LONGEST_LINE));
        for line in [
            "EHLO x\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7\t198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 ::1 1 25\r\n",
            "PROXY TCP4 ::1 ::1 1 25\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 25\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n",
            "PROXY TCP6 [::1] ::1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 \r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7\r 198.51.100.1 1 25\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE - 15)),
            &format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE)),
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(parse(b"PROXY UNKNOWN \xff\r\n").is_err());
    }

    #[test]
    fn binary_headers() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0, 25];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let mut mapped = v6;
        mapped[..16].copy_from_slice(&"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        // Among others a checksum that is wrong.
        let more = [&v4[..], &[3, 0, 4, 1, 2, 3, 4], &[0xff; 1000]].concat();
        let longest = [&v4[..], &[0; LONGEST - 16 - 12]].concat();
        for (header, expected) in [
            (second(0x21, 0x11, &v4), client("192.0.2.7", 28)),
            (second(0x21, 0x21, &v6), client("2001:db8::7", 52)),
            (second(0x21, 0x21, &mapped), client("192.0.2.7", 52)),
            (second(0x21, 0x11, &more), client("192.0.2.7", 16 + 12 + 7 + 1000)),
            (second(0x21, 0x11, &longest), client("192.0.2.7", LONGEST)),
            (second(0x20, 0x11, &v4), nobody(28)),
            (second(0x20, 0x00, b""), nobody(16)),
            (second(0x20, 0xff, b"anything"), nobody(24)),
            (second(0x21, 0x00, b""), nobody(16)),
            (second(0x21, 0x00, &v6), nobody(52)),
            (second(0x21, 0x31, &[0; 216]), nobody(16 + 216)),
        ] {
            check(&header, expected);
        }
        for header in [
            second(0x11, 0x11, &v4),
            second(0x22, 0x11, &v4),
            second(0x31, 0x11, &v4),
            second(0x21, 0x11, &v4[..11]),
            second(0x21, 0x21, &v6[..35]),
            second(0x21, 0x31, &[0; 215]),
            second(0x21, 0x12, &v4),
            second(0x21, 0x10, &v4),
            second(0x21, 0x22, &v6),
            second(0x21, 0x41, &v6),
            second(0x21, 0xff, &v6),
            second(0x21, 0x11, &[0; LONGEST - 16 + 1]),
            second(0x20, 0x00, &[0; 0xffff]),
        ] {
            assert!(parse(&header).is_err(), "{}", header.escape_ascii());
        }
    }
}
