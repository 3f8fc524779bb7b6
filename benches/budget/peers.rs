//! The same mails to mailrecv and to other servers, in turns of less than a minute: how long one takes, how many a second
//! come from some senders at once, what is synced before the 250, and memory. `tests/run --install peers` installs them;
//! needs root. What the servers do is not the same: one with a queue goes on working behind its 250.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up is a failure")]

use std::any::Any;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use testkit::certificates::{Authority, Request};
use testkit::daemon::free_port;
use testkit::exim::Exim;
use testkit::opensmtpd::OpenSmtpd;
use testkit::postfix::{FINAL_DOMAIN, Postfix};
use testkit::{Daemon, LOOPBACK, debian, succeeds, wait_until};

use crate::aiosmtpd::{Server, Talk, python};
use crate::bench::Bench;
use crate::sessions::{RECIPIENT, message, milliseconds};
use crate::table::{Table, share};
use crate::{Result, tree};

pub(crate) fn peers(bench: &mut Bench) -> Result<()> {
    if !geteuid().is_root() {
        return Err("starting other servers needs root".into());
    }
    let peers = all(bench)?;
    let mail = message(1_000);
    let mut taken: Vec<Taken> = peers.iter().map(|_| Taken::default()).collect();
    // The first turn fills caches.
    for turn in 0..=bench.few_runs() {
        let began = Instant::now();
        for (peer, taken) in peers.iter().zip(&mut taken) {
            eprintln!("budget: peers: {} ...", peer.name);
            let measured = peer.measure(&mail).unwrap_or_else(|problem| {
                bench.failures.push(format!("peers: {}: {problem}", peer.name));
                Taken::default()
            });
            if turn > 0 {
                taken.add(measured);
            }
            peer.until_idle()?;
        }
        eprintln!("budget: peers: turn {turn} of {}, {} s", bench.few_runs(), began.elapsed().as_secs());
    }
    let title = format!("mails of 1 KB, a session for each, {} turns, medians", bench.few_runs());
    let senders = SENDERS.map(|senders| format!("{senders} at once"));
    let mut head = vec!["server", "where it is by the 250", "syncs before that", "one mail, connect to 250"];
    head.extend(senders.iter().map(String::as_str));
    head.extend(["nobody connected, PSS", "64 idle sessions, PSS of all"]);
    let mut table = Table::new(&title, &head);
    for (peer, mut taken) in peers.iter().zip(taken) {
        let mut cells = vec![
            peer.name.clone(),
            peer.keeps.to_owned(),
            peer.syncs(bench, &mail)?.to_string(),
            format!("{:.2} ms", median(&mut taken.times)),
        ];
        cells.extend(taken.rates.iter_mut().map(|rates| format!("{:.0} /s", median(rates))));
        cells.extend(peer.memory()?.map(|memory| format!("{memory:.0} KiB")));
        table.add(cells);
    }
    bench.tables.push(table);
    Ok(())
}

/// A server that takes mail for somebody.
struct Peer {
    name: String,
    /// What it does with it before it says 250.
    keeps: &'static str,
    recipient: String,
    address: SocketAddr,
    /// The process that all others are descendants of.
    pid: Pid,
    /// What stops it.
    _keeper: Box<dyn Any>,
}

/// What was measured of it.
#[derive(Default)]
struct Taken {
    /// In milliseconds.
    times: Vec<f64>,
    /// By numbers of senders, a second.
    rates: [Vec<f64>; SENDERS.len()],
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.rates.iter_mut().zip(other.rates).for_each(|(rates, other)| rates.extend(other));
    }
}

/// All that can be had; the others are told of.
fn all(bench: &mut Bench) -> Result<Vec<Peer>> {
    let mut peers = vec![
        mailrecv(bench, "append", "in an mbox, synced")?,
        mailrecv(bench, "maildir", "in a maildir, synced")?,
        exim(bench)?,
        postfix(),
        opensmtpd(),
        aiosmtpd(bench)?,
    ];
    if let Some(original) = bench.against.clone() {
        let (address, mut command) = tcpserver();
        command.arg(original.program).args(original.arguments);
        peers.push(Peer::of(bench, &original.name, "as it says", RECIPIENT, address, command)?);
    }
    for (package, start) in [("mailfront", mailfront as fn(&Bench) -> Result<Peer>), ("chasquid", chasquid)] {
        if debian::unpacked(package).is_dir() {
            peers.push(start(bench)?);
        } else {
            bench.failures.push(format!("peers: {package}: `tests/run --install peers` installs it"));
        }
    }
    Ok(peers)
}

fn mailrecv(bench: &Bench, action: &str, keeps: &'static str) -> Result<Peer> {
    let place = bench.scratch.join(format!("peers-{action}"));
    let config = bench.scratch.join(format!("peers-{action}.conf"));
    let (dir, place) = (bench.scratch.display(), place.display());
    let text = format!(
        "domain localhost\nlogfile {dir}/log\nspool_dir {dir}\nlimit.fcrdns_check off\n\
         deliver rcpt_to {RECIPIENT} {action} {place}\n"
    );
    fs::write(&config, text)?;
    let address = free_port(LOOPBACK[0]);
    let mut command = Command::new(bench.program());
    command.arg("-c").arg(config).args(["listen", "--max-per-address", "200", &address.to_string()]);
    Peer::of(bench, &format!("mailrecv listen, {action}"), keeps, RECIPIENT, address, command)
}

