//! Who may send what to whom, and where it goes: `allow`, `deny`, `allowgroup`, `deliver`, `copy`, `error`.
//!
//! A recipient is decided in this order: `deliver` lines with exactly this address (looked up by hash, there may be
//! 100,000), then `deliver` and `error` lines with patterns in file order, then the dead letter file, then
//! "no such user".

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::action::{Action, Destinations, Keep, Need, Origin, SecondHandOver};
use super::directive::{Delivery, PeersNamed, RuleLine};
use super::exact::{Addressee, Changed, ExactRules, read_again};
use super::index::{Run, Unused};
use super::lexer::{self, Problem, Word};
use super::limits::Refusal;
use super::needs::{Needs, Written};
use super::ordered::{Effect, Matcher, OrderedRule};
use super::pattern::{BrokenPattern, Pattern, Position};
use super::peers::{PeerPattern, Peers, Who};
use super::plain;
use super::relay_url::Hop;
use super::source::LineStart;
use super::sources::{LineName, Sources};
use super::spelling::closest;
use super::trace::{Note, Trace};
use crate::address::{Mailbox, ReversePath};
use crate::peer::Peer;
use crate::untrusted::Untrusted;

/// All rules of a configuration.
#[derive(Debug, Default)]
pub struct Rules {
    pub(super) allowed_peers: Vec<Peers>,
    pub(super) denied_peers: Vec<Peers>,
    pub(super) proxies: Vec<Peers>,
    pub(super) groups: Vec<Group>,
    /// The beginning of the last plain line, up to its address; its group is defined. Most such lines begin like the
    /// one before.
    plain_beginning: Vec<u8>,
    /// Where the lines are.
    pub(super) sources: Sources,
    pub(super) exact: ExactRules,
    pub(super) ordered: Vec<OrderedRule>,
    pub(super) copies: Vec<OrderedRule>,
    pub(super) allowed_senders: Vec<(Matcher, Position)>,
    /// The reply to senders that `allowed_senders` does not contain.
    refused_others: Option<Refusal>,
    pub(super) refused_senders: Vec<(Matcher, Position, Refusal)>,
    pub(super) dead_letters: Option<Box<str>>,
    needs: Needs,
    /// The indexes that are there and are not used, each with the reason.
    pub(super) unused_indexes: Vec<(PathBuf, Unused)>,
}

/// Why something is not let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial<'c> {
    /// An `error` line says so, in its own words.
    Refused(&'c Refusal),
    /// The peer or sender is not on the list of those who may.
    NotAllowed,
    /// No rule is about this recipient.
    Unknown,
    /// Its lines name two destinations that cannot be taken back.
    TwoHandOvers,
    /// A pattern on the way does not compile, so nobody knows.
    Broken(BrokenPattern),
    /// The rule cannot be read any more: the file was written to since this connection began.
    Changed {
        /// The line that held the rule, counted through all files ([`Rules::line`]).
        line: u32,
    },
}

impl From<BrokenPattern> for Denial<'_> {
    fn from(broken: BrokenPattern) -> Self {
        Denial::Broken(broken)
    }
}

impl From<Changed> for Denial<'_> {
    fn from(changed: Changed) -> Self {
        Denial::Changed { line: changed.line }
    }
}

impl From<SecondHandOver> for Denial<'_> {
    fn from(SecondHandOver: SecondHandOver) -> Self {
        Denial::TwoHandOvers
    }
}

#[derive(Debug)]
pub(super) struct Group {
    name: Box<str>,
    pub(super) members: Vec<Peers>,
}

/// Where mail for a recipient goes, and what says so.
type Decision = (Action, Origin);

