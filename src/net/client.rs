//! Servers that we connect to: where they are, and which authorities we believe when they prove their name.
//!
//! A session connects from inside its sandbox, so the files that are needed for it are opened before and read when a
//! connection is made ([`ClientFiles`]).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::bail;
use rustls::RootCertStore;

use super::dns;
use super::patience::{Patience, stopped};
use super::tls::chain;
use crate::unread::Unread;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Endpoint {
    /// Whether name servers may be needed to find its address.
    pub(crate) fn has_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Its addresses, at least one, from the files and from name servers. A request to stop is an [`std::io::Error`] of
    /// kind `Interrupted`.
    pub(crate) fn addresses(&self, files: &ClientFiles, patience: Patience<'_>) -> anyhow::Result<Vec<SocketAddr>> {
        let text = |file: &Unread| String::from_utf8_lossy(&file.read().unwrap_or_default()).into_owned();
        let found = dns::addresses(&self.host, &text(&files.hosts), &text(&files.resolv_conf), patience);
        match found {
            Ok(found) => Ok(found.into_iter().map(|address| SocketAddr::new(address, self.port)).collect()),
            Err(_) if patience.is_stopped() => Err(stopped().into()),
            Err(why) => bail!("the address of {} cannot be found: {why}", self.host),
        }
    }
}

/// `HOST:PORT`
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The files that connecting needs.
#[derive(Debug)]
pub(crate) struct ClientFiles {
    hosts: Unread,
    resolv_conf: Unread,
    authorities: Unread,
}

impl ClientFiles {
    /// Opens the files: those of the system, and the certificates of authorities, which are the system's if no file is
    /// named. A file that cannot be opened is an error only when it is needed.
    pub(crate) fn open(authorities: Option<&Path>) -> Self {
        Self {
            hosts: Unread::open(Path::new(dns::HOSTS)),
            resolv_conf: Unread::open(Path::new(dns::RESOLV_CONF)),
            authorities: Unread::open(authorities.unwrap_or(Path::new(AUTHORITIES))),
        }
    }

    /// The authorities that may vouch for a server.
    pub(crate) fn authorities(&self) -> anyhow::Result<RootCertStore> {
        self.authorities.parsed(authorities)
    }
}

/// Reads certificates of authorities, at least one. A system's file may contain some that rustls cannot use.
pub(crate) fn authorities(text: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    if let (0, _) = authorities.add_parsable_certificates(chain(text)?) {
        bail!("has no certificate of an authority that can be used");
    }
    Ok(authorities)
}

/// Where Debian and most other systems have the certificates of all commonly trusted authorities.
pub(crate) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