fn exim(bench: &Bench) -> Result<Peer> {
    // What it takes stays in its queue, so nobody need be there to pass it on to.
    let exim = Exim::new(1);
    let (address, tcpserver) = tcpserver();
    let command = exim.behind(&tcpserver);
    let peer = Peer::of(bench, "exim4 -odq -bs, tcpserver", "in its queue", RECIPIENT, address, command)?;
    Ok(Peer { _keeper: Box::new((peer._keeper, exim)), ..peer })
}

fn postfix() -> Peer {
    // Its default, 50, is for strangers.
    let postfix = Postfix::receiving("smtpd_client_connection_count_limit = 0\n", "");
    Peer {
        name: "Postfix".to_owned(),
        keeps: "in its queue",
        recipient: format!("fred@{FINAL_DOMAIN}"),
        address: postfix.address(),
        pid: postfix.pid(),
        _keeper: Box::new(postfix),
    }
}

fn opensmtpd() -> Peer {
    let opensmtpd = OpenSmtpd::receiving();
    Peer {
        name: "OpenSMTPD".to_owned(),
        keeps: "in its queue",
        recipient: format!("fred@{FINAL_DOMAIN}"),
        address: opensmtpd.address(),
        pid: opensmtpd.pid(),
        _keeper: Box::new(opensmtpd),
    }
}

fn aiosmtpd(bench: &Bench) -> Result<Peer> {
    let Server { daemon, address } = python()?.start(bench, "sink", &[])?;
    Ok(Peer {
        name: "aiosmtpd".to_owned(),
        keeps: "shown, and nowhere",
        recipient: RECIPIENT.to_owned(),
        address,
        pid: daemon.pid(),
        _keeper: Box::new(daemon),
    })
}

fn mailfront(bench: &Bench) -> Result<Peer> {
    let queue = bench.scratch.join("mailfront");
    for folder in ["new", "tmp"] {
        fs::create_dir_all(queue.join(folder))?;
    }
    let rules = bench.scratch.join("mailfront.rules");
    fs::write(&rules, ":sender\nk*:*\n:recipient\nk*:*\n")?;
    let (address, mut command) = tcpserver();
    command.arg(debian::program("mailfront", "mailfront")).args(["smtp", "queuedir", "mailrules"]);
    command.env("MODULE_PATH", debian::root("mailfront").join("usr/lib/mailfront"));
    command.env("QUEUEDIR", queue).env("MAILRULES", rules);
    Peer::of(bench, "mailfront, tcpserver", "in a folder", RECIPIENT, address, command)
}

fn chasquid(bench: &Bench) -> Result<Peer> {
    let folder = bench.scratch.join("chasquid");
    let certificates = folder.join("certs").join(FINAL_DOMAIN);
    for folder in [&certificates, &folder.join("domains").join(FINAL_DOMAIN), &folder.join("data/queue")] {
        fs::create_dir_all(folder)?;
    }
    // It does not start without one.
    let (chain, key) = Authority::new().issue(&certificates, FINAL_DOMAIN, &Request::of(&[FINAL_DOMAIN]));
    fs::rename(chain, certificates.join("fullchain.pem"))?;
    fs::rename(key, certificates.join("privkey.pem"))?;
    let address = free_port(LOOPBACK[0]);
    let at = folder.display();
    let config = format!(
        "hostname: \"{FINAL_DOMAIN}\"\n\
         smtp_address: \"{address}\"\n\
         mail_delivery_agent_bin: \"/usr/bin/tee\"\n\
         mail_delivery_agent_args: \"-a\"\n\
         mail_delivery_agent_args: \"{at}/fred\"\n\
         data_dir: \"{at}/data\"\n\
         mail_log_path: \"{at}/log\"\n"
    );
    fs::write(folder.join("chasquid.conf"), config)?;
    let recipient = format!("fred@{FINAL_DOMAIN}");
    let mut add = debian::command("chasquid", "chasquid-util");
    add.arg(option("-C", &folder)).args(["user-add", &recipient, "--password=bench"]);
    succeeds(add, "");
    let mut command = debian::command("chasquid", "chasquid");
    command.arg(option("-config_dir", &folder));
    Peer::of(bench, "chasquid", "in its queue", &recipient, address, command)
}

fn option(name: &str, folder: &Path) -> String {
    format!("{name}={}", folder.display())
}

/// It starts the program that follows for each connection, with no look-ups of its own.
fn tcpserver() -> (SocketAddr, Command) {
    let address = free_port(LOOPBACK[0]);
    let mut command = debian::command("ucspi-tcp", "tcpserver");
    command.args(["-HR", "-l0", "-c200", &address.ip().to_string(), &address.port().to_string()]);
    (address, command)
}

