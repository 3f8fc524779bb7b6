//! The checks of `mailrecv check`: what is allowed but probably not meant, and what would fail only when it is needed.
//!
//! The file may be long and have many findings. So it is read once more only: each line is checked when it is read, and
//! findings about it get its text then.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::action::Action;
use super::diagnostic::{Diagnostic, Severity};
use super::exact::Addressee;
use super::lexer::{self, Prepared};
use super::lines::Lines;
use super::ordered::{Effect, Matcher, OrderedRule};
use super::pattern::{BrokenPattern, Pattern, Position};
use super::peers::{PeerPattern, Peers, Who};
use super::perl;
use super::places::{self, Places};
use super::rules::{Denial, Rules};
use super::secrets::Cited;
use super::shadow::{self, Others};
use super::sources::LineName;
use super::trace::Trace;
use crate::address::Mailbox;
use crate::peer::Peer;

/// A finding whose line still has to be cited.
pub(super) struct Finding {
    severity: Severity,
    position: Position,
    /// How many characters the caret underlines.
    width: usize,
    message: String,
}

impl Rules {
    /// Finds patterns that do not compile, recipients with two destinations that cannot be undone, and what is allowed
    /// but probably not meant. `is_whole` says whether all lines could be read, `is_public` whether strangers may send
    /// mail, and `spool` is the folder for large messages if no line names one.
    pub(super) fn check(
        &self,
        own_domain: &str,
        is_whole: bool,
        is_public: bool,
        mut places: Places,
        spool: Option<&Path>,
    ) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if let Some(trouble) = spool.and_then(|spool| places.folder(spool)) {
            found.push(Diagnostic::warning(format!(
                "messages of more than 1 MiB have nowhere to wait while they are received: {trouble}; name a folder \
                 with `spool_dir`"
            )));
        }
        let no_rules = self.exact.is_empty() && self.ordered.is_empty() && self.dead_letters.is_none();
        if is_whole && no_rules {
            found.push(Diagnostic::warning("no `deliver` line: every recipient will be refused".to_owned()));
        } else if is_whole && is_public && !self.takes_mail_for_postmaster(own_domain) {
            found.push(Diagnostic::warning(format!(
                "no rule takes mail for postmaster@{own_domain}, which every mail domain should have (RFC 5321, 4.5.1)"
            )));
        }
        let mut findings = self.check_patterns();
        findings.extend(self.check_hand_overs(own_domain));
        findings.extend(self.check_tables(own_domain));
        findings.sort_by_key(|finding| finding.position.line);
        let lines = Lines::new(own_domain, &self.sources, self.hand_over_copies(own_domain), places);
        self.check_lines(lines, is_whole, findings, &mut found);
        found
    }

    /// Reads the file once more, cites the lines of these findings, which are sorted by line, and checks each line.
    fn check_lines(&self, mut lines: Lines<'_>, is_whole: bool, findings: Vec<Finding>, found: &mut Vec<Diagnostic>) {
        let mut findings = findings.into_iter().peekable();
        let read = self.sources.for_each_line(|number, text| {
            while let Some(finding) = findings.next_if(|finding| finding.position.line <= number) {
                found.push(finding.cite(text));
            }
            lines.look_at(number, text, found);
        });
        // Findings are left only if a file can no longer be read.
        found.extend(findings.map(|finding| finding.cite("")));
        let is_read = read.map_err(|error| found.push(error)).is_ok();
        if !is_whole || !is_read {
            return;
        }
        found.extend(lines.missing());
        let others = Others { sources: &self.sources, exact: &lines.addresses, own_domain: lines.own_domain };
        let mut late = shadow::never_applying(&self.ordered, &others);
        late.extend(shadow::copies_of_nothing(&self.copies, &self.ordered, &others));
        for finding in late.into_iter().filter(|finding| !lines.flawed.contains(&finding.position.line)) {
            let text = lines.texts.get(&finding.position.line).map_or("", |text| text);
            found.push(finding.cite(text));
        }
    }

    /// Whether at least somebody can send mail to postmaster. A pattern that does not compile is reported elsewhere.
    fn takes_mail_for_postmaster(&self, own_domain: &str) -> bool {
        let Ok(postmaster) = Mailbox::parse(&format!("postmaster@{own_domain}")) else { return true };
        let peer = Peer::unnamed(IpAddr::from(Ipv4Addr::LOCALHOST));
        let route = self.route(&postmaster, Who::in_the_clear(&peer), own_domain, &mut Trace::default());
        !matches!(route, Err(Denial::Unknown | Denial::Refused(_)))
    }

    fn check_patterns(&self) -> Vec<Finding> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        let (admitted, denied) = (self.allowed_peers.iter().chain(members), self.denied_peers.iter());
        let admitted = admitted.filter_map(Peers::pattern).filter_map(|pattern| check_peers(pattern, lets_in_more));
        let denied = denied.filter_map(Peers::pattern).filter_map(|pattern| check_peers(pattern, turns_all_away));
        let proxies = self.proxies.iter().filter_map(check_proxies);
        let users = self.groups.iter().flat_map(|group| &group.members).filter_map(Peers::auth);
        let users = users.filter_map(|pattern| check_pattern(pattern, lets_in_more));
        let (delivering, refusing): (Vec<_>, Vec<_>) =
            self.ordered.iter().partition(|rule| matches!(rule.effect, Effect::Deliver(_)));
        let delivering = delivering.into_iter().filter_map(OrderedRule::pattern);
        let refusing = refusing.into_iter().filter_map(OrderedRule::pattern);
        let copying = self.copies.iter().filter_map(OrderedRule::pattern);
        let senders = self.allowed_senders.iter().filter_map(|(matcher, _)| matcher.pattern());
        let letting_in = senders.chain(delivering);
        let letting_in = letting_in.filter_map(|pattern| check_pattern(pattern, lets_in_more));
        let senders = self.refused_senders.iter().filter_map(|(matcher, ..)| matcher.pattern());
        let keeping_out = senders.chain(refusing);
        let keeping_out = keeping_out.filter_map(|pattern| check_pattern(pattern, is_another_notation));
        let copying = copying.filter_map(|pattern| check_pattern(pattern, |_| None));
        admitted.chain(denied).chain(proxies).chain(users).chain(letting_in).chain(keeping_out).chain(copying).collect()
    }

    /// Warnings about members of groups that cannot exist.
    pub(super) fn warn_of_members(
        &self,
        place: impl Fn(&Peers) -> Option<(Position, &str)>,
        message: &str,
    ) -> Vec<Diagnostic> {
        let mut places: Vec<_> = self.groups.iter().flat_map(|group| &group.members).filter_map(place).collect();
        places.sort_by_key(|(position, _)| position.line);
        let mut found = Vec::new();
        // If the file cannot be read a second time, the check of the rules reports that.
        _ = self.sources.for_each_line(|number, text| {
            if let Ok(at) = places.binary_search_by_key(&number, |(position, _)| position.line) {
                let (position, shown) = places[at];
                found.push(Finding::new(Severity::Warning, position, shown, message.to_owned()).cite(text));
            }
        });
        found
    }

    fn check_tables(&self, own_domain: &str) -> Vec<Finding> {
        let recipients = self.ordered.iter().chain(&self.copies).map(|rule| (&rule.matcher, rule.position));
        let allowed = self.allowed_senders.iter().map(|(matcher, position)| (matcher, *position));
        let refused = self.refused_senders.iter().map(|(matcher, position, _)| (matcher, *position));
        let all = recipients.chain(allowed).chain(refused);
        all.filter_map(|(matcher, position)| check_table(matcher, position, own_domain)).collect()
    }

    /// Errors about recipients whose own lines have two destinations that cannot be undone. They could never get mail:
    /// one destination may fail when the other is done. If two patterns meet only for certain recipients, that is
    /// refused at run time.
    fn check_hand_overs(&self, own_domain: &str) -> Vec<Finding> {
        let mut copies = HandOverCopies::new(own_domain);
        let mut findings = Vec::new();
        let mut check = |copies: &HandOverCopies<'_>, rule: &OrderedRule| {
            for copy in copies.that_meet(rule) {
                let message = second_hand_over(self.sources.name_beside(copy.position.line, rule.position.line));
                findings.push(Finding::new(Severity::Error, rule.position, rule.matcher.source(), message));
            }
        };
        for copy in self.copies.iter().filter(|copy| copy.effect.is_hand_over()) {
            check(&copies, copy);
            copies.add(copy);
        }
        for rule in self.ordered.iter().filter(|rule| rule.effect.is_hand_over()) {
            check(&copies, rule);
        }
        findings
    }

    fn hand_over_copies<'r>(&'r self, own_domain: &'r str) -> HandOverCopies<'r> {
        let mut copies = HandOverCopies::new(own_domain);
        self.copies.iter().filter(|copy| copy.effect.is_hand_over()).for_each(|copy| copies.add(copy));
        copies
    }
}

