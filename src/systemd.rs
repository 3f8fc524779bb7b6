//! What systemd passes to a service, and what it is told in return (sd_listen_fds(3), sd_notify(3)).
//!
//! Without systemd nothing is passed, and nobody is told.

use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use sd_notify::NotifyState;

use crate::net::listener::ListeningSocket;

/// Takes the sockets that were passed to this process, each with its name: that of its unit, or its
/// `FileDescriptorName=`. If one cannot be used, the error says why and what to write in the unit.
pub(crate) fn passed_sockets() -> Vec<(String, anyhow::Result<ListeningSocket>)> {
    if let Err(error) = check_environment() {
        return vec![(String::new(), Err(error))];
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    (0..passed.len())
        .map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = listener(&mut passed, number);
            let socket =
                socket.with_context(|| format!("socket {} of those that systemd passed, `{name}`", number + 1));
            (name, socket)
        })
        .collect()
}

/// Checks that the environment variables about sockets are valid and meant for this process.
fn check_environment() -> anyhow::Result<()> {
    let value = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let Some(count) = value("LISTEN_FDS") else { return Ok(()) };
    let count = count.to_string_lossy();
    if !count.parse::<usize>().is_ok_and(|count| count <= MOST_SOCKETS) {
        bail!("LISTEN_FDS={count} in the environment is no number of sockets, which is 0 to {MOST_SOCKETS}");
    }
    let process = std::process::id();
    match value("LISTEN_PID") {
        Some(other) if count != "0" && *other != *process.to_string() => {
            let other = other.to_string_lossy();
            bail!(
                "LISTEN_PID={other} in the environment: sockets were passed to that process, and this one is {process}; \
                 a unit has to start mailrecv itself, and a shell in between has to say `exec mailrecv`"
            )
        }
        _ => Ok(()),
    }
}

/// More sockets than anybody passes.
const MOST_SOCKETS: usize = 1000;

fn listener(passed: &mut ListenFd, number: usize) -> anyhow::Result<ListeningSocket> {
    let taken = match passed.take_tcp_listener(number) {
        Ok(socket) => socket.map(ListeningSocket::Tcp),
        // A socket of another kind stays in the list.
        Err(_) => passed
            .take_unix_listener(number)
            .context("its unit has to say ListenStream= with a port or a path")?
            .map(ListeningSocket::Unix),
    };
    let socket = taken.context("it was taken before")?;
    if !getsockopt(&socket, sockopt::AcceptConn).context("asking whether it listens")? {
        bail!("it is a connection, and its unit has to say Accept=no");
    }
    let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
    fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(socket)
}

/// Tells systemd that connections are accepted, and the current status.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd the status that `systemctl status` shows.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Tells systemd that no more connections are accepted.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Waiting for sessions to end")]);
}

/// Tells systemd that we are alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd has to be told that we are alive: twice within the unit's `WatchdogSec=`.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2).filter(|time| !time.is_zero())
}

/// Removes variables from a child's environment that are meant for this process alone.
pub(crate) fn withhold(command: &mut Command) {
    for name in ["LISTEN_FDNAMES", "LISTEN_PIDFDID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
}

/// A failure is ignored: systemd itself will notice what it was not told.
fn tell(states: &[NotifyState<'_>]) {
    let _: io::Result<()> = sd_notify::notify(states);
}
