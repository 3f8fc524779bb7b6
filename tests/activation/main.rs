//! Mail through the built binary, with the real programs around it: the super-servers that start it, the clients that
//! send, the syslog daemon, logrotate and fail2ban that read what it logs.
//!
//! `tests/run` installs what is needed. A part that is missing is a failure, never a skip. Every daemon has its own
//! folder and port, listens on loopback only, and ends with its test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, what cannot be done is a failure")]

mod bans;
mod crowd;
mod descriptors;
mod hostile;
mod hostile_at_random;
mod listen;
mod lmtp;
mod logging;
mod metrics;
mod proxies;
mod readme;
mod relays;
mod side_by_side;
mod super_servers;
mod support;
mod units;
mod unread_logs;
