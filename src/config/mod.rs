//! The configuration: read once per connection, immutable from then on.
//!
//! Loading looks at every line once, reports every error there is, and keeps what a connection may need: most rules
//! stay text until a recipient asks for them. A file that others could have written is refused, because it holds
//! commands. mailrecv.conf(5) is the reference.

mod action;
mod diagnostic;
mod net;
pub(crate) mod parse;
mod pattern;
mod reach;
mod rules;
mod source;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

pub use action::{Action, Destination, Destinations, HandOver, Keep, Origin};
pub use diagnostic::{Diagnostic, Severity};
use parse::{Directive, LimitValue, Problem, RefusalText};
pub use pattern::BrokenPattern;
pub use reach::{Place, Reach};
pub use rules::{Denial, Rules, Trace};
use source::Source;

use crate::user;

/// Everything the administrator decided.
#[derive(Debug)]
pub struct Config {
    /// Who we are in greetings and headers.
    pub domain: String,
    /// What is logged beyond errors.
    pub debug: Flags,
    /// Where the log goes.
    pub log: LogTarget,
    /// Whether bytes above ASCII are logged as `<0xNN>`.
    pub loghex: bool,
    /// Where large messages wait while they are received.
    pub spool_dir: Option<PathBuf>,
    /// Whom to become when started as root.
    pub user: Option<String>,
    /// How much of everything a peer gets.
    pub limits: Limits,
    /// Who may send what to whom, and where it goes.
    pub rules: Rules,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The system log, facility mail.
    Syslog,
    /// Standard error.
    Stderr,
    /// A file.
    File(PathBuf),
}

impl LogTarget {
    /// `syslog`, `stderr`, or else the path of a file.
    pub fn parse(text: &str) -> Self {
        match text {
            "syslog" => LogTarget::Syslog,
            "stderr" => LogTarget::Stderr,
            path => LogTarget::File(PathBuf::from(path)),
        }
    }
}

/// The `debug` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// `c`: what the configuration says.
    pub const CONFIG: Self = Self(1);
    /// `f`: files and pipes opened and closed.
    pub const FILES: Self = Self(1 << 1);
    /// `F`: the closing line that fail2ban users of the original know.
    pub const CLOSING: Self = Self(1 << 2);
    /// `h`: host name look-ups.
    pub const HOSTS: Self = Self(1 << 3);
    /// `l`: the text of messages.
    pub const LETTERS: Self = Self(1 << 4);
    /// `r`: what was matched with which rule.
    pub const RULES: Self = Self(1 << 5);
    /// `s`: the SMTP dialogue.
    pub const DIALOGUE: Self = Self(1 << 6);
    /// `w`: warnings.
    pub const WARNINGS: Self = Self(1 << 7);
    /// `+`: one line per delivery.
    pub const DELIVERIES: Self = Self(1 << 8);

    /// Reads flag letters; `-` takes away what stands before it, `a` is all of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut flags = 0;
        for letter in text.chars() {
            match letter {
                '-' => flags = 0,
                'a' => flags = Self::LETTERS_OF.iter().fold(0, |all, (_, flag)| all | flag.0),
                _ => match Self::LETTERS_OF.iter().find(|(name, _)| *name == letter) {
                    Some((_, flag)) => flags |= flag.0,
                    None => return Err(format!("unknown flag `{letter}`: the flags are - a c f F h l r s w +")),
                },
            }
        }
        Ok(Self(flags))
    }

    const LETTERS_OF: [(char, Self); 9] = [
        ('c', Self::CONFIG),
        ('f', Self::FILES),
        ('F', Self::CLOSING),
        ('h', Self::HOSTS),
        ('l', Self::LETTERS),
        ('r', Self::RULES),
        ('s', Self::DIALOGUE),
        ('w', Self::WARNINGS),
        ('+', Self::DELIVERIES),
    ];

    /// Whether any of these flags is set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }
}

impl std::fmt::Display for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("-");
        }
        Self::LETTERS_OF.iter().filter(|(_, flag)| self.has(*flag)).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// A reply that the administrator worded: `CODE TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code, 400 to 559.
    pub code: u16,
    /// The text, without code and without line end.
    pub text: Cow<'static, str>,
}

