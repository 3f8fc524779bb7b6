//! Waiting, always with a deadline: with poll(2), as almost everything here that could take long, or between tries to
//! lock something, for which poll(2) cannot wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::signals::Signals;

/// The pauses between tries to get what others hold for a while. Each is twice as long as the last, up to a bound.
pub(crate) struct Pauses<'s> {
    until: Instant,
    /// Tells when we are asked to stop; `None` if that does not end the tries.
    signals: Option<&'s Signals>,
    next: Duration,
    longest: Duration,
}

/// Why there should be no further try.
#[derive(Debug)]
pub(crate) enum GivenUp {
    /// The deadline has passed.
    TimedOut,
    /// We are asked to stop.
    Stopped,
}

impl<'s> Pauses<'s> {
    /// Pauses of 1 to 20 ms, for what others hold while they write a message.
    pub(crate) fn until(until: Instant, signals: &'s Signals) -> Self {
        Self { until, signals: Some(signals), next: Duration::from_millis(1), longest: Duration::from_millis(20) }
    }

    /// Pauses of 50 µs to 5 ms, for what others hold for some microseconds.
    pub(crate) fn short_until(until: Instant) -> Self {
        Self { until, signals: None, next: Duration::from_micros(50), longest: Duration::from_millis(5) }
    }

    /// Pauses before the next try, which may be a little behind the deadline, unless it is time to give up.
    pub(crate) fn pause(&mut self) -> Result<(), GivenUp> {
        if Instant::now() >= self.until {
            return Err(GivenUp::TimedOut);
        }
        if self.signals.is_some_and(Signals::is_stopping) {
            return Err(GivenUp::Stopped);
        }
        thread::sleep(self.next);
        self.next = (self.next * 2).min(self.longest);
        Ok(())
    }
}

/// What ended a wait.
pub(crate) enum Woken {
    /// The descriptor is ready.
    Ready,
    /// A signal has come and is noted. It is reported before input or room, if both are there.
    Signal,
    /// The time is over, or the wait was interrupted.
    Nothing,
}

/// Waits once, for a descriptor, a signal, or the end of the time.
pub(crate) fn wait(
    descriptor: BorrowedFd<'_>,
    events: PollFlags,
    signals: Option<&Signals>,
    until: Instant,
) -> nix::Result<Woken> {
    let waiting = PollFd::new(descriptor, events);
    let ready = match signals {
        None => poll(&mut [waiting], timeout(until)),
        Some(signals) => {
            let mut both = [waiting, PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut both, timeout(until));
            if is_ready(&both[1]) {
                signals.clear();
                return Ok(Woken::Signal);
            }
            ready
        }
    };
    match ready {
        Ok(1..) => Ok(Woken::Ready),
        Ok(_) | Err(Errno::EINTR) => Ok(Woken::Nothing),
        Err(error) => Err(error),
    }
}

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
