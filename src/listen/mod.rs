//! `mailrecv listen`: the built-in super-server. It accepts connections and starts a receiver for each, with the
//! connection as descriptors 0 and 1; it never reads a byte of what peers send.
//!
//! systemd may hold the sockets: then they stay open while we are restarted, and peers wait in them.

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

/// Listens until SIGTERM or SIGINT, or as many messages were taken, or as much time has passed, as the options say. Returns
/// the exit status.
pub(crate) fn run(options: &Options, listen: &ListenOptions) -> Exit {
    // On a terminal SIGHUP says that nobody is there any more, to a daemon that somebody wants a reload.
    let signals = if io::stdin().is_terminal() { Signals::new() } else { Signals::of_a_daemon() };
    let passed = systemd::passed_sockets();
    let are_passed = !passed.is_empty();
    let mut sockets = Vec::new();
    for (name, socket) in passed {
        match socket {
            Ok(socket) => sockets.push((name, socket)),
            // Peers at the others are not to wait for its repair.
            Err(error) => _ = cannot_listen(&error),
        }
    }
    if are_passed && sockets.is_empty() {
        return Exit::OsErr;
    }
    let mut configuration = Configuration::load(options);
    if !configuration.errors().is_empty() {
        if sockets.is_empty() {
            // Better to learn of a mistake now than from the first peer.
            report(&options.config, configuration.errors().iter());
            return Exit::Config;
        }
        // These peers come whether we listen or not, and are to hear that it is a mistake of ours: each session says so.
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
    /// As many messages were taken as were wanted.
    Counted,
    /// They have not come in time.
    TimedOut,
    /// What was to be told of messages goes nowhere.
    NobodyReads,
}

fn cannot_listen(error: &anyhow::Error) -> Exit {
    let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
    Exit::OsErr
}

struct Listener<'a> {
    options: &'a ListenOptions,
    configuration: Configuration<'a>,
    /// What receivers are started from.
    program: PathBuf,
    /// Their arguments.
    arguments: Vec<OsString>,
    /// Where peers connect, each with a name if it was passed to us.
    sockets: Vec<(String, ListeningSocket)>,
    signals: Signals,
    /// How often systemd wants to hear that we are not stuck, and when next.
    watchdog: Option<(Duration, Instant)>,
    sessions: Sessions,
    /// What there was of everything, but for what sessions that are not over have counted.
    counts: Counts,
    /// Where that is told.
    endpoint: Endpoint,
    /// How many sessions can have a record of what they count.
    most_records: usize,
    /// What systemd was told.
    status: String,
    /// When the time is over that somebody has for us.
    until: Option<Instant>,
    /// Where sessions report messages.
    reports: Option<Reports>,
}

