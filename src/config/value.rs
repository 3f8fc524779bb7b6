//! Parsers for the values of directives: numbers, times, switches, names, texts of replies.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::amqp_url::AmqpUrl;
use super::flags::Flags;
use super::lexer::{Problem, Word, Words, truth};
use super::limits::{NameCheck, Refusal};
use super::settings::{AuthUse, Level, LogTarget, Payload, Protocol, Sandbox, TlsUse, Transcripts};
use super::shell::{self, Role};
use super::spelling::{did_you_mean, listed};
use crate::accounts::{self, hash};
use crate::net::client::Endpoint;

/// A text that no log and no message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// The text itself, for proving an identity.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// `CODE TEXT` as the administrator wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusalText<'t> {
    code: u16,
    text: &'t str,
}

impl RefusalText<'_> {
    pub(super) fn text(&self) -> &str {
        self.text
    }

    pub(super) fn to_owned(self) -> Refusal {
        Refusal { code: self.code, text: Cow::Owned(self.text.replace(char::REPLACEMENT_CHARACTER, "?")) }
    }
}

/// Reads `CODE TEXT`; the text goes to the end of the line. Files of the original may have a code that does not refuse
/// anything, for which `instead` is used, or no text.
pub(super) fn refusal<'t>(words: &mut Words<'t>, instead: u16) -> Result<RefusalText<'t>, Problem> {
    let code = words.expect("a reply code and a text, as in `550 No one here`")?;
    let number = match (code.text.as_bytes(), code.text.parse()) {
        ([b'4' | b'5', b'0'..=b'5', _], Ok(number)) => number,
        ([b'4' | b'5', _, _], Ok(number)) => {
            words.note(code, || {
                format!("no reply has the code {number} (RFC 5321, 4.2): it is sent as it is; write 550, or 450")
            });
            number
        }
        ([_, _, _], Ok(0..1000)) => {
            words.note(code, || {
                format!("{} refuses nothing, so {instead} is sent: write a code from 400 to 559", code.text)
            });
            instead
        }
        _ => {
            return Err(code.problem("a refusal has a reply code of three digits, 400 to 559, as in `550 No one here`"));
        }
    };
    if words.is_at_end() {
        words.note(code, || format!("the text of the reply is missing: `{NO_TEXT}` is sent"));
        return Ok(RefusalText { code: number, text: NO_TEXT });
    }
    let text = words.rest("the text of the reply")?;
    if text.text.len() > LONGEST_REPLY_TEXT {
        return Err(text.problem(format!("a reply text has at most {LONGEST_REPLY_TEXT} bytes")));
    }
    if text.text.chars().any(char::is_control) {
        return Err(text.problem("a control character in a reply text"));
    }
    if text.text.contains(char::REPLACEMENT_CHARACTER) {
        words.note(text, || "this text is not UTF-8: a `?` is sent in place of each other byte".to_owned());
    }
    if text.text.contains("${") {
        words.note(text, || "the environment has no such variable, so `${...}` is sent as it stands".to_owned());
    }
    Ok(RefusalText { code: number, text: text.text })
}

pub(super) fn domain(words: &mut Words<'_>) -> Result<String, Problem> {
    let word = words.expect("the domain name")?;
    if let Some(literal) = word.text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let is_address = match literal.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().is_ok(),
            _ => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return match is_address {
            true => Ok(word.text.to_owned()),
            false => Err(word.problem("in brackets stands an address, as in `[192.0.2.1]` or `[IPv6:2001:db8::1]`")),
        };
    }
    let name = match word.text.strip_suffix('.') {
        Some(name) if !name.is_empty() => {
            words.note(word, || format!("the dot at the end is left out: write `{name}`"));
            name
        }
        _ => word.text,
    };
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(word.problem("a domain name consists of letters, digits, hyphens and dots"));
    }
    if name.split('.').any(str::is_empty) {
        return Err(word.problem("a domain name has something on both sides of each dot"));
    }
    if name.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        return Err(word.problem("no part of a domain name begins or ends with a hyphen"));
    }
    if name.len() > LONGEST_NAME || name.split('.').any(|label| label.len() > LONGEST_LABEL) {
        return Err(
            word.problem("a domain name has at most 255 characters, and each of its parts 63 (RFC 5321, 4.5.3.1.2)")
        );
    }
    Ok(name.to_owned())
}

