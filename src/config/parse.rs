//! One line of the configuration into one [`Directive`]: the grammar, and nothing of what it leads to.
//!
//! Everything is borrowed from the line: of 100,000 rules a connection uses one or two, so nothing is copied for the
//! rest. Every error is a [`Problem`] that knows which bytes of the line it is about. mailrecv.conf(5) is the reference.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::Flags;
use super::action::{Action, HandOver, Keep};
use super::net::Network;

/// What one line says.
#[derive(Debug, PartialEq)]
pub(super) enum Directive<'t> {
    Domain(&'t str),
    Debug(Flags),
    LogFile(&'t str),
    LogHex(bool),
    DeadLetterFile(Word<'t>),
    SpoolDirectory(&'t str),
    User(&'t str),
    Limit(LimitValue, Option<RefusalText<'t>>),
    AllowPeer(Word<'t>),
    DenyPeer(Word<'t>),
    AllowGroup(&'t str, GroupMember<'t>),
    Deliver(Rule<'t>),
    Copy(Rule<'t>),
    RefuseRecipient(Option<Word<'t>>, Word<'t>, RefusalText<'t>),
    AllowSender(Word<'t>),
    RefuseSender(Word<'t>, RefusalText<'t>),
}

/// `deliver` or `copy`: who may send to whom, and where it goes.
#[derive(Debug, PartialEq)]
pub(super) struct Rule<'t> {
    pub(super) group: Option<Word<'t>>,
    pub(super) recipient: Word<'t>,
    pub(super) action: Action<'t>,
}

/// One member of an allow group.
#[derive(Debug, PartialEq)]
pub(super) enum GroupMember<'t> {
    Pattern(Word<'t>),
    Network(Network),
}

/// `CODE TEXT` as the administrator wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusalText<'t> {
    pub(super) code: u16,
    pub(super) text: &'t str,
}

/// What follows `limit.`: which bound, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitValue {
    Commands(u64),
    UnknownCommands(u64),
    FailedCommands(u64),
    ConnectionTime(Duration),
    DataSize(u64),
    Recipients(u64),
    Ascii(bool),
    FcrdnsCheck(bool),
    BareNewline(bool),
    IdleTime(Duration),
    DnsTime(Duration),
    PipeTime(Duration),
}

/// A word of the line and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'t> {
    /// The word, without the quotes that enclosed it.
    pub(super) text: &'t str,
    /// First byte of the word in its line, quotes included.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
}

/// What is wrong with a line, and which of its bytes are to blame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) message: String,
}

impl Word<'_> {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { start: self.start, end: self.end, message: message.into() }
    }
}

/// Parses one line, its comment taken off and its variables replaced; `None` for an empty one.
pub(super) fn directive(line: &str) -> Result<Option<Directive<'_>>, Problem> {
    let mut words = Words { line, at: 0 };
    let Some(verb) = words.next_word() else { return Ok(None) };
    let directive = match verb.text {
        "deliver" => Directive::Deliver(rule(&mut words)?),
        "copy" => Directive::Copy(rule(&mut words)?),
        "error" => error(&mut words)?,
        "allow" => allow(&mut words)?,
        "deny" => {
            words.keyword("remotehost", "`deny remotehost REGEX`")?;
            Directive::DenyPeer(words.expect("a pattern for host names or addresses")?)
        }
        "allowgroup" => allow_group(&mut words)?,
        "domain" => Directive::Domain(domain(words.expect("the domain name")?)?),
        "debug" => {
            let flags = words.expect("flags, or `-` for none")?;
            Directive::Debug(Flags::parse(flags.text).map_err(|message| flags.problem(message))?)
        }
        "logfile" => Directive::LogFile(words.expect("`syslog`, `stderr` or a file")?.text),
        "loghex" => Directive::LogHex(switch(words.expect("`on` or `off`")?)?),
        "deadletter_file" => Directive::DeadLetterFile(words.expect("a file")?),
        "spool_dir" => Directive::SpoolDirectory(words.expect("a folder")?.text),
        "user" => Directive::User(words.expect("a user name")?.text),
        name => match name.strip_prefix("limit.") {
            Some(limit_name) => limit(limit_name, verb, &mut words)?,
            None => return Err(unknown_directive(verb)),
        },
    };
    words.end(&directive)?;
    Ok(Some(directive))
}

/// Address and file of a line that is nothing but `deliver rcpt_to ADDRESS append FILE`, in plain characters. Files with
/// very many rules consist of such lines, and each connection reads them all: this tells in one pass that such a line is
/// sound. `None` says nothing about a line; [`directive`] does.
pub(super) fn plain_delivery(line: &[u8]) -> Option<(&[u8], &Path)> {
    /// Printable ASCII that has no meaning in the grammar of a line, an address or a pattern.
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = b'!';
        while byte <= b'~' {
            plain[byte as usize] = !matches!(
                byte,
                b'#' | b'$' | b'"' | b'\'' | b'*' | b'<' | b'>' | b',' | b';' | b'(' | b')' | b'\\' | b'`'
            );
            byte += 1;
        }
        plain
    };
    let rest = line.strip_prefix(b"deliver rcpt_to ")?;
    let end = rest.iter().position(|byte| !PLAIN[usize::from(*byte)])?;
    let (address, rest) = rest.split_at(end);
    let file = rest.strip_prefix(b" append ")?;
    let sound = !file.is_empty()
        && file.iter().all(|byte| PLAIN[usize::from(*byte)])
        && matches!(address, [first, .., last] if !matches!(first, b'@' | b'/') && *last != b'@');
    sound.then(|| (address, Path::new(OsStr::from_bytes(file))))
}

/// The line without its comment: `#` at the start or after white space, outside quotes.
pub(super) fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    if memchr::memchr(b'#', bytes).is_none() {
        return line;
    }
    let mut at = 0;
    while at < bytes.len() {
        let after_space = at == 0 || bytes[at - 1].is_ascii_whitespace();
        match bytes[at] {
            b'#' if after_space => return &line[..at],
            // A quote opens at the start of a word or behind `=`, so that an apostrophe in a text is none; without
            // its partner on the line it is an ordinary character.
            quote @ (b'\'' | b'"') if after_space || bytes[at - 1] == b'=' => {
                at = memchr::memchr(quote, &bytes[at + 1..]).map_or(at, |length| at + 1 + length);
            }
            _ => {}
        }
        at += 1;
    }
    line
}

/// Replaces `${NAME}` and `${NAME:-default}` by what `variable` knows; the command of a `pipe` is left to its shell.
/// `None` when there is nothing to replace.
pub(super) fn replace_variables(
    line: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, Problem> {
    if memchr::memmem::find(line.as_bytes(), b"${").is_none() {
        return Ok(None);
    }
    let end = shell_command(line).unwrap_or(line.len());
    if !line[..end].contains("${") {
        return Ok(None);
    }
    let mut replaced = String::with_capacity(line.len() + 32);
    let mut at = 0;
    while let Some(found) = line[at..end].find("${") {
        let start = at + found;
        let problem = |end: usize, message: String| Problem { start, end, message };
        let Some(length) = line[start..end].find('}') else {
            return Err(problem(end, "`${` without its `}`".into()));
        };
        let (name, default) = match line[start + 2..start + length].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&line[start + 2..start + length], None),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(problem(start + length + 1, format!("`{name}` is not the name of an environment variable")));
        }
        let value = match (variable(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => value,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                return Err(problem(
                    start + length + 1,
                    format!("the environment has no `{name}`: set it, or give a default as in `${{{name}:-default}}`"),
                ));
            }
        };
        if value.contains(['\n', '\r', '\0']) {
            return Err(problem(start + length + 1, format!("the value of `{name}` is more than one line")));
        }
        replaced.push_str(&line[at..start]);
        replaced.push_str(&value);
        at = start + length + 1;
    }
    replaced.push_str(&line[at..]);
    Ok(Some(replaced))
}

