//! What is said to who started us: results on standard output, all else on standard error.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// The bar that is shown, if there is one. Who falls silent keeps it.
static SPEAKS: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn speaks() -> MutexGuard<'static, Option<ProgressBar>> {
    SPEAKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line of a result. Nobody may be left to read it.
pub(crate) fn print(line: &str) {
    wait_if_silent();
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line about what is going on or went wrong.
pub(crate) fn complain(line: &str) {
    wait_if_silent();
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// How far something is: a bar of this length, or a spinner if nobody knows it. Where no terminal shows it, a line says it now
/// and then.
pub(crate) fn bar(length: Option<u64>) -> ProgressBar {
    let mut speaks = speaks();
    let (bar, style) = match length {
        None => (ProgressBar::new_spinner(), "{spinner} {elapsed} {msg}"),
        Some(length) => (ProgressBar::new(length), "{bar:40} {pos} of {len} sessions, {elapsed} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    *speaks = Some(bar.clone());
    if !std::io::stderr().is_terminal() {
        let bar = bar.clone();
        thread::spawn(move || tell_at_times(&bar));
    }
    bar
}

/// Between two lines that say how far something is.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

fn tell_at_times(bar: &ProgressBar) {
    loop {
        thread::sleep(BETWEEN_LINES);
        if bar.is_finished() {
            return;
        }
        let sessions = bar.length().map(|length| format!("{} of {length} sessions", bar.position()));
        let what: Vec<String> = sessions.into_iter().chain([bar.message()]).filter(|word| !word.is_empty()).collect();
        complain(&format!("{}, {} s", what.join(", "), bar.elapsed().as_secs()));
    }
}

/// The same for what ends at a time: what is left is shown, and a message.
pub(crate) fn bar_until(end: Instant) -> ProgressBar {
    let left = move |_: &ProgressState, to: &mut dyn fmt::Write| {
        let seconds = end.saturating_duration_since(Instant::now()).as_secs();
        let _ = write!(to, "{}:{:02}", seconds / 60, seconds % 60);
    };
    let bar = bar(None);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {left} left") {
        bar.set_style(style.with_key("left", left));
    }
    bar
}

/// Takes away the bar that is shown, so that what is said next stands in a line of its own.
pub(crate) fn clear() {
    if let Some(bar) = speaks().take() {
        bar.finish_and_clear();
    }
}

/// Takes away the bar that is shown. Whoever wants to say something from now on waits for ever.
pub(crate) fn fall_silent() {
    let speaks = speaks();
    if let Some(bar) = &*speaks {
        bar.finish_and_clear();
    }
    std::mem::forget(speaks);
}

/// Waits for ever if nothing is to be said any more. Nothing is kept while something is said: nobody may read it, and that is
/// no reason to stay.
fn wait_if_silent() {
    drop(speaks());
}

/// What to type to start us again: as it was typed, where that says where we are.
pub(crate) fn program() -> String {
    let typed = std::env::args().next().filter(|typed| typed.contains('/'));
    typed.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

/// Whether what is printed may have colours: a terminal reads it, and nobody asked for none (https://no-color.org).
pub(crate) fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
