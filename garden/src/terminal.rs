//! What is said to the user: results on standard output, everything else on standard error.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// The progress bar, if one is shown. [`fall_silent`] keeps the lock, so that nobody can say anything.
static SPEAKS: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn speaks() -> MutexGuard<'static, Option<ProgressBar>> {
    SPEAKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line of a result. Nobody may be reading any more.
pub(crate) fn print(line: &str) {
    wait_if_silent();
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line about what is going on or went wrong.
pub(crate) fn complain(line: &str) {
    wait_if_silent();
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Shows progress: a bar of this length, or a spinner if the length is unknown. If there is no terminal, a line is
/// printed now and then.
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

/// The time between two such lines.
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

/// The same for something that ends at a certain time: shows the time that is left, and a message.
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

/// Removes the bar, so that the next output is on its own line.
pub(crate) fn clear() {
    if let Some(bar) = speaks().take() {
        bar.finish_and_clear();
    }
}

/// Removes the bar. From now on saying anything waits forever.
pub(crate) fn fall_silent() {
    let speaks = speaks();
    if let Some(bar) = &*speaks {
        bar.finish_and_clear();
    }
    std::mem::forget(speaks);
}

/// Waits forever if nothing may be said any more. The lock is not held during output: if nobody reads that, it must not
/// keep us from ending.
fn wait_if_silent() {
    drop(speaks());
}

/// The command that starts this program again, as it was typed, if that is enough to find it.
pub(crate) fn program() -> String {
    let typed = std::env::args().next().filter(|typed| typed.contains('/'));
    typed.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

/// Whether output may have colours: it goes to a terminal, and NO_COLOR is not set (https://no-color.org).
pub(crate) fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
