//! Who is on the other side of the connection: its address from the socket, and its name only if that is confirmed. At
//! a Unix socket it is a user of this machine, whose number the kernel knows.
//!
//! A name is accepted only if the address leads to it and it leads back to the address, and if it consists of letters,
//! digits, hyphens, underscores and dots: the owner of an address decides what its reverse entry says.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, UnixAddr, getpeername, getsockname, getsockopt};

use crate::user;

/// The peer as rules, headers and the log see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The peer's address.
    pub address: Address,
    /// The peer's name, if it is forward-confirmed.
    pub hostname: Option<String>,
}

/// The address of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// A network address, in the form of [`canonical`].
    Ip(IpAddr),
    /// A user of this machine at a Unix socket: the one who connected (SO_PEERCRED, unix(7)).
    Local(Option<u32>),
}

impl Address {
    /// The user on the other side of a Unix socket.
    pub fn of_unix_socket(socket: &impl AsFd) -> Self {
        Address::Local(getsockopt(socket, PeerCredentials).ok().map(|credentials| credentials.uid()))
    }

    /// The network address, if it is one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Address::Ip(address) => Some(address),
            Address::Local(_) => None,
        }
    }

    /// The text for patterns: the address, or the word `local`, which cannot be a host name.
    pub fn text(self) -> String {
        match self {
            Address::Ip(address) => address.to_string(),
            Address::Local(_) => LOCAL.to_owned(),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Address::Ip(canonical(address))
    }
}

/// The form for the log. `[local:105]` cannot be mistaken for an address or a host name.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Local(Some(uid)) => write!(f, "{LOCAL}:{uid}"),
            Address::Local(None) => write!(f, "{LOCAL}:?"),
        }
    }
}

impl Peer {
    /// A peer without a known name.
    pub fn unnamed(address: impl Into<Address>) -> Self {
        Self { address: address.into(), hostname: None }
    }

    /// A person at a terminal.
    pub fn at_terminal() -> Self {
        Self { hostname: Some(TERMINAL.to_owned()), ..Self::unnamed(Origin::Terminal.address()) }
    }

    /// The peer as an object for programs.
    pub(crate) fn for_programs(&self) -> serde_json::Value {
        let uid = match self.address {
            Address::Ip(_) => None,
            Address::Local(uid) => uid,
        };
        let address = self.address.ip().map(|address| address.to_string());
        serde_json::json!({ "address": address, "name": self.hostname, "uid": uid })
    }

    /// The confirmed name, or `unknown`; `local` for a user of this machine.
    pub fn name(&self) -> &str {
        self.hostname.as_deref().unwrap_or(match self.address {
            Address::Ip(_) => UNKNOWN,
            Address::Local(_) => LOCAL,
        })
    }

    /// Reads `ADDRESS`, `ADDRESS=HOSTNAME`, `local` or `local=USER`, the user by name or number.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (address, hostname) = text.split_once('=').map_or((text, None), |(address, name)| (address, Some(name)));
        if address == LOCAL {
            let uid = hostname.map(|name| user::parse(name).with_context(|| format!("`{name}` is no user")));
            return Ok(Self::unnamed(Address::Local(uid.transpose()?)));
        }
        let Ok(address) = address.parse::<IpAddr>() else {
            bail!("`{address}` is not an IPv4 or IPv6 address, nor `local`")
        };
        if let Some(name) = hostname
            && !is_valid_hostname(name)
        {
            bail!("`{name}` is not a host name");
        }
        Ok(Self { hostname: hostname.map(str::to_owned), ..Self::unnamed(address) })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Address::Ip(address) => write!(f, "{} [{address}]", self.name()),
            Address::Local(_) => self.address.fmt(f),
        }
    }
}

/// How we found out who the peer is.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line names it.
    Named(Peer),
    /// Standard input is a connection from this address.
    Socket(Address),
    /// A person at a terminal.
    Terminal,
}

impl Origin {
    /// The peer's address; a person at a terminal has that of this machine.
    pub fn address(&self) -> Address {
        match self {
            Origin::Named(peer) => peer.address,
            Origin::Socket(address) => *address,
            Origin::Terminal => Address::Ip(Ipv4Addr::LOCALHOST.into()),
        }
    }
}

/// Finds out who is connected to a descriptor. It is an error if it is neither a connection (TCP or a Unix socket) nor
/// a terminal, or if the peer has already gone.
pub fn origin(descriptor: BorrowedFd<'_>) -> anyhow::Result<Origin> {
    if nix::unistd::isatty(descriptor).unwrap_or(false) {
        return Ok(Origin::Terminal);
    }
    let address: SockaddrStorage = getpeername(descriptor.as_raw_fd()).context(
        "standard input is no connection: start me from a super-server, or name the peer with --peer ADDRESS",
    )?;
    let address = match address.family() {
        Some(AddressFamily::Inet) => address.as_sockaddr_in().map(|inet| IpAddr::V4(inet.ip()).into()),
        Some(AddressFamily::Inet6) => address.as_sockaddr_in6().map(|inet6| IpAddr::V6(inet6.ip()).into()),
        // A socket pair, which a wrapper may have put between us and the peer, has no name; its other side is the
        // wrapper.
        Some(AddressFamily::Unix) if has_name(descriptor) => Some(Address::of_unix_socket(&descriptor)),
        _ => None,
    };
    match address {
        Some(address) => Ok(Origin::Socket(address)),
        None => {
            bail!("standard input is no connection to a port or a Unix socket: name the peer with --peer ADDRESS")
        }
    }
}

