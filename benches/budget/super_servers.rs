//! What a connection costs by who accepts it: the super-servers, each with the entry or unit that is shipped, and what
//! they take while nobody is connected. systemd's part is played by a real one, in a machine of its own. Needs root, and
//! what `tests/run` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up is a failure")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use testkit::debian::{USER, chown};
use testkit::{Machine, PATIENCE, repository, succeeds};

use crate::Result;
use crate::bench::Bench;
use crate::sessions::milliseconds;
use crate::table::{Figure, Row, Target, Unit};
use support::receiver::Receiver;
use support::super_server::{Service, SuperServer};

#[path = "../../tests/activation/support/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
pub(crate) mod support;

/// Something that accepts connections and starts mailrecv.
struct Way<'m> {
    name: &'static str,
    /// The machine that it is in, if it is not this one.
    machine: Option<&'m Machine>,
    address: SocketAddr,
    /// The process that waits for connections, by the number that it has where it is. systemd waits for much else.
    waits: Option<String>,
    /// For a connection, in milliseconds.
    target: Option<Target>,
}

pub(crate) fn super_servers(bench: &mut Bench) -> Result<()> {
    if !geteuid().is_root() {
        return Err("starting super-servers needs root".into());
    }
    let receiver = Receiver::new("");
    install(bench.program(), &receiver.binary());
    let services: Vec<(SuperServer, Service)> = SuperServer::ALL
        .into_iter()
        .map(|server| (server, server.start(&receiver, Ipv4Addr::LOCALHOST.into(), "")))
        .collect();
    let outside = services.iter().map(|(server, service)| Way {
        name: name(*server),
        machine: None,
        address: service.address,
        waits: Some(service.pid().to_string()),
        target: None,
    });
    let machine = Machine::boot(|root| prepare(bench.program(), root));
    let inside = UNITS.map(|Units { name, socket, service, port, target }| {
        machine.systemctl(&["start", socket]);
        service.map(|service| machine.systemctl(&["start", service]));
        let waits = service.map(|service| machine.property(service, "MainPID"));
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        Way { name, machine: Some(&machine), address, waits, target }
    });
    let mut ways: Vec<Way<'_>> = outside.chain(inside).collect();
    // What all are compared with comes first.
    let place = ways.iter().position(|way| way.name == LISTEN).ok_or("nobody to compare with")?;
    ways.swap(0, place);
    measure(bench, &ways)
}

fn measure(bench: &mut Bench, ways: &[Way<'_>]) -> Result<()> {
    let mut times = vec![Vec::new(); ways.len()];
    let mut rates = vec![Vec::new(); ways.len()];
    let mut memories = vec![Vec::new(); ways.len()];
    for turn in 0..=bench.runs() {
        for (way, times) in ways.iter().zip(&mut times) {
            // The first one wakes up who has had nothing to do during the others' turns.
            way.enter(|| session(way.address))?;
            let time = way.enter(|| session(way.address))?;
            // What it leaves behind is cleared away now, and not in the next one's time.
            thread::sleep(time);
            // The first turn fills caches.
            if turn > 0 {
                times.push(milliseconds(time));
            }
        }
    }
    for _ in 0..bench.few_runs() {
        for (place, way) in ways.iter().enumerate() {
            rates[place].push(way.enter(|| rate(way.address))?);
            memories[place].push(way.memory()?);
        }
    }
    let rows = [
        ("connect to close", Unit::AddedMilliseconds, times),
        ("eight connections at once, rate", Unit::PerSecond, rates),
        ("who waits for connections, PSS", Unit::Kibibytes, memories),
    ];
    for (what, unit, values) in rows {
        for (way, own) in ways.iter().zip(&values) {
            let target = way.target.filter(|_| matches!(unit, Unit::AddedMilliseconds));
            let pairs: Vec<_> = own.iter().copied().zip(values[0].iter().copied()).collect();
            if pairs.iter().all(|(own, _)| own.is_finite()) {
                let figure = Figure::new(&format!("{}: {what}", way.name), unit, target);
                bench.rows.push(Row { figure, rival: LISTEN.to_owned(), pairs });
            }
        }
    }
    Ok(())
}

impl Way<'_> {
    /// Does something where it can be reached.
    fn enter<T: Send>(&self, deed: impl FnOnce() -> std::result::Result<T, String> + Send) -> Result<T> {
        let done = match self.machine {
            Some(machine) => machine.in_its_network(deed),
            None => deed(),
        };
        done.map_err(|problem| format!("{}: {problem}", self.name).into())
    }

    /// Of the process that waits, in KiB; NaN if there is none.
    fn memory(&self) -> Result<f64> {
        let Some(pid) = &self.waits else { return Ok(f64::NAN) };
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = match self.machine {
            Some(machine) => machine.run("cat", &[&file]),
            None => fs::read_to_string(&file)?,
        };
        let value = text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next());
        Ok(value.ok_or_else(|| format!("no Pss in {file}"))?.parse()?)
    }
}

