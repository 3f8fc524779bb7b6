//! Signals as events: they wait until they are read, and are acted on where that is safe.
//!
//! SIGTERM and SIGINT ask us to stop, and so does SIGHUP, unless it is wanted for a reload; SIGCHLD says that a child may
//! have ended. SIGUSR1 asks `listen` how it is, and must not end sessions that it is sent to as well. SIGXFSZ says nothing:
//! it is here so that a file size limit is an error of `write` and not our end. All are blocked and wait at a
//! signalfd(2), also those that whoever started us had ignored. Children would start with them blocked, hence
//! [`Signals::spawn`].
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
    /// What SIGHUP says: to stop, unless it has a flag of its own.
    hangup: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    /// Whether there are handlers, which only somebody with children needs.
    has_handlers: Cell<bool>,
}

impl Signals {
    /// Takes the signals over, for the rest of this process: a value that is dropped does not give them back.
    pub fn new() -> anyhow::Result<Self> {
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_block().context("blocking signals")?;
        let waiting = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let waiting = waiting.context("waiting for signals")?;
        let (stop, report) = (Arc::default(), Arc::default());
        Ok(Self { waiting, hangup: Arc::clone(&stop), stop, report, has_handlers: Cell::new(false) })
    }

    /// The same, for a daemon, to which SIGHUP says that a reload is wanted.
    pub fn of_a_daemon() -> anyhow::Result<Self> {
        Ok(Self { hangup: Arc::default(), ..Self::new()? })
    }

    /// Takes note of what has arrived, so that the descriptor is ready again only when something new has.
    pub fn clear(&self) {
        while let Ok(Some(signal)) = self.waiting.read_signal() {
            let is_about = |about: &&(Signal, _)| about.0 as u32 == signal.ssi_signo;
            if let Some((_, flag)) = self.flags().iter().find(is_about) {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What is remembered of each signal that says something.
    fn flags(&self) -> [(Signal, &Arc<AtomicBool>); 4] {
        [
            (Signal::SIGTERM, &self.stop),
            (Signal::SIGINT, &self.stop),
            (Signal::SIGHUP, &self.hangup),
            (Signal::SIGUSR1, &self.report),
        ]
    }

    /// Takes note of a request to stop, so that only another one counts as one.
    pub fn forget_stop(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether we had been asked to stop when [`Signals::clear`] looked last.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether a reload was wanted when [`Signals::clear`] looked last, and was not asked for here before.
    pub fn take_reload(&self) -> bool {
        // Where it asks us to stop, that must not be taken for a reload, and forgotten.
        !Arc::ptr_eq(&self.hangup, &self.stop) && self.hangup.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody wanted to know how we are, likewise.
    pub fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
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
            let noted = self.flags().into_iter().find(|(about, _)| *about == signal).map(|(_, flag)| Arc::clone(flag));
            flag::register(signal as i32, noted.unwrap_or_default())?;
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

const SIGNALS: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGXFSZ];
