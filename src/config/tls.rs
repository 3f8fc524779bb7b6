//! Checks that depend on several lines about TLS, and checks of the files that they name, for `mailrecv check`.
//!
//! A session reads these files when a peer asks for TLS, and if one is broken there is no TLS, but mail is still
//! accepted without it unless TLS is required. An administrator who names the files wants TLS, so `check` reports an
//! error.

use std::time::Duration;

use anyhow::anyhow;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use time::OffsetDateTime;

use super::diagnostic::{Diagnostic, Severity};
use super::peers::Peers;
use super::rules::Rules;
use super::setting_lines::{SettingLine, SettingLines};
use super::settings::{Config, Setting, TlsUse};
use crate::net::ticket::Tickets;
use crate::net::tls;

/// The lines about TLS.
#[derive(Debug)]
pub(super) struct TlsLines(SettingLines);

impl TlsLines {
    pub(super) fn find(rules: &Rules) -> Result<Self, Diagnostic> {
        SettingLines::find(rules, |setting| {
            matches!(
                setting,
                Setting::tls_use(_) | Setting::tls_certificates(_) | Setting::tls_keys(_) | Setting::tls_ticket_key(_)
            )
        })
        .map(Self)
    }

    fn certificates(&self) -> impl Iterator<Item = &SettingLine> {
        self.0.of(|setting| matches!(setting, Setting::tls_certificates(_)))
    }

    fn keys(&self) -> impl Iterator<Item = &SettingLine> {
        self.0.of(|setting| matches!(setting, Setting::tls_keys(_)))
    }

    /// Each certificate with its key, as far as both are there.
    fn pairs(&self) -> impl Iterator<Item = (&SettingLine, &SettingLine)> {
        self.certificates().zip(self.keys())
    }

    /// Errors about incomplete pairs.
    pub(super) fn missing(&self) -> Vec<Diagnostic> {
        let (certificates, keys) = (self.certificates().count(), self.keys().count());
        let error = |line: &SettingLine, message: &str| line.cite(Severity::Error, message.to_owned());
        let without_key = self.certificates().skip(keys).map(|line| {
            error(
                line,
                "this certificate has no key: write `tls_key FILE` for each `tls_certificate`, in the same order",
            )
        });
        let without_certificate = self.keys().skip(certificates).map(|line| {
            error(
                line,
                "this key has no certificate: write `tls_certificate FILE` for each `tls_key`, in the same order",
            )
        });
        let without_any =
            self.0.of(|setting| matches!(setting, Setting::tls_use(Some(wanted)) if *wanted != TlsUse::Off));
        let without_any = without_any
            .last()
            .filter(|_| certificates + keys == 0)
            .map(|line| error(line, "this needs a certificate: write `tls_certificate FILE` and `tls_key FILE`"));
        without_key.chain(without_certificate).chain(without_any).collect()
    }
}

impl Config {
    /// Whether a line about TLS is missing.
    pub(super) fn lacks_tls_lines(&self) -> bool {
        let (certificates, keys) = (self.tls_certificates.len(), self.tls_keys.len());
        certificates != keys || (certificates == 0 && self.tls() != TlsUse::Off)
    }

    /// Checks the files that TLS needs.
    pub(super) fn check_tls(&self) -> Vec<Diagnostic> {
        // If the file cannot be read a second time, the check of the rules reports that.
        let Ok(lines) = TlsLines::find(&self.rules) else { return Vec::new() };
        if self.tls() == TlsUse::Off {
            let message = "no peer is under TLS here: write `tls_certificate FILE` and `tls_key FILE`";
            return self.rules.warn_of_members(Peers::tls, message);
        }
        let mut found = Vec::new();
        let mut is_named = self.domain.starts_with('[');
        for (certificate, key) in lines.pairs() {
            let private_key = tls::read(key.path()).and_then(|text| tls::private_key(&text));
            // A certificate in place of the key is not secret.
            found.extend(private_key.is_ok().then(|| key.public_secret(PASS_FOR_US)).flatten());
            let chain = tls::read(certificate.path()).and_then(|text| tls::chain(&text));
            match chain.and_then(|chain| check_chain(&chain).map(|oddity| (chain, oddity))) {
                Err(why) => {
                    // It is unknown for which name it is.
                    is_named = true;
                    found.push(certificate.about(Severity::Error, why));
                    found.extend(private_key.err().map(|why| key.about(Severity::Error, why)));
                }
                Ok((chain, oddity)) => {
                    let is_readable = private_key.is_ok();
                    let flaw = check_key(chain.clone(), private_key);
                    // If the key does not fit, it may be the right one and the certificate the wrong one.
                    let is_meant = flaw.is_none() || !is_readable;
                    is_named |= !is_meant || is_for(&chain, &self.domain);
                    found.extend(flaw.map(|why| key.about(Severity::Error, why)));
                    found.extend(oddity.filter(|_| is_meant).map(|what| certificate.about(Severity::Warning, what)));
                }
            }
        }
        if let Some((first, _)) = lines.pairs().next().filter(|_| !is_named) {
            found.push(first.cite(Severity::Warning, format!(
                "no certificate is for `{}`, as this host calls itself (`domain`): a peer that checks names may send \
                 no mail",
                self.domain
            )));
        }
        if let Some(line) = lines.0.of(|setting| matches!(setting, Setting::tls_ticket_key(_))).last() {
            found.extend(line.public_secret(PASS_FOR_US));
            let tickets = tls::read(line.path()).and_then(|key| Tickets::new(&key));
            found.extend(tickets.err().map(|why| line.about(Severity::Error, why)));
        }
        let files = lines.0.of(|setting| !matches!(setting, Setting::tls_use(_)));
        found.extend(files.filter_map(SettingLine::written_oddly));
        found
    }
}

