//! The programs that accept connections and start mailrecv, each with the entry, unit or command line that is shipped:
//! only paths and ports are replaced.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use nix::unistd::Pid;
use testkit::daemon::free_port;
use testkit::repository::{self, replaced};
use testkit::tcp::is_listening;
use testkit::{Client, Daemon, debian};

use super::receiver::Receiver;

/// A program that starts mailrecv for each connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SuperServer {
    /// xinetd, with xinetd.d/mailrecv.
    Xinetd,
    /// openbsd-inetd, with the README's lines.
    Inetd,
    /// tcpserver of ucspi-tcp, with the manual's line.
    Tcpserver,
    /// systemd's stand-in for a socket unit, with the service unit's ExecStart.
    SystemdSocketActivate,
    /// `mailrecv listen`.
    Listen,
}

/// A super-server that accepts connections; dropped, it is stopped.
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    daemon: Daemon,
}

impl Service {
    /// The process that waits for connections.
    #[allow(dead_code, reason = "the benchmark wants to know")]
    pub(crate) fn pid(&self) -> Pid {
        self.daemon.pid()
    }
}

/// `mailrecv listen` with options, once it has said that it is ready.
pub(crate) struct Listener {
    pub(crate) daemon: Daemon,
    /// Where it listens, as it says.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where it tells the metrics, likewise.
    #[allow(dead_code, reason = "the benchmark does not ask")]
    pub(crate) metrics: Vec<SocketAddr>,
}

impl Listener {
    /// Starts it.
    pub(crate) fn start(receiver: &Receiver, arguments: &[&str]) -> Self {
        let mut command = receiver.command();
        command.arg("listen").args(arguments);
        Self::of(receiver, command)
    }

    /// What this command starts.
    pub(crate) fn of(receiver: &Receiver, command: Command) -> Self {
        let mut daemon = receiver.launch(command);
        let line = daemon.until("the ready line", |output| output.split_once('\n').map(|(line, _)| line.to_owned()));
        let addresses = line.strip_prefix("mailrecv: listening on ").unwrap_or_else(|| panic!("{line}"));
        let (addresses, metrics) = addresses.split_once(", metrics on ").unwrap_or((addresses, ""));
        let [addresses, metrics] = [addresses, metrics].map(|list| {
            // Names of sockets that were passed stand in brackets.
            list.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        });
        Self { daemon, addresses, metrics }
    }

    /// A connection from 127.0.0.`host`.
    pub(crate) fn peer(&self, host: u8) -> Client {
        Client::connect_from(Ipv4Addr::new(127, 0, 0, host).into(), self.addresses[0])
    }
}

impl SuperServer {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Xinetd, Self::Inetd, Self::Tcpserver, Self::SystemdSocketActivate, Self::Listen];

    /// Starts it on a free port of this address, for a receiver with these further arguments.
    pub(crate) fn start(self, receiver: &Receiver, address: IpAddr, arguments: &str) -> Service {
        let address = free_port(address);
        let command = match self {
            Self::Xinetd => xinetd(receiver, address, arguments),
            Self::Inetd => inetd(receiver, address, arguments),
            Self::Tcpserver => tcpserver(receiver, address, arguments),
            Self::SystemdSocketActivate => systemd_socket_activate(receiver, address, arguments),
            Self::Listen => listen(receiver, address, arguments),
        };
        let mut daemon = receiver.launch(command);
        daemon.until("listening", |_| is_listening(address).then_some(()));
        Service { address, daemon }
    }
}

fn xinetd(receiver: &Receiver, address: SocketAddr, arguments: &str) -> Command {
    // The shipped entry takes IPv4 on an IPv6 socket. So does this one: the peer's address is ::ffff:127.0.0.1 then.
    let bind = match address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let place = format!("{{\n    type = UNLISTED\n    port = {}\n    bind = {bind}\n", address.port());
    let entry = replaced(
        &installed(receiver, &repository::text("xinetd.d/mailrecv"), arguments),
        &[("{\n", &place), ("    #env ", "    env ")],
    );
    let mut xinetd = debian::command("xinetd", "xinetd");
    xinetd.arg("-dontfork").arg("-f").arg(receiver.write("xinetd.conf", &entry));
    xinetd.arg("-pidfile").arg(receiver.path("xinetd.pid"));
    xinetd
}

fn inetd(receiver: &Receiver, address: SocketAddr, arguments: &str) -> Command {
    let protocol = if address.is_ipv4() { " tcp " } else { " tcp6 " };
    let readme = repository::text("README.md");
    let line = readme
        .lines()
        .find(|line| line.trim_start().starts_with("smtp stream ") && line.contains(protocol))
        .unwrap_or_else(|| panic!("the README has no inetd line for{protocol}"));
    let line =
        replaced(&installed(receiver, line.trim_start(), arguments), &[("smtp stream", &format!("{address} stream"))]);
    let mut inetd = debian::command("openbsd-inetd", "inetd");
    inetd.arg("-i").arg(receiver.write("inetd.conf", format!("{line}\n")));
    inetd
}

fn tcpserver(receiver: &Receiver, address: SocketAddr, arguments: &str) -> Command {
    // Debian builds it once for each of the two.
    let package = if address.is_ipv4() { "ucspi-tcp" } else { "ucspi-tcp-ipv6" };
    let line = repository::page_example("etc/man/mailrecv.8", "tcpserver ");
    let place = format!(" {} {} ", address.ip(), address.port());
    let start = format!("{} -c {} {arguments}", receiver.binary().display(), receiver.config().display());
    // No look-ups of its own.
    let line = replaced(&line, &[(" -R ", " -R -l0 "), (" 0 25 ", &place), ("/usr/sbin/mailrecv", &start)]);
    let mut tcpserver = debian::command(package, "tcpserver");
    tcpserver.args(line.split_whitespace().skip(1));
    tcpserver
}

fn systemd_socket_activate(receiver: &Receiver, address: SocketAddr, arguments: &str) -> Command {
    let unit = repository::text("systemd-socket/mailrecv-percon@.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("the unit has no ExecStart");
    let mut activate = debian::command("systemd", "systemd-socket-activate");
    activate.args(["--accept", "--inetd", "-l", &address.to_string()]);
    activate.args(installed(receiver, start, arguments).split_whitespace());
    activate
}

fn listen(receiver: &Receiver, address: SocketAddr, arguments: &str) -> Command {
    let mut listen = receiver.command();
    listen.args(arguments.split_whitespace()).args(["listen", &address.to_string()]);
    listen
}

/// A shipped text, with the paths of this installation.
fn installed(receiver: &Receiver, text: &str, arguments: &str) -> String {
    let config = format!("{} {arguments}", receiver.config().display());
    let binary = receiver.binary().display().to_string();
    replaced(text, &[("/usr/sbin/mailrecv", &binary), ("/etc/mailrecv.conf", config.trim_end())])
}
