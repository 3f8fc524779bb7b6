//! Processes that run beside a test and end with it, and the ports they listen on.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::eventually;

/// A process in a group of its own; dropped, the whole group is stopped and waited for.
pub(crate) struct Daemon {
    child: Child,
    output: PathBuf,
}

impl Daemon {
    /// Starts the command. What it says goes to the file.
    pub(crate) fn start(command: &mut Command, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        Self { child, output }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said until now.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until `probe` has something; fails at once if the process ends before.
    pub(crate) fn until<T>(&mut self, what: &str, mut probe: impl FnMut(&str) -> Option<T>) -> T {
        eventually(what, || {
            let found = probe(&self.output());
            if let (None, Some(status)) = (&found, self.child.try_wait().unwrap()) {
                panic!("ended ({status}) before {what}: {}", self.output());
            }
            found
        })
    }

    /// Sends a signal to the process, not to its group.
    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.group(), signal).unwrap();
    }

    /// Sends a signal to its whole group, as a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(self.group(), signal).unwrap();
    }

    /// Waits for its end; the exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        eventually("the end of the process", || self.child.try_wait().unwrap()).code()
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The leader first: most stop their children by themselves.
        for (signal, patience) in [(Signal::SIGTERM, 3), (Signal::SIGKILL, 1)] {
            let _ = killpg(self.group(), signal);
            let deadline = Instant::now() + Duration::from_secs(patience);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.wait();
    }
}

/// A port of this address that nobody uses, and that no other test gets. The kernel chooses ports for clients above
/// this range, so none can take it before the daemon does.
pub(crate) fn free_port(address: IpAddr) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 1000) as u16 * 10;
    eventually("a free port", || {
        let port = 12_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        let address = SocketAddr::new(address, port);
        TcpListener::bind(address).is_ok().then_some(address)
    })
}

/// Whether something listens on this port. It looks at the kernel's table: a connection would start a session.
pub(crate) fn is_listening(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        fs::read_to_string(Path::new(table)).unwrap_or_default().lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, _remote, state) = (columns.next(), columns.next(), columns.next());
            local.is_some_and(|local| local.ends_with(&port)) && state == Some(LISTEN)
        })
    })
}

/// TCP_LISTEN, as the kernel's tables have it.
const LISTEN: &str = "0A";
