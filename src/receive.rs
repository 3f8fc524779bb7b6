//! One connection, as a super-server hands it over: descriptors 0 and 1 (and perhaps 2) are the peer's.
//!
//! Nothing but SMTP may reach the peer, whatever breaks: standard error is taken off the connection first, panics go to
//! the log, and every fault of ours is told as a temporary one, so that the sender keeps its mail.

use std::cell::OnceCell;
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, umask};

use crate::cli::Options;
use crate::config::{BrokenPattern, Config, Flags, Level, LogTarget, Protocol, Trace, Unusable};
use crate::date::Timestamp;
use crate::deliver::{Records, Reporter, Runner};
use crate::exit::Exit;
use crate::files;
use crate::log::{self, Event, Log};
use crate::metrics::{Family, Tally};
use crate::net::conn::{Connection, Input};
use crate::net::dns::{self, Lookup, NameServers};
use crate::net::listener::SMTP_PORT;
use crate::net::patience::Patience;
use crate::net::proxy::{self, NotAHeader};
use crate::panics;
use crate::peer::{self, Address, Origin, Peer};
use crate::sandbox::{self, SandboxGap};
use crate::server::{Groundwork, Opened, Server};
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::transcript::{Header, Recorder};
use crate::untrusted::Untrusted;
use crate::user;

/// Serves the peer on standard input and output, which is `named` or else the one that is connected.
pub(crate) fn run(options: &Options, named: Option<Peer>) -> Exit {
    let stderr = take_stderr_off_the_connection();
    panics::keep_for_the_log();
    let (known, tally) = (Known::default(), Tally::of_this_process());
    let reporter = Reporter::inherited();
    let stop =
        match catch_unwind(AssertUnwindSafe(|| receive(options, named, stderr, &known, &tally, reporter.as_ref()))) {
            Ok(Ok(())) => Stop { reply: None, exit: Exit::Ok },
            Ok(Err(stop)) => stop,
            Err(_) => {
                tally.end(const { Family::Sessions.with("fault") });
                Stop { reply: Some(known.fault(kept_panic())), exit: Exit::Software }
            }
        };
    if let Some(reply) = &stop.reply {
        tally.refusal(reply.code, reply.status);
        let is_heard = !known.opened.get().is_some_and(|opened| opened.keys.is_begun());
        last_words(known.log.get_or_init(|| log_without_configuration(stderr)), reply, is_heard);
    }
    // Who was served has said how that ended.
    tally.end(const { Family::Sessions.with("not_served") });
    if let (Some(why), Some(log)) = (tally.hand_over(), known.log.get()) {
        log.event(&Event::NotCounted(&why));
    }
    stop.exit
}

