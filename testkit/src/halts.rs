//! A program that is halted after each of its system calls, so that a test can do between two of them what others do at
//! the worst moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::debian;

/// A program under strace, which stops it.
pub struct Halts {
    log: PathBuf,
    count: AtomicUsize,
    is_over: AtomicBool,
}

impl Halts {
    /// The command, halted after each of these system calls, as strace's `trace=` has them; `log` is a file for strace.
    pub fn of(command: &Command, calls: &str, log: &Path) -> (Self, Command) {
        let mut traced = Command::new(debian::program("strace", "strace"));
        traced.args(["-f", "-o"]).arg(log);
        traced.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:signal=SIGSTOP")]);
        traced.arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            traced.current_dir(folder);
        }
        (Self { log: log.to_owned(), count: AtomicUsize::new(0), is_over: AtomicBool::new(false) }, traced)
    }

    /// How often the program has been halted so far.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Runs `talk`, and meanwhile lets the program go on each time, after `at_halt`, which is told how many halts there
    /// were before.
    pub fn during<T>(&self, mut at_halt: impl FnMut(usize) + Send, talk: impl FnOnce() -> T) -> T {
        /// Also when `talk` panics.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                while !self.is_over.load(SeqCst) {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    let halts = log.lines().filter(|line| line.ends_with("--- stopped by SIGSTOP ---"));
                    for halt in halts.skip(self.count()) {
                        at_halt(self.count());
                        self.count.fetch_add(1, SeqCst);
                        let pid =
                            halt.split(' ').next().and_then(|pid| pid.parse().ok()).expect("strace names the process");
                        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                    }
                    thread::sleep(Duration::from_micros(200));
                }
            });
            let _over = Over(&self.is_over);
            talk()
        })
    }
}
