//! Who is meant by `allow remotehost`, `deny remotehost` and `allowgroup`: peers whose name or address a pattern matches,
//! those of a network, a user of this machine at a Unix socket (to patterns all of these are `local`), whoever is under
//! TLS, and whoever has logged in with a name that a pattern matches.

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

/// A peer, and what else of its connection rules ask about.
#[derive(Debug, Clone, Copy)]
pub struct Who<'p> {
    /// Who it is.
    pub peer: &'p Peer,
    /// Whether the connection is under TLS.
    pub is_secured: bool,
    /// Who it has shown to be (AUTH).
    pub user: Option<&'p str>,
}

impl<'p> Who<'p> {
    /// A peer in the clear, which is nobody in particular.
    pub fn in_the_clear(peer: &'p Peer) -> Self {
        Self { peer, is_secured: false, user: None }
    }
}

/// Peers that a line of the configuration names.
#[derive(Debug)]
pub(super) enum Peers {
    Pattern(PeerPattern),
    Network(Network, Position),
    /// The user of this number, at a Unix socket.
    User(u32, Position),
    /// All whose connection is under TLS.
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
                    // One that does not compile lets nobody through, whoever asks.
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

    /// Whether this peer could be one of them, whatever it does.
    pub(super) fn could_come_to_include(&self, peer: &Peer) -> bool {
        match self {
            Peers::Secured(_) | Peers::Authenticated(_) => true,
            // A pattern that does not compile lets nobody through.
            _ => self.include(Who::in_the_clear(peer), "", &mut Trace::default()).unwrap_or(false),
        }
    }

    /// Whether a peer at this address could be one of them, if it had the right name.
    pub(super) fn could_include(&self, address: IpAddr) -> bool {
        match self {
            Peers::Pattern(pattern) => pattern.fits_with_some_name(address),
            Peers::Network(network, _) => network.contains(address),
            Peers::User(..) => false,
            Peers::Secured(_) | Peers::Authenticated(_) => true,
        }
    }

    /// Where it stands, and the word for it, if it is about TLS.
    pub(super) fn tls(&self) -> Option<(Position, &str)> {
        match self {
            Peers::Secured(position) => Some((*position, "tls")),
            Peers::Pattern(_) | Peers::Network(..) | Peers::User(..) | Peers::Authenticated(_) => None,
        }
    }

    /// The pattern for names of users, if it is one.
    pub(super) fn auth(&self) -> Option<&Pattern> {
        match self {
            Peers::Authenticated(pattern) => Some(pattern),
            Peers::Pattern(_) | Peers::Network(..) | Peers::User(..) | Peers::Secured(_) => None,
        }
    }

    /// The pattern, if it is one.
    pub(super) fn pattern(&self) -> Option<&PeerPattern> {
        match self {
            Peers::Pattern(pattern) => Some(pattern),
            Peers::Network(..) | Peers::User(..) | Peers::Secured(_) | Peers::Authenticated(_) => None,
        }
    }
}

/// A pattern for names and addresses. A name fits only if there is a way to match it that does not mean an address.
#[derive(Debug)]
pub(super) struct PeerPattern {
    whole: Pattern,
    for_names: OnceCell<ForNames>,
}

/// What of a pattern a name must match as well.
#[derive(Debug)]
enum ForNames {
    /// No way to match means an address.
    NothingElse,
    /// Every way does.
    NoName,
    /// Some do; this is the rest.
    Rest(Result<Regex, String>),
}

impl PeerPattern {
    pub(super) fn new(source: &str, position: Position) -> Self {
        Self { whole: Pattern::new(source, position), for_names: OnceCell::new() }
    }

    /// The pattern, as it is found in any text.
    pub(super) fn whole(&self) -> &Pattern {
        &self.whole
    }

    /// Compiles the pattern and says what is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), BrokenPattern> {
        self.whole.check()?;
        match self.for_names() {
            ForNames::NothingElse | ForNames::NoName | ForNames::Rest(Ok(_)) => Ok(()),
            ForNames::Rest(Err(message)) => Err(self.whole.broken(message)),
        }
    }

    /// What to write in place of a pattern that means a network and says so by what addresses begin with.
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

    /// An address that the pattern fits and that is in none of these networks, or the other way round, and whether it fits:
    /// looked for among those that differ from the first of a network in one number.
    fn exception(&self, networks: &[Network]) -> Option<(IpAddr, bool)> {
        networks.iter().map(Network::first).flat_map(neighbours).find_map(|address| {
            let fits = self.whole.is_match(&address.to_string()).ok()?;
            let is_inside = networks.iter().any(|network| network.contains(address));
            (fits != is_inside).then_some((address, fits))
        })
    }

    /// Whether a peer at this address could fit, if it had the right name.
    fn fits_with_some_name(&self, address: IpAddr) -> bool {
        let could_be_a_name = !matches!(self.for_names(), ForNames::NoName);
        could_be_a_name || self.whole.is_match(&address.to_string()).unwrap_or(false)
    }

    /// A peer fits by its confirmed name or by its address.
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
        // Most patterns are not found in the name at all, so most are never taken apart.
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

/// The addresses that differ from this one in one number of those that it is written with.
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

/// Of more networks in one pattern no list is made.
const MOST_NETWORKS: usize = 4;