pub(super) fn flags(words: &mut Words<'_>) -> Result<Flags, Problem> {
    let word = words.expect("flags, or `-` for none")?;
    let (flags, unknown) = Flags::parse_known(word.text);
    // The original ignored letters that it did not know.
    if let Some(letter) = unknown {
        words.note(word, || Flags::unknown(letter));
    }
    Ok(flags)
}

pub(super) fn log_target(words: &mut Words<'_>) -> Result<LogTarget, Problem> {
    words.path("`syslog`, `stderr` or a file").map(|word| LogTarget::parse(word.text))
}

pub(super) fn on_or_off(words: &mut Words<'_>) -> Result<bool, Problem> {
    words.expect("`on` or `off`").and_then(switch)
}

/// Reads one of these words, and returns what stands behind it here.
fn one_of<T: Copy>(words: &mut Words<'_>, choices: &[(&str, T)]) -> Result<T, Problem> {
    let names = || choices.iter().map(|(name, _)| *name);
    let form = fmt::from_fn(|f| f.write_str(&listed(names().map(|name| format!("`{name}`")))));
    let word = words.expect(&form)?;
    match choices.iter().find(|(name, _)| *name == word.text) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let meant = did_you_mean(word.text, names());
            Err(word.problem(format!("`{}` found where {form} is expected{meant}", word.text)))
        }
    }
}

pub(super) fn protocol(words: &mut Words<'_>) -> Result<Protocol, Problem> {
    one_of(words, &[("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)])
}

pub(super) fn folder(words: &mut Words<'_>) -> Result<Option<PathBuf>, Problem> {
    words.path("a folder").map(|word| Some(PathBuf::from(word.text)))
}

/// Reads a folder for transcripts, and whether they contain the text of messages.
pub(super) fn transcripts(words: &mut Words<'_>) -> Result<Option<Transcripts>, Problem> {
    let folder = PathBuf::from(words.path("a folder")?.text);
    let with_text = match words.next_word() {
        None => false,
        Some(Word { text: "with_text", .. }) => true,
        Some(other) => {
            let message = format!("`{}` found where nothing or `with_text` is expected", other.text);
            return Err(other.problem(message));
        }
    };
    Ok(Some(Transcripts { folder, with_text }))
}

pub(super) fn file(words: &mut Words<'_>) -> Result<Option<PathBuf>, Problem> {
    words.path("a file").map(|word| Some(PathBuf::from(word.text)))
}

/// Reads a file for a setting that may occur several times.
pub(super) fn another_file(words: &mut Words<'_>) -> Result<Vec<PathBuf>, Problem> {
    words.path("a file").map(|word| vec![PathBuf::from(word.text)])
}

/// Reads `HOST:PORT`, with an IPv6 address in brackets.
pub(super) fn endpoint(words: &mut Words<'_>) -> Result<Option<Endpoint>, Problem> {
    let word = words.expect("the broker, `HOST:PORT`,")?;
    let Some(end) = word.text.rfind(':').filter(|end| *end > 0) else {
        return Err(word.problem("write `HOST:PORT`, as in `broker.example.net:10000` or `[::1]:10000`"));
    };
    let host = host_name(part(word, 0..end))?;
    let port = port_number(part(word, end + 1..word.text.len()))?;
    Ok(Some(Endpoint { host, port }))
}

/// A part of a word, by its position in the word's text.
pub(super) fn part(word: Word<'_>, range: std::ops::Range<usize>) -> Word<'_> {
    let quote = usize::from(word.end - word.start > word.text.len());
    let start = word.start + quote + range.start;
    Word { text: &word.text[range.clone()], start, end: start + range.len() }
}

/// Reads a host: a name, an IPv4 address, or an IPv6 address in brackets, which are removed.
pub(super) fn host_name(word: Word<'_>) -> Result<String, Problem> {
    let text = word.text;
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(address.to_owned()),
            Err(_) => Err(word.problem("in brackets stands an address of IPv6, as in `[2001:db8::1]`")),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(word.problem(format!("an address of IPv6 stands in brackets: write `[{text}]`")));
    }
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) if is_number || !is_name => Err(word.problem("this is neither the name of a host nor an address")),
        Err(_) => Ok(text.to_owned()),
    }
}

pub(super) fn port_number(word: Word<'_>) -> Result<u16, Problem> {
    match word.text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(word.problem("a port is a number from 1 to 65535")),
    }
}

