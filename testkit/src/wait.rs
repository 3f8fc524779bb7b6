//! Waiting with a bound, and work that mostly waits.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

/// Nothing that works takes this long, even on a machine that is slow and has much else to do; what does not work is given
/// up on after it. Only a test that fails waits for it.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Asks again and again until there is an answer; fails with `what` if there is none in time.
#[track_caller]
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does this with all of them, a few at a time: enough to keep the machine busy while some wait, and so few that none waits
/// for the others. What came of each, in their order.
pub fn a_few_at_a_time<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let number = next.fetch_add(1, SeqCst);
            let Some(item) = items.get(number) else { return results };
            results.push((number, run(item)));
        }
    };
    let mut results = thread::scope(|scope| {
        let few = 2 * available_parallelism().map_or(2, usize::from);
        let workers: Vec<_> = (0..few).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        results.flatten().collect::<Vec<_>>()
    });
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