/// A bound and what is said to the peer that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit<T> {
    /// The last value that is still allowed; for a switch, whether the check is made.
    pub value: T,
    /// The reply.
    pub refusal: Refusal,
}

/// The `limit.` directives, with their defaults in [`Limits::default`].
#[derive(Debug)]
pub struct Limits {
    /// Commands since the last accepted message; accepted recipients do not count, they have their own limit.
    pub smtp_commands: Limit<u64>,
    /// Commands that do not exist, in a session.
    pub smtp_unknowncmd: Limit<u64>,
    /// Commands that were refused, in a session.
    pub smtp_failcmds: Limit<u64>,
    /// The whole connection.
    pub connection_secs: Limit<Duration>,
    /// Octets of a message, line ends counted as two (RFC 1870, section 3); 0 for no limit.
    pub smtp_data_size: Limit<u64>,
    /// Recipients of a message (RFC 5321, 4.5.3.1.8: at least 100).
    pub smtp_rcpt_to: Limit<u64>,
    /// Whether commands must be ASCII.
    pub smtp_ascii: Limit<bool>,
    /// Whether a peer needs a forward-confirmed name.
    pub fcrdns_check: Limit<bool>,
    /// Whether a bare CR or LF in a message from a CRLF connection is refused.
    pub bare_newline: Limit<bool>,
    /// Waiting for a command, or for data to move.
    pub idle_secs: Limit<Duration>,
    /// All name look-ups of a connection together.
    pub dns_secs: Duration,
    /// One `pipe` command.
    pub pipe_secs: Limit<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        fn limit<T>(value: T, code: u16, text: &'static str) -> Limit<T> {
            Limit { value, refusal: Refusal { code, text: Cow::Borrowed(text) } }
        }
        Self {
            smtp_commands: limit(25, 421, "Too many SMTP commands received in session."),
            smtp_unknowncmd: limit(4, 421, "Too many bad commands."),
            smtp_failcmds: limit(4, 421, "Too many failed commands."),
            connection_secs: limit(Duration::from_secs(600), 421, "Connection timeout."),
            smtp_data_size: limit(24_000_000, 552, "Too much mail data."),
            smtp_rcpt_to: limit(100, 452, "Too many recipients."),
            smtp_ascii: limit(true, 500, "Binary data (non-ASCII) unsupported."),
            fcrdns_check: limit(true, 450, "Failed FcrDNS, try again later"),
            bare_newline: limit(true, 550, "Bare CR or LF in the message: lines end with CRLF (RFC 5321, 2.3.8)."),
            idle_secs: limit(Duration::from_secs(300), 421, "Idle for too long."),
            dns_secs: Duration::from_secs(10),
            pipe_secs: limit(Duration::from_secs(300), 451, "The command that takes this mail ran out of time."),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// Every reason why.
    pub errors: Vec<Diagnostic>,
    /// Where it wants its log, as far as that could be read: there the administrator will look for the reasons.
    pub log: LogTarget,
    /// Whom it wants to become, likewise: a log file that root made could not be written later.
    pub user: Option<String>,
}

/// Reads the file. Patterns are compiled later, at their first use; [`Config::check`] does it beforehand.
pub fn load(path: &Path) -> Result<Config, Unusable> {
    let whole_file = |error: anyhow::Error| Unusable {
        errors: vec![Diagnostic::whole_file(format!("{error:#}"))],
        log: LogTarget::Syslog,
        user: None,
    };
    let source = Source::open(path).map_err(whole_file)?;
    let mut config = Config {
        domain: "example.com".to_owned(),
        debug: Flags::default(),
        log: LogTarget::Syslog,
        loghex: true,
        spool_dir: None,
        user: None,
        limits: Limits::default(),
        rules: Rules::default(),
    };
    let mut errors = Vec::new();
    let mut number = 0;
    let mut says_nothing = true;
    let read = source.for_each_line(|line, offset| {
        number += 1;
        says_nothing &= line.trim_ascii().is_empty();
        if let Err(diagnostic) = config.take_line(line, offset, number) {
            errors.push(*diagnostic);
        }
    });
    read.context("cannot be read").map_err(whole_file)?;
    if !source.is_as_opened().context("cannot be examined").map_err(whole_file)? {
        return Err(whole_file(anyhow!("was changed while it was read")));
    }
    if says_nothing {
        return Err(whole_file(anyhow!("is empty")));
    }
    config.rules.set_source(source);
    if errors.is_empty() { Ok(config) } else { Err(Unusable { errors, log: config.log, user: config.user }) }
}

impl Config {
    /// Compiles every pattern and looks for what is legal but hardly meant.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found = self.rules.check(&self.domain);
        if let Some(name) = self.user.as_deref().filter(|name| !user::is_known(name)) {
            found.insert(0, Diagnostic::whole_file(format!("there is no user `{name}` in /etc/passwd")));
        }
        found
    }
}

