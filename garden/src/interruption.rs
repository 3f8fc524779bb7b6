//! Ctrl-C and similar signals: what we started ends first, and the terminal is left as it was.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::{children, terminal};

/// Whether ending by a signal is the regular way to end.
static IS_EXPECTED: AtomicBool = AtomicBool::new(false);

/// From now on a signal that asks us to end first ends all processes that we started, then us. We end by the same
/// signal, so that whoever waits for us sees that we were interrupted.
///
/// # Errors
///
/// The thread cannot be made.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("watching for signals")?;
    let end = move || {
        let Some(signal) = signals.forever().next() else { return };
        // Errors that come from ended servers must not be shown.
        terminal::fall_silent();
        children::end_all();
        if IS_EXPECTED.load(Ordering::Relaxed) {
            exit(0);
        }
        // This does not return; if it did, the exit status would be the one that shells use.
        let _ = emulate_default_handler(signal);
        exit(128 + signal);
    };
    thread::Builder::new().name("signals".into()).spawn(end).context("watching for signals")?;
    Ok(())
}

/// From now on such a signal is the regular way to end, and a success.
pub(crate) fn is_expected() {
    IS_EXPECTED.store(true, Ordering::Relaxed);
}
