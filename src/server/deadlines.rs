//! How long the peer may take for its next input, and for a message.
//!
//! A peer that sends mail has all the time that a slow link needs. Silence or a trickle of bytes keeps a place at
//! almost no cost to the peer, so it is given less time.

use std::time::{Duration, Instant};

use crate::config::{Limit, Limits};
use crate::smtp::reply::{self, Reply};

/// When the peer's time is over.
pub(super) struct Deadlines<'a> {
    limits: &'a Limits,
    /// When the current message, or the next one, has to be complete. Its time starts at the greeting or at the last
    /// accepted message, and grows with the text that comes.
    message: Instant,
    /// Since when no whole command and no message text has come. A command that comes byte by byte counts when it ends.
    idle_since: Instant,
    /// Whether others may be waiting for this place.
    is_scarce: bool,
    /// Whether the peer has shown that it has mail for us.
    has_had_recipient: bool,
}

impl<'a> Deadlines<'a> {
    /// The time for the first command, and for the first message, runs from now on.
    pub(super) fn new(limits: &'a Limits) -> Self {
        let now = Instant::now();
        let message = now + limits.connection_secs.value;
        let is_scarce = std::env::var_os(SCARCE).is_some();
        Self { limits, message, idle_since: now, is_scarce, has_had_recipient: false }
    }

    /// Whether others may be waiting for this place.
    pub(super) fn is_scarce(&self) -> bool {
        self.is_scarce
    }

    /// When the current message, or the next one, has to be complete.
    pub(super) fn message(&self) -> Instant {
        self.message
    }

    /// When the peer has to have said the next thing, or to have read what we said.
    pub(super) fn idle(&self) -> Instant {
        let mut time = self.idle_limit().value;
        if self.is_scarce && !self.has_had_recipient {
            time = time.min(self.limits.greet_secs.value / SCARCE_FRACTION);
        }
        self.message.min(self.idle_since + time)
    }

    /// The peer has said something, or was waiting for us: its silence is counted from now on.
    pub(super) fn not_idle(&mut self) {
        self.idle_since = Instant::now();
    }

    /// The peer has named somebody whom we take mail for.
    pub(super) fn recipient_accepted(&mut self) {
        self.has_had_recipient = true;
    }

    /// So many octets of text have come. The message gets the time that they may take, so that a slow link gets
    /// through, but never has more time left than at its start. Where places are scarce it gets none, because a trickle
    /// would keep one long.
    pub(super) fn text_came(&mut self, octets: usize) {
        if self.is_scarce || octets == 0 {
            return;
        }
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        let most = Instant::now() + self.limits.connection_secs.value;
        self.message = most.min(self.message + octets * TIME_FOR_AN_OCTET);
    }

    /// A message was accepted: the time of the next one runs from now on.
    pub(super) fn message_accepted(&mut self) {
        self.message = Instant::now() + self.limits.connection_secs.value;
    }

    /// What is said to a peer whose time is over.
    pub(super) fn refusal(&self) -> Reply {
        let is_over = Instant::now() >= self.message;
        let limit = if is_over { &self.limits.connection_secs } else { self.idle_limit() };
        reply::worded(&limit.refusal, reply::TIMED_OUT)
    }

    /// How long the peer may be silent. The limit is shorter until it has named a recipient that we accept.
    fn idle_limit(&self) -> &'a Limit<Duration> {
        let limits = self.limits;
        match self.has_had_recipient || limits.idle_secs.value <= limits.greet_secs.value {
            true => &limits.idle_secs,
            false => &limits.greet_secs,
        }
    }
}

/// The variable of the environment by which `listen` tells a session that places are scarce, whatever its value.
pub(crate) const SCARCE: &str = "MAILRECV_SCARCE";

/// Where places are scarce, a peer without an accepted recipient may be silent for `limit.greet_secs` divided by this:
/// with the defaults ten seconds, as in Postfix under stress (smtpd_timeout).
const SCARCE_FRACTION: u32 = 3;

/// The least rate at which the text of a message may come for longer than `limit.connection_secs`: 500 octets a second, as
/// in Postfix (smtpd_min_data_rate).
const TIME_FOR_AN_OCTET: Duration = Duration::from_millis(2);