/// The `copy` lines that cannot be taken back. There may be thousands for single addresses, so these can be looked up.
pub(super) struct HandOverCopies<'r> {
    own_domain: &'r str,
    by_address: HashMap<String, &'r OrderedRule>,
    others: Vec<&'r OrderedRule>,
}

impl<'r> HandOverCopies<'r> {
    fn new(own_domain: &'r str) -> Self {
        Self { own_domain, by_address: HashMap::new(), others: Vec::new() }
    }

    fn add(&mut self, copy: &'r OrderedRule) {
        match &copy.matcher {
            Matcher::Address(address) => {
                self.by_address.entry(without_own_domain(address, self.own_domain)).or_insert(copy);
            }
            Matcher::Wildcard(_) | Matcher::Pattern(_) | Matcher::Table(_) | Matcher::Domains(_) => {
                self.others.push(copy);
            }
        }
    }

    /// The first line for exactly this address, and the first with a pattern that matches it, in the order of the file.
    /// More lines would not say anything new.
    pub(super) fn that_take(&self, address: &str) -> Vec<&'r OrderedRule> {
        let exact = self.by_address.get(&without_own_domain(address, self.own_domain)).copied();
        let other = self.others.iter().copied().find(|copy| copy.takes(address, self.own_domain));
        let mut found: Vec<_> = exact.into_iter().chain(other).collect();
        found.sort_by_key(|copy| copy.position.line);
        found
    }

    /// The same for lines that certainly share a recipient with this rule.
    fn that_meet(&self, rule: &OrderedRule) -> Vec<&'r OrderedRule> {
        if let Matcher::Address(address) = &rule.matcher {
            return self.that_take(address);
        }
        let all = self.by_address.values().chain(&self.others).copied();
        let first = all.filter(|copy| copy.meets(rule, self.own_domain)).min_by_key(|copy| copy.position.line);
        first.into_iter().collect()
    }
}

