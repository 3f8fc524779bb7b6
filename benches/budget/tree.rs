//! What a server takes together with everything that it has started, from /proc.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;
use testkit::process;

use crate::Result;

/// It and its descendants, zombies among them.
pub(crate) fn of(pid: Pid) -> Vec<Pid> {
    let (mut all, mut at) = (vec![pid], 0);
    while let Some(pid) = all.get(at) {
        // A session may have ended meanwhile.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw));
        at += 1;
    }
    all
}

/// What they have in memory, each its share of what several have in common (PSS), in KiB.
pub(crate) fn memory(pid: Pid) -> f64 {
    of(pid).into_iter().filter_map(|pid| process::memory(pid, "smaps_rollup", "Pss")).sum::<u64>() as f64
}

/// The processor time that they have taken, those that have ended and were waited for among them.
pub(crate) fn processor_time(pid: Pid) -> Result<Duration> {
    let mut ticks = 0;
    for pid in of(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        // utime, stime, cutime and cstime (proc_pid_stat(5)).
        for field in fields.split_whitespace().skip(11).take(4) {
            ticks += field.parse::<u32>()?;
        }
    }
    Ok(Duration::from_secs(1) * ticks / TICKS)
}

/// In a second: USER_HZ, which is the same on every Linux that Rust runs on (time(7)).
const TICKS: u32 = 100;
