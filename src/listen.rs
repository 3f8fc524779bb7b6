//! `mailrecv listen`: the built-in super-server. It accepts connections and starts this same binary for each, with the
//! connection as descriptors 0 and 1; it never reads a byte of what peers send.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::check::report;
use crate::cli::{ListenOptions, Options};
use crate::config::{self, Flags, LogTarget};
use crate::exit::Exit;
use crate::log::{self, Event, Log};
use crate::peer::canonical;
use crate::server;
use crate::signals::Signals;
use crate::smtp::reply;
use crate::wait::{is_ready, timeout};

/// Listens until SIGTERM or SIGINT. Returns the exit status.
pub(crate) fn run(options: &Options, listen: &ListenOptions) -> Exit {
    // Better to learn of a mistake now than from the first peer. Later edits are met by each session itself.
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(unusable) => {
            report(&options.config, unusable.errors.iter());
            return Exit::Config;
        }
    };
    let log = match options.log.clone().unwrap_or(config.log) {
        // A log file that root makes could not be written by the sessions, which become that user.
        LogTarget::File(_) if config.user.is_some() && nix::unistd::geteuid().is_root() => LogTarget::Syslog,
        log => log,
    };
    match Listener::new(options, listen, log).and_then(|mut listener| listener.run()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
            Exit::OsErr
        }
    }
}

struct Listener<'a> {
    options: &'a ListenOptions,
    /// The arguments of the receivers that are started.
    arguments: Vec<OsString>,
    /// One that never waits: while we do, nobody is served.
    log: Log,
    sockets: Vec<TcpListener>,
    signals: Signals,
    sessions: Vec<Session>,
}

struct Session {
    process: Child,
    peer: IpAddr,
}

impl<'a> Listener<'a> {
    fn new(options: &Options, listen: &'a ListenOptions, log: LogTarget) -> anyhow::Result<Self> {
        let signals = Signals::new()?;
        let mut sockets = Vec::new();
        for address in &listen.addresses {
            let addresses = address.to_socket_addrs().with_context(|| format!("`{address}` is no ADDRESS:PORT"))?;
            for address in addresses {
                let socket = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
                socket.set_nonblocking(true)?;
                sockets.push(socket);
            }
        }
        Ok(Self {
            options: listen,
            arguments: receiver_arguments(options),
            log: Log::new(log, Flags::default(), true, LISTEN.to_owned()).without_waiting(),
            sockets,
            signals,
            sessions: Vec::new(),
        })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        self.announce()?;
        // While descriptors or processes are short, accepting again at once would only burn time.
        let mut pause = None;
        while !self.signals.stop_requested() {
            self.wait(pause.take())?;
            for number in 0..self.sockets.len() {
                if let Err(error) = self.accept(number) {
                    self.log.event_about(LISTEN, &Event::CannotAccept(&error));
                    pause = Some(Instant::now() + Duration::from_secs(1));
                }
            }
            // Last, because the end of a session while another is started does not wake us.
            self.reap();
        }
        self.sockets.clear();
        self.stop();
        Ok(())
    }

    /// One line, when connections are accepted; whoever started us may be waiting for it.
    fn announce(&self) -> anyhow::Result<()> {
        let mut line = "mailrecv: listening on".to_owned();
        for socket in &self.sockets {
            let _ = write!(line, " {}", socket.local_addr()?);
        }
        // Nobody has to be interested.
        let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
        Ok(())
    }

