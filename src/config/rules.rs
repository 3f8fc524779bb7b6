//! Who may send what to whom, and where it goes: `allow`, `deny`, `allowgroup`, `deliver`, `copy`, `error`.
//!
//! A recipient is decided in this order: `deliver` lines with exactly this address (looked up by hash, there may be
//! 100,000), then `deliver` and `error` lines with patterns in file order, then the dead letter file, then
//! "no such user". A rule is kept as a place in the text and parsed again when it is the one that matters.

mod check;

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;

use super::action::{Action, Destinations, Keep, Origin, SecondHandOver};
use super::parse::{self, Directive, GroupMember, Problem, Rule, Word};
use super::pattern::{self, Pattern, Place};
use super::source::{self, Source};
use super::{BrokenPattern, Reach, Refusal};
use crate::address::{Mailbox, ReversePath};
use crate::peer::Peer;
use crate::untrusted::Untrusted;

/// All rules of a configuration.
#[derive(Debug, Default)]
pub struct Rules {
    /// Where the lines of exact addresses are read again.
    source: Option<Source>,
    allowed_peers: Vec<Pattern>,
    denied_peers: Vec<Pattern>,
    groups: Vec<Group>,
    exact: ExactRules,
    ordered: Vec<OrderedRule>,
    copies: Vec<OrderedRule>,
    allowed_senders: Vec<Pattern>,
    refused_senders: Vec<(Pattern, Refusal)>,
    dead_letters: Option<Box<str>>,
    reach: Reach,
}

/// Why something is not let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial<'c> {
    /// An `error` line says so, in its own words.
    Refused(&'c Refusal),
    /// The peer or sender is none of those who may.
    NotAllowed,
    /// No rule is about this recipient.
    Unknown,
    /// Its lines name two destinations that cannot be taken back.
    TwoHandOvers,
    /// A pattern on the way does not compile, so nobody knows.
    Broken(BrokenPattern),
}

impl From<BrokenPattern> for Denial<'_> {
    fn from(broken: BrokenPattern) -> Self {
        Denial::Broken(broken)
    }
}

/// How a decision came about, line by line, for the `r` flag and for `explain`.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that is kept if `wanted`, and costs nothing otherwise.
    pub fn new(wanted: bool) -> Self {
        Self { lines: wanted.then(Vec::new) }
    }

    /// Hands out what was noted so far.
    pub fn take(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

impl From<SecondHandOver> for Denial<'_> {
    fn from(SecondHandOver: SecondHandOver) -> Self {
        Denial::TwoHandOvers
    }
}

#[derive(Debug)]
struct Group {
    name: Box<str>,
    members: Vec<Member>,
}

#[derive(Debug)]
enum Member {
    Pattern(Pattern),
    Network(super::net::Network),
}

/// The `deliver` lines of exact addresses, in file order: of each the hash of its address and the place of its line, in
/// two columns. To look an address up is to look its hash up among theirs, which takes a hundredth of the time that
/// building a hash table would, and a connection looks up a few.
#[derive(Debug, Default)]
struct ExactRules {
    hashes: Vec<u32>,
    offsets: Vec<u32>,
}

#[derive(Debug)]
struct OrderedRule {
    matcher: Matcher,
    group: Option<usize>,
    place: Place,
    effect: Effect,
}

#[derive(Debug)]
enum Matcher {
    Address(Box<str>),
    Wildcard(Box<str>),
    Pattern(Pattern),
}