/// Why the key does not belong to this chain, if so.
fn check_key(
    chain: Vec<CertificateDer<'static>>,
    private_key: anyhow::Result<PrivateKeyDer<'static>>,
) -> Option<anyhow::Error> {
    private_key.and_then(|key| tls::identity(chain, key, &ring::default_provider())).err()
}

fn is_for(chain: &[CertificateDer<'_>], domain: &str) -> bool {
    let name = ServerName::try_from(domain);
    let own = chain.first().and_then(|own| ParsedCertificate::try_from(own).ok());
    matches!((name, own), (Ok(name), Some(own)) if verify_server_name(&own, &name).is_ok())
}

/// What is unusual about a chain; it is an error if peers could not use it.
fn check_chain(chain: &[CertificateDer<'_>]) -> anyhow::Result<Option<String>> {
    let now = UnixTime::now();
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + NOTICE);
    for (certificate, number) in chain.iter().zip(1..) {
        let certificate = ParsedCertificate::try_from(certificate).map_err(|error| {
            anyhow!("has a certificate, number {number}, that cannot be read: {}", tls::flaw(error))
        })?;
        let what = match (validity(&certificate, now), validity(&certificate, soon)) {
            (Validity::Never, _) => "ends before it begins: make another".to_owned(),
            (Validity::Ended(when), _) => format!("ended on {}: renew it", day(when)),
            (Validity::NotYet(when), _) => format!("is not valid before {}", day(when)),
            (Validity::Valid, Validity::Ended(when)) => format!("ends on {}: it is time to renew it", day(when)),
            _ => continue,
        };
        return Ok(Some(if number == 1 { what } else { format!("has a certificate, number {number}, that {what}") }));
    }
    Ok((1..chain.len()).find_map(|issuer| check_issuer(chain, issuer, now)))
}

/// Whether a certificate is valid at a certain time.
enum Validity {
    Valid,
    /// Its end is before its beginning.
    Never,
    Ended(UnixTime),
    NotYet(UnixTime),
}

fn validity(own: &ParsedCertificate<'_>, time: UnixTime) -> Validity {
    // The time is checked before the issuer, so an empty list of authorities is enough here.
    match verify(own, &RootCertStore::empty(), &[], time) {
        Err(CertificateError::ExpiredContext { not_after, .. }) => Validity::Ended(not_after),
        Err(CertificateError::NotValidYetContext { not_before, .. }) => Validity::NotYet(not_before),
        // rustls returns this only if the end is before the beginning.
        Err(CertificateError::Expired) => Validity::Never,
        _ => Validity::Valid,
    }
}

/// What is wrong with the chain from the first certificate up to this one.
fn check_issuer(chain: &[CertificateDer<'_>], issuer: usize, now: UnixTime) -> Option<String> {
    let mut trusted = RootCertStore::empty();
    let own = ParsedCertificate::try_from(&chain[0]).ok()?;
    let is_sound = trusted.add(chain[issuer].clone().into_owned()).is_ok()
        && verify(&own, &trusted, &chain[1..issuer], now).is_ok();
    let number = issuer + 1;
    (!is_sound).then(|| {
        format!(
            "has a certificate, number {number}, that did not issue the one before it: the server's own comes first, \
             then the one that issued it, and so on"
        )
    })
}

fn verify(
    own: &ParsedCertificate<'_>,
    trusted: &RootCertStore,
    between: &[CertificateDer<'_>],
    time: UnixTime,
) -> Result<(), CertificateError> {
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(own, trusted, between, time, algorithms) {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => Err(error),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

/// `2026-12-31`
fn day(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    time.map_or_else(|| "a day beyond all calendars".to_owned(), |time| time.date().to_string())
}

/// What somebody could do with our private key.
const PASS_FOR_US: &str = "pass for us";

/// How long before its end a certificate causes a warning; certbot renews certificates a month before.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);
