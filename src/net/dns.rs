//! Finds a forward-confirmed name for an address, and the addresses of a name, within a deadline: in /etc/hosts first,
//! then by DNS.
//!
//! A static binary cannot load the plug-ins of the C library's resolver, and that resolver cannot be stopped at a
//! deadline. So the few queries needed (PTR, then A or AAAA) are made here; `resolv-conf` reads resolv.conf(5).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use domain::base::Question;
use domain::base::iana::Rtype;
use domain::base::name::Name;
use domain::rdata::{A, Aaaa, Ptr};
use nix::net::if_::if_nametoindex;
use nix::poll::PollFlags;
use resolv_conf::ScopedIp;

use super::dns_message::{Answer, MAX_MESSAGE, Query, QueryName, Received};
use super::patience::{Patience, connect_tcp};
use crate::files::read_text;
use crate::peer::{canonical, flaw_of_hostname};
use crate::untrusted::Untrusted;

/// Why an address has no name that we accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoName {
    /// The hosts file has no line for it, and DNS has no reverse entry.
    Unnamed,
    /// The name is not one that a host can have, for this reason.
    Illegal(String, &'static str),
    /// The name does not lead back to the address.
    Unconfirmed(String),
    /// Nobody answered in time, or the answer was an error.
    Failed(String),
}

impl std::fmt::Display for NoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoName::Unnamed => f.write_str("the address has no host name"),
            NoName::Illegal(name, flaw) => {
                write!(f, "the host name '{}' does not count: {flaw}", Untrusted::new(name.as_bytes()))
            }
            NoName::Unconfirmed(name) => {
                write!(f, "the host name '{}' does not lead back to the address", Untrusted::new(name.as_bytes()))
            }
            NoName::Failed(why) => write!(f, "the host name look-up failed: {}", Untrusted::new(why.as_bytes())),
        }
    }
}

/// What the files of this machine say about the name of an address.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The name; it needs no confirmation.
    Known(String),
    /// There is no acceptable name; these servers may know one.
    Ask(NameServers),
}

/// The name servers to ask.
#[derive(Debug)]
pub(crate) struct NameServers {
    /// The address of each server, or why it cannot be asked.
    addresses: Vec<Result<SocketAddr, String>>,
    /// How long to wait for one server before the next is asked.
    patience: Duration,
    /// Why the name in the hosts file is not acceptable, if there was one.
    unfit: Option<NoName>,
}

/// Looks into hosts(5), and if the address is not there, into resolv.conf(5). This is done outside the sandbox; inside,
/// where answers of name servers are read, no files can be opened.
pub(crate) fn look_into_files(address: IpAddr) -> Lookup {
    let unfit = match name_in_hosts(&read_text(HOSTS).unwrap_or_default(), address) {
        Ok(name) => return Lookup::Known(name),
        Err(NoName::Unnamed) => None,
        Err(unfit) => Some(unfit),
    };
    if [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&address) {
        // Not every hosts file has both addresses (RFC 6761, 6.3).
        return Lookup::Known("localhost".to_owned());
    }
    let config = resolver_configuration(&read_text(RESOLV_CONF).unwrap_or_default());
    Lookup::Ask(NameServers { unfit, ..NameServers::of(&config) })
}

/// Reads resolv.conf(5). Malformed lines are ignored, as in the C library.
fn resolver_configuration(text: &str) -> resolv_conf::Config {
    let text = numbered_zones(text, |zone| if_nametoindex(zone).ok());
    let (config, _) = resolv_conf::Config::parse_with_errors(text.as_bytes());
    config
}

/// Every address of a host that we want to connect to, at least one, in the order in which they should be tried; or why
/// there is none. `hosts` and `resolv_conf` are the texts of those files.
pub(crate) fn addresses(
    host: &str,
    hosts: &str,
    resolv_conf: &str,
    patience: Patience<'_>,
) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let found = addresses_in_hosts(hosts, host);
    if !found.is_empty() {
        return Ok(found);
    }
    let lower = host.trim_end_matches('.').to_ascii_lowercase();
    match lower.rsplit('.').next() {
        // Name servers must not be asked about these (RFC 6761, 6.3 and 6.4).
        Some("localhost") => return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        Some("invalid") => return Err(NO_SUCH_HOST.to_owned()),
        _ => {}
    }
    let config = resolver_configuration(resolv_conf);
    let servers = NameServers::of(&config);
    let resolver = Resolver { servers: &servers, patience };
    let mut failure = None;
    for name in candidates(host, &config) {
        let mut found = Vec::new();
        for like in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            match resolver.addresses(&name, like) {
                Ok(addresses) => found.extend(addresses),
                Err(NoName::Failed(why)) => _ = failure.get_or_insert(why),
                Err(why) => _ = failure.get_or_insert(why.to_string()),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(failure.unwrap_or_else(|| NO_SUCH_HOST.to_owned()))
}

/// The full names that a host's name can stand for. A name with dots is tried as it is first, one without dots in our
/// own domains first (resolv.conf(5), `search`).
fn candidates(host: &str, config: &resolv_conf::Config) -> Vec<String> {
    if let Some(whole) = host.strip_suffix('.') {
        return vec![whole.to_owned()];
    }
    let searched = config.get_last_search_or_domain().map(|domain| format!("{host}.{domain}"));
    let mut names: Vec<String> = searched.take(MAX_NAMES).collect();
    let place = if host.contains('.') { 0 } else { names.len() };
    names.insert(place, host.to_owned());
    names
}

/// The addresses of all lines of hosts(5) with this name.
fn addresses_in_hosts(hosts: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let addresses = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    });
    addresses.collect()
}

