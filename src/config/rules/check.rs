//! Looking for mistakes beforehand: `mailrecv check`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{Denial, Effect, Matcher, Member, OrderedRule, Rules, Trace, unquoted};
use crate::address::Mailbox;
use crate::config::pattern::{Pattern, Place};
use crate::config::{Action, Diagnostic, Severity, source};
use crate::peer::Peer;

impl Rules {
    /// Finds patterns that do not compile, recipients with two destinations that cannot be undone, and what is legal but
    /// hardly meant.
    pub(in crate::config) fn check(&self, own_domain: &str) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        self.check_patterns(&mut found);
        self.check_irrevocable(own_domain, &mut found);
        self.check_addresses(own_domain, &mut found);
        let no_rules = self.exact.offsets.is_empty() && self.ordered.is_empty() && self.dead_letters.is_none();
        if no_rules {
            found.push(Diagnostic::warning("no `deliver` line: every recipient will be refused".to_owned()));
        } else if !self.takes_mail_for_postmaster(own_domain) {
            found.push(Diagnostic::warning(format!(
                "no rule takes mail for postmaster@{own_domain}, which every mail domain should have (RFC 5321, 4.5.1)"
            )));
        }
        found.sort_by_key(|diagnostic| diagnostic.line);
        found
    }

    /// Whether somebody, even if not everybody, can send to postmaster. A pattern that does not compile is reported as
    /// what it is.
    fn takes_mail_for_postmaster(&self, own_domain: &str) -> bool {
        let Ok(postmaster) = Mailbox::parse(&format!("postmaster@{own_domain}")) else { return true };
        let peer = Peer::unnamed(Ipv4Addr::LOCALHOST.into());
        let route = self.route(&postmaster, &peer, own_domain, &mut Trace::default());
        !matches!(route, Err(Denial::Unknown | Denial::Refused(_)))
    }

    fn check_patterns(&self, found: &mut Vec<Diagnostic>) {
        let members = self.groups.iter().flat_map(|group| &group.members).filter_map(|member| match member {
            Member::Pattern(pattern) => Some(pattern),
            Member::Network(_) => None,
        });
        let (delivering, refusing): (Vec<_>, Vec<_>) =
            self.ordered.iter().partition(|rule| matches!(rule.effect, Effect::Deliver(_)));
        let delivering = delivering.into_iter().filter_map(OrderedRule::pattern);
        let refusing = refusing.into_iter().filter_map(OrderedRule::pattern);
        let copying = self.copies.iter().filter_map(OrderedRule::pattern);
        let letting_in = self.allowed_peers.iter().chain(&self.allowed_senders).chain(members).chain(delivering);
        for pattern in letting_in {
            if let Err(broken) = pattern.check() {
                found.push(self.about(pattern.place(), pattern.source(), Severity::Error, broken.message));
            } else if !pattern.is_anchored() {
                let message = "this pattern is found anywhere in a name, so it lets in more than it seems to: \
                               tie it down with ^ and $";
                found.push(self.about(pattern.place(), pattern.source(), Severity::Warning, message.to_owned()));
            }
        }
        let keeping_out = self.denied_peers.iter().chain(self.refused_senders.iter().map(|(pattern, _)| pattern));
        for pattern in keeping_out.chain(refusing) {
            if let Err(broken) = pattern.check() {
                found.push(self.about(pattern.place(), pattern.source(), Severity::Error, broken.message));
            } else if let Some(message) = mistaken_for_another_notation(pattern.source()) {
                found.push(self.about(pattern.place(), pattern.source(), Severity::Warning, message.to_owned()));
            }
        }
        for pattern in copying {
            if let Err(broken) = pattern.check() {
                found.push(self.about(pattern.place(), pattern.source(), Severity::Error, broken.message));
            }
        }
    }

    /// A recipient whose own lines need two destinations that cannot be undone could never get its mail
    /// (DESIGN section 1). What only a run can tell, because two patterns meet, is refused at run time.
    fn check_irrevocable(&self, own_domain: &str, found: &mut Vec<Diagnostic>) {
        let copies: Vec<_> = self.copies.iter().filter(|copy| copy.effect.is_irrevocable()).collect();
        let message = |copy: &OrderedRule| {
            format!(
                "a recipient of this line also gets the `copy` of line {}: of two destinations that cannot be taken \
                 back, one may fail when the other is done; append one of them to a file instead",
                copy.place.line
            )
        };
        for (number, copy) in copies.iter().enumerate() {
            let others = copies[number + 1..].iter().copied();
            let rules = self.ordered.iter().filter(|rule| rule.effect.is_irrevocable());
            for other in others.chain(rules).filter(|other| copy.meets(other, own_domain)) {
                found.push(self.about(other.place, other.matcher.source(), Severity::Error, message(copy)));
            }
        }
        if copies.is_empty() {
            return;
        }
        for offset in &self.exact.offsets {
            self.read_again(*offset, |rule| {
                if let Action::Keep(_) = rule.action {
                    return;
                }
                for copy in copies.iter().filter(|copy| copy.takes(&unquoted(rule.recipient.text), own_domain)) {
                    let place = Place { line: self.line_number(*offset), start: rule.recipient.start };
                    found.push(self.about(place, rule.recipient.text, Severity::Error, message(copy)));
                }
            });
        }
    }

    /// An address that no mail can be for is a slip of the pen, and so is one that an earlier line takes all mail for.
    fn check_addresses(&self, own_domain: &str, found: &mut Vec<Diagnostic>) {
        let mut taken: HashMap<String, u32> = HashMap::new();
        for offset in &self.exact.offsets {
            self.read_again(*offset, |rule| {
                let text = rule.recipient.text;
                let mut warn = |message: String| {
                    let place = Place { line: self.line_number(*offset), start: rule.recipient.start };
                    found.push(self.about(place, text, Severity::Warning, message));
                };
                if Mailbox::parse_or_qualify(text, own_domain).is_err() {
                    return warn(format!("`{text}` is no mail address, so no mail will be for it"));
                }
                let address = unquoted(text).to_ascii_lowercase();
                let own = address.rsplit_once('@').filter(|(_, domain)| domain.eq_ignore_ascii_case(own_domain));
                let address = own.map_or(&*address, |(local_part, _)| local_part).to_owned();
                match taken.get(&address) {
                    Some(earlier) => {
                        let line = self.line_number(*earlier);
                        warn(format!("line {line} takes all mail for `{text}`: this line is never used"));
                    }
                    None if rule.group.is_none() => _ = taken.insert(address, *offset),
                    None => {}
                }
            });
        }
    }

    /// A finding about `part`, which stands at this place.
    fn about(&self, place: Place, part: &str, severity: Severity, message: String) -> Diagnostic {
        let source = self.source.as_ref().map(|source| source.numbered_line(place.line)).unwrap_or_default();
        let source = source::prepared(&source).ok().flatten().unwrap_or(source);
        let column = source.char_indices().take_while(|(byte, _)| *byte < place.start).count() + 1;
        Diagnostic { severity, line: place.line, column, width: part.chars().count(), message, source }
    }
}

