//! Waiting with poll(2): what nearly everything here does that could take long, and always with a deadline.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollTimeout};

/// Whether poll(2) has something to say about the descriptor.
pub(crate) fn is_ready(descriptor: &PollFd<'_>) -> bool {
    descriptor.revents().is_some_and(|events| !events.is_empty())
}

/// How long poll(2) may wait for a deadline; rounded up, so that it does not wake just before it.
pub(crate) fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(Instant::now());
    let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// What a pipe that is ready takes without blocking, in octets (pipe(7)).
pub(crate) const PIPE_BUF: usize = 4096;
