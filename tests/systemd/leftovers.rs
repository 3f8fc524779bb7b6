//! Nothing is left of sessions.

use std::thread;
use std::time::{Duration, Instant};

use testkit::{Client, LOOPBACK, PATIENCE};

use crate::support::{CONFIG, Installation, Pair};

#[test]
fn sessions_of_one_service_leave_nothing() {
    leave_nothing(Pair::OneService, 200);
}

#[test]
fn sessions_of_a_service_each_leave_nothing() {
    leave_nothing(Pair::PerConnection, 200);
}

/// What is left of some of them only. Takes minutes: `tests/run --test systemd -- --ignored`.
#[test]
#[ignore = "takes some minutes"]
fn five_thousand_sessions_leave_nothing() {
    for pair in Pair::ALL {
        leave_nothing(pair, 5_000);
    }
}

/// Units, slices, control groups, processes, and descriptors of those who accept connections.
fn leave_nothing(pair: Pair, sessions: usize) {
    let installation = Installation::boot(pair, CONFIG);
    // What comes with the first one stays: the service, or the slice of all sessions.
    installation.machine.in_its_network(session);
    let before = settled(&installation, |things| !things.has_session());
    installation.machine.in_its_network(|| (0..sessions).for_each(|_| session()));
    let after = settled(&installation, |things| *things == before);
    assert_eq!(after, before);
}

fn session() {
    let mut peer = Client::connect((LOOPBACK[0], 25).into());
    peer.expect("220 ");
    peer.exchange("QUIT", "221 ");
}

/// What could be left.
#[derive(Debug, PartialEq, Eq)]
struct Things {
    /// Units and slices.
    units: Vec<String>,
    control_groups: String,
    /// Their names and command lines.
    processes: Vec<String>,
    /// How many there are of systemd's, and of the service's.
    descriptors: Vec<usize>,
}

impl Things {
    fn of(installation: &Installation) -> Self {
        let machine = &installation.machine;
        let units = machine.systemctl(&["list-units", "--all", "--plain", "--no-legend", "*mailrecv*"]);
        let units = units.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        // They come and go.
        let control_groups =
            machine.run("find", &["/sys/fs/cgroup", "-ignore_readdir_race", "-type", "d", "-name", "*mailrecv*"]);
        // One that nobody has waited for has a name and no command line.
        let list = "for folder in /proc/[0-9]*; do \
            read -r name <$folder/comm && echo \"$name: $(tr '\\0' ' ' <$folder/cmdline)\"; \
            done 2>/dev/null; exit 0";
        let processes = machine.run("sh", &["-c", list]);
        let processes = processes.lines().filter(|line| line.starts_with("mailrecv: ")).map(str::to_owned).collect();
        let main = installation.main_process();
        let holders = ["1", &main].into_iter().filter(|process| *process != "0");
        let count = |process| machine.run("ls", &[&format!("/proc/{process}/fd")]).lines().count();
        Self { units, control_groups, processes, descriptors: holders.map(count).collect() }
    }

    /// Whether there is one that serves a peer.
    fn has_session(&self) -> bool {
        let unit = |unit: &String| unit.starts_with("mailrecv-percon@");
        self.units.iter().any(unit) || self.processes.iter().any(|line| !line.contains(" listen "))
    }
}

/// What there is once that holds, or does not in time.
fn settled(installation: &Installation, holds: impl Fn(&Things) -> bool) -> Things {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let things = Things::of(installation);
        if holds(&things) || Instant::now() > deadline {
            return things;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
