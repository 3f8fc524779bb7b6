//! The processes that we start. When we have to end, all of them are ended first.

use std::fs;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Held while a process is started. It is kept by whoever ends all processes, so that no more are started.
static STARTS: Mutex<()> = Mutex::new(());

fn starts() -> MutexGuard<'static, ()> {
    STARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process.
///
/// # Errors
///
/// Those of [`Command::spawn`].
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let _starts = starts();
    command.spawn()
}

/// Runs a process to its end without input, and returns its output.
///
/// # Errors
///
/// Those of [`Command::output`].
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Ends all processes that we started, and waits until they are gone. From then on, starting a process waits forever.
///
/// The first process of a server takes all others of its namespace with it: the kernel reports its end after theirs.
pub(crate) fn end_all() {
    std::mem::forget(starts());
    loop {
        let children = own();
        if children.is_empty() {
            return;
        }
        for child in children {
            // Another of our threads may have reaped it meanwhile.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

/// Our child processes.
fn own() -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    pids.filter(|&pid| parent(pid) == Some(Pid::this())).collect()
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().map(Pid::from_raw)
}
