//! A network for the calling thread, with nothing in it but the loopback interface.

use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// Leaves the host's network. Threads and processes that the calling thread starts from now on are in the new network
/// too.
///
/// # Errors
///
/// We may not do that; the message says what to do.
pub(super) fn leave_the_hosts() -> Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(Errno::EPERM) => bail!(
            "making namespaces takes the rights of root (CAP_SYS_ADMIN). Type `sudo` in front of the command; in a \
             container, start it with `--privileged`"
        ),
        Err(error) => return Err(error).context("making a network namespace; does this kernel have them?"),
    }
    // No crate without unsafe code has a system call for this, so `ip` does it.
    let output = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .env("PATH", super::first_process::PATH)
        .output()
        .context("running `ip`, to bring the loopback interface up; install it: apt-get install iproute2")?;
    if !output.status.success() {
        bail!("`ip link set lo up`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether we may make the namespaces of a garden. It is best to ask before doing anything that takes long.
///
/// # Errors
///
/// Those of [`leave_the_hosts`].
pub fn is_allowed() -> Result<()> {
    thread::scope(|scope| scope.spawn(leave_the_hosts).join()).unwrap_or_else(|_| bail!("it ended in a panic"))
}
