//! Signals as events: blocked, and read from a descriptor, so that none arrives at a bad moment.
//!
//! SIGTERM, SIGINT and SIGHUP ask us to stop at the next safe point; SIGCHLD says that a child may have ended. SIGXFSZ is
//! blocked for good, so that a file size limit is an error of `write` and not our end. (`std` already ignores SIGPIPE,
//! and gives children a clean mask.)

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The descriptor that signals are read from.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    stop: Cell<bool>,
}

impl Signals {
    /// Blocks the signals and opens the descriptor.
    pub fn new() -> anyhow::Result<Self> {
        let read: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
        let mut blocked = read;
        blocked.add(Signal::SIGXFSZ);
        blocked.thread_block().context("blocking signals")?;
        let descriptor = SignalFd::with_flags(&read, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("opening a signal descriptor")?;
        Ok(Self { descriptor, stop: Cell::new(false) })
    }

    /// Takes note of what has arrived. Call it when the descriptor is readable.
    pub fn read(&self) {
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            if u32::try_from(Signal::SIGCHLD as i32) != Ok(signal.ssi_signo) {
                self.stop.set(true);
            }
        }
    }

    /// Whether we have been asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.get()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