/// The text of resolv.conf(5) with interface numbers in place of interface names (`fe80::1%br-lan`), some of which
/// `resolv-conf` cannot read. Names of unknown interfaces stay.
fn numbered_zones(text: &str, number: impl Fn(&str) -> Option<u32>) -> String {
    let numbered = |line: &str| {
        let (server, rest) = line.split_once('%').filter(|_| line.trim_start().starts_with("nameserver"))?;
        let zone = rest.split([' ', '\t', ';', '#']).next()?;
        Some(format!("{server}%{}", number(zone)?))
    };
    text.lines().map(|line| numbered(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

impl NameServers {
    /// The servers in resolv.conf(5), or the one on this machine if there are none.
    fn of(config: &resolv_conf::Config) -> Self {
        let mut addresses: Vec<_> = config.nameservers.iter().map(address_of).collect();
        if addresses.is_empty() {
            addresses.push(Ok((Ipv4Addr::LOCALHOST, DNS_PORT).into()));
        }
        Self { addresses, patience: Duration::from_secs(u64::from(config.timeout.clamp(1, 5))), unfit: None }
    }
}

/// The socket address of a name server; a link-local address needs the number of its interface (RFC 4007, 11).
fn address_of(server: &ScopedIp) -> Result<SocketAddr, String> {
    let ScopedIp::V6(address, Some(zone)) = server else { return Ok(SocketAddr::new(server.into(), DNS_PORT)) };
    let number = zone.parse().map_err(|_| {
        format!("there is no network interface `{zone}` for the name server {address} in {RESOLV_CONF}")
    })?;
    Ok(SocketAddrV6::new(*address, DNS_PORT, 0, number).into())
}

/// Asks name servers for the name of the address, and for the addresses of that name.
pub(crate) fn confirmed_name(address: IpAddr, servers: &NameServers, patience: Patience<'_>) -> Result<String, NoName> {
    let resolver = Resolver { servers, patience };
    let mut failure = None;
    let mut unconfirmed = None;
    let mut illegal = servers.unfit.clone();
    let names = resolver.names(address)?;
    let legal = names.into_iter().filter_map(|name| match flaw_of_hostname(&name) {
        None => Some(name),
        Some(flaw) => {
            illegal.get_or_insert(NoName::Illegal(name, flaw));
            None
        }
    });
    for name in legal.take(MAX_NAMES) {
        match resolver.addresses(&name, address) {
            Ok(addresses) if addresses.contains(&address) => return Ok(name),
            Ok(_) => _ = unconfirmed.get_or_insert(name),
            // The next name may be confirmed. If none is, the failure is reported, because this one might have been.
            Err(error) => _ = failure.get_or_insert(error),
        }
    }
    Err(failure.or(unconfirmed.map(NoName::Unconfirmed)).or(illegal).unwrap_or(NoName::Unnamed))
}

/// The first acceptable name in hosts(5) for this address. The administrator wrote it, so it needs no confirmation.
fn name_in_hosts(hosts: &str, address: IpAddr) -> Result<String, NoName> {
    let names = hosts.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let found: IpAddr = words.next()?.parse().ok()?;
        words.next().filter(|_| canonical(found) == address)
    });
    let mut illegal = None;
    for name in names {
        match flaw_of_hostname(name) {
            None => return Ok(name.to_owned()),
            Some(flaw) => _ = illegal.get_or_insert_with(|| NoName::Illegal(name.to_owned(), flaw)),
        }
    }
    Err(illegal.unwrap_or(NoName::Unnamed))
}

struct Resolver<'s> {
    servers: &'s NameServers,
    patience: Patience<'s>,
}