/// Where the command of a `pipe` begins: the third word after `rcpt_to`, if the second is `pipe`.
fn shell_command(line: &str) -> Option<usize> {
    let mut words = Words { line, at: 0 };
    while words.next_word()?.text != "rcpt_to" {}
    words.next_word()?;
    (words.next_word()?.text == "pipe").then_some(words.at)
}

fn rule<'t>(words: &mut Words<'t>) -> Result<Rule<'t>, Problem> {
    let group = rcpt_to(words)?;
    let recipient = words.expect("a recipient: an address, an address with `*`, or /regex/")?;
    check_recipient(recipient)?;
    let verb = words.expect("what to do: append FILE, maildir DIR, pipe COMMAND, print or discard")?;
    let action = match verb.text {
        "append" => Action::Keep(Keep::Append(Cow::Borrowed(words.expect("the file to append to")?.text))),
        "maildir" => Action::Keep(Keep::Maildir(Cow::Borrowed(words.expect("the folder of the maildir")?.text))),
        "pipe" => Action::HandOver(HandOver::Pipe(Cow::Borrowed(words.rest("the shell command")?.text))),
        "print" => Action::Keep(Keep::Print),
        "discard" => Action::Keep(Keep::Discard),
        "relay" | "hpfeeds" | "amqp" => {
            return Err(verb.problem(format!("`{}` is not supported by this version", verb.text)));
        }
        other => {
            return Err(
                verb.problem(format!("unknown action `{other}`: write append, maildir, pipe, print or discard"))
            );
        }
    };
    Ok(Rule { group, recipient, action })
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
        other => Err(first.problem(format!("`{other}` found where `rcpt_to` or `allowgroup` is expected"))),
    }
}

