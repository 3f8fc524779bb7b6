//! Parses one line of the configuration into a [`Line`]: the grammar only, not what follows from it.
//!
//! A setting is a row in `settings.rs`, a limit one in `limits.rs`. A rule is a row of [`RULES`], a variant of
//! [`RuleLine`], and what `rules.rs` makes of it. These tables are also used for "did you mean" and for the test that
//! the manual page describes every directive. mailrecv.conf(5) is the reference.

use std::net::IpAddr;

use super::action::Action;
use super::domains::DomainList;
use super::lexer::{self, CONDITIONS, Notes, Prepared, Problem, Word, Words};
use super::limits::{self, LimitLine, Limits};
use super::network::Network;
use super::secrets;
use super::settings::{SETTINGS, Setting};
use super::spelling::{closest, did_you_mean};
use super::table::Table;
use super::value::{self, RefusalText};
use crate::user;

/// What one line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'t> {
    Setting(Setting),
    Limit(LimitLine<'t>),
    Rule(RuleLine<'t>),
    /// Lines of the files with this name are read in its place.
    Include(Word<'t>),
}

/// A line about who may send what to whom, and where it goes.
#[derive(Debug, PartialEq)]
pub(super) enum RuleLine<'t> {
    AllowPeers(PeersNamed<'t>),
    DenyPeers(PeersNamed<'t>),
    ProxyProtocol(PeersNamed<'t>),
    AllowGroup(&'t str, PeersNamed<'t>),
    Deliver(Delivery<'t>),
    Copy(Delivery<'t>),
    RefuseRecipient(Option<Word<'t>>, Word<'t>, RefusalText<'t>),
    /// Other senders get the refusal.
    AllowSender(Word<'t>, Option<RefusalText<'t>>),
    RefuseSender(Word<'t>, RefusalText<'t>),
    DeadLetterFile(&'t str),
}

/// `deliver` or `copy`: who may send to whom, and where it goes.
#[derive(Debug, PartialEq)]
pub(super) struct Delivery<'t> {
    pub(super) group: Option<Word<'t>>,
    pub(super) recipient: Word<'t>,
    pub(super) action: Action,
}

/// Peers: those whose name or address a pattern matches, those in a network, a user at a Unix socket, those under TLS,
/// or those whose user name a pattern matches.
#[derive(Debug, PartialEq)]
pub(super) enum PeersNamed<'t> {
    Pattern(Word<'t>),
    Network(Network, Word<'t>),
    User(u32, Word<'t>),
    Secured(Word<'t>),
    Authenticated(Word<'t>),
}

impl<'t> From<RuleLine<'t>> for Line<'t> {
    fn from(rule: RuleLine<'t>) -> Self {
        Line::Rule(rule)
    }
}

/// Parses the words of one line; `None` for an empty one.
pub(super) fn line<'t>(prepared: &'t Prepared<'_>) -> Result<Option<Line<'t>>, Problem> {
    line_noting(prepared, None)
}

/// The same; notes what is allowed but probably not meant.
pub(super) fn line_noting<'t>(
    prepared: &'t Prepared<'_>,
    notes: Option<&'t Notes>,
) -> Result<Option<Line<'t>>, Problem> {
    let mut words = prepared.words().noting(notes);
    let Some(verb) = words.next_word() else { return Ok(None) };
    let line = match directives().find(|directive| directive.name == verb.text) {
        Some(directive) => {
            let line = (directive.parse)(&mut words)?;
            match words.next_word() {
                Some(extra) if line.ignores_more_words() => words.note(extra, || {
                    format!(
                        "`{}` is ignored, with all that follows it: put `#` in front of a comment{}",
                        extra.text, directive.advice
                    )
                }),
                Some(extra) => {
                    return Err(extra.problem(format!("`{}` is one word too many{}", extra.text, directive.advice)));
                }
                None => {}
            }
            line
        }
        None => Line::Limit(limits::line(verb.text, &mut words).unwrap_or_else(|| Err(unknown_directive(verb)))?),
    };
    Ok(Some(line))
}

impl Line<'_> {
    /// Whether the original ignored words behind the last argument, so that existing files may have comments there.
    fn ignores_more_words(&self) -> bool {
        match self {
            Line::Setting(setting) => {
                matches!(setting, Setting::domain(_) | Setting::debug(_) | Setting::loghex(_) | Setting::log(_))
            }
            Line::Limit(_) | Line::Include(_) => false,
            Line::Rule(rule) => match rule {
                RuleLine::AllowPeers(peers) | RuleLine::AllowGroup(_, peers) => matches!(peers, PeersNamed::Pattern(_)),
                RuleLine::Deliver(delivery) => delivery.action.is_append(),
                RuleLine::DeadLetterFile(_) => true,
                RuleLine::DenyPeers(_)
                | RuleLine::ProxyProtocol(_)
                | RuleLine::Copy(_)
                | RuleLine::RefuseRecipient(..)
                | RuleLine::AllowSender(..)
                | RuleLine::RefuseSender(..) => false,
            },
        }
    }
}

/// A directive that is not a limit.
pub(super) struct Directive {
    pub(super) name: &'static str,
    /// Parses the words behind the name.
    pub(super) parse: for<'t> fn(&mut Words<'t>) -> Result<Line<'t>, Problem>,
    /// Added to the error about a word too many.
    pub(super) advice: &'static str,
}

/// The directives that make rules.
const RULES: &[Directive] = &[
    Directive { name: "deliver", parse: |words| Ok(RuleLine::Deliver(delivery(words)?).into()), advice: QUOTE_IT },
    Directive { name: "copy", parse: |words| Ok(RuleLine::Copy(delivery(words)?).into()), advice: QUOTE_IT },
    Directive { name: "error", parse: error, advice: "" },
    Directive { name: "allow", parse: allow, advice: ESCAPE_BLANKS },
    Directive { name: "deny", parse: deny, advice: ESCAPE_BLANKS },
    Directive { name: "allowgroup", parse: allow_group, advice: ESCAPE_BLANKS },
    Directive { name: "proxy_protocol", parse: proxy_protocol, advice: "" },
    Directive {
        name: "deadletter_file",
        parse: |words| Ok(RuleLine::DeadLetterFile(words.path("a file")?.text).into()),
        advice: QUOTE_IT,
    },
];

/// The directive that includes other files.
const INCLUDE: &Directive = &Directive {
    name: "include",
    parse: |words| words.path("a file, or some as in `/etc/mailrecv.d/*.conf`,").map(Line::Include),
    advice: QUOTE_IT,
};

pub(super) const QUOTE_IT: &str = "; put a name with blanks in quotes";
const ESCAPE_BLANKS: &str = "; a pattern is one word: write \\s or [ ] for a blank";

/// All directives except limits. Rules come first, because most lines are rules.
fn directives() -> impl Iterator<Item = &'static Directive> {
    RULES.iter().chain(SETTINGS).chain([INCLUDE])
}

/// The names of all directives, including limits.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let limits = Limits::DEFAULTS.iter().map(|(name, ..)| *name);
    directives().map(|directive| directive.name).chain(limits).chain(CONDITIONS)
}

fn allow<'t>(words: &mut Words<'t>) -> Result<Line<'t>, Problem> {
    let what = words.expect("`remotehost` or `mail_from`")?;
    match what.text {
        "remotehost" => Ok(RuleLine::AllowPeers(peers(words)?).into()),
        "mail_from" => {
            let senders = words.expect("a pattern for senders")?;
            check_list(words, senders)?;
            let refusal = if words.is_at_end() { None } else { Some(value::refusal(words, 550)?) };
            Ok(RuleLine::AllowSender(senders, refusal).into())
        }
        other => Err(what.problem(format!(
            "`{other}` found where `remotehost` or `mail_from` is expected{}",
            did_you_mean(other, ["remotehost", "mail_from"].into_iter())
        ))),
    }
}

fn deny<'t>(words: &mut Words<'t>) -> Result<Line<'t>, Problem> {
    words.keyword("remotehost", "`deny remotehost REGEX`")?;
    Ok(RuleLine::DenyPeers(peers(words)?).into())
}

