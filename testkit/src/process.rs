//! Processes that do not outlive their test, programs that end by themselves in time, and what /proc says of a process.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PATIENCE, wait_until};

/// A child that is killed when it is dropped.
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        Self(spawn(&mut command))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        pid_of(&self.0)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("sending a signal");
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("waiting for a process")
    }

    /// Waits for the end. A death by signal N counts as 128 + N, as in a shell.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = wait_until("the end of a process", || self.ended());
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program that ends by itself; what it says. One that does not end in time is killed, and the test fails.
#[track_caller]
pub fn output(command: Command) -> Output {
    output_within(command, PATIENCE)
}

/// Copies a program, which can then be run. `cp` has it open while it is written, and not this process: whatever another
/// thread starts at that moment would have it open as well, up to its exec, and it could not be run ("Text file busy").
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut cp = Command::new("cp");
    cp.arg(from.as_ref()).arg(to.as_ref());
    succeeds(cp, "");
}

/// Runs a program that has to succeed, with this on its standard input; what it prints.
#[track_caller]
pub fn succeeds(command: Command, input: &str) -> String {
    succeeds_within(command, input, PATIENCE)
}

/// Like [`succeeds`], for one that takes longer.
#[track_caller]
pub fn succeeds_within(command: Command, input: &str, time: Duration) -> String {
    let what = format!("{command:?}");
    let output = output_of_input(command, input.as_bytes(), time);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Like [`output`], with this on its standard input, in this time.
#[track_caller]
pub fn output_of_input(mut command: Command, input: &[u8], time: Duration) -> Output {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    command.stdin(reader);
    let input = input.to_owned();
    // Beside it: no pipe need have room for everything. Whether it reads what it is given is its own affair.
    let writing = thread::spawn(move || writer.write_all(&input));
    let output = output_within(command, time);
    let _ = writing.join();
    output
}

#[track_caller]
fn output_within(mut command: Command, time: Duration) -> Output {
    let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (pid, what) = (pid_of(&child), format!("{command:?}"));
    // With it goes our copy of what it reads from, which must have no reader once it has ended.
    drop(command);
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(time) {
        Ok(output) => output.expect("the output of a program"),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            panic!("{what} did not end in time");
        }
    }
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// A figure in KiB that a running process has in a file of its folder in /proc, as `VmHWM` in `status`.
pub fn memory(pid: Pid, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The most memory of its own that a running process has had, in KiB: without what it has of its program's file, which is
/// shared, and three times as large in a build for debugging.
pub fn peak_memory(pid: Pid) -> Option<u64> {
    // The parts of a file that were needed once are counted until the end.
    Some(memory(pid, "status", "VmHWM")?.saturating_sub(memory(pid, "status", "RssFile")?))
}

/// Whether a process of one thread waits for something (proc_pid_stat(5)).
pub fn is_asleep(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
}

/// The children of a running process, zombies among them.
pub fn children(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a running process")
}
