//! Connections from here to servers: over TCP, plain or under TLS, with one deadline for everything from the name look-up
//! to the last word.
//!
//! A session that connects anywhere is confined by then, so the files that this takes are opened before and read when a
//! connection is made ([`ClientFiles`]).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::dns;
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
    /// Whether name servers may have to be asked where it is.
    pub(crate) fn has_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Its addresses, at least one, as the files and name servers have them.
    pub(crate) fn addresses(&self, files: &ClientFiles, until: Instant) -> anyhow::Result<Vec<SocketAddr>> {
        let text = |file: &Unread| String::from_utf8_lossy(&file.read().unwrap_or_default()).into_owned();
        let found = dns::addresses(&self.host, &text(&files.hosts), &text(&files.resolv_conf), until);
        match found {
            Ok(found) => Ok(found.into_iter().map(|address| SocketAddr::new(address, self.port)).collect()),
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

/// The files that a connection takes.
#[derive(Debug)]
pub(crate) struct ClientFiles {
    hosts: Unread,
    resolv_conf: Unread,
    authorities: Unread,
}

impl ClientFiles {
    /// Opens them: those of the system, and the certificates of the authorities that servers have theirs from, the
    /// system's if none are named. What cannot be opened is told when it is needed.
    pub(crate) fn open(authorities: Option<&Path>) -> Self {
        Self {
            hosts: Unread::open(Path::new(dns::HOSTS)),
            resolv_conf: Unread::open(Path::new(dns::RESOLV_CONF)),
            authorities: Unread::open(authorities.unwrap_or(Path::new(AUTHORITIES))),
        }
    }

    /// Whom we believe who a server is.
    pub(crate) fn authorities(&self) -> anyhow::Result<RootCertStore> {
        self.authorities.parsed(authorities)
    }
}

/// The authorities in a text of certificates, at least one. A system's list may have some that rustls cannot use.
pub(crate) fn authorities(text: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    if let (0, _) = authorities.add_parsable_certificates(chain(text)?) {
        bail!("has no certificate of an authority that can be used");
    }
    Ok(authorities)
}

/// A connection to a server. What it reads and writes fails with [`ErrorKind::TimedOut`] when its deadline is over.
pub(crate) struct Client(Stream);

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Client {
    /// Connects to the first of the server's addresses that answers, and begins TLS if that is wanted: with a server whose
    /// certificate says that it is this host.
    pub(crate) fn connect(
        server: &Endpoint,
        uses_tls: bool,
        files: &ClientFiles,
        until: Instant,
    ) -> anyhow::Result<Self> {
        let addresses = server.addresses(files, until)?;
        let stream = Timed { stream: first_that_answers(&addresses, until)?, until };
        if !uses_tls {
            return Ok(Self(Stream::Plain(stream)));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(files.authorities()?)
            .with_no_client_auth();
        let name = ServerName::try_from(server.host.trim_end_matches('.').to_owned())
            .context("no certificate can be for this name")?;
        let connection = ClientConnection::new(Arc::new(config), name)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("TLS")?;
        }
        Ok(Self(Stream::Tls(Box::new(stream))))
    }

    /// Gives it more time, or less.
    pub(crate) fn set_deadline(&mut self, until: Instant) {
        match &mut self.0 {
            Stream::Plain(stream) => stream.until = until,
            Stream::Tls(stream) => stream.sock.until = until,
        }
    }
}

impl Read for Client {
    /// 0 at an end that the server has made: under TLS, one that it has announced.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.write(text),
            Stream::Tls(stream) => stream.write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// Connects to one of these. An address that nobody answers from must leave time for the next.
fn first_that_answers(addresses: &[SocketAddr], until: Instant) -> anyhow::Result<TcpStream> {
    let mut failures = Vec::new();
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share = remaining(until)? / u32::try_from(left).unwrap_or(u32::MAX);
        let connected = TcpStream::connect_timeout(address, share.max(Duration::from_millis(1)));
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    bail!("{}", failures.join("; "))
}

/// A connection whose every wait ends at the deadline.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.until)?))?;
        self.stream.read(buffer).map_err(as_timeout)
    }
}

impl Write for Timed {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(remaining(self.until)?))?;
        self.stream.write(text).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn remaining(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(too_late()),
        left => Ok(left),
    }
}

/// What a socket says whose time is over.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { too_late() } else { error }
}

fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

/// Where Debian and most others have the certificates of all authorities that are commonly believed.
pub(crate) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
