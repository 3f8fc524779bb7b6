//! The settings: directives that are given once, and their defaults.
//!
//! There is one table with a row for each setting. The fields of [`Config`], defaults, parsers, "did you mean" and the
//! test of the manual page come from it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::amqp_url::AmqpUrl;
use super::directive::{Directive, Line, QUOTE_IT};
use super::flags::Flags;
use super::limits::Limits;
use super::rules::Rules;
use super::value::{self, Secret};
use crate::net::client::Endpoint;

/// Turns each row into a field, a variant of [`Setting`] and the conversion between them. A row is: what it decides;
/// its directive; the field with its type and default; its parser; advice for the error about a word too many; and
/// `each`, if all of its lines count and not only the last.
macro_rules! settings {
    ($($(#[$doc:meta])+ $directive:literal $field:ident: $type:ty = $default:expr, $parser:expr, $advice:expr
       $(, $each:ident)?;)+) => {
        /// The whole configuration.
        #[derive(Debug)]
        pub struct Config {
            $($(#[$doc])+ pub $field: $type,)+
            /// How much a peer may use of everything.
            pub limits: Limits,
            /// Who may send what to whom, and where it goes.
            pub rules: Rules,
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)+ limits: Limits::default(), rules: Rules::default() }
            }
        }

        impl Config {
            /// Sets the value of a line.
            pub(super) fn set(&mut self, setting: Setting) {
                match setting {
                    $(Setting::$field(value) => take!(self.$field, value $(, $each)?),)+
                }
            }
        }

        /// The value of one setting.
        #[allow(non_camel_case_types, reason = "each is named as its field")]
        #[derive(Debug, PartialEq)]
        pub(super) enum Setting {
            $($field($type),)+
        }

        impl Setting {
            /// Whether all of its lines count and not only the last.
            pub(super) fn is_repeated(&self) -> bool {
                match self {
                    $(Setting::$field(_) => is_repeated!($($each)?),)+
                }
            }
        }

        /// Every setting.
        pub(super) const SETTINGS: &[Directive] = &[$(Directive {
            name: $directive,
            parse: |words| Ok(Line::Setting(Setting::$field($parser(words)?))),
            advice: $advice,
        }),+];
    };
}

/// Assigns a value to its field, or appends it.
macro_rules! take {
    ($field:expr, $value:expr) => {
        $field = $value
    };
    ($field:expr, $value:expr, each) => {
        $field.extend($value)
    };
}

/// Whether a row ends with `each`.
macro_rules! is_repeated {
    () => {
        false
    };
    (each) => {
        true
    };
}

settings! {
    /// Our own name in greetings and headers.
    "domain" domain: String = "example.com".to_owned(), value::domain, "";
    /// What is logged besides errors.
    "debug" debug: Flags = Flags::default(), value::flags, "";
    /// Where the log goes.
    "logfile" log: LogTarget = LogTarget::Syslog, value::log_target, QUOTE_IT;
    /// Whether bytes above ASCII are logged as `<0xNN>`.
    "loghex" loghex: bool = true, value::on_or_off, "";
    /// The protocol that peers speak.
    "protocol" protocol: Protocol = Protocol::Smtp, value::protocol, "";
    /// The folder for large messages while they are received.
    "spool_dir" spool_dir: Option<PathBuf> = None, value::folder, "";
    /// The folder for transcripts of sessions, which are written if the flag `t` is set.
    "transcript_dir" transcripts: Option<Transcripts> = None, value::transcripts, "";
    /// The sandbox of a session.
    "sandbox" sandbox: Sandbox = Sandbox::ON, value::sandbox, "";
    /// How many lines of a text `print` shows.
    "print_lines" print_lines: u64 = 200, value::lines, "";
    /// The variables of our environment that commands get.
    "pipe_env" pipe_env: Vec<String> = Vec::new(), value::variables, "";
    /// The file to which sessions add their counts.
    "metrics_file" metrics_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// The folder for the records of delivered messages, so that a message that comes again is recognised.
    "exactly_once" exactly_once: Option<PathBuf> = None, value::folder, "";
    /// For how many days these records count.
    "exactly_once_days" exactly_once_days: u64 = 5, value::days, "";
    /// The user to become if root starts us: `USER` or `USER:GROUP`, each a name or a number.
    "user" user: Option<String> = None, value::user, "";
    /// The address of the hpfeeds broker.
    "hpfeeds_broker" hpfeeds_broker: Option<Endpoint> = None, value::endpoint, "";
    /// Our name at the hpfeeds broker.
    "hpfeeds_ident" hpfeeds_ident: Option<String> = None, value::identity, QUOTE_IT;
    /// The secret that goes with that name.
    "hpfeeds_secret" hpfeeds_secret: Option<Secret> = None, value::secret, "";
    /// The file with that secret.
    "hpfeeds_secret_file" hpfeeds_secret_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// In which form the broker's subscribers get messages.
    "hpfeeds_payload" hpfeeds_payload: Payload = Payload::Json, value::payload, "";
    /// Whether the hpfeeds broker is reached by TLS.
    "hpfeeds_tls" hpfeeds_tls: bool = false, value::on_or_off, "";
    /// The AMQP brokers and how to log in there; they are tried in this order.
    "amqp_url" amqp_urls: Vec<AmqpUrl> = Vec::new(), value::amqp_url, "", each;
    /// The file with the password for AMQP URLs that have none.
    "amqp_password_file" amqp_password_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// The user at next servers whose URL names none, taken literally.
    "relay_user" relay_user: Option<String> = None, value::identity_or_none, QUOTE_IT;
    /// The password at next servers whose URL has none.
    "relay_password" relay_password: Option<Secret> = None, value::secret_or_none, "";
    /// The file with that password.
    "relay_password_file" relay_password_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// The authorities that servers' certificates have to come from, for servers that we connect to.
    "ca_file" ca_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Whether peers may or must use TLS; [`Config::tls`] has the default.
    "tls" tls_use: Option<TlsUse> = None, value::tls_use, "";
    /// Certificates in PEM form, each followed by those that lead to an authority.
    "tls_certificate" tls_certificates: Vec<PathBuf> = Vec::new(), value::another_file, QUOTE_IT, each;
    /// The private keys of these certificates, in the same order.
    "tls_key" tls_keys: Vec<PathBuf> = Vec::new(), value::another_file, QUOTE_IT, each;
    /// The key for session tickets.
    "tls_ticket_key" tls_ticket_key: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// The file of accounts and their passwords.
    "auth_file" auth_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Further users and their passwords; the first one with a name counts.
    "auth_user" auth_users: Vec<(String, Secret)> = Vec::new(), value::auth_user, "", each;
    /// Whether peers may or must log in; [`Config::auth`] has the default.
    "auth" auth_use: Option<AuthUse> = None, value::auth_use, "";
    /// Whether peers may log in without TLS, where others may listen.
    "auth_plaintext" auth_plaintext: bool = false, value::on_or_off, "";
}

