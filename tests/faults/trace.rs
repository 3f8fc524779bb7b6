//! Deliveries under strace: its log as a list of system calls, and faults that it injects.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use testkit::strace::{self, Call};
use testkit::{debian, panic_text};

use crate::letters::Letter;
use crate::places::{Attempt, Destinations};
use crate::report::Tally;

/// Which processes are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The receiver. strace counts the calls of each process by itself, so a fault for the receiver would also be one
    /// for its commands.
    Receiver,
    /// The receiver and what it starts.
    Everything,
}

/// Sends a message in a session of its own, with the receiver under strace; `injection` is what follows `inject=`.
pub fn deliver(
    destinations: &Destinations,
    letter: &Letter,
    reach: Reach,
    injection: Option<&str>,
) -> (Attempt, Vec<Call>) {
    under_strace(destinations, reach, injection, |wrapper| destinations.deliver(letter, wrapper))
}

/// Does something with a receiver that is started through the wrapper which it is given: strace.
pub fn under_strace<T>(
    destinations: &Destinations,
    reach: Reach,
    injection: Option<&str>,
    act: impl FnOnce(&[String]) -> T,
) -> (T, Vec<Call>) {
    let log = destinations.scratch.path("strace");
    let strace = debian::program("strace", "strace").display().to_string();
    let mut wrapper = [&strace, "-y", "-s", "4194304", "-e", NOT_TRACED].map(str::to_owned).to_vec();
    if reach == Reach::Everything {
        wrapper.push("-f".to_owned());
    }
    wrapper.extend(injection.into_iter().flat_map(|injection| ["-e".to_owned(), format!("inject={injection}")]));
    wrapper.extend(["-o".to_owned(), log.display().to_string()]);
    let came_of_it = act(&wrapper);
    let calls = strace::parse(&fs::read(&log).expect("the log of strace"));
    (came_of_it, calls)
}

/// Whether the receiver speaks to the process that runs its commands; its other sockets are the connection.
pub fn is_with_runner(call: &Call) -> bool {
    let is_connection =
        call.arguments.first().is_some_and(|first| ["0<", "1<", "2<"].iter().any(|it| first.starts_with(it)));
    let is_socket = call.descriptor().is_some_and(|descriptor| descriptor.starts_with("socket:"));
    ["sendto", "recvfrom"].contains(&&*call.name) && is_socket && !is_connection
}

/// Does the same with many things, some at a time, and adds up what was counted.
pub fn several_at_a_time<T: Sync>(
    items: &[T],
    progress: &mut dyn FnMut(u64, u64),
    run: impl Fn(&T) -> Tally + Sync,
) -> Tally {
    let (next, done, sum) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Tally::default()));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
            let tally = catch_unwind(AssertUnwindSafe(|| run(item)));
            let tally = tally.unwrap_or_else(|panic| Tally { problems: vec![panic_text(&*panic)], ..Tally::default() });
            sum.lock().unwrap().add(tally);
            done.fetch_add(1, Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            progress(u64::try_from(done.load(Relaxed)).unwrap(), u64::try_from(items.len()).unwrap());
        }
    });
    sum.into_inner().unwrap()
}

/// What only the memory of the process, its signals and its clock are concerned with.
const NOT_TRACED: &str = "trace=!brk,mmap,munmap,mremap,mprotect,rt_sigaction,rt_sigprocmask,sigaltstack,prlimit64";

/// Deliveries at a time: they wait for the disk most of the time.
const WORKERS: usize = 4;