/// An address in the form for comparisons: in lower case and without our own domain.
pub(super) fn without_own_domain(address: &str, own_domain: &str) -> String {
    let address = address.to_ascii_lowercase();
    let own = address.rsplit_once('@').filter(|(_, domain)| domain.eq_ignore_ascii_case(own_domain));
    own.map_or(&*address, |(local_part, _)| local_part).to_owned()
}

pub(super) fn second_hand_over(copy: LineName<'_>) -> String {
    format!(
        "a recipient of this line also gets the `copy` of {copy}: of two destinations that cannot be taken \
         back, one may fail when the other is done; append one of them to a file instead"
    )
}

/// Findings about a table: it cannot be read, contains something else than addresses, or may be another file where
/// sessions are started.
fn check_table(matcher: &Matcher, position: Position, own_domain: &str) -> Option<Finding> {
    let Matcher::Table(table) = matcher else { return None };
    let (mut odd, mut others) = (None, 0);
    let read = table.for_each(|line, address| {
        // In tables `*` has no special meaning.
        let is_address = !address.contains('*') && Mailbox::parse_or_qualify(address, own_domain).is_ok();
        match odd {
            _ if is_address => {}
            None => odd = Some(format!("line {line} of {} is no mail address: `{address}`", table.name())),
            Some(_) => others += 1,
        }
    });
    let odd = odd.map(|odd| if others == 0 { odd } else { format!("{odd} (and {others} more)") });
    let (severity, message) = match read {
        Err(message) => (Severity::Error, message),
        Ok(()) => (Severity::Warning, odd.or_else(|| places::written_oddly(Path::new(table.name())))?),
    };
    let shown = format!("table:{}", table.name());
    Some(Finding::new(severity, position, &shown, message))
}