/// Reads the URL of an AMQP broker, of which there may be several.
pub(super) fn amqp_url(words: &mut Words<'_>) -> Result<Vec<AmqpUrl>, Problem> {
    let word = words.expect("the broker, `amqp://USER@HOST/VHOST`,")?;
    if !words.is_at_end() {
        // Treated like a secret: what follows may be part of the password.
        let rest = words.rest("the broker")?;
        return Err(Word { end: rest.end, ..word }.problem("a URL is one word: write `%20` for a blank"));
    }
    AmqpUrl::parse(word).map(|url| vec![url])
}

/// Reads our name at a broker.
pub(super) fn identity(words: &mut Words<'_>) -> Result<Option<String>, Problem> {
    short_text(words.expect("the name that the broker knows us by")?).map(Some)
}

/// The same with any visible characters, or `""` for none.
pub(super) fn identity_or_none(words: &mut Words<'_>) -> Result<Option<String>, Problem> {
    if is_empty_word(words) {
        return Ok(None);
    }
    let word = words.expect("the name that the next server knows us by")?;
    if word.text.chars().any(char::is_control) {
        return Err(word.problem("a control character in a name"));
    }
    short_text(word).map(Some)
}

/// Consumes `""` if it is the only word left: an unset variable of the environment may leave this.
fn is_empty_word(words: &mut Words<'_>) -> bool {
    let mut ahead = *words;
    let is_empty = ahead.next_word().is_some_and(|word| word.text.is_empty()) && ahead.is_at_end();
    if is_empty {
        *words = ahead;
    }
    is_empty
}

/// A text whose length has to fit into one byte of a protocol.
pub(super) fn short_text(word: Word<'_>) -> Result<String, Problem> {
    match word.text.len() {
        ..=LONGEST_SHORT_TEXT => Ok(word.text.to_owned()),
        _ => Err(word.problem(format!("at most {LONGEST_SHORT_TEXT} bytes are possible here"))),
    }
}

/// Reads a secret, which is a single word; messages do not quote further words.
pub(super) fn secret(words: &mut Words<'_>) -> Result<Option<Secret>, Problem> {
    let word = words.expect("the secret")?;
    if words.is_at_end() {
        return Ok(Some(Secret(word.text.to_owned())));
    }
    let rest = words.rest("the secret")?;
    Err(Word { end: rest.end, ..word }.problem("a secret is one word: put one with blanks in quotes"))
}

/// The same, or `""` for none.
pub(super) fn secret_or_none(words: &mut Words<'_>) -> Result<Option<Secret>, Problem> {
    if is_empty_word(words) { Ok(None) } else { secret(words) }
}

