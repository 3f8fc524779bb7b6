//! The running sessions, and which peer may have one more.

use std::net::{IpAddr, Ipv6Addr};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::metrics::{Counter, Family, Record};
use crate::peer::Address;

/// A receiver and its peer.
pub(super) struct Session {
    pub(super) process: Pid,
    pub(super) peer: Address,
    /// The file with its counts, if they are wanted.
    pub(super) record: Option<Record>,
}

pub(super) struct Sessions {
    running: Vec<Session>,
    /// How many sessions there may be.
    most: usize,
    /// How many of them there may be with one peer.
    most_per_address: usize,
}

/// What the configuration says of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No line names it.
    Stranger,
    /// A line allows it to send mail.
    Expected,
    /// It is a proxy, which stands for many peers.
    Proxy,
}

/// Why there is no place for a peer.
pub(super) struct Crowd {
    /// The peer, or the network that has all the sessions it may have.
    pub(super) network: String,
    /// The counter of refusals by this limit: of all places, of an address or of a network.
    pub(super) counter: Counter,
    /// How many sessions that peer or network has.
    pub(super) sessions: usize,
}

impl Sessions {
    /// No sessions yet. There may be `most` of them, and `most_per_address` with one peer.
    pub(super) fn new(most: usize, most_per_address: usize) -> Self {
        Self { running: Vec::new(), most, most_per_address }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether half of the places are taken.
    pub(super) fn are_scarce(&self) -> bool {
        self.len() >= self.most.div_ceil(2)
    }

    pub(super) fn add(&mut self, session: Session) {
        self.running.push(session);
    }

    /// Removes the sessions that have ended and returns them, with the signal that killed them, if one did. As the
    /// first process of a container we also reap processes that commands leave behind.
    pub(super) fn reap(&mut self) -> Vec<(Session, Option<Signal>)> {
        let mut over = Vec::new();
        while let Some((ended, status)) = ended_child() {
            let Some(place) = self.running.iter().position(|session| session.process == ended) else { continue };
            let session = self.running.swap_remove(place);
            over.push(match status {
                WaitStatus::Signaled(_, signal, _) => (session, Some(signal)),
                _ => (session, None),
            });
        }
        over
    }

    /// The counts of the running sessions.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.running.iter().filter_map(|session| session.record.as_ref())
    }

    /// Asks all sessions to end.
    pub(super) fn ask_to_end(&self) {
        for session in &self.running {
            let _ = kill(session.process, Signal::SIGTERM);
        }
    }

    /// Whether there may be one more session with this peer. `standing` is asked only if it makes a difference: an
    /// expected peer may have more sessions than its share until places are scarce; a proxy, and users of this host,
    /// may have all that there are.
    pub(super) fn has_place_for(&self, peer: Address, standing: impl FnOnce(IpAddr) -> Standing) -> Result<(), Crowd> {
        let Address::Ip(peer) = peer else {
            let is_local = |session: &&Session| matches!(session.peer, Address::Local(_));
            let sessions = self.running.iter().filter(is_local).count();
            let counter = const { Family::ConnectionsRefused.with("all_places") };
            let crowd = Crowd { counter, network: "users of this host".to_owned(), sessions };
            return if self.len() >= self.most { Err(crowd) } else { Ok(()) };
        };
        if self.len() >= self.most {
            let counter = const { Family::ConnectionsRefused.with("all_places") };
            return Err(Crowd { counter, ..self.crowd(peer, ADDRESS_BITS) });
        }
        let is_full = |bits, times| self.sessions_with(peer, bits) >= self.most_per_address.saturating_mul(times);
        match NETWORKS.iter().find(|(bits, times)| is_full(*bits, *times)) {
            None => Ok(()),
            Some((bits, _)) => match standing(peer) {
                Standing::Proxy => Ok(()),
                Standing::Expected if !self.are_scarce() => Ok(()),
                Standing::Expected | Standing::Stranger => Err(self.crowd(peer, *bits)),
            },
        }
    }

    fn crowd(&self, peer: IpAddr, bits: u32) -> Crowd {
        let network = match peer {
            IpAddr::V4(_) => "this peer".to_owned(),
            IpAddr::V6(_) => format!("{}/{bits}", network_of(peer, bits)),
        };
        let counter = match bits {
            ADDRESS_BITS => const { Family::ConnectionsRefused.with("address") },
            _ => const { Family::ConnectionsRefused.with("network") },
        };
        Crowd { network, counter, sessions: self.sessions_with(peer, bits) }
    }

    /// How many sessions there are with the peer's network.
    fn sessions_with(&self, peer: IpAddr, bits: u32) -> usize {
        let network = network_of(peer, bits);
        let peers = self.running.iter().filter_map(|session| session.peer.ip());
        peers.filter(|peer| network_of(*peer, bits) == network).count()
    }
}

fn ended_child() -> Option<(Pid, WaitStatus)> {
    let status = waitpid(None, Some(WaitPidFlag::WNOHANG)).ok()?;
    Some((status.pid()?, status))
}

/// The networks that are counted, by the number of bits of an IPv6 address, and how many times as many sessions as a
/// single address each may have. A customer gets a network of 64 bits without asking, and up to 48 bits on request (RFC
/// 6177). With the defaults these may have 50 and 100 of 200 places.
const NETWORKS: [(u32, usize); 2] = [(ADDRESS_BITS, 1), (48, 2)];

/// An IPv6 network of this many bits is treated like an IPv4 address.
const ADDRESS_BITS: u32 = 64;

/// The network of an IPv6 address, by its first `bits`. An IPv4 address stands for itself.
fn network_of(peer: IpAddr, bits: u32) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = |peer: &str, bits| network_of(peer.parse().unwrap(), bits).to_string();
        assert_eq!(network("2001:db8:1:f2e3:3:4:5:6", 64), "2001:db8:1:f2e3::");
        assert_eq!(network("2001:db8:1:f2e3::1", 48), "2001:db8:1::");
        for (bits, _) in NETWORKS {
            assert_eq!(network("192.0.2.7", bits), "192.0.2.7");
        }
    }
}
