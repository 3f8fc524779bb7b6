//! What `mailrecv check` says about the sandbox: what it leaves to a session, and what of it this system does not enforce.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Allowed, SandboxGap, What, allowed, restrict, sockets};
use crate::config::{Config, Connections, Flags, Level, TlsUse};
use crate::message::SpoolFile;
use crate::net::dns::DNS_PORT;
use crate::system_calls::{self, Sockets};

/// Describes for people what [`super::enter`] leaves to a session, one line each.
pub(crate) fn describe(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    match config.sandbox.level {
        Level::Off => lines.push("everything: the configuration says `sandbox off`".to_owned()),
        Level::On | Level::Strict => {
            let (allowed, connections) = (allowed(config), config.connections());
            lines.extend(allowed.iter().map(ToString::to_string));
            describe_files(config, &mut lines);
            describe_connections(config, &connections, &mut lines);
            describe_rest(config, &allowed, &connections, &mut lines);
        }
    }
    for group in config.rules.groups_with_commands() {
        let who = group.map_or_else(|| "every peer".to_owned(), |group| format!("peers in {group}"));
        lines.push(format!(
            "commands of a pipe, for {who}: run by a process outside; confine them in the super-server's unit"
        ));
    }
    lines
}

/// The files that are opened before.
fn describe_files(config: &Config, lines: &mut Vec<String>) {
    let file = SpoolFile::open(config.spool_dir.as_ref());
    let folder = file.folder().display();
    lines.push(match file.failure() {
        None => format!("one file without a name, opened before in {folder}, for large messages"),
        Some(error) => format!("{folder}: {error}; messages of more than 1 MiB would be deferred"),
    });
    if let Some(transcripts) = config.transcripts.as_ref().filter(|_| config.debug.has(Flags::TRANSCRIPTS)) {
        lines.push(format!("one file in {}, made before, for the transcript", transcripts.folder.display()));
    }
    if let Some(folder) = &config.exactly_once {
        lines.push(format!("one file in {}, opened before, for `exactly_once`", folder.display()));
    }
    if let Some(file) = &config.metrics_file {
        lines.push(format!("{}, opened before, to count", file.display()));
    }
    if config.tls() != TlsUse::Off {
        lines.push("certificates and keys, opened before, to read them".to_owned());
    }
}

/// Other servers, and what they need.
fn describe_connections(config: &Config, connections: &Connections, lines: &mut Vec<String>) {
    let Connections { ports, has_names, has_sockets } = connections;
    if !ports.is_empty() {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let names = if *has_names { ", and to name servers" } else { "" };
        let whose = match config.hops() {
            [] => "brokers",
            _ => "servers that take mail from us",
        };
        lines.push(format!("TCP connections to the ports of {whose}, {}{names}", ports.join(", ")));
    }
    if !ports.is_empty() || *has_sockets {
        lines.push("what those need, opened before, to read it: secrets, certificates, hosts(5)".to_owned());
    }
}

/// What is forbidden, and what is not.
fn describe_rest(config: &Config, allowed: &[Allowed], connections: &Connections, lines: &mut Vec<String>) {
    let files = if allowed.iter().any(Allowed::is_everywhere) {
        lines.push(
            "/ is where the folders of all destinations meet: fewer folders would make a better sandbox".to_owned(),
        );
        ""
    } else {
        "no other file, "
    };
    let other = if connections.ports.is_empty() { "" } else { "other " };
    lines.push(format!("nothing else: {files}no program, no {other}TCP connection, no signal; no new privileges"));
    lines.push(if config.sandbox.level == Level::Strict {
        let local = if connections.has_sockets { "only local ones" } else { "only local ones for datagrams" };
        let network = match sockets(config) {
            Sockets { tcp: false, .. } => "",
            Sockets { names: false, .. } => ", and those of TCP",
            Sockets { names: true, .. } => ", and those of TCP and UDP",
        };
        format!("and no system call but those of a list; of new sockets, {local}{network}")
    } else {
        "but what Landlock does not know: UDP, MPTCP, local sockets, programs in memory, modes and owners".to_owned()
    });
}

/// Describes for people which parts of the sandbox this system does not enforce. They are tried in a thread of its own,
/// because the sandbox cannot be left again.
pub(crate) fn shortcomings(config: &Config) -> Vec<String> {
    if config.sandbox.level == Level::Off {
        return Vec::new();
    }
    let (allowed, is_strict) = (allowed(config), config.sandbox.level == Level::Strict);
    // The ports of brokers are left out: whether the system enforces the sandbox does not depend on them.
    let trial = || {
        let mut said: Vec<_> = SandboxGap::of(restrict(&allowed, &[])).iter().map(SandboxGap::to_string).collect();
        if is_strict {
            said.extend(
                system_calls::forbid_others(Sockets::default()).err().map(|error| SandboxGap::from(error).to_string()),
            );
        }
        if said.is_empty() {
            said = what_gets_through(is_strict);
        }
        said
    };
    std::thread::scope(|scope| scope.spawn(trial).join())
        .unwrap_or_else(|_| vec!["no sandbox: it cannot be tried".to_owned()])
}

/// What is possible in the sandbox although it should not be.
fn what_gets_through(is_strict: bool) -> Vec<String> {
    // It does not matter whether anybody listens there: a forbidden connection is not even tried.
    let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, DNS_PORT));
    // Standard input is inherited, because opening /dev/null would fail first.
    let program = Command::new("/proc/self/exe").arg("--version").stdin(Stdio::inherit()).output();
    let mut tried = vec![("a TCP connection", connection.map(drop)), ("a program", program.map(drop))];
    if is_strict {
        let memory = memfd_create(c"program", MFdFlags::empty()).map_err(Into::into);
        tried.extend([
            ("UDP", UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)),
            ("a program in memory", memory.map(drop)),
        ]);
    }
    let got_through = tried
        .into_iter()
        .filter(|(_, result)| !matches!(result, Err(error) if error.kind() == ErrorKind::PermissionDenied));
    got_through.map(|(what, _)| format!("{what} is not held back")).collect()
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(error) = &self.found {
            let why: &dyn fmt::Display = if error.kind() == ErrorKind::NotFound { &"missing" } else { error };
            return write!(f, "{}: {why}; mail that needs it would be deferred", self.path.display());
        }
        let path = if self.is_everywhere() { Path::new("") } else { &self.path }.display();
        match self.what {
            What::Write => write!(f, "{path}: write"),
            What::Append => write!(f, "{path}/: make, read, append to and cut back files"),
            What::AppendToFile => write!(f, "{path}: read, append to and cut back"),
            What::Deliver => write!(f, "{path}/: make folders, make, move and remove files"),
            What::DeliverAnywhere => write!(f, "{path}/: make folders, make, read, write, move and remove files"),
        }
    }
}
