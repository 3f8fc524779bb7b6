//! Who may send what to whom, and where it goes: `allow`, `deny`, `allowgroup`, `deliver`, `copy`, `error`.
//!
//! A recipient is decided in this order: `deliver` lines with exactly this address (looked up by hash, there may be
//! 100,000), then `deliver` and `error` lines with patterns in file order, then the dead letter file, then
//! "no such user". A rule is kept as a place in the text and parsed again when it is the one that matters.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use super::parse::{self, Action, Directive, GroupMember, Problem, Rule, Word};
use super::pattern::{self, Pattern};
use super::source::{self, Source};
use super::{BrokenPattern, Diagnostic, Refusal, Severity};
use crate::log::Untrusted;
use crate::peer::Client;
use crate::smtp::address::{Mailbox, ReversePath};

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
}

/// One place that a recipient's mail goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination<'c> {
    /// What to do.
    pub action: Action<'c>,
    /// What of the configuration says so.
    pub origin: RuleOrigin,
}

/// Where in the configuration a destination was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOrigin {
    /// The line with this number.
    Line(u32),
    /// The line of an exact address, which begins at this byte.
    Offset(u32),
    /// The dead letter file.
    DeadLetterFile,
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
    line: u32,
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
    pub fn admit<'c>(&'c self, client: &Client, trace: &mut Trace) -> Result<(), Denial<'c>> {
        for pattern in &self.denied_peers {
            if peer_fits(pattern, client, "deny remotehost", trace)? {
                return Err(Denial::NotAllowed);
            }
        }
        if self.allowed_peers.is_empty() {
            return Ok(());
        }
        for pattern in &self.allowed_peers {
            if peer_fits(pattern, client, "allow remotehost", trace)? {
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
        client: &Client,
        own_domain: &str,
        trace: &mut Trace,
    ) -> Result<Vec<Destination<'c>>, Denial<'c>> {
        let full = recipient.bare();
        let local_part = recipient.domain().eq_ignore_ascii_case(own_domain).then(|| recipient.local_part());
        let exact = self.exact_rule(&full, local_part, client, trace)?;
        let decided = match exact {
            Some(destination) => Some(destination),
            None => self.ordered_rule(&full, local_part, client, trace)?,
        };
        let Some(decided) = decided else {
            let file = self.dead_letters.as_deref().ok_or(Denial::Unknown)?;
            trace.note(|| format!("no rule fits '{}': dead letter file '{file}'", Untrusted::new(full.as_bytes())));
            let action = Action::Append(Cow::Borrowed(file));
            return Ok(vec![Destination { action, origin: RuleOrigin::DeadLetterFile }]);
        };
        let mut destinations = vec![decided];
        for copy in &self.copies {
            if copy.fits(&full, local_part, "copy", trace)?
                && self.group_admits(copy.group, client, trace)?
                && let Effect::Deliver(action) = &copy.effect
            {
                destinations.push(Destination { action: action.clone(), origin: RuleOrigin::Line(copy.line) });
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
        client: &Client,
        trace: &mut Trace,
    ) -> Result<Option<Destination<'static>>, Denial<'static>> {
        let mut denied = false;
        for wanted in [Some(full), local_part].into_iter().flatten() {
            for offset in self.exact.places(wanted) {
                let Some((group, action)) = self.exact_line(offset, wanted)? else { continue };
                trace.note(|| {
                    let address = Untrusted::new(wanted.as_bytes());
                    format!("line {}: deliver rcpt_to '{address}': the same address", self.line_number(offset))
                });
                if self.group_admits(group, client, trace)? {
                    return Ok(Some(Destination { action, origin: RuleOrigin::Offset(offset) }));
                }
                denied = true;
            }
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    /// Reads the line of an exact address again: its group and action, or `None` if another address has the same hash.
    fn exact_line(&self, offset: u32, wanted: &str) -> Result<Option<(Option<usize>, Action<'static>)>, BrokenPattern> {
        let changed = || BrokenPattern {
            line: self.line_number(offset),
            message: "the file was changed while it was being read".to_owned(),
        };
        let line = self.source.as_ref().and_then(|source| source.line_at(offset).ok()).ok_or_else(changed)?;
        let replaced = source::prepared(&line).map_err(|_| changed())?;
        let line = replaced.as_deref().unwrap_or_else(|| parse::without_comment(&line));
        let Ok(Some(Directive::Deliver(rule))) = parse::directive(line) else { return Err(changed()) };
        if !unquoted(rule.recipient.text).eq_ignore_ascii_case(wanted) {
            return Ok(None);
        }
        let group = self.defined_group(rule.group).map_err(|_| changed())?;
        Ok(Some((group, rule.action.into_owned())))
    }

    /// The first line with a pattern that fits and whose group admits the peer. If a line fits whose group does not,
    /// and no later line does, the peer is not allowed to send there.
    fn ordered_rule<'c>(
        &'c self,
        full: &str,
        local_part: Option<&str>,
        client: &Client,
        trace: &mut Trace,
    ) -> Result<Option<Destination<'c>>, Denial<'c>> {
        let mut denied = false;
        for rule in &self.ordered {
            let what = if matches!(rule.effect, Effect::Refuse(_)) { "error" } else { "deliver" };
            if !rule.fits(full, local_part, what, trace)? {
                continue;
            }
            match (self.group_admits(rule.group, client, trace)?, &rule.effect) {
                (true, Effect::Refuse(refusal)) => return Err(Denial::Refused(refusal)),
                (true, Effect::Deliver(action)) => {
                    return Ok(Some(Destination { action: action.clone(), origin: RuleOrigin::Line(rule.line) }));
                }
                (false, Effect::Deliver(_)) => denied = true,
                (false, Effect::Refuse(_)) => {}
            }
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    fn group_admits(&self, group: Option<usize>, client: &Client, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let Some(group) = group.map(|number| &self.groups[number]) else { return Ok(true) };
        for member in &group.members {
            let admits = match member {
                Member::Pattern(pattern) => peer_fits(pattern, client, &group.name, trace)?,
                Member::Network(network) => {
                    let inside = network.contains(client.address);
                    trace.note(|| {
                        format!(
                            "{}: net {network}: {} is {}",
                            group.name,
                            client.address,
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
        trace.note(|| format!("{}: no member fits {client}", group.name));
        Ok(false)
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
            format!("line {}: {what} rcpt_to: '{}' {verb} '{source}'", self.line, Untrusted::new(full.as_bytes()))
        });
        Ok(fits)
    }
}

/// A peer fits a pattern by its confirmed name or by its address.
fn peer_fits(pattern: &Pattern, client: &Client, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
    if let Some(name) = client.hostname.as_deref()
        && fits(pattern, name, what, trace)?
    {
        return Ok(true);
    }
    fits(pattern, &client.address.to_string(), what, trace)
}

fn fits(pattern: &Pattern, text: &str, what: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
    let fits = pattern.is_match(text)?;
    trace.note(|| {
        let verb = if fits { "matches" } else { "does not match" };
        let text = Untrusted::new(text.as_bytes());
        format!("line {}: {what}: '{text}' {verb} '{}'", pattern.line(), pattern.source())
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
        let pattern = |word: Word<'_>| Pattern::new(word.text, line);
        match directive {
            Directive::Deliver(rule) => self.add_deliver(rule, offset, line)?,
            Directive::Copy(rule) => {
                let group = self.defined_group(rule.group)?;
                let effect = Effect::Deliver(rule.action.into_owned());
                self.copies.push(OrderedRule { matcher: Matcher::new(rule.recipient, line), group, line, effect });
            }
            Directive::RefuseRecipient(group, word, text) => {
                let group = self.defined_group(group)?;
                let effect = Effect::Refuse(text.to_owned());
                self.ordered.push(OrderedRule { matcher: Matcher::Pattern(pattern(word)), group, line, effect });
            }
            Directive::AllowPeer(word) => self.allowed_peers.push(pattern(word)),
            Directive::DenyPeer(word) => self.denied_peers.push(pattern(word)),
            Directive::AllowSender(word) => self.allowed_senders.push(pattern(word)),
            Directive::RefuseSender(word, text) => self.refused_senders.push((pattern(word), text.to_owned())),
            Directive::DeadLetterFile(file) => self.dead_letters = Some(file.text.into()),
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
    pub(super) fn add_exact(&mut self, address: &[u8], offset: u32) {
        self.exact.add(address, offset);
    }

    fn add_deliver(&mut self, rule: Rule<'_>, offset: u32, line: u32) -> Result<(), Problem> {
        let group = self.defined_group(rule.group)?;
        if is_exact(rule.recipient.text) {
            self.exact.add(unquoted(rule.recipient.text).as_bytes(), offset);
        } else {
            let matcher = Matcher::new(rule.recipient, line);
            self.ordered.push(OrderedRule { matcher, group, line, effect: Effect::Deliver(rule.action.into_owned()) });
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
    fn new(recipient: Word<'_>, line: u32) -> Self {
        match recipient.text {
            address if is_exact(address) => Matcher::Address(unquoted(address).into()),
            text => match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
                Some(source) => Matcher::Pattern(Pattern::new(source, line)),
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

// Checking beforehand.
impl Rules {
    /// Finds patterns that do not compile, recipients with two destinations that cannot be undone, and what is legal
    /// but hardly meant.
    pub(super) fn check(&self, own_domain: &str) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        self.check_patterns(&mut found);
        self.check_irrevocable(&mut found);
        if self.exact.offsets.is_empty() && self.ordered.is_empty() && self.dead_letters.is_none() {
            found.push(Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::whole_file("no `deliver` line: every recipient will be refused".to_owned())
            });
        } else if let Ok(postmaster) = Mailbox::parse(&format!("postmaster@{own_domain}"))
            && matches!(
                self.route(
                    &postmaster,
                    &Client::unnamed(std::net::Ipv4Addr::LOCALHOST.into()),
                    own_domain,
                    &mut Trace::default()
                ),
                Err(Denial::Unknown | Denial::Refused(_))
            )
        {
            found.push(Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::whole_file(format!(
                    "no rule takes mail for postmaster@{own_domain}, which every mail domain should have (RFC 5321, 4.5.1)"
                ))
            });
        }
        found.sort_by_key(|diagnostic| diagnostic.line);
        found
    }

    fn check_patterns(&self, found: &mut Vec<Diagnostic>) {
        let members = self.groups.iter().flat_map(|group| &group.members).filter_map(|member| match member {
            Member::Pattern(pattern) => Some(pattern),
            Member::Network(_) => None,
        });
        let of = |rule: &'_ OrderedRule| matches!(rule.effect, Effect::Deliver(_));
        let delivering = self.ordered.iter().filter(|rule| of(rule)).filter_map(OrderedRule::pattern);
        let refusing = self.ordered.iter().filter(|rule| !of(rule)).filter_map(OrderedRule::pattern);
        let copying = self.copies.iter().filter_map(OrderedRule::pattern);
        let letting_in = self.allowed_peers.iter().chain(&self.allowed_senders).chain(members).chain(delivering);
        for pattern in letting_in {
            if let Err(broken) = pattern.check() {
                found.push(self.about(broken.line, pattern.source(), Severity::Error, broken.message));
            } else if !pattern.is_anchored() {
                let message = "this pattern is found anywhere in a name, so it lets in more than it seems to: \
                               tie it down with ^ and $";
                found.push(self.about(pattern.line(), pattern.source(), Severity::Warning, message.to_owned()));
            }
        }
        let keeping_out = self.denied_peers.iter().chain(self.refused_senders.iter().map(|(pattern, _)| pattern));
        for pattern in keeping_out.chain(refusing).chain(copying) {
            if let Err(broken) = pattern.check() {
                found.push(self.about(broken.line, pattern.source(), Severity::Error, broken.message));
            }
        }
    }

    /// A recipient whose own lines need two destinations that cannot be undone could never get its mail
    /// (DESIGN section 1).
    fn check_irrevocable(&self, found: &mut Vec<Diagnostic>) {
        let copies: Vec<_> = self.copies.iter().filter(|copy| copy.effect.is_irrevocable()).collect();
        let message = |copy: &OrderedRule| {
            format!(
                "a recipient of this line also gets the `copy` of line {}: of two destinations that cannot be taken \
                 back, one may fail when the other is done; append one of them to a file instead",
                copy.line
            )
        };
        for (number, copy) in copies.iter().enumerate() {
            let others = copies[number + 1..].iter().copied();
            let rules = self.ordered.iter().filter(|rule| rule.effect.is_irrevocable());
            for other in others.chain(rules).filter(|other| overlap(&copy.matcher, &other.matcher)) {
                found.push(self.about(other.line, other.matcher.source(), Severity::Error, message(copy)));
            }
        }
        if copies.is_empty() {
            return;
        }
        for offset in &self.exact.offsets {
            let Some(line) = self.source.as_ref().and_then(|source| source.line_at(*offset).ok()) else { continue };
            let line = source::prepared(&line).ok().flatten().unwrap_or(line);
            let Ok(Some(Directive::Deliver(rule))) = parse::directive(parse::without_comment(&line)) else { continue };
            let recipient = unquoted(rule.recipient.text);
            let fits = |copy: &OrderedRule| copy.fits(&recipient, None, "copy", &mut Trace::default()).unwrap_or(false);
            if let (false, Some(copy)) = (rule.action.is_revocable(), copies.iter().find(|copy| fits(copy))) {
                let message = message(copy);
                found.push(self.about(self.line_number(*offset), rule.recipient.text, Severity::Error, message));
            }
        }
    }

    /// A finding about the first occurrence of `part` in a line of the file.
    fn about(&self, line: u32, part: &str, severity: Severity, message: String) -> Diagnostic {
        let source = self.source.as_ref().map(|source| source.numbered_line(line)).unwrap_or_default();
        let column = source.find(part).map_or(0, |byte| source[..byte].chars().count()) + 1;
        Diagnostic { severity, line, column, width: part.chars().count(), message, source }
    }
}

impl Effect {
    fn is_irrevocable(&self) -> bool {
        matches!(self, Effect::Deliver(action) if !action.is_revocable())
    }
}

impl OrderedRule {
    fn pattern(&self) -> Option<&Pattern> {
        match &self.matcher {
            Matcher::Pattern(pattern) => Some(pattern),
            Matcher::Address(_) | Matcher::Wildcard(_) => None,
        }
    }
}

/// Whether two matchers certainly have a recipient in common. What only a run can tell is refused at run time.
fn overlap(one: &Matcher, other: &Matcher) -> bool {
    if one.is_everything() || other.is_everything() || one.source() == other.source() {
        return true;
    }
    match (one, other) {
        (Matcher::Address(address), matcher) | (matcher, Matcher::Address(address)) => match matcher {
            Matcher::Address(_) => false,
            Matcher::Wildcard(wildcard) => pattern::wildcard_fits(wildcard, address),
            Matcher::Pattern(pattern) => pattern.is_match(address).unwrap_or(false),
        },
        _ => false,
    }
}