impl<'a> Listener<'a> {
    fn new(
        options: &Options,
        listen: &'a ListenOptions,
        signals: Signals,
        configuration: Configuration<'a>,
        passed: Vec<(String, ListeningSocket)>,
    ) -> anyhow::Result<Self> {
        let (passed_metrics, mut sockets): (Vec<_>, Vec<_>) = passed.into_iter().partition(|(name, _)| name == METRICS);
        let mut metrics: Vec<ListeningSocket> = passed_metrics.into_iter().map(|(_, socket)| socket).collect();
        metrics.extend(listener::sockets(&listen.metrics, listen.socket).context("for the metrics")?);
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
            reports: listen.json.then(|| Reports::new(listen.attachments.as_deref())).transpose()?,
        })
    }

    fn run(&mut self) -> anyhow::Result<End> {
        self.announce()?;
        // While descriptors or processes are short, accepting again at once would only burn time.
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
            // Last, because what happens while a session is started does not wake us.
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
            // Who started us waits for us.
            End::Counted | End::TimedOut | End::NobodyReads => self.options.grace.min(LAST_WORDS),
        });
        // Whoever reads the last report may be gone before its session has counted it.
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

    /// Whether as many messages were taken as are wanted.
    fn has_counted(&self) -> bool {
        let taken = || counts_until_now(&self.counts, &self.sessions).get(const { Family::Messages.with("accepted") });
        self.options.count.is_some_and(|count| taken() >= count)
    }

    /// One line, when connections are accepted; whoever started us may be waiting for it.
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
        // Nobody has to be interested.
        if self.reports.is_some() {
            let _ = writeln!(io::stderr(), "mailrecv: {listening}");
        } else {
            let _ = writeln!(io::stdout(), "mailrecv: {listening}").and_then(|()| io::stdout().flush());
        }
        systemd::ready(&self.status);
        Ok(())
    }

    /// Makes the file that says where we listen. Whoever waits for it finds it whole or not at all.
    fn write_ready_file(&self, file: &Path) -> anyhow::Result<()> {
        let addresses: String = self.sockets.iter().map(|(_, socket)| format!("{socket}\n")).collect();
        // As umask(2) has it, and not for us alone: whoever waits for it may be another user.
        let permissions = Permissions::from_mode(0o666);
        let mut new = tempfile::Builder::new().permissions(permissions).tempfile_in(files::directory_of(file))?;
        new.write_all(addresses.as_bytes())?;
        new.persist(file)?;
        Ok(())
    }

    /// Says that there is nothing to reload, and what a session would say of the configuration as it is now.
    fn reload(&mut self) {
        self.configuration.wait_for_quiet();
        self.configuration.log().event_about(LISTEN, &Event::NothingToReload);
        self.configuration.log_errors();
    }

    /// Tells systemd how things are, if that has changed.
    fn tell_status(&mut self) {
        self.configuration.refresh();
        let status = self.configuration.status();
        if status != self.status {
            systemd::status(&status);
            self.status = status;
        }
    }

    /// Forgets sessions that are over. Of those that say nothing themselves, because they were killed, the log hears here.
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

    /// Says how things are.
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
        // A session that goes on does not wake us when it has taken a message.
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
                // The peer gave up before we came to it.
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
            // While a package is replaced its file may be missing.
            Err(_) => self.start_from(Path::new(RUNNING_PROGRAM), stream, record.as_ref())?,
            Ok(started) => started,
        };
        Ok((process, record.filter(|record| record.keep().is_ok())))
    }

    /// A record for one more session, if somebody wants the numbers. A session without one is better than none.
    fn new_record(&self) -> Option<Record> {
        let is_wanted = (self.endpoint.is_there() || self.options.count.is_some())
            && self.sessions.records().count() < self.most_records;
        is_wanted.then(Record::for_a_child)?.ok()
    }

    fn start_from(&self, program: &Path, stream: &OwnedFd, record: Option<&Record>) -> io::Result<Pid> {
        let (input, output) = (stream.try_clone()?, stream.try_clone()?);
        // A process group of its own, so that Ctrl-C on a terminal reaches us alone, who let it finish.
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

    /// Lets sessions end by themselves for a while, or until we are told to stop again, then asks them to. They do at the
    /// next point where nothing is half done, which their own deadlines bound; to kill one in a delivery could lose or
    /// double mail.
    fn stop(&mut self, grace: Duration) {
        self.signals.forget_stop();
        let deadline = Instant::now() + grace;
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
        self.sessions.ask_to_end();
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

/// Everything, and how things are.
fn counts_until_now(counts: &Counts, sessions: &Sessions) -> Counts {
    let mut counts = counts.clone();
    sessions.records().filter_map(|record| record.read().ok()).for_each(|counted| counts.take_in(&counted));
    counts.set(Family::SessionsOpen.counter(), sessions.len() as u64);
    counts
}

/// Each takes a descriptor; the other half is for all else.
fn most_records() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Says one thing to a peer that gets no session. One write into an empty socket buffer; a peer that cannot take that gets
/// nothing.
fn say(stream: &OwnedFd, reply: &Reply) {
    let mut bytes = Vec::new();
    reply.encode(false, &mut bytes);
    let _ = send(stream.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// This program by the name that it was started by, so that sessions are of the binary that is installed when they start.
/// A link is followed anew each time. Where /proc is not mounted, whoever started us has to be believed.
fn program() -> PathBuf {
    let told = std::env::args_os().next().map(PathBuf::from).filter(|told| told.components().count() > 1);
    let told = told.and_then(|told| std::path::absolute(told).ok());
    let Ok(running) = std::env::current_exe() else { return told.unwrap_or_else(|| RUNNING_PROGRAM.into()) };
    let identity = |path: &Path| path.metadata().ok().map(|metadata| files::identity(&metadata));
    told.filter(|told| identity(told) == identity(Path::new(RUNNING_PROGRAM))).unwrap_or(running)
}

/// The options, as the receivers get them. Each reads the configuration itself, so edits need no restart.
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

/// What stands in the place of a peer's address where the line is about none.
const LISTEN: &str = "listen";

/// The name (`FileDescriptorName=`) of sockets that systemd passes for the metrics.
const METRICS: &str = "metrics";

/// How often the messages are counted, where their number matters.
const COUNT_INTERVAL: Duration = Duration::from_millis(20);

/// How long sessions may take to say goodbye once we have what we were started for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The binary that runs, even if its file is gone.
const RUNNING_PROGRAM: &str = "/proc/self/exe";
