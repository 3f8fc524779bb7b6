//! One connection, as a super-server hands it over: descriptors 0 and 1 (and perhaps 2) are the peer's.
//!
//! Nothing but SMTP may reach the peer, whatever breaks: standard error is taken off the connection first, panics go to
//! the log, and every fault of ours is told as a temporary one, so that the sender keeps its mail.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, umask};

use crate::cli::Options;
use crate::config::{self, Config, Flags, LogTarget, Unusable};
use crate::exit::Exit;
use crate::log::{Event, Log};
use crate::net::conn::Connection;
use crate::net::dns;
use crate::peer::{self, Origin, Peer};
use crate::server::Server;
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::untrusted::Untrusted;
use crate::{sandbox, user};

/// Serves the peer on standard input and output. Returns the exit status.
pub(crate) fn run(options: &Options, peer: Option<Peer>) -> Exit {
    let stderr_was_peer = take_stderr_off_the_connection();
    keep_panics_for_the_log();
    catch_unwind(AssertUnwindSafe(|| receive(options, peer, stderr_was_peer))).unwrap_or_else(|_| {
        let log = log_without_configuration(stderr_was_peer);
        last_words(&log, &reply::cannot_serve(kept_panic()));
        Exit::Software
    })
}

fn receive(options: &Options, peer: Option<Peer>, stderr_was_peer: bool) -> Exit {
    // `listen` starts us by another name.
    let _ = nix::sys::prctl::set_name(c"mailrecv");
    keep_files_readable();
    let connected = match peer {
        Some(peer) => Ok(Connected::Named(peer)),
        None => peer::origin(std::io::stdin().as_fd()).map(Connected::Seen),
    };
    let loaded = config::load(&options.config);
    // Nothing is logged before root is given up: a log file that root made could not be written later.
    let user = loaded.as_ref().map_or_else(|unusable| &unusable.user, |config| &config.user);
    let became_user = user.as_deref().map_or(Ok(()), user::become_user);
    let log = open_log(options, &loaded, became_user.is_ok(), &connected, stderr_was_peer);
    let ready = became_user.and_then(|()| Signals::new());
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => return not_a_connection(&log, &error, stderr_was_peer),
    };
    match (loaded, ready) {
        (Err(unusable), _) => {
            for error in &unusable.errors {
                log.event(&Event::ConfigurationError(error, &options.config));
            }
            let count = unusable.errors.len();
            let errors = if count == 1 { "error" } else { "errors" };
            last_words(&log, &reply::cannot_serve(format!("{count} {errors} in {}", options.config.display())));
            Exit::Config
        }
        (Ok(_), Err(error)) => {
            last_words(&log, &reply::cannot_serve(format!("{error:#}")));
            Exit::OsErr
        }
        (Ok(config), Ok(signals)) => {
            log.event(&Event::ConfigurationRead(&options.config, &config.domain));
            match catch_unwind(AssertUnwindSafe(|| serve(&config, &log, &signals, connected))) {
                Ok(()) => Exit::Ok,
                Err(_) => {
                    last_words(&log, &reply::internal_fault(&config.domain).because(kept_panic()));
                    Exit::Software
                }
            }
        }
    }
}

/// Whether there is a peer who must not see what is meant for the administrator.
pub(crate) fn stdin_is_a_connection() -> bool {
    is_socket(std::io::stdin().as_fd())
}

/// The super-server's entry has a mistake in its command line: the log hears of it, the peer that we cannot serve it.
pub(crate) fn cannot_start(error: &clap::Error) -> Exit {
    let log = log_without_configuration(take_stderr_off_the_connection());
    let message = error.to_string();
    let headline = message.lines().next().unwrap_or_default();
    last_words(&log, &reply::cannot_serve(format!("command line: {}", Untrusted::new(headline.as_bytes()))));
    Exit::Usage
}

/// For when it is not known where the log is wanted.
fn log_without_configuration(stderr_was_peer: bool) -> Log {
    let peer = peer::origin(std::io::stdin().as_fd()).map(Connected::Seen);
    let peer = peer.map_or_else(|_| "unknown".to_owned(), |connected| connected.address().to_string());
    let log = Log::new(LogTarget::Syslog, Flags::default(), true, peer);
    if stderr_was_peer { log.without_stderr() } else { log }
}

fn open_log(
    options: &Options,
    loaded: &Result<Config, Unusable>,
    is_right_user: bool,
    connected: &anyhow::Result<Connected>,
    stderr_was_peer: bool,
) -> Log {
    let (target, debug, loghex) = match loaded {
        Ok(config) => (&config.log, config.debug, config.loghex),
        Err(unusable) => (&unusable.log, Flags::default(), true),
    };
    let target = match options.log.as_ref().unwrap_or(target) {
        LogTarget::Stderr if stderr_was_peer => LogTarget::Syslog,
        // One that we made now could not be opened by the user that is meant.
        LogTarget::File(_) if !is_right_user => LogTarget::Syslog,
        target => target.clone(),
    };
    let peer = connected.as_ref().map_or_else(|_| "unknown".to_owned(), |connected| connected.address().to_string());
    let log = Log::new(target, options.debug.unwrap_or(debug), loghex, peer);
    if stderr_was_peer { log.without_stderr() } else { log }
}