/// Warns if strangers count as proxies, because a proxy says itself who the peer is.
fn check_proxies(proxies: &Peers) -> Option<Finding> {
    let (position, source, is_anybody) = match proxies {
        Peers::Network(network, position) => (*position, network.to_string(), network.is_vast()),
        Peers::User(..) | Peers::Secured(_) | Peers::Authenticated(_) => return None,
        Peers::Pattern(pattern) => {
            let whole = pattern.whole();
            // These addresses are so far apart that no administrator's network has two of them.
            let fits = |address: &&str| whole.is_match(address).unwrap_or(false);
            let count = ["8.8.8.8", "198.51.100.1", "2001:db8::1", "2620:fe::fe"].iter().filter(|it| fits(it)).count();
            if count < 2 {
                return check_peers(pattern, lets_in_more);
            }
            (whole.position(), whole.source().to_owned(), true)
        }
    };
    let message = "everybody is taken for a proxy by this, and can say that he is somebody else, to rules, log and \
                   fail2ban: name the addresses of your proxies";
    is_anybody.then(|| Finding::new(Severity::Warning, position, &source, message.to_owned()))
}

/// The finding about a pattern that does not compile, or that is `odd`.
fn check_pattern(pattern: &Pattern, odd: impl FnOnce(&Pattern) -> Option<String>) -> Option<Finding> {
    finding_about(pattern, pattern.check(), || odd(pattern))
}

/// The same for a pattern about peers, which may mean a network.
fn check_peers(peers: &PeerPattern, odd: impl FnOnce(&Pattern) -> Option<String>) -> Option<Finding> {
    let pattern = peers.whole();
    finding_about(pattern, peers.check(), || peers.advice().or_else(|| odd(pattern)))
}

fn finding_about(
    pattern: &Pattern,
    checked: Result<(), BrokenPattern>,
    odd: impl FnOnce() -> Option<String>,
) -> Option<Finding> {
    let (severity, message) = match (checked, perl::translated(pattern.source())) {
        (Err(broken), _) => (Severity::Error, broken.message),
        (Ok(()), Ok(Cow::Owned(meant))) => {
            let perls = || format!("this is Perl's spelling, and is taken for `{meant}`: write that");
            (Severity::Warning, is_list(pattern.source()).unwrap_or_else(perls))
        }
        (Ok(()), _) => (Severity::Warning, odd()?),
    };
    Some(Finding::new(severity, pattern.position(), pattern.source(), message))
}

/// Warns if a pattern is found in the middle of a name.
fn lets_in_more(pattern: &Pattern) -> Option<String> {
    if let Some(message) = has_brackets(pattern.source()) {
        return Some(message);
    }
    let message =
        "this pattern is found anywhere in a name, so it lets in more than it seems to: tie it down with ^ and $";
    (!pattern.is_anchored()).then(|| message.to_owned())
}

impl Finding {
    /// A finding about `part`, which is at this place.
    pub(super) fn new(severity: Severity, position: Position, part: &str, message: String) -> Self {
        Self { severity, position, width: part.chars().count(), message }
    }

    /// Adds the line, as it was read.
    pub(super) fn cite(self, line: &str) -> Diagnostic {
        let prepared = lexer::prepared(line).ok().filter(Prepared::is_replaced);
        let cited = prepared.as_ref().map_or(Cited::InFile(line), Cited::Prepared);
        let before = cited.text().char_indices().take_while(|(byte, _)| *byte < self.position.start);
        let (column, source) = (before.count() + 1, cited.without_secrets().into_owned());
        let Self { severity, position: Position { line, .. }, width, message } = self;
        Diagnostic { severity, file: None, line, column, width, message, source }
    }
}