/// The story of a connection, stage by stage: all that comes before the greeting, then [`talk`]. Whatever cannot go on
/// stops it with its last words.
fn receive(
    options: &Options,
    named: Option<Peer>,
    stderr: Stderr,
    known: &Known,
    tally: &Tally,
    reporter: Option<&std::io::Result<Reporter>>,
) -> Result<(), Stop> {
    // `listen` starts us by another name.
    let _ = nix::sys::prctl::set_name(c"mailrecv");
    keep_files_readable();
    let mut origin = named.map_or_else(|| peer::origin(std::io::stdin().as_fd()), |peer| Ok(Origin::Named(peer)));
    // From here on a request to stop waits until the peer can be told, and a file size limit does not kill us.
    let signals = Signals::new();
    let loaded = options.load();
    let opened = known.opened.get_or_init(|| loaded.as_ref().map(|config| Opened::open(config)).unwrap_or_default());

    // Nothing is logged before root is given up: a log file that root made could not be written later.
    let user = loaded.as_ref().map_or_else(|unusable| &unusable.user, |config| &config.user);
    let became_user = user.as_deref().map_or(Ok(()), user::become_user);
    // No mail may get into a core dump or be read by another process of our user with ptrace(2). This comes after the
    // change of the user, which would undo it (PR_SET_DUMPABLE(2const)).
    let _ = nix::sys::prctl::set_dumpable(false);
    let log_for =
        |origin: &_| known.log.get_or_init(|| open_log(options, &loaded, became_user.is_ok(), origin, stderr));
    // A proxy names its client before anything else is sent. Log and rules are only about that client.
    let (mut connection, mut proxy) = (None, None);
    if let (Ok(Origin::Socket(Address::Ip(address))), Ok(config), Ok(signals)) = (&origin, &loaded, &signals)
        && config.rules.has_proxies()
        && became_user.is_ok()
    {
        let client = client_of(config, *address, connection.insert(Connection::standard_io().stopped_by(signals)));
        let client = client.map_err(|unheard| unheard.stop(log_for(&origin), tally))?;
        proxy = Some(*address).filter(|address| *address != client);
        origin = Ok(Origin::Socket(client.into()));
    }
    let log = log_for(&origin);

    let origin = origin.map_err(|error| not_a_connection(log, &error, stderr, tally))?;
    let mut config = loaded.map_err(|unusable| cannot_use(log, &options.config, &unusable))?;
    became_user?;
    let reporter = reporter.map(|reporter| reporter.as_ref().map_err(|error| cannot_report(log, error))).transpose()?;
    if let Some(folder) = reporter.and_then(Reporter::folder) {
        config.rules.add_folder(folder);
    }
    if config.protocol == Protocol::Lmtp && peer::local_port(std::io::stdin().as_fd()) == Some(SMTP_PORT) {
        return Err(Stop { reply: Some(reply::cannot_serve(reply::LMTP_ON_PORT_25.to_owned())), exit: Exit::Config });
    }
    let signals = signals.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    log.event(&Event::ConfigurationRead(&options.config, &config.domain));
    for (index, why) in config.rules.unused_indexes() {
        log.event(&Event::IndexNotUsed(index, why));
    }

    let _ = known.greeted_as.set(config.domain.clone());
    let connection = connection.unwrap_or_else(|| Connection::standard_io().stopped_by(signals));
    let groundwork =
        Groundwork { config: &config, config_file: &options.config, log, signals, tally, opened, reporter };
    talk(groundwork, connection, origin, proxy)
}

/// Greets the peer, and has the dialogue with it. What is needed for the dialogue is made ready while the peer reads
/// the greeting and answers. `proxy` is the one that has named the peer.
fn talk(
    groundwork: Groundwork<'_>,
    connection: Connection<'_>,
    origin: Origin,
    proxy: Option<IpAddr>,
) -> Result<(), Stop> {
    let Groundwork { config, config_file, log, signals, tally, .. } = groundwork;
    let records;
    let mut server = Server::greet(groundwork, connection);
    log_who_we_are(config, log);
    if let Some(why) = config.metrics_file.as_ref().and_then(|file| tally.also_at(file)) {
        log.event(&Event::NotCounted(&why));
    }
    let (mut peer, name_servers) = peer_of(origin, log);
    // The process that runs commands stays outside the sandbox. What others can choose is read inside: the answers of
    // name servers, then the peer's input. Which commands can be run is decided before both.
    let commands = match name_servers {
        Some((address, _)) => config.rules.commands_for_any_name(address),
        None => config.rules.commands_for(&peer),
    };
    let mut runner = Runner::start(signals, &commands, config.limits.pipe_secs.value, &config.pipe_env);
    if config.sandbox.level != Level::Off {
        server.open_spool_file();
    }
    let recorder = recorder(config, log);
    if let Some(folder) = &config.exactly_once {
        match Records::open(folder, config.exactly_once_days, config_file) {
            Ok(opened) => {
                records = opened;
                server.recognise(&records);
            }
            Err(error) => {
                log.event(&Event::NotExactlyOnce(folder, &error));
                tally.count(Family::NotExactlyOnce.counter());
            }
        }
    }
    let is_looked_up = name_servers.is_some();
    let refusal = confine(groundwork, server.deadline(), &mut peer, name_servers, &mut runner)?;
    log.event(&Event::Connected(&peer));
    if let Some(recorder) = recorder {
        let (time, protocol) = (Timestamp::now().to_string(), config.protocol);
        let is_nameless = is_looked_up && peer.hostname.is_none();
        server.record(recorder, &Header { time, protocol, proxy, peer: peer.clone(), is_nameless });
    }
    server.serve(&peer, refusal, &runner);
    Ok(())
}

