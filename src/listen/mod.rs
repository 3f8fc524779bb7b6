//! `mailrecv listen`: the built-in super-server. It accepts connections and starts a receiver for each, with the
//! connection as descriptors 0 and 1. It never reads what peers send.
//!
//! If systemd holds the sockets, they stay open while `listen` is restarted, and peers wait in them.

mod configuration;
mod endpoint;
mod reports;
mod sessions;

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;
use rustix::process::{Resource, getrlimit};

use crate::check::report;
use crate::cli::{LMTP, ListenOptions, Options};
use crate::config::{LogTarget, Protocol};
use crate::exit::Exit;
use crate::files;
use crate::log::{self, Event};
use crate::metrics::{Counts, Family, INHERITED, Record, exposition};
use crate::net::listener::{self, ListenAddress, ListeningSocket};
use crate::peer::Address;
use crate::server;
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::systemd;
use crate::wait::{is_ready, timeout};
use configuration::Configuration;
use endpoint::Endpoint;
use reports::Reports;
use sessions::{Session, Sessions};

/// Listens until SIGTERM or SIGINT, or until the number of messages or the time in the options is reached. Returns the
/// exit status.
pub(crate) fn run(options: &Options, listen: &ListenOptions) -> Exit {
    // On a terminal SIGHUP means that the terminal is gone, to a daemon that it should reload.
    let signals = if io::stdin().is_terminal() { Signals::new() } else { Signals::of_a_daemon() };
    let passed = systemd::passed_sockets();
    let are_passed = !passed.is_empty();
    let mut sockets = Vec::new();
    for (name, socket) in passed {
        match socket {
            Ok(socket) => sockets.push((name, socket)),
            // Peers at the other sockets should not have to wait until this one is repaired.
            Err(error) => _ = cannot_listen(&error),
        }
    }
    if are_passed && sockets.is_empty() {
        return Exit::OsErr;
    }
    let mut configuration = Configuration::load(options);
    if !configuration.errors().is_empty() {
        if sockets.is_empty() {
            // It is better to learn of a mistake now than from the first peer.
            report(&options.config, configuration.errors().iter());
            return Exit::Config;
        }
        // systemd accepts these peers whether we run or not. They should hear that the fault is ours, and each session
        // tells its peer.
        configuration.log_errors();
    }
    let listener = signals.and_then(|signals| Listener::new(options, listen, signals, configuration, sockets));
    match listener.and_then(|mut listener| listener.run()) {
        Ok(End::Asked | End::Counted) => Exit::Ok,
        Ok(End::TimedOut) => Exit::TimedOut,
        Ok(End::NobodyReads) => {
            let _ = writeln!(io::stderr(), "mailrecv: nobody reads standard output any more");
            Exit::IoErr
        }
        Err(error) => cannot_listen(&error),
    }
}

/// Why we stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody asked us to.
    Asked,
    /// As many messages were taken as the options want.
    Counted,
    /// The time is up and fewer messages were taken.
    TimedOut,
    /// Nobody reads the reports of messages any more.
    NobodyReads,
}

fn cannot_listen(error: &anyhow::Error) -> Exit {
    let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
    Exit::OsErr
}

struct Listener<'a> {
    options: &'a ListenOptions,
    configuration: Configuration<'a>,
    /// The program that is started for each connection.
    program: PathBuf,
    /// Their arguments.
    arguments: Vec<OsString>,
    /// The sockets, each with its name if systemd passed it.
    sockets: Vec<(String, ListeningSocket)>,
    signals: Signals,
    /// How often systemd wants to hear that we are alive, and when next.
    watchdog: Option<(Duration, Instant)>,
    sessions: Sessions,
    /// What all sessions have counted, except those that still run.
    counts: Counts,
    /// Where the counts can be fetched.
    endpoint: Endpoint,
    /// How many sessions can have a file for their counts; each takes a descriptor.
    most_records: usize,
    /// The status that systemd was last told.
    status: String,
    /// When `listen` ends, if it has a time limit.
    until: Option<Instant>,
    /// Where sessions report messages.
    reports: Option<Reports>,
}