impl Rules {
    /// Whether this peer may talk to us at all, which does not depend on TLS: it is asked before there is any.
    pub fn admit<'c>(&'c self, peer: &Peer, trace: &mut Trace) -> Result<(), Denial<'c>> {
        let who = Who::in_the_clear(peer);
        if any_include(&self.denied_peers, who, "deny remotehost", trace)? {
            return Err(Denial::NotAllowed);
        }
        match self.allowed_peers.is_empty() || any_include(&self.allowed_peers, who, "allow remotehost", trace)? {
            true => Ok(()),
            false => Err(Denial::NotAllowed),
        }
    }

    /// Whether there are proxies at all.
    pub fn has_proxies(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// Whether connections from this address begin with a header of the PROXY protocol, which says whose they are.
    pub fn is_proxy(&self, address: IpAddr, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        any_include(&self.proxies, Who::in_the_clear(&Peer::unnamed(address)), "proxy_protocol from", trace)
    }

    /// Makes ready for more questions than a session has: `replay` asks those of very many sessions.
    pub(crate) fn expect_many_questions(&mut self) {
        self.exact.sort();
    }

    /// Whether a peer at this address is one of those that a line allows something, as far as an address can tell.
    pub fn expects(&self, address: IpAddr) -> bool {
        let peer = Peer::unnamed(address);
        let mut allowed = self.allowed_peers.iter().chain(self.groups.iter().flat_map(|group| &group.members));
        let who = Who::in_the_clear(&peer);
        let include = |peers: &Peers| peers.include(who, "", &mut Trace::default()).unwrap_or(false);
        !self.denied_peers.iter().any(include) && allowed.any(include)
    }

    /// Whether this sender may send through us.
    pub fn sender<'c>(&'c self, sender: &ReversePath, trace: &mut Trace) -> Result<(), Denial<'c>> {
        let text = sender.bare();
        let text = Addressee { full: &text, local_part: None };
        for (matcher, position, refusal) in &self.refused_senders {
            if matcher.fits(text, position.line, format_args!("error mail_from"), trace)? {
                return Err(Denial::Refused(refusal));
            }
        }
        if self.allowed_senders.is_empty() {
            return Ok(());
        }
        for (matcher, position) in &self.allowed_senders {
            if matcher.fits(text, position.line, format_args!("allow mail_from"), trace)? {
                return Ok(());
            }
        }
        Err(self.refused_others.as_ref().map_or(Denial::NotAllowed, Denial::Refused))
    }

    /// Where mail for this recipient from this peer goes. Rules without a domain are about `own_domain`.
    pub fn route<'c>(
        &'c self,
        recipient: &Mailbox,
        who: Who<'_>,
        own_domain: &str,
        trace: &mut Trace,
    ) -> Result<Destinations, Denial<'c>> {
        let full = recipient.bare();
        let (local_part, domain) = (recipient.local_part(), recipient.domain());
        let is_ours = domain.eq_ignore_ascii_case(own_domain);
        let whole = Addressee::of(&full, local_part, is_ours);
        let user = local_part.split_once('+').map(|(user, _)| user).filter(|user| !user.is_empty());
        let user = user.map(|user| (user, format!("{user}@{domain}")));
        let user = user.as_ref().map(|(user, bare)| Addressee::of(bare, user, is_ours));
        let (decided, taken_as) = match (self.exact_rule(whole, who, trace)?, user) {
            (Some(found), _) => (Some(found), None),
            (None, Some(user)) => self.rule_for_user(whole, user, who, trace)?,
            (None, None) => (self.ordered_rule(&self.ordered, whole, who, trace)?, None),
        };
        let mut destinations = Destinations::default();
        let Some((action, origin)) = decided else {
            let file = self.dead_letters.as_deref().ok_or(Denial::Unknown)?;
            trace.note(|| {
                let text = format!("no rule fits '{}': dead letter file '{file}'", Untrusted::new(full.as_bytes()));
                Note::beside_lines(Some("deadletter_file"), true, text)
            });
            destinations.add(Action::Keep(Keep::Append(file.to_owned())), Origin::DeadLetterFile)?;
            return Ok(destinations);
        };
        let mut added = destinations.add(action, origin);
        for copy in &self.copies {
            let fits = copy.fits(whole, "copy", trace)?
                || match taken_as {
                    Some(user) => copy.fits(user, "copy", trace)?,
                    None => false,
                };
            if fits
                && self.group_admits(copy.group, who, trace)?
                && let Effect::Deliver(action) = &copy.effect
            {
                added = added.and(destinations.add(action.clone(), Origin::Line(copy.position.line)));
            }
        }
        added?;
        Ok(destinations)
    }

    /// Finds the rule for an address such as `user+extension` that no line has exactly. If only lines about everybody
    /// match it, the rules for `user` come first; if it is one of those, this addressee is returned beside it.
    fn rule_for_user<'c, 'r>(
        &'c self,
        whole: Addressee<'_>,
        user: Addressee<'r>,
        who: Who<'_>,
        trace: &mut Trace,
    ) -> Result<(Option<Decision>, Option<Addressee<'r>>), Denial<'c>> {
        let mut is_for_all = |rule: &OrderedRule| {
            let untold = &mut Trace::default();
            rule.matcher.is_everybody()
                && self.group_admits(rule.group, who, untold).unwrap_or(false)
                && rule.fits(whole, "", untold).unwrap_or(false)
        };
        let first_for_all = self.ordered.iter().position(&mut is_for_all).unwrap_or(self.ordered.len());
        let (before, behind) = self.ordered.split_at(first_for_all);
        let mut denied = false;
        let mut decided = |answer: Result<Option<Decision>, Denial<'c>>| match answer {
            // A later line may still let the peer through.
            Err(Denial::NotAllowed) => {
                denied = true;
                Ok(None)
            }
            answer => answer,
        };
        if let Some(found) = decided(self.ordered_rule(before, whole, who, trace))? {
            return Ok((Some(found), None));
        }
        trace.note(|| {
            let text = format!("nothing names '{}'", Untrusted::new(whole.full.as_bytes()));
            Note::beside_lines(None, false, text)
        });
        let as_user = match self.exact_rule(user, who, trace)? {
            Some(found) => Some(found),
            None => decided(self.ordered_rule(before, user, who, trace))?,
        };
        if as_user.is_some() {
            return Ok((as_user, Some(user)));
        }
        match decided(self.ordered_rule(behind, whole, who, trace))? {
            None if denied => Err(Denial::NotAllowed),
            found => Ok((found, None)),
        }
    }

    /// The first `deliver` line with exactly this address whose group admits the peer. If there are such lines and none
    /// admits it, it is not allowed to send there.
    fn exact_rule(
        &self,
        addressee: Addressee<'_>,
        who: Who<'_>,
        trace: &mut Trace,
    ) -> Result<Option<Decision>, Denial<'static>> {
        let mut lines = Vec::new();
        for spelling in [Some(addressee.full), addressee.local_part].into_iter().flatten() {
            lines.extend(self.exact.find(spelling)?.into_iter().map(|at| (at, spelling)));
        }
        lines.sort_unstable();
        let mut denied = false;
        for (at, wanted) in lines {
            let read = read_again(&self.sources, at, wanted, |delivery| {
                let group = self.defined_group(delivery.group).ok()?;
                Some((group, delivery.action))
            });
            let Some((group, action)) = read? else { continue };
            trace.note(|| {
                let address = Untrusted::new(wanted.as_bytes());
                let text = format!("deliver rcpt_to '{address}': the same address");
                Note::of_line(at.number, "deliver rcpt_to", true, "").worded(text)
            });
            if self.group_admits(group, who, trace)? {
                return Ok(Some((action, Origin::Line(at.number))));
            }
            denied = true;
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    /// The first of these lines with a pattern that fits and whose group admits the peer. If a line fits whose group does not,
    /// and no later line does, the peer is not allowed to send there.
    fn ordered_rule<'c>(
        &'c self,
        rules: impl IntoIterator<Item = &'c OrderedRule>,
        addressee: Addressee<'_>,
        who: Who<'_>,
        trace: &mut Trace,
    ) -> Result<Option<Decision>, Denial<'c>> {
        let mut denied = false;
        for rule in rules {
            let what = if matches!(rule.effect, Effect::Refuse(_)) { "error" } else { "deliver" };
            if !rule.fits(addressee, what, trace)? {
                continue;
            }
            match (self.group_admits(rule.group, who, trace)?, &rule.effect) {
                (true, Effect::Refuse(refusal)) => return Err(Denial::Refused(refusal)),
                (true, Effect::Deliver(action)) => {
                    return Ok(Some((action.clone(), Origin::Line(rule.position.line))));
                }
                (false, Effect::Deliver(_)) => denied = true,
                (false, Effect::Refuse(_)) => {}
            }
        }
        if denied { Err(Denial::NotAllowed) } else { Ok(None) }
    }

    fn group_admits(&self, group: Option<usize>, who: Who<'_>, trace: &mut Trace) -> Result<bool, BrokenPattern> {
        let Some(group) = group.map(|number| &self.groups[number]) else { return Ok(true) };
        if any_include(&group.members, who, &group.name, trace)? {
            return Ok(true);
        }
        trace.note(|| {
            let text = format!("{}: no member fits {}", group.name, who.peer);
            Note::beside_lines(Some(&group.name), false, text)
        });
        Ok(false)
    }

    /// What a line, counted through all files, is called.
    pub fn line(&self, number: u32) -> LineName<'_> {
        self.sources.name(number)
    }

    /// The line of a setting that counts: the last one that begins with this directive, if one does and can be read.
    pub(crate) fn line_of_setting(&self, directive: &str) -> Option<LineName<'_>> {
        let mut found = None;
        let read = self.sources.for_each_line(|number, text| {
            let Ok(prepared) = lexer::prepared(text) else { return };
            if prepared.words().next_word().is_some_and(|word| word.text == directive) {
                found = Some(number);
            }
        });
        read.ok().and(found).map(|number| self.line(number))
    }

    /// What says that mail goes to a destination: `line 7`, or `deadletter_file`.
    pub fn origin(&self, origin: Origin) -> impl Display {
        fmt::from_fn(move |f| match origin {
            Origin::Line(line) => self.line(line).fmt(f),
            Origin::DeadLetterFile => f.write_str("deadletter_file"),
        })
    }

    /// The indexes that are there and are of no use, each with the reason.
    pub fn unused_indexes(&self) -> &[(PathBuf, String)] {
        &self.unused_indexes
    }

    /// Lets sessions make files in this folder, too.
    pub(crate) fn add_folder(&mut self, folder: &Path) {
        self.needs.add(Need::Maildir(folder), None);
    }

    /// What the destinations need.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The server to which all mail goes that this peer may send. `None` if there are several destinations, or if the
    /// peer may send nothing there: then the server need not be contacted.
    pub(crate) fn only_hop(&self, who: Who<'_>) -> Option<&Hop> {
        let (hop, groups) = self.needs.only_hop()?;
        let may_send = |group: &Option<usize>| self.group_admits(*group, who, &mut Trace::default()).unwrap_or(false);
        groups.iter().any(may_send).then_some(hop)
    }

    /// The commands that mail from this peer can start, in the order of their lines. The peer may still begin TLS and
    /// log in, which can only add groups.
    pub fn commands_for(&self, peer: &Peer) -> Vec<&str> {
        self.commands_of(|group| self.groups[group].members.iter().any(|member| member.could_come_to_include(peer)))
    }

    /// The commands that are within the reach of a peer at this address if it has the right name.
    pub fn commands_for_any_name(&self, address: IpAddr) -> Vec<&str> {
        self.commands_of(|group| self.groups[group].members.iter().any(|member| member.could_include(address)))
    }

    fn commands_of(&self, admits: impl Fn(usize) -> bool) -> Vec<&str> {
        // Each group is asked once, however many lines it has.
        let mut admitted = vec![None; self.groups.len()];
        let mut is_within_reach =
            |group: Option<usize>| group.is_none_or(|group| *admitted[group].get_or_insert_with(|| admits(group)));
        let commands = self.needs.commands.iter().filter(|(group, _)| is_within_reach(*group));
        commands.map(|(_, command)| &**command).collect()
    }

    /// The groups of peers that have lines with commands within their reach, each once; `None` stands for everybody.
    pub fn groups_with_commands(&self) -> impl Iterator<Item = Option<&str>> {
        let mut groups: Vec<_> = self.needs.commands.iter().map(|(group, _)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.into_iter().map(|group| group.map(|number| &*self.groups[number].name))
    }
}