/// Reads the name of a user and the password.
pub(super) fn auth_user(words: &mut Words<'_>) -> Result<Vec<(String, Secret)>, Problem> {
    let name = words.expect("the name of somebody who may log in")?;
    if let Some(why) = accounts::misnamed(name.text) {
        return Err(name.problem(why));
    }
    match secret(words)? {
        Some(password) if password.reveal().len() > hash::LONGEST => {
            Err(name.problem(format!("a password has at most {} bytes", hash::LONGEST)))
        }
        password => Ok(password.map(|password| (name.text.to_owned(), password)).into_iter().collect()),
    }
}

pub(super) fn payload(words: &mut Words<'_>) -> Result<Payload, Problem> {
    one_of(words, &[("json", Payload::Json), ("raw", Payload::Raw)])
}

pub(super) fn tls_use(words: &mut Words<'_>) -> Result<Option<TlsUse>, Problem> {
    let choices =
        [("off", TlsUse::Off), ("offer", TlsUse::Offer), ("require", TlsUse::Require), ("implicit", TlsUse::Implicit)];
    one_of(words, &choices).map(Some)
}

pub(super) fn auth_use(words: &mut Words<'_>) -> Result<Option<AuthUse>, Problem> {
    let choices = [("off", AuthUse::Off), ("offer", AuthUse::Offer), ("require", AuthUse::Require)];
    one_of(words, &choices).map(Some)
}

/// Reads `off`, or a level that may be followed by `required`; `required` alone means `on required`.
pub(super) fn sandbox(words: &mut Words<'_>) -> Result<Sandbox, Problem> {
    let choices = [
        ("off", (Level::Off, false)),
        ("on", (Level::On, false)),
        ("strict", (Level::Strict, false)),
        ("required", (Level::On, true)),
    ];
    let (level, is_required) = one_of(words, &choices)?;
    if level == Level::Off || is_required || words.is_at_end() {
        return Ok(Sandbox { level, is_required });
    }
    words.keyword("required", "`sandbox on required` or `sandbox strict required`")?;
    Ok(Sandbox { level, is_required: true })
}

pub(super) fn user(words: &mut Words<'_>) -> Result<Option<String>, Problem> {
    words.expect("a user or `USER:GROUP`").map(|word| Some(word.text.to_owned()))
}

/// Reads names of environment variables.
pub(super) fn variables(words: &mut Words<'_>) -> Result<Vec<String>, Problem> {
    let mut names = vec![variable(words.expect("the name of an environment variable")?, words)?];
    while let Some(word) = words.next_word() {
        names.push(variable(word, words)?);
    }
    Ok(names)
}

/// Checks the name of a variable that commands should get.
fn variable(word: Word<'_>, words: &Words<'_>) -> Result<String, Problem> {
    let name = word.text;
    if let Some((name, _)) = name.split_once('=') {
        return Err(word.problem(format!(
            "write the name alone, `{name}`: its value is set where mailrecv is started, by xinetd as `env = NAME=value`"
        )));
    }
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        return Err(
            word.problem("the name of a variable has letters, digits and underscores, and begins with no digit")
        );
    }
    match shell::role_of(name) {
        Role::Ours => Err(word.problem(format!("mailrecv itself tells commands what `{name}` is"))),
        Role::Misleads => Err(word.problem(format!(
            "`{name}` makes shells or programs do something else than what the command says: set it in the command"
        ))),
        Role::Passed => {
            words.note(word, || format!("commands find `{name}` anyway"));
            Ok(name.to_owned())
        }
        Role::Other => Ok(name.to_owned()),
    }
}

pub(super) fn switch(word: Word<'_>) -> Result<bool, Problem> {
    truth(word.text).ok_or_else(|| word.problem(format!("`{}` found where `on` or `off` is expected", word.text)))
}

/// Reads a switch, or `strict`.
pub(super) fn name_check(word: Word<'_>) -> Result<NameCheck, Problem> {
    if word.text == "strict" {
        return Ok(NameCheck::Strict);
    }
    match switch(word) {
        Ok(true) => Ok(NameCheck::On),
        Ok(false) => Ok(NameCheck::Off),
        Err(_) => Err(word.problem(format!("`{}` found where `on`, `off` or `strict` is expected", word.text))),
    }
}