impl<'a> Listener<'a> {
    fn new(
        options: &Options,
        listen: &'a ListenOptions,
        signals: Signals,
        mut configuration: Configuration<'a>,
        passed: Vec<(String, ListeningSocket)>,
    ) -> anyhow::Result<Self> {
        let (passed_metrics, mut sockets): (Vec<_>, Vec<_>) = passed.into_iter().partition(|(name, _)| name == METRICS);
        let mut metrics: Vec<ListeningSocket> = passed_metrics.into_iter().map(|(_, socket)| socket).collect();
        metrics.extend(listener::sockets(&listen.metrics, listen.socket).context("for the metrics")?);
        let attachments = listen.attachments.as_deref();
        let reports = listen.json.then(|| Reports::new(attachments, &mut configuration)).transpose()?;
        let mut counts = Counts::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        counts.set(Family::StartTime.counter(), now.as_secs());
        let is_default = sockets.is_empty() && listen.addresses.is_empty();
        let addresses = if is_default { &[ListenAddress::DEFAULT][..] } else { &listen.addresses };
        if configuration.protocol() == Protocol::Lmtp && addresses.iter().any(ListenAddress::is_of_smtp) {
            bail!("{}: name another place, `unix:/run/mailrecv/lmtp` say", reply::LMTP_ON_PORT_25);
        }
        sockets.extend(listener::sockets(addresses, listen.socket)?.into_iter().map(|socket| (String::new(), socket)));
        Ok(Self {
            options: listen,
            status: configuration.status(),
            configuration,
            program: program(),
            arguments: receiver_arguments(options),
            sockets,
            signals,
            watchdog: systemd::watchdog_interval().map(|interval| (interval, Instant::now() + interval)),
            sessions: Sessions::new(listen.max_processes, listen.max_per_address),
            counts,
            endpoint: Endpoint::new(metrics),
            most_records: most_records(),
            until: listen.timeout.map(|timeout| Instant::now() + timeout),
            reports,
        })
    }

    fn run(&mut self) -> anyhow::Result<End> {
        self.announce()?;
        // If descriptors or processes are short, accepting again at once would only burn CPU time.
        let mut pause = None;
        let end = loop {
            if let Some(end) = self.end() {
                break end;
            }
            self.wait(pause.take())?;
            for number in 0..self.sockets.len() {
                if let Err(error) = self.accept(number) {
                    self.configuration.log().event_about(LISTEN, &Event::CannotAccept(&error));
                    pause = Some(Instant::now() + Duration::from_secs(1));
                }
            }
            // These come last: a signal that arrives while a session is started does not wake us.
            if self.signals.take_reload() {
                self.reload();
            }
            if self.signals.take_report() {
                self.report();
            }
            self.reap();
            let Self { endpoint, counts, sessions, .. } = self;
            endpoint.go_on(|| exposition(&counts_until_now(counts, sessions), true));
            self.tell_status();
        };
        systemd::stopping();
        self.until = None;
        self.sockets.clear();
        self.endpoint = Endpoint::default();
        self.stop(match end {
            End::Asked => self.options.grace,
            // The program that started us waits for our end.
            End::Counted | End::TimedOut | End::NobodyReads => self.options.grace.min(LAST_WORDS),
        });
        // The program that reads reports may be gone before the session has counted the last message.
        Ok(if end == End::NobodyReads && self.has_counted() { End::Counted } else { end })
    }

    /// Whether it is time to stop, and why.
    fn end(&self) -> Option<End> {
        if self.signals.stop_requested() {
            return Some(End::Asked);
        }
        if self.has_counted() {
            return Some(End::Counted);
        }
        if self.reports.as_ref().is_some_and(|reports| !reports.are_read()) {
            return Some(End::NobodyReads);
        }
        self.until.is_some_and(|until| Instant::now() >= until).then_some(End::TimedOut)
    }

