//! Signals as events: they wait until they are read, and are acted on where that is safe.
//!
//! SIGTERM, SIGINT and SIGHUP ask us to stop; SIGCHLD says that a child may have ended. SIGXFSZ says
//! nothing: it is here so that a file size limit is an error of `write` and not our end. All are blocked and wait at a
//! signalfd(2), also those that whoever started us had ignored. Children would start with them blocked, hence [`Signals::spawn`].
//! (`std` ignores SIGPIPE here and gives it back to children.)

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use signal_hook::flag;

/// Where signals wait; poll(2) wakes up when there is one.
#[derive(Debug)]
pub struct Signals {
    waiting: SignalFd,
    stop: Arc<AtomicBool>,
    /// Whether there are handlers, which only somebody with children needs.
    has_handlers: Cell<bool>,
}

impl Signals {
    /// Takes the signals over, for the rest of this process: a value that is dropped does not give them back.
    pub fn new() -> anyhow::Result<Self> {
        Self::take_over().context("installing signal handlers")
    }

    fn take_over() -> io::Result<Self> {
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_block()?;
        let waiting = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { waiting, stop: Arc::default(), has_handlers: Cell::new(false) })
    }

    /// Takes note of what has arrived, so that the descriptor is ready again only when something new has.
    pub fn clear(&self) {
        while let Ok(Some(signal)) = self.waiting.read_signal() {
            if STOP.iter().any(|stop| *stop as u32 == signal.ssi_signo) {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes note of a request to stop, so that only another one counts as one.
    pub fn forget_stop(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether we had been asked to stop when [`Signals::clear`] looked last.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Starts a child, for which signals are as they are for any program. For that moment they are not blocked, so one
    /// of another child's end may not wake us up: look after children before waiting for signals, not only afterwards.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        if !self.has_handlers.get() {
            self.install_handlers()?;
        }
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_unblock()?;
        let child = command.spawn();
        signals.thread_block()?;
        child
    }

    /// What arrives while a child is started must not end us; and where SIGCHLD was ignored, the kernel would keep no exit
    /// status of a child.
    fn install_handlers(&self) -> io::Result<()> {
        for signal in SIGNALS {
            let noted = if STOP.contains(&signal) { Arc::clone(&self.stop) } else { Arc::default() };
            flag::register(signal as i32, noted)?;
        }
        self.has_handlers.set(true);
        Ok(())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

/// What asks us to stop.
const STOP: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

const SIGNALS: [Signal; 5] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGXFSZ];
