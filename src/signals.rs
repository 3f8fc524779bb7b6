//! Signals as events: they are noted where they arrive, and acted on where that is safe.
//!
//! SIGTERM, SIGINT and SIGHUP ask us to stop; SIGCHLD says that a child may have ended. SIGXFSZ is caught and forgotten,
//! so that a file size limit is an error of `write` and not our end. They have handlers, and are not blocked, because
//! children would inherit that; whoever started us may have blocked them. (`std` ignores SIGPIPE here and gives it back to
//! children.)

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// The end of a socket pair at which each signal leaves a byte, so that poll(2) wakes up.
#[derive(Debug)]
pub struct Signals {
    bytes: UnixStream,
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub fn new() -> anyhow::Result<Self> {
        Self::install().context("installing signal handlers")
    }

    fn install() -> std::io::Result<Self> {
        let (bytes, handlers_end) = UnixStream::pair()?;
        bytes.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            flag::register(signal, Arc::clone(&stop))?;
            pipe::register(signal, handlers_end.try_clone()?)?;
        }
        pipe::register(SIGCHLD, handlers_end)?;
        flag::register(SIGXFSZ, Arc::default())?;
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGXFSZ])
            .thread_unblock()?;
        Ok(Self { bytes, stop })
    }

    /// Forgets what has arrived, so that the descriptor is ready again only when something new has.
    pub fn clear(&self) {
        let mut buffer = [0; 64];
        while let Ok(1..) = (&self.bytes).read(&mut buffer) {}
    }

    /// Takes note of a request to stop, so that only another one counts as one.
    pub fn forget_stop(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether we have been asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bytes.as_fd()
    }
}
