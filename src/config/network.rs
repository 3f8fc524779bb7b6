//! Networks in CIDR notation (RFC 4632, RFC 4291), as in `net CIDR`. They are parsed strictly, because a network that
//! is larger than intended admits strangers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::peer::embedded_ipv4;

/// All addresses that share the first `prefix` bits of `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether a text in the place of a pattern was meant as a network: it has digits behind a `/`, and characters of
    /// addresses in front of it.
    pub(super) fn is_meant_by(text: &str) -> bool {
        text.split_once('/').is_some_and(|(address, prefix)| {
            let is_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
            address.contains(['.', ':'])
                && address.bytes().all(is_address)
                && !prefix.is_empty()
                && prefix.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
    }

    /// Parses `ADDRESS/PREFIX` or a single address. Host bits and short forms are errors.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IPv4 or IPv6 address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(|| format!("the prefix length of this address is at most {longest}"))?,
            Some(other) => {
                let length = prefix_of_mask(other).filter(|_| address.is_ipv4());
                let meant = length.map_or_else(String::new, |length| format!(": write `{address}/{length}`"));
                return Err(format!("`{other}` is not a prefix length{meant}"));
            }
        };
        if let (IpAddr::V6(v6), 48..=96) = (address, prefix)
            && v6 == FIRST_OF_NAT64
        {
            return Err(format!(
                "peers of `{text}` count as the IPv4 addresses within theirs: write the network of those, or `0.0.0.0/0`"
            ));
        }
        Self::new(address, prefix).ok_or_else(|| {
            let network = masked(address, prefix);
            format!("`{text}` has bits set behind its prefix of {prefix}: write the network's first address, `{network}/{prefix}`")
        })
    }

    /// `None` if the address has bits set behind the prefix. If an IPv6 address contains an IPv4 address, that is used,
    /// as for peers.
    fn new(address: IpAddr, prefix: u32) -> Option<Self> {
        let embedded = match address {
            IpAddr::V6(v6) => embedded_ipv4(v6).zip(prefix.checked_sub(96)),
            IpAddr::V4(_) => None,
        };
        let network = match embedded {
            Some((address, prefix)) => Self { address: address.into(), prefix },
            None => Self { address, prefix },
        };
        network.contains_only_prefix_bits().then_some(network)
    }

    /// Whether the peer's address (in canonical form) belongs to the network.
    pub(super) fn contains(&self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(network), IpAddr::V4(peer)) => {
                u128::from(network.to_bits() ^ peer.to_bits()) & !host_bits(self.prefix, 32) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(peer)) => {
                (network.to_bits() ^ peer.to_bits()) & !host_bits(self.prefix, 128) == 0
            }
            _ => false,
        }
    }

    /// Whether it is so large that nobody owns all of it.
    pub(super) fn is_vast(&self) -> bool {
        self.prefix < if self.address.is_ipv4() { 8 } else { 16 }
    }

    /// The first address.
    pub(super) fn first(&self) -> IpAddr {
        self.address
    }

    /// The network that consists of these two, if they form one.
    pub(super) fn joined(&self, other: &Self) -> Option<Self> {
        let prefix = self.prefix.checked_sub(1).filter(|_| self.prefix == other.prefix && self != other)?;
        let lower = if self.address <= other.address { self } else { other };
        Self::new(lower.address, prefix)
            .filter(|joined| joined.contains(other.address) && joined.contains(self.address))
    }

    fn contains_only_prefix_bits(&self) -> bool {
        let (bits, width) = match self.address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        bits & host_bits(self.prefix, width) == 0
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first of the 2^32 addresses that a NAT64 gives to its IPv4 side (RFC 6052, 2.1).
const FIRST_OF_NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// The first address of the network with this prefix that the address belongs to.
fn masked(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !(host_bits(prefix, 32) as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !host_bits(prefix, 128)).into(),
    }
}

/// The length of the prefix that a mask such as 255.255.255.0 stands for.
fn prefix_of_mask(text: &str) -> Option<u32> {
    let bits = text.parse::<Ipv4Addr>().ok()?.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == u32::BITS).then(|| bits.leading_ones())
}

/// The bits behind the prefix, set.
fn host_bits(prefix: u32, width: u32) -> u128 {
    match width - prefix {
        0 => 0,
        hosts => u128::MAX >> (128 - hosts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_addresses_within_addresses_are_ipv4() {
        for (text, network) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("64:ff9b::10.0.0.0/104", "10.0.0.0/8"),
            ("64:ff9b::c000:200/120", "192.0.2.0/24"),
            ("64:ff9b::192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("64:ff9b:1::/48", "64:ff9b:1::/48"),
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), network);
        }
        for bad in ["64:ff9b::10.0.0.1/104", "64:ff9b::/96", "64:ff9b::/64", "64:ff9b::/48"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_read_strictly() {
        for good in ["192.0.2.0/24", "192.0.2.1", "0.0.0.0/0", "2001:db8::/32", "::1"] {
            assert!(Network::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["10.0.0.1/8", "192.0.2.0/33", "192.0.2.0/-1", "10.0.0/8", "010.0.0.1", "::1/129", "1.2.3.4/255.0.0.0"]
        {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}