/// Whether one of these lines, which begin with `rule`, is about this peer. Those behind it are not asked.
fn any_include(peers: &[Peers], who: Who<'_>, rule: &str, trace: &mut Trace) -> Result<bool, BrokenPattern> {
    for peers in peers {
        if peers.include(who, rule, trace)? {
            return Ok(true);
        }
    }
    Ok(false)
}

// Loading.
impl Rules {
    /// Takes in what a line says.
    pub(super) fn add(&mut self, line: RuleLine<'_>, at: LineStart) -> Result<(), Problem> {
        let position = |word: Word<'_>| Position { line: at.number, start: word.start };
        let matcher = |word: Word<'_>| Matcher::of_text(word, position(word));
        let peers = |named: PeersNamed<'_>| match named {
            PeersNamed::Pattern(word) => Peers::Pattern(PeerPattern::new(word.text, position(word))),
            PeersNamed::Network(network, word) => Peers::Network(network, position(word)),
            PeersNamed::User(uid, word) => Peers::User(uid, position(word)),
            PeersNamed::Secured(word) => Peers::Secured(position(word)),
            PeersNamed::Authenticated(word) => Peers::Authenticated(Pattern::new(word.text, position(word))),
        };
        match line {
            RuleLine::AllowPeers(named) => self.allowed_peers.push(peers(named)),
            RuleLine::DenyPeers(named) => self.denied_peers.push(peers(named)),
            RuleLine::ProxyProtocol(named) => self.proxies.push(peers(named)),
            RuleLine::AllowGroup(name, named) => {
                let member = peers(named);
                match self.group(name.as_bytes()) {
                    Some(group) => self.groups[group].members.push(member),
                    None => self.groups.push(Group { name: name.into(), members: vec![member] }),
                }
            }
            RuleLine::Deliver(delivery) => {
                let recipient = delivery.recipient;
                self.needs.add_way(delivery.action.needs(), self.defined_group(delivery.group)?);
                let rule = self.rule(delivery, position(recipient))?;
                match rule.matcher {
                    Matcher::Address(address) => self.exact.add(address.as_bytes(), at),
                    Matcher::Wildcard(_) | Matcher::Pattern(_) | Matcher::Table(_) | Matcher::Domains(_) => {
                        self.ordered.push(rule);
                    }
                }
            }
            RuleLine::Copy(delivery) => {
                let recipient = delivery.recipient;
                let rule = self.rule(delivery, position(recipient))?;
                self.copies.push(rule);
            }
            RuleLine::RefuseRecipient(group, word, text) => {
                let group = self.defined_group(group)?;
                let matcher = matcher(word);
                let effect = Effect::Refuse(text.to_owned());
                self.ordered.push(OrderedRule { matcher, group, position: position(word), effect });
            }
            RuleLine::AllowSender(word, refusal) => {
                self.allowed_senders.push((matcher(word), position(word)));
                if let Some(refusal) = refusal {
                    self.refused_others = Some(refusal.to_owned());
                }
            }
            RuleLine::RefuseSender(word, text) => {
                self.refused_senders.push((matcher(word), position(word), text.to_owned()));
            }
            RuleLine::DeadLetterFile(file) => {
                self.needs.add(Need::Mailbox(file.as_ref()), None);
                self.needs.add_way(Need::Mailbox(file.as_ref()), None);
                self.dead_letters = Some(file.into());
            }
        }
        Ok(())
    }

    /// Takes in a line by the short cut for plain ones; `None` if it is not one of those.
    pub(super) fn add_plain(&mut self, line: &[u8], at: LineStart) -> Option<()> {
        let rest = match line.strip_prefix(&*self.plain_beginning) {
            Some(rest) if !self.plain_beginning.is_empty() => rest,
            _ => {
                let (group, rest) = plain::beginning(line)?;
                if let Some(name) = group {
                    self.group(name)?;
                }
                self.plain_beginning.clear();
                self.plain_beginning.extend_from_slice(&line[..line.len() - rest.len()]);
                rest
            }
        };
        let (address, need) = plain::destination(rest)?;
        // The group matters only for commands and next servers, and this is neither.
        self.needs.add(need, None);
        self.needs.add_way(need, None);
        self.exact.add(address, at);
        Some(())
    }

    /// Takes in lines that an index describes without looking at them; `None` if it cannot be said that they are what they
    /// were to whom made it.
    pub(super) fn add_run(&mut self, run: &Run) -> Option<()> {
        run.groups.iter().try_for_each(|name| self.group(name).map(drop))?;
        self.needs.add_many(&run.before, &run.after)
    }

    /// Where mail may be written, as far as the lines so far say.
    pub(super) fn written(&self) -> &Written {
        &self.needs.written
    }

    fn rule(&mut self, delivery: Delivery<'_>, position: Position) -> Result<OrderedRule, Problem> {
        let group = self.defined_group(delivery.group)?;
        self.needs.add(delivery.action.needs(), group);
        let matcher = Matcher::new(delivery.recipient, position);
        Ok(OrderedRule { matcher, group, position, effect: Effect::Deliver(delivery.action) })
    }

    fn defined_group(&self, name: Option<Word<'_>>) -> Result<Option<usize>, Problem> {
        let Some(name) = name else { return Ok(None) };
        match self.group(name.text.as_bytes()) {
            Some(group) => Ok(Some(group)),
            None => {
                let meant = closest(name.text, self.groups.iter().map(|group| &*group.name)).map_or_else(
                    || format!("write `allowgroup {} REGEX` first", name.text),
                    |meant| format!("did you mean `{meant}`?"),
                );
                Err(name.problem(format!("no group `{}` is defined above this line: {meant}", name.text)))
            }
        }
    }

    fn group(&self, name: &[u8]) -> Option<usize> {
        self.groups.iter().position(|group| group.name.as_bytes() == name)
    }
}
