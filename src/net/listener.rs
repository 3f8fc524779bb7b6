//! The addresses where `listen` listens, as people write them, and the sockets for them.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket};

use super::dns;
use super::patience::Patience;
use super::unix_socket::OwnSocket;
pub use super::unix_socket::SocketAccess;
use crate::files::read_text;
use crate::peer::Address;

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A port of TCP.
    Tcp(TcpAddress),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A port at one address or at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAddress {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address of this machine, by IPv6 and IPv4.
    All,
    Address(IpAddr),
    Name(String),
}

impl ListenAddress {
    /// The SMTP port at every address.
    pub const DEFAULT: Self = Self::Tcp(TcpAddress { host: Host::All, port: SMTP_PORT });

    /// Reads `PORT`, `:PORT`, `*:PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT`, `NAME:PORT` or `unix:PATH`. An error is a
    /// message for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(path) => Err(format!("`{path}` is no path from the root: write unix:/run/mailrecv/lmtp, say")),
            None => TcpAddress::parse(text).map(Self::Tcp),
        }
    }

    /// Whether this is the SMTP port.
    pub(crate) fn is_of_smtp(&self) -> bool {
        matches!(self, Self::Tcp(TcpAddress { port: SMTP_PORT, .. }))
    }
}

impl TcpAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let Ok(port) = port.parse() else {
            return Err(format!("`{port}` is no port, a number up to 65535: write ADDRESS:PORT"));
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match (host, bracketed) {
            ("" | "*", _) => Host::All,
            (_, Some(address)) => match address.parse() {
                Ok(address) => Host::Address(IpAddr::V6(address)),
                Err(_) => return Err(format!("`{address}` is no IPv6 address")),
            },
            (address, None) => match address.parse() {
                Ok(IpAddr::V4(address)) => Host::Address(IpAddr::V4(address)),
                Ok(IpAddr::V6(_)) => {
                    return Err(format!("an IPv6 address stands in brackets: write [{address}]:{port}"));
                }
                Err(_) if is_name(address) => Host::Name(address.to_owned()),
                Err(_) => return Err(format!("`{address}` is neither an address nor a host name")),
            },
        };
        Ok(Self { host, port })
    }

    fn is_ipv4(&self) -> bool {
        matches!(self.host, Host::Address(IpAddr::V4(_)))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::All => write!(f, "port {}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum ListeningSocket {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket that was passed to us.
    Unix(UnixListener),
    /// A Unix socket that we made.
    OwnUnix(OwnSocket),
}

impl ListeningSocket {
    /// Accepts a waiting connection; also returns the peer's address.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, Address)> {
        let socket = match self {
            ListeningSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                return Ok((stream.into(), peer.ip().into()));
            }
            ListeningSocket::Unix(socket) | ListeningSocket::OwnUnix(OwnSocket { listener: socket, .. }) => socket,
        };
        let (stream, _) = socket.accept()?;
        let peer = Address::of_unix_socket(&stream);
        Ok((stream.into(), peer))
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListeningSocket::Tcp(socket) => socket.as_fd(),
            ListeningSocket::Unix(socket) | ListeningSocket::OwnUnix(OwnSocket { listener: socket, .. }) => {
                socket.as_fd()
            }
        }
    }
}

/// The address where the socket listens.
impl fmt::Display for ListeningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListeningSocket::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => error.fmt(f),
            },
            ListeningSocket::Unix(socket) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                write!(f, "unix:{}", path.unwrap_or_else(|| "?".as_ref()).display())
            }
            ListeningSocket::OwnUnix(own) => write!(f, "unix:{}", own.path.display()),
        }
    }
}

/// Non-blocking sockets that listen at these addresses. `access` is for Unix sockets.
pub(crate) fn sockets(addresses: &[ListenAddress], access: SocketAccess) -> anyhow::Result<Vec<ListeningSocket>> {
    let mut sockets = Vec::new();
    for address in addresses {
        let listening = match address {
            ListenAddress::Tcp(tcp) => {
                tcp.sockets(addresses).map(|sockets| sockets.into_iter().map(ListeningSocket::Tcp).collect())
            }
            ListenAddress::Unix(path) => OwnSocket::bind(path, access).map(|own| vec![ListeningSocket::OwnUnix(own)]),
        };
        sockets.extend(listening.with_context(|| format!("cannot listen on {address}"))?);
    }
    Ok(sockets)
}