/// Enters the sandbox, and asks in it for the peer's name if there is somebody to ask. Returns the refusal of a peer
/// that has none, if the configuration wants one.
fn confine(
    groundwork: Groundwork<'_>,
    deadline: Instant,
    peer: &mut Peer,
    name_servers: Option<(IpAddr, NameServers)>,
    runner: &mut Runner<'_>,
) -> Result<Option<Reply>, Stop> {
    let Groundwork { config, log, signals, .. } = groundwork;
    sandbox::enter(config, name_servers.is_some(), log).map_err(unconfined)?;
    let Some((address, servers)) = name_servers else { return Ok(None) };
    let patience = Patience { until: deadline, signals: Some(signals) };
    let refusal = look_up(config, log, address, peer, &servers, patience);
    sandbox::forbid_tcp(config, log).map_err(unconfined)?;
    runner.keep(&config.rules.commands_for(peer));
    Ok(refusal)
}

/// What records this session, if that is wanted and can be.
fn recorder(config: &Config, log: &Log) -> Option<Recorder> {
    if !log.wants(Flags::TRANSCRIPTS) {
        return None;
    }
    let Some(transcripts) = &config.transcripts else {
        log.event(&Event::NoTranscript(&"the configuration has no `transcript_dir`"));
        return None;
    };
    match Recorder::create(transcripts) {
        Ok(recorder) => Some(recorder),
        Err(error) => {
            log.event(&Event::NoTranscript(&format_args!("{}: {error}", transcripts.folder.display())));
            None
        }
    }
}

/// Why a connection is over before there was a session, or in the middle of one.
struct Stop {
    /// What the peer is told, if somebody is there to hear it.
    reply: Option<Reply>,
    exit: Exit,
}

/// The system does not give what we need.
impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self { reply: Some(reply::cannot_serve(format!("{error:#}"))), exit: Exit::OsErr }
    }
}

/// Why a proxy has not said whose connection it is.
enum Unheard {
    /// It is gone.
    Gone,
    /// Its time was over.
    TimedOut,
    /// We were asked to stop; what we say then.
    Stopped(Reply),
    /// We say this to what it has said, or to everybody.
    Refused(Reply),
}

impl Unheard {
    fn stop(self, log: &Log, tally: &Tally) -> Stop {
        let (end, reply) = match self {
            Unheard::Gone => {
                // Something connected and closed again, as programs do that only check whether a server is there.
                log.event(&Event::PeerGoneBeforeGreeting);
                (const { Family::Sessions.with("gone") }, None)
            }
            Unheard::TimedOut => {
                let reply = reply::no_proxy_header("it has not come in time");
                (const { Family::Sessions.with("timed_out") }, Some(reply))
            }
            Unheard::Stopped(reply) => (const { Family::Sessions.with("stopped") }, Some(reply)),
            Unheard::Refused(reply) => (const { Family::Sessions.with("not_served") }, Some(reply)),
        };
        tally.end(end);
        Stop { reply, exit: Exit::Ok }
    }
}

/// The client of a connection from this address: the one that the proxy names, if the address is a proxy's.
fn client_of(config: &Config, address: IpAddr, connection: &mut Connection<'_>) -> Result<IpAddr, Unheard> {
    let is_proxy = config.rules.is_proxy(address, &mut Trace::default());
    let refused = |broken: BrokenPattern| {
        Unheard::Refused(reply::broken_pattern(config.rules.line(broken.line), &broken.message))
    };
    match is_proxy.map_err(refused)? {
        true => read_header(config, connection).map(|client| client.unwrap_or(address)),
        false => Ok(address),
    }
}

/// Reads the header of the PROXY protocol, and nothing behind it; the client, if it names one. The greeting has not been
/// sent yet, so there is a limit.
fn read_header(config: &Config, connection: &mut Connection<'_>) -> Result<Option<IpAddr>, Unheard> {
    let limit = &config.limits.greet_secs;
    let until = Instant::now() + limit.value;
    loop {
        match proxy::parse(connection.buffered()) {
            Ok(Some(header)) => {
                connection.consume(header.length);
                return Ok(header.client);
            }
            Ok(None) => {}
            Err(NotAHeader(why)) => return Err(Unheard::Refused(reply::no_proxy_header(why))),
        }
        match connection.fill(until) {
            Input::More => {}
            Input::End | Input::Gone(_) => return Err(Unheard::Gone),
            Input::TimedOut => return Err(Unheard::TimedOut),
            Input::Stop => return Err(Unheard::Stopped(reply::shutting_down(&config.domain))),
        }
    }
}