fn check_recipient(recipient: Word<'_>) -> Result<(), Problem> {
    let text = recipient.text;
    if text.len() > 1 && text.starts_with('/') {
        return match text.ends_with('/') {
            true => Ok(()),
            false => Err(recipient.problem("a pattern that begins with `/` ends with `/`")),
        };
    }
    // A table, because this is done for every byte of 100,000 addresses.
    const BAD: [bool; 256] = {
        let mut bad = [false; 256];
        let mut at = 0;
        while at < b"<>,;()".len() {
            bad[b"<>,;()"[at] as usize] = true;
            at += 1;
        }
        bad
    };
    if let Some(bad) = text.bytes().find(|byte| BAD[usize::from(*byte)]) {
        return Err(recipient.problem(format!("`{}` in a recipient: write the bare address", char::from(bad))));
    }
    if text.starts_with('@') || text.ends_with('@') {
        return Err(recipient.problem("an address has something on both sides of its `@`; `*` stands for anything"));
    }
    Ok(())
}

fn error<'t>(words: &mut Words<'t>) -> Result<Directive<'t>, Problem> {
    let mut ahead = Words { ..*words };
    if ahead.next_word().is_some_and(|word| word.text == "mail_from") {
        *words = ahead;
        let pattern = words.expect("a pattern for senders")?;
        return Ok(Directive::RefuseSender(pattern, refusal(words)?));
    }
    let group = rcpt_to(words)?;
    let pattern = words.expect("a pattern for recipients")?;
    Ok(Directive::RefuseRecipient(group, pattern, refusal(words)?))
}

fn allow<'t>(words: &mut Words<'t>) -> Result<Directive<'t>, Problem> {
    let what = words.expect("`remotehost` or `mail_from`")?;
    match what.text {
        "remotehost" => Ok(Directive::AllowPeer(words.expect("a pattern for host names or addresses")?)),
        "mail_from" => Ok(Directive::AllowSender(words.expect("a pattern for senders")?)),
        other => Err(what.problem(format!("`{other}` found where `remotehost` or `mail_from` is expected"))),
    }
}

fn allow_group<'t>(words: &mut Words<'t>) -> Result<Directive<'t>, Problem> {
    let name = words.expect("the name of the group")?;
    if !name.text.starts_with('+') || name.text.len() == 1 {
        return Err(name.problem("the name of a group begins with `+`, as in `+trusted`"));
    }
    let first = words.expect("a pattern for host names or addresses, or `net CIDR`")?;
    let mut ahead = Words { ..*words };
    let member = match (first.text, ahead.next_word()) {
        ("net", Some(network)) => {
            *words = ahead;
            GroupMember::Network(Network::parse(network.text).map_err(|message| network.problem(message))?)
        }
        ("net", None) => return Err(words.missing("the network, as in `net 192.0.2.0/24`,")),
        ("auth", _) | ("tls", None) => {
            return Err(first.problem(format!("`{}` is not supported by this version", first.text)));
        }
        _ => GroupMember::Pattern(first),
    };
    Ok(Directive::AllowGroup(name.text, member))
}