#[derive(Debug)]
enum Effect {
    Deliver(Action<'static>),
    Refuse(Refusal),
}

impl Rules {
    /// Whether this peer may talk to us at all.
    pub fn admit<'c>(&'c self, peer: &Peer, trace: &mut Trace) -> Result<(), Denial<'c>> {
        for pattern in &self.denied_peers {
            if peer_fits(pattern, peer, "deny remotehost", trace)? {
                return Err(Denial::NotAllowed);
            }
        }
        if self.allowed_peers.is_empty() {
            return Ok(());
        }
        for pattern in &self.allowed_peers {
            if peer_fits(pattern, peer, "allow remotehost", trace)? {
                return Ok(());
            }
        }
        Err(Denial::NotAllowed)
    }

    /// Whether this sender may send through us.
    pub fn sender<'c>(&'c self, sender: &ReversePath, trace: &mut Trace) -> Result<(), Denial<'c>> {
        let text = sender.bare();
        for (pattern, refusal) in &self.refused_senders {
            if fits(pattern, &text, "error mail_from", trace)? {
                return Err(Denial::Refused(refusal));
            }
        }
        if self.allowed_senders.is_empty() {
            return Ok(());
        }
        for pattern in &self.allowed_senders {
            if fits(pattern, &text, "allow mail_from", trace)? {
                return Ok(());
            }
        }
        Err(Denial::NotAllowed)
    }

    /// Where mail for this recipient from this peer goes. `own_domain` is what rules without a domain are about.
    pub fn route<'c>(
        &'c self,
        recipient: &Mailbox,
        peer: &Peer,
        own_domain: &str,
        trace: &mut Trace,
    ) -> Result<Destinations<'c>, Denial<'c>> {
        let full = recipient.bare();
        let local_part = recipient.domain().eq_ignore_ascii_case(own_domain).then(|| recipient.local_part());
        // A quoted one that looks like an address is not that address.
        let local_part = local_part.filter(|local_part| !local_part.contains('@'));
        let exact = self.exact_rule(&full, local_part, peer, trace)?;
        let decided = match exact {
            Some(destination) => Some(destination),
            None => self.ordered_rule(&full, local_part, peer, trace)?,
        };
        let Some(decided) = decided else {
            let file = self.dead_letters.as_deref().ok_or(Denial::Unknown)?;
            trace.note(|| format!("no rule fits '{}': dead letter file '{file}'", Untrusted::new(full.as_bytes())));
            let mut destinations = Destinations::default();
            destinations.add(Action::Keep(Keep::Append(Cow::Borrowed(file))), Origin::DeadLetterFile)?;
            return Ok(destinations);
        };
        let mut destinations = Destinations::default();
        let (action, origin) = decided;
        destinations.add(action, origin)?;
        for copy in &self.copies {
            if copy.fits(&full, local_part, "copy", trace)?
                && self.group_admits(copy.group, peer, trace)?
                && let Effect::Deliver(action) = &copy.effect
            {
                destinations.add(action.clone(), Origin::Line(copy.place.line))?;
            }
        }
        Ok(destinations)
    }

    /// The first `deliver` line with exactly this address whose group admits the peer. If there are such lines and none
    /// admits it, it is not allowed to send there.
    fn exact_rule(
        &self,
        full: &str,
        local_part: Option<&str>,
        peer: &Peer,
        trace: &mut Trace,
    ) -> Result<Option<(Action<'static>, Origin)>, Denial<'static>> {
        let spellings = [Some(full), local_part].into_iter().flatten();
        let mut places: Vec<_> =
            spellings.flat_map(|it| self.exact.places(it).map(move |offset| (offset, it))).collect();
        places.sort_unstable();
        let mut denied = false;
        for (offset, wanted) in places {
            let Some((group, action)) = self.exact_line(offset, wanted)? else { continue };
            trace.note(|| {
                let address = Untrusted::new(wanted.as_bytes());
                format!("line {}: deliver rcpt_to '{address}': the same address", self.line_number(offset))
            });
            if self.group_admits(group, peer, trace)? {
                return Ok(Some((action, Origin::Line(self.line_number(offset)))));
            }
            denied = true;
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    /// Reads the line of an exact address again: its group and action, or `None` if another address has the same hash.
    fn exact_line(&self, offset: u32, wanted: &str) -> Result<Option<(Option<usize>, Action<'static>)>, BrokenPattern> {
        let changed = || BrokenPattern {
            line: self.line_number(offset),
            message: "the file was changed while it was being read".to_owned(),
        };
        self.read_again(offset, |rule| {
            let address = unquoted(rule.recipient.text);
            if !address.eq_ignore_ascii_case(wanted) {
                return if hash(address.as_bytes()) == hash(wanted.as_bytes()) { Ok(None) } else { Err(changed()) };
            }
            let group = self.defined_group(rule.group).map_err(|_| changed())?;
            Ok(Some((group, rule.action.into_owned())))
        })
        .unwrap_or_else(|| Err(changed()))
    }

    /// Gives the `deliver` line at this place to `take`; `None` if there is no such line there any more.
    fn read_again<T>(&self, offset: u32, take: impl FnOnce(Rule<'_>) -> T) -> Option<T> {
        let line = self.source.as_ref()?.line_at(offset).ok()?;
        let replaced = source::prepared(&line).ok()?;
        match parse::directive(replaced.as_deref().unwrap_or_else(|| parse::without_comment(&line))) {
            Ok(Some(Directive::Deliver(rule))) => Some(take(rule)),
            _ => None,
        }
    }

    /// The first line with a pattern that fits and whose group admits the peer. If a line fits whose group does not,
    /// and no later line does, the peer is not allowed to send there.
    fn ordered_rule<'c>(
        &'c self,
        full: &str,
        local_part: Option<&str>,
        peer: &Peer,
        trace: &mut Trace,
    ) -> Result<Option<(Action<'c>, Origin)>, Denial<'c>> {
        let mut denied = false;
        for rule in &self.ordered {
            let what = if matches!(rule.effect, Effect::Refuse(_)) { "error" } else { "deliver" };
            if !rule.fits(full, local_part, what, trace)? {
                continue;
            }
            match (self.group_admits(rule.group, peer, trace)?, &rule.effect) {
                (true, Effect::Refuse(refusal)) => return Err(Denial::Refused(refusal)),
                (true, Effect::Deliver(action)) => {
                    return Ok(Some((action.clone(), Origin::Line(rule.place.line))));
                }
                (false, Effect::Deliver(_)) => denied = true,
                (false, Effect::Refuse(_)) => {}
            }
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    fn group_admits(&self, group: Option<usize>, peer: &Peer, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let Some(group) = group.map(|number| &self.groups[number]) else { return Ok(true) };
        for member in &group.members {
            let admits = match member {
                Member::Pattern(pattern) => peer_fits(pattern, peer, &group.name, trace)?,
                Member::Network(network) => {
                    let inside = network.contains(peer.address);
                    trace.note(|| {
                        format!(
                            "{}: net {network}: {} is {}",
                            group.name,
                            peer.address,
                            if inside { "inside" } else { "outside" }
                        )
                    });
                    inside
                }
            };
            if admits {
                return Ok(true);
            }
        }
        trace.note(|| format!("{}: no member fits {peer}", group.name));
        Ok(false)
    }

    /// What the destinations need.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Whether some line with a command is within the reach of this peer.
    pub fn has_commands_for(&self, peer: &Peer) -> bool {
        // A group whose pattern does not compile lets nobody through.
        let admits = |group: &Option<usize>| self.group_admits(*group, peer, &mut Trace::default()).unwrap_or(false);
        self.reach.commands.iter().any(admits)
    }

    /// The groups of peers that have lines with commands within their reach; `None` stands for everybody.
    pub fn groups_with_commands(&self) -> impl Iterator<Item = Option<&str>> {
        self.reach.commands.iter().map(|group| group.map(|number| &*self.groups[number].name))
    }

    /// The number of the line that begins at this byte, for people.
    pub fn line_number(&self, offset: u32) -> u32 {
        self.source.as_ref().map_or(0, |source| source.line_number(offset))
    }

    fn group(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| *group.name == *name)
    }
}

impl OrderedRule {
    fn fits(&self, full: &str, local_part: Option<&str>, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let (fits, source) = match &self.matcher {
            Matcher::Address(address) => (
                address.eq_ignore_ascii_case(full)
                    || local_part.is_some_and(|local| address.eq_ignore_ascii_case(local)),
                &**address,
            ),
            Matcher::Wildcard(wildcard) => (pattern::wildcard_fits(wildcard, full), &**wildcard),
            Matcher::Pattern(pattern) => (pattern.is_match(full)?, pattern.source()),
        };
        trace.note(|| {
            let verb = if fits { "matches" } else { "does not match" };
            format!("line {}: {what} rcpt_to: '{}' {verb} '{source}'", self.place.line, Untrusted::new(full.as_bytes()))
        });
        Ok(fits)
    }
}

/// A peer fits a pattern by its confirmed name or by its address.
fn peer_fits(pattern: &Pattern, peer: &Peer, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
    if let Some(name) = peer.hostname.as_deref()
        && fits(pattern, name, what, trace)?
    {
        return Ok(true);
    }
    fits(pattern, &peer.address.to_string(), what, trace)
}

fn fits(pattern: &Pattern, text: &str, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
    let fits = pattern.is_match(text)?;
    trace.note(|| {
        let verb = if fits { "matches" } else { "does not match" };
        let text = Untrusted::new(text.as_bytes());
        format!("line {}: {what}: '{text}' {verb} '{}'", pattern.place().line, pattern.source())
    });
    Ok(fits)
}

/// The address as rules compare it: a quoted local part counts as its content (RFC 5321, 4.1.2).
fn unquoted(address: &str) -> Cow<'_, str> {
    if !address.starts_with('"') {
        return Cow::Borrowed(address);
    }
    match Mailbox::parse(address) {
        Ok(mailbox) => Cow::Owned(mailbox.bare()),
        Err(_) => Cow::Borrowed(address),
    }
}

impl ExactRules {
    fn add(&mut self, address: &[u8], offset: u32) {
        self.hashes.push(hash(address));
        self.offsets.push(offset);
    }

    /// The places of lines that may be about this address, in file order.
    fn places(&self, address: &str) -> impl Iterator<Item = u32> {
        let wanted = hash(address.as_bytes());
        self.hashes.iter().zip(&self.offsets).filter(move |(hash, _)| **hash == wanted).map(|(_, offset)| *offset)
    }
}

/// A hash of an address, letter case aside: bit 5, which tells upper from lower case, is set in every byte. Other
/// characters that this makes equal only cost a comparison.
#[expect(clippy::cast_possible_truncation, reason = "a hash may lose bits")]
fn hash(address: &[u8]) -> u32 {
    const FOLD: u64 = u64::from_ne_bytes([0x20; 8]);
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    let (words, rest) = address.as_chunks::<8>();
    words.iter().for_each(|word| hasher.write_u64(u64::from_ne_bytes(*word) | FOLD));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hasher.write_u64(u64::from_ne_bytes(last) | FOLD);
    hasher.finish() as u32
}

/// Whether a recipient of a rule is one address, and no pattern.
fn is_exact(recipient: &str) -> bool {
    !recipient.starts_with('/') && memchr::memchr(b'*', recipient.as_bytes()).is_none()
}

// Loading.
impl Rules {
    pub(super) fn set_source(&mut self, source: Source) {
        self.source = Some(source);
    }

    pub(super) fn add(&mut self, directive: Directive<'_>, offset: u32, line: u32) -> Result<(), Problem> {
        let pattern = |word: Word<'_>| Pattern::new(word.text, Place { line, start: word.start });
        match directive {
            Directive::Deliver(rule) => self.add_deliver(rule, offset, line)?,
            Directive::Copy(rule) => {
                let group = self.defined_group(rule.group)?;
                self.reach.add(&rule.action, group);
                let place = Place { line, start: rule.recipient.start };
                let effect = Effect::Deliver(rule.action.into_owned());
                self.copies.push(OrderedRule { matcher: Matcher::new(rule.recipient, place), group, place, effect });
            }
            Directive::RefuseRecipient(group, word, text) => {
                let group = self.defined_group(group)?;
                let effect = Effect::Refuse(text.to_owned());
                let place = Place { line, start: word.start };
                self.ordered.push(OrderedRule { matcher: Matcher::Pattern(pattern(word)), group, place, effect });
            }
            Directive::AllowPeer(word) => self.allowed_peers.push(pattern(word)),
            Directive::DenyPeer(word) => self.denied_peers.push(pattern(word)),
            Directive::AllowSender(word) => self.allowed_senders.push(pattern(word)),
            Directive::RefuseSender(word, text) => self.refused_senders.push((pattern(word), text.to_owned())),
            Directive::DeadLetterFile(file) => {
                self.reach.add_mailbox(file.text.as_ref());
                self.dead_letters = Some(file.text.into());
            }
            Directive::AllowGroup(name, member) => {
                let member = match member {
                    GroupMember::Pattern(word) => Member::Pattern(pattern(word)),
                    GroupMember::Network(network) => Member::Network(network),
                };
                match self.group(name) {
                    Some(group) => self.groups[group].members.push(member),
                    None => self.groups.push(Group { name: name.into(), members: vec![member] }),
                }
            }
            other => unreachable!("{other:?} is not about rules"),
        }
        Ok(())
    }

    /// Takes in the `deliver` line of an exact address without a group.
    pub(super) fn add_exact(&mut self, address: &[u8], file: &Path, offset: u32) {
        self.exact.add(address, offset);
        self.reach.add_mailbox(file);
    }

    fn add_deliver(&mut self, rule: Rule<'_>, offset: u32, line: u32) -> Result<(), Problem> {
        let group = self.defined_group(rule.group)?;
        self.reach.add(&rule.action, group);
        if is_exact(rule.recipient.text) {
            self.exact.add(unquoted(rule.recipient.text).as_bytes(), offset);
        } else {
            let place = Place { line, start: rule.recipient.start };
            let matcher = Matcher::new(rule.recipient, place);
            self.ordered.push(OrderedRule { matcher, group, place, effect: Effect::Deliver(rule.action.into_owned()) });
        }
        Ok(())
    }

    fn defined_group(&self, name: Option<Word<'_>>) -> Result<Option<usize>, Problem> {
        let Some(name) = name else { return Ok(None) };
        match self.group(name.text) {
            Some(group) => Ok(Some(group)),
            None => Err(name.problem(format!(
                "no group `{0}` is defined above this line: write `allowgroup {0} REGEX` first",
                name.text
            ))),
        }
    }
}

impl Matcher {
    fn new(recipient: Word<'_>, place: Place) -> Self {
        match recipient.text {
            address if is_exact(address) => Matcher::Address(unquoted(address).into()),
            text => match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
                Some(source) => Matcher::Pattern(Pattern::new(source, Place { start: place.start + 1, ..place })),
                None => Matcher::Wildcard(text.into()),
            },
        }
    }

    fn is_everything(&self) -> bool {
        match self {
            Matcher::Address(_) => false,
            Matcher::Wildcard(wildcard) => wildcard.bytes().all(|byte| byte == b'*'),
            Matcher::Pattern(pattern) => pattern.source() == ".*",
        }
    }

    fn source(&self) -> &str {
        match self {
            Matcher::Address(text) | Matcher::Wildcard(text) => text,
            Matcher::Pattern(pattern) => pattern.source(),
        }
    }
}