impl Resolver<'_> {
    fn names(&self, address: IpAddr) -> Result<Vec<String>, NoName> {
        let name = Name::reverse_from_addr(address).map_err(|error| NoName::Failed(error.to_string()))?;
        let answer = self.query(&Question::new_in(name, Rtype::PTR))?;
        // A dot inside a label could fake a domain. It is written `\.`, and no host name contains a backslash.
        Ok(answer.data::<Ptr<_>>().map(|ptr| ptr.ptrdname().to_string()).collect())
    }

    fn addresses(&self, name: &str, like: IpAddr) -> Result<Vec<IpAddr>, NoName> {
        let name = Name::from_chars(name.chars()).map_err(|error| NoName::Failed(error.to_string()))?;
        Ok(if like.is_ipv4() {
            let answer = self.query(&Question::new_in(name, Rtype::A))?;
            answer.data::<A>().map(|a| a.addr().into()).collect()
        } else {
            let answer = self.query(&Question::new_in(name, Rtype::AAAA))?;
            answer.data::<Aaaa>().map(|aaaa| aaaa.addr().into()).collect()
        })
    }

    /// Asks the servers in turn, up to twice each, until one gives a final answer.
    fn query(&self, question: &Question<QueryName>) -> Result<Answer, NoName> {
        let mut failure = "no answer in time".to_owned();
        let servers = &self.servers.addresses;
        for server in servers.iter().chain(servers) {
            if self.patience.is_over() || self.patience.is_stopped() {
                break;
            }
            match server.as_ref().map(|server| self.ask(*server, question)) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_timeout(&error) => {}
                Ok(Err(error)) => failure = error.to_string(),
                Err(why) => failure.clone_from(why),
            }
        }
        Err(NoName::Failed(failure))
    }

    /// Asks one server over UDP, and again over TCP if the answer was cut short (RFC 7766, section 5).
    fn ask(&self, server: SocketAddr, question: &Question<QueryName>) -> io::Result<Answer> {
        let patience = self.patience.at_most(self.servers.patience);
        let [low, high, ..] = random().to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        let query = Query::new(id, question, random_bits())
            .ok_or_else(|| io::Error::other("a question that cannot be asked"))?;
        let answer = ask_over_udp(server, &query, patience)?;
        if answer.is_truncated() { ask_over_tcp(server, &query, patience) } else { Ok(answer) }
    }
}

fn ask_over_udp(server: SocketAddr, query: &Query, patience: Patience<'_>) -> io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(query.message())?;
    let mut has_other_capitals = false;
    loop {
        let mut message = vec![0; MAX_MESSAGE];
        let received = patience.wait_for(socket.as_fd(), PollFlags::POLLIN).and_then(|()| socket.recv(&mut message));
        match received {
            Ok(length) => message.truncate(length),
            // poll(2) may report a datagram that is then dropped because its checksum is wrong.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if has_other_capitals && is_timeout(&error) => {
                return Err(io::Error::other(
                    "the name server does not repeat the question as it was asked, capital letters included",
                ));
            }
            Err(error) => return Err(error),
        }
        match query.receive(message) {
            // A message that does not answer this question may come from somebody else, and is ignored.
            Received::Unrelated => {}
            Received::OtherCapitals => has_other_capitals = true,
            received => return answer(received),
        }
    }
}

fn ask_over_tcp(server: SocketAddr, query: &Query, patience: Patience<'_>) -> io::Result<Answer> {
    let mut stream = connect_tcp(&server, patience)?;
    let length = u16::try_from(query.message().len()).map_err(io::Error::other)?;
    // On a connection where nothing was sent yet there is room for all of it.
    stream.write_all(&[&length.to_be_bytes()[..], query.message()].concat())?;
    let mut length = [0; 2];
    read_all(&mut stream, &mut length, patience)?;
    // Only the beginning of a longer answer is read: five names are tried, and an address beyond the first few hundred
    // of a name is not confirmed.
    let mut message = vec![0; usize::from(u16::from_be_bytes(length)).min(MAX_MESSAGE)];
    read_all(&mut stream, &mut message, patience)?;
    answer(query.receive(message))
}