/// Reads `from NETWORK`, `from ADDRESS` or `from REGEX`. An address is not a pattern here: found inside another
/// address, it would make that peer a proxy too.
fn proxy_protocol<'t>(words: &mut Words<'t>) -> Result<Line<'t>, Problem> {
    words.keyword("from", "`proxy_protocol from NETWORK`")?;
    let mut ahead = *words;
    let address = ahead.next_word().filter(|word| word.text.parse::<IpAddr>().is_ok());
    let named = match address {
        Some(word) => {
            *words = ahead;
            let network = Network::parse(word.text).map_err(|message| word.problem(message))?;
            PeersNamed::Network(network, word)
        }
        None => match peers(words)? {
            PeersNamed::User(_, word) => return Err(word.problem("a proxy has an address: write `net CIDR`")),
            // As a pattern it would match nobody.
            PeersNamed::Pattern(word) if word.text == "tls" => {
                return Err(word.problem("TLS begins behind the header of a proxy: write `net CIDR`"));
            }
            PeersNamed::Pattern(word) if word.text == "auth" => {
                return Err(word.problem("nobody logs in before the header of a proxy: write `net CIDR`"));
            }
            named => named,
        },
    };
    Ok(RuleLine::ProxyProtocol(named).into())
}

fn allow_group<'t>(words: &mut Words<'t>) -> Result<Line<'t>, Problem> {
    let name = words.expect("the name of the group")?;
    if !name.text.starts_with('+') || name.text.len() == 1 {
        words.note(name, || {
            let meant = if name.text == "+" { "trusted" } else { name.text };
            format!("the name of a group begins with `+`: write `+{meant}`, here and where it is used")
        });
    }
    let mut ahead = *words;
    match ahead.next_word() {
        Some(first) if first.text == "auth" => {
            let name_of_user = ahead.expect("a pattern for names of users, or `.*` for all of them,")?;
            *words = ahead;
            Ok(RuleLine::AllowGroup(name.text, PeersNamed::Authenticated(name_of_user)).into())
        }
        Some(first) if first.text == "tls" => {
            *words = ahead;
            Ok(RuleLine::AllowGroup(name.text, PeersNamed::Secured(first)).into())
        }
        _ => Ok(RuleLine::AllowGroup(name.text, peers(words)?).into()),
    }
}