    /// Waits for a connection or a signal; with a pause, for a signal only.
    fn wait(&self, pause: Option<Instant>) -> anyhow::Result<()> {
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if pause.is_none() {
            descriptors.extend(self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        }
        match poll(&mut descriptors, pause.map_or(PollTimeout::NONE, timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for connections"),
        }
        if is_ready(&descriptors[0]) {
            self.signals.clear();
        }
        Ok(())
    }

    /// Accepts what is waiting on one socket.
    fn accept(&mut self, number: usize) -> io::Result<()> {
        // Bounded, so that a flood of connections does not keep us from reaping sessions.
        for _ in 0..64 {
            match self.sockets[number].accept() {
                Ok((stream, peer)) => self.start(stream, canonical(peer.ip()))?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up before we came to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn start(&mut self, stream: TcpStream, peer: IpAddr) -> io::Result<()> {
        self.reap();
        let crowd = self.crowd_of(peer);
        if self.sessions.len() >= self.options.max_processes || crowd.is_some() {
            self.turn_away(&stream, peer, crowd.unwrap_or(ADDRESS_BITS));
            return Ok(());
        }
        stream.set_nonblocking(false)?;
        let input = OwnedFd::from(stream);
        let output = input.try_clone()?;
        // The running binary, even if its file has been replaced since: sessions of one kind until we are restarted.
        // A process group of its own, so that Ctrl-C on a terminal reaches us alone, who let it finish.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("mailrecv").process_group(0).args(&self.arguments).stdin(input).stdout(Stdio::from(output));
        let is_half_full = self.sessions.len() * 2 >= self.options.max_processes;
        match is_half_full {
            true => command.env(server::SCARCE, "yes"),
            false => command.env_remove(server::SCARCE),
        };
        let process = self.signals.spawn(&mut command)?;
        self.sessions.push(Session { process, peer });
        Ok(())
    }

    /// The peer, or a network that it is in, by its bits, if there may be no more sessions with that.
    fn crowd_of(&self, peer: IpAddr) -> Option<u32> {
        let is_full =
            |bits, times| self.sessions_with(peer, bits) >= self.options.max_per_address.saturating_mul(times);
        NETWORKS.iter().find(|(bits, times)| is_full(*bits, *times)).map(|(bits, _)| *bits)
    }

    fn sessions_with(&self, peer: IpAddr, bits: u32) -> usize {
        let network = network_of(peer, bits);
        self.sessions.iter().filter(|session| network_of(session.peer, bits) == network).count()
    }

    fn turn_away(&self, stream: &TcpStream, peer: IpAddr, bits: u32) {
        let reply = reply::too_busy();
        let mut bytes = Vec::new();
        reply.encode(false, &mut bytes);
        // One write into an empty socket buffer; a peer that cannot take that gets nothing.
        let _ = stream.set_nonblocking(true);
        let _ = (&mut &*stream).write_all(&bytes);
        let network = match peer {
            IpAddr::V4(_) => "this peer".to_owned(),
            IpAddr::V6(_) => format!("{}/{bits}", network_of(peer, bits)),
        };
        let (sessions, with_peer) = (self.sessions.len(), self.sessions_with(peer, bits));
        let event = Event::TurnedAway { reply: &reply, sessions, with_peer, network: &network };
        self.log.event_about(&peer.to_string(), &event);
    }

    /// Forgets sessions that are over.
    fn reap(&mut self) {
        self.sessions.retain_mut(|session| matches!(session.process.try_wait(), Ok(None)));
    }

    /// Lets sessions end by themselves for a while, or until we are told to stop again, then asks them to. They do at the
    /// next point where nothing is half done, which their own deadlines bound; to kill one in a delivery could lose or
    /// double mail.
    fn stop(&mut self) {
        self.signals.forget_stop();
        let deadline = Instant::now() + self.options.grace;
        self.reap();
        if !self.sessions.is_empty() {
            // Those that are about to end are not worth a word.
            self.wait_for_sessions(deadline);
        }
        if let count @ 1.. = self.sessions.len() {
            log::say(&format_args!("sessions to wait for: {count}; another signal ends them"), Duration::ZERO);
        }
        while !self.sessions.is_empty() && Instant::now() < deadline && !self.signals.stop_requested() {
            self.wait_for_sessions(deadline);
        }
        for session in &self.sessions {
            if let Ok(pid) = i32::try_from(session.process.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        while !self.sessions.is_empty() {
            self.wait_for_sessions(Instant::now() + Duration::from_secs(1));
        }
    }

    /// Waits for the end of some session, but no longer than this.
    fn wait_for_sessions(&mut self, until: Instant) {
        let _ = self.wait(Some(until.min(Instant::now() + Duration::from_millis(200))));
        self.reap();
    }
}

/// The networks that are counted, by the bits of an IPv6 address that are theirs, and how many times as many sessions each
/// may have as one address. A customer is given 64 bits as a whole, mostly 56, and up to 48 for the asking (RFC 6177): with
/// the defaults these are 10, 20 and 40 of 100 places.
const NETWORKS: [(u32, usize); 3] = [(ADDRESS_BITS, 1), (56, 2), (48, 4)];

/// An IPv6 network of so many bits is to us what an IPv4 address is.
const ADDRESS_BITS: u32 = 64;

/// The network of an IPv6 address, by its first `bits`. An IPv4 address is one by itself.
fn network_of(peer: IpAddr, bits: u32) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits))).into(),
    }
}

/// The options, as the receivers get them. Each reads the configuration itself, so edits need no restart.
fn receiver_arguments(options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-c".into(), options.config.clone().into()];
    if let Some(flags) = options.debug {
        arguments.extend(["-d".into(), flags.to_string().into()]);
    }
    match &options.log {
        None => {}
        Some(LogTarget::Syslog) => arguments.extend(["-l".into(), "syslog".into()]),
        Some(LogTarget::Stderr) => arguments.extend(["-l".into(), "stderr".into()]),
        Some(LogTarget::File(path)) => arguments.extend(["-l".into(), path.into()]),
    }
    arguments
}

/// What stands in the place of a peer's address where the line is about none.
const LISTEN: &str = "listen";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = |peer: &str, bits| network_of(peer.parse().unwrap(), bits).to_string();
        assert_eq!(network("2001:db8:1:f2e3:3:4:5:6", 64), "2001:db8:1:f2e3::");
        assert_eq!(network("2001:db8:1:f2e3::1", 56), "2001:db8:1:f200::");
        assert_eq!(network("2001:db8:1:f2e3::1", 48), "2001:db8:1::");
        for (bits, _) in NETWORKS {
            assert_eq!(network("192.0.2.7", bits), "192.0.2.7");
        }
    }
}
