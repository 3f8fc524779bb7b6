//! The shipped sink, relay and collector beside a few lines around the library aiosmtpd that do about the same
//! (`benches/aiosmtpd`): `mailrecv listen`, with a process for each connection, and one process of Python for all of them.
//! The library comes from PyPI, the broker of hpfeeds from `tests/run`.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use testkit::daemon::free_port;
use testkit::hpfeeds::{self, Broker, SECRET};
use testkit::{Client, Daemon, LOOPBACK, process, repository};

use crate::bench::Bench;
use crate::relay::serve;
use crate::sessions::{message, milliseconds};
use crate::table::{Figure, Row, Unit};
use crate::{Result, tree};

pub(crate) fn aiosmtpd(bench: &mut Bench) -> Result<()> {
    let python = python()?;
    measure(bench, &sink(bench, &python)?)?;
    let next = serve(bench.do_nothing().program)?;
    measure(bench, &relay(bench, &python, next)?)?;
    if !hpfeeds::is_installed() {
        bench.failures.push("collector: tests/run installs the broker of hpfeeds".to_owned());
        return Ok(());
    }
    let broker = Broker::start();
    measure(bench, &collector(bench, &python, broker.address)?)
}

/// Two servers that do the same, ours first.
struct Job {
    name: &'static str,
    /// What is said in front of MAIL, each with the beginning of its reply.
    hello: &'static [(&'static str, &'static str)],
    servers: [Server; 2],
}

/// A server that is stopped with the value.
pub(crate) struct Server {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

fn sink(bench: &Bench, python: &Python) -> Result<Job> {
    let ours = ours(bench, "sink", &[], &[])?;
    Ok(Job {
        name: "sink",
        hello: &[("EHLO bench.localhost", "250")],
        servers: [ours, python.start(bench, "sink", &[])?],
    })
}

fn relay(bench: &Bench, python: &Python, next: SocketAddr) -> Result<Job> {
    let port = next.port().to_string();
    let environment = [
        ("SMTP_AUTH_PASSWORD", PASSWORD),
        ("RELAY_HOST", "127.0.0.1"),
        ("RELAY_PORT", &port),
        ("RELAY_USE_TLS", "off"),
    ];
    let ours = ours(bench, "relay", &[], &environment)?;
    let theirs = python.start(bench, "relay", &[&port, PASSWORD])?;
    // The user `user` with this password (RFC 4616).
    let hello = &[("EHLO bench.localhost", "250"), ("AUTH PLAIN AHVzZXIAY29ycmVjdCBob3JzZQ==", "235")];
    Ok(Job { name: "relay", hello, servers: [ours, theirs] })
}

fn collector(bench: &Bench, python: &Python, broker: SocketAddr) -> Result<Job> {
    let [kept, stored] = ["collected", "collected-aiosmtpd"].map(|name| bench.scratch.join(name).display().to_string());
    fs::create_dir(&kept)?;
    let replacements = [
        ("/var/mail/collected", kept),
        ("localhost:10000", broker.to_string()),
        ("ident collector", "ident writer".into()),
    ];
    let ours = ours(bench, "collector", &replacements, &[("HPFEEDS_SECRET", SECRET)])?;
    let theirs = python.start(bench, "collector", &[&broker.port().to_string(), SECRET, &stored])?;
    Ok(Job { name: "collector", hello: &[("LHLO bench.localhost", "250")], servers: [ours, theirs] })
}

/// mailrecv with a shipped file, in which something is replaced.
fn ours(bench: &Bench, name: &str, replacements: &[(&str, String)], environment: &[(&str, &str)]) -> Result<Server> {
    let mut text = fs::read_to_string(repository::path(&format!("etc/mailrecv-{name}.conf")))?;
    for (shipped, instead) in replacements {
        text = text.replace(shipped, instead);
    }
    let config = bench.scratch.join(format!("{name}.conf"));
    fs::write(&config, text)?;
    let address = free_port(LOOPBACK[0]);
    let mut command = Command::new(bench.program());
    command.arg("-c").arg(config).args(["listen", "--max-per-address", "200", &address.to_string()]);
    command.envs(environment.iter().copied());
    Server::start(command, address, bench.scratch.join(format!("{name}.said")))
}

/// The interpreter that has the library.
pub(crate) struct Python(PathBuf);

/// Gets what `benches/aiosmtpd` wants, unless it is there.
pub(crate) fn python() -> Result<Python> {
    let (wanted, folder) = (repository::path("benches/aiosmtpd/requirements.txt"), repository::path("target/aiosmtpd"));
    let (python, installed) = (folder.join("venv/bin/python"), folder.join("installed.txt"));
    let requirements = fs::read(&wanted)?;
    if fs::read(&installed).is_ok_and(|installed| installed == requirements) {
        return Ok(Python(python));
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(folder.join("venv"));
    process::succeeds_within(make, "", INSTALLING);
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]);
    install.arg(wanted);
    process::succeeds_within(install, "", INSTALLING);
    fs::write(installed, requirements)?;
    Ok(Python(python))
}

