//! Signals as events: they wait until they are read, and are acted on where that is safe.
//!
//! SIGTERM and SIGINT ask us to stop. So does SIGHUP, except in a daemon, where it asks for a reload. SIGCHLD says that
//! a child may have ended. SIGUSR1 asks `listen` for its numbers, and must not end sessions that get it too. SIGXFSZ is
//! taken over so that a file size limit makes `write` fail and does not kill us. All of them are blocked and wait at a
//! signalfd(2), even if our parent had ignored them. Children would inherit the blocking, so they are started by
//! [`Signals::spawn`]. (`std` ignores SIGPIPE in this process and restores it in children.)

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

/// The signals of this process; its descriptor is ready when one has arrived.
#[derive(Debug)]
pub(crate) struct Signals {
    waiting: SignalFd,
    stop: Arc<AtomicBool>,
    /// Set by SIGHUP. It is the same flag as `stop`, except in a daemon.
    hangup: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    /// Whether signal handlers are installed, which is needed only to start children.
    has_handlers: Cell<bool>,
}

impl Signals {
    /// Takes the signals over for the rest of this process; dropping the value does not undo that.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_block().context("blocking signals")?;
        let waiting = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let waiting = waiting.context("waiting for signals")?;
        let (stop, report) = (Arc::default(), Arc::default());
        Ok(Self { waiting, hangup: Arc::clone(&stop), stop, report, has_handlers: Cell::new(false) })
    }

    /// The same for a daemon, where SIGHUP asks for a reload.
    pub(crate) fn of_a_daemon() -> anyhow::Result<Self> {
        Ok(Self { hangup: Arc::default(), ..Self::new()? })
    }

    /// Notes the signals that have arrived, so that the descriptor becomes ready again only for new ones.
    pub(crate) fn clear(&self) {
        while let Ok(Some(signal)) = self.waiting.read_signal() {
            let is_about = |about: &&(Signal, _)| about.0 as u32 == signal.ssi_signo;
            if let Some((_, flag)) = self.flags().iter().find(is_about) {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The flag that each signal sets.
    fn flags(&self) -> [(Signal, &Arc<AtomicBool>); 4] {
        [
            (Signal::SIGTERM, &self.stop),
            (Signal::SIGINT, &self.stop),
            (Signal::SIGHUP, &self.hangup),
            (Signal::SIGUSR1, &self.report),
        ]
    }

    /// Forgets a request to stop, so that a second one can be noticed.
    pub(crate) fn forget_stop(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether we had been asked to stop at the last [`Signals::clear`].
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether we have been asked to stop by now; this notes the signals that have arrived.
    pub(crate) fn is_stopping(&self) -> bool {
        self.clear();
        self.stop_requested()
    }

    /// Whether a reload was requested until the last [`Signals::clear`]; asking resets this.
    pub(crate) fn take_reload(&self) -> bool {
        // If SIGHUP means to stop, it must not be taken as a reload and then be forgotten.
        !Arc::ptr_eq(&self.hangup, &self.stop) && self.hangup.swap(false, Ordering::Relaxed)
    }

    /// Whether the numbers were requested until the last [`Signals::clear`]; asking resets this.
    pub(crate) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }

    /// Starts a child with the default handling of signals. For that moment they are not blocked here, so the end of
    /// another child may go unnoticed: look after children before waiting for signals, not only afterwards.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        if !self.has_handlers.get() {
            self.install_handlers()?;
        }
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_unblock()?;
        let child = command.spawn();
        signals.thread_block()?;
        child
    }

    /// A signal that arrives while a child is started must not end us. And if SIGCHLD were ignored, the kernel would
    /// keep no exit status of children.
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