/// Reads `reject` or `accept`.
pub(super) fn reject(word: Word<'_>) -> Result<bool, Problem> {
    match word.text {
        "reject" => Ok(true),
        "accept" => Ok(false),
        _ => Err(word.problem("write `reject` or `accept`")),
    }
}

pub(super) fn seconds(word: Word<'_>) -> Result<Duration, Problem> {
    number(word, 1..=MAX_SECONDS, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]).map(Duration::from_secs)
}

/// Reads how many of something a session may have. The original took 0 and less for none.
pub(super) fn count(word: Word<'_>) -> Result<u64, Problem> {
    match word.text.parse::<i64>() {
        Ok(..=0) => Ok(0),
        _ => number(word, 1..=u64::MAX, MULTIPLES),
    }
}

/// Reads how long a session may take. In the original a negative number meant no limit.
pub(super) fn session_seconds(word: Word<'_>) -> Result<Duration, Problem> {
    match word.text.parse::<i64>() {
        Ok(..0) => Ok(Duration::from_secs(MAX_SECONDS)),
        Ok(0) => Ok(Duration::ZERO),
        _ => seconds(word),
    }
}

/// Reads a size; a negative number means no limit, as 0 does.
pub(super) fn size(word: Word<'_>) -> Result<u64, Problem> {
    match word.text.parse::<i64>() {
        Ok(..0) => Ok(0),
        _ => any_number(word),
    }
}

/// Reads a number of lines.
pub(super) fn lines(words: &mut Words<'_>) -> Result<u64, Problem> {
    any_number(words.expect("how many lines of a text are shown")?)
}

/// Reads for how many days something is remembered.
pub(super) fn days(words: &mut Words<'_>) -> Result<u64, Problem> {
    number(words.expect("how many days a record counts")?, 1..=MAX_DAYS, &[])
}

pub(super) fn any_number(word: Word<'_>) -> Result<u64, Problem> {
    number(word, 0..=u64::MAX, MULTIPLES)
}

/// Reads a number in this range. If a unit follows, the error says what to write instead.
fn number(word: Word<'_>, range: RangeInclusive<u64>, units: &[(&str, u64)]) -> Result<u64, Problem> {
    match word.text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(number) if number > *range.end() => Err(word.problem(format!("at most {} is allowed", range.end()))),
        _ => {
            let meant = meant(word.text, units).filter(|number| range.contains(number));
            let meant = meant.map_or_else(String::new, |number| format!(": write {number}"));
            Err(word.problem(format!("`{}` is not a whole number of at least {}{meant}", word.text, range.start())))
        }
    }
}

/// The number that was meant by `5m`, `20 MB` in one word, or `24,000,000`.
fn meant(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.replace([',', '_', '\''], "");
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let unit = unit.trim_end_matches('b').trim_end_matches("ec").trim_end_matches("in");
    let factor = if unit.is_empty() { 1 } else { units.iter().find(|(name, _)| *name == unit)?.1 };
    number.checked_mul(factor)
}

/// Units of sizes; decimal and binary ones are not distinguished.
const MULTIPLES: &[(&str, u64)] = &[("k", 1_000), ("m", 1_000_000), ("g", 1_000_000_000)];

/// The longest domain name, and the longest part of one (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: usize = 63;

/// Ten years, which is long enough for "forever".
const MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// No message waits in a queue for longer than this many days.
const MAX_DAYS: u64 = 365;

/// The longest text whose length fits into one byte.
const LONGEST_SHORT_TEXT: usize = 255;

/// The text if a line has only a code.
const NO_TEXT: &str = "Refused";

/// A line of a reply has at most 512 octets (RFC 5321, 4.5.3.1.5), including code, enhanced code and CRLF.
const LONGEST_REPLY_TEXT: usize = 490;
