//! The peers in `allow remotehost`, `deny remotehost` and `allowgroup`: those whose name or address matches a pattern,
//! those in a network, a user of this machine at a Unix socket (whose address is `local` to patterns), those under TLS,
//! and those who have logged in with a name that matches a pattern.

use std::cell::OnceCell;
use std::net::IpAddr;

use regex::bytes::Regex;
use regex_syntax::hir::Look;

use super::address_only::{self, Meanings};
use super::compiler;
use super::network::Network;
use super::pattern::{BrokenPattern, Pattern, Position};
use super::trace::{Note, Trace};
use crate::peer::{Address, Peer};
use crate::untrusted::Untrusted;

/// A peer, and what else rules may ask about its connection.
#[derive(Debug, Clone, Copy)]
pub struct Who<'p> {
    /// The peer.
    pub peer: &'p Peer,
    /// Whether the connection is under TLS.
    pub is_secured: bool,
    /// The account that it has logged in to (AUTH).
    pub user: Option<&'p str>,
}

impl<'p> Who<'p> {
    /// A peer without TLS that has not logged in.
    pub fn in_the_clear(peer: &'p Peer) -> Self {
        Self { peer, is_secured: false, user: None }
    }
}

/// The peers that a line of the configuration names.
#[derive(Debug)]
pub(super) enum Peers {
    Pattern(PeerPattern),
    Network(Network, Position),
    /// The user with this number, at a Unix socket.
    User(u32, Position),
    /// All peers under TLS.
    Secured(Position),
    /// Users with a name that the pattern matches.
    Authenticated(Pattern),
}

impl Peers {
    /// Whether this peer is one of them. `what` is the directive or group that asks, for the trace.
    pub(super) fn include(&self, who: Who<'_>, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let Who { peer, is_secured, user } = who;
        match self {
            Peers::Pattern(pattern) => pattern.fits(peer, what, trace),
            Peers::Network(network, position) => {
                let is_inside = peer.address.ip().is_some_and(|address| network.contains(address));
                trace.note(|| {
                    let verb = if is_inside { "inside" } else { "outside" };
                    let said = format_args!("net {network}: {} is {verb}", peer.address);
                    Note::of_line(position.line, what, is_inside, said)
                });
                Ok(is_inside)
            }
            Peers::User(uid, position) => {
                let is_it = peer.address == Address::Local(Some(*uid));
                trace.note(|| {
                    let verb = if is_it { "is" } else { "is not" };
                    let said = format_args!("{} {verb} local:{uid}", peer.address);
                    Note::of_line(position.line, what, is_it, said)
                });
                Ok(is_it)
            }
            Peers::Secured(position) => {
                trace.note(|| {
                    let verb = if is_secured { "is" } else { "is not" };
                    let said = format_args!("tls: the connection {verb} under TLS");
                    Note::of_line(position.line, what, is_secured, said)
                });
                Ok(is_secured)
            }
            Peers::Authenticated(pattern) => {
                let fits = match user {
                    Some(name) => pattern.is_match(name)?,
                    // A pattern that does not compile is an error for every peer.
                    None => pattern.check().map(|()| false)?,
                };
                trace.note(|| {
                    let said = user.map_or_else(|| "nobody has logged in".to_owned(), |name| pattern.said(name, fits));
                    Note::of_line(pattern.position().line, what, fits, format_args!("auth: {said}"))
                });
                Ok(fits)
            }
        }
    }

    /// Whether this peer could be one of them, now or after TLS and a login.
    pub(super) fn could_come_to_include(&self, peer: &Peer) -> bool {
        match self {
            Peers::Secured(_) | Peers::Authenticated(_) => true,
            // A pattern that does not compile admits nobody.
            _ => self.include(Who::in_the_clear(peer), "", &mut Trace::default()).unwrap_or(false),
        }
    }

    /// Whether a peer at this address could be one of them if it had the right name.
    pub(super) fn could_include(&self, address: IpAddr) -> bool {
        match self {
            Peers::Pattern(pattern) => pattern.fits_with_some_name(address),
            Peers::Network(network, _) => network.contains(address),
            Peers::User(..) => false,
            Peers::Secured(_) | Peers::Authenticated(_) => true,
        }
    }

    /// The place and text of the word `tls`, if this is about TLS.
    pub(super) fn tls(&self) -> Option<(Position, &str)> {
        match self {
            Peers::Secured(position) => Some((*position, "tls")),
            Peers::Pattern(_) | Peers::Network(..) | Peers::User(..) | Peers::Authenticated(_) => None,
        }
    }

    /// The pattern for names of users, if this is about users.
    pub(super) fn auth(&self) -> Option<&Pattern> {
        match self {
            Peers::Authenticated(pattern) => Some(pattern),
            Peers::Pattern(_) | Peers::Network(..) | Peers::User(..) | Peers::Secured(_) => None,
        }
    }

    /// The pattern for names and addresses, if this is one.
    pub(super) fn pattern(&self) -> Option<&PeerPattern> {
        match self {
            Peers::Pattern(pattern) => Some(pattern),
            Peers::Network(..) | Peers::User(..) | Peers::Secured(_) | Peers::Authenticated(_) => None,
        }
    }
}

/// A pattern for names and addresses. A name matches only in a way that does not mean an address.
#[derive(Debug)]
pub(super) struct PeerPattern {
    whole: Pattern,
    for_names: OnceCell<ForNames>,
}

