//! Ctrl-C and its like: what we started ends first, and the terminal is left as it was found.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::{children, terminal};

/// Whether an end from outside is how it is meant to end.
static IS_EXPECTED: AtomicBool = AtomicBool::new(false);

/// From now on, at a signal that asks us to end, all processes that we started are ended, then we are, by that signal: who
/// waits for us sees that we were interrupted.
///
/// # Errors
///
/// There is no thread to be had.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("watching for signals")?;
    let end = move || {
        let Some(signal) = signals.forever().next() else { return };
        // What goes wrong because servers are gone is no error to be told.
        terminal::fall_silent();
        children::end_all();
        if IS_EXPECTED.load(Ordering::Relaxed) {
            exit(0);
        }
        // It does not come back; if it did, this would be how shells tell it.
        let _ = emulate_default_handler(signal);
        exit(128 + signal);
    };
    thread::Builder::new().name("signals".into()).spawn(end).context("watching for signals")?;
    Ok(())
}

/// From now on, such a signal is how it is meant to end, which is a success.
pub(crate) fn is_expected() {
    IS_EXPECTED.store(true, Ordering::Relaxed);
}