    /// Whether as many messages were taken as the options want. One that comes again is not another one.
    fn has_counted(&self) -> bool {
        let taken = || {
            let counts = counts_until_now(&self.counts, &self.sessions);
            let accepted = counts.get(const { Family::Messages.with("accepted") });
            accepted.saturating_sub(counts.get(Family::MessagesRepeated.counter()))
        };
        self.options.count.is_some_and(|count| taken() >= count)
    }

    /// Prints one line when connections are accepted, because whoever started us may be waiting for it.
    fn announce(&self) -> anyhow::Result<()> {
        let mut listening = "listening on".to_owned();
        for (name, socket) in &self.sockets {
            listening += &format!(" {socket}");
            if !name.is_empty() {
                listening += &format!(" ({name})");
            }
        }
        for (number, socket) in self.endpoint.sockets().iter().enumerate() {
            listening += if number == 0 { ", metrics on " } else { " " };
            listening += &socket.to_string();
        }
        if let Some(file) = &self.options.ready_file {
            self.write_ready_file(file).with_context(|| format!("writing {}", file.display()))?;
        }
        // It does not matter whether anybody reads it.
        if self.reports.is_some() {
            let _ = writeln!(io::stderr(), "mailrecv: {listening}");
        } else {
            let _ = writeln!(io::stdout(), "mailrecv: {listening}").and_then(|()| io::stdout().flush());
        }
        systemd::ready(&self.status);
        Ok(())
    }

    /// Makes the file that says where we listen. It appears only when it is complete.
    fn write_ready_file(&self, file: &Path) -> anyhow::Result<()> {
        let addresses: String = self.sockets.iter().map(|(_, socket)| format!("{socket}\n")).collect();
        // Its permissions follow umask(2), because another user may be waiting for it.
        let permissions = Permissions::from_mode(0o666);
        let mut new = tempfile::Builder::new().permissions(permissions).tempfile_in(files::directory_of(file))?;
        new.write_all(addresses.as_bytes())?;
        new.persist(file)?;
        Ok(())
    }

    /// Says that there is nothing to reload, and what errors sessions would find in the configuration now.
    fn reload(&mut self) {
        self.configuration.wait_for_quiet();
        self.configuration.log().event_about(LISTEN, &Event::NothingToReload);
        self.configuration.log_errors();
    }

    /// Tells systemd the status, if it has changed.
    fn tell_status(&mut self) {
        self.configuration.refresh();
        let status = self.configuration.status();
        if status != self.status {
            systemd::status(&status);
            self.status = status;
        }
    }

    /// Forgets sessions that have ended. A session that was killed could log nothing, so that is done here.
    fn reap(&mut self) {
        for (Session { peer, record, .. }, signal) in self.sessions.reap() {
            let counted = record.and_then(|record| record.read().ok()).unwrap_or_default();
            self.counts.take_in(&counted);
            if let Some(signal) = signal {
                self.counts.add(Family::SessionsKilled.counter(), 1);
                self.configuration.log().event_about(&peer.to_string(), &Event::SessionKilled(signal));
            } else if self.endpoint.is_there() && counted.sum(Family::Sessions) == 0 {
                self.counts.add(Family::SessionsUncounted.counter(), 1);
            }
        }
    }

    /// Logs how many sessions there are and were.
    fn report(&mut self) {
        self.reap();
        let (served, turned_away) = (self.counts.sum(Family::Connections), self.counts.sum(Family::ConnectionsRefused));
        let now = self.sessions.len();
        self.configuration.log().event_about(LISTEN, &Event::Report { now, served, turned_away });
    }