impl TcpAddress {
    /// The sockets for this address; `addresses` are all that were asked for.
    fn sockets(&self, addresses: &[ListenAddress]) -> anyhow::Result<Vec<TcpListener>> {
        let port = self.port;
        Ok(match &self.host {
            Host::All => vec![all_addresses(port)?],
            Host::Address(ip) => {
                // `[::]` is for IPv4 as well, unless IPv4 has its own socket at that port.
                let is_ipv4_there = |other: &ListenAddress| matches!(other, ListenAddress::Tcp(tcp) if tcp.port == port && tcp.is_ipv4());
                let is_ipv6_only = port != 0 && addresses.iter().any(is_ipv4_there);
                vec![socket_at(SocketAddr::new(*ip, port), is_ipv6_only)?]
            }
            Host::Name(name) => at_name(name, port)?,
        })
    }
}

/// Sockets at every address of a name. An address that this machine does not have, such as `::1` without IPv6, is
/// skipped if there is another one.
fn at_name(name: &str, port: u16) -> anyhow::Result<Vec<TcpListener>> {
    // The C library's own look-up would be 140 KB more, with plug-ins that a static binary cannot load (nsswitch.conf(5)).
    let text = |file| read_text(file).unwrap_or_default();
    let patience = Patience { until: Instant::now() + LOOK_UP, signals: None };
    let found = dns::addresses(name, &text(dns::HOSTS), &text(dns::RESOLV_CONF), patience);
    let addresses: BTreeSet<IpAddr> = found.map_err(anyhow::Error::msg)?.into_iter().collect();
    let mut sockets = Vec::new();
    let mut missing = None;
    for address in addresses {
        match socket_at(SocketAddr::new(address, port), false) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => missing = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    missing.filter(|_| sockets.is_empty()).map_or(Ok(sockets), |error| Err(error.into()))
}

/// How long to look for the addresses of a name; no peer waits.
const LOOK_UP: Duration = Duration::from_secs(10);

/// One socket for IPv6 and IPv4; only IPv4 if the system has no IPv6.
fn all_addresses(port: u16) -> io::Result<TcpListener> {
    match socket_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), false) {
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            socket_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false)
        }
        result => result,
    }
}

/// Whether an IPv6 socket also takes IPv4 is set here, so that no setting of the system decides it (ipv6(7)).
fn socket_at(address: SocketAddr, is_ipv6_only: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // Connections of an earlier run that still close must not prevent this.
    setsockopt(&socket, ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &is_ipv6_only)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // As many waiting connections as the system allows.
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// The port of SMTP (RFC 5321, 4.5.4.2).
pub(crate) const SMTP_PORT: u16 = 25;

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, place) in [
            ("2599", "port 2599"),
            (":2599", "port 2599"),
            ("*:2599", "port 2599"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("192.0.2.1:25", "192.0.2.1:25"),
            ("[::]:25", "[::]:25"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("localhost:25", "localhost:25"),
            ("unix:/run/mailrecv/lmtp:1", "unix:/run/mailrecv/lmtp:1"),
        ] {
            assert_eq!(ListenAddress::parse(text).map(|address| address.to_string()), Ok(place.to_owned()), "{text}");
        }
        for (text, what) in [
            ("", "is no port"),
            ("localhost", "is no port"),
            ("192.0.2.1", "is no port"),
            ("192.0.2.1:", "is no port"),
            ("192.0.2.1:smtp", "is no port"),
            ("192.0.2.1:65536", "is no port"),
            ("192.0.2.1:-1", "is no port"),
            ("::1:25", "write [::1]:25"),
            ("[192.0.2.1]:25", "is no IPv6 address"),
            ("[::1:25", "is neither an address nor a host name"),
            ("a b:25", "is neither an address nor a host name"),
            ("192.0.2.1:25:25", "is neither an address nor a host name"),
            ("unix:lmtp", "is no path from the root"),
            ("unix:", "is no path from the root"),
        ] {
            let error = ListenAddress::parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