fn answer(received: Received) -> io::Result<Answer> {
    match received {
        Received::Answer(answer) => match answer.failure() {
            None => Ok(answer),
            Some(failure) => Err(io::Error::other(format!("the name server answered: {failure}"))),
        },
        Received::Garbled => Err(io::Error::other("the name server gave a garbled answer")),
        Received::OtherCapitals | Received::Unrelated => Err(io::Error::other("an answer to another question")),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// Like `read_exact`, with one deadline for all reads together.
fn read_all(stream: &mut TcpStream, buffer: &mut [u8], patience: Patience<'_>) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        patience.wait_for(stream.as_fd(), PollFlags::POLLIN)?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A number that an outsider cannot guess. As query identifier and as choice of capital letters, together with the port
/// that the kernel chose, it tells real answers from forged ones.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The kernel's random numbers are the source of the keys of `RandomState`.
    std::hash::RandomState::new().build_hasher().finish()
}

fn random_bits() -> impl Iterator<Item = bool> {
    std::iter::repeat_with(random).flat_map(|bits| (0..u64::BITS).map(move |number| bits >> number & 1 == 1))
}

pub(super) const HOSTS: &str = "/etc/hosts";
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where name servers listen (RFC 1035, 4.2).
pub(crate) const DNS_PORT: u16 = 53;

/// The error for a name without addresses.
const NO_SUCH_HOST: &str = "no host has this name";

/// How many names of an address are tried, and how many search domains for a host. More than one is rare, and each
/// costs a query.
const MAX_NAMES: usize = 5;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn hosts_have_addresses() {
        let hosts =
            "127.0.0.1 localhost\n192.0.2.1 broker.example Broker # 192.0.2.9 broker\n2001:db8::1\tbroker\nx broker";
        let ask = |host: &str| {
            let patience = Patience { until: Instant::now(), signals: None };
            addresses(host, hosts, "nameserver 127.0.0.1", patience).map(|found| {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                found.join(" ")
            })
        };
        assert_eq!(ask("192.0.2.7").unwrap(), "192.0.2.7");
        assert_eq!(ask("::1").unwrap(), "::1");
        assert_eq!(ask("BROKER").unwrap(), "192.0.2.1 2001:db8::1");
        assert_eq!(ask("broker.example.").unwrap(), "192.0.2.1");
        assert_eq!(ask("localhost").unwrap(), "127.0.0.1");
        assert_eq!(ask("mq.localhost").unwrap(), "127.0.0.1 ::1");
        assert_eq!(ask("broker.invalid").unwrap_err(), "no host has this name");
        // There is no time to ask anybody.
        assert_eq!(ask("example.org").unwrap_err(), "no answer in time");
    }

    #[test]
    fn a_host_without_dots_is_in_a_domain_of_ours() {
        let (config, _) = resolv_conf::Config::parse_with_errors(b"search a.example b.example");
        assert_eq!(candidates("mq", &config), ["mq.a.example", "mq.b.example", "mq"]);
        assert_eq!(candidates("mq.lan", &config), ["mq.lan", "mq.lan.a.example", "mq.lan.b.example"]);
        assert_eq!(candidates("mq.lan.", &config), ["mq.lan"]);
    }

    #[test]
    fn interfaces_have_numbers() {
        let number = |zone: &str| {
            Some(match zone {
                "eth0" => 2,
                "br-lan" => 3,
                "eth0.100" => 4,
                _ => return None,
            })
        };
        let text = "search a%b\nnameserver fe80::1%eth0\n nameserver\tfe80::1%br-lan # x\nnameserver fe80::1%eth0.100;\n\
            nameserver fe80::1%none\nnameserver fe80::1%7\nnameserver 192.0.2.1\noptions no-such-thing timeout:2\n\
            nameserver 192.0.2.2 extra\nnameserver nonsense\n";
        let (config, _) = resolv_conf::Config::parse_with_errors(numbered_zones(text, number).as_bytes());
        let servers = NameServers::of(&config);
        let shown: Vec<String> = servers
            .addresses
            .iter()
            .map(|address| match address {
                Ok(address) => address.to_string(),
                Err(why) => why.clone(),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "[fe80::1%2]:53",
                "[fe80::1%3]:53",
                "[fe80::1%4]:53",
                "there is no network interface `none` for the name server fe80::1 in /etc/resolv.conf",
                "[fe80::1%7]:53",
                "192.0.2.1:53",
                "192.0.2.2:53",
            ]
        );
        assert_eq!(servers.patience, Duration::from_secs(2));
    }

    #[test]
    fn hosts_file() {
        let hosts = "# comment\n127.0.0.1\tlocalhost loopback # x\n::1 ip6-localhost\n192.0.2.1 bad!\n192.0.2.1 good\n192.0.2.3 bad-\n";
        let name = |address: &str| name_in_hosts(hosts, address.parse().unwrap());
        assert_eq!(name("127.0.0.1").as_deref(), Ok("localhost"));
        assert_eq!(name("::1").as_deref(), Ok("ip6-localhost"));
        assert_eq!(name("192.0.2.1").as_deref(), Ok("good"));
        assert_eq!(name("192.0.2.2"), Err(NoName::Unnamed));
        assert!(matches!(name("192.0.2.3"), Err(NoName::Illegal(name, _)) if name == "bad-"));
    }
}