    /// Waits for a connection or a signal; with a pause, for a signal only.
    fn wait(&mut self, pause: Option<Instant>) -> anyhow::Result<()> {
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if pause.is_none() {
            descriptors.extend(self.endpoint.descriptors());
            descriptors.extend(self.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            descriptors.extend(self.reports.iter().map(|reports| PollFd::new(reports.output(), PollFlags::empty())));
        }
        // No event tells us that a running session has taken a message.
        let next_count = self.options.count.map(|_| Instant::now() + COUNT_INTERVAL);
        let until = pause.into_iter().chain(self.watchdog.map(|(_, next)| next)).chain(self.endpoint.deadline());
        let until = until.chain(next_count).chain(self.until).min();
        match poll(&mut descriptors, until.map_or(PollTimeout::NONE, timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for connections"),
        }
        if is_ready(&descriptors[0]) {
            self.signals.clear();
        }
        if let Some((interval, next)) = &mut self.watchdog
            && Instant::now() >= *next
        {
            systemd::alive();
            *next = Instant::now() + *interval;
        }
        Ok(())
    }

    /// Accepts what is waiting on one socket.
    fn accept(&mut self, number: usize) -> io::Result<()> {
        // Bounded, so that a flood of connections does not keep us from reaping sessions.
        for _ in 0..64 {
            match self.sockets[number].1.accept() {
                Ok((stream, peer)) => self.serve(&stream, peer)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Starts a session with this peer, or tells it to come again later.
    fn serve(&mut self, stream: &OwnedFd, peer: Address) -> io::Result<()> {
        self.reap();
        let Self { sessions, configuration, .. } = self;
        if let Err(crowd) = sessions.has_place_for(peer, |address| configuration.standing(address)) {
            self.counts.add(crowd.counter, 1);
            let reply = reply::too_busy();
            say(stream, &reply);
            let (sessions, with_peer, network) = (sessions.len(), crowd.sessions, &crowd.network);
            let event = Event::TurnedAway { reply: &reply, sessions, with_peer, network };
            configuration.log().event_about(&peer.to_string(), &event);
            return Ok(());
        }
        match self.start(stream) {
            Ok((process, record)) => {
                self.sessions.add(Session { process, peer, record });
                let family = match peer {
                    Address::Ip(IpAddr::V4(_)) => const { Family::Connections.with("ipv4") },
                    Address::Ip(IpAddr::V6(_)) => const { Family::Connections.with("ipv6") },
                    Address::Local(_) => const { Family::Connections.with("unix") },
                };
                self.counts.add(family, 1);
            }
            Err(error) => {
                self.counts.add(const { Family::ConnectionsRefused.with("not_started") }, 1);
                say(stream, &reply::cannot_serve("no session can be started".to_owned()));
                return Err(error);
            }
        }
        Ok(())
    }

    fn start(&self, stream: &OwnedFd) -> io::Result<(Pid, Option<Record>)> {
        let record = self.new_record();
        let process = match self.start_from(&self.program, stream, record.as_ref()) {
            // The file may be missing while a package is replaced.
            Err(_) => self.start_from(Path::new(RUNNING_PROGRAM), stream, record.as_ref())?,
            Ok(started) => started,
        };
        Ok((process, record.filter(|record| record.keep().is_ok())))
    }

    /// A file for the counts of one more session, if they are wanted. A session without one is better than no session.
    fn new_record(&self) -> Option<Record> {
        let is_wanted = (self.endpoint.is_there() || self.options.count.is_some())
            && self.sessions.records().count() < self.most_records;
        is_wanted.then(Record::for_a_child)?.ok()
    }

    fn start_from(&self, program: &Path, stream: &OwnedFd, record: Option<&Record>) -> io::Result<Pid> {
        let (input, output) = (stream.try_clone()?, stream.try_clone()?);
        // A process group of its own, so that Ctrl-C on a terminal reaches only us, and we let the session finish.
        let mut command = Command::new(program);
        command.arg0("mailrecv").process_group(0).args(&self.arguments).stdin(input).stdout(output);
        systemd::withhold(&mut command);
        match self.sessions.are_scarce() {
            true => command.env(server::SCARCE, "yes"),
            false => command.env_remove(server::SCARCE),
        };
        match record {
            Some(record) => command.env(INHERITED, record.number().to_string()),
            None => command.env_remove(INHERITED),
        };
        Reports::pass(self.reports.as_ref(), &mut command);
        let process = self.signals.spawn(&mut command)?;
        i32::try_from(process.id()).map(Pid::from_raw).map_err(io::Error::other)
    }

    /// Lets sessions end by themselves for a while, or until we are told to stop again; then asks them to end. They do
    /// so when no delivery is half done, which their own deadlines bound. Killing a session in a delivery could lose or
    /// duplicate mail.
    fn stop(&mut self, grace: Duration) {
        self.signals.forget_stop();
        let deadline = Instant::now() + grace;
        self.reap();
        if !self.sessions.is_empty() {
            // Sessions that end within a moment are not worth a message.
            self.wait_for_sessions(deadline);
        }
        if let count @ 1.. = self.sessions.len() {
            log::say(&format_args!("sessions to wait for: {count}; another signal ends them"), Duration::ZERO);
        }
        while !self.sessions.is_empty() && Instant::now() < deadline && !self.signals.stop_requested() {
            self.wait_for_sessions(deadline);
        }
        self.sessions.ask_to_end();
        while !self.sessions.is_empty() {
            self.wait_for_sessions(Instant::now() + Duration::from_secs(1));
        }
    }

    /// Waits until a session ends, but no longer than this.
    fn wait_for_sessions(&mut self, until: Instant) {
        let _ = self.wait(Some(until.min(Instant::now() + Duration::from_millis(200))));
        self.reap();
    }
}

/// All counts, including those of running sessions.
fn counts_until_now(counts: &Counts, sessions: &Sessions) -> Counts {
    let mut counts = counts.clone();
    sessions.records().filter_map(|record| record.read().ok()).for_each(|counted| counts.take_in(&counted));
    counts.set(Family::SessionsOpen.counter(), sessions.len() as u64);
    counts
}

/// Each takes a descriptor; half of the descriptors are kept for everything else.
fn most_records() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Tells a peer that gets no session one thing, with a single write into an empty socket buffer. If that does not fit,
/// the peer gets nothing.
fn say(stream: &OwnedFd, reply: &Reply) {
    let mut bytes = Vec::new();
    reply.encode(false, &mut bytes);
    let _ = send(stream.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// This program, by the name under which it was started, so that sessions run the binary that is installed when they
/// start; a symbolic link is followed anew each time. Without /proc that name is used as it is.
fn program() -> PathBuf {
    let told = std::env::args_os().next().map(PathBuf::from).filter(|told| told.components().count() > 1);
    let told = told.and_then(|told| std::path::absolute(told).ok());
    let Ok(running) = std::env::current_exe() else { return told.unwrap_or_else(|| RUNNING_PROGRAM.into()) };
    let identity = |path: &Path| path.metadata().ok().map(|metadata| files::identity(&metadata));
    told.filter(|told| identity(told) == identity(Path::new(RUNNING_PROGRAM))).unwrap_or(running)
}

/// The options for receivers. Each receiver reads the configuration itself, so edits need no restart.
fn receiver_arguments(options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if options.protocol == Some(Protocol::Lmtp) {
        arguments.push(LMTP.into());
    }
    arguments.extend(["-c".into(), options.config.clone().into()]);
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

/// Stands in place of a peer's address in lines that are about no peer.
const LISTEN: &str = "listen";

/// The name (`FileDescriptorName=`) of sockets that systemd passes for the metrics.
const METRICS: &str = "metrics";

/// How often messages are counted if the options limit their number.
const COUNT_INTERVAL: Duration = Duration::from_millis(20);

/// How long sessions may take to end once we have what we were started for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The running binary, even if its file is gone.
const RUNNING_PROGRAM: &str = "/proc/self/exe";