impl Peer {
    fn of(
        bench: &Bench,
        name: &str,
        keeps: &'static str,
        recipient: &str,
        address: SocketAddr,
        command: Command,
    ) -> Result<Self> {
        let Server { daemon, address } =
            Server::start(command, address, bench.scratch.join(format!("{}.said", address.port())))?;
        let (name, recipient, pid) = (name.to_owned(), recipient.to_owned(), daemon.pid());
        Ok(Self { name, keeps, recipient, address, pid, _keeper: Box::new(daemon) })
    }

    /// How long a mail takes, a few times, and how many there are in a while.
    fn measure(&self, mail: &[u8]) -> Result<Taken> {
        let mut taken = Taken::default();
        for _ in 0..TIMES {
            taken.times.push(milliseconds(deliver(self.address, &self.recipient, mail)?));
        }
        for (senders, rates) in SENDERS.into_iter().zip(&mut taken.rates) {
            rates.push(self.rate(senders, mail));
        }
        Ok(taken)
    }

    fn open(&self) -> Result<Talk> {
        Talk::open(self.address, HELLO)
    }

    /// Mails a second, by senders that come again as soon as they are through. What is not through by the end does not
    /// count, nor is it waited for: where many come at once, the system of some servers lets some of them wait for long.
    /// Who is refused does not come again.
    fn rate(&self, senders: usize, mail: &[u8]) -> f64 {
        let (sent, mail) = (Arc::new(AtomicU32::new(0)), Arc::<[u8]>::from(mail));
        let end = Instant::now() + WHILE;
        for _ in 0..senders {
            let (address, recipient) = (self.address, self.recipient.clone());
            let (sent, mail) = (Arc::clone(&sent), Arc::clone(&mail));
            thread::spawn(move || {
                while deliver(address, &recipient, &mail).is_ok() && Instant::now() < end {
                    sent.fetch_add(1, Relaxed);
                }
            });
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        f64::from(sent.load(Relaxed)) / WHILE.as_secs_f64()
    }

    /// Waits until it has nothing more to do, but not for long: what it has taken it may still have to deliver.
    fn until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + LONGEST_REST;
        while Instant::now() < deadline {
            let before = tree::processor_time(self.pid)?;
            thread::sleep(Duration::from_millis(300));
            if tree::processor_time(self.pid)?.saturating_sub(before) < Duration::from_millis(20) {
                break;
            }
        }
        Ok(())
    }

    /// With nobody connected, and with many who wait, in KiB.
    fn memory(&self) -> Result<[f64; 2]> {
        let nobody = tree::memory(self.pid);
        let talks = (0..IDLE).map(|_| self.open()).collect::<Result<Vec<_>>>()?;
        let many = tree::memory(self.pid);
        talks.into_iter().for_each(Talk::leave);
        Ok([nobody, many])
    }

    /// How often something is synced before it says 250.
    fn syncs(&self, bench: &Bench, mail: &[u8]) -> Result<usize> {
        // Who starts others for what comes next has done so.
        deliver(self.address, &self.recipient, mail)?;
        self.until_idle()?;
        let (log, said) = (bench.scratch.join("syncs"), bench.scratch.join("syncs.said"));
        let mut strace = debian::command("strace", "strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            "trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync",
        ]);
        strace.arg("-o").arg(&log);
        let processes = tree::of(self.pid);
        strace.args(processes.iter().map(|pid| format!("--attach={pid}")));
        let mut strace = Daemon::start(strace, said);
        wait_until("strace", || processes.iter().all(|pid| is_traced(*pid)).then_some(()));
        let mut talk = self.open()?;
        talk.deliver_to(&self.recipient, mail)?;
        let text = fs::read_to_string(&log)?;
        talk.leave();
        // It lets them go.
        strace.signal(Signal::SIGINT);
        strace.exit_code();
        Ok(text.lines().filter(|line| line.contains('(')).count())
    }
}

/// A session with one mail; the time from connecting to its 250.
fn deliver(address: SocketAddr, recipient: &str, mail: &[u8]) -> Result<Duration> {
    let began = Instant::now();
    let mut talk = Talk::open(address, HELLO)?;
    talk.deliver_to(recipient, mail)?;
    let time = began.elapsed();
    talk.leave();
    Ok(time)
}

/// Whether somebody traces it, or it is gone.
fn is_traced(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.contains("\nTracerPid:\t0\n")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    share(values, 50)
}

/// What is said in front of MAIL, with the beginning of its reply.
const HELLO: &[(&str, &str)] = &[("EHLO bench.localhost", "250")];

/// How many senders there are at once.
const SENDERS: [usize; 3] = [1, 8, 64];

/// How many mails are timed in a turn, one after the other.
const TIMES: usize = 10;

/// How long senders send in a turn.
const WHILE: Duration = Duration::from_secs(1);

/// How many idle sessions there are at once.
const IDLE: usize = 64;

/// The longest time for what a server has left to do.
const LONGEST_REST: Duration = Duration::from_secs(5);