/// Standard input is nothing that a peer could be on. That the peer has already hung up is no fault of ours.
fn not_a_connection(log: &Log, error: &anyhow::Error, stderr_was_peer: bool) -> Exit {
    if error.downcast_ref() == Some(&Errno::ENOTCONN) {
        log.event(&Event::PeerGoneBeforeGreeting);
        return Exit::Ok;
    }
    log.event(&Event::NotAConnection(error));
    if !stderr_was_peer {
        let _ = writeln!(std::io::stderr(), "mailrecv: {error:#}");
    }
    Exit::Usage
}

/// How we know who the peer is.
enum Connected {
    /// The command line says so.
    Named(Peer),
    /// The descriptor says so.
    Seen(Origin),
}

impl Connected {
    fn address(&self) -> IpAddr {
        match self {
            Connected::Named(peer) => peer.address,
            Connected::Seen(Origin::Socket(address)) => *address,
            Connected::Seen(Origin::Terminal) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

fn serve(config: &Config, log: &Log, signals: &Signals, connected: Connected) {
    let mut server = Server::greet(config, log, signals);
    if nix::unistd::geteuid().is_root() {
        log.event(&Event::RunningAsRoot);
    }
    // The greeting is out; while the peer reads it and answers, there is time to find out who it is.
    let (peer, refusal) = match connected {
        Connected::Named(peer) => (peer, None),
        Connected::Seen(Origin::Terminal) => {
            (Peer { hostname: Some("(local-tty)".to_owned()), ..Peer::unnamed(Ipv4Addr::LOCALHOST.into()) }, None)
        }
        Connected::Seen(Origin::Socket(address)) => look_up(config, log, address, server.deadline()),
    };
    sandbox::enter(config, &peer, log);
    log.event(&Event::Connected(&peer));
    server.serve(&peer, refusal);
}

/// Finds the peer's name, and the refusal if it has none that counts and the configuration asks for one.
fn look_up(config: &Config, log: &Log, address: IpAddr, deadline: Instant) -> (Peer, Option<Reply>) {
    let limits = &config.limits;
    let time = limits.dns_secs.min(deadline.saturating_duration_since(Instant::now()));
    let mut peer = Peer::unnamed(address);
    match dns::confirmed_name(peer.address, time) {
        Ok(name) => {
            log.event(&Event::HostName(&name));
            peer.hostname = Some(name);
            (peer, None)
        }
        Err(why) => {
            log.event(&Event::NoHostName(&why));
            let check = &limits.fcrdns_check;
            let refusal =
                check.value.then(|| reply::worded(&check.refusal, reply::NO_CONFIRMED_NAME).because(why.to_string()));
            (peer, refusal)
        }
    }
}

/// A umask that takes the owner's rights would make mailboxes that cannot be written a second time.
fn keep_files_readable() {
    let mask = umask(Mode::S_IRWXO | Mode::S_IRWXG);
    umask(mask - Mode::S_IRWXU);
}

/// Says one thing to the peer and to the log, when nothing else can be done.
fn last_words(log: &Log, reply: &Reply) {
    log.event(&Event::Reply(reply));
    let mut connection = Connection::standard_io();
    reply.encode(false, connection.replies());
    // Whether it arrives makes no difference any more.
    let _ = connection.hang_up(Instant::now() + Duration::from_secs(5));
}

/// Under inetd and xinetd descriptor 2 is the peer as well; from now on it is /dev/null. Returns whether it was.
fn take_stderr_off_the_connection() -> bool {
    let same = |one: BorrowedFd<'_>, other: BorrowedFd<'_>| match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    };
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let is_peer =
        is_socket(error.as_fd()) && (same(error.as_fd(), input.as_fd()) || same(error.as_fd(), output.as_fd()));
    if is_peer && let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stderr(null);
    }
    is_peer
}

fn is_socket(descriptor: BorrowedFd<'_>) -> bool {
    fstat(descriptor).is_ok_and(|stat| stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFSOCK)
}

/// Where a panic was and what it said, for the log: standard error may be the peer.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn keep_panics_for_the_log() {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut kept) = PANIC.lock() {
            *kept = panic.to_string();
        }
    }));
}

fn kept_panic() -> String {
    PANIC.lock().map_or_else(|_| "panic".to_owned(), |kept| Untrusted::new(kept.as_bytes()).to_string())
}
