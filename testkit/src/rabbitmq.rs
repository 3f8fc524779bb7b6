//! RabbitMQ, unpacked: one node or several that are a cluster, ordinary processes on the loopback interface with folders of
//! their own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::daemon::free_port;
use crate::process::succeeds_within;
use crate::{Daemon, Folder, LOOPBACK, debian};

/// Nodes that know each other.
pub struct RabbitMq {
    nodes: Vec<Node>,
    // Started before the nodes, which would start one of their own that outlives them.
    _port_mapper: Daemon,
    port_mapper_port: u16,
    // Behind all of them, which are stopped by then.
    folder: Folder,
}

struct Node {
    address: SocketAddr,
    distribution_port: u16,
    /// `None` while it is stopped.
    daemon: Option<Daemon>,
}

impl RabbitMq {
    /// Starts so many nodes, and waits until they are a cluster. `settings` are lines of rabbitmq.conf, for all of them.
    pub fn start(count: usize, settings: &str) -> Self {
        let folder = Folder::new();
        let port_mapper_port = free_port(LOOPBACK[0]).port();
        let mut port_mapper = Command::new("epmd");
        port_mapper.args(["-address", "127.0.0.1", "-port", &port_mapper_port.to_string()]);
        let port_mapper = Daemon::start(port_mapper, folder.path("epmd.out"));
        let address = || free_port(LOOPBACK[0]);
        let node = |_| Node { address: address(), distribution_port: address().port(), daemon: None };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        let mut rabbit = Self { nodes, _port_mapper: port_mapper, port_mapper_port, folder };
        let mut all = String::from("cluster_partition_handling = pause_minority\n");
        if count > 1 {
            all += "cluster_formation.peer_discovery_backend = classic_config\n";
            for number in 1..=count {
                all += &format!("cluster_formation.classic_config.nodes.{number} = r{number}@localhost\n");
            }
        }
        for number in 0..count {
            let name = format!("r{}", number + 1);
            for part in ["mnesia", "log"] {
                fs::create_dir_all(rabbit.folder.path(format!("{name}/{part}"))).expect("a folder");
            }
            let listener = format!("listeners.tcp.1 = {}\n", rabbit.nodes[number].address);
            rabbit
                .folder
                .write(format!("{name}/rabbitmq.conf"), listener + if count > 1 { &all } else { "" } + settings);
            rabbit.folder.write(format!("{name}/enabled_plugins"), "[].\n");
        }
        (0..count).for_each(|number| rabbit.launch(number));
        (0..count).for_each(|number| rabbit.until_up(number));
        let running = |rabbit: &Self| {
            let status = rabbit.control(0, &["cluster_status", "--formatter", "json"]);
            let running = status.split("\"running_nodes\":[").nth(1).and_then(|list| list.split(']').next());
            running.map_or(0, |list| list.matches('@').count())
        };
        let deadline = Instant::now() + PATIENCE;
        // One alone runs when it answers.
        while count > 1 && running(&rabbit) < count {
            assert!(Instant::now() < deadline, "{count} nodes are no cluster");
            std::thread::sleep(Duration::from_secs(1));
        }
        rabbit
    }

    /// Where a node listens.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    /// Stops a node as systemd would, and waits for its end.
    pub fn stop(&mut self, node: usize) {
        if let Some(mut daemon) = self.nodes[node].daemon.take() {
            daemon.signal_group(Signal::SIGTERM);
            let deadline = Instant::now() + PATIENCE;
            while daemon.ended().is_none() {
                assert!(Instant::now() < deadline, "a node does not end: {}", daemon.output());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Kills a node, as a machine dies.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut daemon) = self.nodes[node].daemon.take() {
            daemon.signal_group(Signal::SIGKILL);
            let _ = daemon.exit_code();
        }
    }

    /// Sends a signal to a node and what it has started.
    pub fn signal(&self, node: usize, signal: Signal) {
        if let Some(daemon) = &self.nodes[node].daemon {
            daemon.signal_group(signal);
        }
    }

    /// Starts a node that was stopped, and waits until it answers.
    pub fn start_again(&mut self, node: usize) {
        self.launch(node);
        self.until_up(node);
    }

    /// Runs rabbitmqctl(8) about a node; what it prints.
    pub fn control(&self, node: usize, arguments: &[&str]) -> String {
        let mut command = self.command("rabbitmqctl", node);
        command.arg("-q").args(arguments);
        succeeds_within(command, "", PATIENCE)
    }

    /// Runs Python with pika, an AMQP client, and a script that finds the ports of all nodes in `ports`; what it prints.
    pub fn pika(&self, script: &str) -> String {
        succeeds_within(self.pika_command(script), "", PATIENCE)
    }

    /// The same to be started.
    pub fn pika_command(&self, script: &str) -> Command {
        let ports: Vec<u16> = self.nodes.iter().map(|node| node.address.port()).collect();
        let mut python = debian::python_with("python3-pika");
        python.arg("-c").arg(format!("{PIKA}\nports = {ports:?}\n{script}"));
        python
    }

    fn launch(&mut self, node: usize) {
        let name = format!("r{}", node + 1);
        let daemon = Daemon::start(self.command("rabbitmq-server", node), self.folder.path(format!("{name}/out")));
        self.nodes[node].daemon = Some(daemon);
    }

    fn until_up(&mut self, node: usize) {
        let Node { address, daemon, .. } = &mut self.nodes[node];
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(*address).is_err() {
            let said = daemon.as_mut().map(|daemon| (daemon.ended(), daemon.output()));
            assert!(Instant::now() < deadline && said.as_ref().is_some_and(|(ended, _)| ended.is_none()), "{said:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn command(&self, program: &str, node: usize) -> Command {
        let name = format!("r{}", node + 1);
        let path = |part: &str| self.folder.path(format!("{name}/{part}"));
        let mut command = Command::new(scripts().join(program));
        command
            .env("HOME", self.folder.path(""))
            .env("RABBITMQ_BASE", path(""))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_NODENAME", format!("{name}@localhost"))
            .env("RABBITMQ_DIST_PORT", self.nodes[node].distribution_port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.port_mapper_port.to_string())
            // One scheduler that does not wait busily: kind to a small machine.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            );
        command
    }
}

/// Whether RabbitMQ is there, and a client of it.
pub fn is_installed() -> bool {
    let has = |package: &str, path: &str| debian::root(package).join(path).is_dir();
    has("rabbitmq-server", "usr/lib/rabbitmq/lib") && has("python3-pika", "usr/lib/python3/dist-packages/pika")
}

/// The folder of its programs, which has its version in its name.
#[track_caller]
fn scripts() -> PathBuf {
    let versions = debian::root("rabbitmq-server").join("usr/lib/rabbitmq/lib");
    let mut found = fs::read_dir(&versions).into_iter().flatten().flatten().map(|entry| entry.path().join("sbin"));
    found
        .find(|path| path.is_dir())
        .unwrap_or_else(|| panic!("RabbitMQ of Debian's package rabbitmq-server is missing: tests/run installs it"))
}

/// Erlang starts slowly, and a cluster more so.
const PATIENCE: Duration = Duration::from_mins(15);

const PIKA: &str = "
import pika, time, sys
def channel(port):
    parameters = pika.ConnectionParameters('127.0.0.1', port, heartbeat=0)
    for attempt in range(60):
        try:
            return pika.BlockingConnection(parameters).channel()
        except Exception as error:
            last = error
            time.sleep(1)
    raise last
";