impl Python {
    pub(crate) fn start(&self, bench: &Bench, job: &str, arguments: &[&str]) -> Result<Server> {
        let address = free_port(LOOPBACK[0]);
        let mut command = Command::new(&self.0);
        command.arg(repository::path("benches/aiosmtpd/neighbours.py")).args([job, &address.port().to_string()]);
        command.args(arguments);
        Server::start(command, address, bench.scratch.join(format!("{job}-aiosmtpd.said")))
    }
}

impl Server {
    /// Returns when it answers.
    pub(crate) fn start(command: Command, address: SocketAddr, said: PathBuf) -> Result<Self> {
        let mut daemon = Daemon::start(command, said);
        daemon.until("a server that listens", |_| testkit::tcp::is_listening(address).then_some(()));
        Ok(Self { daemon, address })
    }

    /// Of it and its children, in KiB.
    fn memory(&self) -> f64 {
        tree::memory(self.daemon.pid())
    }
}

fn measure(bench: &mut Bench, job: &Job) -> Result<()> {
    let mail = message(1_000);
    // Per figure a series of pairs.
    let mut series: [Vec<(f64, f64)>; 6] = Default::default();
    for turn in 0..=bench.runs() {
        let times = job.in_turns(turn, |server| {
            let began = Instant::now();
            job.open(server.address)?.end()?;
            let nothing = began.elapsed();
            let began = Instant::now();
            let mut session = job.open(server.address)?;
            session.deliver(&mail)?;
            let first = Instant::now();
            session.deliver(&mail)?;
            let another = first.elapsed();
            session.end()?;
            Ok([nothing, began.elapsed() - another, another].map(milliseconds))
        })?;
        // The first turn fills caches.
        if turn > 0 {
            series.iter_mut().zip(pairs(times)).for_each(|(series, pair)| series.push(pair));
        }
    }
    for turn in 0..bench.few_runs() {
        let figures = job.in_turns(turn, |server| {
            let waiting = server.memory();
            let sessions = (0..IDLE).map(|_| job.open(server.address)).collect::<Result<Vec<_>>>()?;
            let busy = server.memory();
            sessions.into_iter().try_for_each(Talk::end)?;
            Ok([job.rate(server.address, &mail)?, waiting, busy])
        })?;
        series[3..].iter_mut().zip(pairs(figures)).for_each(|(series, pair)| series.push(pair));
    }
    let what = [
        ("a session, connect to close", Unit::Milliseconds),
        ("a session with a small mail, connect to close", Unit::Milliseconds),
        ("another small mail in the session", Unit::Milliseconds),
        ("sessions with a small mail, eight at once", Unit::PerSecond),
        ("nobody connected, PSS", Unit::Kibibytes),
        ("fifty idle sessions, PSS of all", Unit::Kibibytes),
    ];
    for ((what, unit), pairs) in what.into_iter().zip(series) {
        let figure = Figure::new(&format!("{}: {what}", job.name), unit, None);
        bench.rows.push(Row { figure, rival: "aiosmtpd".to_owned(), pairs });
    }
    Ok(())
}