/// Where a pattern stands bare, what `deliver` lines need around one, or in its place, is a part of it.
fn mistaken_for_another_notation(pattern: &str) -> Option<&'static str> {
    if pattern.len() > 1 && pattern.starts_with('/') && pattern.ends_with('/') {
        Some("here the slashes are a part of the pattern, which no address has: leave them out")
    } else if pattern.contains("@*") {
        Some("this is a pattern, in which `@*` is any number of `@`: write `@` for every domain, or `@.*$`")
    } else {
        None
    }
}

impl Effect {
    fn is_irrevocable(&self) -> bool {
        matches!(self, Effect::Deliver(Action::HandOver(_)))
    }
}

impl OrderedRule {
    /// Whether a recipient that a rule names is one of this rule's.
    fn takes(&self, address: &str, own_domain: &str) -> bool {
        let (full, local_part) = match address.rsplit_once('@') {
            None => (format!("{address}@{own_domain}"), Some(address)),
            Some((local_part, domain)) => {
                (address.to_owned(), domain.eq_ignore_ascii_case(own_domain).then_some(local_part))
            }
        };
        self.fits(&full, local_part, "copy", &mut Trace::default()).unwrap_or(false)
    }

    /// Whether two rules certainly have a recipient in common.
    fn meets(&self, other: &Self, own_domain: &str) -> bool {
        match (&self.matcher, &other.matcher) {
            (one, two) if one.is_everything() || two.is_everything() || one.source() == two.source() => true,
            (Matcher::Address(address), _) => other.takes(address, own_domain),
            (_, Matcher::Address(address)) => self.takes(address, own_domain),
            _ => false,
        }
    }

    fn pattern(&self) -> Option<&Pattern> {
        match &self.matcher {
            Matcher::Pattern(pattern) => Some(pattern),
            Matcher::Address(_) | Matcher::Wildcard(_) => None,
        }
    }
}
