//! Panics: a fault of this program, or of a library, that must cost as little as it can.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Where the last panic was and what it said.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps panics for the log: standard error may be the peer.
pub(crate) fn keep_for_the_log() {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST.lock() {
            *last = panic.to_string();
        }
    }));
}

/// Where the last panic was and what it said, if there was one since this was asked; nothing in it is safe to show.
pub(crate) fn take_kept() -> Option<String> {
    let kept = LAST.lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default();
    (!kept.is_empty()).then_some(kept)
}

/// What this returns, or nothing if it panics. For what only reads: what a panic may leave half done must be nobody's.
pub(crate) fn survive<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_survived() {
        assert_eq!(survive(|| 1), Some(1));
        assert_eq!(survive(|| [1, 2].iter().position(|number| *number == 3).map(|_| 3).expect("a three")), None);
    }
}