/// What is known so far of a connection, for replying to the peer if something in this program breaks.
#[derive(Default)]
struct Known {
    log: OnceCell<Log>,
    opened: OnceCell<Opened>,
    /// Who we are, once we have said so.
    greeted_as: OnceCell<String>,
}

impl Known {
    /// What to say when something in this program is broken.
    fn fault(&self, cause: String) -> Reply {
        match self.greeted_as.get() {
            Some(domain) => reply::internal_fault(domain).because(cause),
            None => reply::cannot_serve(cause),
        }
    }
}

/// Whether there is a peer who must not see what is meant for the administrator.
pub(crate) fn stdin_is_a_connection() -> bool {
    files::is_socket(std::io::stdin().as_fd())
}

/// The super-server's entry has a mistake in its command line: the log hears of it, the peer that we cannot serve it.
pub(crate) fn cannot_start(error: &clap::Error) -> Exit {
    let log = log_without_configuration(take_stderr_off_the_connection());
    let message = error.to_string();
    let headline = message.lines().next().unwrap_or_default();
    last_words(&log, &reply::cannot_serve(format!("command line: {}", Untrusted::new(headline.as_bytes()))), true);
    Exit::Usage
}

/// The log if no configuration says where it should be.
fn log_without_configuration(stderr: Stderr) -> Log {
    let origin = peer::origin(std::io::stdin().as_fd());
    log_about(&origin, LogTarget::Syslog, Flags::default(), true, stderr)
}

fn open_log(
    options: &Options,
    loaded: &Result<Box<Config>, Unusable>,
    is_right_user: bool,
    origin: &anyhow::Result<Origin>,
    stderr: Stderr,
) -> Log {
    let (target, debug, loghex) = match loaded {
        Ok(config) => (&config.log, config.debug, config.loghex),
        Err(unusable) => (&unusable.log, Flags::default(), true),
    };
    let target = match options.log.as_ref().unwrap_or(target) {
        LogTarget::Stderr if stderr == Stderr::WasThePeer => LogTarget::Syslog,
        // If we made the file now, the right user could not open it later.
        LogTarget::File(_) if !is_right_user => LogTarget::Syslog,
        LogTarget::File(path) if path.metadata().is_ok_and(|found| files::is_standard(&found)) => LogTarget::Syslog,
        target => target.clone(),
    };
    log_about(origin, target, options.debug.unwrap_or(debug), loghex, stderr)
}

fn log_about(origin: &anyhow::Result<Origin>, target: LogTarget, flags: Flags, loghex: bool, stderr: Stderr) -> Log {
    let peer = origin.as_ref().map_or_else(|_| "unknown".to_owned(), |origin| origin.address().to_string());
    let log = Log::new(target, flags, loghex, peer);
    match stderr {
        Stderr::WasThePeer => log.without_stderr(),
        Stderr::Ours => log,
    }
}

/// Standard input is nothing that a peer could be on. That the peer has already hung up is no fault of ours.
fn not_a_connection(log: &Log, error: &anyhow::Error, stderr: Stderr, tally: &Tally) -> Stop {
    if error.downcast_ref() == Some(&Errno::ENOTCONN) {
        log.event(&Event::PeerGoneBeforeGreeting);
        tally.end(const { Family::Sessions.with("gone") });
        return Stop { reply: None, exit: Exit::Ok };
    }
    log.event(&Event::NotAConnection(error));
    if stderr == Stderr::Ours && !log.is_on_stderr() {
        log::say(&format_args!("{error:#}"), log::PATIENCE);
    }
    Stop { reply: None, exit: Exit::Usage }
}

/// With any mistake in the configuration no mail is taken: what it does not say would be refused for good.
fn cannot_use(log: &Log, file: &Path, unusable: &Unusable) -> Stop {
    for error in &unusable.errors {
        log.event(&Event::ConfigurationError(error, file));
    }
    let count = unusable.errors.len();
    let errors = if count == 1 { "error" } else { "errors" };
    let cause = format!("{count} {errors} in {}", file.display());
    Stop { reply: Some(reply::cannot_serve(cause)), exit: Exit::Config }
}

