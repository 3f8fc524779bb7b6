//! The broker of hpfeeds, from PyPI, and a subscriber with the same package's client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::free_port;
use crate::{Daemon, Folder, LOOPBACK, repository, wait_until};

/// A running broker with two users, `writer` and `reader`, and one channel, [`CHANNEL`].
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    metrics: SocketAddr,
    /// Its process.
    pub daemon: Daemon,
    // Behind the daemon, which is stopped by then.
    _folder: Folder,
}

/// The channel in which `writer` may publish.
pub const CHANNEL: &str = "spam.mails";

/// What both users show that they are who they are. It is in no other text, so that one that has it gives it away.
pub const SECRET: &str = "s3kr1t-0f-hpf33ds";

impl Broker {
    /// Starts one at a port of its own.
    pub fn start() -> Self {
        let (address, metrics, folder) = (free_port(LOOPBACK[0]), free_port(LOOPBACK[0]), Folder::new());
        let user = |publishes: &str, subscribes: &str| {
            format!(
                "{{\"owner\": \"test\", \"secret\": \"{SECRET}\", \"pubchans\": [{publishes}], \"subchans\": [{subscribes}]}}"
            )
        };
        let channel = format!("\"{CHANNEL}\"");
        folder
            .write("users.json", format!("{{\"writer\": {}, \"reader\": {}}}", user(&channel, ""), user("", &channel)));
        let mut command = Command::new(program("hpfeeds-broker"));
        command.args(["--auth", "users.json", "--name", "test"]);
        command.args(["--endpoint", &format!("tcp:interface=127.0.0.1:port={}", address.port())]);
        command.args(["--exporter", &metrics.to_string()]).current_dir(folder.path(""));
        let mut daemon = Daemon::start(command, folder.path("broker.out"));
        // A connection in place of a look at the kernel's table: it has to answer. Python takes its time on a busy machine.
        let deadline = Instant::now() + STARTING;
        while TcpStream::connect(address).and_then(|mut broker| broker.read(&mut [0])).is_err() {
            let (ended, said) = (daemon.ended(), daemon.output());
            assert!(ended.is_none() && Instant::now() < deadline, "no broker ({ended:?}): {said}");
            thread::sleep(Duration::from_millis(20));
        }
        Self { address, metrics, daemon, _folder: folder }
    }

    /// A subscriber of the channel, once the broker knows of it.
    pub fn subscriber(&self) -> Subscriber {
        let folder = Folder::new();
        let mut command = Command::new(program("python"));
        command.args(["-c", SUBSCRIBER, "127.0.0.1", &self.address.port().to_string(), SECRET, CHANNEL]);
        let daemon = Daemon::start(command, folder.path("subscriber.out"));
        let subscription = format!("hpfeeds_broker_subscriptions{{chan=\"{CHANNEL}\",ident=\"reader\"}} 1.0");
        let deadline = Instant::now() + STARTING;
        while !self.metrics().contains(&subscription) {
            assert!(Instant::now() < deadline, "no subscription: {}", daemon.output());
            thread::sleep(Duration::from_millis(20));
        }
        Subscriber { daemon, _folder: folder }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        let Ok(mut connection) = TcpStream::connect(self.metrics) else { return text };
        let _ = connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let _ = connection.read_to_string(&mut text);
        text
    }
}

/// Somebody who gets whatever is published in the channel from now on.
pub struct Subscriber {
    daemon: Daemon,
    _folder: Folder,
}

impl Subscriber {
    /// What was published until now.
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let output = self.daemon.output();
        // The last line may not be whole.
        let lines = output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| bytes_of(line).unwrap_or_else(|| panic!("the subscriber says {line}"))).collect()
    }

    /// Waits until so much was published, and returns it.
    #[track_caller]
    pub fn until(&self, count: usize) -> Vec<Vec<u8>> {
        wait_until("what is published", || Some(self.payloads()).filter(|payloads| payloads.len() >= count))
    }
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hexadecimal.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty())
}

/// Whether the package is there.
pub fn is_installed() -> bool {
    path_of("hpfeeds-broker").exists()
}

fn path_of(name: &str) -> PathBuf {
    repository::path("target/hpfeeds/venv/bin").join(name)
}

/// A program of the package. Fails if it is not there.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = path_of(name);
    assert!(path.exists(), "{} is missing: run tests/run, which installs it", path.display());
    path
}

/// How long a broker may take to start.
const STARTING: Duration = Duration::from_mins(3);

const SUBSCRIBER: &str = "
import asyncio, sys
from hpfeeds.asyncio import ClientSession
host, port, secret, channel = sys.argv[1:]
async def main():
    async with ClientSession(host, int(port), 'reader', secret) as session:
        session.subscribe(channel)
        async for ident, channel_, payload in session:
            print(payload.hex(), flush=True)
asyncio.run(main())
";
