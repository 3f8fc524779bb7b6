//! A thousand connections a second for a minute (`--seconds`), by who accepts them. They come at their times, however the
//! ones before fare, and each is counted from the moment at which it was due. Needs root, and what `tests/run` installs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, geteuid};
use testkit::tcp::connect_from;

use crate::bench::Bench;
use crate::sessions::milliseconds;
use crate::super_servers::support::receiver::Receiver;
use crate::super_servers::support::super_server::SuperServer;
use crate::super_servers::{converse, install, name};
use crate::table::{Table, share};
use crate::{Result, tree};

pub(crate) fn connections(bench: &mut Bench) -> Result<()> {
    if !geteuid().is_root() {
        return Err("starting super-servers needs root".into());
    }
    let time = bench.time();
    let count = RATE * u32::try_from(time.as_secs())?;
    let mut receiver = Receiver::new("");
    receiver.knows_hosts((0..SOURCES).map(|number| format!("{} peer-{number}.example\n", source(number))).collect());
    install(bench.program(), &receiver.binary());
    let mut table = Table::new(
        &format!("{RATE} connections a second for {} s, each greeted and closed with QUIT", time.as_secs()),
        &[
            "who accepts",
            "served",
            "refused, or 10 s too late",
            "p50",
            "p99",
            "processor time",
            "for each served",
            "most memory, PSS",
        ],
    );
    for server in SERVERS {
        eprintln!("budget: connections: {}, {} s ...", name(server), time.as_secs());
        let service = server.start(&receiver, Ipv4Addr::LOCALHOST.into(), "");
        let Flood { mut times, refused, processor_time, memory } = flood(service.address, service.pid(), count)?;
        times.sort_by(f64::total_cmp);
        table.add(vec![
            name(server).to_owned(),
            times.len().to_string(),
            refused.to_string(),
            format!("{:.1} ms", share(&times, 50)),
            format!("{:.1} ms", share(&times, 99)),
            format!("{:.1} s", processor_time.as_secs_f64()),
            format!("{:.2} ms", milliseconds(processor_time) / times.len() as f64),
            format!("{memory:.0} KiB"),
        ]);
    }
    bench.tables.push(table);
    Ok(())
}

/// What became of the connections.
struct Flood {
    /// Of those that were served, in milliseconds.
    times: Vec<f64>,
    refused: u32,
    processor_time: Duration,
    /// The most that was seen, in KiB.
    memory: f64,
}

fn flood(address: SocketAddr, pid: Pid, count: u32) -> Result<Flood> {
    let before = tree::processor_time(pid)?;
    let (began, next) = (Instant::now(), AtomicU32::new(0));
    let client = || {
        let (mut times, mut refused) = (Vec::new(), 0);
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= count {
                return (times, refused);
            }
            let due = began + Duration::from_secs(1) * number / RATE;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let is_too_late = due.elapsed() > TOO_LATE;
            match is_too_late || session(number, address).is_err() {
                false => times.push(milliseconds(due.elapsed())),
                true => refused += 1,
            }
        }
    };
    let (mut memory, mut told) = (0.0_f64, began);
    let clients: Vec<(Vec<f64>, u32)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        while !clients.iter().all(|client| client.is_finished()) {
            thread::sleep(SAMPLE);
            memory = memory.max(tree::memory(pid));
            if told.elapsed() >= TELL {
                told = Instant::now();
                eprintln!("budget: connections: {} of {count}", next.load(Relaxed).min(count));
            }
        }
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| "a client panicked"))
            .collect::<std::result::Result<_, _>>()
    })?;
    let processor_time = tree::processor_time(pid)?.saturating_sub(before);
    let refused = clients.iter().map(|(_, refused)| refused).sum();
    Ok(Flood { times: clients.into_iter().flat_map(|(times, _)| times).collect(), refused, processor_time, memory })
}

/// An error if it does not come to its end, or stops for too long.
fn session(number: u32, address: SocketAddr) -> Result<()> {
    Ok(converse(connect_from(source(number).into(), address, TOO_LATE)?)?)
}

/// Where a connection comes from.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number % SOURCES)
}

const SERVERS: [SuperServer; 4] =
    [SuperServer::Listen, SuperServer::Tcpserver, SuperServer::Xinetd, SuperServer::SystemdSocketActivate];

/// Connections a second.
const RATE: u32 = 1000;

/// How many wait for their connections at once: enough for a server that needs a tenth of a second for each.
const CLIENTS: u32 = 100;

/// How many addresses they come from, so that none has more than it may. No name server hears of them.
const SOURCES: u32 = 100;

/// Who is so late, or waits for so long, gives up: where a server cannot keep up, the end would never come.
const TOO_LATE: Duration = Duration::from_secs(10);

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(250);

/// How often it is told how far it is.
const TELL: Duration = Duration::from_secs(10);