/// Connects, is greeted, says QUIT, and is hung up on.
fn session(address: SocketAddr) -> std::result::Result<Duration, String> {
    let began = Instant::now();
    let stream = TcpStream::connect(address).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    });
    converse(stream.map_err(|problem| problem.to_string())?)?;
    Ok(began.elapsed())
}

/// Is greeted, says QUIT, and is hung up on.
pub(crate) fn converse(mut stream: TcpStream) -> std::result::Result<(), String> {
    let mut said = vec![0; 512];
    let mut converse = || {
        stream.set_nodelay(true)?;
        let length = stream.read(&mut said)?;
        said.truncate(length);
        stream.write_all(b"QUIT\r\n")?;
        stream.read_to_end(&mut said)
    };
    converse().map_err(|problem| problem.to_string())?;
    let said = String::from_utf8_lossy(&said);
    if said.starts_with("220 ") && said.contains("\n221 ") { Ok(()) } else { Err(format!("it said {said:?}")) }
}

/// Connections a second, of clients that come again as soon as they are through.
fn rate(address: SocketAddr) -> std::result::Result<f64, String> {
    const CLIENTS: u8 = 8;
    const TIME: Duration = Duration::from_secs(1);
    let began = Instant::now();
    let served: std::result::Result<Vec<u32>, String> = thread::scope(|scope| {
        let client = || {
            let mut served = 0;
            while began.elapsed() < TIME {
                session(address)?;
                served += 1;
            }
            Ok(served)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked")?).collect()
    });
    Ok(f64::from(served?.iter().sum::<u32>()) / began.elapsed().as_secs_f64())
}

/// Installs mailrecv and the units, those of old among them, each on a port of its own.
fn prepare(program: &Path, root: &Path) {
    install(program, &root.join("usr/sbin/mailrecv"));
    fs::write(root.join("etc/mailrecv.conf"), CONFIG).expect("a configuration");
    chown(root.join("var/mail"), format!("{USER}:{USER}"));
    for folder in ["systemd-socket", "benches/systemd"] {
        for unit in fs::read_dir(repository::path(folder)).expect("units") {
            let unit = unit.expect("a unit");
            let name = unit.file_name().into_string().expect("a name");
            let mut text = fs::read_to_string(unit.path()).expect("a unit");
            if let Some(units) = UNITS.iter().find(|units| units.socket == name) {
                text = text.replace("ListenStream=25\n", &format!("ListenStream={}\n", units.port));
                // One of them is enough for everybody else.
                text = text.replace("Conflicts=mailrecv.socket\n", "");
            }
            fs::write(root.join("etc/systemd/system").join(name), text).expect("a unit");
        }
    }
}

pub(crate) fn install(program: &Path, place: &Path) {
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(program).arg(place);
    succeeds(install, "");
}

pub(crate) fn name(server: SuperServer) -> &'static str {
    match server {
        SuperServer::Xinetd => "xinetd",
        SuperServer::Inetd => "openbsd-inetd",
        SuperServer::Tcpserver => "tcpserver",
        SuperServer::SystemdSocketActivate => "systemd-socket-activate",
        SuperServer::Listen => LISTEN,
    }
}

const LISTEN: &str = "mailrecv listen";

/// A pair of units in the machine.
struct Units {
    name: &'static str,
    socket: &'static str,
    /// The service, if there is one for all connections.
    service: Option<&'static str>,
    port: u16,
    target: Option<Target>,
}

const UNITS: [Units; 3] = [
    Units {
        name: "mailrecv.service",
        socket: "mailrecv.socket",
        service: Some("mailrecv.service"),
        port: 2501,
        target: Some(Target::AddsAtMost(1.5)),
    },
    Units {
        name: "mailrecv-percon@.service",
        socket: "mailrecv-percon.socket",
        service: None,
        port: 2502,
        target: Some(Target::AtMost(8.0)),
    },
    Units {
        name: "mailrecv@.service of before",
        socket: "mailrecv-before.socket",
        service: None,
        port: 2503,
        target: None,
    },
];

const CONFIG: &str = "domain mail.example.com\nlimit.fcrdns_check off\n\
    deliver rcpt_to fred@example.com append /var/mail/fred\n";