fn limit<'t>(name: &str, verb: Word<'t>, words: &mut Words<'t>) -> Result<Directive<'t>, Problem> {
    let mut word = || words.expect("the limit's value");
    let value = match name {
        "smtp_commands" => LimitValue::Commands(count(word()?, 1..=u64::MAX)?),
        "smtp_unknowncmd" => LimitValue::UnknownCommands(count(word()?, 1..=u64::MAX)?),
        "smtp_failcmds" => LimitValue::FailedCommands(count(word()?, 1..=u64::MAX)?),
        "connection_secs" => LimitValue::ConnectionTime(seconds(word()?)?),
        "smtp_data_size" => LimitValue::DataSize(count(word()?, 0..=u64::MAX)?),
        "smtp_rcpt_to" => LimitValue::Recipients(count(word()?, 1..=u64::MAX)?),
        "smtp_ascii" => LimitValue::Ascii(switch(word()?)?),
        "fcrdns_check" => LimitValue::FcrdnsCheck(switch(word()?)?),
        "bare_newline" => LimitValue::BareNewline(is_rejected(word()?)?),
        "idle_secs" => LimitValue::IdleTime(seconds(word()?)?),
        "dns_secs" => LimitValue::DnsTime(seconds(word()?)?),
        "pipe_secs" => LimitValue::PipeTime(seconds(word()?)?),
        _ => return Err(unknown_directive(verb)),
    };
    let refusal = if words.is_at_end() { None } else { Some(refusal(words)?) };
    Ok(Directive::Limit(value, refusal))
}

/// `CODE TEXT`, the text to the end of the line.
fn refusal<'t>(words: &mut Words<'t>) -> Result<RefusalText<'t>, Problem> {
    let code = words.expect("a reply code and a text, as in `550 No one here`")?;
    let number = match code.text.as_bytes() {
        [b'4' | b'5', b'0'..=b'5', b'0'..=b'9'] => code.text.parse().unwrap_or(550),
        _ => {
            return Err(code.problem("a refusal has a reply code of three digits, 400 to 559, as in `550 No one here`"));
        }
    };
    let text = words.rest("the text of the reply")?;
    if text.text.len() > LONGEST_REPLY_TEXT {
        return Err(text.problem(format!("a reply text has at most {LONGEST_REPLY_TEXT} bytes")));
    }
    if text.text.chars().any(char::is_control) {
        return Err(text.problem("a control character in a reply text"));
    }
    Ok(RefusalText { code: number, text: text.text })
}

fn domain(word: Word<'_>) -> Result<&str, Problem> {
    let fits = word.text.len() <= 255
        && word.text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    match fits {
        true => Ok(word.text),
        false => Err(word.problem("a domain name consists of letters, digits, hyphens and dots")),
    }
}

fn switch(word: Word<'_>) -> Result<bool, Problem> {
    match word.text {
        "on" | "yes" | "1" => Ok(true),
        "off" | "no" | "0" => Ok(false),
        other => Err(word.problem(format!("`{other}` found where `on` or `off` is expected"))),
    }
}

fn is_rejected(word: Word<'_>) -> Result<bool, Problem> {
    match word.text {
        "reject" => Ok(true),
        "accept" => Ok(false),
        _ => Err(word.problem("write `reject` or `accept`")),
    }
}

fn seconds(word: Word<'_>) -> Result<Duration, Problem> {
    count(word, 1..=MAX_SECONDS).map(Duration::from_secs)
}

fn count(word: Word<'_>, range: RangeInclusive<u64>) -> Result<u64, Problem> {
    match word.text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(number) if number > *range.end() => Err(word.problem(format!("at most {} is allowed", range.end()))),
        _ => Err(word.problem(format!("`{}` is not a whole number of at least {}", word.text, range.start()))),
    }
}

fn unknown_directive(verb: Word<'_>) -> Problem {
    let mut message = format!("unknown directive `{}`", verb.text);
    let later = ["tls", "tls_certificate", "tls_key", "auth", "auth_file", "auth_plaintext", "proxy_protocol"];
    if later.contains(&verb.text) {
        message = format!("`{}` is not supported by this version", verb.text);
    } else if let Some(close) = DIRECTIVES.iter().find(|name| is_close(name, verb.text)) {
        let _ = write!(message, ": did you mean `{close}`?");
    }
    verb.problem(message)
}

