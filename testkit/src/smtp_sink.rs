//! Postfix's smtp-sink(1): a server that takes what it is told to take and breaks off where it is told to.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::daemon::free_port;
use crate::debian::{USER, chown};
use crate::tcp::is_listening;
use crate::{Daemon, Folder, LOOPBACK, debian};

/// A running smtp-sink, which keeps what it has taken in files.
pub struct SmtpSink {
    address: SocketAddr,
    // Before the folder, as it is stopped by then.
    daemon: Daemon,
    folder: Folder,
}

impl SmtpSink {
    /// Starts one with these options.
    pub fn start(options: &[&str]) -> Self {
        let (address, folder) = (free_port(LOOPBACK[0]), Folder::new());
        chown(folder.path(""), USER);
        let mut command = debian::postfix("smtp-sink");
        command.args(["-u", USER, "-d", "taken/%s."]).args(options);
        command.args([&address.to_string(), "100"]).current_dir(folder.path(""));
        let mut daemon = Daemon::start(command, folder.path("sink.out"));
        daemon.until("listening", |_| is_listening(address).then_some(()));
        Self { address, daemon, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it, as a machine dies, and waits for its end.
    pub fn kill(&mut self) {
        self.daemon.signal(Signal::SIGKILL);
        let _ = self.daemon.exit_code();
    }

    /// The transactions that it has kept: each with lines about its envelope, then the text with LF line ends.
    pub fn taken(&self) -> Vec<String> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.folder.contents("taken").into_iter().map(text).collect()
    }
}
