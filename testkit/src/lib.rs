//! What tests and benchmarks of programs that speak SMTP are made of: scratch folders, processes and daemons that end
//! with their test, one SMTP client for every kind of connection, the servers of Debian's packages, strace.
//!
//! It knows nothing of the program under test. Every wait is bounded, and what cannot be done is a panic that says what
//! it was; where a test wants to go on, there is a function that returns the failure (`try_...`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, what cannot be done is a failure")]

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub mod certificates;
pub mod client;
pub mod daemon;
pub mod debian;
pub mod dovecot;
pub mod exim;
mod folder;
pub mod halts;
pub mod hpfeeds;
mod machine;
pub mod network;
pub mod opensmtpd;
pub mod postfix;
pub mod process;
pub mod rabbitmq;
mod random;
pub mod repository;
mod request;
pub mod session;
pub mod smtp_sink;
pub mod strace;
pub mod syslog;
mod tap;
pub mod tcp;
pub mod tls;
pub mod upstream;
mod wait;

pub use client::{Broken, Client};
pub use daemon::Daemon;
pub use folder::Folder;
pub use machine::Machine;
pub use process::{Process, output, output_of_input, succeeds};
pub use random::Random;
pub use request::{Form, Request};
pub use session::Session;
pub use tap::{Recording, Tap};
pub use tls::TlsClient;
pub use upstream::Upstream;
pub use wait::{PATIENCE, a_few_at_a_time, wait_until};

/// Both loopback addresses.
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// What a panic that was caught said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

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