/// Whether two words differ by one letter (changed, added, left out) or by letter case.
fn is_close(name: &str, typed: &str) -> bool {
    if name.eq_ignore_ascii_case(typed) {
        return true;
    }
    let (name, typed) = (name.as_bytes(), typed.as_bytes());
    let prefix = name.iter().zip(typed).take_while(|(a, b)| a == b).count();
    let (rest, typed_rest) = (&name[prefix..], &typed[prefix..]);
    let skip = |bytes: &[u8]| bytes.get(1..).unwrap_or_default().to_vec();
    skip(rest) == skip(typed_rest) || rest == skip(typed_rest) || skip(rest) == typed_rest
}

/// The words of a line, one by one.
struct Words<'t> {
    line: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    fn next_word(&mut self) -> Option<Word<'t>> {
        self.skip_space();
        let bytes = self.line.as_bytes();
        let start = self.at;
        let first = *bytes.get(start)?;
        if matches!(first, b'"' | b'\'')
            && let Some(length) = memchr::memchr(first, &bytes[start + 1..])
        {
            let close = start + 1 + length;
            if matches!(bytes.get(close + 1), None | Some(b' ' | b'\t')) {
                self.at = close + 1;
                return Some(Word { text: &self.line[start + 1..close], start, end: close + 1 });
            }
        }
        let length = memchr::memchr2(b' ', b'\t', &bytes[start..]).unwrap_or(bytes.len() - start);
        self.at = start + length;
        Some(Word { text: &self.line[start..self.at], start, end: self.at })
    }

    fn expect(&mut self, what: &str) -> Result<Word<'t>, Problem> {
        match self.next_word() {
            Some(word) if !word.text.is_empty() => Ok(word),
            Some(word) => Err(word.problem(format!("empty: {what} is expected"))),
            None => Err(self.missing(what)),
        }
    }

    fn keyword(&mut self, keyword: &str, form: &str) -> Result<(), Problem> {
        let word = self.expect(form)?;
        match word.text == keyword {
            true => Ok(()),
            false => Err(word.problem(format!("`{}` found where {form} is expected", word.text))),
        }
    }

    /// Everything that is left, as it stands, white space at both ends taken off.
    fn rest(&mut self, what: &str) -> Result<Word<'t>, Problem> {
        self.skip_space();
        let text = self.line[self.at..].trim_ascii_end();
        if text.is_empty() {
            return Err(self.missing(what));
        }
        let start = self.at;
        self.at = self.line.len();
        Ok(Word { text, start, end: start + text.len() })
    }

    fn end(&mut self, directive: &Directive<'_>) -> Result<(), Problem> {
        let Some(extra) = self.next_word() else { return Ok(()) };
        let advice = match directive {
            Directive::AllowPeer(_)
            | Directive::DenyPeer(_)
            | Directive::AllowGroup(..)
            | Directive::AllowSender(_) => "; a pattern is one word: write \\s or [ ] for a blank",
            Directive::Deliver(_) | Directive::Copy(_) | Directive::LogFile(_) | Directive::DeadLetterFile(_) => {
                "; put a name with blanks in quotes"
            }
            _ => "",
        };
        Err(Problem {
            start: extra.start,
            end: extra.end,
            message: format!("`{}` is one word too many{advice}", extra.text),
        })
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.line.len()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t') = self.line.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    fn missing(&self, what: &str) -> Problem {
        let end = self.line.trim_ascii_end().len();
        Problem { start: end, end: end + 1, message: format!("{what} is missing") }
    }
}

impl Network {
    /// Reads `ADDRESS/PREFIX` or a single address, strictly: host bits or a short form are errors, not guesses.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IPv4 or IPv6 address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(|| format!("the prefix length of this address is at most {longest}"))?,
            Some(other) => return Err(format!("`{other}` is not a prefix length")),
        };
        Network::new(address, prefix).ok_or_else(|| {
            format!("`{text}` has bits set behind its prefix of {prefix}: write the network's first address")
        })
    }
}

/// Ten years; what is meant to last for ever lasts no longer.
const MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// A reply line has at most 512 octets (RFC 5321, 4.5.3.1.5), the code, the enhanced code and CRLF among them.
const LONGEST_REPLY_TEXT: usize = 490;

