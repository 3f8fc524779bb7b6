//! The header of a proxy: it is found where it ends, however much of it is there, and what it says is what a reader who
//! takes it for text or for numbers finds in it.
//!
//! An input is what a connection begins with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mailrecv::net::proxy::{self, Header, LONGEST, NotAHeader};
use mailrecv::peer::canonical;

/// Reads the header in full and from all of its beginnings.
pub fn check(input: &[u8]) {
    let whole = proxy::parse(input);
    match whole {
        Ok(Some(header)) => check_header(&input[..header.length], header),
        Ok(None) => assert!(input.len() < LONGEST, "nobody knows after {} bytes", input.len()),
        Err(NotAHeader(why)) => assert!(!why.is_empty()),
    }
    // A verdict is for good.
    let decided = (0..=input.len()).find(|length| proxy::parse(&input[..*length]) != Ok(None));
    for length in (decided.unwrap_or(input.len())..=input.len()).step_by(7) {
        let same = matches!(
            (proxy::parse(&input[..length]), whole),
            (Ok(None), Ok(None)) | (Err(_), Err(_)) | (Ok(Some(_)), Ok(Some(_)))
        );
        assert!(same, "{length} bytes of {:?}", input.escape_ascii().to_string());
    }
    if let (Ok(Some(header)), Some(decided)) = (whole, decided) {
        assert_eq!(decided, header.length, "a header is known when its last byte is there, and not before");
    }
}

fn check_header(bytes: &[u8], header: Header) {
    assert!(bytes.len() <= LONGEST);
    assert!(header.client.is_none_or(|client| client == canonical(client)), "{header:?}");
    let expected = match bytes.strip_prefix(b"PROXY ") {
        Some(line) => {
            assert!(bytes.len() <= 107 && bytes.ends_with(b"\r\n"));
            let words: Vec<String> = String::from_utf8_lossy(line).split_whitespace().map(str::to_owned).collect();
            (words[0] != "UNKNOWN").then(|| words[1].parse::<IpAddr>().expect("an address"))
        }
        None => {
            assert_eq!(usize::from(bytes[14]) * 256 + usize::from(bytes[15]), bytes.len() - 16);
            let octets = |at: usize| bytes[16 + at];
            match (bytes[12] & 1, bytes[13]) {
                (1, 0x11) => Some(Ipv4Addr::from(std::array::from_fn(octets)).into()),
                (1, 0x21) => Some(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(octets)).into()),
                _ => None,
            }
        }
    };
    assert_eq!(header.client, expected.map(canonical));
}