/// Reads `REGEX`, `net CIDR`, a bare `CIDR`, which cannot be a pattern because names and addresses have no `/`, or `uid
/// USER`.
fn peers<'t>(words: &mut Words<'t>) -> Result<PeersNamed<'t>, Problem> {
    let first = words.expect("a pattern for host names or addresses, `net CIDR` or `uid USER`")?;
    let network = match first.text {
        "uid" => {
            let user = words.next_word().ok_or_else(|| words.missing("a user, as in `uid postfix` or `uid 105`,"))?;
            let uid = user::parse(user.text).ok_or_else(|| {
                user.problem(format!("there is no user `{}` in /etc/passwd: write a name or a number", user.text))
            })?;
            return Ok(PeersNamed::User(uid, user));
        }
        "net" => words.next_word().ok_or_else(|| words.missing("the network, as in `net 192.0.2.0/24`,"))?,
        text if Network::is_meant_by(text) => first,
        // As a pattern it would match nobody.
        text if text.starts_with("table:") => {
            return Err(first.problem("a table has addresses of mail: write a line for each peer or network"));
        }
        _ => return Ok(PeersNamed::Pattern(first)),
    };
    let parsed = Network::parse(network.text).map_err(|message| network.problem(message))?;
    Ok(PeersNamed::Network(parsed, network))
}

fn delivery<'t>(words: &mut Words<'t>) -> Result<Delivery<'t>, Problem> {
    let group = rcpt_to(words)?;
    let recipient = words.expect("a recipient: an address, an address with `*`, /regex/ or table:FILE")?;
    check_recipient(words, recipient)?;
    Ok(Delivery { group, recipient, action: Action::parse(words)? })
}

/// `[allowgroup +NAME] rcpt_to`
fn rcpt_to<'t>(words: &mut Words<'t>) -> Result<Option<Word<'t>>, Problem> {
    let first = words.expect("`rcpt_to`, or `allowgroup +NAME rcpt_to`")?;
    match first.text {
        "rcpt_to" => Ok(None),
        "allowgroup" => {
            let group = words.expect("the name of an allow group")?;
            words.keyword("rcpt_to", "`rcpt_to` behind the group's name")?;
            Ok(Some(group))
        }
        other => Err(first.problem(format!(
            "`{other}` found where `rcpt_to` or `allowgroup` is expected{}",
            did_you_mean(other, ["rcpt_to", "allowgroup"].into_iter())
        ))),
    }
}

