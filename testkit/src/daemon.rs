//! Daemons that run beside a test and end with it, and the ports they listen on.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{Process, wait_until};

/// A process in a group of its own; dropped, the whole group is stopped and waited for.
pub struct Daemon {
    process: Process,
    output: PathBuf,
}

impl Daemon {
    /// Starts it. What it says goes to the file.
    pub fn start(mut command: Command, output: PathBuf) -> Self {
        let file = File::create(&output).expect("a file for what a daemon says");
        let copy = file.try_clone().expect("a copy of the descriptor");
        command.stdin(Stdio::null()).stdout(copy).stderr(file).process_group(0);
        Self { process: Process::start(command), output }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// What it has said until now.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).expect("what a daemon says")
    }

    /// Waits until `ask` has an answer; fails at once if the process ends before.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&str) -> Option<T>) -> T {
        wait_until(what, || {
            let answer = ask(&self.output());
            if let (None, Some(status)) = (&answer, self.process.ended()) {
                panic!("ended ({status}) before {what}: {}", self.output());
            }
            answer
        })
    }

    /// Sends a signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Sends a signal to its whole group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        killpg(self.pid(), signal).expect("sending a signal");
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits for its end; as [`Process::exit_code`].
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        self.process.exit_code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The leader first: most stop their children by themselves.
        for (signal, patience) in [(Signal::SIGTERM, 3), (Signal::SIGKILL, 1)] {
            let _ = killpg(self.pid(), signal);
            let deadline = Instant::now() + Duration::from_secs(patience);
            while self.process.ended().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A port of this address that nobody uses, and that no other test gets, also of those that run beside this one: as long
/// as this process lives, an abstract socket (unix(7)) bears its number. The kernel chooses ports for clients above this
/// range, so none can take it before the daemon does.
pub fn free_port(address: IpAddr) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 1000).unwrap() * 10;
    wait_until("a free port", || {
        let port = 12_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        let address = SocketAddr::new(address, port);
        let name = UnixAddress::from_abstract_name(format!("testkit-port-{port}")).ok()?;
        let reserved = UnixDatagram::bind_addr(&name).ok()?;
        TcpListener::bind(address).ok()?;
        std::mem::forget(reserved);
        Some(address)
    })
}
