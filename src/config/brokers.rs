//! Checks that depend on several lines about brokers and about servers that mail is passed on to, and what connections
//! to them need.
//!
//! If a line publishes and the broker cannot be found, all of its mail would be deferred. If no broker is configured at
//! all, that is an error.

use std::path::Path;
use std::time::{Duration, Instant};

use super::action::{Action, Broker, HandOver};
use super::diagnostic::{Diagnostic, Severity};
use super::directive::{self, Line, RuleLine};
use super::lexer;
use super::relay_url::{Hop, HopAddress, HopTls};
use super::rules::Rules;
use super::setting_lines::{QuotedWord, SettingLine, SettingLines};
use super::settings::{Config, Setting};
use crate::net::client::{self, AUTHORITIES, ClientFiles, Endpoint};
use crate::net::patience::Patience;
use crate::unread::Unread;

/// What a session may connect to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// The ports, each once.
    pub(crate) ports: Vec<u16>,
    /// Whether name servers may be needed to find the addresses.
    pub(crate) has_names: bool,
    /// Whether servers at Unix sockets are among them.
    pub(crate) has_sockets: bool,
}

/// The lines that need brokers and servers, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct BrokerLines {
    /// For each kind of broker the first line that publishes through it.
    publishing: Vec<(Broker, QuotedWord)>,
    /// For each server the first line that passes mail on to it.
    relaying: Vec<(Box<Hop>, QuotedWord)>,
}

impl BrokerLines {
    /// Finds these lines. It is an error if a file cannot be read a second time.
    pub(super) fn find(rules: &Rules) -> Result<Self, Diagnostic> {
        let mut lines = Self::default();
        rules.sources.for_each_line(|number, text| lines.look_at(number, text))?;
        Ok(lines)
    }

    /// Notes a line, if it publishes or passes mail on.
    fn look_at(&mut self, number: u32, text: &str) {
        let Ok(prepared) = lexer::prepared(text) else { return };
        let Ok(Some(Line::Rule(RuleLine::Deliver(delivery) | RuleLine::Copy(delivery)))) = directive::line(&prepared)
        else {
            return;
        };
        // The position of the action's operand, behind `VERB rcpt_to PATTERN` or `VERB allowgroup GROUP rcpt_to PATTERN`.
        let place = if delivery.group.is_some() { 5 } else { 3 };
        let mut words = prepared.words();
        let mut quoted = |place: usize| {
            let word = std::iter::from_fn(|| words.next_word()).nth(place)?;
            Some(QuotedWord::new(number, text, word))
        };
        let broker = match delivery.action {
            Action::HandOver(HandOver::Hpfeeds(_)) => Broker::Hpfeeds,
            Action::HandOver(HandOver::Amqp(_)) => Broker::Amqp,
            Action::HandOver(HandOver::Relay(hop)) => {
                if self.relaying.iter().all(|(known, _)| *known != hop) {
                    self.relaying.extend(quoted(place + 1).map(|word| (hop, word)));
                }
                return;
            }
            Action::HandOver(HandOver::Pipe(..)) | Action::Keep(_) => return,
        };
        if self.publishing.iter().all(|(known, _)| *known != broker) {
            self.publishing.extend(quoted(place).map(|word| (broker, word)));
        }
    }

    /// Errors about settings that are missing.
    pub(super) fn missing(&self, config: &Config) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for (broker, line) in &self.publishing {
            let message = match broker {
                Broker::Hpfeeds if config.hpfeeds_broker.is_none() => {
                    "this needs a broker: write `hpfeeds_broker HOST:PORT`, `hpfeeds_ident NAME` and \
                     `hpfeeds_secret_file FILE`"
                }
                Broker::Hpfeeds if config.hpfeeds_ident.is_none() => {
                    "the broker wants to know who publishes: write `hpfeeds_ident NAME`"
                }
                Broker::Hpfeeds if config.hpfeeds_secret.is_none() && config.hpfeeds_secret_file.is_none() => {
                    "the broker wants a secret: write `hpfeeds_secret_file FILE`, or `hpfeeds_secret SECRET`"
                }
                Broker::Hpfeeds => continue,
                Broker::Amqp if config.amqp_urls.is_empty() => {
                    "this needs a broker: write `amqp_url amqp://USER@HOST/VHOST` and `amqp_password_file FILE`"
                }
                Broker::Amqp if config.lacks_amqp_password() => {
                    "the broker wants a password: write `amqp_password_file FILE`, or `amqp://USER:PASSWORD@HOST`"
                }
                Broker::Amqp => continue,
            };
            found.push(line.cite(Severity::Error, message.to_owned()));
        }
        for (hop, line) in &self.relaying {
            if config.lacks_relay_password(hop) {
                let message =
                    "the server wants a password: write `relay_password_file FILE`, or `relay_password PASSWORD`";
                found.push(line.cite(Severity::Error, message.to_owned()));
            }
        }
        found
    }
}

