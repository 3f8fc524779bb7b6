//! What tests and benchmarks of programs that speak SMTP are made of: scratch folders, processes and daemons that end
//! with their test, one SMTP client for every kind of connection, the servers of Debian's packages, strace.
//!
//! It knows nothing of the program under test. Every wait is bounded, and what cannot be done is a panic that says what
//! it was; where a test wants to go on, there is a function that returns the failure (`try_...`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, what cannot be done is a failure")]

pub mod client;
pub mod daemon;
pub mod debian;
pub mod exim;
mod folder;
pub mod postfix;
pub mod process;
mod random;
pub mod repository;
pub mod session;
pub mod strace;
pub mod syslog;
mod wait;

pub use client::{Broken, Client};
pub use daemon::Daemon;
pub use folder::Folder;
pub use process::{Process, output, succeeds};
pub use random::Random;
pub use session::Session;
pub use wait::{PATIENCE, wait_until};

/// Both loopback addresses.
pub const LOOPBACK: [std::net::IpAddr; 2] =
    [std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

/// Whether we are root, which `what` needs. Runs of a project's own (`CI` is set) are root's and leave nothing out.
#[expect(clippy::print_stdout, reason = "the test harness shows it with the test")]
pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{what} needs root");
    if !root {
        println!("left out: {what} needs root");
    }
    root
}
