//! Waiting with poll(2), always with a deadline: almost everything here that could take long waits in this way.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollTimeout};

/// Whether poll(2) has reported anything about this descriptor.
pub(crate) fn is_ready(descriptor: &PollFd<'_>) -> bool {
    descriptor.revents().is_some_and(|events| !events.is_empty())
}

/// The time until a deadline, for poll(2). It is rounded up, so that poll(2) does not return just before the deadline.
pub(crate) fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(Instant::now());
    let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// How many octets a pipe that is ready takes without blocking (pipe(7)).
pub(crate) const PIPE_BUF: usize = 4096;