impl Config {
    /// Whether peers may or must use TLS. By default they may, if there is a certificate.
    pub fn tls(&self) -> TlsUse {
        let default = if self.tls_certificates.is_empty() { TlsUse::Off } else { TlsUse::Offer };
        self.tls_use.unwrap_or(default)
    }

    /// Whether there are any accounts.
    pub(super) fn has_accounts(&self) -> bool {
        self.auth_file.is_some() || !self.auth_users.is_empty()
    }

    /// Whether peers may or must log in. By default they may, if there are accounts.
    pub fn auth(&self) -> AuthUse {
        let default = if self.has_accounts() { AuthUse::Offer } else { AuthUse::Off };
        self.auth_use.unwrap_or(default)
    }

    /// Whether peers may log in without TLS. Not if TLS is required, because then it comes first.
    pub fn auth_in_the_clear(&self) -> bool {
        self.auth_plaintext && self.tls() != TlsUse::Require
    }
}

impl Setting {
    /// The file or folder that it names; the flag says whether it is a file.
    pub(super) fn path(&self) -> Option<(&Path, bool)> {
        match self {
            Setting::log(LogTarget::File(path)) => Some((path, true)),
            Setting::spool_dir(Some(path)) | Setting::transcripts(Some(Transcripts { folder: path, .. })) => {
                Some((path, false))
            }
            _ => None,
        }
    }

    /// Whether this is `domain`.
    pub(super) fn is_domain(&self) -> bool {
        matches!(self, Setting::domain(_))
    }
}

/// Where and how transcripts are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcripts {
    /// The folder.
    pub folder: PathBuf,
    /// Whether they contain the text of messages.
    pub with_text: bool,
}

/// In which form subscribers get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// `{"msg": "...", "sha256": "..."}`
    Json,
    /// The message as it is.
    Raw,
}

/// The protocol that peers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033, for programs within a site: each recipient has its own answer, so that no queue is needed.
    Lmtp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Smtp => "SMTP",
            Protocol::Lmtp => "LMTP",
        })
    }
}

/// What a session gives up before it reads input of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// How much it gives up.
    pub level: Level,
    /// Whether no mail is accepted if the system does not enforce all of it.
    pub is_required: bool,
}

/// How much a session gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    Off,
    /// Everything that its deliveries do not need, as far as Landlock can forbid it.
    On,
    /// Also every system call that they do not need.
    Strict,
}

impl Sandbox {
    /// The default: an incomplete sandbox is better than no mail.
    pub const ON: Self = Self { level: Level::On, is_required: false };
}

/// How TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsUse {
    /// Not at all.
    Off,
    /// Peers may begin it with STARTTLS (RFC 3207).
    Offer,
    /// A peer that does not begin TLS cannot send mail.
    Require,
    /// TLS begins before anything is said (RFC 8314, 3.3).
    Implicit,
}

/// How authentication is used (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthUse {
    /// Not at all.
    Off,
    /// Peers may log in.
    Offer,
    /// A peer that does not log in cannot send mail.
    Require,
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