/// Whoever started us waits for reports, and would never get any.
fn cannot_report(log: &Log, error: &std::io::Error) -> Stop {
    log.event(&Event::NoReports(error));
    Stop { reply: Some(reply::cannot_serve("messages cannot be reported".to_owned())), exit: Exit::OsErr }
}

/// The sandbox is not what it should be, and the configuration requires that.
fn unconfined(flaw: SandboxGap) -> Stop {
    Stop {
        reply: Some(reply::cannot_serve(format!("the configuration requires a sandbox: {flaw}"))),
        exit: Exit::OsErr,
    }
}

/// Tells the administrator that a session runs as root, or not as the user that the configuration names.
fn log_who_we_are(config: &Config, log: &Log) {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        log.event(&Event::RunningAsRoot);
    }
    if let Some(name) = config.user.as_deref().filter(|name| user::is_us(name) == Some(false)) {
        log.event(&Event::CannotBecome { name, uid: uid.as_raw() });
    }
}

/// The peer, and whom to ask for its name, at which address, if no file of this host knows it.
fn peer_of(origin: Origin, log: &Log) -> (Peer, Option<(IpAddr, NameServers)>) {
    let address = match origin {
        Origin::Named(peer) => return (peer, None),
        Origin::Terminal => return (Peer::at_terminal(), None),
        Origin::Socket(address) => address,
    };
    let mut peer = Peer::unnamed(address);
    let Some(address) = address.ip() else { return (peer, None) };
    match dns::look_into_files(address) {
        Lookup::Known(name) => {
            log.event(&Event::HostName(&name));
            peer.hostname = Some(name);
            (peer, None)
        }
        Lookup::Ask(servers) => (peer, Some((address, servers))),
    }
}

/// Asks for the peer's name; the refusal if it has none that counts and the configuration wants one.
fn look_up(
    config: &Config,
    log: &Log,
    address: IpAddr,
    peer: &mut Peer,
    servers: &NameServers,
    patience: Patience<'_>,
) -> Option<Reply> {
    let limits = &config.limits;
    match dns::confirmed_name(address, servers, patience.at_most(limits.dns_secs.value)) {
        Ok(name) => {
            log.event(&Event::HostName(&name));
            peer.hostname = Some(name);
            None
        }
        Err(why) => {
            log.event(&Event::NoHostName(&why));
            let check = &limits.fcrdns_check;
            check
                .value
                .is_for(address)
                .then(|| reply::worded(&check.refusal, reply::NO_CONFIRMED_NAME).because(why.to_string()))
        }
    }
}

/// A umask that takes the owner's rights would make mailboxes that cannot be written a second time.
fn keep_files_readable() {
    let mask = umask(Mode::S_IRWXO | Mode::S_IRWXG);
    umask(mask - Mode::S_IRWXU);
}

/// Says one thing to the log and to the peer, if it can hear it, when nothing else can be done.
fn last_words(log: &Log, reply: &Reply, is_heard: bool) {
    log.event(&Event::Reply(reply));
    if !is_heard {
        return;
    }
    let mut connection = Connection::standard_io();
    reply.encode(false, connection.replies());
    // Whether it arrives makes no difference any more.
    let _ = connection.hang_up(Instant::now() + Duration::from_secs(5));
}

/// What standard error was when we were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stderr {
    /// A place for the administrator.
    Ours,
    /// The connection; it is /dev/null now.
    WasThePeer,
}

/// Under inetd and xinetd descriptor 2 is the peer as well; from now on it is /dev/null.
fn take_stderr_off_the_connection() -> Stderr {
    let same = |one: BorrowedFd<'_>, other: BorrowedFd<'_>| match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    };
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let is_peer =
        files::is_socket(error.as_fd()) && (same(error.as_fd(), input.as_fd()) || same(error.as_fd(), output.as_fd()));
    if !is_peer {
        return Stderr::Ours;
    }
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stderr(null);
    }
    Stderr::WasThePeer
}

/// Where it was and what it said.
fn kept_panic() -> String {
    panics::take_kept().map_or_else(|| "panic".to_owned(), |kept| Untrusted::new(kept.as_bytes()).to_string())
}