/// Every directive, for "did you mean" and for the test that the manual page names each.
pub(crate) const DIRECTIVES: &[&str] = &[
    "domain",
    "debug",
    "logfile",
    "loghex",
    "deadletter_file",
    "spool_dir",
    "user",
    "allow",
    "deny",
    "allowgroup",
    "deliver",
    "copy",
    "error",
    "limit.smtp_commands",
    "limit.smtp_unknowncmd",
    "limit.smtp_failcmds",
    "limit.connection_secs",
    "limit.smtp_data_size",
    "limit.smtp_rcpt_to",
    "limit.smtp_ascii",
    "limit.fcrdns_check",
    "limit.bare_newline",
    "limit.idle_secs",
    "limit.dns_secs",
    "limit.pipe_secs",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_lines_outside_quotes_only() {
        for (line, kept) in [
            ("domain a # b", "domain a "),
            ("# all", ""),
            ("allow remotehost ^a#b$", "allow remotehost ^a#b$"),
            ("deliver rcpt_to a pipe x '# y' # z", "deliver rcpt_to a pipe x '# y' "),
            ("deliver rcpt_to a pipe x --k=\"# y\" # z", "deliver rcpt_to a pipe x --k=\"# y\" "),
            ("error rcpt_to a 550 don't # write", "error rcpt_to a 550 don't "),
            ("error rcpt_to a 550 'tis # so", "error rcpt_to a 550 'tis "),
        ] {
            assert_eq!(without_comment(line), kept);
        }
    }

    #[test]
    fn variables_are_replaced_outside_shell_commands() {
        let variable = |name: &str| match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let replace = |line| replace_variables(line, &variable).map(|line: Option<String>| line.unwrap_or_default());
        assert_eq!(replace("domain ${HOST}").unwrap(), "domain example.com");
        assert_eq!(replace("domain ${NONE:-x}.${HOST}").unwrap(), "domain x.example.com");
        assert_eq!(replace("domain ${EMPTY:-x}").unwrap(), "domain x");
        assert_eq!(
            replace("deliver rcpt_to a@${HOST} pipe run ${SENDER}").unwrap(),
            "deliver rcpt_to a@example.com pipe run ${SENDER}"
        );
        assert!(replace("domain ${NONE}").unwrap_err().message.contains("NONE"));
        assert!(replace("domain ${HOST").is_err());
    }

    #[test]
    fn plain_deliveries_are_what_the_grammar_says() {
        for (line, address) in [
            ("deliver rcpt_to fred@example.com append /var/mail/fred", Some("fred@example.com")),
            ("deliver rcpt_to fred append mbox", Some("fred")),
            ("deliver rcpt_to fred append mbox ", None),
            ("deliver rcpt_to fred append a b", None),
            ("deliver rcpt_to fred append", None),
            ("deliver rcpt_to fred append ", None),
            ("deliver rcpt_to *@x append a", None),
            ("deliver rcpt_to /x/ append a", None),
            ("deliver rcpt_to @x append a", None),
            ("deliver rcpt_to x@ append a", None),
            ("deliver rcpt_to a,b append a", None),
            ("deliver rcpt_to a append #", None),
            ("deliver rcpt_to a append ${X}", None),
            ("deliver rcpt_to a append 'b'", None),
            ("deliver rcpt_to \"a\"@b append b", None),
            ("deliver rcpt_to a\u{e9} append b", None),
            ("deliver  rcpt_to a append b", None),
            ("copy rcpt_to a append b", None),
        ] {
            let plain = plain_delivery(line.as_bytes());
            assert_eq!(plain.map(|(address, _)| address), address.map(str::as_bytes), "{line}");
            if let Some((address, file)) = plain {
                assert_eq!((without_comment(line), replace_variables(line, &|_| None)), (line, Ok(None)));
                let Ok(Some(Directive::Deliver(rule))) = directive(line) else { panic!("{line}") };
                assert_eq!((rule.group, rule.recipient.text.as_bytes()), (None, address));
                assert_eq!(rule.action, Action::Keep(Keep::Append(file.to_string_lossy())));
            }
        }
    }

    #[test]
    fn networks_are_read_strictly() {
        for good in ["192.0.2.0/24", "192.0.2.1", "0.0.0.0/0", "2001:db8::/32", "::1"] {
            assert!(Network::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["10.0.0.1/8", "192.0.2.0/33", "192.0.2.0/-1", "10.0.0/8", "010.0.0.1", "::1/129", "1.2.3.4/255.0.0.0"]
        {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}