/// Each figure of ours and of theirs.
fn pairs<const N: usize>([ours, theirs]: [[f64; N]; 2]) -> [(f64, f64); N] {
    std::array::from_fn(|place| (ours[place], theirs[place]))
}

impl Job {
    /// Does it with both servers, and the other way round in the next turn.
    fn in_turns<const N: usize>(
        &self,
        turn: usize,
        mut sample: impl FnMut(&Server) -> Result<[f64; N]>,
    ) -> Result<[[f64; N]; 2]> {
        let mut taken = [[f64::NAN; N]; 2];
        for place in [turn % 2, (turn + 1) % 2] {
            let server = &self.servers[place];
            taken[place] = sample(server).map_err(|problem| {
                format!(
                    "{} {}: {problem}; it said {}",
                    self.name,
                    ["mailrecv", "aiosmtpd"][place],
                    server.daemon.output()
                )
            })?;
        }
        Ok(taken)
    }

    /// A session up to where MAIL may follow.
    fn open(&self, address: SocketAddr) -> Result<Talk> {
        Talk::open(address, self.hello)
    }

    /// Sessions with one mail in a second, by clients that come again as soon as they are through.
    fn rate(&self, address: SocketAddr, mail: &[u8]) -> Result<f64> {
        let began = Instant::now();
        let client = || {
            let mut served = 0_u32;
            while began.elapsed() < Duration::from_secs(1) {
                let deliver = || -> Result<()> {
                    let mut session = self.open(address)?;
                    session.deliver(mail)?;
                    session.end()
                };
                deliver().map_err(|problem| problem.to_string())?;
                served += 1;
            }
            Ok::<u32, String>(served)
        };
        let served: std::result::Result<Vec<u32>, String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked")?).collect()
        });
        Ok(f64::from(served?.iter().sum::<u32>()) / began.elapsed().as_secs_f64())
    }
}

/// The peer's end of a session.
pub(crate) struct Talk(Client);

impl Talk {
    /// Connects, and says these lines, each with the beginning of its reply.
    pub(crate) fn open(address: SocketAddr, hello: &[(&str, &str)]) -> Result<Self> {
        let mut talk = Self(Client::on_tcp(TcpStream::connect(address)?));
        talk.expect("220")?;
        hello.iter().try_for_each(|(line, code)| talk.ask(line, code))?;
        Ok(talk)
    }

    fn ask(&mut self, line: &str, code: &str) -> Result<()> {
        self.0.send(format!("{line}\r\n"));
        self.expect(code).map_err(|problem| format!("{line}: {problem}").into())
    }

    fn expect(&mut self, code: &str) -> Result<()> {
        let reply = self.0.try_reply()?;
        if reply.starts_with(code) { Ok(()) } else { Err(format!("expected {code}, got {reply}").into()) }
    }

    fn deliver(&mut self, mail: &[u8]) -> Result<()> {
        self.deliver_to("fred@example.com", mail)
    }

    pub(crate) fn deliver_to(&mut self, recipient: &str, mail: &[u8]) -> Result<()> {
        self.ask("MAIL FROM:<bench@example.com>", "250")?;
        self.ask(&format!("RCPT TO:<{recipient}>"), "250")?;
        self.ask("DATA", "354")?;
        self.0.send(mail);
        self.expect("250")
    }

    /// Says QUIT and hangs up, as a sender does who has its 250: some servers wait a moment for that before they answer.
    pub(crate) fn leave(mut self) {
        self.0.send("QUIT\r\n");
        self.0.half_close();
        let _ = self.0.try_rest();
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.ask("QUIT", "221")?;
        self.0.try_rest()?;
        Ok(())
    }
}

const PASSWORD: &str = "correct horse";

const CLIENTS: usize = 8;

const IDLE: usize = 50;

/// How long that may take.
const INSTALLING: Duration = Duration::from_mins(10);