/// Whether a connection came in at a Unix socket with a name, so that somebody listens there.
fn has_name(descriptor: BorrowedFd<'_>) -> bool {
    getsockname::<UnixAddr>(descriptor.as_raw_fd()).is_ok_and(|own| own.path().is_some() || own.as_abstract().is_some())
}

/// The local port of a TCP connection; `None` for anything else.
pub(crate) fn local_port(descriptor: BorrowedFd<'_>) -> Option<u16> {
    match local_address(descriptor)? {
        LocalAddress::Tcp(address) => Some(address.port()),
        LocalAddress::Unix(_) => None,
    }
}

/// Where a connection came in: our own side of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalAddress {
    /// At this address and port.
    Tcp(SocketAddr),
    /// At the Unix socket of this path.
    Unix(PathBuf),
}

impl LocalAddress {
    /// Whether a connection to this address would come in at the same place.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        // One side may see an IPv4 address where the other sees it mapped to IPv6.
        let known = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        matches!(self, LocalAddress::Tcp(own) if known(*own) == known(address))
    }

    /// The same for a Unix socket, even under another path.
    pub(crate) fn is_socket(&self, path: &Path) -> bool {
        let known = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
        matches!(self, LocalAddress::Unix(own) if own == path || known(own).is_some_and(|own| Some(own) == known(path)))
    }
}

/// Our own side of a connection; `None` if that has no name.
pub(crate) fn local_address(descriptor: BorrowedFd<'_>) -> Option<LocalAddress> {
    let address: SockaddrStorage = getsockname(descriptor.as_raw_fd()).ok()?;
    let v4 = || address.as_sockaddr_in().map(|inet| SocketAddr::from((inet.ip(), inet.port())));
    let v6 = || address.as_sockaddr_in6().map(|inet6| SocketAddr::from((inet6.ip(), inet6.port())));
    let unix = || address.as_unix_addr()?.path().map(|path| LocalAddress::Unix(path.to_owned()));
    v4().or_else(v6).map(LocalAddress::Tcp).or_else(unix)
}

/// The address under which rules, look-ups, headers and the log know a peer: its IPv4 address, if it has one and only
/// the way to us is IPv6.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => {
            embedded_ipv4(v6).filter(|v4| is_mapped(v6) || can_come_from_afar(*v4)).map_or(address, IpAddr::V4)
        }
        IpAddr::V4(_) => address,
    }
}

/// The IPv4 address within an IPv6 address, for the two prefixes that have a fixed place for it: mapped addresses of
/// sockets that serve both (`::ffff:0:0/96`, RFC 4291, 2.5.5.2), and those that a NAT64 gives to its IPv4 side
/// (`64:ff9b::/96`, RFC 6052, 2.1). Networks may use other prefixes, such as `64:ff9b:1::/48` (RFC 8215), but then the
/// address does not show the prefix's length, and so not which bits are the IPv4 address.
pub(crate) fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [rest @ .., a, b, c, d] = address.octets();
    (is_mapped(address) || rest == NAT64).then(|| Ipv4Addr::new(a, b, c, d))
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// Whether an address is not globally unique: this host's own, those of private networks (RFC 1918, RFC 4193) and of a
/// provider's internal network (RFC 6598), and link-local ones (RFC 3927; RFC 4291, 2.5.6).
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Whether an address can belong to another host. A NAT64 passes on no others (RFC 6052, 3.1), so a peer that seems to
/// be this host behind a NAT64 is not believed.
fn can_come_from_afar(address: Ipv4Addr) -> bool {
    !address.is_loopback() && address.octets()[0] != 0
}

/// Stands in place of a missing name.
const UNKNOWN: &str = "unknown";

/// The name of a person at a terminal.
pub(crate) const TERMINAL: &str = "(local-tty)";

/// Stands in place of address and name for a user of this machine.
const LOCAL: &str = "local";

/// The first 96 bits of the addresses that a NAT64 gives to its IPv4 side.
const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/// Whether a host can have this name: labels of letters, digits and inner hyphens (RFC 1123, 2.1), and of underscores,
/// which some hosts have all the same, such as containers. It must not look like an address, nor be one of the words
/// for a missing name.
pub fn is_valid_hostname(name: &str) -> bool {
    flaw_of_hostname(name).is_none()
}

