//! The units, as they are shipped, in a Debian that was booted by a real systemd.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, what cannot be done is a failure")]

mod bans;
mod caps;
mod journal;
mod keys;
mod leftovers;
mod lmtp;
mod restart;
mod sandbox;
mod service;
mod sink;
mod sockets;
mod submission;
mod support;
