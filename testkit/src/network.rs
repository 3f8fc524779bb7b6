//! A network of a test's own, with as many addresses as it likes.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::{debian, succeeds};

/// Runs a test in a network of its own, which ends with it and is connected to nothing: there are the loopback addresses
/// and these. Everything that the test starts is in there, too. Needs root.
#[track_caller]
pub fn with_addresses<T: Send>(addresses: &[IpAddr], test: impl FnOnce() -> T + Send) -> T {
    // The network is the thread's, which must not go on in it as another one.
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of our own");
        ip(&["link", "set", "lo", "up"]);
        for address in addresses {
            ip(&["address", "add", &address.to_string(), "dev", "lo"]);
        }
        test()
    };
    thread::scope(|scope| scope.spawn(alone).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn ip(arguments: &[&str]) {
    let mut ip: Command = debian::command("iproute2", "ip");
    ip.args(arguments);
    succeeds(ip, "");
}