fn is_about_brokers(setting: &Setting) -> bool {
    matches!(
        setting,
        Setting::hpfeeds_broker(_)
            | Setting::hpfeeds_secret(_)
            | Setting::hpfeeds_secret_file(_)
            | Setting::amqp_urls(_)
            | Setting::amqp_password_file(_)
            | Setting::relay_user(_)
            | Setting::relay_password(_)
            | Setting::relay_password_file(_)
            | Setting::ca_file(_)
    )
}

impl Config {
    /// Whether any rule publishes.
    pub(crate) fn publishes(&self) -> bool {
        !self.rules.needs().brokers().is_empty()
    }

    /// The servers that rules pass mail on to.
    pub(crate) fn hops(&self) -> &[Hop] {
        self.rules.needs().hops()
    }

    /// The user to log in as at this server: that of its URL, or `relay_user`; `None` if we do not log in. Nobody logs
    /// in at a Unix socket.
    pub(crate) fn user_at<'h>(&'h self, hop: &'h Hop) -> Option<&'h str> {
        match &hop.address {
            HopAddress::Tcp(_) => hop.user.as_deref().or(self.relay_user.as_deref()),
            HopAddress::Unix(_) => None,
        }
    }

    /// How TLS is used with this server: where a password is sent, TLS is required.
    pub(crate) fn tls_with(&self, hop: &Hop) -> HopTls {
        match hop.tls {
            HopTls::Opportunistic if self.user_at(hop).is_some() => HopTls::Require,
            tls => tls,
        }
    }

    /// Whether this server has to prove its name by a certificate.
    fn is_verified(&self, hop: &Hop) -> bool {
        match self.tls_with(hop) {
            HopTls::Off | HopTls::Opportunistic => false,
            HopTls::Require | HopTls::Implicit => true,
        }
    }

    /// Whether we have to log in at this server and have no password.
    fn lacks_relay_password(&self, hop: &Hop) -> bool {
        let has_one = hop.password.is_some() || self.relay_password.is_some() || self.relay_password_file.is_some();
        self.user_at(hop).is_some() && !has_one
    }

    /// What deliveries may connect to.
    pub(crate) fn connections(&self) -> Connections {
        let mut connections = Connections::default();
        for (endpoint, _) in self.endpoints() {
            if !connections.ports.contains(&endpoint.port) {
                connections.ports.push(endpoint.port);
            }
            connections.has_names |= endpoint.has_name();
        }
        connections.has_sockets = self.hops().iter().any(|hop| matches!(hop.address, HopAddress::Unix(_)));
        connections
    }

