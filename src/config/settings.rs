//! The settings: directives of which each is given once, and what they are if they are not.
//!
//! One table: a setting is one row. From it come the field of [`Config`], its default, its parser, "did you mean" and
//! the test that the manual page describes it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::amqp_url::AmqpUrl;
use super::directive::{Directive, Line, QUOTE_IT};
use super::flags::Flags;
use super::limits::Limits;
use super::rules::Rules;
use super::value::{self, Secret};
use crate::net::client::Endpoint;

/// Makes of each row a field, a variant of [`Setting`] and what goes from one to the other. A row is: what it decides;
/// its directive; the field, its type and its default; what reads it; advice for who wrote one word too many; and
/// `each`, if every line of it counts and not the last.
macro_rules! settings {
    ($($(#[$doc:meta])+ $directive:literal $field:ident: $type:ty = $default:expr, $parser:expr, $advice:expr
       $(, $each:ident)?;)+) => {
        /// Everything the administrator decided.
        #[derive(Debug)]
        pub struct Config {
            $($(#[$doc])+ pub $field: $type,)+
            /// How much of everything a peer gets.
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
            /// Takes over what a line says.
            pub(super) fn set(&mut self, setting: Setting) {
                match setting {
                    $(Setting::$field(value) => take!(self.$field, value $(, $each)?),)+
                }
            }
        }

        /// Which setting, and its value.
        #[allow(non_camel_case_types, reason = "each is named as its field")]
        #[derive(Debug, PartialEq)]
        pub(super) enum Setting {
            $($field($type),)+
        }

        impl Setting {
            /// Whether every line of it counts, and not the last.
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

/// Puts a value into its field, in the place of what was there or behind it.
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
    /// Who we are in greetings and headers.
    "domain" domain: String = "example.com".to_owned(), value::domain, "";
    /// What is logged beyond errors.
    "debug" debug: Flags = Flags::default(), value::flags, "";
    /// Where the log goes.
    "logfile" log: LogTarget = LogTarget::Syslog, value::log_target, QUOTE_IT;
    /// Whether bytes above ASCII are logged as `<0xNN>`.
    "loghex" loghex: bool = true, value::on_or_off, "";
    /// What is spoken with peers.
    "protocol" protocol: Protocol = Protocol::Smtp, value::protocol, "";
    /// Where large messages wait while they are received.
    "spool_dir" spool_dir: Option<PathBuf> = None, value::folder, "";
    /// Where transcripts of sessions are written, if the flag `t` asks for them.
    "transcript_dir" transcripts: Option<Transcripts> = None, value::transcripts, "";
    /// How a session confines itself.
    "sandbox" sandbox: Sandbox = Sandbox::ON, value::sandbox, "";
    /// How many lines of a text `print` shows.
    "print_lines" print_lines: u64 = 200, value::lines, "";
    /// Which variables of our own environment commands find in theirs.
    "pipe_env" pipe_env: Vec<String> = Vec::new(), value::variables, "";
    /// Where sessions add up what they count.
    "metrics_file" metrics_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Where it is written down which messages are delivered whose senders may not know it yet.
    "exactly_once" exactly_once: Option<PathBuf> = None, value::folder, "";
    /// How many days that counts.
    "exactly_once_days" exactly_once_days: u64 = 5, value::days, "";
    /// Whom to become when started as root: `USER` or `USER:GROUP`, each a name or a number.
    "user" user: Option<String> = None, value::user, "";
    /// Where the hpfeeds broker is.
    "hpfeeds_broker" hpfeeds_broker: Option<Endpoint> = None, value::endpoint, "";
    /// Who we are there.
    "hpfeeds_ident" hpfeeds_ident: Option<String> = None, value::identity, QUOTE_IT;
    /// What shows it that we are.
    "hpfeeds_secret" hpfeeds_secret: Option<Secret> = None, value::secret, "";
    /// The file that has that in it.
    "hpfeeds_secret_file" hpfeeds_secret_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// In what form its subscribers get messages.
    "hpfeeds_payload" hpfeeds_payload: Payload = Payload::Json, value::payload, "";
    /// Whether the connection to it is under TLS.
    "hpfeeds_tls" hpfeeds_tls: bool = false, value::on_or_off, "";
    /// Where the AMQP brokers are, and who we are there; in this order, until one lets us in.
    "amqp_url" amqp_urls: Vec<AmqpUrl> = Vec::new(), value::amqp_url, "", each;
    /// The file with the password for those of them that have none.
    "amqp_password_file" amqp_password_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Who we are to the servers that mail is passed on to and whose URL does not say, letter for letter.
    "relay_user" relay_user: Option<String> = None, value::identity_or_none, QUOTE_IT;
    /// What shows who we are to the servers that mail is passed on to, if the URL of one does not say.
    "relay_password" relay_password: Option<Secret> = None, value::secret_or_none, "";
    /// The file that has that in it.
    "relay_password_file" relay_password_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// The authorities that servers have their certificates from, to which we connect.
    "ca_file" ca_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Whether peers may, or must, use TLS; if no line says so, that depends on [`Config::tls`].
    "tls" tls_use: Option<TlsUse> = None, value::tls_use, "";
    /// Certificates, each with what leads to an authority behind it, in PEM form.
    "tls_certificate" tls_certificates: Vec<PathBuf> = Vec::new(), value::another_file, QUOTE_IT, each;
    /// The keys to them, in the same order.
    "tls_key" tls_keys: Vec<PathBuf> = Vec::new(), value::another_file, QUOTE_IT, each;
    /// What session tickets are encrypted with.
    "tls_ticket_key" tls_ticket_key: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Who may log in, with which password.
    "auth_file" auth_file: Option<PathBuf> = None, value::file, QUOTE_IT;
    /// Who else may log in, and the password; of two with one name the first counts.
    "auth_user" auth_users: Vec<(String, Secret)> = Vec::new(), value::auth_user, "", each;
    /// Whether peers may, or must, log in; if no line says so, that depends on [`Config::auth`].
    "auth" auth_use: Option<AuthUse> = None, value::auth_use, "";
    /// Whether they may without TLS, where everybody on the way can hear it.
    "auth_plaintext" auth_plaintext: bool = false, value::on_or_off, "";
}

impl Config {
    /// Whether peers may, or must, use TLS: with a certificate they may, if nothing else is said.
    pub fn tls(&self) -> TlsUse {
        let default = if self.tls_certificates.is_empty() { TlsUse::Off } else { TlsUse::Offer };
        self.tls_use.unwrap_or(default)
    }

    /// Whether anybody has an account.
    pub(super) fn has_accounts(&self) -> bool {
        self.auth_file.is_some() || !self.auth_users.is_empty()
    }

    /// Whether peers may, or must, log in: with accounts they may, if nothing else is said.
    pub fn auth(&self) -> AuthUse {
        let default = if self.has_accounts() { AuthUse::Offer } else { AuthUse::Off };
        self.auth_use.unwrap_or(default)
    }

    /// Whether they may log in without TLS. Where they have to begin TLS, nothing is to be heard before.
    pub fn auth_in_the_clear(&self) -> bool {
        self.auth_plaintext && self.tls() != TlsUse::Require
    }
}

impl Setting {
    /// The file or folder that it names, and whether that is a file.
    pub(super) fn path(&self) -> Option<(&Path, bool)> {
        match self {
            Setting::log(LogTarget::File(path)) => Some((path, true)),
            Setting::spool_dir(Some(path)) | Setting::transcripts(Some(Transcripts { folder: path, .. })) => {
                Some((path, false))
            }
            _ => None,
        }
    }

    /// Whether it says who we are.
    pub(super) fn is_domain(&self) -> bool {
        matches!(self, Setting::domain(_))
    }
}

/// Where transcripts are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcripts {
    /// The folder.
    pub folder: PathBuf,
    /// Whether they have the text of messages in them.
    pub with_text: bool,
}

/// In what form subscribers get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// `{"msg": "...", "sha256": "..."}`
    Json,
    /// Its bytes.
    Raw,
}

/// What is spoken with peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033, between the programs of one site: an answer for each recipient, so that nobody has to keep a queue.
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

/// What a session gives up before it hears its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// How much that is.
    pub level: Level,
    /// Whether no mail is taken where the system does not enforce all of it.
    pub is_required: bool,
}

/// How much a session gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    Off,
    /// What its deliveries cannot need, as far as Landlock knows it.
    On,
    /// And every system call that they do not need.
    Strict,
}

impl Sandbox {
    /// The default: better some of it than no mail.
    pub const ON: Self = Self { level: Level::On, is_required: false };
}

/// What there is of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsUse {
    /// Nothing.
    Off,
    /// Peers may begin it with STARTTLS (RFC 3207).
    Offer,
    /// Who does not begin it sends no mail.
    Require,
    /// It is begun before anything is said (RFC 8314, 3.3).
    Implicit,
}

/// What there is of authentication (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthUse {
    /// Nothing.
    Off,
    /// Peers may log in.
    Offer,
    /// Who does not sends no mail.
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