/// Why a host cannot have this name; `None` if it can.
pub(crate) fn flaw_of_hostname(name: &str) -> Option<&'static str> {
    let mut labels = name.split('.');
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.len() > 253 {
        Some("it has more than 253 characters")
    } else if labels.clone().any(|label| label.is_empty() || !label.bytes().all(is_known)) {
        Some("host names have letters, digits, hyphens, underscores and dots")
    } else if labels.clone().any(|label| label.len() > 63) {
        Some("a part of it has more than 63 characters")
    } else if labels.clone().any(|label| label.starts_with('-') || label.ends_with('-')) {
        Some("a part of it begins or ends with a hyphen")
    } else if [UNKNOWN, LOCAL].iter().any(|word| name.eq_ignore_ascii_case(word)) {
        Some("that is a word for who has none")
    } else if labels.next_back().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        Some("it looks like an address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};

    use testkit::Folder;

    use super::*;

    #[test]
    fn where_a_connection_comes_in() {
        for own in ["127.0.0.1:25", "[::ffff:127.0.0.1]:25"] {
            let own = LocalAddress::Tcp(own.parse().unwrap());
            for (there, is_there) in [
                ("127.0.0.1:25", true),
                ("[::ffff:127.0.0.1]:25", true),
                ("127.0.0.1:26", false),
                ("127.0.0.2:25", false),
                ("[::1]:25", false),
            ] {
                assert_eq!(own.is_at(there.parse().unwrap()), is_there, "{own:?} {there}");
            }
            assert!(!own.is_socket(Path::new("/")));
        }
        let folder = Folder::new();
        let (path, link) = (folder.path("socket"), folder.path("link"));
        let listener = UnixListener::bind(&path).unwrap();
        symlink(&path, &link).unwrap();
        let peer = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let own = local_address(accepted.as_fd()).unwrap();
        assert!(own.is_socket(&path) && own.is_socket(&link));
        assert!(!own.is_socket(&folder.path("other")) && !own.is_at("127.0.0.1:25".parse().unwrap()));
        assert_eq!(local_address(peer.as_fd()), None);
    }

    #[test]
    fn host_names() {
        for good in [
            "localhost",
            "mail-1.example.com",
            "1and1.example",
            "a.b.c",
            "xn--bcher-kva.example",
            "under_score.example",
        ] {
            assert!(is_valid_hostname(good), "{good}");
        }
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = "a.".repeat(127) + "example";
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "192.0.2.1",
            "a.1",
            "unknown",
            "UNKNOWN",
            "local",
            "Local",
            "-a.example",
            "a-.example",
            "a b.example",
            "a\nb.example",
            "a[192.0.2.1].example",
            "*.example",
            "::1",
            &long_label,
            &long_name,
        ] {
            assert!(!is_valid_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn the_address_within_is_the_peers() {
        for (address, canonical) in [
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("64:ff9b::192.0.2.1", "192.0.2.1"),
            ("64:ff9b::c000:201", "192.0.2.1"),
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("64:ff9b::255.255.255.255", "255.255.255.255"),
            // From ourselves, by way of a NAT64? Not so.
            ("64:ff9b::127.0.0.1", "64:ff9b::7f00:1"),
            ("64:ff9b::", "64:ff9b::"),
            // Where the IPv4 address stands in these is not known.
            ("64:ff9b:1::192.0.2.1", "64:ff9b:1::c000:201"),
            ("64:ff9b::1:192.0.2.1", "64:ff9b::1:c000:201"),
            ("::192.0.2.1", "::c000:201"),
            ("2001:db8::c000:201", "2001:db8::c000:201"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(super::canonical(address.parse().unwrap()).to_string(), canonical, "{address}");
            assert_eq!(Peer::parse(address).unwrap().address.to_string(), canonical, "{address}");
        }
    }

    #[test]
    fn private_addresses() {
        for private in [
            "127.0.0.1",
            "127.255.255.255",
            "::1",
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.1.1",
            "100.64.0.0",
            "100.127.255.255",
            "fc00::",
            "fdff::1",
            "fe80::1",
            "febf::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.1.1",
            "192.169.0.0",
            "169.253.0.1",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "192.0.2.7",
            "0.0.0.0",
            "::",
            "fbff::1",
            "fe00::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::a00:1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    /// What a filter might look for in the brackets of a log line.
    #[test]
    fn a_user_of_this_host_is_no_address() {
        for uid in [Some(0), Some(105), Some(u32::MAX - 1), None] {
            let shown = Address::Local(uid).to_string();
            assert!(shown.parse::<IpAddr>().is_err() && !is_valid_hostname(&shown), "{shown}");
            // Not even to a filter that takes underscores, digits and dots for a name.
            assert!(shown.contains(':') && !shown.starts_with(|first: char| first.is_ascii_hexdigit()), "{shown}");
        }
    }

    #[test]
    fn peers_of_the_command_line() {
        assert_eq!(Peer::parse("::ffff:192.0.2.1=mail.example").unwrap().to_string(), "mail.example [192.0.2.1]");
        assert_eq!(Peer::parse("2001:DB8:0:0::1").unwrap().to_string(), "unknown [2001:db8::1]");
        assert!(Peer::parse("fe80::1%eth0").is_err());
        for (text, shown) in [("local", "local:?"), ("local=105", "local:105"), ("local=root", "local:0")] {
            assert_eq!(Peer::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["local=", "local=-1", "local=4294967295", "local=nobody here", "192.0.2.1=local", "Local"] {
            assert!(Peer::parse(bad).is_err(), "{bad}");
        }
    }
}
