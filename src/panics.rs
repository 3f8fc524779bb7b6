//! Panics are faults of this program or a library, which should do as little harm as possible.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// The place and message of the last panic.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps panics for the log, because standard error may be the connection to the peer.
pub(crate) fn keep_for_the_log() {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST.lock() {
            *last = panic.to_string();
        }
    }));
}

/// Takes the place and message of the last panic, if there was one. The text may contain anything, so it has to be
/// escaped.
pub(crate) fn take_kept() -> Option<String> {
    let kept = LAST.lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default();
    (!kept.is_empty()).then_some(kept)
}

/// Calls `read`; returns `None` if it panics. It must change nothing, because a panic could leave that half done.
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
