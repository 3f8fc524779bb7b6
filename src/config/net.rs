//! Networks in CIDR notation (RFC 4632, RFC 4291), for `allowgroup +NAME net CIDR`.

use std::net::IpAddr;

/// All addresses that share the first `prefix` bits of `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// `None` if the address has bits set behind the prefix. IPv4-mapped addresses become IPv4, as peers' do.
    pub(super) fn new(address: IpAddr, prefix: u32) -> Option<Self> {
        let network = match address {
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                Self { address: address.to_canonical(), prefix: prefix - 96 }
            }
            _ => Self { address, prefix },
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

/// The bits behind the prefix, set.
fn host_bits(prefix: u32, width: u32) -> u128 {
    match width - prefix {
        0 => 0,
        hosts => u128::MAX >> (128 - hosts),
    }
}
