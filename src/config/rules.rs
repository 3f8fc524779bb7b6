//! Who may send what to whom, and where it goes: `allow`, `deny`, `allowgroup`, `deliver`, `copy`, `error`.
//!
//! A recipient is decided in this order: `deliver` lines with exactly this address (looked up by hash, there may be
//! 100,000), then `deliver` and `error` lines with patterns in file order, then the dead letter file, then
//! "no such user". A rule is kept as a place in the text and parsed again when it is the one that matters.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use super::parse::{self, Action, Directive, GroupMember, Problem, Rule, Word};
use super::pattern::{self, Pattern};
use super::{BrokenPattern, Diagnostic, Refusal, Severity};
use crate::log::Untrusted;
use crate::peer::Client;
use crate::smtp::address::{Mailbox, ReversePath};

/// All rules of a configuration.
#[derive(Debug, Default)]
pub struct Rules {
    /// The text of the file; every [`Place`] is a part of it.
    text: String,
    allowed_peers: Vec<Pattern>,
    denied_peers: Vec<Pattern>,
    groups: Vec<Group>,
    exact: Vec<ExactRule>,
    index: OnceCell<ExactIndex>,
    ordered: Vec<OrderedRule>,
    copies: Vec<OrderedRule>,
    allowed_senders: Vec<Pattern>,
    refused_senders: Vec<(Pattern, Refusal)>,
    dead_letters: Option<Place>,
}

/// One place that a recipient's mail goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination<'c> {
    /// What to do.
    pub action: Action<'c>,
    /// The line of the configuration that says so.
    pub line: u32,
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

/// A part of the text.
type Place = (u32, u32);

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

#[derive(Debug)]
struct ExactRule {
    rule: Place,
    recipient: Place,
    line: u32,
}

/// The first rule of each recipient, by the hash of the recipient in lower case; and for each rule the next one, in
/// file order, whose recipient has the same hash.
#[derive(Debug)]
struct ExactIndex {
    first: HashMap<u64, u32, foldhash::fast::FixedState>,
    next: Vec<Option<u32>>,
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
    Deliver(Place),
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
        let mut destinations = match self.exact_rule(&full, local_part, client, trace) {
            Some(decided) => vec![decided?],
            None => match self.ordered_rule(&full, local_part, client, trace)? {
                Some(destination) => vec![destination],
                None => {
                    let file = self.dead_letters.ok_or(Denial::Unknown)?;
                    let file = self.text(file);
                    trace.note(|| {
                        format!("no rule fits '{}': dead letter file '{file}'", Untrusted::new(full.as_bytes()))
                    });
                    return Ok(vec![Destination { action: Action::Append(file), line: 0 }]);
                }
            },
        };
        for copy in &self.copies {
            if copy.fits(&full, local_part, trace)?
                && self.group_admits(copy.group, client, trace)?
                && let Effect::Deliver(place) = copy.effect
                && let Some(rule) = self.rule(place)
            {
                destinations.push(Destination { action: rule.action, line: copy.line });
            }
        }
        Ok(destinations)
    }

    /// The first `deliver` line with exactly this address whose group admits the peer. `None` if there is no such
    /// address at all.
    fn exact_rule<'c>(
        &'c self,
        full: &str,
        local_part: Option<&str>,
        client: &Client,
        trace: &mut Trace,
    ) -> Option<Result<Destination<'c>, Denial<'c>>> {
        if self.exact.is_empty() {
            return None;
        }
        let index = self.index.get_or_init(|| self.build_index());
        let mut denied = None;
        for wanted in [Some(full), local_part].into_iter().flatten() {
            let mut next = index.first.get(&hash(wanted)).copied();
            while let Some(number) = next {
                let exact = &self.exact[number as usize];
                next = index.next[number as usize];
                if !unquoted(self.text(exact.recipient)).eq_ignore_ascii_case(wanted) {
                    continue;
                }
                let Some(rule) = self.rule(exact.rule) else { continue };
                trace.note(|| {
                    format!(
                        "line {}: deliver rcpt_to '{}': the same address",
                        exact.line,
                        Untrusted::new(wanted.as_bytes())
                    )
                });
                match self.group_admits(rule.group.and_then(|group| self.group(group.text)), client, trace) {
                    Ok(true) => return Some(Ok(Destination { action: rule.action, line: exact.line })),
                    Ok(false) => denied = Some(Err(Denial::NotAllowed)),
                    Err(broken) => return Some(Err(broken.into())),
                }
            }
        }
        denied
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
            if !rule.fits(full, local_part, trace)? {
                continue;
            }
            match (self.group_admits(rule.group, client, trace)?, &rule.effect) {
                (true, Effect::Refuse(refusal)) => return Err(Denial::Refused(refusal)),
                (true, Effect::Deliver(place)) => {
                    return Ok(self.rule(*place).map(|parsed| Destination { action: parsed.action, line: rule.line }));
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

    fn build_index(&self) -> ExactIndex {
        let mut first = HashMap::with_capacity_and_hasher(self.exact.len(), foldhash::fast::FixedState::default());
        let mut next = vec![None; self.exact.len()];
        // From the last to the first, so that each chain is in file order.
        for (number, exact) in self.exact.iter().enumerate().rev() {
            let number = narrow(number);
            next[number as usize] = first.insert(hash(&unquoted(self.text(exact.recipient))), number);
        }
        ExactIndex { first, next }
    }

    fn rule(&self, place: Place) -> Option<Rule<'_>> {
        parse::deliver_rule(self.text(place))
    }

    fn text(&self, (start, end): Place) -> &str {
        &self.text[start as usize..end as usize]
    }

    fn group(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| *group.name == *name)
    }
}