impl Config {
    fn take_line(&mut self, line: &[u8], offset: u32, number: u32) -> Result<(), Box<Diagnostic>> {
        if let Some((address, file)) = parse::plain_delivery(line) {
            self.rules.add_exact(address, file, offset);
            return Ok(());
        }
        let text = &*source::text(line);
        let replaced = source::prepared(text).map_err(|problem| problem.cite(text, number))?;
        let text = replaced.as_deref().unwrap_or_else(|| parse::without_comment(text));
        let Some(directive) = parse::directive(text).map_err(|problem| problem.cite(text, number))? else {
            return Ok(());
        };
        self.apply(directive, offset, number).map_err(|problem| problem.cite(text, number))
    }

    /// Takes over what a line says. `offset` is where the line begins in the file, `number` its number.
    fn apply(&mut self, directive: Directive<'_>, offset: u32, number: u32) -> Result<(), Problem> {
        match directive {
            Directive::Domain(name) => self.domain = name.to_owned(),
            Directive::Debug(flags) => self.debug = flags,
            Directive::LogFile(target) => self.log = LogTarget::parse(target),
            Directive::LogHex(on) => self.loghex = on,
            Directive::SpoolDirectory(path) => self.spool_dir = Some(PathBuf::from(path)),
            Directive::User(name) => self.user = Some(name.to_owned()),
            Directive::Limit(value, refusal) => self.limits.set(value, refusal),
            other => self.rules.add(other, offset, number)?,
        }
        Ok(())
    }
}

impl Limits {
    fn set(&mut self, value: LimitValue, refusal: Option<RefusalText<'_>>) {
        fn set<T>(limit: &mut Limit<T>, value: T, refusal: Option<RefusalText<'_>>) {
            limit.value = value;
            if let Some(refusal) = refusal {
                limit.refusal = refusal.to_owned();
            }
        }
        match value {
            LimitValue::Commands(count) => set(&mut self.smtp_commands, count, refusal),
            LimitValue::UnknownCommands(count) => set(&mut self.smtp_unknowncmd, count, refusal),
            LimitValue::FailedCommands(count) => set(&mut self.smtp_failcmds, count, refusal),
            LimitValue::ConnectionTime(time) => set(&mut self.connection_secs, time, refusal),
            LimitValue::DataSize(octets) => set(&mut self.smtp_data_size, octets, refusal),
            LimitValue::Recipients(count) => set(&mut self.smtp_rcpt_to, count, refusal),
            LimitValue::Ascii(on) => set(&mut self.smtp_ascii, on, refusal),
            LimitValue::FcrdnsCheck(on) => set(&mut self.fcrdns_check, on, refusal),
            LimitValue::BareNewline(rejected) => set(&mut self.bare_newline, rejected, refusal),
            LimitValue::IdleTime(time) => set(&mut self.idle_secs, time, refusal),
            LimitValue::DnsTime(time) => self.dns_secs = time,
            LimitValue::PipeTime(time) => set(&mut self.pipe_secs, time, refusal),
        }
    }
}

impl RefusalText<'_> {
    fn to_owned(self) -> Refusal {
        Refusal { code: self.code, text: Cow::Owned(self.text.to_owned()) }
    }
}