/// What a name has to match besides the whole pattern.
#[derive(Debug)]
enum ForNames {
    /// Nothing: no way to match means an address.
    NothingElse,
    /// No name can match: every way means an address.
    NoName,
    /// Some ways mean an address; this is the pattern for the others.
    Rest(Result<Regex, String>),
}

impl PeerPattern {
    pub(super) fn new(source: &str, position: Position) -> Self {
        Self { whole: Pattern::new(source, position), for_names: OnceCell::new() }
    }

    /// The pattern as it was written.
    pub(super) fn whole(&self) -> &Pattern {
        &self.whole
    }

    /// Compiles the pattern; an error says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), BrokenPattern> {
        self.whole.check()?;
        match self.for_names() {
            ForNames::NothingElse | ForNames::NoName | ForNames::Rest(Ok(_)) => Ok(()),
            ForNames::Rest(Err(message)) => Err(self.whole.broken(message)),
        }
    }

    /// What to write instead of a pattern that means a network and names the beginning of its addresses.
    pub(super) fn advice(&self) -> Option<String> {
        let pattern = compiler::parse(self.whole.source()).ok()?;
        let Meanings { addresses, names } = Meanings::of(&pattern);
        let addresses = addresses?;
        if addresses.properties().look_set_suffix().contains(Look::End) {
            return None;
        }
        let networks = address_only::networks(&addresses);
        let doubt = self.exception(&networks);
        let networks = match networks.len() {
            1..=MOST_NETWORKS => networks.iter().map(|network| format!("`net {network}`")).collect(),
            _ => vec!["`net ADDRESS/LENGTH`".to_owned()],
        };
        let doubt = doubt.map_or_else(String::new, |(address, fits)| {
            let fits = if fits { format!("fits {address} too") } else { format!("does not fit {address}") };
            format!(" (if that is meant: the pattern {fits})")
        });
        let networks = networks.join(" and ") + &doubt;
        Some(match names {
            None => format!(
                "this means a network, and is asked about the address only: write {networks}, or end it with `$`"
            ),
            Some(_) => format!(
                "a part of this means a network, and is asked about the address only: write that in a line of its own, {networks}"
            ),
        })
    }

    /// An address that shows a difference between the pattern and these networks, and whether the pattern matches it.
    /// Only addresses that differ from the first of a network in one number are tried.
    fn exception(&self, networks: &[Network]) -> Option<(IpAddr, bool)> {
        networks.iter().map(Network::first).flat_map(neighbours).find_map(|address| {
            let fits = self.whole.is_match(&address.to_string()).ok()?;
            let is_inside = networks.iter().any(|network| network.contains(address));
            (fits != is_inside).then_some((address, fits))
        })
    }

    /// Whether a peer at this address could match if it had the right name.
    fn fits_with_some_name(&self, address: IpAddr) -> bool {
        let could_be_a_name = !matches!(self.for_names(), ForNames::NoName);
        could_be_a_name || self.whole.is_match(&address.to_string()).unwrap_or(false)
    }

    /// Whether a peer matches by its confirmed name or by its address.
    fn fits(&self, peer: &Peer, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        if let Some(name) = peer.hostname.as_deref()
            && self.fits_name(name, what, trace)?
        {
            return Ok(true);
        }
        self.whole.fits(&peer.address.text(), what, trace)
    }

    fn fits_name(&self, name: &str, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let is_found = self.whole.is_match(name)?;
        // Most patterns are not found in the name at all, so they never have to be analysed.
        if is_found && !self.is_match_for_name(name)? {
            trace.note(|| {
                let source = self.whole.source();
                let name = Untrusted::new(name.as_bytes());
                let said = format_args!("'{name}' is a name, and '{source}' would match it as an address only");
                Note::of_line(self.whole.position().line, what, false, said)
            });
            return Ok(false);
        }
        self.whole.note(name, is_found, what, trace);
        Ok(is_found)
    }

    fn is_match_for_name(&self, name: &str) -> Result<bool, BrokenPattern> {
        match self.for_names() {
            ForNames::NothingElse => Ok(true),
            ForNames::NoName => Ok(false),
            ForNames::Rest(Ok(rest)) => Ok(rest.is_match(name.as_bytes())),
            ForNames::Rest(Err(message)) => Err(self.whole.broken(message)),
        }
    }

    fn for_names(&self) -> &ForNames {
        self.for_names.get_or_init(|| match compiler::parse(self.whole.source()) {
            Ok(pattern) => match Meanings::of(&pattern) {
                Meanings { addresses: None, .. } => ForNames::NothingElse,
                Meanings { names: None, .. } => ForNames::NoName,
                Meanings { names: Some(rest), .. } => ForNames::Rest(compiler::compile_parsed(&rest)),
            },
            Err(message) => ForNames::Rest(Err(message)),
        })
    }
}

/// The addresses that differ from this one in one of the numbers in its notation.
fn neighbours(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let with = |place: usize, number: u8| {
                let mut octets = v4.octets();
                octets[place] = number;
                IpAddr::from(octets)
            };
            (0..4).flat_map(|place| (0..=u8::MAX).map(move |number| with(place, number))).collect()
        }
        IpAddr::V6(v6) => {
            let with = |place: usize, number: u16| {
                let mut segments = v6.segments();
                segments[place] = number;
                IpAddr::from(segments)
            };
            let numbers = || (0..16).flat_map(|bit| [(1_u16 << bit) - 1, 1 << bit]).chain([u16::MAX]);
            (0..8).flat_map(|place| numbers().map(move |number| with(place, number))).collect()
        }
    }
}

/// The most networks of a pattern that a message lists.
const MOST_NETWORKS: usize = 4;