impl OrderedRule {
    fn fits(&self, full: &str, local_part: Option<&str>, trace: &mut Trace) -> Result<bool, BrokenPattern> {
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
            format!("line {}: '{}' {verb} '{source}'", self.line, Untrusted::new(full.as_bytes()))
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

/// The hash of an address, letter case aside.
fn hash(address: &str) -> u64 {
    let mut folded = [0; 320];
    let bytes = address.as_bytes();
    let length = bytes.len().min(folded.len());
    let folded = &mut folded[..length];
    folded.copy_from_slice(&bytes[..length]);
    folded.make_ascii_lowercase();
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    hasher.write(folded);
    hasher.finish()
}

/// Places and counts fit in 32 bits, because the file does (`MAX_CONFIG_SIZE`).
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn place(range: Range<usize>) -> Place {
    (narrow(range.start), narrow(range.end))
}

/// Where a word of the line at `at` stands in the text, without its quotes.
fn word_place(word: Word<'_>, at: &Range<usize>) -> Place {
    let quote = usize::from(word.end - word.start > word.text.len());
    let start = at.start + word.start + quote;
    place(start..start + word.text.len())
}

/// Whether a recipient of a rule is one address, and no pattern.
fn is_exact(recipient: &str) -> bool {
    !recipient.starts_with('/') && memchr::memchr(b'*', recipient.as_bytes()).is_none()
}

// Loading.
impl Rules {
    pub(super) fn set_text(&mut self, text: String) {
        self.text = text;
    }

    pub(super) fn add(&mut self, directive: Directive<'_>, at: Range<usize>, number: usize) -> Result<(), Problem> {
        let line = narrow(number);
        let pattern = |word: Word<'_>| Pattern::new(word.text, line);
        match directive {
            Directive::Deliver(rule) => self.add_deliver(&rule, at, line)?,
            Directive::Copy(rule) => {
                let group = self.defined_group(rule.group)?;
                let effect = Effect::Deliver(place(at));
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
            Directive::DeadLetterFile(file) => self.dead_letters = Some(word_place(file, &at)),
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

    fn add_deliver(&mut self, rule: &Rule<'_>, at: Range<usize>, line: u32) -> Result<(), Problem> {
        let group = self.defined_group(rule.group)?;
        if is_exact(rule.recipient.text) {
            self.exact.push(ExactRule { recipient: word_place(rule.recipient, &at), rule: place(at), line });
        } else {
            let matcher = Matcher::new(rule.recipient, line);
            self.ordered.push(OrderedRule { matcher, group, line, effect: Effect::Deliver(place(at)) });
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
        if self.exact.is_empty() && self.ordered.is_empty() && self.dead_letters.is_none() {
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
        let is_irrevocable = |place| self.rule(place).is_some_and(|rule| !rule.action.is_revocable());
        let copies: Vec<_> = self
            .copies
            .iter()
            .filter(|copy| matches!(copy.effect, Effect::Deliver(place) if is_irrevocable(place)))
            .collect();
        let message = |copy: &OrderedRule| {
            format!(
                "a recipient of this line also gets the `copy` of line {}: of two destinations that cannot be taken \
                 back, one may fail when the other is done; append one of them to a file instead",
                copy.line
            )
        };
        for (number, copy) in copies.iter().enumerate() {
            if let Some(other) = copies[number + 1..].iter().find(|other| overlap(&copy.matcher, &other.matcher)) {
                found.push(self.about(other.line, other.matcher.source(), Severity::Error, message(copy)));
            }
            for exact in self.exact.iter().filter(|exact| is_irrevocable(exact.rule)) {
                let recipient = self.text(exact.recipient);
                if copy.fits(&unquoted(recipient), None, &mut Trace::default()).unwrap_or(false) {
                    found.push(self.about(exact.line, recipient, Severity::Error, message(copy)));
                }
            }
            for rule in &self.ordered {
                if matches!(rule.effect, Effect::Deliver(place) if is_irrevocable(place))
                    && overlap(&copy.matcher, &rule.matcher)
                {
                    found.push(self.about(rule.line, rule.matcher.source(), Severity::Error, message(copy)));
                }
            }
        }
    }

    /// A finding about the first occurrence of `part` in a line of the file.
    fn about(&self, line: u32, part: &str, severity: Severity, message: String) -> Diagnostic {
        let source = self.text.lines().nth(line as usize - 1).unwrap_or_default().to_owned();
        let column = source.find(part).map_or(0, |byte| source[..byte].chars().count()) + 1;
        Diagnostic { severity, line: line as usize, column, width: part.chars().count(), message, source }
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