/// Checks the recipient of a `deliver` or `copy` line, so that it can be understood in one way only.
fn check_recipient(words: &Words<'_>, recipient: Word<'_>) -> Result<(), Problem> {
    let text = recipient.text;
    if text.len() > 1 && text.starts_with('/') {
        return match text.ends_with('/') {
            true => Ok(()),
            false => Err(recipient.problem("a pattern that begins with `/` ends with `/`")),
        };
    }
    if Table::name_in(text).is_some() {
        return Ok(());
    }
    if let Some(list) = DomainList::of_address(recipient) {
        note_alphabet(words, recipient, &list?);
        return Ok(());
    }
    if is_quoted_address(text) {
        return Ok(());
    }
    if let Some(bare) = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
        words.note(recipient, || format!("no recipient has brackets, so no mail will be for it: write `{bare}`"));
        return Ok(());
    }
    if looks_like_regex(text) {
        words.note(recipient, || {
            format!("this is taken for an address, which no recipient has: a regular expression stands between slashes here, `/{text}/`")
        });
        return Ok(());
    }
    if let Some(bad) = text.chars().find(|character| "<>,;()".contains(*character)) {
        return Err(recipient.problem(format!("`{bad}` in a recipient: write the bare address")));
    }
    if text.starts_with('@') || text.ends_with('@') {
        words.note(recipient, || {
            let meant = if text.starts_with('@') { format!("*{text}") } else { format!("{text}*") };
            format!("an address has something on both sides of its `@`, so no mail will be for it: `*` stands for anything, as in `{meant}`")
        });
    }
    Ok(())
}

/// `"local part"@domain`
fn is_quoted_address(text: &str) -> bool {
    text.starts_with('"') && text.contains("\"@")
}

/// Whether this was probably meant as a regular expression, although it is in the place of an address.
pub(super) fn looks_like_regex(text: &str) -> bool {
    let is_operator = text.starts_with('^') || text.ends_with('$') || text.contains(['\\', '[', '(', '|']);
    // An address literal has brackets too.
    let literal =
        text.find("@[").is_some_and(|at| text.ends_with(']') && !text[..at].contains(['\\', '^', '[', '(', '|']));
    is_operator && !literal && !(text.starts_with('(') && text.ends_with(')'))
        || text.contains(".*")
        || text.contains(".+")
}

fn error<'t>(words: &mut Words<'t>) -> Result<Line<'t>, Problem> {
    let mut ahead = *words;
    if ahead.next_word().is_some_and(|word| word.text == "mail_from") {
        *words = ahead;
        let pattern = words.expect("a pattern for senders")?;
        is_text(pattern)?;
        check_list(words, pattern)?;
        return Ok(RuleLine::RefuseSender(pattern, value::refusal(words, 550)?).into());
    }
    let group = rcpt_to(words)?;
    let pattern = words.expect("a pattern for recipients")?;
    is_text(pattern)?;
    check_list(words, pattern)?;
    Ok(RuleLine::RefuseRecipient(group, pattern, value::refusal(words, 550)?).into())
}

/// Checks the list of domains, if there is one in the place of a regular expression.
fn check_list(words: &Words<'_>, pattern: Word<'_>) -> Result<(), Problem> {
    if let Some(list) = DomainList::of_pattern(pattern) {
        note_alphabet(words, pattern, &list?);
    }
    Ok(())
}

/// Most programs write such a domain in ASCII (`xn--`).
fn note_alphabet(words: &Words<'_>, word: Word<'_>, list: &DomainList) {
    if let Some(domain) = list.in_another_alphabet() {
        words.note(word, || {
            format!("`{domain}` is meant as it is written, and most programs write it with `xn--`: list both")
        });
    }
}

/// The error about the directive in a line that is skipped because of its condition.
pub(super) fn skipped_problem(line: &str) -> Option<Problem> {
    let verb = lexer::skipped_directive(line)?;
    names().all(|name| name != verb.text).then(|| unknown_directive(verb))
}

/// In a line whose reply may have other bytes than UTF-8, the pattern must be UTF-8.
fn is_text(pattern: Word<'_>) -> Result<(), Problem> {
    match pattern.text.contains(char::REPLACEMENT_CHARACTER) {
        true => Err(pattern.problem("this pattern is not UTF-8 text")),
        false => Ok(()),
    }
}

fn unknown_directive(verb: Word<'_>) -> Problem {
    // In `relay_password=secret` the word contains a secret, which messages must not quote.
    if let Some(name) = secrets::meant(verb.text).filter(|name| *name != verb.text) {
        return verb.problem(format!("unknown directive `{name}...`: behind a directive stands a blank"));
    }
    let meant =
        closest(verb.text, names()).or_else(|| names().find(|name| name.strip_prefix("limit.") == Some(verb.text)));
    let meant = meant.map_or_else(String::new, |name| format!(": did you mean `{name}`?"));
    verb.problem(format!("unknown directive `{}`{meant}", verb.text))
}
