//! A booted machine in which mailrecv is installed as the README says.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use testkit::debian::chown;
use testkit::{Client, Machine, repository, succeeds};

/// The pairs of units that start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    /// mailrecv.socket and mailrecv.service.
    OneService,
    /// mailrecv-percon.socket and mailrecv-percon@.service.
    PerConnection,
}

impl Pair {
    pub(crate) const ALL: [Self; 2] = [Self::OneService, Self::PerConnection];

    /// The socket's unit.
    pub(crate) fn socket(self) -> &'static str {
        match self {
            Self::OneService => "mailrecv.socket",
            Self::PerConnection => "mailrecv-percon.socket",
        }
    }
}

/// Boots a machine with this configuration, in which the socket listens.
pub(crate) fn boot(pair: Pair, config: &str) -> Machine {
    let machine = Machine::boot(|root| install(root, config));
    machine.systemctl(&["start", pair.socket()]);
    machine
}

/// Puts the files where the README puts them.
pub(crate) fn install(root: &Path, config: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", env!("CARGO_BIN_EXE_mailrecv")]).arg(root.join("usr/sbin/mailrecv"));
    succeeds(install, "");
    for unit in fs::read_dir(repository::path("systemd-socket")).unwrap() {
        let unit = unit.unwrap().path();
        fs::copy(&unit, root.join("etc/systemd/system").join(unit.file_name().unwrap())).unwrap();
    }
    fs::write(root.join("etc/mailrecv.conf"), config).unwrap();
    // Debian's is root's and the group's.
    chown(root.join("var/mail"), "mail:mail");
}

/// Connects to port 25 at this address of the machine.
pub(crate) fn connect(machine: &Machine, address: IpAddr) -> Client {
    machine.in_its_network(|| Client::connect(SocketAddr::new(address, 25)))
}

/// Mail to `append`, `maildir` and `pipe` goes there.
pub(crate) const CONFIG: &str = "domain mail.example.com\n\
    limit.fcrdns_check off\n\
    deliver rcpt_to append@mail.example.com append /var/mail/append\n\
    deliver rcpt_to maildir@mail.example.com maildir /var/mail/maildir/\n\
    deliver rcpt_to pipe@mail.example.com pipe cat >> /var/mail/pipe\n";