/// Warns if a pattern matches every name and address.
fn turns_all_away(pattern: &Pattern) -> Option<String> {
    shadow::is_everything(pattern.source()).then(|| "this turns every peer away, whatever `allow` says".to_owned())
}

/// Warns if a pattern keeps out something else, or more, than it seems to.
fn is_another_notation(pattern: &Pattern) -> Option<String> {
    let source = pattern.source();
    if source.contains("@*") {
        return Some(
            "this is a pattern, in which `@*` is any number of `@`: write `@` for every domain, or `@.*$`".to_owned(),
        );
    }
    has_brackets(source).or_else(|| refuses_more(source))
}

/// Warns if a pattern was meant as a list of domains, which is possible only behind `*` or an address.
fn is_list(source: &str) -> Option<String> {
    let (local_part, domains) = source.trim_start_matches('^').trim_end_matches('$').split_once("@{")?;
    let domains = domains.strip_suffix('}')?.replace(' ', "").replace(',', "|").replace('.', "\\.");
    let meant = format!("^{local_part}@({domains})$");
    Some(format!(
        "this is a regular expression, as it does not begin with `*`, and no list of domains: write `{meant}`"
    ))
}

/// Warns if a pattern has the angle brackets of addresses in commands.
fn has_brackets(source: &str) -> Option<String> {
    let inner = source.trim_start_matches('^').trim_end_matches('$').strip_prefix('<')?.strip_suffix('>')?;
    let meant = if inner.is_empty() { "^$".to_owned() } else { format!("^{inner}$") };
    Some(format!("no address has its angle brackets here: write `{meant}`"))
}

/// Warns if a pattern is an address that is found inside other addresses.
fn refuses_more(source: &str) -> Option<String> {
    let (address, begins, ends) = plain_address(source)?;
    let too = match (begins, ends) {
        (true, true) => return None,
        (false, true) => format!("`x{address}` too"),
        (true, false) => format!("`{address}.example` too"),
        (false, false) => format!("`x{address}.example` too"),
    };
    let exact = address.replace('.', "\\.").replace('+', "\\+");
    Some(format!("this is found anywhere in an address, so it refuses {too}: write `^{exact}$`"))
}

/// The address that a pattern consists of, and whether the pattern is anchored at its beginning and its end. A bare dot
/// is read as a dot.
fn plain_address(source: &str) -> Option<(String, bool, bool)> {
    let (begins, rest) = source.strip_prefix('^').map_or((false, source), |rest| (true, rest));
    let (ends, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    let mut address = String::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => address.push(characters.next().filter(char::is_ascii_punctuation)?),
            '*' | '+' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            plain => address.push(plain),
        }
    }
    Mailbox::parse(&address).is_ok().then_some((address, begins, ends))
}

impl Effect {
    fn is_hand_over(&self) -> bool {
        matches!(self, Effect::Deliver(Action::HandOver(_)))
    }
}

impl OrderedRule {
    /// Whether this rule matches a recipient as another rule names it.
    pub(super) fn takes(&self, address: &str, own_domain: &str) -> bool {
        let (full, local_part) = match address.rsplit_once('@') {
            None => (format!("{address}@{own_domain}"), Some(address)),
            Some((local_part, domain)) => {
                (address.to_owned(), domain.eq_ignore_ascii_case(own_domain).then_some(local_part))
            }
        };
        self.fits(Addressee { full: &full, local_part }, "copy", &mut Trace::default()).unwrap_or(false)
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
        self.matcher.pattern()
    }
}

impl Matcher {
    fn pattern(&self) -> Option<&Pattern> {
        match self {
            Matcher::Pattern(pattern) => Some(pattern),
            Matcher::Address(_) | Matcher::Wildcard(_) | Matcher::Table(_) | Matcher::Domains(_) => None,
        }
    }
}