    /// Every broker and server that rules use, and whether its certificate has to come from the authorities that are
    /// trusted by default.
    fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, bool)> {
        let brokers = self.rules.needs().brokers();
        let hpfeeds = self.hpfeeds_broker.iter().filter(|_| brokers.contains(&Broker::Hpfeeds));
        let amqp = self.amqp_urls.iter().filter(|_| brokers.contains(&Broker::Amqp));
        let hops = self.hops().iter().filter_map(|hop| match &hop.address {
            HopAddress::Tcp(endpoint) => Some((endpoint, self.is_verified(hop) && hop.ca_file.is_none())),
            HopAddress::Unix(_) => None,
        });
        let brokers = hpfeeds.map(|broker| (broker, self.hpfeeds_tls));
        brokers.chain(amqp.map(|url| (&url.endpoint, url.uses_tls))).chain(hops)
    }

    /// Whether an AMQP URL has no password and there is no file with it.
    fn lacks_amqp_password(&self) -> bool {
        self.amqp_password_file.is_none() && self.amqp_urls.iter().any(|url| url.password.is_none())
    }

    /// Whether settings about brokers or servers are missing.
    pub(super) fn lacks_broker_lines(&self) -> bool {
        let has_secret = self.hpfeeds_secret.is_some() || self.hpfeeds_secret_file.is_some();
        self.rules.needs().brokers().iter().any(|broker| match broker {
            Broker::Hpfeeds => self.hpfeeds_broker.is_none() || self.hpfeeds_ident.is_none() || !has_secret,
            Broker::Amqp => self.amqp_urls.is_empty() || self.lacks_amqp_password(),
        }) || self.hops().iter().any(|hop| self.lacks_relay_password(hop))
    }

    /// Checks the files that connections to brokers and servers need.
    pub(super) fn check_brokers(&self) -> Vec<Diagnostic> {
        if !self.publishes() && self.hops().is_empty() {
            return Vec::new();
        }
        // If the file cannot be read a second time, the check of the rules reports that.
        let Ok(settings) = SettingLines::find(&self.rules, is_about_brokers) else { return Vec::new() };
        let mut found = Vec::new();
        if self.hpfeeds_secret_file.is_some() {
            let line = settings.of(|setting| matches!(setting, Setting::hpfeeds_secret(_))).last();
            found.extend(line.map(|line| {
                let message = "`hpfeeds_secret_file` says what the secret is, and not this line: leave one of them out";
                line.cite(Severity::Warning, message.to_owned())
            }));
        }
        if self.relay_password_file.is_some() && self.relay_password.is_some() {
            let line = settings.of(|setting| matches!(setting, Setting::relay_password(_))).last();
            found.extend(line.map(|line| {
                let message =
                    "`relay_password_file` says what the password is, and not this line: leave one of them out";
                line.cite(Severity::Warning, message.to_owned())
            }));
        }
        let secrets = [
            settings.of(|setting| matches!(setting, Setting::hpfeeds_secret_file(_))).last(),
            settings.of(|setting| matches!(setting, Setting::amqp_password_file(_))).last(),
            settings.of(|setting| matches!(setting, Setting::relay_password_file(_))).last(),
        ];
        found.extend(secrets.into_iter().flatten().filter_map(check_secret));
        if self.endpoints().any(|(_, uses_tls)| uses_tls) {
            let path = self.ca_file.as_deref().unwrap_or(Path::new(AUTHORITIES));
            if let Some(message) = flaw_of_authorities(path) {
                found.push(match settings.of(|setting| matches!(setting, Setting::ca_file(_))).last() {
                    Some(line) => line.cite(Severity::Warning, message),
                    None => Diagnostic::warning(message),
                });
            }
        }
        found.extend(self.check_hops());
        found
    }

    /// Checks what the lines say of servers that mail is passed on to.
    fn check_hops(&self) -> Vec<Diagnostic> {
        let Ok(lines) = BrokerLines::find(&self.rules) else { return Vec::new() };
        let mut found = Vec::new();
        // A colon in a user's name may have been taken for the beginning of a password.
        let has_other = self.relay_password.is_some() || self.relay_password_file.is_some();
        let is_for_none =
            has_other && self.hops().iter().all(|hop| self.user_at(hop).is_none() || hop.password.is_some());
        for (hop, url) in &lines.relaying {
            let warn = |message: String| url.cite(Severity::Warning, message);
            if is_for_none && hop.password.is_some() {
                let message = "the password is what stands behind the colon of this URL, and nothing else: in a name, \
                               write `%3A` for a colon";
                found.push(warn(message.to_owned()));
            }
            let ca_file = hop.ca_file.as_deref().filter(|_| self.is_verified(hop));
            found.extend(ca_file.and_then(flaw_of_authorities).map(warn));
            if hop.tls == HopTls::Off && self.user_at(hop).is_some() && !hop.is_here() {
                found.push(warn("without TLS everybody on the way can hear the password".to_owned()));
            }
        }
        found
    }

    /// Looks up the addresses of brokers and servers, which may take a moment.
    pub(super) fn check_broker_addresses(&self) -> Vec<Diagnostic> {
        let mut named =
            self.endpoints().map(|(endpoint, _)| endpoint).filter(|endpoint| endpoint.has_name()).peekable();
        if named.peek().is_none() {
            return Vec::new();
        }
        let Ok(settings) = SettingLines::find(&self.rules, is_about_brokers) else { return Vec::new() };
        let Ok(lines) = BrokerLines::find(&self.rules) else { return Vec::new() };
        let mut found = Vec::new();
        for endpoint in named {
            let patience = Patience { until: Instant::now() + PATIENCE, signals: None };
            let Err(why) = endpoint.addresses(&ClientFiles::open(None), patience) else { continue };
            let message = format!("{why:#}: mail for it would be deferred");
            let setting = settings.of(|setting| match setting {
                Setting::hpfeeds_broker(Some(broker)) => broker == endpoint,
                Setting::amqp_urls(urls) => urls.iter().any(|url| url.endpoint == *endpoint),
                _ => false,
            });
            let is_there = |hop: &Hop| hop.address == HopAddress::Tcp(endpoint.clone());
            if let Some(line) = setting.last() {
                found.push(line.cite(Severity::Warning, message));
            } else if let Some((_, url)) = lines.relaying.iter().find(|(hop, _)| is_there(hop)) {
                found.push(url.cite(Severity::Warning, message));
            }
        }
        found
    }
}

/// Why no server can be trusted with these authorities, if so.
fn flaw_of_authorities(path: &Path) -> Option<String> {
    let why = Unread::open(path).read().and_then(|text| client::authorities(&text)).err()?;
    Some(format!("{} {why:#}; no server under TLS can be believed", path.display()))
}

/// Warns about a file without a secret, or with one that everybody can read.
fn check_secret(line: &SettingLine) -> Option<Diagnostic> {
    match Unread::open(line.path()).parsed(secret) {
        Err(why) => Some(line.cite(Severity::Warning, format!("{why:#}"))),
        Ok(_) => line.public_secret("pass for us"),
    }
}

/// The secret in a file: its first line.
pub(crate) fn secret(text: &[u8]) -> anyhow::Result<String> {
    let text = std::str::from_utf8(text).map_err(|_| anyhow::anyhow!("is not UTF-8 text"))?;
    match text.lines().next() {
        Some(secret) if !secret.is_empty() => Ok(secret.to_owned()),
        _ => anyhow::bail!("has no secret in its first line"),
    }
}

/// How long `mailrecv check` waits for name servers.
const PATIENCE: Duration = Duration::from_secs(5);
